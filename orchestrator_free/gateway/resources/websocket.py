"""The feed over WebSocket: the same positions and meanings as over SSE, a JSON text message for each event.

A message is the envelope of an event, or `{"control": "snapshot" | "reset" | "cut" | "idle" | …, "position", "data"}`.
The socket closes with 1000 at an end, with 1012 where the client is to come back and resume, with 4401 where it needs
another token for that. It dodges the six
connections that a browser opens to one host. What a client sends is ignored: it speaks over HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.websockets import WebSocket

from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.connections.fallback import AsgiFeedConnection, Receive, Send, keep
from orchestrator_free.gateway.connections.transport import DEFAULT_LIMITS, Handler, Limits
from orchestrator_free.gateway.problems import on_error
from orchestrator_free.gateway.resources.feed import prepare

#: closing codes of RFC 6455: all is said; come back
NORMAL: Final = 1000
RESTART: Final = 1012
#: the token counts no more: come back with another
UNAUTHORIZED: Final = 4401
_REASONS: Final = {NORMAL: "", RESTART: "resume", UNAUTHORIZED: "token"}


async def follow_socket(websocket: WebSocket, hub: Hub) -> None:
    """Feed a session to a WebSocket until either side ends it; a wrong request gets its problem document instead."""
    try:
        client, opened = await prepare(websocket, hub, "ndjson")
    except OrchestratorFreeError as error:
        await websocket.send_denial_response(await on_error(websocket, error))
        return
    await websocket.accept()
    feed = SocketFeed(client, DEFAULT_LIMITS)
    keep(websocket.scope, feed)
    opened(feed)
    await feed.run(websocket.receive, websocket.send)


class SocketFeed(AsgiFeedConnection):
    """A feed whose lines are messages."""

    __slots__ = ("_unauthorized",)

    def __init__(self, handler: Handler, limits: Limits) -> None:
        super().__init__(handler, limits)
        self._unauthorized = False

    def expire(self, reason: str) -> None:
        """Cut it, with a closing code of its own."""
        self._unauthorized = True
        super().expire(reason)

    async def run(self, receive: Receive, send: Send) -> None:
        """Carry the feed until it ends or the client leaves."""
        pump, gone, aborted = tasks = [
            asyncio.ensure_future(wait) for wait in (self._pump(send), _left(receive), self._aborted.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            left = gone.done() or (pump.done() and pump.exception() is not None)
            code = NORMAL if self.end == "finished" and not aborted.done() else RESTART
            code = UNAUTHORIZED if self._unauthorized else code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._closed()
        if not left:
            await send({"type": "websocket.close", "code": code, "reason": _REASONS[code]})

    async def _write(self, send: Send, data: bytes) -> None:
        for line in data.split(b"\n"):
            if line:
                await send({"type": "websocket.send", "text": line.decode()})


async def _left(receive: Receive) -> None:
    message: Any = {"type": ""}
    while message["type"] != "websocket.disconnect":
        message = await receive()
