"""Leases: who holds what. Each taking has a higher term; a word on an earlier term is stale and changes nothing."""

from __future__ import annotations

from typing import Final

from orchestrator_free.events import Event
from orchestrator_free.fold.run import View
from orchestrator_free.vocabulary import validate

_STATUS: Final = {"lease.taken": "held", "lease.released": "released", "lease.lapsed": "lapsed"}


class Leases:
    """The leases of a session by name."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[str, View] = {}

    def apply(self, event: Event) -> bool:
        """Apply a word on a lease."""
        body = event.body
        if body["type"] not in _STATUS:
            return False
        validate("lease", body)
        known = self.found.pop(event.id, None)
        if known is not None and body["term"] < known["term"]:
            self.found[event.id] = known
            return True
        status = _STATUS[body["type"]]
        self.found[event.id] = {
            "holder": event.member if status == "held" else None, "status": status, "term": body["term"],
            "by": event.member, "data": body.get("data"), "seconds": body.get("seconds"), "time": event.time,
            "revision": event.sequence,
        }  # fmt: skip
        return True

    def view(self) -> dict[str, View]:
        """Return them by name, the latest change last."""
        found = sorted(self.found.items(), key=lambda item: item[1]["revision"])
        return {name: dict(lease) for name, lease in found}

    def load(self, view: dict[str, View]) -> None:
        """Take over what a view shows."""
        self.found = {name: dict(lease) for name, lease in view.items()}
