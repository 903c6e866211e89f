"""What people wait for at a screen: the first output of a run and its end, counted when somebody was given them."""

from __future__ import annotations

import time
from datetime import datetime
from typing import NamedTuple

from orchestrator_free import tracing
from orchestrator_free.fold import Fold
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.reading.entries import Entry
from orchestrator_free.subjects import ALL


class _First(NamedTuple):
    """The first output of a run: when its input and it were stored, and the context of its trace."""

    agent: str
    run: str
    asked: str
    trace: str
    stored: str


class Firsts:
    """The runs of one session that have begun and shown nothing yet; a token of any other costs two lookups."""

    __slots__ = ("_began", "_ended", "_first", "_fold", "_metrics")

    def __init__(self, fold: Fold, metrics: GatewayMetrics) -> None:
        self._fold = fold
        self._metrics = metrics
        self._began: dict[tuple[str, str], tuple[str, str]] = {}
        self._first: list[_First] = []
        self._ended: list[str] = []

    def note(self, entry: Entry) -> None:
        """Take the next event, after the fold has."""
        event, address = entry.event, entry.event.address
        if address.kind != "run":
            return
        key, kind = (address.member, address.id), event.body["type"]
        if kind == "run.started":
            if asked := self._asked(address.member, event.body.get("input")):
                self._began.setdefault(key, (asked, entry.message.trace if tracing.tracer is not None else ""))
        elif kind == "run.finished":
            self._began.pop(key, None)
            self._ended.append(address.member)
        elif key in self._began:
            self._first.append(_First(*key, *self._began.pop(key), event.time))

    def _asked(self, agent: str, source: object) -> str:
        """Return when the input of a run was stored; empty if the fold does not know it, or it is history."""
        sender, _, name = str(source).partition("/")
        for target in (agent, ALL):
            entry = self._fold.inputs.get(f"{sender}/{target}/{name}")
            if entry is not None and not entry["replayed"]:
                return str(entry["time"])
        return ""

    def written(self, clients: int) -> None:
        """What was noted has been written to so many clients; what nobody was given is not counted."""
        if not (self._first or self._ended):
            return
        if clients:
            now = time.time()
            for first in self._first:
                self._metrics.first_token(first.agent, max(0.0, now - datetime.fromisoformat(first.asked).timestamp()))
                if tracing.tracer is not None:
                    tracing.tracer.delivered(
                        first.trace, self._fold.session, first.agent, first.run, stored=first.stored, clients=clients
                    )
            for agent in self._ended:
                self._metrics.answer_shown(agent)
        self._first.clear()
        self._ended.clear()
