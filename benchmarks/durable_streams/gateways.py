"""`python -m benchmarks.durable_streams.gateways`: what is full first, a gateway or the one stream that holds them all.

Appends of 250 bytes to many durable streams, through one gateway and through two; and beside it what the same JetStream
stream takes from clients that append straight to it, as the gateway does: each expects the last sequence of its
subject. The processor time of gateway and broker for each append says how many gateways one stream would carry where
there are cores for them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.broker import Durability, servers
from benchmarks.durable_streams.__main__ import HERE, serving
from benchmarks.feed.servers import free_port
from orchestrator_free.broker import connect

_WRITERS = 256
_EVENT = b'{"text":"' + b"x" * 230 + b'"}'
_TICK = os.sysconf("SC_CLK_TCK")


def busy(process: int | None) -> float:
    """Processor seconds that a process has used; 0 of none."""
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def straight(url: str, seconds: float) -> float:
    """Appends a second of 256 clients that write to the stream itself, each to a subject of its own."""
    async with connect(url, member="bench") as broker:
        end = time.perf_counter() + seconds

        async def write(number: int) -> int:
            count = last = 0
            while time.perf_counter() < end:
                last = await broker.log.wire.publish(f"ds.0.data.bench{number}._", _EVENT, expect=last)
                count += 1
            return count

        return sum(await asyncio.gather(*map(write, range(_WRITERS)))) / seconds


def through(ports: list[int], seconds: float) -> float:
    """Appends a second through gateways, each with a generator of its own: 32 writers, 32 streams."""
    command = ["node", str(HERE / "load.mjs")]
    loads = [
        subprocess.Popen([*command, f"http://127.0.0.1:{port}", str(seconds), "many"], stdout=subprocess.PIPE)
        for port in ports
    ]
    found = [json.loads(load.communicate(timeout=300)[0]) for load in loads]
    return sum(float(one["32 writers, 32 streams"]["per_second"]) for one in found)


async def measure(console: Console, mode: Durability, seconds: float) -> None:
    """Print a row for one gateway and for two, and one for the stream itself."""
    table = Table("", "appends/s", "µs of a gateway's core", "µs of the broker's", title=f"one server, {mode}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        async with servers(Path(folder), 1, mode) as (server,):
            url, ports = server.url, [free_port(), free_port()]
            up = [sys.executable, "-m", "orchestrator_free", "up", "--broker", url, "--port"]
            processes = [stack.enter_context(serving([*up, str(port)], port)) for port in ports]
            for count in (1, 2):
                used = [busy(one.pid) for one in processes[:count]], busy(server.pid)
                rate = await asyncio.to_thread(through, ports[:count], seconds)
                appends = rate * seconds
                gateways = sum(busy(one.pid) for one in processes[:count]) - sum(used[0])
                own = [f"{1e6 * spent / appends:.0f}" for spent in (gateways, busy(server.pid) - used[1])]
                table.add_row(f"through {count} gateway(s)", f"{rate:,.0f}", *own)
            used_before = busy(server.pid)
            rate = await straight(url, seconds)
            spent = 1e6 * (busy(server.pid) - used_before) / (rate * seconds)
            table.add_row("straight to the stream", f"{rate:,.0f}", "", f"{spent:.0f}")
    console.print(table)


def main() -> None:
    """Measure both durabilities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    modes: tuple[Durability, ...] = ("interval", "fsync")
    for mode in modes:
        uvloop.run(measure(Console(), mode, options.seconds))


if __name__ == "__main__":
    main()
