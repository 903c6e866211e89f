"""The newest frames of a session, compacted as the log is and within a budget; what is older stands in the log."""

from __future__ import annotations

from bisect import bisect_right

from orchestrator_free.gateway.channels.frames import Frame


class Tail:
    """Frames by sequence.

    Attributes:
        size: bytes of the frames.
        first: sequence of the first frame there ever was, 0 before it.
        floor: everything after this sequence is here.
    """

    def __init__(self, budget: int) -> None:
        self.size = 0
        self.first = 0
        self.floor = 0
        self._budget = budget
        self._frames: dict[int, Frame] = {}
        self._order: list[int] = []
        self._of: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    @property
    def newest(self) -> int:
        """The sequence of the last frame; 0 without any."""
        return self._order[-1] if self._order else 0

    def add(self, frame: Frame, *, rollup: bool) -> None:
        """Add the next frame; a roll-up replaces what its subject had."""
        self.first = self.first or frame.sequence
        if rollup:
            self._drop(frame.subject)
        self._frames[frame.sequence] = frame
        self._order.append(frame.sequence)
        self._of.setdefault(frame.subject, []).append(frame.sequence)
        self.size += len(frame.sse)

    def _drop(self, subject: str) -> None:
        for sequence in self._of.pop(subject, ()):
            old = self._frames.pop(sequence, None)
            if old is not None:
                self.size -= len(old.sse)
        if len(self._order) > 64 and len(self._order) > 2 * len(self._frames):
            self._order = list(self._frames)

    def trim(self) -> None:
        """Forget the oldest frames when the budget is exceeded, a quarter of it at once."""
        if self.size <= self._budget:
            return
        for sequence in self._order:
            if self.size <= self._budget * 3 // 4:
                break
            frame = self._frames.pop(sequence, None)
            if frame is not None:
                self.size -= len(frame.sse)
                self.floor = sequence
        self._order = list(self._frames)
        self._of = {}
        for frame in self._frames.values():
            self._of.setdefault(frame.subject, []).append(frame.sequence)

    def holds(self, after: int) -> bool:
        """Whether everything after a sequence is here."""
        return after >= self.floor

    def after(self, cursor: int, size: int) -> list[Frame]:
        """Return the frames after a sequence, about `size` bytes of them."""
        found: list[Frame] = []
        for place in range(bisect_right(self._order, cursor), len(self._order)):
            frame = self._frames.get(self._order[place])
            if frame is not None:
                found.append(frame)
                size -= len(frame.sse)
                if size <= 0:
                    break
        return found
