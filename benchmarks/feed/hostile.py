"""Clients that mean no good: some read nothing of what they asked for, some never finish asking; all come back."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.feed.measure import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.feed.workers import Pipe

_RECEIVE_BUFFER = 4096
#: so many come back at once, and no more often than the pause lets them
_BURST = 25
_PAUSE_SECONDS = 0.5
#: the gateway has given up a client that takes nothing by then
_AGAIN_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Harass:
    """Open a connection per request, send it and read nothing; say `ready`, go on until told anything.

    Attributes:
        address: where to.
        requests: what each sends; one that is cut off in the middle of its head is a half-sent request.
    """

    address: tuple[str, int]
    requests: Sequence[bytes]


def harass(pipe: Pipe, job: Harass) -> dict[str, float]:
    """Keep them all open; return how often one came back: of those that read nothing, of the half-sent."""
    epoll = select.epoll()
    epoll.register(pipe.fileno(), select.EPOLLIN)
    open_: dict[int, tuple[socket.socket, bytes, int]] = {}
    waiting = list(job.requests)
    again = {True: 0, False: 0}
    said, due = False, 0
    while not pipe.poll():
        if waiting and now() >= due:
            for request in [waiting.pop() for _ in range(min(_BURST, len(waiting)))]:
                connection = _connect(job.address, request)
                open_[connection.fileno()] = (connection, request, now() + int(_AGAIN_SECONDS * 1e9))
                epoll.register(connection, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
            due = now() + int(_PAUSE_SECONDS * 1e9)
        if not waiting and not said:
            pipe.send("ready")
            said = True
        ended = [fd for fd, _ in epoll.poll(_PAUSE_SECONDS / 4) if fd in open_]
        # Of a connection that takes nothing the kernel hears no end: its owner may as well come back.
        for fd in {*ended, *(fd for fd, (_, _, end) in open_.items() if now() > end)}:
            connection, request, _ = open_.pop(fd)
            connection.close()
            waiting.append(request)
            again[_is_whole(request)] += 1
    return {"again_readers": again[True], "again_half_sent": again[False]}


def _connect(address: tuple[str, int], request: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    connection.settimeout(15)
    connection.connect(address)
    connection.sendall(request)
    return connection


def _is_whole(request: bytes) -> bool:
    return request.endswith(b"\r\n\r\n")
