"""The durable streams of one process: opened once however many ask, dropped when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Final

from orchestrator_free import contract, logs
from orchestrator_free.durable_streams.keeping import Keeper
from orchestrator_free.durable_streams.life import GRACE_MS, due, milliseconds, must_renew
from orchestrator_free.durable_streams.records import Record
from orchestrator_free.durable_streams.refusals import Refusal, conflict, gone, not_found
from orchestrator_free.durable_streams.requests import DEFAULT_TYPE, Creation, bare_type
from orchestrator_free.durable_streams.stream import Stream, StreamLost
from orchestrator_free.errors import BrokerError
from orchestrator_free.jetstream import Log
from orchestrator_free.jetstream.store import Store

_log = logs.logger("orchestrator_free.durable_streams")

#: a stream is opened again if it is lost meanwhile; each time somebody deleted it
_TRIES: Final = 5
#: a stream that somebody listens to is compared with the leader so often, lest a republished message was lost
_CHECK_SECONDS: Final = 5.0
_TICK_SECONDS: Final = 0.5
_SWEEP_SECONDS: Final = 60.0


class DurableStreams:
    """All of them.

    Attributes:
        opened: the streams that this process has at hand now, by path.
    """

    def __init__(self, log: Log, *, tail_bytes: int, memory_bytes: int, keep_seconds: float) -> None:
        self._log = log
        self._store = Store(log.wire, contract.DURABLE_STREAM)
        self._keeper = Keeper(self._store, log)
        self._tail_bytes = tail_bytes
        self._memory_bytes = memory_bytes
        self._keep_seconds = keep_seconds
        self._opening: dict[str, asyncio.Task[Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.opened: dict[str, Stream] = {}
        log.wire.on_reconnect.append(self._on_reconnect)

    # -- one stream -------------------------------------------------------------------------------------------------

    async def open(self, path: str, *, use: bool = True) -> Stream:
        """Return a stream with all that was stored before this call.

        Args:
            path: below the root.
            use: whether that counts as use, which renews its life.

        Raises:
            Refusal: 404, there is none; 410, it was deleted and is kept for its forks.
            BrokerError: the leader does not tell.
        """
        for _ in range(_TRIES):
            found = self.opened.get(path)
            try:
                if found is None or found.lost:
                    stream = await self._load(path)
                else:
                    stream = found
                    await stream.sync()
            except StreamLost:
                self._drop(path)
                continue
            if await self._expired(stream):
                self._drop(path)
                self._later(self._expire(stream.record))
                raise gone(path) if stream.record.forks else not_found(path)
            stream.used = asyncio.get_running_loop().time()
            if use:
                await self._renew(stream)
            return stream
        raise not_found(path)

    async def near(self, path: str) -> Stream:
        """Return a stream for a write, which will find out itself if it is not as this process knows it.

        Raises:
            Refusal, BrokerError: as `open`.
        """
        found = self.opened.get(path)
        if found is None or found.lost or found.record.ttl is not None or found.due:
            return await self.open(path)
        found.used = asyncio.get_running_loop().time()
        return found

    async def _load(self, path: str) -> Stream:
        task = self._opening.get(path)
        if task is None:
            task = self._opening[path] = asyncio.create_task(self._read(path), name=f"open {path}")
            task.add_done_callback(lambda done: self._loaded(path, done))
        return await asyncio.shield(task)

    def _loaded(self, path: str, done: asyncio.Task[Stream]) -> None:
        self._opening.pop(path, None)
        if not done.cancelled():
            done.exception()  # those who asked have it; they may all have left

    async def _read(self, path: str) -> Stream:
        record, _ = await self._keeper.find(path)
        if record is None or record.status == "deleted":
            raise not_found(path)
        if record.status == "kept":
            raise gone(path)
        stream = Stream(self._store, record, await self._keeper.due(record), self._tail_bytes)
        try:
            await stream.open()
        except BaseException:
            stream.close()
            raise
        if stream.lost:
            stream.close()
            raise StreamLost(f"stream {path!r} was deleted")
        self._drop(path)
        self.opened[path] = stream
        return stream

    def _drop(self, path: str) -> None:
        found = self.opened.pop(path, None)
        if found is not None:
            found.close()

    # -- life -------------------------------------------------------------------------------------------------------

    async def _expired(self, stream: Stream) -> bool:
        """Whether a stream has expired; somebody else may have renewed it."""
        if not stream.due or await self._now() < stream.due:
            return False
        stream.due = await self._keeper.due(stream.record)
        return bool(stream.due) and await self._now() >= stream.due

    async def _now(self) -> int:
        return milliseconds(await self._log.clock())

    async def _renew(self, stream: Stream) -> None:
        if stream.record.ttl is None:
            return
        now = await self._now()
        if must_renew(stream.record, stream.due, now):
            stream.due = due(stream.record, now)
            await self._keeper.write_due(stream.record, stream.due)

    async def _expire(self, record: Record) -> None:
        """Take a stream away whose time is over."""
        now = await self._now()
        if await self._keeper.due(record) + GRACE_MS > now:
            return
        found, sequence = await self._keeper.find(record.path)
        if found is not None and found.id == record.id and found.status == "live":
            await self._keeper.remove(found, sequence)

    # -- making and taking away ---------------------------------------------------------------------------------------

    async def create(self, path: str, wanted: Creation, body: bytes) -> tuple[Stream, bool]:
        """Create a stream unless it is there as it is wanted; return it, and whether it is new.

        Raises:
            Refusal: as the protocol has it.
            TooLarge, StorageFull, BrokerError: it could not be stored.
        """
        while True:
            record, sequence = await self._keeper.find(path)
            if record is not None and record.status == "kept":
                raise _blocked(path)
            if record is not None and record.status == "live":
                stream = await self._present(record, sequence)
                if stream is None:
                    continue
                _compare(stream, wanted)
                await self._renew(stream)
                return stream, False
            if await self._keeper.create(path, wanted, body, await self._source(wanted), sequence):
                self._drop(path)
                return await self.open(path, use=False), True

    async def _present(self, record: Record, sequence: int) -> Stream | None:
        """Return the stream that a path stands for; None if it has expired, and is taken away now."""
        try:
            return await self.open(record.path, use=False)
        except Refusal as refusal:
            if refusal.status == 410:
                raise _blocked(record.path) from None
            await self._keeper.remove(record, sequence)
            return None

    async def _source(self, wanted: Creation) -> Stream | None:
        """Return the stream that a fork is of, at its present tail."""
        if wanted.source is None:
            return None
        try:
            return await self.open(wanted.source, use=False)
        except Refusal as refusal:
            if refusal.status == 410:
                raise conflict("Source gone", f"the source {wanted.source!r} was deleted") from None
            raise

    async def delete(self, path: str) -> None:
        """Delete a stream; one that has forks is kept for them.

        Raises:
            Refusal: 404, there is none; 410, it was deleted before.
        """
        while True:
            await self.open(path, use=False)
            record, sequence = await self._keeper.find(path)
            if record is not None and record.status == "live" and await self._keeper.remove(record, sequence):
                self._drop(path)
                return

    # -- housekeeping -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep house until cancelled: streams that nobody asks for, republished messages that were lost, expiry."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                self._forget()
                await asyncio.gather(*(self._look_after(one) for one in list(self.opened.values()) if one.watched))
                if loop.time() > swept + _SWEEP_SECONDS:
                    swept = loop.time()
                    await self.sweep()
            except BrokerError as error:
                _log.debug("the broker is away; housekeeping goes on later", error=str(error))
            except Exception:
                _log.exception("housekeeping of durable streams failed")

    def _forget(self) -> None:
        """Drop what nobody uses; the longest unused ones at once where memory is short."""
        now = asyncio.get_running_loop().time()
        size = sum(stream.tail.size for stream in self.opened.values())
        for path, stream in sorted(self.opened.items(), key=lambda item: item[1].used):
            idle = not stream.watched and now - stream.used > self._keep_seconds
            if stream.lost or idle or (size > self._memory_bytes and not stream.watched):
                size -= stream.tail.size
                self._drop(path)

    async def _look_after(self, stream: Stream) -> None:
        """Keep a stream alive that somebody reads, and its replica right."""
        if stream.record.ttl is not None:
            with contextlib.suppress(BrokerError):
                await self._renew(stream)
        if stream.synced + _CHECK_SECONDS < asyncio.get_running_loop().time():
            await self._check(stream)

    async def _check(self, stream: Stream) -> None:
        try:
            await stream.sync()
        except StreamLost:
            pass
        except BrokerError as error:
            _log.debug("a stream cannot be compared with the leader now", path=stream.record.path, error=str(error))

    def _on_reconnect(self) -> None:
        for stream in self.opened.values():
            self._later(self._check(stream))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("what was to be done later failed; the next sweep does it", error=repr(error))

    async def sweep(self) -> None:
        """Take away what has expired, and what is left of streams that were deleted in a crash."""
        now = await self._now()
        async for path, id, moment in self._keeper.expiring():
            if moment + GRACE_MS < now:
                record, sequence = await self._keeper.find(path)
                if record is None or record.id != id or record.status == "deleted":
                    await self._keeper.reclaim(id)
                elif record.status == "live":
                    await self._keeper.remove(record, sequence)

    def close(self) -> None:
        """Let go of all streams."""
        self._log.wire.on_reconnect.remove(self._on_reconnect)
        for task in self._tasks:
            task.cancel()
        for path in list(self.opened):
            self._drop(path)


def _blocked(path: str) -> Refusal:
    return conflict("Path in use", f"stream {path!r} was deleted and is kept for its forks; delete them first")


def _compare(stream: Stream, wanted: Creation) -> None:
    """Check that a stream is what a PUT asks for.

    Raises:
        Refusal: 409, it is not; says where.
    """
    record = stream.record
    forked = wanted.source is not None
    same = {
        "Content-Type": (bare_type(wanted.content_type) or bare_type(record.content_type if forked else DEFAULT_TYPE))
        == bare_type(record.content_type),
        "Stream-TTL": wanted.ttl == record.ttl or (forked and wanted.ttl is None and wanted.expires is None),
        "Stream-Expires-At": wanted.expires == record.expires or (forked and wanted.ttl is None and not wanted.expires),
        "Stream-Closed": wanted.closed == stream.head.closed,
        "Stream-Forked-From": (wanted.source or "") == record.source,
        "Stream-Fork-Offset": wanted.at is None or wanted.at == record.at,
        "Stream-Fork-Sub-Offset": wanted.sub == record.sub,
    }
    different = [name for name, equal in same.items() if not equal]
    if different:
        raise conflict("Stream exists", f"stream {record.path!r} exists with another {', '.join(different)}")
