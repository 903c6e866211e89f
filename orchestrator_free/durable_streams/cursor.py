"""Cursors: the number of the 20-second interval, so that caches between clients and gateway turn over."""

from __future__ import annotations

import random
import re
from typing import Final

#: 2024-10-09T00:00:00Z, where the protocol begins to count
_EPOCH: Final = 1_728_432_000
_INTERVAL_SECONDS: Final = 20
#: the protocol's jitter, 1 to 3600 seconds, in intervals
_JITTER: Final = (1, 3600 // _INTERVAL_SECONDS)
_NUMBER: Final = re.compile("[0-9]{1,15}")


class Cursors:
    """The cursors of one gateway.

    Clients that come with the same cursor in the same interval get the same new one: they share their bytes.
    """

    def __init__(self) -> None:
        self._interval = -1
        self._jitter = _JITTER[0]

    def now(self, seconds: float) -> int:
        """Return the interval of a time, in seconds since 1970."""
        interval = int(seconds - _EPOCH) // _INTERVAL_SECONDS
        if interval != self._interval:
            self._interval = interval
            self._jitter = random.randint(*_JITTER)
        return interval

    def least(self, echoed: str | None, seconds: float) -> int:
        """Return the least cursor that a client may get, given the one it echoes: always a later one; 0 for any."""
        now = self.now(seconds)
        if echoed is None or not _NUMBER.fullmatch(echoed) or int(echoed) < now:
            return 0
        return int(echoed) + self._jitter
