"""The feed over plain ASGI, for servers that hand over no connection: any but ours.

The same face as `FeedConnection` at the price of tasks and a queue per client; `FeedResponse` picks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.gateway.connections.transport import (
    CUT_SECONDS,
    DEFAULT_LIMITS,
    EXTENSION,
    FINISH_SECONDS,
    Feed,
    Handler,
    Head,
    Limits,
)
from orchestrator_free.gateway.connections.watch import STAY, Open, Stay

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class FeedCut(OrchestratorFreeError):  # noqa: N818 - reads as what happened
    """Raised to a foreign ASGI server, whose only way to truncate a body is an application that fails."""


class AsgiFeedConnection(Feed):
    """A feed over plain ASGI, for servers that hand over no connection; one task and one queue per client."""

    __slots__ = ("_aborted", "_queue", "_size", "_wake")

    def __init__(self, handler: Handler, limits: Limits) -> None:
        super().__init__(handler, self._append, chunked=False, limits=limits)
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._aborted = asyncio.Event()

    @property
    def buffered(self) -> int:
        """Bytes in the queue, with those the server has not taken yet."""
        return self._size

    def finish(self) -> None:
        """End the body as complete."""
        if self._stop("finished"):
            self._wake.set()
            asyncio.get_running_loop().call_later(FINISH_SECONDS, self._aborted.set)

    def cut(self) -> None:
        """End the body as truncated."""
        if self._stop("cut"):
            self._wake.set()
            asyncio.get_running_loop().call_later(CUT_SECONDS, self._aborted.set)

    def abort(self) -> None:
        """End the body as truncated, at once."""
        self._stop("cut")
        self._aborted.set()

    def _append(self, data: bytes) -> None:
        self._queue.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > self.limits.buffer_bytes and not self.paused:
            self.pause_writing()

    async def run(self, receive: Receive, send: Send) -> None:
        """Carry the feed until it ends, the client leaves or the server gives up."""
        pump, gone, aborted = tasks = [
            asyncio.ensure_future(wait) for wait in (self._pump(send), _disconnected(receive), self._aborted.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            left = gone.done() or (pump.done() and pump.exception() is not None)
            truncated = not left and (aborted.done() or self.end != "finished")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._closed()
        if truncated:
            raise FeedCut(f"the feed was ended before its end ({self.end}); its client resumes")
        if not left:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        while self.end is None or self._queue:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            data = b"".join(self._queue)
            self._queue.clear()
            await self._write(send, data)
            self._size -= len(data)
            if self.paused and self._size <= self.limits.buffer_bytes // 4:
                self.resume_writing()

    async def _write(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream_feed(
    scope: Scope,
    receive: Receive,
    send: Send,
    head: Head,
    handler: Handler,
    opened: Callable[[Feed], object],
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Serve a feed over plain ASGI; `opened` gets it, as it gets a taken connection.

    Raises:
        FeedCut: it was cut; the server must see a failure, or the client takes the body for complete.
    """
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
    await send({"type": "http.response.start", "status": head.status, "headers": headers})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    conn = AsgiFeedConnection(handler, limits)
    keep(scope, conn)
    opened(conn)
    await conn.run(receive, send)


def keep(scope: Scope, connection: Open) -> None:
    """Have a connection looked after, where there is a guard that does."""
    stay: Stay | None = scope.get(STAY)
    if stay is not None:
        stay.keep(connection)


class FeedResponse:
    """What an endpoint returns to answer with a feed: an ASGI application for any server.

    No response message is sent where the connection is taken, so middleware between server and endpoint has
    to be plain ASGI (Starlette's BaseHTTPMiddleware takes the silence for an error).
    """

    def __init__(self, head: Head, handler: Handler, opened: Callable[[Feed], object]) -> None:
        self.head = head
        self.handler = handler
        self.opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the connection, or stream if the server keeps it."""
        take: Callable[[Head, Handler], Feed] | None = scope.get("extensions", {}).get(EXTENSION)
        if take is None:
            await stream_feed(scope, receive, send, self.head, self.handler, self.opened)
            return
        conn = take(self.head, self.handler)
        keep(scope, conn)
        try:
            self.opened(conn)
        except BaseException:
            conn.abort()
            raise
