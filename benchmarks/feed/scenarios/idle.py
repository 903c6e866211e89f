"""What waits: resident KiB that the servers gain by clients that only wait, and by sessions with one such client each.

A client of each session comes first, so that what a session costs is not counted. Clients come a few at a time, and
a quick run has as many as a full one: otherwise memory that the servers had taken before would hide them.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.feed.live import fill
from benchmarks.feed.measure import Cores, now
from benchmarks.feed.plan import Plan, Record, trial
from benchmarks.feed.readers import Finish, Seen, Watch, watch
from benchmarks.feed.targets import Product, Target, running
from benchmarks.feed.wires import Stream
from benchmarks.feed.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

_SESSIONS = 100
_TOKENS = 10
_CLIENTS = 3000
_ALONE = 2000
_SETTLE_SECONDS = 2.0
_IDLE_SECONDS = 15.0


def run(plan: Plan) -> Iterator[Record]:
    """Measure every target once: memory that was used before is not gained again."""
    for name in plan.targets:
        with running([name], plan.folder) as targets:
            for target in targets:
                yield trial("idle", "client", target, 0, partial(_gain, target))
                if target.name == Product.name:
                    yield trial("idle", "session", target, 0, partial(_alone, target))


def _gain(target: Target) -> Seen:
    names = [f"idle-{number}" for number in range(_SESSIONS)]
    fill(target, [[Stream(name, "a0", "r0")] for name in names], _TOKENS)
    asks = [target.follow(name) for name in names]
    with Worker(watch, Watch(asks)) as first:
        first.hear()
        time.sleep(_SETTLE_SECONDS)
        before = target.rss()
        with Worker(watch, Watch(asks * (_CLIENTS // _SESSIONS))) as rest:
            rest.hear()
            time.sleep(_SETTLE_SECONDS)
            after = target.rss()
            rest.tell(Finish(0, now()))
            seen: Seen = rest.hear()
    gained = {f"{role}_kib": (after[role] - before[role]) / _CLIENTS for role in after}
    return Seen({**gained, "all_kib": sum(gained.values()), "clients": _CLIENTS}, seen.errors)


def _alone(target: Target) -> Seen:
    """Let each client follow a session of its own, in which nothing happens; cores are those of the waiting alone."""
    names = [f"alone-{number}" for number in range(_ALONE)]
    fill(target, [[Stream(name, "a0", "r0")] for name in names], _TOKENS, finish=True)
    before = target.rss()
    with Worker(watch, Watch([target.follow(name) for name in names])) as clients:
        clients.hear()
        time.sleep(_SETTLE_SECONDS)
        gained = {f"{role}_kib": (kib - before[role]) / _ALONE for role, kib in target.rss().items()}
        cores = Cores(target.roles())
        time.sleep(_IDLE_SECONDS)
        used = {f"waiting_{name}": value for name, value in cores.read().items()}
        clients.tell(Finish(0, now()))
        seen: Seen = clients.hear()
    return Seen(gained | used | {"clients": _ALONE}, seen.errors)
