"""What an agent process counts; it travels with its presence entry, so no scrape has to reach the process."""

from __future__ import annotations

from typing import Any, Final

#: upper bounds in seconds of the histogram buckets, the last one open
BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Counts per bucket, and the sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        place = next((number for number, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.counts[place] += 1
        self.sum += seconds


class AgentStats:
    """Counters of one process, since it started; and `active`, the runs at work now."""

    def __init__(self) -> None:
        self.attempts = 0
        self.active = 0
        self.stalled = 0
        self.statuses: dict[str, int] = {}
        self.first_token = Histogram()
        self.duration = Histogram()

    def finished(self, status: str, seconds: float) -> None:
        """A run was finished."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.duration.observe(seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as JSON values."""
        return {
            "attempts": self.attempts,
            "active": self.active,
            "stalled": self.stalled,
            "finished": dict(self.statuses),
            "first_token": {"counts": self.first_token.counts, "sum": self.first_token.sum},
            "duration": {"counts": self.duration.counts, "sum": self.duration.sum},
        }
