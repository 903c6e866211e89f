"""https: feeds that the gateway has taken over go on over TLS as they do without, resume, cut and slow readers included."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
import websockets

from orchestrator_free.brokerdir import certificates
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free.broker import Broker


@pytest.fixture
def authority(tmp_path: Path) -> ssl.SSLContext:
    """Certificates in the test's folder; what trusts them."""
    certificates.ensure(tmp_path, certificates.LOCAL)
    return ssl.create_default_context(cafile=str(tmp_path / certificates.AUTHORITY))


@asynccontextmanager
async def served(broker: Broker, folder: Path) -> AsyncIterator[Server]:
    """A gateway that speaks https."""
    files = {"ssl_certfile": folder / certificates.SERVER, "ssl_keyfile": folder / certificates.SERVER_KEY}
    gateway = Gateway(broker)
    async with Server(
        gateway.app, port=0, on_drain=gateway.drain, **{name: str(path) for name, path in files.items()}
    ) as server:
        yield server


async def read_events(http: httpx.AsyncClient, session: str, count: int, after: str = "") -> list[tuple[str, Any]]:
    """Return so many events of a feed: position and envelope."""
    found: list[tuple[str, Any]] = []
    position = ""
    headers = {"last-event-id": after} if after else {}
    async with http.stream("GET", f"/sessions/{session}/events", headers=headers) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                position = line[4:]
            elif line.startswith("data: ") and position:
                found.append((position, orjson.loads(line[6:])))
                if len(found) == count:
                    break
    return found


async def test_a_feed_resumes_over_tls(ann: Broker, fresh: Any, tmp_path: Path, authority: ssl.SSLContext) -> None:
    """Left in the middle and taken up at the position: every event once, in order, live ones included."""
    name = fresh("s")
    session = ann.session(name)
    async with (
        served(ann, tmp_path) as server,
        httpx.AsyncClient(base_url=f"https://localhost:{server.port}", verify=authority, timeout=30) as http,
    ):
        assert (await http.post("/sessions", json={"session": name})).status_code == 201
        for number in range(10):
            await session.send(str(number), to="ada")
        first = await read_events(http, name, 5)
        rest = asyncio.create_task(read_events(http, name, 16, first[-1][0]))
        for number in range(10, 20):
            await session.send(str(number), to="ada")
        second = await rest

    texts = [envelope["event"].get("text") for _, envelope in first + second]
    assert texts == [None, *map(str, range(20))]


async def test_a_feed_is_cut_visibly_over_tls(
    ann: Broker, fresh: Any, tmp_path: Path, authority: ssl.SSLContext
) -> None:
    """At the gateway's end its client sees a truncated body, not a good end; the gateway ends in time."""
    name = fresh("s")
    await ann.session(name).create()
    async with served(ann, tmp_path) as server, httpx.AsyncClient(verify=authority, timeout=30) as http:
        async with http.stream("GET", f"https://localhost:{server.port}/sessions/{name}/events") as response:
            pieces = response.aiter_bytes()
            await anext(pieces)
            async with asyncio.timeout(20):
                await server.close()
                with pytest.raises(httpx.RemoteProtocolError):
                    async for _ in pieces:
                        pass


async def test_a_slow_reader_is_held_back_over_tls(
    ann: Broker, fresh: Any, tmp_path: Path, authority: ssl.SSLContext, eventually: Any
) -> None:
    """It reads nothing while much is written: the gateway's buffer stays bounded; then it gets everything, once."""
    name = fresh("s")
    session = ann.session(name)
    await session.create()
    async with served(ann, tmp_path) as server:
        reader, writer = await asyncio.open_connection("localhost", server.port, ssl=authority, limit=1)
        writer.write(f"GET /sessions/{name}/events?kinds=in HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await eventually(lambda: _feeds(server))
        for number in range(40):
            await session.send(f"{number}:" + "x" * 200_000, to="ada")
        await eventually(lambda: any(feed.paused for feed in _feeds(server)))
        assert max(feed.buffered for feed in _feeds(server)) < 6 * 1024 * 1024
        found = b""
        async with asyncio.timeout(60):
            while b'"39:x' not in found:
                found += await reader.read(2**20)
        writer.transport.abort()

    seen = [number for number in range(40) if f'"{number}:x'.encode() in found]
    assert seen == list(range(40))


def _feeds(server: Server) -> list[Any]:
    return [one for one in server._uvicorn.server_state.connections if hasattr(one, "paused")]


async def test_a_websocket_follows_over_tls(ann: Broker, fresh: Any, tmp_path: Path, authority: ssl.SSLContext) -> None:
    """wss: the first event of a session arrives."""
    name = fresh("s")
    await ann.session(name).create(title="over TLS")
    async with served(ann, tmp_path) as server:
        url = f"wss://localhost:{server.port}/sessions/{name}/events"
        async with websockets.connect(url, ssl=authority) as socket, asyncio.timeout(20):
            assert "over TLS" in str(await socket.recv())


async def test_plain_http_is_not_answered_where_https_is(
    ann: Broker, tmp_path: Path, authority: ssl.SSLContext
) -> None:
    """The connection ends, nothing of ours is said on it; https goes on."""
    async with served(ann, tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async with asyncio.timeout(20):
                await reader.readuntil(b"HTTP/1.1 200")
        writer.close()
        async with httpx.AsyncClient(verify=authority) as http:
            assert (await http.get(f"https://127.0.0.1:{server.port}/readyz")).status_code == 200
