"""The ceiling: a uvloop server that writes prepared SSE frames to whoever connects, at a rate it is told.

It has no log, no sessions and no catch-up: what it reaches is what generator and machine can reach.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvloop

from benchmarks.feed.measure import now

if TYPE_CHECKING:
    from benchmarks.feed.workers import Pipe

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FRAME = (
    b'id: ab12cd34-%d\ndata: {"position":"ab12cd34-%d","session":"fanout-0-400000","member":"a0",'
    b'"kind":"run","id":"r0","time":"2026-01-01T00:00:00.000000Z",'
    b'"event":{"type":"text.delta","part":"1","text":"tok %06d ","t":%d}}\n\n'
)
_TICK_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Burst:
    """Send `total` events to every client, `rate` a second, beginning at `start`."""

    rate: float
    total: int
    start: int


class _Peer(asyncio.Protocol):
    """Greets, and then only listens."""

    def __init__(self, peers: list[asyncio.Transport]) -> None:
        self.peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_HEAD)
        self.peers.append(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport in self.peers:
            self.peers.remove(self._transport)


async def _send(burst: Burst, peers: list[asyncio.Transport]) -> None:
    sent = 0
    interval = 1e9 / burst.rate
    while sent < burst.total:
        due = min(burst.total, int((now() - burst.start) / interval) + 1)
        if due > sent:
            frames = [_FRAME % (one, one, one, burst.start + int(one * interval)) for one in range(sent, due)]
            body = b"".join(frames)
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            for peer in list(peers):
                peer.write(chunk)
            sent = due
        await asyncio.sleep(_TICK_SECONDS)


async def _serve(pipe: Pipe, port: int) -> None:
    peers: list[asyncio.Transport] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Peer(peers), "127.0.0.1", port, backlog=4096)
    pipe.send("ready")
    async with server:
        while True:
            burst = await loop.run_in_executor(None, pipe.recv)
            await _send(burst, peers)
            pipe.send("sent")


def broadcast(pipe: Pipe, port: int) -> None:
    """Serve until terminated; every `Burst` it is told is answered with `sent`."""
    uvloop.run(_serve(pipe, port))
