"""A session without a member: the same events in the same order, in which they are somebody without a name. Pure.

What they said is gone, and what was answered to it, with all that was delegated for it. In everybody else's words their
name is another one. What others say about them without naming them nobody can find: that stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from orchestrator_free.events import Body, Event, encode
from orchestrator_free.session.archive import Stored
from orchestrator_free.subjects import Address, run_id

ERASED: Final = "[erased]"
#: what is left of a run that answered them
_RUN: Final = frozenset({"type", "attempt", "input", "parent", "status", "first", "started", "whisper", "into"})
_RUN_EVENTS: Final = frozenset({"run.started", "run.finished"})
#: what their own words consist of, by kind
_WORDS: Final[dict[str, Body]] = {
    "in": {"text": ERASED, "data": None},
    "ctl": {"text": ERASED, "data": None, "reason": ""},
    "ask": {"text": ERASED, "data": None},
    "answer": {"comment": ""},
    "meta": {"title": ""},
    "presence": {"reason": ""},
    "floor": {"reason": ""},
    "lease": {"data": None},
    "stage": {"reason": ""},
}


def mention(name: str) -> re.Pattern[bytes]:
    """Return what finds a name as a word of its own in a payload."""
    return re.compile(rb"(?<![A-Za-z0-9_-])" + re.escape(name.encode()) + rb"(?![A-Za-z0-9_-])")


class Rewriting:
    """One member's way out of one session.

    Attributes:
        alias: who they are from now on.
    """

    def __init__(self, member: str, alias: str) -> None:
        self.member = member
        self.alias = alias
        self._word = re.compile(mention(member).pattern.decode())
        self._runs: dict[str, str] = {}
        self._blank: set[str] = set()
        self._choices: dict[str, list[str]] = {}

    def rewrite(self, stored: Iterable[Stored]) -> list[Stored]:
        """Return the events without them, in their order."""
        events = list(stored)
        for one in events:
            self._learn(one.event)
        return [found for one in events if (found := self._event(one)) is not None]

    def _learn(self, event: Event) -> None:
        """Note the runs that are for them, and what they were asked."""
        if event.kind == "ask" and isinstance(event.body.get("options"), list):
            self._choices[event.id] = event.body["options"]
        if event.kind != "in":
            return
        parent = event.body.get("parent")
        delegated = isinstance(parent, dict) and parent.get("run") in self._blank
        if event.member != self.member and not delegated:
            return
        run = run_id(event.member, event.id)
        self._blank.add(run)
        if event.member == self.member:
            self._runs[run] = run_id(self.alias, event.id)

    def _event(self, stored: Stored) -> Stored | None:
        event = stored.event
        body = self._body(event)
        if body is None:
            return None
        body = self.without_name(body)
        where = self._address(event.address)
        return Stored(event._replace(address=where, body=body), encode(body), stored.rollup)

    def _address(self, where: Address) -> Address:
        member, target = (self.alias if name == self.member else name for name in (where.member, where.target))
        id = self._runs.get(where.id, where.id) if where.kind == "run" else where.id
        return replace(where, member=member, target=target, id=id)

    def _body(self, event: Event) -> Body | None:
        """Return what is left of an event, None for nothing."""
        body, mine = event.body, event.member == self.member
        match event.kind:
            case "run" if event.id in self._blank:
                if event.type not in _RUN_EVENTS:
                    return None
                left = {name: value for name, value in body.items() if name in _RUN}
                return left | ({"parts": [], "attempts": []} if event.type == "run.finished" else {})
            case "state" if mine:
                return {"type": "state.deleted"}
            case "in" if run_id(event.member, event.id) in self._blank:
                return _blanked(body, "in")
            case "ask" if self._is_for_blank(body):
                return _blanked(body, "ask")
            case "answer" if mine:
                kept = body.get("value") in self._choices.get(event.id, ())
                return _blanked(body, "answer") | ({} if kept else {"value": None})
            case kind if mine:
                return _blanked(body, kind)
        return body

    def _is_for_blank(self, body: Body) -> bool:
        run = body.get("run")
        return isinstance(run, dict) and run.get("run") in self._blank

    def without_name(self, value: Any) -> Any:
        """Return JSON in which they are not named, and references lead where they led."""
        if isinstance(value, dict):
            return {self.without_name(name): self.without_name(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.without_name(item) for item in value]
        if isinstance(value, str):
            return self._runs.get(value) or self._word.sub(self.alias, value)
        return value


def _blanked(body: Body, kind: str) -> Body:
    words = _WORDS.get(kind, {})
    return body | {name: word for name, word in words.items() if name in body}
