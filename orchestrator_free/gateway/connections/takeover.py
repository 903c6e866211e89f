"""Connections before and during their requests, and how one becomes a feed.

What uvicorn keeps per connection weighs 4 KiB, a running request 3 more. So a connection is let in when it
asks for something, a storm of them in batches: turns of the loop stay short for the feeds, memory flat.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from orchestrator_free.gateway.connections.transport import (
    DEFAULT_LIMITS,
    EXTENSION,
    FeedConnection,
    Handler,
    Head,
    Limits,
    tune,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH: Final = 64
_REFUSAL: Final = "HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Door:
    """The protocol factory of a server: every connection waits at the door until its client speaks.

    Give it to uvicorn as `http`.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._queue: deque[tuple[Visitor, bytes]] = deque()
        self._places = _BATCH

    def __call__(self, *, server_state: Any, **context: Any) -> Visitor:
        """Make the protocol of a new connection."""
        build = partial(FeedHttpProtocol, server_state=server_state, limits=self.limits, **context)
        return Visitor(self, server_state.connections, build)

    def knock(self, visitor: Visitor, data: bytes) -> None:
        """Let a client in, if this turn of the loop has a place left."""
        if not self._places:
            visitor.transport.pause_reading()
            self._queue.append((visitor, data))
            return
        if self._places == _BATCH:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._places -= 1
        visitor.enter(data)

    def _next_turn(self) -> None:
        self._places = _BATCH
        for _ in range(min(_BATCH, len(self._queue))):
            self.knock(*self._queue.popleft())


class Visitor(asyncio.Protocol):
    """A connection that has asked for nothing yet."""

    __slots__ = ("_build", "_deadline", "_door", "_registry", "transport")

    def __init__(self, door: Door, registry: set[Any], build: Callable[[], FeedHttpProtocol]) -> None:
        self._door = door
        self._registry = registry
        self._build = build

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first bytes, not for ever."""
        self.transport = transport
        self._registry.add(self)
        seconds = self._door.limits.request_seconds
        self._deadline = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Ask to be let in."""
        self._deadline.cancel()
        self._door.knock(self, data)

    def enter(self, data: bytes) -> None:
        """Become an HTTP connection."""
        if self.transport.is_closing():
            return
        self._registry.discard(self)
        protocol = self._build()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        self.transport.resume_reading()
        protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing was asked, nobody is told."""
        self._deadline.cancel()
        self._registry.discard(self)

    def shutdown(self) -> None:
        """Called by uvicorn's shutdown."""
        self.transport.close()


class FeedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose connections can become feeds: `scope["extensions"][EXTENSION](head, handler)` does it.

    A request has to arrive within the limits, too: uvicorn alone waits for ever for a half-sent one.
    """

    def __init__(self, *args: Any, limits: Limits = DEFAULT_LIMITS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None  # set while a request is expected or incomplete
        self._stage = 0  # even: waiting for a head; odd: for the body after it
        self._received = 0  # bytes of this stage, those of the packet it began in not counted
        self._lost = self._taken = self._draining = False

    def on_headers_complete(self) -> None:
        """Offer the connection to the application, whose task starts with the next turn of the loop."""
        self._stage += 1
        self._received = 0
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            take: Any = partial(self._take, weakref.ref(cycle))  # weak: no garbage cycle per request
            self.scope.setdefault("extensions", {})[EXTENSION] = take

    def _take(self, request: weakref.ref[RequestResponseCycle], head: Head, handler: Handler) -> FeedConnection:
        """Make a feed of the connection; what was pipelined behind the request is dropped."""
        cycle = request()
        if cycle is None or self._taken or cycle.response_started:
            raise RuntimeError("answered already: a connection can be taken once, before any response")
        chunked = cycle.scope["http_version"] == "1.1"
        conn = FeedConnection(self.transport, handler, self.connections, chunked=chunked, limits=self._limits)
        self._hand_over(cycle, conn)
        if self._lost:
            conn.eof_received()
            self.loop.call_soon(conn.connection_lost, None)
            return conn
        self.connections.discard(self)
        if self.flow.write_paused:
            conn.pause_writing()
        conn.begin(head.encode(chunked=chunked))
        if cycle.scope["method"] == "HEAD":
            conn.chunked = False
            conn.finish()
        elif self._draining:
            conn.cut()
        return conn

    def _hand_over(self, cycle: RequestResponseCycle, conn: FeedConnection) -> None:
        """Silence the request's cycle and drop all that the connection needed to be HTTP."""

        async def cut() -> None:
            conn.cut()  # the application failed after it had taken the connection

        self._taken = True
        cycle.send_500_response = cut  # type: ignore[method-assign]
        cycle.disconnected = True
        cycle.message_event.set()
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        self._forget()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.pipeline.clear()
        self.parser = self.cycle = self.scope = self.headers = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        tune(transport, self._limits)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Parse; count what a head or a body has cost so far."""
        if self._deadline is None:
            self._expect()
        stage = self._stage
        super().data_received(data)
        if self._stage == stage:
            self._received += len(data)
            if stage % 2 == 0 and self._received > self._limits.head_bytes:
                self._refuse("431 Request Header Fields Too Large")

    def on_message_complete(self) -> None:
        """The request is here: no deadline until the next one begins."""
        self._stage += 1
        self._received = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """An offer to upgrade (curl --http2 makes one) may be ignored; it is nothing to warn about."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything, so that no cycle of references keeps a connection until the next collection."""
        super().connection_lost(exc)
        self._lost = True
        self._forget()

    def shutdown(self) -> None:
        """Called by uvicorn's shutdown; a feed that is taken from now on is cut."""
        self._draining = True
        super().shutdown()

    def _expect(self) -> None:
        self._deadline = self.loop.call_later(self._limits.request_seconds, self._overdue)

    def _overdue(self) -> None:
        self._deadline = None
        slowest = self._limits.request_seconds * self._limits.body_bytes_per_second
        if self._stage % 2 == 0 and not self._answering():
            self._refuse("408 Request Timeout" if self._received else "")
        elif self._stage % 2 == 1 and self._received < slowest and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._received = 0
            self._expect()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: str) -> None:
        if status and not self._answering():
            self.transport.write(_REFUSAL.format(status).encode())
            self.transport.close()
        else:
            self.transport.abort()
