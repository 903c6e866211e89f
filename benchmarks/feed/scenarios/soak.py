"""Minutes of ordinary life on one gateway, and then the same beside clients that mean no good.

1,000 clients wait at sessions where nothing happens. Beside them sessions come and go: 20 at a time with 10 clients
each, a round long; then 20 others. What a gateway keeps of those that are over must go, so its memory stays flat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.feed.hostile import Harass, harass
from benchmarks.feed.live import Load, fill, measure
from benchmarks.feed.plan import Plan, Record, trial
from benchmarks.feed.readers import Seen, Watch, watch
from benchmarks.feed.targets import Product, running
from benchmarks.feed.wires import Stream
from benchmarks.feed.workers import Worker

if TYPE_CHECKING:
    from benchmarks.feed.targets import Target

_IDLE_SESSIONS, _IDLE_EACH = 100, 10
_SESSIONS, _CLIENTS_EACH = 20, 10
_TOKENS_PER_SECOND = 10
_ROUND_SECONDS = 15.0
#: what happens around the measured seconds of a round
_AROUND_SECONDS = 3.0
_NOT_READING, _HALF_SENT = 500, 300
#: finished runs of a session that is too large for any buffer on the way to a client that does not read
_LARGE_RUNS, _LARGE_TOKENS = 400, 1000
#: of the rounds, while the gateway fills what it will then keep
_WARM_UP = 0.4


def run(plan: Plan) -> Iterator[Record]:
    """Measure the product; the others promise nothing of the kind."""
    if Product.name not in plan.targets:
        return
    rounds = max(3, round(plan.minutes * 60 / (_ROUND_SECONDS + _AROUND_SECONDS)))
    with running([Product.name], plan.folder) as targets:
        for target in targets:
            with _idle(target):
                quiet = trial("soak", "quiet", target, 0, partial(_live, target, "quiet", rounds))
                yield quiet
                with _hostile(target) as attackers:
                    beside = trial("soak", "hostile", target, 0, partial(_live, target, "hostile", rounds))
                    attackers.tell("enough")
                    beside.values |= attackers.hear()
            if quiet.values.get("p99") and "p99" in beside.values:
                beside.values["times_quiet"] = beside.values["p99"] / quiet.values["p99"]
                beside.values["gained_mib"] = beside.values["gateway_mib_most"] - quiet.values["gateway_mib_most"]
            yield beside


@contextmanager
def _idle(target: Target) -> Iterator[None]:
    names = [f"idle-{number}" for number in range(_IDLE_SESSIONS)]
    fill(target, [[Stream(name, "a0", "r0")] for name in names], 1, finish=True)
    with Worker(watch, Watch([target.follow(name) for name in names] * _IDLE_EACH)) as clients:
        clients.hear()
        yield


@contextmanager
def _hostile(target: Target) -> Iterator[Worker]:
    fill(target, [[Stream("large", "a0", f"r{number}") for number in range(_LARGE_RUNS)]], _LARGE_TOKENS, finish=True)
    ask = target.follow("large")
    half = ask.request.removesuffix(b"\r\n\r\n")
    with Worker(harass, Harass(ask.address, [ask.request] * _NOT_READING + [half] * _HALF_SENT)) as attackers:
        attackers.hear(120)
        yield attackers


def _live(target: Target, prefix: str, rounds: int) -> Seen:
    """Let sessions come and go; return p50 and p99 of the median round, the worst one's, and how memory went."""
    seen: list[Seen] = []
    memory: list[tuple[float, float]] = []
    for number in range(rounds):
        names = [f"{prefix}-{number}-{one}" for one in range(_SESSIONS)]
        streams = [[Stream(name, "a0", "r0")] for name in names]
        seen.append(measure(target, Load(streams, _CLIENTS_EACH, _SESSIONS * _TOKENS_PER_SECOND, _ROUND_SECONDS)))
        memory.append((time.monotonic() / 60, target.rss()["gateway"]))
    values = {name: median(one.values[name] for one in seen) for name in ("p50", "p99", "late_p99")}
    steady = memory[int(len(memory) * _WARM_UP) :]
    values |= {
        "rounds": rounds,
        "p99_worst": max(one.values["p99"] for one in seen),
        "max": max(one.values["max"] for one in seen),
        "short": sum(one.values["short"] for one in seen),
        "gateway_mib": memory[-1][1] / 1024,
        "gateway_mib_most": max(kib for _, kib in memory) / 1024,
        "kib_per_minute": _slope(steady),
    }
    return Seen(values, [error for one in seen for error in one.errors][:3])


def _slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line that lies closest to the points."""
    count = len(points)
    x_mean, y_mean = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
