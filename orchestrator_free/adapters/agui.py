"""AG-UI: an agent in any language, behind HTTP or in this process, that speaks the Agent-User Interaction Protocol.

    async with httpx.AsyncClient(timeout=None) as client:
        result = await agui.publish(run, client.stream("POST", url, json=await agui.request(run)))

A source is that, or any stream of events: objects of `ag_ui.core`, their JSON objects, or the bytes of server-sent
events. A cancel ends the request. Interrupts of the agent are asked in the session if `resume` says how to go on:

    async def resume(answers):
        return client.stream("POST", url, json=await agui.request(run, resume=answers))

Without it they are in `result.pending`. What people say meanwhile is left to `run.steers()`: the protocol takes nothing
while a run is at work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from orchestrator_free.adapters.agui_events import AgUi
from orchestrator_free.adapters.decoding import decoded
from orchestrator_free.adapters.dialogue import dialogue
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.working.run import Run

__all__ = ["AgUi", "messages", "publish", "request"]

Resume = Callable[[list[dict[str, Any]]], Any]


async def publish(
    run: Run,
    source: Any,
    *,
    resume: Resume | None = None,
    asking: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Write a stream of AG-UI events into a run; see `Options`.

    Args:
        run: where to.
        source: the stream.
        resume: gives the stream that goes on, of the entries of `resume` for the next request.
        asking: how people are asked for what interrupts want, as of `run.ask`: `to`, `seconds`, …
        options: see `Options`.

    Raises:
        SourceFailed: the agent failed, the stream broke off, made no sense or took too long.
    """
    translation = AgUi()
    while True:
        result = await _publish(run, decoded(source), translation, **options)
        if not result.pending or resume is None:
            return result
        pending, translation.pending = translation.pending, []
        source = resume([await _ask(run, one, asking or {}) for one in pending])
        translation.go_on()


async def _ask(run: Run, interrupt: Mapping[str, Any], asking: Mapping[str, Any]) -> dict[str, Any]:
    """Ask people for what an interrupt wants; return its entry of `resume`, cancelled where nobody answers."""
    schema = interrupt.get("responseSchema") or {}
    text = str(interrupt.get("message") or interrupt.get("reason") or "Go on?")
    about = {name: interrupt[name] for name in ("reason", "toolCallId", "metadata") if interrupt.get(name) is not None}
    if approves := _approves(schema):
        decision = await run.approve(text, data=about, **asking)
    else:
        options = schema.get("enum")
        known = options if options and all(isinstance(one, str) for one in options) else None
        decision = await run.ask(text, data=about | {"responseSchema": schema}, options=known, **asking)
    entry = {"interruptId": str(interrupt["id"])}
    if decision.status != "decided":
        return {**entry, "status": "cancelled"}
    return {**entry, "status": "resolved", "payload": approves(decision.value) if approves else decision.value}


def _approves(schema: Mapping[str, Any]) -> Callable[[str], Any] | None:
    """Return what makes an approval's answer fit a schema; None for a schema of something else."""
    fields = schema.get("properties")
    if schema.get("type") == "boolean":
        return lambda value: value == "approve"
    if isinstance(fields, Mapping) and "approved" in fields:
        return lambda value: {"approved": value == "approve"}
    return None if schema and set(schema.get("enum") or ()) != {"approve", "deny"} else lambda value: value


async def request(run: Run, **more: Any) -> dict[str, Any]:
    """Return the body of a request: this session's thread, this run, the conversation; `more` replaces fields.

    One that answers interrupts, with `resume`, is another run of the protocol; it has the same id in every attempt.
    """
    name = run.id
    if more.get("resume"):
        answered = "\n".join(str(one["interruptId"]) for one in more["resume"])
        name = f"{run.id}-{hashlib.sha256(answered.encode()).hexdigest()[:12]}"
    body = {"threadId": run.session.id, "runId": name, "protocolVersion": "1.0", "messages": await messages(run)}
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
