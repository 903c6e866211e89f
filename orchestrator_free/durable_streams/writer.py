"""The writer of a stream: one write is under way; what comes meanwhile leaves together with the next one.

All of a write is stored or nothing, over the head it was decided on. So the state of producers, the writer's sequence,
the closing and the bytes are one, whatever crashes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator_free import contract
from orchestrator_free.durable_streams.head import Accepted, Head, decide, payload_of
from orchestrator_free.durable_streams.records import FIELD, Mark
from orchestrator_free.durable_streams.refusals import Refusal
from orchestrator_free.durable_streams.requests import Append
from orchestrator_free.errors import Conflict
from orchestrator_free.jetstream.batch import BATCH_MESSAGES, Write

if TYPE_CHECKING:
    from orchestrator_free.durable_streams.stream import Stream

#: of the broker's largest message, for headers
_HEADER_BYTES: Final = 4096
#: a write takes no further append beyond these
_TOGETHER: Final = 256
_TOGETHER_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    payload: bytes
    done: asyncio.Future[Accepted]

    def settle(self, result: Accepted | BaseException) -> None:
        if self.done.done():
            return
        if isinstance(result, BaseException):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


@dataclass(slots=True)
class _Plan:
    """A write in the making: which appends it has, and their messages."""

    head: Head
    appends: list[tuple[_Waiting, int]]
    messages: list[tuple[str, bytes, Mark]]
    size: int = 0


def pieces(payload: bytes, limit: int) -> list[bytes]:
    """Cut bytes so that each piece fits into a message; one empty piece for no bytes."""
    return [payload[start : start + limit] for start in range(0, len(payload), limit)] or [b""]


def room(max_payload: int) -> int:
    """Return how many bytes of a body go into one message."""
    return max(1024, max_payload - _HEADER_BYTES)


class Writer:
    """Appends to one stream, in the order in which they came."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._queue: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def append(self, append: Append) -> Accepted:
        """Append; see `Stream.append`."""
        try:
            payload = payload_of(append.body, self._stream.record.content_type)
        except Refusal as bad:
            return await self._instead(append, bad)
        waiting = _Waiting(append, payload, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"append {self._stream.record.path}")
        return await waiting.done

    async def _instead(self, append: Append, bad: Refusal) -> Accepted:
        """Answer an append whose body cannot be stored: what is wrong with the rest of it comes first."""
        await self._stream.sync()
        if append.producer and append.producer.id not in self._stream.head.producers:
            await self._learn(append.producer.id)
        found = decide(self._stream.head, append, self._stream.record.content_type)
        if found is None:
            raise bad
        return found

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._round()
        except Exception as error:
            for waiting in self._queue:
                waiting.settle(error)
            self._queue.clear()
        finally:
            self._task = None

    async def _round(self) -> None:
        """Decide on the first who wait, and store what is to be stored."""
        await self._know_producers()
        plan = self._plan()
        if plan.messages:
            await self._store(plan)
            return
        await self._stream.sync()  # a refusal must not come from what was true some time ago
        first = self._queue[0]
        if first.append.producer and first.append.producer.id not in self._stream.head.producers:
            return
        try:
            found: Accepted | Refusal | None = decide(self._stream.head, first.append, self._stream.record.content_type)
        except Refusal as refusal:
            found = refusal
        if found is not None:
            self._queue.popleft()
            first.settle(found)

    async def _know_producers(self) -> None:
        """Learn the last write of every producer that waits."""
        known = self._stream.head.producers
        unknown = {w.append.producer.id for w in self._queue if w.append.producer and w.append.producer.id not in known}
        await asyncio.gather(*(self._learn(id) for id in unknown))

    async def _learn(self, id: str) -> None:
        last = await self._stream.store.last(contract.data_subject(self._stream.record.id, id))
        mark = Mark.find(last.header) if last is not None and not last.copied else None
        self._stream.head.producers[id] = mark.producer if mark is not None else None

    def _plan(self) -> _Plan:
        """Return the write that takes as many of those who wait as go together."""
        stream = self._stream
        producers = {waiting.append.producer.id for waiting in self._queue if waiting.append.producer}
        plan = _Plan(stream.head.copy(producers), [], [])
        for waiting in list(self._queue):
            full = len(plan.appends) >= _TOGETHER or plan.size + len(waiting.payload) > _TOGETHER_BYTES
            if plan.messages and (full or not waiting.payload):
                break
            if waiting.append.producer and waiting.append.producer.id not in plan.head.producers:
                break  # came while we asked for others
            try:
                if decide(plan.head, waiting.append, stream.record.content_type) is not None:
                    break
            except Refusal:
                break
            self._add(plan, waiting)
            if plan.head.closed or len(plan.messages) > BATCH_MESSAGES // 2:
                break
        return plan

    def _add(self, plan: _Plan, waiting: _Waiting) -> None:
        append, head = waiting.append, plan.head
        subject = contract.data_subject(self._stream.record.id, append.producer.id if append.producer else None)
        parts = pieces(waiting.payload, room(self._stream.store.wire.max_payload))
        for number, part in enumerate(parts, 1):
            final = number == len(parts)
            mark = Mark(
                after=None if plan.messages else head.last,
                more=not final,
                bare=not waiting.payload,
                tail=0 if waiting.payload else head.tail,
                closed=append.close and final,
                seq=append.seq or head.seq,
                producer=append.producer,
            )
            plan.messages.append((subject, part, mark))
            head.apply(head.last + 1, mark)
        plan.size += len(waiting.payload)
        plan.appends.append((waiting, len(plan.messages)))

    async def _store(self, plan: _Plan) -> None:
        stream = self._stream
        expect, over = stream.head.last, contract.data_filter(stream.record.id)
        writes = [
            Write(
                subject=subject, payload=payload, fields={FIELD: mark.encode()},
                expect=None if number else expect, over="" if number else over,
            )
            for number, (subject, payload, mark) in enumerate(plan.messages)
        ]  # fmt: skip
        try:
            last = await stream.store.write(writes)
        except Conflict:  # another gateway was first
            await stream.sync()
            return
        except Exception as error:
            self._finish(plan, error)
            return
        first = last - len(writes) + 1
        for number, (_, payload, mark) in enumerate(plan.messages):
            stream.take_own(first + number, payload, mark)
        self._finish(plan, first)

    def _finish(self, plan: _Plan, result: int | Exception) -> None:
        """Answer those whose appends were in a write; `result` is the sequence of its first message, or what failed."""
        for waiting, until in plan.appends:
            self._queue.popleft()
            if isinstance(result, Exception):
                waiting.settle(result)
                continue
            append = waiting.append
            tail = result + until - 1 if waiting.payload else plan.messages[until - 1][2].tail
            waiting.settle(Accepted(tail=tail, closed=append.close, stored=True, producer=append.producer))
