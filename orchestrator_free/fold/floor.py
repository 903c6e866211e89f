"""The floor: who answers the person now. Each step says the whole state, so the last one is the state.

Reading by entities keeps all of a session's steps, not only the last: which inputs an agent owes an answer depends on
who had the floor when they came.
"""

from __future__ import annotations

from typing import Final

from orchestrator_free.events import Body, Event
from orchestrator_free.fold.run import View
from orchestrator_free.vocabulary import validate

#: steps that a view shows; older ones stand in the log
_KEPT: Final = 50


class Floor:
    """Who has the floor, since when, who is asked to take it, and how it went from hand to hand."""

    __slots__ = ("history", "state")

    def __init__(self) -> None:
        self.state: View | None = None
        self.history: list[View] = []

    @property
    def holder(self) -> str | None:
        """Who answers the person; None: as if there were no floor."""
        return self.state["holder"] if self.state else None

    def apply(self, event: Event) -> bool:
        """Apply a step; one that speaks in the name of somebody else makes no sense."""
        body = event.body
        if body["type"] != "floor":
            return False
        validate("floor", body)
        if not _is_own(body, event.member):
            return False
        self.state = {
            "holder": body.get("holder"), "previous": body.get("previous"), "request": body.get("request"),
            "step": body["step"], "by": event.member, "reason": body.get("reason", ""), "time": event.time,
            "revision": event.sequence,
        }  # fmt: skip
        self.history = [*self.history[1 - _KEPT :], self.state]
        return True

    def view(self) -> View | None:
        """Return the state with its history; None if nobody ever took a step."""
        return {**self.state, "history": [dict(step) for step in self.history]} if self.state else None

    def load(self, view: View | None) -> None:
        """Take over what a view shows."""
        if view is None:
            return
        self.state = {name: value for name, value in view.items() if name != "history"}
        self.history = [dict(step) for step in view["history"]]


def _is_own(body: Body, member: str) -> bool:
    """Whether a step says only what its sender may say: nobody takes the floor, or asks, in the name of another."""
    request = body.get("request")
    match body["step"]:
        case "take" | "accept":
            return body.get("holder") == member and request is None
        case "request":
            return request is not None and request["from"] == member
        case "release":
            return body.get("holder") is None and request is None
    return request is None  # decline, withdraw, return


def answers(holder: str | None, agent: str, entry: View) -> bool:
    """Return whether an agent is to work on an input, as far as the floor at its place in the log is concerned.

    Whoever has the floor answers the person. Others still do what was delegated to them, what the holder wants of them,
    and what is whispered to them; inputs to everybody are for the holder alone.

    Args:
        holder: who had the floor, None for nobody.
        agent: who would work on it.
        entry: the input, as in the view: `from`, `parent`, `whisper`.
    """
    parent = entry.get("parent")
    delegated = isinstance(parent, dict) and parent.get("agent") == entry["from"]
    return holder in (None, agent, entry["from"]) or delegated or bool(entry.get("whisper"))
