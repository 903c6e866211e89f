"""One durable stream as this process knows it: a replica of its head, its newest messages, and its writer.

What the broker republishes keeps it near the present; whoever has to be right asks the leader first (`sync`): a replica
of the broker may be behind, and another gateway may have written. Writes are accepted by the broker only over the head
that they were decided on; refusals are decided on a head that was just asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from orchestrator_free import contract, logs
from orchestrator_free.durable_streams.forks import stretches
from orchestrator_free.durable_streams.head import Accepted, Head
from orchestrator_free.durable_streams.records import Mark, Record
from orchestrator_free.durable_streams.requests import Append
from orchestrator_free.durable_streams.tail import Chunk, Gatherer, Tail
from orchestrator_free.durable_streams.writer import Writer
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.jetstream.messages import Message
from orchestrator_free.jetstream.store import Store

_log = logs.logger("orchestrator_free.durable_streams")

#: of one answer of the broker
_PAGE_BYTES: Final = 1024 * 1024
#: producers whose last write is kept in mind
_PRODUCERS: Final = 10_000


class StreamLost(OrchestratorFreeError):  # noqa: N818
    """The stream is not what this process knew: deleted, or made anew."""


class Stream:
    """A durable stream.

    Attributes:
        record: what it is. head: where it stands, as far as this process knows.
        due: when it expires as far as that is written, in milliseconds since 1970; 0 for never.
        lost: it was deleted, or is not what was known; open its path again.
        used, synced: when it was last asked for, and last compared with the leader, in seconds of the loop's clock.
    """

    def __init__(self, store: Store, record: Record, due: int, budget: int) -> None:
        self.record = record
        self.due = due
        self.lost = False
        self.used = self.synced = asyncio.get_running_loop().time()
        self.head = Head(tail=record.base)
        self.tail = Tail(record.base, budget)
        self.store = store
        self._filter = contract.data_filter(record.id)
        self._writer = Writer(self)
        self._listeners: set[Callable[[], None]] = set()
        self._told = False
        self._syncing: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._release = store.hear(self._filter, self._on_live)

    async def open(self) -> None:
        """Read where it stands."""
        last = await self.store.last(self._filter)
        if last is None:
            return
        mark = Mark.find(last.header)
        if mark is None or last.copied:  # somebody else's: what came before has to be read
            await self._read_up(last.sequence)
            return
        self.head.apply(last.sequence, mark)
        self.lost = self.head.gone
        self.tail.clear(self.head.last)

    def close(self) -> None:
        """Let go of it; who listens is told."""
        self.lost = True
        self._release()
        self._tell()

    # -- the present ----------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Take everything that was stored before this call, as the leader has it; calls at the same time share a look.

        Raises:
            BrokerError: the leader does not tell.
            StreamLost: it was deleted.
        """
        if self._syncing is None:
            task = self._syncing = self._look()
        else:  # that one may have asked before our caller's time
            if self._next is None:
                self._next = asyncio.create_task(self._after(self._syncing))
                self._next.add_done_callback(_heard)
            task = self._next
        await asyncio.shield(task)
        if self.lost:
            raise StreamLost(f"stream {self.record.path!r} was deleted")

    def _look(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._ask_leader(), name=f"sync {self.record.path}")
        task.add_done_callback(self._looked)
        return task

    def _looked(self, task: asyncio.Task[None]) -> None:
        if self._syncing is task:
            self._syncing = None
        _heard(task)

    async def _after(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait([before])
        self._next = None
        self._syncing = self._look()
        await self._syncing

    async def _ask_leader(self) -> None:
        self.synced = asyncio.get_running_loop().time()
        last = await self.store.last(self._filter)
        sequence = last.sequence if last else 0
        if sequence < self.head.last:
            self._lose()
        elif last is not None and sequence > self.head.last:
            mark = Mark.find(last.header)
            if mark is not None and not last.copied and (mark.gone or self.head.follows(sequence, mark)):
                self._take(last, mark)
            else:
                await self._read_up(sequence)

    async def _read_up(self, sequence: int) -> None:
        """Take the messages up to one that is stored."""
        while self.head.last < sequence and not self.lost:
            page, _ = await self.store.page(self._filter, after=self.head.last, reach=sequence, size=_PAGE_BYTES)
            if not page:
                return
            for message in page:
                if message.sequence > self.head.last:
                    self._take(message, None if message.copied else Mark.find(message.header))

    def _on_live(self, message: Message) -> None:
        if message.sequence <= self.head.last or self.lost:
            return
        mark = Mark.find(message.header)
        if mark is not None and (mark.gone or self.head.follows(message.sequence, mark)):
            self._take(message, mark)
        elif self._syncing is None:
            self._syncing = self._look()

    def take_own(self, sequence: int, payload: bytes, mark: Mark) -> None:
        """Take a message that this process wrote, unless it has come back already."""
        if sequence > self.head.last:
            self._add(sequence, payload, mark)

    def _take(self, message: Message, mark: Mark | None) -> None:
        if mark is None:  # put there by somebody who may not: it takes a place, and says nothing
            self.head.last = message.sequence
            return
        self._add(message.sequence, message.payload, mark)

    def _add(self, sequence: int, payload: bytes, mark: Mark) -> None:
        if len(self.head.producers) > _PRODUCERS:
            self.head.producers.clear()
        self.head.apply(sequence, mark)
        if mark.gone:
            self._lose()
            return
        if not mark.bare:
            self.tail.add(sequence, payload, more=mark.more)
        if not mark.more and not self._told:
            self._told = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _lose(self) -> None:
        self.lost = True
        self._tell()

    # -- who listens ----------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when there is more, or it is closed or lost; return what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    @property
    def watched(self) -> bool:
        """Whether somebody listens."""
        return bool(self._listeners)

    def _tell(self) -> None:
        self._told = False
        for listener in list(self._listeners):
            listener()

    # -- reading --------------------------------------------------------------------------------------------------

    def recent(self, after: int, size: int) -> Chunk | None:
        """Return about `size` bytes after a sequence from memory; None if they are not there."""
        return self.tail.after(after, size)

    async def read(self, after: int, size: int) -> Chunk:
        """Return about `size` bytes after a sequence, at least one append if there is one up to the known tail."""
        found = self.recent(after, size)
        if found is not None:
            return found
        gathered = Gatherer(after)
        for stretch in stretches(self.record, after):
            at, end = stretch.after, stretch.upto or self.head.last
            while at < end and (gathered.size < size or not gathered.whole):
                page, more = await self.store.page(
                    contract.data_filter(stretch.id), after=at, reach=end, size=min(size, _PAGE_BYTES)
                )
                for message in page:
                    if message.sequence <= end and (gathered.size < size or not gathered.whole):
                        _gather(gathered, message)
                at = page[-1].sequence if page and more else end
            if gathered.size >= size:
                break
        return gathered.chunk()

    # -- writing --------------------------------------------------------------------------------------------------

    async def append(self, append: Append) -> Accepted:
        """Append, or say what became of it.

        Raises:
            Refusal: as the protocol has it.
            StreamLost: the stream was deleted meanwhile.
            BrokerError: it could not be stored, or may be stored and nobody says so.
        """
        return await self._writer.append(append)


def _gather(gathered: Gatherer, message: Message) -> None:
    mark = None if message.copied else Mark.find(message.header)
    if mark is not None and not mark.bare:
        gathered.take(message.sequence, message.payload, more=mark.more)


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # those who waited have it; they may all have left
