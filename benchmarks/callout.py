"""`python -m benchmarks.callout`: connections a second through the auth callout, with one service and with two.

Broker, services and clients are processes of their own; each client has a token of its own. *plain*: a client says
CONNECT once and never again, so what fails is what the broker and the services did not manage in its time. *library*:
clients as programs have them, which try again. All connect at once, then all end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.feed.measure import cpu_seconds, percentiles, spin
from orchestrator_free.brokerdir import BrokerFolder
from orchestrator_free.brokerdir.running import embedded
from orchestrator_free.callout.grants import mint
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.identity.keys import public_path, read_key_file, write_new_keys
from orchestrator_free.jetstream import Wire, WireOptions
from orchestrator_free.loop import run

_CLIENTS = 2


async def plain(url: str, token: str) -> None:
    """Connect once, as the protocol is; raises what went wrong."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        await reader.readline()
        said = json.dumps({"verbose": False, "auth_token": token, "headers": True, "no_responders": True})
        writer.write(f"CONNECT {said}\r\nPING\r\n".encode())
        while (answer := await reader.readline()).startswith(b"PING"):
            writer.write(b"PONG\r\n")  # it measures how far we are
        if not answer.startswith(b"PONG"):
            raise ConnectionError(answer.decode().strip() or "closed")
    finally:
        writer.close()


async def library(url: str, token: str) -> None:
    """Connect as our programs do."""
    wire = await Wire.connect(WireOptions(url=url, token=token))
    await wire.close()


async def storm(how: str, url: str, tokens: list[str]) -> None:
    """Connect with all tokens at once; print the seconds that each took, None for those that failed."""
    connect = plain if how == "plain" else library

    async def one(token: str) -> float | None:
        began = time.perf_counter()
        try:
            await connect(url, token)
        except (OSError, OrchestratorFreeError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return None
        return time.perf_counter() - began

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(await asyncio.gather(*map(one, tokens))))


@contextmanager
def services(folder: BrokerFolder, keys: Path, count: int) -> Iterator[list[int]]:
    """Run services as `orchestrator-free callout` does; yields their process ids."""
    command = (sys.executable, "-m", "orchestrator_free", "callout", "-d", str(folder.path), "--auth-keys", str(keys))
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            one = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
            stack.callback(one.kill)
            assert one.stderr is not None
            while b"tokens of" not in (line := one.stderr.readline()):
                if not line:
                    raise RuntimeError("a service did not start")
            stack.enter_context(_drained(one))
            started.append(one.pid)
        yield started


@contextmanager
def _drained(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let what a service says go nowhere, so that it does not wait for a reader."""
    subprocess.Popen(("cat",), stdin=process.stderr, stdout=subprocess.DEVNULL)
    yield


def all_at_once(how: str, url: str, tokens: list[str]) -> tuple[list[float | None], float]:
    """Let client processes connect; return the seconds of each connect, and of all together."""
    command = (sys.executable, "-m", "benchmarks.callout", "--storm", how, "--url", url)
    clients = []
    for number in range(_CLIENTS):
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert one.stdin is not None and one.stdout is not None
        one.stdin.write(json.dumps(tokens[number::_CLIENTS]) + "\n")
        one.stdin.flush()
        one.stdout.readline()
        clients.append(one)
    began = time.perf_counter()
    for one in clients:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    waits: list[float | None] = []
    for one in clients:
        assert one.stdout is not None
        waits += json.loads(one.stdout.read().splitlines()[-1])
        one.wait()
    return waits, time.perf_counter() - began


async def measure(options: argparse.Namespace) -> None:
    """Run every combination and print a table."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"a fixed loop takes {spin():.1f} ms here and now", highlight=False)
    head = ("services", "clients", "at once", "failed", "connects/s", "p50 ms", "p99 ms", "ms of a service's CPU each")
    table = Table(*head)
    with tempfile.TemporaryDirectory() as path:
        keys = Path(path) / "keys.json"
        write_new_keys(keys, "EdDSA")
        key = next(iter(read_key_file(keys).values()))
        folder, _ = BrokerFolder.init(Path(path) / "b", callout=True, port=0, monitor_port=0, durability="interval")
        async with embedded(folder):
            for count in (1, 2):
                with services(folder, public_path(keys), count) as pids:
                    for how in ("plain", "library"):
                        for many in (100,) if options.quick else (300, 1000):
                            names = [f"{how}{count}-{number}" for number in range(many)]
                            tokens = [mint(key, name, "isolated", tenant="main") for name in names]
                            before = sum(map(cpu_seconds, pids))
                            waits, seconds = await asyncio.to_thread(all_at_once, how, folder.url, tokens)
                            used = sum(map(cpu_seconds, pids)) - before
                            came = [1e3 * wait for wait in waits if wait is not None]
                            shown = percentiles(came) or {"p50": 0, "p99": 0}
                            table.add_row(
                                str(count), how, str(many), str(many - len(came)), f"{len(came) / seconds:,.0f}",
                                f"{shown['p50']:,.0f}", f"{shown['p99']:,.0f}", f"{1e3 * used / many:.2f}",
                            )  # fmt: skip
    console.print(table)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.callout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    parser.add_argument("--storm", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.storm:
        run(storm(options.storm, options.url, json.loads(sys.stdin.readline())))
    else:
        run(measure(options))


if __name__ == "__main__":
    main()
