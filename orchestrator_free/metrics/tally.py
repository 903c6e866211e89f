"""Sums over an agent's processes, each of which comes and goes: they never fall, and names stay bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from orchestrator_free.fold import FINAL
from orchestrator_free.working.stats import BUCKETS

if TYPE_CHECKING:
    from orchestrator_free.lag import Replica

OTHER: Final = "other"
MOST_NAMES: Final = 200
#: processes whose counts are remembered after they are gone, should they come back
_REMEMBERED: Final = 20_000

Counts = dict[str, float]


class Names:
    """Bounds the values of a label: the first `most` names are kept, later ones count as `other`."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        """Return the value for a name."""
        if name not in self._known and len(self._known) < self._most:
            self._known.add(name)
        return name if name in self._known else OTHER


class AgentTally:
    """Adds up what the processes of each agent have counted.

    A process tells its counts since its start; what grew since it was last heard is added, so that sums stay when the
    process is gone. Counts that make no sense are left out.

    Attributes:
        totals: by agent, what was counted, e.g. `attempts`, `finished done`, `duration 3`, `duration sum`.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Counts] = {}
        self._last: dict[str, tuple[float, Counts]] = {}

    def update(self, replicas: Iterable[Replica], now: float, names: Names) -> None:
        """Take what the living processes tell now."""
        for replica in replicas:
            counts = _read_stats(replica.about.get("stats"))
            _, before = self._last.get(replica.key, (0.0, {}))
            totals = self.totals.setdefault(names(replica.agent), {})
            for name, value in counts.items():
                totals[name] = totals.get(name, 0.0) + max(0.0, value - before.get(name, 0.0))
            highest = {name: max(value, before.get(name, 0.0)) for name, value in counts.items()}
            self._last[replica.key] = (now, {**before, **highest})
        if len(self._last) > _REMEMBERED:
            keep = sorted(self._last.items(), key=lambda item: item[1][0])[-_REMEMBERED // 2 :]
            self._last = dict(keep)


def _read_stats(stats: object) -> Counts:
    """Flatten the counters of `AgentStats.snapshot`."""
    if not isinstance(stats, dict):
        return {}
    found: dict[str, object] = {name: stats.get(name) for name in ("attempts", "stalled")}
    finished = stats.get("finished")
    for status, value in finished.items() if isinstance(finished, dict) else ():
        if status in FINAL:
            found[f"finished {status}"] = value
    for name in ("first_token", "duration"):
        histogram = stats.get(name)
        counts = histogram.get("counts") if isinstance(histogram, dict) else None
        if isinstance(histogram, dict) and isinstance(counts, list) and len(counts) == len(BUCKETS) + 1:
            found |= {f"{name} {place}": value for place, value in enumerate(counts)}
            found[f"{name} sum"] = histogram.get("sum")
    return {name: float(value) for name, value in found.items() if is_count(value)}  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    """Whether a value from outside can be counted with."""
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]
