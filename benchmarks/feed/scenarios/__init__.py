"""One module per scenario; each has `run(plan)`, which yields records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.feed.scenarios import bulk, fanout, idle, join, latency, soak, storm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.feed.plan import Plan, Record

SCENARIOS: dict[str, Callable[[Plan], Iterator[Record]]] = {
    "latency": latency.run,
    "fanout": fanout.run,
    "join": join.run,
    "storm": storm.run,
    "idle": idle.run,
    "bulk": bulk.run,
    "soak": soak.run,
}
#: what a run without names measures; a soak takes its minutes and is asked for by name
ORDINARY = tuple(name for name in SCENARIOS if name != "soak")
