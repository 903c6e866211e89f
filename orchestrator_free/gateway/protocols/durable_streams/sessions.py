"""A session's log read as a durable stream, in JSON mode.

Offsets are positions. The log is compacted: a reader that stood inside the deltas of a run that has finished since gets
the finished run, which holds them, as every other reader of the session does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from orchestrator_free.durable_streams.json_mode import JSON
from orchestrator_free.durable_streams.offsets import BEGINNING
from orchestrator_free.durable_streams.refusals import malformed
from orchestrator_free.durable_streams.tail import Chunk
from orchestrator_free.gateway.channels.channel import Channel
from orchestrator_free.gateway.channels.frames import Frame
from orchestrator_free.gateway.channels.history import History
from orchestrator_free.gateway.protocols.durable_streams.source import Source
from orchestrator_free.jetstream import Log
from orchestrator_free.subjects import Position

_DIGITS: Final = 16


class SessionSource(Source):
    """A session that this gateway serves."""

    cacheable = False  # what was compacted is gone from where it stood

    def __init__(self, log: Log, channel: Channel) -> None:
        super().__init__(JSON, channel.reader.epoch)
        self._channel = channel
        self._history = History(log, channel.reader)

    @property
    def key(self) -> object:
        """The channel."""
        return self._channel

    @property
    def tail(self) -> int:
        """Up to where the channel has read."""
        return self._channel.reader.sequence

    @property
    def closed(self) -> bool:
        """A session can always go on."""
        return False

    @property
    def lost(self) -> bool:
        """Whether the session was deleted, or its log is another one."""
        return self._channel.closed

    def offset(self, sequence: int) -> str:
        """Return a sequence as an offset: the position, its number padded so that offsets sort as text."""
        return f"{self.incarnation}_{sequence:0{_DIGITS}d}"

    def sequence(self, offset: str) -> int:
        """Return the sequence of an offset.

        Raises:
            Refusal: 400, it is none.
            PositionLost: the log does not have that place any more.
        """
        if offset == BEGINNING:
            return 0
        epoch, _, digits = offset.rpartition("_")
        if not epoch.isalnum() or len(digits) != _DIGITS or not (digits.isascii() and digits.isdecimal()):
            raise malformed(f"offset={offset[:60]!r} is no offset; use -1, now, or what Stream-Next-Offset said")
        self._channel.check(Position(epoch, int(digits)))
        return int(digits)

    def recent(self, after: int, size: int) -> Chunk | None:
        """Return what follows a sequence from the channel's memory."""
        if not self._channel.tail.holds(after):
            return None
        frames = self._channel.tail.after(after, size)
        # Behind the last frame nothing is left that is not compacted: the channel's own place is the end.
        whole = sum(len(frame.sse) for frame in frames) < size
        return self._chunk(after, frames, self.tail if whole else frames[-1].sequence)

    async def read(self, after: int, size: int) -> Chunk:
        """Return what follows a sequence, from memory or from the log."""
        frames: list[Frame] = []
        end = after
        while end < self.tail and sum(len(frame.sse) for frame in frames) < size:
            found = self.recent(end, size)
            if found is not None:
                return Chunk(after, found.end, (*self._chunk(after, frames, end).payloads, *found.payloads))
            page, end = await self._history.page(end)
            frames += page
        return self._chunk(after, frames, end)

    def _chunk(self, after: int, frames: Sequence[Frame], end: int) -> Chunk:
        return Chunk(after, end, tuple(frame.ndjson[:-1] for frame in frames))

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when the session goes on."""
        return self._channel.listen(listener)
