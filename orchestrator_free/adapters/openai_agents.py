"""The OpenAI Agents SDK.

    result = await openai_agents.publish(run, Runner.run_streamed(agent, await openai_agents.messages(run)))

Hand-offs are sub-agents of the run; an agent that is used as a tool is one, too, if its stream is asked for:
`helper.as_tool(…, on_stream=openai_agents.nested(run))`. Tools that need approval are asked for in the session, and the
SDK goes on with what was decided. What people say while the agent works is its next turn: the SDK ends the present one
first, its tool calls included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

from orchestrator_free.adapters.openai import items as messages
from orchestrator_free.adapters.openai_agents_events import OpenAIAgents
from orchestrator_free.adapters.publishing import Options, Result, write
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.sheet import jsonable, read_json
from orchestrator_free.adapters.tools import refusal
from orchestrator_free.adapters.translation import require
from orchestrator_free.working.run import Run

__all__ = ["OpenAIAgents", "messages", "nested", "publish"]

EXTRA = "openai-agents"
Resume = Callable[[Any, Any], Any]


async def publish(
    run: Run,
    source: Any,
    *,
    resume: Resume | None = None,
    asking: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Write what `Runner.run_streamed` gave into a run; see `Options`.

    Args:
        run: where to.
        source: the streaming result.
        resume: runs an agent on with an input or a state; `Runner.run_streamed` by default.
        asking: how approvals are asked for, as of `run.approve`: `to`, `seconds`, …
        options: see `Options`.

    Raises:
        SourceFailed: the agent failed, or took too long.
    """
    translation = OpenAIAgents()
    resume = resume or require("agents", EXTRA).Runner.run_streamed
    first = source.current_agent
    while True:
        said: list[str] = []
        result = await _publish(run, _driven(source, translation, said), translation, **options)
        if source.interruptions:
            state = await _decide(run, source, asking or {})
            source = resume(first, state)
        elif said:
            turns = [{"role": "user", "content": text} for text in said]
            source = resume(source.last_agent, source.to_input_list() + turns)
        else:
            return result


async def _decide(run: Run, source: Any, asking: Mapping[str, Any]) -> Any:
    state = source.to_state()
    for item in state.get_interruptions():
        refused = await refusal(run, item.tool_name or "a tool", read_json(_arguments(item)), **asking)
        if refused is None:
            state.approve(item)
        else:
            state.reject(item, rejection_message=refused)
    return state


def _arguments(item: Any) -> Any:
    raw = item.raw_item
    return raw.get("arguments") if isinstance(raw, dict) else getattr(raw, "arguments", None) or jsonable(raw)


@asynccontextmanager
async def _driven(source: Any, translation: OpenAIAgents, said: list[str]) -> AsyncIterator[Any]:
    """Open a run of the SDK; leaving early cancels it, the model's request with it."""

    async def steer(text: str) -> None:
        said.append(text)
        source.cancel(mode="after_turn")

    translation.steer = steer
    try:
        yield source.stream_events()
        translation.finish(source)
    finally:
        if not source.is_complete:
            source.cancel()
        translation.steer = None


def nested(run: Run) -> Callable[[Any], Awaitable[None]]:
    """Return an `on_stream` for agents that are used as tools: each shows as a sub-agent that works for its call."""
    translations: dict[str, OpenAIAgents] = {}

    async def on_stream(event: Any) -> None:
        call = event["tool_call"].call_id if event.get("tool_call") is not None else ""
        translation = translations.get(call)
        if translation is None:
            translation = translations[call] = OpenAIAgents()
            translation.sheet.prefix = await run.part()
            translation.sheet.work_as(event["agent"].name, call or None)
        translation.take(event["event"])
        await write(run, translation)

    return on_stream
