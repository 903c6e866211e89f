"""Tool calls that a model leaves to the caller: done here, shown in the run, approved by people where that is asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator_free import logs
from orchestrator_free.adapters.sheet import ToolUse, jsonable
from orchestrator_free.errors import BrokerError, RunFenced, RunFinished, ToolFailed
from orchestrator_free.working.run import Run, RunError, safe_message

_log = logs.logger("orchestrator_free.adapters")


@dataclass(frozen=True, slots=True)
class Answered:
    """A tool call and what came of it: one of output and error."""

    use: ToolUse
    output: Any = None
    error: str | None = None


async def call_tools(
    run: Run,
    calls: Sequence[ToolUse],
    tools: Mapping[str, Callable[..., Any]],
    *,
    approve: Collection[str] = (),
    **asking: Any,
) -> list[Answered]:
    """Do the calls of a `Result`, one after the other; a failed one is told to the model, it does not end the run.

    Args:
        run: where they are shown.
        calls: what the model wants.
        tools: functions by the tool's name, async ones too; they take the input's fields.
        approve: tools that people have to approve of first; what is denied is told to the model.
        asking: how, as of `run.approve`: `to`, `seconds`, …

    Raises:
        RunFenced, RunFinished, BrokerError: the run cannot go on.
    """
    answers = []
    for use in calls:
        refused = await refusal(run, use.tool, use.input, **asking) if use.tool in approve else None
        answers.append(await _call(run, use, tools, refused))
    return answers


async def refusal(run: Run, tool: str, input: Any, **asking: Any) -> str | None:
    """Ask people to approve of a tool call; return why they do not, None if they do."""
    decision = await run.approve(f"Run {tool}?", data={"tool": tool, "input": jsonable(input)}, **asking)
    if decision:
        return None
    said = next((answer["comment"] for answer in decision.answers if answer.get("comment")), "")
    return f"not approved: {said or decision.status}"


async def _call(run: Run, use: ToolUse, tools: Mapping[str, Callable[..., Any]], refused: str | None) -> Answered:
    try:
        async with run.tool(use.tool or "unnamed", use.input, call=use.call) as shown:
            if refused is not None:
                raise ToolFailed(refused)
            tool = tools.get(use.tool)
            if tool is None:
                raise RunError(f"there is no tool {use.tool!r}")
            if not isinstance(use.input, dict):
                raise RunError(f"{use.tool} takes an object, not {str(use.input)[:80]!r}")
            output = tool(**use.input)
            shown.output = jsonable(await output if inspect.isawaitable(output) else output)
            return Answered(use, shown.output)
    except (RunFenced, RunFinished, BrokerError):
        raise
    except Exception as error:
        _log.warning("tool failed", tool=use.tool, agent=run.agent, run=run.id, exc_info=error)
        return Answered(use, error=safe_message(error))
