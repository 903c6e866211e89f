# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free", "httpx>=0.28"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Courier: takes an agent behind HTTP, in any language, into sessions.

COURIER_URL is its address. It speaks AG-UI, or with COURIER_PROTOCOL=ai-sdk the AI SDK's UI message stream (what
`toUIMessageStreamResponse` sends in TypeScript). COURIER_NAME is its name in the sessions; several may run.
"""

import os
from typing import Any

import httpx

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import agui, aisdk

agent = Agent("courier") if "COURIER_NAME" not in os.environ else Agent(os.environ["COURIER_NAME"])


@agent
async def carry(run: Run) -> None:
    """Ask the agent; a cancel closes the request, and what it asks people is asked in the session."""
    async with httpx.AsyncClient(timeout=httpx.Timeout(30, read=None)) as client:
        if os.environ.get("COURIER_PROTOCOL") == "ai-sdk":
            body = {"id": run.session.id, "messages": await aisdk.messages(run)}
            await aisdk.publish(run, client.stream("POST", os.environ["COURIER_URL"], json=body))
        else:

            async def resume(answers: list[dict[str, Any]]) -> Any:
                body = await agui.request(run, resume=answers)
                return client.stream("POST", os.environ["COURIER_URL"], json=body)

            stream = client.stream("POST", os.environ["COURIER_URL"], json=await agui.request(run))
            await agui.publish(run, stream, resume=resume)


if __name__ == "__main__":
    agent.main()
