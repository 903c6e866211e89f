"""One session in one gateway: a reader, its fold, the compacted log as frames, and the clients.

An event is parsed, folded and encoded once, however many clients there are; all of one loop tick leave in one write
per client. A client that cannot keep up leaves the crowd with a cursor and comes back when its buffer has drained; it
costs its buffer and a number, never a queue.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from datetime import datetime
from typing import Final

import orjson

from orchestrator_free.errors import PositionLost, SessionNotFound
from orchestrator_free.fold import Fold, View
from orchestrator_free.gateway.frames import HEARTBEAT, Frame, Selection, control
from orchestrator_free.gateway.transport import Broadcast, Feed
from orchestrator_free.jetstream import Log, Objects
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.reader import Entry, Reader
from orchestrator_free.session import complete
from orchestrator_free.subjects import Position

#: frames a session may keep in memory; what is older is read from the log
TAIL_BYTES: Final = 16 * 1024 * 1024
#: catch-up is written in pieces of about this size, so that a slow client is noticed
_PIECE: Final = 192 * 1024
#: a client that takes nothing for so long is cut
STUCK_SECONDS: Final = 30.0


class Client:
    """A feed of a session: where it stands and what it wants. Handles its connection's callbacks."""

    __slots__ = ("channel", "cursor", "feed", "selection", "until_idle")

    def __init__(self, channel: Channel, selection: Selection, *, until_idle: bool) -> None:
        self.channel = channel
        self.selection = selection
        self.until_idle = until_idle
        self.cursor = -1
        self.feed: Feed | None = None

    def on_resume(self, conn: Feed) -> None:
        """The buffer has drained: go on from the cursor."""
        if self.cursor >= 0:
            self.channel.pump(self)

    def on_close(self, conn: Feed) -> None:
        """The connection is over."""
        self.channel.leave(self, conn)


