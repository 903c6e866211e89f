"""Reading one session: everything in the log once, in order, from any position, and then whatever comes.

The live tail (republished copies, at most once) gives speed, the log gives truth. A reader subscribes live, asks the
leader for the session's last sequence as a barrier, reads the log up to it, and joins the two by sequence. After any
doubt (a hole in a subject's chain, a reconnect, an idle session whose leader knows more) it reads the log again from
where it stands, before anything later is handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from orchestrator_free import logs
from orchestrator_free.errors import BrokerError, BrokerTimeout, PermissionDenied, PositionLost
from orchestrator_free.jetstream import Log, Message
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.reading.entries import Entry, to_event
from orchestrator_free.reading.pace import Pace
from orchestrator_free.reading.table import with_deltas
from orchestrator_free.subjects import LIVE, Position, session_filter

_log = logs.logger("orchestrator_free.reader")

#: a turn of `Pace`: a session is compared with the leader this often, one that is idle for long every fifth time
CHECK_SECONDS: Final = 5.0
#: a live copy may take so long behind its event
_ON_ITS_WAY_SECONDS: Final = 0.1
#: what the live tail may hold while the log is being read; beyond it the log is read again
_HELD: Final = 20_000
_PAGE: Final = 4096
_CAUGHT_UP_SECONDS: Final = 20.0

Sink = Callable[[list[Entry]], None]


async def _always() -> None:
    """There is room."""


class Reader:
    """Hands a session's events to `sink`, in order, each once; runs until closed.

    Attributes:
        sequence: of the last event handed on.
        skipped: stored messages that were no events.
        repairs: how often the log had to be read again.
    """

    def __init__(
        self,
        log: Log,
        session: str,
        sink: Sink,
        on_reset: Callable[[PositionLost], None],
        *,
        room: Callable[[], Awaitable[None]] = _always,
    ) -> None:
        """Prepare; nothing is read before `open`.

        Args:
            log: where to read.
            session: what.
            sink: gets the events; must be quick.
            on_reset: called when the session cannot be followed any further.
            room: awaited before each page of a long read, so that a slow sink holds bounded memory.
        """
        self._log = log
        self._sink = sink
        self._on_reset = on_reset
        self._room = room
        self.session = session
        self.shard = log.shard(session)
        self.epoch = log.epoch(self.shard)
        self.sequence = 0
        self._time = ""
        self.skipped = 0
        self.repairs = 0
        self._filter = session_filter(self.shard, session)
        self._chain: dict[str, int] = {}
        self._held: dict[int, Message] | None = {}
        self._overflow = False
        self._disorder = False
        self._stale = False
        self._verified = 0
        self._pace = Pace()
        self._compared = -1
        self._losses = 0
        self._base = 0
        self._task: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._joined = asyncio.Event()
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def live(self) -> bool:
        """Whether the beginning was read and the tail is followed."""
        return self._task is not None

    @property
    def position(self) -> Position:
        """Where the reader stands."""
        return Position(self.epoch, self.sequence)

    # -- opening ------------------------------------------------------------------------------------------------

    async def open(self, after: Position | None = None, *, compact: bool = True) -> None:
        """Read up to the end of the log and go live; the sink has everything when this returns.

        Args:
            after: where to go on; None for the beginning.
            compact: the beginning by entities (one request for all finished ones) instead of message by message.

        Raises:
            PositionLost: the position is of another epoch, trimmed away, or beyond the log's end.
        """
        self._unsubscribe = self._log.wire.subscribe(LIVE + self._filter, self._on_live)
        self._log.wire.on_disconnect.append(self._on_disconnect)
        self._log.wire.on_reconnect.append(self._hold)
        self._log.on_new_leader.append(self._on_new_leader)
        try:
            info = await self._log.info(self.shard)
            self.epoch = self._log.epoch(self.shard)
            if after is not None and after.epoch != self.epoch:
                raise PositionLost("recreated", f"the log of {self.session!r} has epoch {self.epoch} now")
            if after is None or after.sequence == 0:
                await self._read_beginning(compact=compact)
            else:
                await self._check_position(after, info["state"]["last_seq"])
                self.sequence = after.sequence
                await self._catch_up()
        except BaseException:
            self.close()
            raise
        if LIVE + self._filter in self._log.wire.denied:
            self.close()
            raise PermissionDenied(f"the broker refused the subscription {LIVE + self._filter!r}")
        self._task = asyncio.create_task(self._watch(), name=f"reader {self.session}")

    async def _check_position(self, after: Position, end: int) -> None:
        """Refuse a position that cannot be continued; the leader decides, a replica may just be behind."""
        if after.sequence > end and after.sequence > await self._barrier():
            raise PositionLost("ahead", f"{after} is beyond the end of the log")
        if await self._is_gone(after.sequence):
            raise PositionLost("too_old", f"what {self.session!r} held at {after} is gone")

    async def _is_gone(self, sequence: int) -> bool:
        """Whether the session holds nothing up to a sequence, as the leader has it where a replica finds nothing."""
        if await self._log.table(self.shard, self._filter, up_to=sequence):
            return False
        first = await self._log.first(self.shard, self._filter)
        return first is None or first.sequence > sequence

    async def _read_beginning(self, *, compact: bool) -> None:
        """Read the present state of every entity, and the deltas of runs that are still open."""
        if not compact:
            await self._catch_up()
            return
        barrier = await self._barrier()
        table = await self._until(barrier, lambda: self._log.table(self.shard, self._filter))
        self._splice(await with_deltas(self._log, self.shard, table), table[-1].sequence if table else 0)

    async def _barrier(self) -> int:
        """Return the session's last sequence as the leader has it."""
        return last.sequence if (last := await self._log.last(self.shard, self._filter)) else 0

    async def _until(self, barrier: int, read: Callable[[], Awaitable[list[Message]]]) -> list[Message]:
        """Repeat a read until it has reached the barrier: a replica may lag behind the leader."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _CAUGHT_UP_SECONDS
        while True:
            messages = await read()
            if not barrier or (messages and messages[-1].sequence >= barrier) or self.sequence >= barrier:
                return messages
            if loop.time() > end:
                raise BrokerTimeout(f"session {self.session!r}: a replica stays behind the leader's {barrier}")
            await asyncio.sleep(0.02)
            newest = await self._barrier()
            barrier = min(barrier, newest)  # what stood there may have been purged meanwhile

    async def catch_up(self) -> None:
        """Read up to what the leader has now; for a client that has seen more elsewhere."""
        if self._held is not None:
            await self._joined.wait()  # the log is being read anyway
            return
        self._begin_hold()
        try:
            await self._catch_up()
        except BaseException:
            self._doubt.set()
            raise

    async def _catch_up(self) -> None:
        """Read from where the reader stands, a page at a time, each when there is room for it."""
        if self.live:
            await self._verify()
        barrier = await self._barrier()
        if self.sequence and await self._is_gone(self.sequence):
            raise PositionLost("recreated", f"session {self.session!r} was deleted or trimmed meanwhile")
        while True:
            await self._room()
            start = self.sequence
            page, more = await self._log.page(self.shard, self._filter, after=start, limit=_PAGE)
            if not more:
                break
            self._hand_on(page)
        if (page[-1].sequence if page else start) < barrier:
            page = await self._until(barrier, lambda: self._log.read(self.shard, self._filter, after=start))
        self._splice(page, page[-1].sequence if page else start)

    def _splice(self, messages: list[Message], complete: int) -> None:
        """Hand on what was read and what the live tail brought meanwhile, joined by sequence.

        `complete` is the sequence up to which nothing can be missing; beyond it the live tail is checked.
        """
        merged, self._held = self._held or {}, None
        self._joined.set()
        merged.update((message.sequence, message) for message in messages)
        self._base = self._verified = max(complete, self.sequence)
        self._chain.clear()
        overflow, self._overflow = self._overflow, False
        self._accept([merged[sequence] for sequence in sorted(merged)])
        if overflow or not self._log.wire.connected.is_set():
            self._hold()

    # -- live ---------------------------------------------------------------------------------------------------

    def _on_live(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        message = live_message(subject, payload, header)
        if message is None:
            self.skipped += 1
            return
        if self._held is None:
            self._accept([message])
        elif len(self._held) < _HELD:
            self._held[message.sequence] = message
        else:
            self._overflow = True

    def _accept(self, messages: list[Message]) -> None:
        """Hand messages on as long as each subject's chain has no hole; keep the rest until it is filled."""
        sound: list[Message] = []
        for message in messages:
            known = self._chain.get(message.subject, self._base)
            if message.sequence <= self.sequence:
                self._stale = self._stale or message.previous >= 0
                if message.sequence > known:
                    self._disorder = True
                    self._hold()
                elif message.previous >= 0 and message.time[:-1] > self._time[:-1]:
                    self._hold()  # stored later under a smaller number: of a log that was made anew
                continue
            if message.previous > known:
                self._disorder = self._disorder or message.previous <= self.sequence
                self._missed()
            if self._held is not None:
                self._held[message.sequence] = message
                continue
            self.sequence = message.sequence
            self._chain[message.subject] = message.sequence
            sound.append(message)
        self._hand_on(sound)

    def _hand_on(self, messages: list[Message]) -> None:
        entries: list[Entry] = []
        for message in messages:
            self.sequence = message.sequence
            self._time = message.time
            event = to_event(message)
            if event is None:
                self.skipped += 1
            else:
                entries.append(Entry(message, event))
        if entries:
            self.wake()
            self._sink(entries)

    def _hold(self) -> None:
        """Something may be missing: keep what comes until the log was read again."""
        if self._held is None:
            self._begin_hold()
        self._doubt.set()

    def _begin_hold(self) -> None:
        self._held = {}
        self._joined.clear()

    def _on_disconnect(self) -> None:
        if self._held is None:
            self._begin_hold()

    def _on_new_leader(self, shard: int) -> None:
        """A leader that went may have taken copies with it that nobody got."""
        if shard == self.shard:
            self._hold()

    # -- watching -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Somebody looks or something happens: compare with the log at the next turn, and often from now on."""
        self._pace.wake()

    async def _watch(self) -> None:
        """Repair after doubt; look every few seconds whether to compare with the log."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._doubt.wait()
            try:
                await (self._repair() if self._doubt.is_set() else self._look())
            except PositionLost as lost:
                self._on_reset(lost)
                return
            except BrokerError as error:
                _log.warning("cannot read the log, trying again", session=self.session, error=str(error))
                self._hold()
                await asyncio.sleep(0.5)

    async def _repair(self) -> None:
        """Read the log again from where the reader stands."""
        self.wake()
        self._doubt.clear()
        if self._disorder:
            raise self._out_of_order()
        await self._same_log(0.0)
        self.repairs += 1
        await self._catch_up()

    def _out_of_order(self) -> PositionLost:
        return PositionLost("disorder", f"an event of {self.session!r} was missed and later ones handed on")

    async def _same_log(self, within_seconds: float) -> None:
        if await self._log.epoch_within(self.shard, within_seconds) != self.epoch:
            raise PositionLost("recreated", f"the log of {self.session!r} was made anew")

    async def _look(self) -> None:
        """Compare with the log: the stream at every turn; the session at its turns, if anything was stored since.

        A reader of the shard that missed something makes it everybody's turn.
        """
        await self._same_log(CHECK_SECONDS / 2)
        losses, end = self._log.losses[self.shard], self._log.end(self.shard)
        if losses != self._losses or self._stale:
            self._losses = losses
            self.wake()
        if self._pace.turn() and (end != self._compared or self._stale):
            await self._check(end)

    async def _check(self, end: int) -> None:
        """Compare the end of the session, when that of the stream is given, and what was handed on."""
        self._pace.compared()
        stale, self._stale = self._stale, False
        last = await self._barrier()
        if last > self.sequence:
            await asyncio.sleep(_ON_ITS_WAY_SECONDS)
        if last > self.sequence:
            self._missed()
        elif stale:
            self._hold()
        await self._verify()
        if self._verified == self.sequence:
            self._compared = end

    def _missed(self) -> None:
        """A live copy did not come: others of the shard may lack some, too."""
        self._log.losses[self.shard] += 1
        self._hold()

    async def _verify(self) -> None:
        """Make sure that nothing before the place where the reader stands was lost without a trace.

        An entity's only message leaves no hole in a chain; nor does one whose next is read from the log.
        """
        end = self.sequence
        if end == self._verified:
            return
        table = await self._log.table(self.shard, self._filter, after=self._verified, up_to=end)
        if any(message.sequence > self._chain.get(message.subject, self._base) for message in table):
            raise self._out_of_order()
        if table and table[-1].sequence >= end:  # a replica that is behind has not shown everything
            self._verified = end

    def close(self) -> None:
        """Stop: nothing is handed on any more. Safe to call twice.

        Whoever it handed on to is let go: reader and owner refer to one another, and would wait for the collector.
        """
        self._sink, self._on_reset, self._room = lambda _: None, lambda _: None, _always
        self._unsubscribe()
        if self._hold in self._log.wire.on_reconnect:
            self._log.wire.on_disconnect.remove(self._on_disconnect)
            self._log.wire.on_reconnect.remove(self._hold)
            self._log.on_new_leader.remove(self._on_new_leader)
        if self._task is not None:
            self._task.cancel()
            self._task = None
