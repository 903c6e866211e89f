"""What a session's log holds before the frames in memory: read in pages, each once for all who ask at a time."""

from __future__ import annotations

import asyncio
from typing import Final

from orchestrator_free.errors import PositionLost
from orchestrator_free.gateway.channels.frames import Frame
from orchestrator_free.jetstream import Log, Message
from orchestrator_free.reading.entries import Entry, to_event
from orchestrator_free.reading.reader import Reader
from orchestrator_free.subjects import session_filter

_PAGE: Final = 512
_PAGE_BYTES: Final = 1024 * 1024
#: a replica that lags is asked again after this long
_AGAIN_SECONDS: Final = 0.05

Page = tuple[list[Frame], int]


class History:
    """The log behind a reader."""

    def __init__(self, log: Log, reader: Reader) -> None:
        self._log = log
        self._reader = reader
        self._filter = session_filter(reader.shard, reader.session)
        self._asked: dict[tuple[int, int], asyncio.Task[Page]] = {}

    async def page(self, after: int, size: int = _PAGE_BYTES) -> Page:
        """Return the next frames after a sequence, and the sequence up to which nothing is missing then.

        About `size` bytes of them.

        Never beyond where the reader stands: what comes later is brought live.

        Raises:
            PositionLost: the log does not reach back that far any more.
            BrokerError: it cannot be read now.
        """
        asked = (after, size)
        task = self._asked.get(asked)
        if task is None:
            task = self._asked[asked] = asyncio.create_task(self._read(*asked), name=f"page {self._reader.session}")
            task.add_done_callback(lambda _: self._asked.pop(asked, None))
        return await asyncio.shield(task)

    async def _read(self, after: int, size: int) -> Page:
        shard, known = self._reader.shard, self._reader.sequence
        messages, more = await self._log.page(shard, self._filter, after=after, limit=_PAGE, size=size)
        first = await self._log.first(shard, self._filter)
        if after and (first is None or first.sequence > after):
            raise PositionLost("too_old", f"what {self._reader.session!r} held at {after} is gone")
        end = messages[-1].sequence if messages else after
        if not more and await self._is_last(end):
            end = max(end, known)
        elif end == after:
            await asyncio.sleep(_AGAIN_SECONDS)
        end = min(end, self._reader.sequence)
        return [frame for message in messages if message.sequence <= end and (frame := self._frame(message))], end

    async def _is_last(self, sequence: int) -> bool:
        """Whether the leader has nothing after a sequence; the replica that was read may lag."""
        last = await self._log.last(self._reader.shard, self._filter)
        return last is None or last.sequence <= sequence

    def _frame(self, message: Message) -> Frame | None:
        event = to_event(message)
        return None if event is None else Frame(self._reader.epoch, Entry(message, event))