class Channel:
    """A session that this gateway serves.

    Attributes:
        idle_since: loop time since when it has no client; None while it has one.
        closed: it serves nobody any more; open another.
    """

    def __init__(self, log: Log, objects: Objects, session: str, metrics: GatewayMetrics) -> None:
        self.session = session
        self.metrics = metrics
        self.reader = Reader(log, session, self._take, self._on_reset)
        self.fold = Fold(session)
        self.closed = False
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self._objects = objects
        self._frames: dict[int, Frame] = {}
        self._order: list[int] = []
        self._of: dict[str, list[int]] = {}
        self._bytes = 0
        self._first = 0
        self._floor = 0
        self._fresh: list[Frame] = []
        self._groups: dict[Selection, Broadcast] = {}
        self._clients: set[Client] = set()
        self._behind: set[Client] = set()
        self._piece: tuple[tuple[int, int, Selection], tuple[bytes, int, int]] | None = None
        self._snapshot: tuple[int, bytes] | None = None

    def __len__(self) -> int:
        """Return the number of frames in memory."""
        return len(self._frames)

    # -- opening and closing ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the session.

        Raises:
            SessionNotFound: the log holds nothing of it.
        """
        await self.reader.open()
        if self.reader.sequence == 0:
            self.close()
            raise SessionNotFound(self.session)
        self.flush()

    def close(self) -> None:
        """Stop serving; feeds that are left are cut and resume elsewhere."""
        self.closed = True
        self.reader.close()
        for client in list(self._clients):
            if client.feed is not None:
                client.feed.cut()

    def _on_reset(self, lost: PositionLost) -> None:
        self._say_all("reset", {"reason": lost.reason, "detail": str(lost)})
        self.close()

    def _say_all(self, name: str, body: object) -> None:
        for client in list(self._clients):
            if client.feed is not None:
                client.feed.send(control(name, body, form=client.selection.form))

    @property
    def position(self) -> Position:
        """Where the channel stands."""
        return self.reader.position

    @property
    def size(self) -> int:
        """Bytes of frames in memory."""
        return self._bytes

    @property
    def clients(self) -> int:
        """Feeds of this session."""
        return len(self._clients)

    # -- events come --------------------------------------------------------------------------------------------

    def _take(self, entries: list[Entry]) -> None:
        if not self._fresh and self.reader.live:
            asyncio.get_running_loop().call_soon(self.flush)
        for entry in entries:
            self.fold.apply(entry.event)
            frame = Frame(self.reader.epoch, entry)
            self._first = self._first or frame.sequence
            if entry.message.rollup:
                self._compact(frame.subject)
            self._frames[frame.sequence] = frame
            self._order.append(frame.sequence)
            self._of.setdefault(frame.subject, []).append(frame.sequence)
            self._bytes += len(frame.sse)
            self._fresh.append(frame)
        if self._bytes > TAIL_BYTES:
            self._trim()

    def _compact(self, subject: str) -> None:
        """Drop what a roll-up replaces, as the broker does."""
        for sequence in self._of.pop(subject, ()):
            old = self._frames.pop(sequence, None)
            if old is not None:
                self._bytes -= len(old.sse)
        if len(self._order) > 64 and len(self._order) > 2 * len(self._frames):
            self._order = list(self._frames)

    def _trim(self) -> None:
        """Forget the oldest frames; who stands before them reads the log."""
        for sequence in self._order:
            if self._bytes <= TAIL_BYTES * 3 // 4:
                break
            frame = self._frames.pop(sequence, None)
            if frame is not None:
                self._bytes -= len(frame.sse)
                self._floor = sequence
        self._order = list(self._frames)

    def flush(self) -> None:
        """Write what came since the last flush to every client that keeps up."""
        frames, self._fresh = self._fresh, []
        if not frames:
            return
        for selection, group in self._groups.items():
            data = selection.bytes_of(frames)
            if data and len(group):
                skipped = group.write(data)
                self._count(data, len(frames), len(group) - len(skipped))
                for feed in skipped:
                    self._fall_behind(feed, frames[0].sequence - 1)
        if self._clients:
            self.metrics.delivery_latency.observe(_age(frames[0]))
        if self.fold.deleted:
            self._end("deleted")
        elif any(frame.address.kind == "run" for frame in frames):
            self._release_idle()

    def _count(self, data: bytes, events: int, clients: int) -> None:
        self.metrics.events_delivered.inc(events * clients)
        self.metrics.bytes_delivered.inc(len(data) * clients)

    def _fall_behind(self, feed: Feed, cursor: int) -> None:
        client = feed.handler
        if isinstance(client, Client) and client.cursor < 0:
            client.cursor = cursor
            self._behind.add(client)
            self._groups[client.selection].discard(feed)

    def _end(self, name: str) -> None:
        self._say_all(name, {"session": self.session})
        for client in list(self._clients):
            if client.feed is not None:
                client.feed.finish()
        self.close()

    # -- clients come -------------------------------------------------------------------------------------------

    def check(self, after: Position) -> None:
        """Check that a client can go on from a position.

        Raises:
            PositionLost: it cannot.
        """
        if after.epoch != self.reader.epoch:
            raise PositionLost("recreated", f"the log has epoch {self.reader.epoch}, not {after.epoch}")
        if after.sequence > self.reader.sequence:
            raise PositionLost("ahead", f"{after} is beyond the end of the log")
        if 0 < after.sequence < self._first:
            raise PositionLost("too_old", f"what {self.session!r} held at {after} is gone")

    def holds(self, after: int) -> bool:
        """Whether everything after a sequence is in memory."""
        return after >= self._floor

    async def snapshot(self) -> tuple[Position, bytes]:
        """Return the view as JSON and where it stands; the same one for everybody who asks at the same position."""
        position = self.position
        if self._snapshot is None or self._snapshot[0] != position.sequence:
            view = await self.view()
            self._snapshot = (position.sequence, orjson.dumps(view))
        return position, self._snapshot[1]

    async def view(self) -> View:
        """Return the folded view, with what large runs keep in the object store."""
        return await complete(self.fold.view(str(self.position)), self._objects)

    def attach(self, client: Client, feed: Feed, after: int) -> None:
        """Let a client read from a sequence on and then live."""
        self.flush()
        self.idle_since = None
        client.feed = feed
        client.cursor = after
        self._clients.add(client)
        self._behind.add(client)
        self.metrics.clients.inc()
        self.pump(client)

    def pump(self, client: Client) -> None:
        """Write from the client's cursor until it has caught up or its buffer is full."""
        feed = client.feed
        while feed is not None and feed.writable:
            data, cursor, events = self._from(client.cursor, client.selection)
            if cursor == client.cursor:
                self._caught_up(client, feed)
                return
            client.cursor = cursor
            if data:
                self._count(data, events, 1)
                feed.send(data)

    def _from(self, cursor: int, selection: Selection) -> tuple[bytes, int, int]:
        """Return the next piece after a cursor, where it ends, and how many events it has."""
        key = (cursor, self.reader.sequence, selection)
        if self._piece is not None and self._piece[0] == key:
            return self._piece[1]
        frames: list[Frame] = []
        size = 0
        for sequence in self._order[bisect_right(self._order, cursor) :]:
            frame = self._frames.get(sequence)
            if frame is not None:
                frames.append(frame)
                size += len(frame.sse)
                if size >= _PIECE:
                    break
        end = frames[-1].sequence if frames else cursor
        piece = (selection.bytes_of(frames), end, len(frames))
        self._piece = (key, piece)
        return piece

    def _caught_up(self, client: Client, feed: Feed) -> None:
        self.flush()  # to the others: this client has read what is fresh, too
        client.cursor = -1
        self._behind.discard(client)
        group = self._groups.get(client.selection)
        if group is None:
            group = self._groups[client.selection] = Broadcast()
        group.add(feed)
        if client.until_idle:
            self._release_idle()

    def leave(self, client: Client, feed: Feed) -> None:
        """Forget a client."""
        if client not in self._clients:
            return
        self._clients.discard(client)
        self._behind.discard(client)
        group = self._groups.get(client.selection)
        if group is not None:
            group.discard(feed)
            if not len(group):
                del self._groups[client.selection]
        self.metrics.clients.dec()
        if not self._clients:
            self.idle_since = asyncio.get_running_loop().time()

    def _release_idle(self) -> None:
        """End the feeds that wait for the session to come to rest, if it has."""
        waiting = [client for client in self._clients if client.until_idle and client.cursor < 0]
        if not waiting or next(self.fold.waiting(), None) is not None:
            return
        for client in waiting:
            if client.feed is not None:
                done = control("idle", {}, position=str(self.position), form=client.selection.form)
                client.feed.send(done)
                client.feed.finish()

    # -- now and then -------------------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Write a comment to every client that keeps up, so that proxies and dead peers are found out."""
        for selection, group in list(self._groups.items()):
            group.write(HEARTBEAT[selection.form])

    def cut_stuck(self) -> None:
        """Cut the clients that have taken nothing for too long."""
        limit = time.monotonic() - STUCK_SECONDS
        for client in list(self._behind):
            feed = client.feed
            if feed is not None and feed.paused_since is not None and feed.paused_since < limit:
                self._cut(client, feed, "slow")
            elif not self.holds(client.cursor) and feed is not None:
                self._cut(client, feed, "too far behind")

    def _cut(self, client: Client, feed: Feed, reason: str) -> None:
        self.metrics.cuts.labels(reason.replace(" ", "_")).inc()
        feed.send(control("cut", {"reason": reason}, form=client.selection.form))
        feed.cut()


def _age(frame: Frame) -> float:
    """Return the seconds since a frame's event was stored, by this host's clock; never below zero."""
    start = frame.sse.index(b'"time":"') + 8
    stamp = frame.sse[start : frame.sse.index(b'"', start)].decode()
    return max(0.0, time.time() - datetime.fromisoformat(stamp).timestamp())
