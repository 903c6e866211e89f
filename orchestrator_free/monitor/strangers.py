"""Names that nobody serves: inputs to agents that have never connected, found as they come."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from orchestrator_free import logs
from orchestrator_free.broker import Broker
from orchestrator_free.jetstream import Message
from orchestrator_free.lag import seconds_between
from orchestrator_free.monitor.shard import Shard
from orchestrator_free.monitor.telling import NEVER, Teller, owed_among
from orchestrator_free.subjects import ALL, ROOT
from orchestrator_free.views.members import watchers_of

_log = logs.logger("orchestrator_free.monitor")

_PAGE: Final = 256
_PAST_PAGE: Final = 1024
#: inputs to anybody that are looked through per tick, and that may wait to be old enough
_ARRIVALS: Final = 4096


class Strangers:
    """Inputs to names for which no agent has ever connected."""

    def __init__(self, broker: Broker, teller: Teller, *, age_seconds: float, per_tick: int) -> None:
        """Prepare.

        Args:
            broker: a connection that may read everything.
            teller: says it.
            age_seconds: how long an input waits until that is said; its agent may just be starting.
            per_tick: sessions that are told in one tick.
        """
        self._broker = broker
        self._log = broker.log
        self._teller = teller
        self._age_seconds = age_seconds
        self._per_tick = per_tick

    async def look(self, shard: int, known: Collection[str], stream: Shard) -> None:
        """Find inputs to names for which no agent has ever connected, once they are old enough."""
        await self._read_arrivals(shard, stream, known)
        age = self._age_seconds
        due = [key for key, owed in stream.waiting.items() if seconds_between(owed[0].time, stream.now) >= age]
        if not due:
            return
        people = {watcher.member for watcher in watchers_of(await self._log.present("watch"))}
        before = self._teller.published
        for session, target in due[: self._per_tick]:
            if await self._tell(session, target, {*known, *people}, stream):
                del stream.waiting[session, target]
        if self._teller.published > before:
            names = sorted({target for _, target in due})[:10]
            _log.warning("inputs wait for agents that never connected", to=names, told=self._teller.published - before)

    async def _read_arrivals(self, shard: int, stream: Shard, known: Collection[str]) -> None:
        """Note what came since the last tick, and a page of what was there before this monitor started."""
        subject = f"{ROOT}.{shard}.*.*.in.*.*"
        room = _ARRIVALS - sum(map(len, stream.waiting.values()))
        more = stream.tail < stream.end
        while more and room > 0:
            messages, more = await self._log.page(shard, subject, after=stream.tail, limit=min(_PAGE, room))
            room -= len(messages)
            stream.tail = messages[-1].sequence if more else stream.passed(stream.tail, messages)
            self._note(stream, messages, known)
        if room > 0 and stream.past < stream.start:
            messages, more = await self._log.page(shard, subject, after=stream.past, limit=min(_PAST_PAGE, room))
            stream.past = messages[-1].sequence if more else stream.start
            self._note(stream, [message for message in messages if message.sequence <= stream.start], known)

    def _note(self, stream: Shard, messages: Iterable[Message], known: Collection[str]) -> None:
        for one in owed_among(self._log, messages):
            if one.where.target not in known:
                stream.waiting.setdefault((one.where.session, one.where.target), []).append(one)

    async def _tell(self, session: str, target: str, known: Collection[str], stream: Shard) -> bool:
        """Say of everybody an input is for and whom nobody knows that there is no such agent; True if it is said."""
        names = (await self._broker.session(session).meta())["agents"] if target == ALL else [target]
        settled, owed = True, stream.waiting[session, target]
        for name in names:
            if name not in known:
                settled &= await self._teller.tell(session, name, owed, NEVER, stream.now)
        return settled
