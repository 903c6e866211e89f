"""The fold of one run: its events in log order become what a person reads of it. Pure.

Readers fold what they receive with it, and the agent itself what it publishes, into the `run.finished` it ends with.
Whatever comes, it does not raise and the view stays JSON: an event that makes no sense is skipped, never half applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Body
from orchestrator_free.vocabulary import validate

View = dict[str, Any]

#: states a run does not leave
FINAL: Final = frozenset({"done", "error", "cancelled", "failed", "rejected"})
#: an end beyond it has its parts in an object
ENDING_BYTES: Final = 256 * 1024
#: beyond it JSON readers lose digits, or refuse
_LARGEST_INTEGER: Final = 2**63 - 1


class _Senseless(Exception):  # noqa: N818 - never leaves this module
    """Well-formed, but not here."""


class _Pieces(list[str]):
    """The text of an open part as it came; a type of its own, so that no payload can be taken for it."""


class RunFold:
    """One run: its present attempt's parts, and what earlier attempts left."""

    __slots__ = (
        "agent", "attempt", "attempts", "cancelled", "error", "finished", "first", "input", "into", "last", "lost",
        "object", "parent", "parts", "run", "stalled", "started", "status", "usage", "waiting", "whisper",
    )  # fmt: skip

    def __init__(self, agent: str, run: str) -> None:
        self.agent = agent
        self.run = run
        self.input = ""
        self.parent: Any = None
        self.whisper = False
        self.into: Any = None
        self.waiting: dict[str, Any] | None = None
        self.stalled: float | None = None
        self.status = "running"
        self.lost = False
        self.cancelled = 0
        self.attempt = 0
        self.attempts: list[dict[str, Any]] = []
        self.parts: dict[str, dict[str, Any]] = {}
        self.usage: dict[str, float] = {}
        self.error: str | None = None
        self.object: str | None = None
        self.started: str | None = None
        self.finished: str | None = None
        self.first = 0
        self.last = 0

    @property
    def open(self) -> bool:
        """Whether its end is not in the log yet."""
        return self.status == "running"

    def apply(self, body: Body, sequence: int, time: str) -> bool:
        """Apply one event of this run; False if it made no sense and was skipped."""
        kind = body["type"]
        if self.status in FINAL and kind != "run.finished":
            return False
        if self.cancelled and kind != "run.finished":
            self.first, self.last = self.first or sequence, sequence
            return True  # it came too late to be shown
        stalled, self.stalled = self.stalled, None
        try:
            if kind not in _CHECKED_HERE:
                validate("run", body)
            _RUN_EVENTS.get(kind, _other)(self, body, sequence, time)
        except (InvalidEvent, _Senseless):
            self.stalled = stalled
            return False
        self.first = self.first or sequence
        self.last = sequence
        self.lost = False
        return True

    def view(self) -> View:
        """Return the run as JSON values that later events do not change."""
        return {
            "run": self.run,
            "agent": self.agent,
            "input": self.input,
            "parent": self.parent,
            "whisper": self.whisper,
            "into": self.into,
            "waiting": self.waiting if self.open else None,
            "stalled": self.stalled if self.open else None,
            "status": self.shown_status,
            "cancelled": self.cancelled or None,
            "attempt": self.attempt,
            "attempts": list(self.attempts),
            "started": self.started,
            "finished": self.finished,
            "usage": dict(self.usage),
            "error": self.error,
            "object": self.object,
            "parts": self.part_views(),
            "first": self.first,
            "last": self.last,
        }

    @property
    def shown_status(self) -> str:
        """The status that people see: a cancel counts from its place in the log, whenever the agent stops."""
        if self.open and self.cancelled:
            return "cancelled"
        return "lost" if self.lost and self.open else self.status

    def part_views(self) -> list[View]:
        """Return the parts as JSON values, in the order in which they were opened."""
        return [
            {**part, "text": "".join(part["text"])} if type(part.get("text")) is _Pieces else dict(part)
            for part in self.parts.values()
        ]

    def subagent(self, id: str) -> View | None:
        """Return what was told of a sub-agent inside this run; None if nothing was."""
        data = self.parts.get(_part_key({"type": "data", "name": "subagent", "id": id}, 0), {}).get("data")
        return data if isinstance(data, dict) else None

    @classmethod
    def load(cls, view: View) -> RunFold:
        """Return the run that a view shows, ready for the events after it."""
        run = cls(view["agent"], view["run"])
        for field in (
            "input",
            "parent",
            "whisper",
            "into",
            "waiting",
            "stalled",
            "attempt",
            "started",
            "finished",
            "error",
            "object",
            "first",
            "last",
        ):
            setattr(run, field, view[field])
        run.usage = dict(view["usage"])
        run.attempts = list(view["attempts"])
        run.lost = view["status"] == "lost"
        run.cancelled = view["cancelled"] or 0
        ended = view["finished"] is not None
        run.status = view["status"] if ended else "running"
        run.parts = _load_parts(view["parts"])
        return run


