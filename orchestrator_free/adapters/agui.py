"""AG-UI: an agent in any language, behind HTTP or in this process, that speaks the Agent-User Interaction Protocol.

    async with httpx.AsyncClient(timeout=None) as client:
        result = await agui.publish(run, client.stream("POST", url, json=await agui.request(run)))

A source is that, or any stream of events: objects of `ag_ui.core`, their JSON objects, or the bytes of server-sent
events. A cancel ends the request. An interrupt of the agent is in `result.pending`: the next request answers it with
`resume`. What people say meanwhile is left to `run.steers()`: the protocol takes nothing while a run is at work.
"""

from __future__ import annotations

from typing import Any, Unpack

from orchestrator_free.adapters.agui_events import AgUi
from orchestrator_free.adapters.decoding import decoded
from orchestrator_free.adapters.dialogue import dialogue
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.working.run import Run

__all__ = ["AgUi", "messages", "publish", "request"]


async def publish(run: Run, source: Any, **options: Unpack[Options]) -> Result:
    """Write a stream of AG-UI events into a run; see `Options`.

    Raises:
        SourceFailed: the agent failed, the stream broke off, made no sense or took too long.
    """
    return await _publish(run, decoded(source), AgUi(), **options)


async def request(run: Run, **more: Any) -> dict[str, Any]:
    """Return the body of a request: this session's thread, this run, the conversation; `more` replaces fields."""
    body = {"threadId": run.session.id, "runId": run.id, "protocolVersion": "1.0", "messages": await messages(run)}
    return {**body, "state": {}, "tools": [], "context": [], "forwardedProps": {}, **more}


async def messages(run: Run) -> list[dict[str, Any]]:
    """Return the conversation, this run's input last, as messages of AG-UI."""
    found: list[dict[str, Any]] = []

    def add(role: str, content: str, **more: Any) -> None:
        found.append({"id": f"m{len(found) + 1}", "role": role, "content": content, **more})

    for said in await dialogue(run):
        calls = [
            {"id": one.call, "type": "function", "function": {"name": one.tool, "arguments": one.arguments}}
            for one in said.calls
        ]
        add(said.role, said.text, **({"toolCalls": calls} if calls else {}))
        for one in said.calls:
            add("tool", one.told, toolCallId=one.call)
    return found
