"""The ledger of tool calls: what agents have called in a session, when, for how long, and what came of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict

from orchestrator_free.errors import InvalidInput
from orchestrator_free.fold import View

STATUSES: Final = ("running", "done", "error")
_OPEN: Final = ("running", "lost")


class ToolFilters(TypedDict, total=False):
    """What `Session.tools` may be narrowed to; see `tool_calls`."""

    tool: str | None
    agent: str | None
    run: str | None
    status: str | None
    min_seconds: float


def tool_calls(
    view: View,
    *,
    tool: str | None = None,
    agent: str | None = None,
    run: str | None = None,
    status: str | None = None,
    min_seconds: float = 0.0,
    now: str | None = None,
) -> list[View]:
    """Return the tool calls of a view, in the order in which they were begun.

    Each is `{"call", "tool", "agent", "run", "attempt", "lost", "status", "started", "finished", "seconds", "input",
    "output", "error"}`. `status` is running, done or error; a call that its attempt or its run did not live to finish
    is an error. `lost` marks calls of attempts that were lost: they happened, though the answer does not show them.
    Times are RFC 3339, durations seconds, of a running call up to `now`.

    Args:
        view: as `session.view()` returns it, with what large runs keep in the object store.
        tool: only this one.
        agent: only what this one called.
        run: only calls of this run.
        status: only these: running, done or error.
        min_seconds: only calls that took so long at least, or have run so long.
        now: for how long running calls have run; None leaves their `seconds` empty.

    Raises:
        InvalidInput: no such status, or no duration.
    """
    if status not in (None, *STATUSES):
        raise InvalidInput(f"status {status!r}: there are {', '.join(STATUSES)}")
    if not (min_seconds >= 0 and math.isfinite(min_seconds)):
        raise InvalidInput(f"min_seconds={min_seconds!r}: a number of seconds, 0 or more")
    wanted = {"tool": tool, "agent": agent, "run": run, "status": status}
    found = [
        call
        for call in _calls(view, now)
        if all(value is None or call[name] == value for name, value in wanted.items())
        and (not min_seconds or (call["seconds"] is not None and call["seconds"] >= min_seconds))
    ]
    return sorted(found, key=_begun)


def _calls(view: View, now: str | None) -> Iterator[View]:
    for group in view["agents"]:
        for run in group["runs"]:
            for lost in run["attempts"]:
                yield from _of_attempt(run, lost, now, lost=True)
            yield from _of_attempt(run, run, now, lost=False)


def _of_attempt(run: View, attempt: Any, now: str | None, *, lost: bool) -> Iterator[View]:
    """Yield the calls of one attempt; parts come as agents wrote them, so nothing in them is sure."""
    if not isinstance(attempt, dict) or not isinstance(attempt.get("parts"), list):
        return
    for part in attempt["parts"]:
        if isinstance(part, dict) and part.get("type") == "tool":
            yield _call(run, part, attempt.get("attempt"), now, lost=lost)


def _call(run: View, part: View, attempt: Any, now: str | None, *, lost: bool) -> View:
    status, error = part.get("status"), part.get("error")
    if status not in ("done", "error"):
        status = "running"
        if lost or run["status"] not in _OPEN:
            status, error = "error", error or ("the attempt was lost" if lost else "the run ended before it")
    started, seconds = _time(part.get("started")), part.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        seconds = None
    if status == "running" and started is not None and (present := _time(now)) is not None:
        seconds = max(0.0, round((present - started).total_seconds(), 3))
    finished = _later(started, seconds) if status != "running" and started and seconds is not None else None
    return {
        "call": part.get("call"), "tool": part.get("tool"), "agent": run["agent"], "run": run["run"],
        "attempt": attempt, "lost": lost, "status": status, "started": part.get("started") if started else None,
        "finished": finished, "seconds": seconds, "input": part.get("input"),
        "output": part.get("output"), "error": error,
    }  # fmt: skip


def _begun(call: View) -> float:
    """Sort by start; those of which it is not known come last."""
    started = _time(call["started"])
    return math.inf if started is None else started.timestamp()


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo is not None else None


def _later(started: datetime, seconds: float) -> str | None:
    try:
        found = started + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
