"""Notices: notifications that did not arrive, and what became of them. The last ones are kept."""

from __future__ import annotations

from typing import Final

from orchestrator_free.events import Event
from orchestrator_free.fold.run import View
from orchestrator_free.vocabulary import validate

_STATUS: Final = {
    "notification.failed": "failed",
    "notification.retry": "retrying",
    "notification.delivered": "delivered",
}
#: notices that a view shows: those with the latest word
KEPT: Final = 100


class Notices:
    """The latest notices of a session, by who said them and id; each word says all of its notice."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[str, View] = {}

    def apply(self, event: Event) -> bool:
        """Apply a word on a notice."""
        body = event.body
        if body["type"] == "letter.settled":
            validate("notice", body)
            return True  # for who operates; the view shows the notice itself
        if body["type"] not in _STATUS:
            return False
        validate("notice", body)
        key = f"{event.member}/{event.id}"
        self.found.pop(key, None)
        self.found[key] = {
            "notice": event.id, "from": event.member, "about": body["about"], "position": body["position"],
            "status": _STATUS[body["type"]], "tries": body["tries"], "error": body.get("error", ""),
            "time": event.time, "sequence": event.sequence,
        }  # fmt: skip
        while len(self.found) > KEPT:
            del self.found[next(iter(self.found))]
        return True

    def view(self) -> list[View]:
        """Return them, the one with the latest word last."""
        return [dict(notice) for notice in self.found.values()]

    def load(self, view: list[View]) -> None:
        """Take over what a view shows."""
        self.found = {f"{notice['from']}/{notice['notice']}": dict(notice) for notice in view}
