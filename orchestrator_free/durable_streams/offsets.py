"""Offsets of the Durable Streams protocol: how clients write them, and which sequence of the log they stand for."""

from __future__ import annotations

import re
from typing import Final

from orchestrator_free.durable_streams.refusals import malformed

BEGINNING: Final = "-1"
NOW: Final = "now"
#: the suite and clients know the beginning of an empty stream by these digits
_OFFSET: Final = re.compile(r"[0-9]{16}_([0-9]{16})")
_SHAPED: Final = re.compile(r"[0-9]+_([0-9]+)")


def offset_of(sequence: int) -> str:
    """Return a sequence as an offset: opaque to clients, and sorted as text as it is as a number."""
    return f"{0:016d}_{sequence:016d}"


def sequence_of(offset: str, what: str = "offset") -> int:
    """Return the sequence of an offset; 0 for the beginning.

    Raises:
        Refusal: 400, it is none.
    """
    if offset == BEGINNING:
        return 0
    found = _OFFSET.fullmatch(offset) or _SHAPED.fullmatch(offset)
    if found is None or len(found[1]) > 19:
        raise malformed(f"{what}={offset[:60]!r} is no offset; use -1, now, or what Stream-Next-Offset said")
    return int(found[1])
