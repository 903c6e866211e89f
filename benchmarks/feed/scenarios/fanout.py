"""Fan-out: one session, 500 clients, more and more tokens a second until clients fall behind by 100 ms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.feed.broadcast import Burst, broadcast
from benchmarks.feed.live import Load, measure
from benchmarks.feed.measure import Cores, now
from benchmarks.feed.plan import Plan, Record, trial
from benchmarks.feed.readers import Finish, Seen, Watch, watch
from benchmarks.feed.servers import free_port
from benchmarks.feed.swarm import Ask
from benchmarks.feed.targets import running
from benchmarks.feed.wires import Stream
from benchmarks.feed.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.feed.targets import Target

CLIENTS = 500
LIMIT_MS = 100
#: delivered events a second; a target that fails one is not asked for the next
STEPS = (100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000)
_LOW_STEPS = (1_000, 2_500, 10_000, 50_000)
_REST_SECONDS = 0.002
_AGENTS = 2


def run(plan: Plan) -> Iterator[Record]:
    """Step each target up in turn, and find the generator's own ceiling once."""
    seconds = plan.pick(4.0, 2.0)
    yield from _climb("ceiling", 0, STEPS[2:], lambda rate, _: _ceiling(rate, seconds))
    with running(plan.targets, plan.folder) as targets:
        for turn in range(plan.rounds):
            for target in targets:
                steps = _LOW_STEPS + STEPS if target.name == "redis" else STEPS
                yield from _climb(target.name, turn, steps, partial(_step, target, f"fanout-{turn}", seconds))
                target.restart_gateway()  # an overloaded one may still be busy


def _climb(name: str, turn: int, steps: tuple[int, ...], attempt: Callable[[int, int], Seen]) -> Iterator[Record]:
    """Try one step after the other; one that fails gets a second chance, for the machine may be shared."""
    highest = 0
    for rate in steps:
        for number in range(2):
            record = trial("fanout", f"{rate}", name, turn, partial(attempt, rate, number))
            if _held(record):
                highest = rate
                break
            if number == 0:
                record.variant += " first try"
                yield record
        yield record
        if highest != rate:
            break
    yield Record("fanout", "highest", name, turn, {"events_per_s": highest})


def _held(record: Record) -> bool:
    return record.values.get("p99", LIMIT_MS) < LIMIT_MS and not record.values["short"]


def _step(target: Target, prefix: str, seconds: float, rate: int, number: int) -> Seen:
    session = [Stream(f"{prefix}-{rate}-{number}", f"a{agent}", "r0") for agent in range(_AGENTS)]
    return measure(target, Load([session], CLIENTS, rate / CLIENTS, seconds, _REST_SECONDS))


def _ceiling(rate: int, seconds: float) -> Seen:
    """Let the trivial broadcaster take the place of log and gateway."""
    port = free_port()
    with Worker(broadcast, port) as server:
        server.hear()
        ask = Ask(("127.0.0.1", port), b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200", b"\r\n\r\n")
        with Worker(watch, Watch([ask] * CLIENTS, _REST_SECONDS)) as readers:
            readers.hear()
            burst = Burst(rate / CLIENTS, int(rate / CLIENTS * (seconds + 1)), now() + 300_000_000)
            readers.tell(burst.start + 1_000_000_000)
            cores = Cores({"gateway": [server.pid], "readers": [readers.pid]})
            server.tell(burst)
            server.hear()
            used = cores.read()
            readers.tell(Finish(burst.total, now() + 3_000_000_000))
            seen: Seen = readers.hear()
    seen.values |= used
    return seen
