"""The feed's write path: one prepared bytes object, one write per client, no task and no queue per client.

A taken connection is a socket and a few slots. Nothing here is silent: a full buffer is `paused`, an end is
`on_close` (once, with its reason in `end`), and an unfinished body is visibly truncated for its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from orchestrator_free.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXTENSION: Final = "orchestrator_free.feed"

End = Literal["finished", "cut", "left", "flooded", "overrun"]

_LAST_CHUNK: Final = b"0\r\n\r\n"
_BROKEN_CHUNK: Final = b"1\r\n"  # promises a byte that never comes: an end nobody can take for a good one
CUT_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 30.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may cost.

    Attributes:
        buffer_bytes: above it a feed is `paused`; it resumes below a quarter of it.
        overrun_bytes: sends to a paused feed beyond it end the feed.
        kernel_bytes: unsent bytes the kernel may hold for a client, so that a slow one is seen early.
        unacked_seconds: a peer that acknowledges nothing for so long is gone (dead phone, stopped reader); the kernel
            asks silent ones, so that somebody who is gone is not shown as present for longer than that.
        incoming_bytes: what a client may send after its request; ignored, but beyond it the feed ends.
        head_bytes: size of a request's head.
        request_seconds: time for a request's head; and how long its body may progress by less than
            `body_bytes_per_second`.
    """

    buffer_bytes: int = 64 * 1024
    overrun_bytes: int = 4 * 1024 * 1024
    kernel_bytes: int = 128 * 1024
    unacked_seconds: float = 12.0
    incoming_bytes: int = 64 * 1024
    head_bytes: int = 64 * 1024
    request_seconds: float = 10.0
    body_bytes_per_second: int = 500


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Head:
    """The response head of a feed, without the headers that frame its body: whoever writes it adds them."""

    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise InvalidInput(f"{name!r}: {value!r} is no header; lower case, no control characters")
            if name in _FRAMING:
                raise InvalidInput(f"header {name!r} is set by the transport; leave it out")

    def encode(self, *, chunked: bool) -> bytes:
        """Return the head as HTTP/1.1 bytes.

        Where bodies are chunked it does not say `connection: close`, although the connection closes after the
        feed: undici (node's fetch) would then take any end of the connection for the end of the body. `keep-alive`
        says the same to it without that: it must not send its next request over a connection that is being closed.
        """
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += ["keep-alive: timeout=1", "transfer-encoding: chunked"] if chunked else ["connection: close"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def frame(data: bytes) -> bytes:
    """Return data as one HTTP chunk; nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def unframe(framed: bytes) -> bytes:
    """Return the data of one chunk made by `frame`."""
    return framed[framed.index(b"\r\n") + 2 : -2] if framed else b""


class Handler(Protocol):
    """Whoever feeds a client."""

    def on_resume(self, conn: Feed) -> None:
        """The buffer of a paused feed has drained: go on from this client's cursor."""

    def on_close(self, conn: Feed) -> None:
        """The feed is over; called once, `conn.end` says why."""


class Feed(ABC):
    """One client's live body, whatever carries it.

    Attributes:
        chunked: its bytes are written as HTTP chunks.
        end: why it is over; None while it is open.
        paused_since: monotonic time since when the client's buffer is full; None when it is not.
        writable: open and not paused.
        write: writes bytes that are framed already, without asking; for `Broadcast`.
    """

    __slots__ = ("chunked", "end", "handler", "limits", "paused_since", "writable", "write")

    def __init__(self, handler: Handler, write: Callable[[bytes], object], *, chunked: bool, limits: Limits) -> None:
        self.handler: Handler | None = handler
        self.write = write
        self.chunked = chunked
        self.limits = limits
        self.end: End | None = None
        self.paused_since: float | None = None
        self.writable = True

    @property
    def paused(self) -> bool:
        """The client does not keep up: keep a cursor, wait for `on_resume`."""
        return self.paused_since is not None

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self.end is not None

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that wait in this process for the client."""

    def send(self, data: bytes) -> None:
        """Write data, as one chunk where bodies are chunked; to a closed feed it does nothing."""
        self._put(frame(data) if self.chunked else data)

    def send_framed(self, framed: bytes) -> None:
        """Write what `frame` made, the same object for any number of clients; nothing is not written."""
        if framed:
            self._put(framed if self.chunked else unframe(framed))

    @abstractmethod
    def finish(self) -> None:
        """End the body as complete, then close; a client that takes more than 30 s for the rest is cut."""

    @abstractmethod
    def cut(self) -> None:
        """Close so that the client sees a truncated body and resumes; what is buffered has 1 s to leave."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, without what is buffered; the client sees a truncated body."""

    def expire(self, reason: str) -> None:
        """Cut it because its client's token counts no more, and say so in the handler's words, if it has any."""
        farewell = getattr(self.handler, "farewell", None)
        if farewell is not None and self.end is None:
            self.send(farewell(reason))
        self.cut()

    def pause_writing(self) -> None:
        """Called by the transport above `buffer_bytes`."""
        self.paused_since = time.monotonic()
        self.writable = False

    def resume_writing(self) -> None:
        """Called by the transport when the buffer has drained."""
        self.paused_since = None
        if self.end is None:
            self.writable = True
            if self.handler is not None:
                self.handler.on_resume(self)

    def _put(self, data: bytes) -> None:
        if self.writable:
            self.write(data)
        elif self.end is None:
            if self.buffered + len(data) > self.limits.overrun_bytes:
                self._stop("overrun")
                self.abort()
            else:
                self.write(data)

    def _stop(self, end: End) -> bool:
        if self.end is not None:
            return False
        self.end = end
        self.writable = False
        return True

    def _closed(self) -> None:
        self._stop("left")
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.on_close(self)


def tune(transport: asyncio.BaseTransport, limits: Limits) -> None:
    """Let the kernel give up dead peers and hold little for slow ones, where it can (Linux, TCP)."""
    lent = transport.get_extra_info("socket")
    if lent is None or lent.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # What uvloop lends makes a socket for every call.
    sock = socket.socket(lent.family, lent.type, lent.proto, lent.fileno())
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only where it made the listener
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(limits.unacked_seconds / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(limits.unacked_seconds / 4)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.unacked_seconds * 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.kernel_bytes)
    except (AttributeError, OSError):
        pass  # not Linux, or closed meanwhile
    finally:
        sock.detach()


class FeedConnection(Feed, asyncio.Protocol):
    """A taken TCP connection.

    A client that shuts down its write side has left: curl, browsers, httpx and undici never half-close after
    a request, so an EOF is a closed tab or a dead process; presence must not wait for the next failed write.
    """

    __slots__ = ("head", "incoming", "registry", "transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        handler: Handler,
        registry: set[Any],
        *,
        chunked: bool,
        limits: Limits,
    ) -> None:
        super().__init__(handler, transport.write, chunked=chunked, limits=limits)
        self.transport = transport
        self.registry = registry
        self.incoming = 0
        self.head = b""

    def begin(self, head: bytes) -> None:
        """Become the protocol of the connection; the head leaves with the first bytes, at the latest with this turn."""
        self.registry.add(self)
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=self.limits.buffer_bytes)
        self.head = head
        self.write = self._write_first
        asyncio.get_running_loop().call_soon(self._write_first, b"")

    def _write_first(self, data: bytes) -> None:
        head, self.head = self.head, b""
        self.write = self.transport.write
        if head or data:
            self.transport.writelines([head, data])  # not joined: many have the same data in their buffers

    @property
    def buffered(self) -> int:
        """Bytes in the transport's buffer; the kernel's are not counted."""
        return self.transport.get_write_buffer_size()

    def finish(self) -> None:
        """End the body as complete, then close."""
        if self._stop("finished"):
            if self.chunked:
                self.write(_LAST_CHUNK)
            self._close(FINISH_SECONDS)

    def cut(self) -> None:
        """Close so that the client sees a truncated body; without chunks only a reset says so."""
        if self._stop("cut"):
            if self.chunked:
                self.write(_BROKEN_CHUNK)
                self._close(CUT_SECONDS)
            else:
                self._reset()

    def abort(self) -> None:
        """Close at once."""
        if self._stop("cut") and self.chunked and not self.buffered:
            self.write(_BROKEN_CHUNK)
        if self.chunked and not self.buffered:
            self.transport.abort()
        else:
            self._reset()

    def shutdown(self) -> None:
        """Called by uvicorn's shutdown: a feed is cut, one that is ending has little time left."""
        if self.closed:
            self._close(CUT_SECONDS)
        else:
            self.cut()

    def data_received(self, data: bytes) -> None:
        """Ignore what follows the request, within a limit."""
        self.incoming += len(data)
        if self.incoming > self.limits.incoming_bytes:
            self._stop("flooded")
            self.abort()

    def eof_received(self) -> None:
        """The client has left; see the class."""
        self._stop("left")
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler, release the rest."""
        self.registry.discard(self)
        self._closed()

    def _close(self, seconds: float) -> None:
        if self.head:
            self.write(b"")
        self.transport.close()
        if self.buffered:
            asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """End what still waits to be taken: a mere close would leave it to the kernel, which tries for minutes."""
        if self in self.registry:
            self._reset()

    def _reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


class Broadcast:
    """Feeds that receive the same bytes."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: set[Feed] = set()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Feed]:
        return iter(tuple(self._members))

    def add(self, conn: Feed) -> None:
        """Let a feed receive what is written from now on."""
        self._members.add(conn)

    def discard(self, conn: Feed) -> None:
        """Forget a feed; do so in `on_close`."""
        self._members.discard(conn)

    def write(self, data: bytes) -> list[Feed]:
        """Write data, framed once, to every member that is not paused; return the paused ones, skipped."""
        framed = frame(data)
        skipped = []
        for conn in tuple(self._members):  # over TLS a write may call on_resume, which may add members
            if conn.writable:
                conn.write(framed if conn.chunked else data)
            elif conn.end is None:
                skipped.append(conn)
        return skipped
