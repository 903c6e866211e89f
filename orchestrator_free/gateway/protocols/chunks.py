"""Places for clients that count chunks instead of remembering one: the Workflow transport goes on behind the n-th.

How an answer is cut into chunks differs from one connection to the next, so a number means something only for the
stream that told it. Each has a mark, and this gateway remembers for a while what stood behind each of its chunks.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

_STREAMS: Final = 256
_CHUNKS: Final = 50_000


class Chunks:
    """The cursors behind the chunks of the streams that were told lately."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, list[str]] = OrderedDict()

    def begin(self) -> str:
        """Return the mark of a new stream."""
        mark = secrets.token_hex(6)
        self._streams[mark] = []
        while len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)
        return mark

    def told(self, mark: str, cursor: str) -> None:
        """Note a chunk, and the cursor behind it; empty within a step of several chunks."""
        found = self._streams.get(mark)
        if found is None:
            return
        found.append(cursor)
        if len(found) > _CHUNKS:
            del self._streams[mark]  # too long to be remembered: asked for by number, it is refused

    def behind(self, mark: str, count: int) -> tuple[str, int] | None:
        """Return (cursor, chunks to skip after it) of the place behind so many chunks, and forget those after it.

        None if this gateway does not know it.
        """
        found = self._streams.get(mark)
        if found is None or not 0 < count <= len(found):
            return None
        del found[count:]
        exact = next((index for index in range(count, 0, -1) if found[index - 1]), 0)
        return (found[exact - 1] if exact else ""), count - exact