def _load_parts(parts: list[View]) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        copy = dict(part)
        grows = copy.get("type") in ("text", "reasoning", "tool")
        if grows and copy.get("open") and type(copy.get("text")) is str:
            copy["text"] = _Pieces([copy["text"]])
        loaded[_part_key(copy, number)] = copy
    return loaded


def _part_key(part: dict[str, Any], number: int) -> str:
    """Return the name under which later events find a part; unnamed parts get their place."""
    match part.get("type"):
        case "text" | "reasoning" as kind:
            return f"{kind} {part.get('part')}"
        case "tool":
            return f"tool {part.get('call')}"
        case "source":
            return f"source {part.get('id')}"
        case "file":
            return f"file {part.get('name')}"
        case "data" if part.get("id") is not None:
            return f"data {part.get('name')!r} {part['id']!r}"
    return f"#{number}"


Handler = Callable[[RunFold, Body, int, str], None]


def _started(run: RunFold, body: Body, sequence: int, time: str) -> None:
    if run.parts:
        run.attempts.append({"attempt": run.attempt, "parts": _closed(run.part_views())})
    run.parts = {}
    run.usage = {}
    run.waiting = None
    run.attempt = body["attempt"]
    run.input = body["input"]
    run.parent = body.get("parent")
    run.whisper = body.get("whisper", False)
    run.started = run.started or time


def _closed(parts: list[View]) -> list[View]:
    return [{name: value for name, value in part.items() if name != "open"} for part in parts]


def _delta(kind: str) -> Handler:
    prefix = kind + " "

    def apply(run: RunFold, body: Body, sequence: int, time: str) -> None:
        name, text = body.get("part"), body.get("text")
        if type(name) is not str or type(text) is not str:
            raise _Senseless
        part = run.parts.get(prefix + name)
        if part is None:
            run.parts[prefix + name] = {"type": kind, "part": name, "text": _Pieces([text]), "open": True, **_by(body)}
        elif type(part["text"]) is _Pieces:
            part["text"].append(text)
        else:
            raise _Senseless  # the part is closed

    return apply


def _by(body: Body) -> dict[str, str]:
    """Which sub-agent inside the run opened a part, if one did."""
    by = body.get("by")
    if by is not None and type(by) is not str:
        raise _Senseless
    return {} if by is None else {"by": by}


def _end(kind: str) -> Handler:
    def apply(run: RunFold, body: Body, sequence: int, time: str) -> None:
        part = run.parts.get(f"{kind} {body['part']}")
        if part is not None:
            _close(part)

    return apply


def _close(part: dict[str, Any]) -> None:
    part.pop("open", None)
    if type(part.get("text")) is _Pieces:
        part["text"] = "".join(part["text"])


def _call(run: RunFold, body: Body, time: str) -> dict[str, Any]:
    """Return the part of a tool call; the first event of a call opens it."""
    fresh = {
        "type": "tool", "call": body["call"], "tool": body.get("tool", ""), "status": "running", "input": None,
        "output": None, "error": None, "started": time, "seconds": None, **_by(body),
    }  # fmt: skip
    return run.parts.setdefault(f"tool {body['call']}", fresh)


