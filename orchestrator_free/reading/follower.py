"""A session's events for one consumer in this process, at the consumer's own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from orchestrator_free.errors import PositionLost, SessionNotFound
from orchestrator_free.events import Event
from orchestrator_free.jetstream import Log
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.subjects import Position

#: a follower that is slower than its session lets the log wait for it beyond this many events, or bytes of payload
_BUFFER: Final = 10_000
_BUFFER_BYTES: Final = 16 * 1024 * 1024


class Follower:
    """A reader behind a bounded buffer: a slow consumer makes the log wait, nothing is dropped."""

    def __init__(self, log: Log, session: str, after: Position | None, *, compact: bool) -> None:
        self._log = log
        self._session = session
        self._after = after
        self._compact = compact
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._epoch = ""
        self._lost: PositionLost | None = None
        self._reader: Reader | None = None
        self._opening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Follower:
        self._open()
        await self._wake.wait()
        if not self._entries:
            self._raise_trouble()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _open(self) -> None:
        """Begin to read; a long history comes by and by, as the consumer makes room."""
        self._reader = Reader(self._log, self._session, self._take, self._on_reset, room=self._room)
        self._opening = asyncio.create_task(self._reader.open(self._after, compact=self._compact))
        self._opening.add_done_callback(lambda _: self._wake.set())

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        if reader is not None:
            reader.close()

    def _on_reset(self, lost: PositionLost) -> None:
        self._lost = lost
        self._wake.set()

    @property
    def _full(self) -> bool:
        return len(self._entries) > _BUFFER or self._bytes > _BUFFER_BYTES

    async def _room(self) -> None:
        """Wait until the consumer has read what is here."""
        while self._full:
            self._drained.clear()
            await self._drained.wait()

    def _take(self, entries: list[Entry]) -> None:
        self._entries.extend(entries)
        self._bytes += sum(len(entry.message.payload) for entry in entries)
        self._wake.set()
        reader = self._reader
        self._epoch = reader.epoch if reader is not None else self._epoch
        if self._full and reader is not None and reader.live:
            self._close()  # the log waits: opened again where the consumer stands, once it has read what is here

    def _raise_trouble(self) -> None:
        opening = self._opening
        if opening is not None and opening.done() and not opening.cancelled() and (error := opening.exception()):
            raise error
        if self._lost is not None:
            raise self._lost

    async def __aiter__(self) -> AsyncIterator[Entry]:
        while True:
            while self._entries:
                entry = self._entries.popleft()
                self._bytes -= len(entry.message.payload)
                self._after = Position(self._epoch, entry.message.sequence)
                yield entry
            self._drained.set()
            self._raise_trouble()
            if self._reader is None:
                self._open()
            self._wake.clear()
            if not self._entries:
                await self._wake.wait()


async def until_deleted(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Hand on a session's events for one who waits for something in them.

    Raises:
        SessionNotFound: the session is deleted, so it will not come.
    """
    async for event in events:
        if event.type == "session.deleted":
            raise SessionNotFound(event.session)
        yield event
