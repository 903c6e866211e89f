# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[openai]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Assistant: a conversation with a model behind OpenAI's API or a server that speaks its chat completions.

Needs OPENAI_API_KEY and OPENAI_MODEL; OPENAI_BASE_URL names another server. It remembers the conversation, has one
tool, and takes what people say meanwhile as the next turn.
"""

import os
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from openai import AsyncOpenAI

from orchestrator_free import Agent, Run, RunError
from orchestrator_free.adapters import call_tools
from orchestrator_free.adapters import openai as adapter

agent = Agent("assistant", overlap="queue")
ROUNDS = 8  # requests of one run

CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time in a place.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}


def clock(zone: str) -> str:
    """Return the time in a zone, e.g. Europe/Rome."""
    return datetime.now(UTC).astimezone(ZoneInfo(zone)).isoformat(timespec="minutes")


@agent
async def answer(run: Run) -> None:
    """Ask the model, do the tools it calls, and go on until it has answered."""
    messages = await adapter.messages(run)
    async with AsyncOpenAI() as client:
        for _ in range(ROUNDS):
            source = client.chat.completions.create(
                model=os.environ["OPENAI_MODEL"], messages=messages, tools=[CLOCK], stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            result = await adapter.publish(run, source)
            steers = [{"role": "user", "content": steer.text} for steer in await run.steers()]
            if not result.calls and not steers:
                return
            messages += result.messages
            messages += adapter.answers(await call_tools(run, result.calls, {"clock": clock}))
            messages += steers
    raise RunError(f"the model did not come to an end in {ROUNDS} requests")


if __name__ == "__main__":
    agent.main()
