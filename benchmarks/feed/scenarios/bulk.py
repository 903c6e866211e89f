"""Bulk publish: acknowledged events a second from one process.

`raw`: NATS bytes, 256 in flight. `redis`: redis-py, pipelines of 64 XADDs. `product`: this project's library,
one publish in flight for each of 256 runs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import redis
import uvloop

from benchmarks.feed.measure import now
from benchmarks.feed.plan import Plan, Record, trial
from benchmarks.feed.publisher import Bulk, publish_bulk
from benchmarks.feed.readers import Seen
from benchmarks.feed.targets import running
from benchmarks.feed.wires import Stream, delta, started
from benchmarks.feed.workers import Pipe
from benchmarks.feed.workers import run as do

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RUNS = 256
_PIPELINE = 64


def run(plan: Plan) -> Iterator[Record]:
    """Measure every target in turn."""
    tokens = plan.pick(800, 100)
    with running(plan.targets, plan.folder) as targets:
        for turn in range(plan.rounds):
            for target in targets:
                streams = [Stream(f"bulk-{turn}-{number % 64}", f"a{number // 64}", "r0") for number in range(_RUNS)]
                job = Bulk(target.wire, target.log, [streams], tokens, window=256)
                yield trial("bulk", "publish", target, turn, lambda on=target.name, job=job: _rate(on, job))


def _rate(name: str, job: Bulk) -> Seen:
    values = do(_PUBLISHERS[name], job)
    return Seen({**values, "events_per_s": values["published"] / values["seconds"]})


def _redis(pipe: Pipe, job: Bulk) -> dict[str, float]:
    client = redis.Redis(host=job.address[0], port=job.address[1])
    start, sent = now(), 0
    pipeline = client.pipeline(transaction=False)
    for number in range(job.tokens):
        for stream in job.sessions[0]:
            fields = {"m": stream.member, "r": stream.run, "p": delta(number, start)}
            pipeline.xadd(f"session:{stream.session}", fields)
            if len(pipeline) == _PIPELINE:
                sent += len(pipeline.execute())
    sent += len(pipeline.execute())
    return {"published": sent, "seconds": (now() - start) / 1e9}


def _product(pipe: Pipe, job: Bulk) -> dict[str, float]:
    return uvloop.run(_publish(job))


async def _publish(job: Bulk) -> dict[str, float]:
    from orchestrator_free.jetstream import Wire, WireOptions

    wire = await Wire.connect(WireOptions(url=f"nats://{job.address[0]}:{job.address[1]}"))

    async def one(stream: Stream) -> None:
        subject = f"session.0.{stream.session}.{stream.member}.run.{stream.run}"
        last = await wire.publish(subject, started(), expect=0)
        for number in range(job.tokens):
            last = await wire.publish(subject, delta(number, start), expect=last)

    start = now()
    await asyncio.gather(*(one(stream) for stream in job.sessions[0]))
    seconds = (now() - start) / 1e9
    await wire.close()
    return {"published": len(job.sessions[0]) * (job.tokens + 1), "seconds": seconds}


_PUBLISHERS: dict[str, Callable[[Pipe, Any], dict[str, float]]] = {
    "raw": publish_bulk,
    "redis": _redis,
    "product": _product,
}
