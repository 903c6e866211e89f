"""Live readers: what comes is encoded once for all who read a stream, and written to each once.

A reader that cannot keep up leaves the crowd with a cursor, as in a session's feed, and comes back later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator_free import logs
from orchestrator_free.durable_streams.cursor import Cursors
from orchestrator_free.durable_streams.tail import Chunk
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.gateway.connections.transport import Broadcast, Feed
from orchestrator_free.gateway.protocols.durable_streams.metrics import DurableStreamMetrics
from orchestrator_free.gateway.protocols.durable_streams.rendering import control_event, data_event, gone_event
from orchestrator_free.gateway.protocols.durable_streams.source import Source

_log = logs.logger("orchestrator_free.gateway")

#: catch-up is written in pieces of about this size, so that a slow client is noticed
_PIECE: Final = 192 * 1024
#: the protocol's connections end now and then, so that caches between can gather their clients
SSE_SECONDS: Final = 60.0
_HEARTBEAT_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 0.5

#: what readers must have in common to get the same bytes: least cursor, and the stream's name where they read several
Kind = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Seat:
    """What a connection reads: a source, after which sequence, and under which name if it reads several."""

    source: Source
    after: int
    name: str = ""


class Place:
    """Where a reader stands in one stream.

    Attributes:
        cursor: everything up to this sequence was written; -1 for one of the crowd, who has everything.
    """

    __slots__ = ("audience", "cursor", "kind", "reader", "reading")

    def __init__(self, reader: Reader, audience: Audience, after: int, kind: Kind) -> None:
        self.reader = reader
        self.audience = audience
        self.cursor = after
        self.kind = kind
        self.reading: asyncio.Task[None] | None = None


class Reader:
    """A connection that reads one stream, or several. Handles its connection's callbacks."""

    def __init__(self, live: Live, seats: Sequence[Seat], *, least: int = 0, first: bytes = b"") -> None:
        """Prepare.

        Args:
            live: all readers.
            seats: what it reads.
            least: the least cursor that it may get.
            first: events to begin with.
        """
        self._live = live
        self._seats = seats
        self._least = least
        self._first = first
        self._end: asyncio.TimerHandle | None = None
        self.feed: Feed | None = None
        self.places: list[Place] = []

    def opened(self, feed: Feed) -> None:
        """Begin."""
        self.feed = feed
        self._live.metrics.readers.inc()
        self._end = asyncio.get_running_loop().call_later(SSE_SECONDS, feed.finish)
        feed.send(self._first)
        for seat in self._seats:
            place = Place(self, self._live.audience(seat.source), seat.after, (self._least, seat.name))
            self.places.append(place)
        for place in list(self.places):
            place.audience.enter(place)

    def on_resume(self, conn: Feed) -> None:
        """Go on: the connection has drained."""
        for place in list(self.places):
            if place.cursor >= 0:
                place.audience.pump(place)

    def on_close(self, conn: Feed) -> None:
        """Leave."""
        if self._end is not None:
            self._end.cancel()
        self._live.metrics.readers.dec()
        for place in list(self.places):
            place.audience.leave(place)
        self.feed = None

    def done_with(self, place: Place) -> None:
        """A stream has come to its end; with the last of them the connection ends."""
        place.audience.leave(place)
        if not self.places and self.feed is not None:
            self.feed.finish()


