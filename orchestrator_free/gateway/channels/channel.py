"""One session in one gateway: a reader, its fold, the compacted log as frames, and the clients.

An event is parsed, folded and encoded once, however many clients there are; all of one loop tick leave in one write
per client. A client that cannot keep up leaves the crowd with a cursor and comes back when its buffer has drained; it
costs its buffer and a number, never a queue. What is older than the memory is read from the log, as fast as the client
takes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from orchestrator_free import logs
from orchestrator_free.errors import BrokerError, BrokerTimeout, PositionLost, SessionNotFound
from orchestrator_free.fold import Fold
from orchestrator_free.gateway.channels.attendance import Attendance
from orchestrator_free.gateway.channels.client import Client
from orchestrator_free.gateway.channels.firsts import Firsts
from orchestrator_free.gateway.channels.frames import HEARTBEAT, Frame, Selection, control
from orchestrator_free.gateway.channels.history import History
from orchestrator_free.gateway.channels.lens import Lenses, seen
from orchestrator_free.gateway.channels.pieces import Piece, Pieces
from orchestrator_free.gateway.channels.snapshot import Snapshots
from orchestrator_free.gateway.channels.tail import Tail
from orchestrator_free.gateway.connections.transport import Broadcast, Feed
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.jetstream import Log, Objects
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.subjects import Position, session_filter

_log = logs.logger("orchestrator_free.gateway")

#: kinds of entity after which nothing may be open or waiting any more
_MAY_END: Final = frozenset({"run", "meta", "ctl", "outcome"})
#: of the log is read more at a time the longer a client takes it without a pause
_FIRST_PAGE_BYTES: Final = 128 * 1024
_PAGE_BYTES: Final = 1024 * 1024
_REACH_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 0.5


class Channel:
    """A session that this gateway serves.

    Attributes:
        idle_since: loop time since when it has no client; None while it has one.
        closed: it serves nobody any more; open another.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        session: str,
        metrics: GatewayMetrics,
        settings: GatewaySettings,
        on_lost: Callable[[Channel, PositionLost], object],
        attendance: Attendance,
    ) -> None:
        """Prepare.

        Args:
            log: where the session is read.
            objects: where its large runs are.
            session: its id.
            metrics: what is counted.
            settings: what it may cost.
            on_lost: called when the log cannot be continued; the channel has closed, its clients wait for `release`.
            attendance: hears which clients come and leave.
        """
        self.session = session
        self.metrics = metrics
        self.reader = Reader(log, session, self._take, self._on_reset)
        self.fold = Fold(session)
        self._firsts = Firsts(self.fold, metrics)
        self.tail, self.closed = Tail(settings.tail_bytes), False
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self._log, self._settings = log, settings
        self._on_lost, self.attendance = on_lost, attendance
        self._history = History(log, self.reader)
        self._fresh: list[Frame] = []
        self._groups: dict[Selection, Broadcast] = {}
        self._clients: set[Client] = set()
        self._behind: set[Client] = set()
        self._listeners: set[Callable[[], object]] = set()
        self._pieces, self._snapshots, self.lenses = Pieces(self.tail), Snapshots(objects), Lenses(log, objects)

    @property
    def position(self) -> Position:
        """Where the channel stands."""
        return self.reader.position

    # -- opening and closing ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the session.

        Raises:
            SessionNotFound: the log holds nothing of it, or its deletion.
        """
        await self.reader.open()
        if self.reader.sequence == 0 or self.fold.deleted:
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
        self._tell_listeners()

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` when the fold has changed, and when the channel has closed; return what ends that."""
        self._listeners.add(listener)
        self.idle_since = None

        def leave() -> None:
            self._listeners.discard(listener)
            self._rest()

        return leave

    def _rest(self) -> None:
        """Note since when nobody looks."""
        if not self._clients and not self._listeners:
            self.idle_since = asyncio.get_running_loop().time()

    def release(self) -> list[Client]:
        """Let go of the clients, so that another channel can take them."""
        for client in (clients := [client for client in self._clients if client.feed is not None]):
            self._forget(client)
        return clients

    def _tell_listeners(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _on_reset(self, lost: PositionLost) -> None:
        self.closed = True
        self.reader.close()
        self._tell_listeners()
        self._on_lost(self, lost)

    def say(self, name: str, body: object) -> None:
        """Write a control frame to every client."""
        for client in list(self._clients):
            if client.feed is not None:
                client.feed.send(control(name, body, form=client.selection.form))

    # -- events come --------------------------------------------------------------------------------------------

    def _take(self, entries: list[Entry]) -> None:
        if not self._fresh and self.reader.live:
            asyncio.get_running_loop().call_soon(self.flush)
        for entry in entries:
            self.fold.apply(entry.event)
            self._firsts.note(entry)
            frame = Frame(self.reader.epoch, entry)
            self.tail.add(frame, rollup=entry.message.rollup)
            self._fresh.append(frame)
        self.lenses.take(entries)
        self.tail.trim()

    def flush(self) -> None:
        """Write what came since the last flush to every client that keeps up."""
        frames, self._fresh = self._fresh, []
        if not frames:
            return
        for selection, group in list(self._groups.items()):
            chosen = selection.choose(frames)
            if chosen and len(group):
                data = selection.encode(chosen)
                skipped = group.write(data)
                self._count(len(data), len(chosen), len(group) - len(skipped))
                for feed in skipped:
                    self._fall_behind(feed, frames[0].sequence - 1)
        self._tell_listeners()
        self._firsts.written(len(self._clients))
        if self._clients:
            self.metrics.delivery_latency.observe(frames[0].age())
        if self.fold.deleted:
            self._end("deleted")
        elif any(frame.address.kind in _MAY_END for frame in frames):
            self._release_idle()

    def _count(self, size: int, events: int, clients: int) -> None:
        self.metrics.events_delivered.inc(events * clients)
        self.metrics.bytes_delivered.inc(size * clients)

    def _fall_behind(self, feed: Feed, cursor: int) -> None:
        client = feed.handler
        if isinstance(client, Client) and client.cursor < 0:
            client.cursor = cursor
            self._behind.add(client)
            self._groups[client.selection].discard(feed)

    def _end(self, name: str) -> None:
        self.say(name, {"session": self.session})
        for client in list(self._clients):
            if client.feed is not None:
                client.feed.finish()
        self.close()

    # -- clients come -------------------------------------------------------------------------------------------

    async def reach(self, sequence: int | None = None) -> None:
        """Read up to a sequence that a client has seen at another gateway, or up to the end, as the leader has it.

        Raises:
            BrokerError: that could not be read.
        """
        reader = self.reader
        if sequence is not None and reader.sequence >= sequence:
            return
        last = await self._log.last(reader.shard, session_filter(reader.shard, self.session))
        end = last.sequence if last else 0
        wanted = end if sequence is None else min(sequence, end)
        if reader.sequence < wanted:
            await reader.catch_up()
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                while reader.sequence < wanted:  # noqa: ASYNC110 - a repair is under way, which tells nobody
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise BrokerTimeout(f"this gateway has not read {self.session!r} up to {wanted} yet; try again") from None

    def check(self, after: Position) -> None:
        """Check that a client can go on from a position, as far as the memory tells.

        Raises:
            PositionLost: it cannot.
        """
        if after.epoch != self.reader.epoch:
            raise PositionLost("recreated", f"the log has epoch {self.reader.epoch}, not {after.epoch}")
        if after.sequence > self.reader.sequence:
            raise PositionLost("ahead", f"{after} is beyond the end of the log")
        if 0 < after.sequence < self.tail.first:
            raise PositionLost("too_old", f"what {self.session!r} held at {after} is gone")

    async def snapshot(self) -> tuple[Position, bytes]:
        """Return the view as JSON and where it stands; the same one for everybody who asks at the same position."""
        position = self.position
        return position, await self._snapshots.take(self.fold, position)

    async def beginning(self, selection: Selection) -> tuple[Position, bytes]:
        """Return where a client can begin, and the framed snapshot that brings it there; raises BrokerError."""
        position, view = await (await seen(self, selection.sees)).snapshot()
        return position, self._pieces.snapshot(position, view, selection)

    def attach(self, client: Client, feed: Feed, after: int) -> None:
        """Let a client read from a sequence on and then live."""
        if self.closed:
            feed.cut()  # since the client asked; it comes again and finds another channel, or none
            return
        self.flush()
        self.reader.wake()
        self.idle_since = None
        client.channel, client.feed, client.cursor = self, feed, after
        self._clients.add(client)
        self._behind.add(client)
        self.metrics.clients.inc()
        self.attendance.came(self, client)
        self.pump(client)

    async def restart(self, client: Client, lost: PositionLost) -> None:
        """Take a client that cannot go on from where it stood: say so, and give it a snapshot."""
        feed, form = client.feed, client.selection.form
        if feed is None:
            return
        reset = control("reset", {"reason": lost.reason, "detail": str(lost)}, form=form)
        self.metrics.resumes.labels("reset").inc()
        try:
            position, snapshot = await self.beginning(client.selection)
        except BrokerError:
            feed.send(reset)
            feed.cut()
            return
        if not feed.closed:
            feed.send(reset)
            feed.send_framed(snapshot)
            self.attach(client, feed, position.sequence)

    def pump(self, client: Client) -> None:
        """Write from the client's cursor until it has caught up or its buffer is full."""
        feed = client.feed
        while feed is not None and feed.writable and not self.closed:
            if not self.tail.holds(client.cursor):
                if client.reading is None:
                    client.reading = asyncio.create_task(self._read_log(client, feed), name=f"log {self.session}")
                return
            if client.cursor >= self.tail.newest:
                self._caught_up(client, feed)
                return
            self._write(client, feed, self._pieces.after(client.cursor, client.selection))

    def _write(self, client: Client, feed: Feed, piece: Piece) -> None:
        client.cursor = piece.end
        self._count(len(piece.framed), piece.events, 1)
        feed.send_framed(piece.framed)

    async def _read_log(self, client: Client, feed: Feed) -> None:
        """Write pages of the log until the memory can go on, or the client's buffer is full."""
        size = _FIRST_PAGE_BYTES
        try:
            while feed.writable and not self.closed and not self.tail.holds(client.cursor):
                await self._write_page(client, feed, size)
                size = min(2 * size, _PAGE_BYTES)
        except PositionLost as lost:
            self.leave(client, feed)
            await self.restart(client, lost)
        except Exception:
            _log.exception("reading the log for a client failed", session=self.session)
            feed.cut()
        finally:
            client.reading = None
        if client.cursor >= 0:
            client.channel.pump(client)

    async def _write_page(self, client: Client, feed: Feed, size: int) -> None:
        try:
            frames, end = await self._history.page(client.cursor, size)
        except BrokerError as error:
            _log.warning("cannot read the log, trying again", session=self.session, error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)
            return
        for piece in self._pieces.cut(frames, end, client.selection):
            if not feed.writable:
                return  # what is left of the page is read again when the client has room
            self._write(client, feed, piece)

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
        """Forget a client that has gone."""
        if client in self._clients:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        self._clients.discard(client)
        self._behind.discard(client)
        group = self._groups.get(client.selection)
        if group is not None and client.feed is not None:
            group.discard(client.feed)
            if not len(group):
                del self._groups[client.selection]
        self.metrics.clients.dec()
        self.attendance.left(self.session, client)
        self._rest()

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
        self.flush()
        for selection, group in list(self._groups.items()):
            for feed in group.write(HEARTBEAT[selection.form]):
                self._fall_behind(feed, self.reader.sequence)

    def sweep(self) -> None:
        """Cut the clients that have taken nothing for too long; keep no pieces that nobody waits for."""
        self._pieces.forget()
        limit = time.monotonic() - self._settings.stuck_seconds
        for client in list(self._behind):
            feed = client.feed
            if feed is not None and not feed.closed and feed.paused_since is not None and feed.paused_since < limit:
                self.metrics.cuts.labels("slow").inc()
                feed.send(control("cut", {"reason": "slow"}, form=client.selection.form))
                feed.cut()
