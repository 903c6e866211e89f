"""Clock, percentiles, and what processes use according to /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: makes a stamp 19 digits wide, so that it can be cut out of a payload without parsing it
_EPOCH = 10**18
STAMP_DIGITS = 19
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024


def now() -> int:
    """Return nanoseconds of a clock that all processes of this machine share, always 19 digits."""
    return time.monotonic_ns() + _EPOCH


def wait_until(due: int) -> None:
    """Sleep until `now()` is `due`."""
    left = due - now()
    if left > 0:
        time.sleep(left / 1e9)


def percentiles(values: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Return p50, p99 and max; a weight says how many events a value stands for."""
    if not len(values):
        return {}
    pairs = sorted(zip(values, weights or [1.0] * len(values), strict=True))
    total = sum(weight for _, weight in pairs)
    found: dict[str, float] = {}
    passed = 0.0
    for value, weight in pairs:
        passed += weight
        if "p50" not in found and passed >= total * 0.5:
            found["p50"] = value
        if passed >= total * 0.99:
            found["p99"] = value
            break
    return {**found, "max": pairs[-1][0]}


def descendants(pid: int) -> dict[int, str]:
    """Return {pid: command name} of a process and everything below it."""
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        one = todo.pop()
        try:
            found[one] = Path(f"/proc/{one}/comm").read_text().strip()
            todo += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:
            found.pop(one, None)
    return found


def rss_kib(pid: int) -> float:
    """Return the resident memory of a process in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of the processor; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _busy_seconds() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / _TICKS


def spin() -> float:
    """Return how many ms a fixed piece of work takes: a shared machine is not always equally fast."""
    before = time.perf_counter()
    sum(range(300_000))
    return (time.perf_counter() - before) * 1e3


def _own_seconds() -> float:
    """Return what this process and the children that it has seen end have used."""
    return sum(os.times()[:4])


class Cores:
    """Counts the cores used from now on: by named processes, and by everybody who is not of this benchmark."""

    def __init__(self, pids: Mapping[str, Iterable[int]]) -> None:
        self._pids = {name: list(some) for name, some in pids.items()}
        self._since = time.monotonic()
        self._busy = _busy_seconds() - _own_seconds()
        self._used = self._sum()

    def _sum(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, some)) for name, some in self._pids.items()}

    def read(self) -> dict[str, float]:
        """Return cores used since the start by name; `foreign` is what others used."""
        seconds = max(time.monotonic() - self._since, 1e-3)
        used = {name: (after - self._used[name]) / seconds for name, after in self._sum().items()}
        foreign = (_busy_seconds() - _own_seconds() - self._busy) / seconds - sum(used.values())
        return {
            **{f"cores_{name}": round(value, 2) for name, value in used.items()},
            "foreign": round(max(foreign, 0), 2),
        }
