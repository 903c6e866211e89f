"""The floor: who answers the person now. Each step says the whole state, so the last one is the state."""

from __future__ import annotations

from orchestrator_free.events import Event
from orchestrator_free.fold.run import View
from orchestrator_free.vocabulary import validate


class Floor:
    """Who has the floor, since when, and who is asked to take it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: View | None = None

    @property
    def holder(self) -> str | None:
        """Who answers the person; None: as if there were no floor."""
        return self.state["holder"] if self.state else None

    def apply(self, event: Event) -> bool:
        """Apply a step."""
        body = event.body
        if body["type"] != "floor":
            return False
        validate("floor", body)
        self.state = {
            "holder": body.get("holder"), "previous": body.get("previous"), "request": body.get("request"),
            "step": body["step"], "by": event.member, "reason": body.get("reason", ""), "time": event.time,
            "revision": event.sequence,
        }  # fmt: skip
        return True

    def view(self) -> View | None:
        """Return the state; None if nobody ever took the floor."""
        return dict(self.state) if self.state else None

    def load(self, view: View | None) -> None:
        """Take over what a view shows."""
        self.state = dict(view) if view else None
