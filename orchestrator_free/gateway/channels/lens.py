"""A session as somebody sees it who may read the words of some members only: folded from those, and from no others.

Nothing is taken out of a view afterwards: what is not folded cannot be in it, in whatever form it is told. A lens is
kept in step with its channel for as long as somebody looks through it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.gateway.channels.snapshot import Snapshots
from orchestrator_free.jetstream import Log, Objects
from orchestrator_free.reading.entries import Entry, to_event
from orchestrator_free.subjects import Position, session_filter

if TYPE_CHECKING:
    from orchestrator_free.gateway.channels.channel import Channel

#: kinds that are of the session itself: whoever may enter it may know its title
ABOUT: Final = frozenset({"meta"})


class Seen(Protocol):
    """What a channel shows to somebody: all of it, or what a lens leaves.

    Attributes:
        fold: the session, as far as it is shown; it goes on.
    """

    fold: Fold

    async def snapshot(self) -> tuple[Position, bytes]:
        """Return the view as JSON, and where it stands."""


class Lens:
    """The session through the words of some members."""

    def __init__(self, channel: Channel, objects: Objects, sees: frozenset[str]) -> None:
        self.fold = Fold(channel.session)
        self._channel = channel
        self._sees = sees
        self._snapshots = Snapshots(objects)
        self._waiting: list[Entry] | None = []
        self.opening: asyncio.Task[None] | None = None

    async def snapshot(self) -> tuple[Position, bytes]:
        """Return the view as JSON, and where it stands: as far as the channel has read."""
        position = self._channel.position
        return position, await self._snapshots.take(self.fold, position)

    async def open(self, log: Log) -> None:
        """Read the session as far as the channel has; what comes meanwhile waits.

        Raises:
            BrokerError: it cannot be read.
        """
        shard = log.shard(self._channel.session)
        messages = await log.read_all(shard, session_filter(shard, self._channel.session))
        end = messages[-1].sequence if messages else 0
        await self._channel.reach(end)
        for message in messages:
            if (event := to_event(message)) is not None:
                self._apply(event)
        waiting, self._waiting = self._waiting or [], None
        for entry in waiting:
            if entry.event.sequence > end:
                self._apply(entry.event)

    def take(self, entries: list[Entry]) -> None:
        """Go on with what the channel has just read."""
        if self._waiting is not None:
            self._waiting += entries
            return
        for entry in entries:
            self._apply(entry.event)

    def _apply(self, event: Event) -> None:
        if event.kind in ABOUT and (agents := event.body.get("agents")):
            # An answer is complete without those who are not seen.
            body = {**event.body, "agents": [name for name in agents if name in self._sees]}
            event = Event(event.sequence, event.time, event.address, body)
        if event.member in self._sees or event.kind in ABOUT:
            self.fold.apply(event)


class Lenses:
    """The lenses of a channel: one for all who see the same."""

    def __init__(self, log: Log, objects: Objects) -> None:
        self._log = log
        self._objects = objects
        self._open: WeakValueDictionary[frozenset[str], Lens] = WeakValueDictionary()

    async def through(self, channel: Channel, sees: frozenset[str]) -> Lens:
        """Return a lens that is in step with its channel.

        Raises:
            BrokerError: the session cannot be read.
        """
        lens = self._open.get(sees)
        if lens is None:
            lens = self._open[sees] = Lens(channel, self._objects, sees)
            lens.opening = asyncio.create_task(lens.open(self._log), name=f"lens {channel.session}")
        assert lens.opening is not None  # noqa: S101 - set where it was made
        try:
            await asyncio.shield(lens.opening)
        except Exception:
            if self._open.get(sees) is lens:
                del self._open[sees]
            raise
        return lens

    def take(self, entries: list[Entry]) -> None:
        """Go on with what the channel has just read."""
        for lens in list(self._open.values()):
            lens.take(entries)


async def seen(channel: Channel, sees: frozenset[str] | None) -> Seen:
    """Return a session as it is shown to who may read the words of these members; None for everybody's."""
    return channel if sees is None else await channel.lenses.through(channel, sees)
