"""How often a session is compared with the log: soon after something happened, ever less often while nothing does."""

from __future__ import annotations

from typing import Final

#: turns between two comparisons of a session that has been idle for long
IDLE_TURNS: Final = 5


class Pace:
    """Counts turns and says at which to compare: 1, 1, 2, 4 and then every 5 turns after the one before."""

    __slots__ = ("_left", "_pause")

    def __init__(self) -> None:
        self.wake()

    def wake(self) -> None:
        """Something happened: compare at the next turn, and often from then on."""
        self._pause, self._left = 1, 1

    def turn(self) -> bool:
        """A turn has come; return whether to compare."""
        self._left -= 1
        return self._left <= 0

    def compared(self) -> None:
        """All was well: the pause before the next comparison doubles, up to `IDLE_TURNS`."""
        self._left, self._pause = self._pause, min(2 * self._pause, IDLE_TURNS)
