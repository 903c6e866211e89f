"""PydanticAI agents.

    events = agent.run_stream_events(message_history=await pydantic_ai.messages(run))
    result = await pydantic_ai.publish(run, events)

A source is that, or `agent.iter(…)`: then what people say while the agent works reaches it before its next request, and
otherwise it is left to `run.steers()`. Tools that need approval are asked for in the session if `resume` says how to go
on: `resume=lambda messages, answers: agent.run_stream_events(message_history=messages, deferred_tool_results=answers)`
(the agent's `output_type` has to contain `DeferredToolRequests`). An agent that works inside a tool of another one is
published with `subagent` and `call`, see `Options`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

from orchestrator_free.adapters.dialogue import dialogue
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.pydantic_ai_events import PydanticAI
from orchestrator_free.adapters.tools import refusal
from orchestrator_free.adapters.translation import require
from orchestrator_free.working.run import Run

__all__ = ["PydanticAI", "messages", "publish"]

EXTRA = "pydantic-ai"
Resume = Callable[[Any, Any], Any]


async def publish(
    run: Run,
    source: Any,
    *,
    resume: Resume | None = None,
    asking: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Write an agent's stream into a run; see `Options`.

    Args:
        run: where to.
        source: `agent.run_stream_events(…)` or `agent.iter(…)`.
        resume: gives the stream that goes on, of the messages so far and what people have decided.
        asking: how approvals are asked for, as of `run.approve`: `to`, `seconds`, …
        options: see `Options`.

    Raises:
        SourceFailed: the agent failed, or took too long.
    """
    translation = PydanticAI()
    while True:
        result = await _publish(run, _driven(source, translation), translation, **options)
        if not result.pending or resume is None:
            return result
        requests = translation.pending.pop()
        source = resume(translation.all_messages, await _decide(run, requests, asking or {}))


async def _decide(run: Run, requests: Any, asking: Mapping[str, Any]) -> Any:
    tools = require("pydantic_ai", EXTRA)
    approvals, calls = {}, {}
    for call in requests.approvals:
        refused = await refusal(run, call.tool_name, call.args_as_dict(), **asking)
        approvals[call.tool_call_id] = tools.ToolApproved() if refused is None else tools.ToolDenied(refused)
    for call in requests.calls:
        decision = await run.ask(
            f"Run {call.tool_name}?", data={"tool": call.tool_name, "input": call.args_as_dict()}, **asking
        )
        calls[call.tool_call_id] = decision.value if decision.status == "decided" else f"no answer: {decision.status}"
    return requests.build_results(approvals=approvals, calls=calls)


@asynccontextmanager
async def _driven(source: Any, translation: PydanticAI) -> AsyncIterator[Any]:
    """Open an agent's stream, or an agent's run that is driven here node by node."""
    async with source as events:
        if not hasattr(events, "enqueue"):
            yield events
            return

        async def steer(text: str) -> None:
            events.enqueue(text)

        translation.steer = steer
        try:
            yield _nodes(events)
        finally:
            translation.steer = None


async def _nodes(agent_run: Any) -> AsyncIterator[Any]:
    async for node in agent_run:
        if hasattr(node, "stream"):
            async with node.stream(agent_run.ctx) as events:
                async for event in events:
                    yield event
    yield require("pydantic_ai", EXTRA).AgentRunResultEvent(agent_run.result)


async def messages(run: Run) -> list[Any]:
    """Return the conversation, this run's input last, as `message_history` (with no `user_prompt`).

    Raises:
        MissingExtra: pydantic-ai is not installed.
    """
    words = require("pydantic_ai.messages", EXTRA)
    found: list[Any] = []
    for said in await dialogue(run):
        if said.role == "user":
            found.append(words.ModelRequest(parts=[words.UserPromptPart(content=said.text)]))
            continue
        parts = [words.TextPart(content=said.text)] if said.text else []
        parts += [
            words.ToolCallPart(tool_name=one.tool, args=one.arguments, tool_call_id=one.call) for one in said.calls
        ]
        found.append(words.ModelResponse(parts=parts))
        if said.calls:
            returns = [
                words.ToolReturnPart(
                    tool_name=one.tool, content=one.told, tool_call_id=one.call,
                    outcome="success" if one.error is None else "failed",
                )
                for one in said.calls
            ]  # fmt: skip
            found.append(words.ModelRequest(parts=returns))
    return found
