"""The conversation as a model is told it: who said what, in turn, with tool calls kept. Pure but for `dialogue`.

What this agent answered is the assistant's; what people and other agents said is the user's, other agents by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator_free.fold import View
from orchestrator_free.views.answers import helpers
from orchestrator_free.working.run import Run


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call that is over: one of output and error."""

    call: str
    tool: str
    input: Any
    output: Any
    error: str | None

    @property
    def arguments(self) -> str:
        """The input as JSON text."""
        return json.dumps(self.input, ensure_ascii=False)

    @property
    def told(self) -> str:
        """What the model is told of it, as text."""
        return told(self.output, self.error)


def told(output: Any, error: str | None) -> str:
    """Return what a model is told of a tool call's end, as text."""
    if error is not None:
        return f"error: {error}"
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a person, another agent (`user`), or this agent (`assistant`): its text, then its calls."""

    role: Literal["user", "assistant"]
    text: str
    calls: tuple[Called, ...] = ()


async def dialogue(run: Run) -> list[Said]:
    """Return the conversation before a run's input, and the input itself as the last turn."""
    asked = run.input.text or (json.dumps(run.input.data, ensure_ascii=False) if run.input.data is not None else "")
    return [*told_turns(await run.history(), run.agent), Said("user", asked)]


def told_turns(turns: Sequence[View], agent: str) -> list[Said]:
    """Put a conversation, as `run.history` gives it, in turns of user and assistant."""
    found: list[Said] = []
    for turn in turns:
        if turn["text"]:
            found.append(Said("user", turn["text"]))
        for answer in turn["answers"]:
            if answer["agent"] == agent:
                found.extend(_own(answer["parts"]))
            elif answer["text"]:
                found.append(Said("user", f"[{answer['agent']} answered] {answer['text']}"))
        found.extend(Said("user", f"[note of {note['from']}] {note['text']}") for note in turn["notes"] if note["text"])
    return found


def _own(parts: Sequence[View]) -> Iterator[Said]:
    """Yield what this agent answered: text, and the calls after it, as often as it went round."""
    nested = helpers(parts)
    text = ""
    calls: list[Called] = []
    for part in parts:
        if part.get("by") in nested:
            continue
        if part.get("type") == "text":
            if calls:
                yield Said("assistant", text, tuple(calls))
                text, calls = "", []
            text += part["text"]
        elif part.get("type") == "tool":
            error = part["error"] if part["status"] == "done" else part["error"] or "the run ended first"
            calls.append(Called(part["call"], part["tool"], part["input"], part["output"], error))
    if text or calls:
        yield Said("assistant", text, tuple(calls))
