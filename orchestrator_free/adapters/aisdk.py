"""The AI SDK's UI message stream: an agent in TypeScript (`toUIMessageStreamResponse`), or any server that speaks it.

    async with httpx.AsyncClient(timeout=None) as client:
        body = {"id": run.session.id, "messages": await aisdk.messages(run)}
        result = await aisdk.publish(run, client.stream("POST", url, json=body))

A source is that, or any stream of chunks: JSON objects, or the bytes of server-sent events. A cancel ends the request.
A tool that wants approval is in `result.pending`. What people say meanwhile is left to `run.steers()`.
"""

from __future__ import annotations

from typing import Any, Unpack

from orchestrator_free.adapters.aisdk_chunks import AiSdk
from orchestrator_free.adapters.decoding import decoded
from orchestrator_free.adapters.dialogue import Called, dialogue
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.working.run import Run

__all__ = ["AiSdk", "messages", "publish"]


async def publish(run: Run, source: Any, **options: Unpack[Options]) -> Result:
    """Write a UI message stream into a run; see `Options`.

    Raises:
        SourceFailed: the agent failed, the stream broke off, made no sense or took too long.
    """
    return await _publish(run, decoded(source), AiSdk(), **options)


async def messages(run: Run) -> list[dict[str, Any]]:
    """Return the conversation, this run's input last, as `UIMessage`s."""
    found: list[dict[str, Any]] = []
    for said in await dialogue(run):
        parts: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        parts += [_tool(one) for one in said.calls]
        if found and found[-1]["role"] == said.role == "assistant":
            found[-1]["parts"] += parts
        else:
            found.append({"id": f"m{len(found) + 1}", "role": said.role, "parts": parts})
    return found


def _tool(one: Called) -> dict[str, Any]:
    about = {"type": "dynamic-tool", "toolName": one.tool, "toolCallId": one.call, "input": one.input}
    if one.error is None:
        return {**about, "state": "output-available", "output": one.output}
    return {**about, "state": "output-error", "errorText": one.error}
