"""What a gateway keeps: nothing of what is over, one copy of what many are sent, little for those who do not read."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import weakref
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.gateway.settings import GatewaySettings
from tests.gateway.test_resume import gateway_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector: only what nothing refers to any more goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_a_session_that_is_dropped_is_gone_at_once(serve: Any, pen: Any, eventually: Any) -> None:
    """Reader, fold and frames; a collector that runs every few minutes would let megabytes of them pile up."""
    async with serve(settings=GatewaySettings(keep_seconds=0.1, sweep_seconds=0.05)) as gateway:
        async with gateway.feed(pen.session) as feed, gateway.feed(pen.session, snapshot="1"):
            await pen.story("ada", deltas=20)
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            channel = gateway.hub.hot(pen.session)
            kept = [weakref.ref(one) for one in (channel, channel.fold, channel.reader, channel.tail)]
            del channel
        await eventually(lambda: gateway.hub.hot(pen.session) is None)
        await eventually(lambda: [type(one()).__name__ for one in kept if one() is not None] == [])


def resident_kib(pid: int) -> int:
    """Return what a process holds in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@asynccontextmanager
async def not_reading(port: int, target: str, count: int) -> AsyncIterator[None]:
    """Clients that ask for a feed and read nothing of it."""
    loop, clients = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        yield
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("query", ["", "snapshot=1"])
async def test_clients_that_read_nothing_share_what_they_are_sent(
    programs: Any, tmp_path: Path, broker_url: str, pen: Any, eventually: Any, query: str
) -> None:
    """Of a session of 4 MB: 200 hold no copy each, neither of what is caught up with nor of the snapshot."""
    await pen.create("ada")
    await pen.start("ada")
    for number in range(80):
        await pen.say("ada", f"{number} {'x' * 50_000}")
    target = f"/sessions/{pen.session}/events?presence=0&{query}"

    async with gateway_process(programs, tmp_path, broker_url) as gateway:

        async def clients(count: int) -> bool:
            async with httpx.AsyncClient() as http:
                text = (await http.get(f"http://127.0.0.1:{gateway.port}/metrics")).text
            return f"orchestrator_free_gateway_clients {count}.0" in text

        async with not_reading(gateway.port, target, 20):
            await eventually(lambda: clients(20))
            before = resident_kib(gateway.pid)
            async with not_reading(gateway.port, target, 200):
                await eventually(lambda: clients(220))
                each = (resident_kib(gateway.pid) - before) / 200

    assert each < 40
