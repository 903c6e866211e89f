"""Asks in the log: what stands there of one at a moment, waiting for its end, and what the broker is to say of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from orchestrator_free.errors import AskNotFound, BrokerError, PositionLost
from orchestrator_free.events import Body, Event, encode
from orchestrator_free.fold import View
from orchestrator_free.fold.asks import Asks
from orchestrator_free.jetstream import Log
from orchestrator_free.reading.entries import to_event
from orchestrator_free.reading.follower import Follower
from orchestrator_free.subjects import ROOT, Position, address, check_name, session_filter
from orchestrator_free.vocabulary.asking import stages

_KINDS: Final = frozenset({"ask", "answer", "stage"})


class AskLog:
    """The asks in the log of one session."""

    def __init__(self, log: Log, session: str) -> None:
        self._log = log
        self._session = session
        self._shard = log.shard(session)

    # -- reading ------------------------------------------------------------------------------------------------

    async def _end(self, tail: str = "") -> int:
        """Return the last sequence of the session, or below it, as the leader has it."""
        below = f"{ROOT}.{self._shard}.{self._session}.{tail}" if tail else session_filter(self._shard, self._session)
        last = await self._log.last(self._shard, below)
        return last.sequence if last is not None else 0

    async def last(self, kind: str, id: str, member: str = "*") -> int:
        """Return the last sequence of an ask or its answers, whatever stands there: also what is no event."""
        return await self._end(f"{member}.{kind}.{check_name('ask', id)}")

    async def events(self, id: str, *, up_to: int | None = None) -> list[Event]:
        """Return what the log says of an ask (`*`: of all) as it was at one moment: now, or at a sequence."""
        if id != "*":
            check_name("ask", id)
        end = await self._end() if up_to is None else up_to
        head = f"{ROOT}.{self._shard}.{self._session}.*"
        filters = (f"{head}.ask.{id}", f"{head}.answer.{id}", f"{head}.stage.{id}.*")
        pages = await asyncio.gather(*(self._log.read_all(self._shard, one) for one in filters))
        found = [to_event(message) for page in pages for message in page if message.sequence <= end]
        return sorted((event for event in found if event is not None), key=lambda event: event.sequence)

    def folded(self, events: Iterable[Event], id: str) -> View:
        """Return an ask as these events make it.

        Raises:
            AskNotFound: they do not hold it.
        """
        return self._fold(events, id).view()[0]

    def _fold(self, events: Iterable[Event], id: str) -> Asks:
        fold = Asks()
        for event in events:
            fold.take(event)
        if id not in fold.found:
            raise AskNotFound(self._session, id)
        return fold

    async def decided(self, id: str) -> View:
        """Wait until an ask is not open any more.

        Raises:
            AskNotFound: there is none, or its session was deleted.
        """
        while True:
            end = await self._end()
            fold = self._fold(await self.events(id, up_to=end), id)
            with contextlib.suppress(PositionLost):  # read again
                await self._follow(id, fold, end)
                return fold.view()[0]

    async def _follow(self, id: str, fold: Asks, end: int) -> None:
        """Fold what comes after a sequence until an ask is not open any more."""
        if fold.found[id]["status"] != "open":
            return
        after = Position(self._log.epoch(self._shard), end)
        async with Follower(self._log, self._session, after, compact=True) as follower:
            async for entry in follower:
                event = entry.event
                if event.type == "session.deleted":
                    raise AskNotFound(self._session, id)
                if event.kind in _KINDS and id in (event.id, event.address.target):
                    fold.take(event)
                    if fold.found[id]["status"] != "open":
                        return

    # -- later --------------------------------------------------------------------------------------------------

    async def now(self) -> datetime:
        """Return the broker's time."""
        return await self._log.clock()

    async def set_timers(self, asker: str, id: str, body: Body, now: datetime) -> None:
        """Let the broker say at their times, counted from `now`, what it is to say of an ask."""
        for name, after, stage in stages(body):
            where = address(self._shard, self._session, asker, "stage", target=id, id=name)
            await self._log.later(str(where), encode(stage), written(now + timedelta(seconds=after)))

    async def forget_timers(self, ask: View) -> None:
        """Let the broker not say what it still was to say of an ask that is not open any more; as far as it may."""
        with contextlib.suppress(BrokerError):
            now = await self._log.clock()
            for name, after, _ in stages(ask):
                if due(ask, after) > now:
                    where = address(self._shard, self._session, ask["from"], "stage", target=ask["ask"], id=name)
                    await self._log.forget_later(str(where))


def written(moment: datetime) -> str:
    """Write a time as the broker does: RFC 3339, UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def due(ask: View, seconds: float) -> datetime:
    """Return the time so many seconds after an ask."""
    return datetime.fromisoformat(ask["time"]) + timedelta(seconds=seconds)
