"""What those who catch up are sent: the frames after a cursor in pieces, each framed once for all who stand there.

A piece is small, so that a client which does not read holds little; and the bytes in its buffer are the same object as
in the buffers of the others, not a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Final, NamedTuple

from orchestrator_free.gateway.channels.frames import Frame, Selection, snapshot_frame
from orchestrator_free.gateway.channels.tail import Tail
from orchestrator_free.gateway.connections.transport import frame
from orchestrator_free.subjects import Position

#: so large is a piece, unless a single frame is larger
PIECE_BYTES: Final = 64 * 1024
_KEPT: Final = 8


class Piece(NamedTuple):
    """What is sent at once: as `frame` made it, with how many events, and the sequence that it brings a client to."""

    framed: bytes
    events: int
    end: int


class Pieces:
    """The newest pieces of one session; what is kept here is given up at every sweep, buffers keep what they need."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._made: dict[Hashable, bytes] = {}
        self._last: tuple[tuple[int, int, Selection], Piece] | None = None

    def after(self, cursor: int, selection: Selection) -> Piece:
        """Return the next piece out of the memory, which holds something after the cursor."""
        key = (cursor, self._tail.newest, selection)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        frames = self._tail.after(cursor, PIECE_BYTES)
        piece = self._piece(frames, frames[-1].sequence, selection)
        self._last = key, piece
        return piece

    def cut(self, frames: list[Frame], end: int, selection: Selection) -> Iterator[Piece]:
        """Return what was read from the log in pieces; the last one brings a client to `end`."""
        start = size = 0
        for place, one in enumerate(frames, 1):
            size += len(one.sse)
            if size >= PIECE_BYTES and place < len(frames):
                yield self._piece(frames[start:place], one.sequence, selection)
                start, size = place, 0
        yield self._piece(frames[start:], end, selection)

    def _piece(self, frames: list[Frame], end: int, selection: Selection) -> Piece:
        chosen = selection.choose(frames)
        if not chosen:
            return Piece(b"", 0, end)
        # Frames never change, they only go: the same ends and the same number are the same bytes.
        key = (selection, chosen[0].sequence, chosen[-1].sequence, len(chosen))
        return Piece(self._once(key, lambda: selection.encode(chosen)), len(chosen), end)

    def snapshot(self, position: Position, view: bytes, selection: Selection) -> bytes:
        """Return a framed `snapshot`: the view of what a selection may see, with the position that stands in it."""
        return self._once((view, selection.form), lambda: snapshot_frame(position, view, form=selection.form))

    def _once(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= _KEPT:
                del self._made[next(iter(self._made))]
            found = self._made[key] = frame(make())
        return found

    def forget(self) -> None:
        """Keep nothing."""
        self._made.clear()
        self._last = None
