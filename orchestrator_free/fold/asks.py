"""Asks: what answers and stages add up to, decided in log order, so that every reader decides alike."""

from __future__ import annotations

import contextlib
from typing import Any, Final, Literal, NamedTuple

import orjson

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event
from orchestrator_free.fold.run import View
from orchestrator_free.subjects import ALL
from orchestrator_free.vocabulary import validate

Why = Literal["closed", "not asked", "answered", "value"]


class Refusal(NamedTuple):
    """Why an answer does not count, for programs and for people."""

    why: Why
    text: str

    def __str__(self) -> str:
        """Return it for people."""
        return self.text


_FIELDS: Final[dict[str, Any]] = {
    "about": "question", "text": "", "data": None, "to": [], "options": None, "rule": "quorum", "quorum": 1,
    "veto": None, "run": None, "seconds": None, "escalations": [],
}  # fmt: skip


class Asks:
    """The asks of a session by id; an id is asked once."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[str, View] = {}

    def take(self, event: Event) -> None:
        """Apply an event that may make no sense; then it is skipped, as every reader does."""
        with contextlib.suppress(InvalidEvent):
            self.apply(event)

    def apply(self, event: Event) -> bool:
        """Apply an ask, an answer or a stage.

        Raises:
            InvalidEvent: a wrong field.
        """
        validate(event.kind, event.body)
        match event.type:
            case "ask":
                return self._asked(event)
            case "answer":
                return self._answered(event)
            case "ask.escalated" | "ask.expired" | "ask.withdrawn":
                return self._staged(event)
        return False

    def _asked(self, event: Event) -> bool:
        if event.id in self.found:
            return False
        said = {name: event.body.get(name, default) for name, default in _FIELDS.items()}
        self.found[event.id] = {
            "ask": event.id, "from": event.member, **said, "to": list(said["to"]), "status": "open", "value": None,
            "by": [], "reason": "", "answers": [], "time": event.time, "decided": None, "sequence": event.sequence,
        }  # fmt: skip
        return True

    def _answered(self, event: Event) -> bool:
        ask = self.found.get(event.id)
        if ask is None:
            return False
        value = event.body.get("value")
        reason = str(refusal(ask, event.member, value) or "")
        ask["answers"].append({
            "member": event.member, "value": value, "comment": event.body.get("comment", ""), "counts": not reason,
            "reason": reason, "time": event.time,
        })  # fmt: skip
        if not reason:
            _tally(ask, event)
        return True

    def _staged(self, event: Event) -> bool:
        """Apply a stage; only the one who asks says it, or the broker in its name."""
        ask = self.found.get(event.address.target)
        if ask is None or ask["from"] != event.member:
            return False
        if ask["status"] != "open":
            return True  # it was decided first
        match event.type:
            case "ask.escalated":
                if ask["to"]:  # else everybody may answer as it is
                    ask["to"] += [member for member in event.body["to"] if member not in ask["to"]]
            case "ask.withdrawn":
                ask |= {"status": "withdrawn", "reason": event.body.get("reason", ""), "decided": event.time}
            case _:
                best = _best(ask)
                if best is None:
                    ask |= {"status": "expired", "decided": event.time}
                else:
                    _decide(ask, best["value"], [best["member"]], event.time)
        return True

    def view(self) -> list[View]:
        """Return the asks in log order."""
        return [_copy(ask) for ask in sorted(self.found.values(), key=lambda ask: int(ask["sequence"]))]

    def load(self, view: list[View]) -> None:
        """Take over what a view shows."""
        self.found = {ask["ask"]: _copy(ask) for ask in view}


def _copy(ask: View) -> View:
    return {**ask, "to": list(ask["to"]), "answers": [dict(answer) for answer in ask["answers"]]}


def refusal(ask: View, member: str, value: Any) -> Refusal | None:
    """Return why an answer to an ask as it stands would not count; None if it would."""
    if ask["status"] != "open":
        return Refusal("closed", f"the ask is {ask['status']} already")
    everybody = ALL in ask["to"]
    if member == ask["from"] and member not in ask["to"] and not everybody:
        return Refusal("not asked", "who asks does not answer")
    if ask["to"] and member not in ask["to"] and not everybody:
        return Refusal("not asked", f"{member} is not asked, only {', '.join(ask['to'])}")
    if any(answer["member"] == member and answer["counts"] for answer in ask["answers"]):
        return Refusal("answered", f"{member} has answered already")
    if ask["options"] is not None and value not in ask["options"]:
        return Refusal("value", f"not one of the options {', '.join(ask['options'])}")
    if ask["rule"] in ("highest", "lowest") and type(value) not in (int, float):
        return Refusal("value", "not a number")
    return None


def _tally(ask: View, event: Event) -> None:
    """Decide, if the answer that has just come makes it."""
    counted = [answer for answer in ask["answers"] if answer["counts"]]
    value = counted[-1]["value"]
    if ask["veto"] is not None and value == ask["veto"]:
        _decide(ask, value, [event.member], event.time)
    elif ask["rule"] == "count" and len(counted) >= ask["quorum"]:
        _decide(ask, {one["member"]: one["value"] for one in counted}, [one["member"] for one in counted], event.time)
    elif ask["rule"] == "quorum":
        agreed = [one["member"] for one in counted if same(one["value"], value)]
        if len(agreed) >= ask["quorum"]:
            _decide(ask, value, agreed, event.time)


def _decide(ask: View, value: Any, by: list[str], time: str) -> None:
    ask |= {"status": "decided", "value": value, "by": by, "decided": time}


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _best(ask: View) -> View | None:
    """Return the best bid, of equal ones the first; None if there is none, or the ask is not about the best."""
    bids = [answer for answer in ask["answers"] if answer["counts"]]
    if ask["rule"] not in ("highest", "lowest") or not bids:
        return None
    pick = max if ask["rule"] == "highest" else min
    return dict(pick(bids, key=lambda bid: float(bid["value"])))
