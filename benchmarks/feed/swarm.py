"""The reading half of the load generator: many connections, one epoll loop that counts instead of parsing.

A connection is some bytes to send, and a needle that stands once in every event of the answer; the same code
reads SSE and NATS. A read costs one `recv_into`, one `count` and the decoding of at most two stamps: the oldest
and the newest event of the read, each standing for half of it.
"""

from __future__ import annotations

import select
import socket
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.feed.measure import STAMP_DIGITS, now

if TYPE_CHECKING:
    from benchmarks.feed.wires import Address

STAMP = b'"t":'
NEVER = 1 << 62
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Ask:
    """One connection to make.

    Attributes:
        address: where to.
        request: what is sent at once.
        good: how the answer must begin.
        ready: what shows that the answer has begun.
        needle: stands once in every event that counts.
        expect: so many events and it is complete; 0: it never is.
    """

    address: Address
    request: bytes
    good: bytes
    ready: bytes
    needle: bytes = STAMP
    expect: int = 0


class Client:
    """One connection of the swarm, and what it has seen."""

    __slots__ = (
        "ask",
        "began",
        "done",
        "error",
        "head",
        "keep",
        "latest",
        "ready",
        "seen",
        "socket",
        "worst",
    )

    def __init__(self, ask: Ask, connection: socket.socket) -> None:
        self.ask = ask
        self.socket = connection
        self.began = now()
        self.done = 0
        self.error = ""
        self.head = b""
        #: the end of the last read: a needle may lie across two reads
        self.keep = bytes(len(ask.needle) - 1)
        self.latest = 0
        self.ready = False
        self.seen = 0
        self.worst = 0


class Swarm:
    """Connections in one epoll loop.

    Attributes:
        since: events due earlier are counted but not timed.
        latencies: nanoseconds from due to read; weights: how many events each of them stands for.
        disorder: how often a client saw an older event after a newer one.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._open: dict[int, Client] = {}
        self.clients: list[Client] = []
        self.since = NEVER
        self.latencies = array("q")
        self.weights = array("d")
        self.disorder = 0

    def wake_for(self, fd: int) -> None:
        """Return from `step` when this file descriptor has something to read."""
        self._epoll.register(fd, select.EPOLLIN)

    def connect(self, ask: Ask) -> Client:
        """Begin a connection, and send its request as soon as it stands."""
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client = Client(ask, connection)
        self.clients.append(client)
        self._open[connection.fileno()] = client
        connection.connect_ex(ask.address)
        try:
            connection.send(ask.request)
            self._epoll.register(connection, select.EPOLLIN)
        except BlockingIOError:
            self._epoll.register(connection, select.EPOLLOUT)
        except OSError as error:
            self._fail(client, str(error))
        return client

    def close(self, client: Client) -> None:
        """Close a connection; what it has seen stays."""
        if self._open.pop(client.socket.fileno(), None):
            client.socket.close()

    def step(self, seconds: float) -> None:
        """Handle what has happened; wait at most so long for something to."""
        for fd, happened in self._epoll.poll(seconds):
            client = self._open.get(fd)
            if client is None:
                continue
            try:
                if happened & select.EPOLLOUT:
                    client.socket.send(client.ask.request)
                    self._epoll.modify(fd, select.EPOLLIN)
                else:
                    self._read(client)
            except BlockingIOError:
                continue
            except OSError as error:
                self._fail(client, str(error))

    def _read(self, client: Client) -> None:
        ask, buffer = client.ask, self._buffer
        kept = len(client.keep)
        size = client.socket.recv_into(self._view[kept:])
        if not size:
            self._fail(client, f"closed after {client.seen} events")
            return
        buffer[:kept] = client.keep
        end = kept + size
        found = buffer.count(ask.needle, 0, end)
        client.keep = bytes(buffer[size:end])
        if not client.ready:
            self._begin(client, bytes(buffer[kept:end]))
        if found:
            client.seen += found
            if self.since != NEVER:
                self._time(client, found, end)
            if 0 < ask.expect <= client.seen and not client.done:
                client.done = now()

    def _begin(self, client: Client, data: bytes) -> None:
        client.head += data
        if client.ask.ready in client.head:
            client.ready = True
            if not client.head.startswith(client.ask.good):
                self._fail(client, f"answered {client.head[:200]!r}")
            client.head = b""

    def _time(self, client: Client, found: int, end: int) -> None:
        """Time the oldest and the newest event of a read."""
        current = now()
        buffer = self._buffer
        first = buffer.find(STAMP, 0, end) + len(STAMP)
        ends = (first,) if found == 1 else (first, buffer.rfind(STAMP, 0, end) + len(STAMP))
        for at in ends:
            if at + STAMP_DIGITS > end:
                continue  # the rest of it comes with the next read
            due = int(buffer[at : at + STAMP_DIGITS])
            if due < client.latest:
                self.disorder += 1
            client.latest = due
            if due >= self.since:
                latency = current - due
                self.latencies.append(latency)
                self.weights.append(found / len(ends))
                client.worst = max(client.worst, latency)

    def _fail(self, client: Client, error: str) -> None:
        client.error = client.error or error
        self.close(client)
