"""What is told, of which events, and when it is tried again: pure, no I/O and no clock."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Body, Event
from orchestrator_free.fold import View
from orchestrator_free.subjects import Position
from orchestrator_free.views.answers import answer_text

#: what can be told -> the kind of entity it comes from
EVENTS: Final[dict[str, str]] = {
    "run.finished": "run",
    "run.failed": "run",
    "run.cancelled": "run",
    "run.stalled": "run",
    "run.lost": "presence",
    "ask.open": "ask",
    "ask.escalated": "stage",
    "floor.requested": "floor",
}
#: whoever cancelled a run knows
DEFAULT_EVENTS: Final = tuple(name for name in EVENTS if name != "run.cancelled")
#: asks by which agents agree among themselves, or reach a program
AMONG_AGENTS: Final = frozenset({"vote", "bids", "barrier", "tool"})
_ENDS: Final = {
    "done": "run.finished", "error": "run.failed", "failed": "run.failed", "rejected": "run.failed",
    "cancelled": "run.cancelled",
}  # fmt: skip
#: the ends of runs and the word that one stalls; everything else of a run is its output
_TOLD_OF_RUNS: Final = (b'"run.finished"', b'"run.stalled"')
EXCERPT: Final = 500
#: statuses that may be another one next time
_PASSING: Final = frozenset({408, 409, 425, 429})
_LONGEST_SECONDS: Final = 3600.0
GONE: Final = 410


def check_events(names: Iterable[str]) -> frozenset[str]:
    """Return the events to tell of.

    Raises:
        InvalidInput: one of them is none.
    """
    chosen = frozenset(names)
    for name in sorted(chosen - EVENTS.keys()):
        raise InvalidInput(f"{name!r} is no event that can be told; there are {', '.join(EVENTS)}")
    if not chosen:
        raise InvalidInput(f"name at least one event to tell of: {', '.join(EVENTS)}")
    return chosen


def may_matter(kind: str, payload: bytes) -> bool:
    """Whether a payload has to be looked at: nearly all of a run's are output, which is cheaper not to parse."""
    return kind != "run" or any(name in payload for name in _TOLD_OF_RUNS)


def told_of(event: Event) -> str | None:
    """Return what an event would be told as; None if it is nothing for people.

    A part of somebody else's work (delegated, or taken in as a steer) is not told: the whole is. A whisper and what
    answers it are not for the person who is served.
    """
    body = event.body
    match event.type:
        case "run.finished":
            inner = body.get("parent") or body.get("into") or body.get("whisper")
            return None if inner else _ENDS.get(str(body.get("status")))
        case "run.stalled" if event.kind == "run":
            return "run.stalled"
        case "agent.offline":
            return "run.lost"
        case "ask":
            return None if body.get("about") in AMONG_AGENTS else "ask.open"
        case "ask.escalated":
            return "ask.escalated"
        case "floor" if body.get("step") == "request" and isinstance(body.get("request"), dict):
            return "floor.requested"
    return None


# -- what is told -----------------------------------------------------------------------------------------------------


def data_of(told: str, event: Event, position: Position, *, title: str, link: str | None) -> Body:
    """Return what is told of every event: where it is."""
    return {
        "session": event.session, "title": title, "position": str(position), "member": event.member,
        "link": link.replace("{session}", event.session) if link else None,
    } | _OWN.get(told, lambda _: {})(event)  # fmt: skip


def _of_stall(event: Event) -> Body:
    return {"agent": event.member, "run": event.id, "status": "stalled", "seconds": event.body.get("seconds")}


def _of_loss(event: Event) -> Body:
    return {"agent": event.member, "status": "lost", "reason": event.body.get("reason", "")}


def _of_ask(event: Event) -> Body:
    return data_of_ask({**event.body, "ask": event.id, "from": event.member}, event.body.get("to") or [])


def data_of_ask(ask: View, to: list[str]) -> Body:
    """Return what is told of an ask: who may answer, too, of one that was escalated."""
    fields = ("ask", "from", "about", "options", "seconds", "run")
    said = {name: ask.get(name) for name in fields} | {"to": to}
    return {"agent": ask["from"], "text": excerpt(ask.get("text")), "ask": said}


def _of_floor(event: Event) -> Body:
    body = event.body
    return {"floor": {"holder": body.get("holder"), **body["request"]}, "text": excerpt(body["request"].get("reason"))}


_OWN: Final = {
    "run.stalled": _of_stall, "run.lost": _of_loss, "ask.open": _of_ask, "floor.requested": _of_floor,
}  # fmt: skip


def data_of_run(run: View) -> Body:
    """Return what is told of a run that has ended, from the run as a view shows it."""
    return {
        "agent": run["agent"], "run": run["run"], "status": run["status"], "error": run["error"],
        "text": excerpt(answer_text(run["parts"])), "usage": run["usage"],
    }  # fmt: skip


def data_of_input(found: Event | None) -> Body:
    """Return what is told of the input that a run is for: whose it was, so that the receiver knows whom to tell."""
    if found is None:
        return {"input": None}
    return {"input": {"from": found.member, "input": found.id, "text": excerpt(found.body.get("text"))}}


def excerpt(text: object) -> str:
    """Return the beginning of a text."""
    said = text if isinstance(text, str) else ""
    return said if len(said) <= EXCERPT else said[: EXCERPT - 1] + "…"


# -- when it is tried again -------------------------------------------------------------------------------------------


def is_final(status: int) -> bool:
    """Whether an answer says that trying again is no use: refused, or a redirect, which is not followed."""
    return 300 <= status < 500 and status not in _PASSING


def pause_before(tries: int, *, first_seconds: float, retry_after: float | None = None) -> float:
    """Return the seconds until the next try: four times longer each time, up to an hour, a fifth of it random.

    Args:
        tries: how often it was tried so far.
        first_seconds: after the first try.
        retry_after: what the receiver asked for; it is not asked again earlier, within that hour.
    """
    pause = min(_LONGEST_SECONDS, first_seconds * 4.0 ** min(tries - 1, 20))
    return max(pause * random.uniform(0.9, 1.1), min(retry_after or 0.0, _LONGEST_SECONDS))


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, None without a sensible one."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):
        return None
