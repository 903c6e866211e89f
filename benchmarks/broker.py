"""`python -m benchmarks.broker [durability] [restart]`: what one log takes, on one server and on three.

`durability`: with and without fsync, events a second that 256 runs get acknowledged, each with one publish in flight
that expects its last sequence, as agents write; and how long one run alone waits for each. `restart`: how long a server
needs to read a store of so many sessions again, and what it holds. Everything on this machine, a cluster, too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.feed.measure import percentiles, rss_kib, spin
from benchmarks.feed.servers import free_port
from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.jetstream.bulk import BulkPublisher

_RUNS = 256
_ENTITIES = 10
_TOKEN = b'{"type":"text.delta","part":"1","text":"tok 123456 ","t":1000000000000000000}'

Durability = Literal["fsync", "interval"]


@asynccontextmanager
async def servers(folder: Path, count: int, durability: Durability) -> AsyncIterator[list[EmbeddedServer]]:
    """Run one server, or a cluster."""
    ports = [free_port() for _ in range(2 * count)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[:count])
    found = []
    for number in range(count):
        cluster = f'cluster {{ name: bench, listen: "127.0.0.1:{ports[number]}", routes: [{routes}] }}'
        extra = f"server_name: n{number}\n{cluster}\n" if count > 1 else ""
        settings = ServerSettings(
            data=folder / f"n{number}", port=ports[count + number], extra=extra, durability=durability,
            max_file_store=8 << 30, start_seconds=60,
        )  # fmt: skip
        found.append(EmbeddedServer(settings))
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(server) for server in found))
        yield found


async def write(broker: Broker, name: str, events: int) -> list[float]:
    """Write one run; return the ms each event waited for its acknowledgement."""
    subject = f"session.{broker.log.shard(name)}.{name}.a0.run.r0"
    waits, last = [], 0
    for _ in range(events):
        began = time.perf_counter()
        last = await broker.log.wire.publish(subject, _TOKEN, expect=last)
        waits.append((time.perf_counter() - began) * 1e3)
    return waits


async def durability(console: Console, events: int) -> None:
    """Measure every combination of servers, shards and durability."""
    head = ("servers", "shards", "durability", "256 runs, events/s", "one run, p50 ms", "p99 ms")
    table = Table(*head, title="acknowledged, each event expecting the one before")
    for count, shards, mode in (
        (1, 1, "interval"),
        (1, 1, "fsync"),
        (3, 1, "interval"),
        (3, 1, "fsync"),
        (3, 4, "fsync"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            async with servers(Path(folder), count, mode) as there:  # type: ignore[arg-type] - of two words
                url = ",".join(server.url for server in there)
                settings = StreamSettings(shards=shards, replicas=count)
                async with connect(url, member="bench", settings=settings) as broker:
                    alone = percentiles(await write(broker, "alone", events))
                    began = time.perf_counter()
                    await asyncio.gather(*(write(broker, f"s{number}", events // 4) for number in range(_RUNS)))
                    rate = _RUNS * (events // 4) / (time.perf_counter() - began)
        cells = (f"{rate:,.0f}", f"{alone['p50']:.2f}", f"{alone['p99']:.2f}")
        table.add_row(str(count), str(shards), mode, *cells)
    console.print(table)


def subjects(sessions: int) -> Iterator[str]:
    """Yield the entities of so many sessions."""
    for number in range(sessions):
        yield f"session.0.s{number}.u.meta"
        yield from (f"session.0.s{number}.a0.run.r{run}" for run in range(_ENTITIES - 1))


async def restart(console: Console, sessions: int) -> None:
    """Fill a store, and start its server again, after a clean end and after SIGKILL."""
    with tempfile.TemporaryDirectory() as folder:
        async with servers(Path(folder), 1, "interval") as (server,):
            async with connect(server.url, member="bench") as broker, BulkPublisher(broker.log.wire) as bulk:
                for subject in subjects(sessions):
                    await bulk.publish(subject, _TOKEN)
            rows = []
            for how in ("clean", "SIGKILL"):
                if how == "clean":
                    await server.stop()
                else:
                    server.kill()
                began = time.perf_counter()
                await server.start()
                async with connect(server.url, member="bench") as broker:
                    took = time.perf_counter() - began
                    messages = (await broker.log.info(0))["state"]["messages"]
                rows.append((how, f"{took:.2f}", f"{rss_kib(server.pid or 0) / 1024:.0f}", f"{messages:,}"))
    table = Table("end", "seconds until it serves", "MiB resident", "messages", title=f"{sessions:,} sessions")
    for row in rows:
        table.add_row(*row)
    console.print(table)


async def measure(options: argparse.Namespace) -> None:
    """Run what was asked for."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"a fixed loop takes {spin():.1f} ms here and now", highlight=False)
    if "durability" in options.what:
        await durability(console, 100 if options.quick else 800)
    if "restart" in options.what:
        for sessions in (1_000,) if options.quick else (10_000, 100_000):
            await restart(console, sessions)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker", description=__doc__)
    parser.add_argument("what", nargs="*", default=["durability", "restart"], help="durability, restart, or both")
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
