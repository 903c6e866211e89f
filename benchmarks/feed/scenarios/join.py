"""Late join: time from connecting until a session's history has been read, one client at a time.

`finished`: 10,000 tokens in 100 finished runs. `open`: 10,000 tokens in 10 runs that go on. `small`: 8 tokens
in 2 runs, among 30,000 such sessions. `cold`: nobody has asked the gateway for the session before; `warm`:
somebody follows it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.feed.live import fill
from benchmarks.feed.plan import Plan, Record, guarded, trial
from benchmarks.feed.readers import Join, Watch, join, watch
from benchmarks.feed.swarm import STAMP, Ask
from benchmarks.feed.targets import History, Target, running
from benchmarks.feed.wires import Stream
from benchmarks.feed.workers import Worker
from benchmarks.feed.workers import run as do

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_AGENTS = 2
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Shape:
    """A kind of session.

    Attributes:
        name: first word of its rows.
        runs: of each session.
        tokens: of each run.
        finish: whether the runs end.
        history: how raw NATS reads it best.
    """

    name: str
    runs: int
    tokens: int
    finish: bool
    history: History

    def sessions(self, prefix: str, count: int) -> list[list[Stream]]:
        """Return the streams of so many sessions."""
        return [
            [Stream(f"{prefix}-{number}", f"a{run % _AGENTS}", f"r{run}") for run in range(self.runs)]
            for number in range(count)
        ]

    def ask(self, target: Target, session: Sequence[Stream]) -> Ask:
        """Return the connection of a late client that knows when it has everything."""
        ask = target.history(session, self.history)
        if self.finish:
            return replace(ask, needle=b'"run.finished"', expect=self.runs)
        return replace(ask, needle=STAMP, expect=self.runs * self.tokens)


_FINISHED = _Shape("finished", 100, 100, finish=True, history="table")
_OPEN = _Shape("open", 10, 1000, finish=False, history="log")
_SMALL = _Shape("small", 2, 4, finish=False, history="runs")


def run(plan: Plan) -> Iterator[Record]:
    """Join large sessions cold and warm, then small ones among many."""
    with running(plan.targets, plan.folder) as targets:
        for turn in range(plan.rounds):
            for shape in (_FINISHED, _OPEN):
                for target in targets:
                    yield from guarded("join", target, turn, _large(target, shape, turn, plan))
        for target in targets:
            yield from guarded("join", target, 0, _small(target, plan))


def _large(target: Target, shape: _Shape, turn: int, plan: Plan) -> Iterator[Record]:
    sessions = shape.sessions(f"{shape.name}-{turn}", plan.pick(7, 3))
    fill(target, sessions, shape.tokens, finish=shape.finish)
    asks = [shape.ask(target, session) for session in sessions]
    yield trial("join", f"{shape.name} cold", target, turn, lambda: do(join, Join(asks)))
    keepers = [target.follow(session[0].session) for session in sessions]
    with Worker(watch, Watch(keepers)) as keeping:
        keeping.hear()
        time.sleep(_SETTLE_SECONDS)
        yield trial("join", f"{shape.name} warm", target, turn, lambda: do(join, Join(asks * 3)))


def _small(target: Target, plan: Plan) -> Iterator[Record]:
    sessions = _SMALL.sessions("small", plan.pick(30_000, 3_000))
    fill(target, sessions, _SMALL.tokens)
    joins = plan.pick(50, 10)
    for turn in range(plan.rounds):
        some = sessions[turn :: len(sessions) // joins][:joins]
        asks = [_SMALL.ask(target, session) for session in some]
        yield trial("join", "small", target, turn, lambda asks=asks: do(join, Join(asks)))
