"""Anthropic: the Messages API.

    stream = client.messages.create(model=…, max_tokens=…, messages=await anthropic.messages(run), stream=True)
    result = await anthropic.publish(run, stream)

A source is that, or `client.messages.stream(…)`. The model's own tool calls are left in `result.calls`:
`anthropic.answers(await call_tools(run, result.calls, TOOLS))` is what the next request adds after `result.messages`.
Steers are for the next request: Anthropic takes nothing while it answers.
Needs the extra `anthropic` for nothing here: only the caller's client does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from orchestrator_free.adapters.anthropic_messages import Messages
from orchestrator_free.adapters.dialogue import dialogue, told
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.tools import Answered
from orchestrator_free.working.run import Run

__all__ = ["Messages", "answers", "messages", "publish"]


async def publish(run: Run, source: Any, **options: Unpack[Options]) -> Result:
    """Write a stream of the Messages API into a run; see `Options`.

    Raises:
        SourceFailed: the stream broke off or failed, or took too long.
    """
    return await _publish(run, source, Messages(), **options)


async def messages(run: Run) -> list[dict[str, Any]]:
    """Return the conversation, this run's input last, as `messages` of a request."""
    found: list[dict[str, Any]] = []
    for said in await dialogue(run):
        content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        content += [
            {"type": "tool_use", "id": one.call, "name": one.tool, "input": _object(one.input)} for one in said.calls
        ]
        if content:
            found.append({"role": said.role, "content": content})
        if said.calls:
            found.append(_results([(one.call, one.told, one.error is not None) for one in said.calls]))
    return found


def answers(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return what tools gave as the message after the one that called them; none if nothing was called."""
    results = [(one.use.source_id, told(one.output, one.error), one.error is not None) for one in answered]
    return [_results(results)] if results else []


def _results(results: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
    blocks = [
        {"type": "tool_result", "tool_use_id": call, "content": content, "is_error": is_error}
        for call, content, is_error in results
    ]
    return {"role": "user", "content": blocks}


def _object(input: Any) -> dict[str, Any]:
    """Return a call's input as the object that the API wants."""
    return input if isinstance(input, dict) else {"input": input}