def _tool_input_delta(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time)
    if type(part.get("text")) is not _Pieces:
        part["text"] = _Pieces()
        part["open"] = True
    part["text"].append(body["text"])


def _tool_input(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time)
    part.pop("text", None)
    part.pop("open", None)
    part["input"] = body.get("input")


def _tool_output(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time)
    _close(part)
    part["output"] = body.get("output")
    if not body.get("preliminary"):
        part.update(status="done", seconds=_seconds(part.get("started"), time))


def _tool_error(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time)
    _close(part)
    part.update(status="error", error=body["error"], seconds=_seconds(part.get("started"), time))


def _seconds(start: Any, end: str) -> float | None:
    try:
        return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


def _keep(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.parts[_part_key(body, len(run.parts))] = dict(body)


def _data(run: RunFold, body: Body, sequence: int, time: str) -> None:
    if not body.get("transient"):
        _keep(run, body, sequence, time)


def _usage(run: RunFold, body: Body, sequence: int, time: str) -> None:
    sums = {name: _sum(run.usage.get(name, 0), value) for name, value in body["usage"].items()}
    run.usage.update(sums)


def _sum(one: float, other: float) -> float:
    total = one + other
    if isinstance(total, int):
        return total if abs(total) <= _LARGEST_INTEGER else float(total)
    if not math.isfinite(total):
        raise _Senseless
    return total


def _waiting(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.waiting = {name: body.get(name) for name in ("reason", "ask", "until")} | {"since": time}


def _working(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.waiting = None


def _stalled(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.stalled = body["seconds"]


def _other(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.parts[f"#{len(run.parts)}"] = {"type": "other", "event": body}


def _finished(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.input = body.get("input", run.input)
    run.attempt = body.get("attempt", run.attempt)
    run.parent = body.get("parent", run.parent)
    run.whisper = body.get("whisper", run.whisper)
    run.into = body.get("into")
    run.waiting = None
    run.error = body.get("error")
    run.first = body.get("first") or run.first
    run.started = body.get("started") or run.started
    if body.get("parts") is not None or body.get("object") is not None:
        run.parts = _load_parts(body.get("parts") or [])
        run.usage = dict(body.get("usage", {}))
        run.attempts = list(body.get("attempts", []))
        run.object = body.get("object")
    for part in run.parts.values():
        _close(part)
    run.status = body["status"]
    run.finished = time


#: types whose handlers check the fields themselves: a delta is a token, and tokens are many
_CHECKED_HERE: Final = frozenset({"text.delta", "reasoning.delta"})
_RUN_EVENTS: Final[dict[str, Handler]] = {
    "run.started": _started,
    "run.finished": _finished,
    "text.delta": _delta("text"),
    "text.end": _end("text"),
    "reasoning.delta": _delta("reasoning"),
    "reasoning.end": _end("reasoning"),
    "tool.input.delta": _tool_input_delta,
    "tool.input": _tool_input,
    "tool.output": _tool_output,
    "tool.error": _tool_error,
    "source": _keep,
    "file": _keep,
    "data": _data,
    "usage": _usage,
    "run.waiting": _waiting,
    "run.working": _working,
    "run.stalled": _stalled,
    "error": _keep,
    "raw": _keep,
}


def ending(run: RunFold, status: str, error: str | None, time: str) -> Body:
    """Return the self-contained end of a run; tool calls still open end as errors at this time."""
    for part in list(run.parts.values()):
        if part.get("type") == "tool" and part.get("status") == "running":
            run.apply({"type": "tool.error", "call": part["call"], "error": "the run ended first"}, run.last, time)
    parts = [{name: value for name, value in part.items() if name != "open"} for part in run.part_views()]
    body: Body = {
        "type": "run.finished", "status": status, "attempt": run.attempt, "input": run.input, "usage": run.usage,
        "parts": parts, "attempts": run.attempts, "first": run.first, "started": run.started,
    }  # fmt: skip
    more = (("error", error), ("parent", run.parent), ("whisper", run.whisper or None))
    return body | {name: value for name, value in more if value is not None}
