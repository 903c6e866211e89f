"""Forks: what a stream inherits, as stretches of other streams, and how a read goes through them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from orchestrator_free.durable_streams.offsets import offset_of
from orchestrator_free.durable_streams.records import Record, Segment
from orchestrator_free.durable_streams.refusals import malformed


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages of a stream after a sequence, up to another one; 0 for its end."""

    id: str
    after: int
    upto: int


def inherited(source: Record, tail: int, at: int | None) -> tuple[int, tuple[Segment, ...]]:
    """Return where a fork begins, and what it inherits.

    Args:
        source: the stream that is forked.
        tail: its tail.
        at: where to fork; None for the tail.

    Raises:
        Refusal: 400, that is beyond the source's end.
    """
    at = tail if at is None else at
    if at > tail:
        raise malformed(f"Stream-Fork-Offset {offset_of(at)} is beyond the end of the source, {offset_of(tail)}")
    found: list[Segment] = []
    for segment in (*source.segments, Segment(source.id, tail)):
        before = found[-1].upto if found else 0
        if at > before:
            found.append(Segment(segment.id, min(segment.upto, at)))
    return at, tuple(found)


def stretches(record: Record, after: int) -> list[Stretch]:
    """Return what a read after a sequence goes through, oldest first; the last one is the stream's own."""
    ends = [0, *(segment.upto for segment in record.segments)]
    found = [
        Stretch(segment.id, max(after, low), high)
        for segment, (low, high) in zip(record.segments, pairwise(ends), strict=True)
        if after < high
    ]
    return [*found, Stretch(record.id, max(after, record.base), 0)]


def expiry_of(source: Record, ttl: int | None, expires: str | None) -> tuple[int | None, str | None]:
    """Return the life of a fork: its own, or else as its source's."""
    return (ttl, expires) if ttl is not None or expires is not None else (source.ttl, source.expires)
