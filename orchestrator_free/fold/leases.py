"""Leases: who holds what. Each taking has a higher term; a word on an earlier one is stale and changes nothing."""

from __future__ import annotations

from typing import Final

from orchestrator_free.events import Event
from orchestrator_free.fold.run import View
from orchestrator_free.vocabulary import validate

_WORDS: Final = frozenset({"lease.taken", "lease.released"})


class Leases:
    """The leases of a session by name."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[str, View] = {}

    def apply(self, event: Event) -> bool:
        """Apply a word on a lease, or what the broker says of one."""
        validate(event.kind, event.body)
        if event.type == "lease.lapsed":
            return self._lapsed(event)
        if event.type not in _WORDS:
            return False
        body = event.body
        known = self.found.get(event.id)
        if known is not None and body["term"] < known["term"]:
            return True
        held = event.type == "lease.taken"
        self.found[event.id] = {
            "holder": event.member if held else None,
            "status": "held" if held else "done" if body.get("done") else "released",
            "term": body["term"], "hold": body["hold"], "by": event.member, "data": body.get("data"),
            "seconds": body.get("seconds"), "time": event.time, "revision": event.sequence,
        }  # fmt: skip
        return True

    def _lapsed(self, event: Event) -> bool:
        """Apply what the broker says at its time: it ends the hold it is about, if that one still stands."""
        known = self.found.get(event.address.target)
        if known is not None and (known["holder"], known["hold"]) == (event.member, event.id):
            self.found[event.address.target] = known | {"holder": None, "status": "lapsed", "time": event.time}
        return True

    def view(self) -> dict[str, View]:
        """Return them by name, the one that was last taken or given up last."""
        found = sorted(self.found.items(), key=lambda item: item[1]["revision"])
        return {name: dict(lease) for name, lease in found}

    def load(self, view: dict[str, View]) -> None:
        """Take over what a view shows."""
        self.found = {name: dict(lease) for name, lease in view.items()}
