"""What is read of a stream: whole appends, from its newest messages in memory or from pages of the log."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive appends.

    Attributes:
        after: the sequence behind which they begin. end: the last one's sequence; `after` if there are none.
        payloads: the bytes of each.
    """

    after: int
    end: int
    payloads: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Gatherer:
    """Puts the messages of appends together again."""

    after: int
    payloads: list[bytes] = field(default_factory=list)
    end: int = 0
    size: int = 0
    _parts: list[bytes] = field(default_factory=list)

    def take(self, sequence: int, payload: bytes, *, more: bool) -> None:
        """Take the next message that carries bytes."""
        self.size += len(payload)
        self._parts.append(payload)
        if not more:
            self.payloads.append(b"".join(self._parts) if len(self._parts) > 1 else payload)
            self._parts.clear()
            self.end = sequence

    @property
    def whole(self) -> bool:
        """Whether the last append has been taken to its end."""
        return not self._parts

    def chunk(self) -> Chunk:
        """Return what was gathered, without an append that is not whole."""
        return Chunk(self.after, self.end or self.after, tuple(self.payloads))


class Tail:
    """The newest messages of a stream within a budget.

    Attributes:
        floor: everything after this sequence is here.
        size: bytes of it.
    """

    def __init__(self, floor: int, budget: int) -> None:
        self.floor = floor
        self.size = 0
        self._budget = budget
        self._sequences: list[int] = []
        self._messages: list[tuple[bytes, bool]] = []

    def add(self, sequence: int, payload: bytes, *, more: bool) -> None:
        """Add the next message that carries bytes."""
        self._sequences.append(sequence)
        self._messages.append((payload, more))
        self.size += len(payload)
        if self.size > self._budget and not more:
            self._trim()

    def _trim(self) -> None:
        """Forget the oldest appends until a quarter is free."""
        cut, size = 0, self.size
        for number, (payload, more) in enumerate(self._messages, 1):
            size -= len(payload)
            if not more:
                cut, self.size = number, size
                if size <= self._budget * 3 // 4:
                    break
        self.floor = self._sequences[cut - 1]
        del self._sequences[:cut], self._messages[:cut]

    def clear(self, floor: int) -> None:
        """Forget everything; what comes after a sequence will be here."""
        self.floor, self.size = floor, 0
        self._sequences.clear()
        self._messages.clear()

    def after(self, sequence: int, size: int) -> Chunk | None:
        """Return about `size` bytes after a sequence; None if they are not all here."""
        if sequence < self.floor:
            return None
        gathered = Gatherer(sequence)
        for number in range(bisect_right(self._sequences, sequence), len(self._sequences)):
            payload, more = self._messages[number]
            gathered.take(self._sequences[number], payload, more=more)
            if gathered.size >= size and gathered.whole:
                break
        return gathered.chunk()
