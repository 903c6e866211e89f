"""Bulk publish: acknowledged events a second from one process.

`publish`: one stream of messages. Raw NATS: 1,000 in flight; Redis: redis-py, pipelines of 64; product: the library's
bulk publisher. `runs`: 256 runs with one publish in flight each, as agents write. Raw NATS: 256 in flight; product:
each publish expects the last sequence of its run.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import product
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
_WINDOWS = {"publish": 1000, "runs": _RUNS}
_PIPELINE = 64


def run(plan: Plan) -> Iterator[Record]:
    """Measure every target in turn."""
    tokens = plan.pick(800, 100)
    with running(plan.targets, plan.folder) as targets:
        for turn, target, variant in product(range(plan.rounds), targets, _WINDOWS):
            publisher = _PUBLISHERS.get((variant, target.name))
            if publisher is not None:
                name = f"bulk-{variant}-{turn}"
                streams = [Stream(f"{name}-{number % 64}", f"a{number // 64}", "r0") for number in range(_RUNS)]
                job = Bulk(target.wire, target.log, [streams], tokens, window=_WINDOWS[variant])
                yield trial("bulk", variant, target, turn, partial(_rate, publisher, job))


def _rate(publisher: Callable[[Pipe, Any], dict[str, float]], job: Bulk) -> Seen:
    values = do(publisher, job)
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


def _bulk_publisher(pipe: Pipe, job: Bulk) -> dict[str, float]:
    return uvloop.run(_publish_in_bulk(job))


async def _publish_in_bulk(job: Bulk) -> dict[str, float]:
    from orchestrator_free.jetstream.bulk import BulkPublisher

    subjects = [_subject(stream) for stream in job.sessions[0]]
    wire = await _connect(job)
    start = now()
    async with BulkPublisher(wire) as bulk:
        for number in range(job.tokens):
            payload = delta(number, start)
            for subject in subjects:
                await bulk.publish(subject, payload)
    seconds = (now() - start) / 1e9
    await wire.close()
    return {"published": len(subjects) * job.tokens, "seconds": seconds}


def _runs(pipe: Pipe, job: Bulk) -> dict[str, float]:
    return uvloop.run(_publish_runs(job))


async def _publish_runs(job: Bulk) -> dict[str, float]:
    wire = await _connect(job)

    async def one(subject: str) -> None:
        last = await wire.publish(subject, started(), expect=0)
        for number in range(job.tokens):
            last = await wire.publish(subject, delta(number, start), expect=last)

    start = now()
    await asyncio.gather(*(one(_subject(stream)) for stream in job.sessions[0]))
    seconds = (now() - start) / 1e9
    await wire.close()
    return {"published": len(job.sessions[0]) * (job.tokens + 1), "seconds": seconds}


def _subject(stream: Stream) -> str:
    return f"session.0.{stream.session}.{stream.member}.run.{stream.run}"


async def _connect(job: Bulk) -> Any:
    from orchestrator_free.jetstream import Wire, WireOptions

    return await Wire.connect(WireOptions(url=f"nats://{job.address[0]}:{job.address[1]}"))


_PUBLISHERS: dict[tuple[str, str], Callable[[Pipe, Any], dict[str, float]]] = {
    ("publish", "raw"): publish_bulk,
    ("publish", "redis"): _redis,
    ("publish", "product"): _bulk_publisher,
    ("runs", "raw"): publish_bulk,
    ("runs", "product"): _runs,
}
