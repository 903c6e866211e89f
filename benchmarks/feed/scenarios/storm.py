"""Reconnect storm: 1,000 clients of 100 sessions come back at once, each having missed 50 events.

`warm`: the gateway has served the sessions all the time; `cold`: it was just restarted. Time until the last
one has caught up.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.feed.live import fill
from benchmarks.feed.plan import Plan, Record, guarded, trial
from benchmarks.feed.readers import Join, Watch, join, watch
from benchmarks.feed.targets import Target, running
from benchmarks.feed.wires import Stream
from benchmarks.feed.workers import Worker
from benchmarks.feed.workers import run as do

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.feed.swarm import Ask

_AGENTS = 2
_BEFORE = 75  # tokens of each agent
_MISSED = 25
_SETTLE_SECONDS = 1.0


def run(plan: Plan) -> Iterator[Record]:
    """Measure every target in turn, warm and cold."""
    with running(plan.targets, plan.folder) as targets:
        for turn in range(plan.rounds):
            for target in targets:
                yield from guarded("storm", target, turn, _storms(target, turn, plan))


def _storms(target: Target, turn: int, plan: Plan) -> Iterator[Record]:
    names = [f"storm-{turn}-{number}" for number in range(plan.pick(100, 30))]
    sessions = [[Stream(name, f"a{agent}", "r0") for agent in range(_AGENTS)] for name in names]
    fill(target, sessions, _BEFORE)
    positions = target.positions(names, _BEFORE * _AGENTS)
    with Worker(watch, Watch([target.follow(name) for name in names])) as keeping:
        keeping.hear()
        fill(target, sessions, _MISSED, opening=False)
        time.sleep(_SETTLE_SECONDS)
        asks = _clients(target, names, positions, plan.pick(1000, 300))
        storm = Join(asks, at_once=len(asks))
        yield trial("storm", "warm", target, turn, lambda: do(join, storm))
    target.restart_gateway()
    yield trial("storm", "cold", target, turn, lambda: do(join, storm))


def _clients(target: Target, names: Sequence[str], positions: dict[str, str], count: int) -> list[Ask]:
    some = [names[number % len(names)] for number in range(count)]
    return [replace(target.resume(name, positions[name]), expect=_MISSED * _AGENTS) for name in some]
