"""What can be read as a durable stream: a durable stream, or a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from orchestrator_free.durable_streams.offsets import offset_of, sequence_of
from orchestrator_free.durable_streams.stream import Stream
from orchestrator_free.durable_streams.tail import Chunk
from orchestrator_free.gateway.protocols.durable_streams.rendering import form_of


class Source(ABC):
    """Something to read.

    Attributes:
        content_type: of its bytes. form: how they are written into events.
        incarnation: changes when it is made anew: a part of entity tags.
        cacheable: what stands before an offset never changes.
    """

    cacheable = True

    def __init__(self, content_type: str, incarnation: str) -> None:
        self.content_type = content_type
        self.form = form_of(content_type)
        self.incarnation = incarnation

    @property
    @abstractmethod
    def key(self) -> object:
        """What it reads from: readers of the same share their bytes."""

    @property
    @abstractmethod
    def tail(self) -> int:
        """The sequence of its end, as far as this process knows."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether nothing comes after the tail."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether it is gone."""

    @abstractmethod
    def offset(self, sequence: int) -> str:
        """Return a sequence as clients write it."""

    @abstractmethod
    def sequence(self, offset: str) -> int:
        """Return the sequence of an offset.

        Raises:
            OrchestratorFreeError: it is none, or none of this stream.
        """

    @abstractmethod
    def recent(self, after: int, size: int) -> Chunk | None:
        """Return what follows a sequence from memory; None if it is not there."""

    @abstractmethod
    async def read(self, after: int, size: int) -> Chunk:
        """Return what follows a sequence, up to the tail at most."""

    @abstractmethod
    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when there is more, or it is closed or lost; return what ends that."""


class StreamSource(Source):
    """A durable stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.record.content_type, stream.record.id)
        self._stream = stream

    @property
    def key(self) -> object:
        """The stream."""
        return self._stream

    @property
    def tail(self) -> int:
        """Its tail."""
        return self._stream.head.tail

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._stream.head.closed

    @property
    def lost(self) -> bool:
        """Whether it was deleted."""
        return self._stream.lost

    def offset(self, sequence: int) -> str:
        """Return a sequence as an offset."""
        return offset_of(sequence)

    def sequence(self, offset: str) -> int:
        """Return the sequence of an offset."""
        return sequence_of(offset)

    def recent(self, after: int, size: int) -> Chunk | None:
        """Return what follows a sequence from memory."""
        return self._stream.recent(after, size)

    async def read(self, after: int, size: int) -> Chunk:
        """Return what follows a sequence."""
        return await self._stream.read(after, size)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when something changes."""
        return self._stream.listen(listener)
