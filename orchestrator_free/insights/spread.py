"""A distribution in bounded memory: quantiles to within one per cent, however many values there were. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

#: a value is kept as a power of this: the middle of its bucket is less than 1 % away
_BASE: Final = 1.02
_LOG: Final = math.log(_BASE)
#: seconds below it count as 0: clocks of two machines differ by more
SMALLEST: Final = 0.001
#: seconds; what is longer counts as so long
_LARGEST: Final = 1e9


class Spread:
    """How many values there were, and how they lie; at most some 1,400 numbers are kept."""

    __slots__ = ("_buckets", "count", "largest", "total")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.largest = 0.0
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Count a value; what is below 0 counts as 0."""
        value = min(max(0.0, value), _LARGEST)
        self._buckets[_bucket(value)] += 1
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def quantile(self, share: float) -> float | None:
        """Return the value below which this share (0 to 1) of the values lies; None where there are none."""
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(_middle(bucket), self.largest)
        return None

    def bars(self, edges: Sequence[float]) -> list[int]:
        """Count the values up to each edge, from the edge before it; the last number is what lies beyond."""
        found = [0] * (len(edges) + 1)
        for bucket, count in self._buckets.items():
            place = next((i for i, edge in enumerate(edges) if _middle(bucket) <= edge), len(edges))
            found[place] += count
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return count, mean, median, 95 % and largest, rounded to milliseconds; None where there are no values."""
        mean = self.total / self.count if self.count else None
        found = {"mean": mean, "p50": self.quantile(0.5), "p95": self.quantile(0.95), "max": self.largest}
        return {"count": self.count} | {
            name: None if value is None or not self.count else round(value, 3) for name, value in found.items()
        }


def _bucket(value: float) -> int:
    return 0 if value < SMALLEST else 1 + math.floor(math.log(value / SMALLEST) / _LOG)


def _middle(bucket: int) -> float:
    return 0.0 if not bucket else SMALLEST * _BASE ** (bucket - 0.5)
