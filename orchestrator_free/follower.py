"""A session's events for one consumer in this process, at the consumer's own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from orchestrator_free.errors import PositionLost
from orchestrator_free.jetstream import Log
from orchestrator_free.reader import Entry, Reader
from orchestrator_free.subjects import Position

#: a follower that is slower than its session lets the log wait for it beyond this many events
_BUFFER: Final = 10_000


class Follower:
    """A reader behind a bounded buffer: a slow consumer makes the log wait, nothing is dropped."""

    def __init__(self, log: Log, session: str, after: Position | None, *, compact: bool) -> None:
        self._log = log
        self._session = session
        self._after = after
        self._compact = compact
        self._entries: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._lost: PositionLost | None = None
        self._reader: Reader | None = None

    async def __aenter__(self) -> Follower:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _open(self) -> None:
        self._reader = Reader(self._log, self._session, self._take, self._on_reset)
        await self._reader.open(self._after, compact=self._compact)

    def _on_reset(self, lost: PositionLost) -> None:
        self._lost = lost
        self._wake.set()

    def _take(self, entries: list[Entry]) -> None:
        self._entries.extend(entries)
        self._wake.set()
        reader = self._reader
        if len(self._entries) > _BUFFER and reader is not None and reader.live:
            self._close()  # the log waits: opened again where the consumer stands, once it has read what is here

    async def __aiter__(self) -> AsyncIterator[Entry]:
        while True:
            while self._entries:
                entry = self._entries.popleft()
                self._after = Position(self._log.epoch(self._log.shard(self._session)), entry.message.sequence)
                yield entry
            if self._lost is not None:
                raise self._lost
            if self._reader is None:
                await self._open()
                continue
            self._wake.clear()
            if not self._entries and self._lost is None:
                await self._wake.wait()
