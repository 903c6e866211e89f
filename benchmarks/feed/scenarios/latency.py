"""Publish-to-client latency: 50 sessions of 2 agents, 30 tokens/s each; 1 client a session, then 5."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.feed.live import Load, measure
from benchmarks.feed.plan import Plan, Record, trial
from benchmarks.feed.targets import running
from benchmarks.feed.wires import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

_SESSIONS = 50
_AGENTS = 2
_TOKENS_PER_SECOND = 30


def run(plan: Plan) -> Iterator[Record]:
    """Measure every target in turn, at both numbers of clients."""
    with running(plan.targets, plan.folder) as targets:
        for turn in range(plan.rounds):
            for clients in (1, 5):
                load = _load(f"latency-{turn}-x{clients}", clients, plan.pick(5.0, 2.0))
                for target in targets:
                    attempt = partial(measure, target, load)
                    yield trial("latency", f"x{clients}", target, turn, attempt)


def _load(prefix: str, clients: int, seconds: float) -> Load:
    names = [f"{prefix}-{number}" for number in range(_SESSIONS)]
    sessions = [[Stream(name, f"a{agent}", "r0") for agent in range(_AGENTS)] for name in names]
    return Load(sessions, clients, _SESSIONS * _AGENTS * _TOKENS_PER_SECOND, seconds)