class Audience:
    """Everybody who reads one stream live."""

    def __init__(self, source: Source, live: Live) -> None:
        self.source = source
        self._live = live
        self._groups: dict[Kind, Broadcast] = {}
        self._places: set[Place] = set()
        self._crowd: dict[Feed, Place] = {}
        self._position = source.tail
        self._stop = source.listen(self._changed)
        self._beaten = asyncio.get_running_loop().time()

    # -- coming and going -------------------------------------------------------------------------------------------

    def enter(self, place: Place) -> None:
        """Take a reader in, who has read up to its cursor."""
        self._places.add(place)
        if place.cursor >= self.source.tail:
            self._write(place, self._after(Chunk(place.cursor, place.cursor), place.kind))
        self.pump(place)

    def leave(self, place: Place) -> None:
        """Let a reader go."""
        self._places.discard(place)
        if place in place.reader.places:
            place.reader.places.remove(place)
        self._part(place)
        if not self._places:
            self._stop()
            self._live.forget(self)

    def _part(self, place: Place) -> None:
        feed = place.reader.feed
        group = self._groups.get(place.kind)
        if group is not None and feed is not None:
            group.discard(feed)
            self._crowd.pop(feed, None)
            if not len(group):
                del self._groups[place.kind]

    # -- writing ----------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Write what came to everybody who keeps up."""
        source = self.source
        told = False
        while not source.lost and self._position < source.tail:
            chunk = source.recent(self._position, _PIECE)
            if chunk is None or chunk.end == self._position:
                self._all_behind()
                break
            self._tell(chunk)
            self._position = chunk.end
            told = True
        if source.closed or source.lost:
            self._end(told=told)

    def _tell(self, chunk: Chunk) -> None:
        data = data_event(chunk.payloads, self.source.form)
        for kind, group in list(self._groups.items()):
            written = data + self._after(chunk, kind)
            skipped = group.write(written)
            self._live.metrics.delivered.inc(len(written) * (len(group) - len(skipped)))
            for feed in skipped:
                self._fall_behind(self._crowd[feed], chunk.after)

    def _after(self, chunk: Chunk, kind: Kind) -> bytes:
        """Return the control event behind a chunk."""
        source = self.source
        at_end = chunk.end >= source.tail
        least, name = kind
        cursor = max(self._live.cursors.now(time.time()), least)
        return control_event(
            source.offset(chunk.end), cursor, up_to_date=at_end, closed=at_end and source.closed, stream=name,
            encoded=bool(name) and source.form == "base64",
        )  # fmt: skip

    def _end(self, *, told: bool) -> None:
        """The stream is closed or gone: who has read all of it is done, and told so if not with the last bytes."""
        for place in [place for place in self._places if place.cursor < 0 or self.source.lost]:
            _, name = place.kind
            if self.source.lost:
                if name:
                    self._write(place, gone_event(name, 404))
            elif not told:
                self._write(place, self._after(Chunk(self._position, self._position), place.kind))
            place.reader.done_with(place)

    def _all_behind(self) -> None:
        for place in list(self._crowd.values()):
            self._fall_behind(place, self._position)
            self.pump(place)
        self._position = self.source.tail

    def _fall_behind(self, place: Place, cursor: int) -> None:
        if place.cursor < 0:
            self._part(place)
            place.cursor = cursor

    def _write(self, place: Place, data: bytes) -> None:
        if place.reader.feed is not None and data:
            place.reader.feed.send(data)
            self._live.metrics.delivered.inc(len(data))

    def pump(self, place: Place) -> None:
        """Write from a reader's cursor on until it has caught up, or its connection is full."""
        feed = place.reader.feed
        while feed is not None and feed.writable and place.cursor >= 0 and not self.source.lost:
            if place.cursor >= self.source.tail:
                self._join(place, feed)
                return
            chunk = self.source.recent(place.cursor, _PIECE)
            if chunk is None or chunk.end == place.cursor:
                if place.reading is None:
                    place.reading = asyncio.create_task(self._read(place, feed), name="durable stream")
                return
            self._write_chunk(place, chunk)

    def _write_chunk(self, place: Place, chunk: Chunk) -> None:
        place.cursor = chunk.end
        self._write(place, data_event(chunk.payloads, self.source.form) + self._after(chunk, place.kind))

    def _join(self, place: Place, feed: Feed) -> None:
        self._changed()  # to the others: this one has what is fresh, too
        if place not in self._places:
            return
        if self.source.closed:
            place.reader.done_with(place)
            return
        place.cursor = -1
        group = self._groups.get(place.kind)
        if group is None:
            group = self._groups[place.kind] = Broadcast()
        group.add(feed)
        self._crowd[feed] = place

    async def _read(self, place: Place, feed: Feed) -> None:
        """Write pages of the log until the memory can go on, or the connection is full."""
        try:
            chunk = await self.source.read(place.cursor, _PIECE)
            if chunk.end == place.cursor:
                await asyncio.sleep(_AGAIN_SECONDS)
            elif place in self._places:
                self._write_chunk(place, chunk)
        except OrchestratorFreeError as error:
            _log.warning("cannot read a durable stream for a client", error=str(error))
            feed.cut()
        finally:
            place.reading = None
        if place in self._places:
            self.pump(place)

    def beat(self, now: float) -> None:
        """Tell those who keep up now and then where they stand, so that proxies and dead peers are found out."""
        if now < self._beaten + _HEARTBEAT_SECONDS:
            return
        self._beaten = now
        self._changed()
        if not self.source.closed and not self.source.lost:
            self._tell(Chunk(self._position, self._position))


class Live:
    """All live readers of a gateway."""

    def __init__(self, metrics: DurableStreamMetrics) -> None:
        self.metrics = metrics
        self.cursors = Cursors()
        self._audiences: dict[object, Audience] = {}

    def audience(self, source: Source) -> Audience:
        """Return the audience of a source."""
        found = self._audiences.get(source.key)
        if found is None:
            found = self._audiences[source.key] = Audience(source, self)
        return found

    def forget(self, audience: Audience) -> None:
        """Let go of an audience that nobody is in any more."""
        if self._audiences.get(audience.source.key) is audience:
            del self._audiences[audience.source.key]

    def beat(self) -> None:
        """Do what is due for every audience."""
        now = asyncio.get_running_loop().time()
        for audience in list(self._audiences.values()):
            audience.beat(now)


async def more_than(source: Source, after: int, seconds: float) -> bool:
    """Wait until a source has something after a sequence, is closed or lost; False if it has not within this time."""
    found = asyncio.Event()

    def look() -> None:
        if source.tail > after or source.closed or source.lost:
            found.set()

    leave: Callable[[], None] = source.listen(look)
    try:
        look()
        async with asyncio.timeout(seconds):
            await found.wait()
        return True
    except TimeoutError:
        return False
    finally:
        leave()
