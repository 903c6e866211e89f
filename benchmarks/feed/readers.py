"""The jobs of the reading half: watch a live feed, or join one and read its history."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.feed.measure import now, percentiles
from benchmarks.feed.swarm import Ask, Client, Swarm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.feed.workers import Pipe

_CONNECT_SECONDS = 30.0
_BURST = 16


@dataclass(frozen=True, slots=True)
class Watch:
    """Connect to all, say `ready`, and read: told a stamp, time the events due since; told `Finish`, report.

    Attributes:
        asks: the connections to make.
        rest: seconds to rest after every round of reads. The generator shares its cores with the servers; a
            short rest lets events of one client come together, at the price of reading them that much later.
    """

    asks: Sequence[Ask]
    rest: float = 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    """Every client is to have seen `expect` events by `deadline`; wait for that, then report."""

    expect: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Join:
    """Connect, read until complete and close, `at_once` connections at a time."""

    asks: Sequence[Ask]
    at_once: int = 1
    seconds: float = 30.0


@dataclass(slots=True)
class Seen:
    """What a swarm has seen.

    Attributes:
        values: p50, p99, max in ms, and counts.
        errors: why clients failed, the first few.
    """

    values: dict[str, float]
    errors: list[str] = field(default_factory=list)


def _errors(clients: Sequence[Client]) -> list[str]:
    return [client.error for client in clients if client.error][:3]


def watch(pipe: Pipe, job: Watch) -> Seen:
    """Follow live feeds."""
    swarm = Swarm()
    swarm.wake_for(pipe.fileno())
    _connect_all(swarm, job.asks)
    pipe.send("ready")
    while True:
        swarm.step(1.0)
        if job.rest:
            time.sleep(job.rest)
        while pipe.poll():
            message: Any = pipe.recv()
            if isinstance(message, Finish):
                return _finish(swarm, message)
            swarm.since = message


def _connect_all(swarm: Swarm, asks: Sequence[Ask]) -> None:
    """Connect a few at a time, so that what a rush costs is measured where a rush is meant."""
    end = time.monotonic() + _CONNECT_SECONDS
    todo = deque(asks)
    waiting: list[Client] = []
    while todo or waiting:
        waiting += [swarm.connect(todo.popleft()) for _ in range(min(len(todo), _BURST - len(waiting)))]
        swarm.step(0.1)
        waiting = [client for client in waiting if not client.ready and not client.error]
        if errors := _errors(swarm.clients):
            raise ConnectionError(errors[0])
        if time.monotonic() > end:
            raise TimeoutError(f"{len(todo) + len(waiting)} of {len(asks)} clients got no answer")


def _finish(swarm: Swarm, finish: Finish) -> Seen:
    clients = swarm.clients
    while now() < finish.deadline and any(one.seen < finish.expect and not one.error for one in clients):
        swarm.step(0.05)
    milliseconds = [latency / 1e6 for latency in swarm.latencies]
    behind = [one.worst / 1e6 for one in clients]
    values = percentiles(milliseconds, swarm.weights) | {
        "clients": len(clients),
        "delivered": sum(one.seen for one in clients),
        "expected": finish.expect * len(clients),
        "short": sum(one.seen != finish.expect for one in clients),
        "disorder": swarm.disorder,
        "clients_over_100ms": sum(worst > 100 for worst in behind),
    }
    return Seen(values, _errors(clients))


def join(pipe: Pipe, job: Join) -> Seen:
    """Read histories to their end."""
    swarm = Swarm()
    waiting = list(reversed(job.asks))
    running: list[Client] = []
    times: list[float] = []
    start = now()
    deadline = start + int(job.seconds * 1e9)
    while (waiting or running) and now() < deadline:
        burst = min(_BURST, len(waiting), job.at_once - len(running))
        running += [swarm.connect(waiting.pop()) for _ in range(burst)]
        swarm.step(0 if waiting and len(running) < job.at_once else 0.05)
        for client in [one for one in running if one.done or one.error]:
            running.remove(client)
            swarm.close(client)
            if client.done:
                times.append((client.done - client.began) / 1e6)
    errors = _errors(swarm.clients)
    short = len(job.asks) - len(times)
    if short:
        errors.append(f"{short} of {len(job.asks)} clients did not get everything within {job.seconds:g} s")
    values = percentiles(times) | {"clients": len(job.asks), "short": short}
    if not short:
        values["all_ms"] = (max(client.done for client in swarm.clients) - start) / 1e6
    return Seen(values, errors)
