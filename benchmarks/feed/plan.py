"""What a run of the benchmark is to do, and what it found."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from benchmarks.feed.measure import Cores, spin
from benchmarks.feed.targets import Target
from benchmarks.feed.workers import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.feed.readers import Seen

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure.

    Attributes:
        quick: everything smaller and shorter: shows that it works, not how fast it is.
        rounds: the targets take turns this many times; tables show medians.
        targets: names of what to measure.
        folder: where the servers keep their files.
        minutes: how long each half of a soak takes.
    """

    quick: bool
    rounds: int
    targets: tuple[str, ...]
    folder: Path
    minutes: float = 10.0

    def pick(self, full: _T, quick: _T) -> _T:
        """Return the value for this kind of run."""
        return quick if self.quick else full


@dataclass(slots=True)
class Record:
    """One measurement.

    Attributes:
        scenario: which scenario.
        variant: which of its rows.
        target: what was measured.
        turn: in which round.
        values: numbers by metric.
        errors: why it is not to be trusted, if so.
        at: when it ended, Unix time.
    """

    scenario: str
    variant: str
    target: str
    turn: int
    values: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    at: float = field(default_factory=time.time)


_FAILURES = (WorkerError, OSError, RuntimeError)


def guarded(scenario: str, target: Target, turn: int, records: Iterator[Record]) -> Iterator[Record]:
    """Yield records of one target; if it fails where nothing is measured, that is on record too."""
    try:
        yield from records
    except _FAILURES as error:
        yield Record(scenario, "preparation", target.name, turn, errors=[_last_line(error)])


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def trial(scenario: str, variant: str, target: Target | str, turn: int, attempt: Callable[[], Seen]) -> Record:
    """Make one measurement; a target that fails is on record with the reason, and the others go on."""
    name, roles = (target, {}) if isinstance(target, str) else (target.name, target.roles())
    pace = spin()
    cores = Cores(roles)
    try:
        seen = attempt()
    except _FAILURES as error:
        return Record(scenario, variant, name, turn, errors=[_last_line(error)])
    return Record(scenario, variant, name, turn, cores.read() | seen.values | {"spin_ms": pace}, seen.errors)
