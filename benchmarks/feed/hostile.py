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
    """Keep them all open; return how often the server has cut one: of those that read nothing, of the half-sent."""
    epoll = select.epoll()
    epoll.register(pipe.fileno(), select.EPOLLIN)
    open_: dict[int, tuple[socket.socket, bytes]] = {}
    waiting = list(job.requests)
    cut = {True: 0, False: 0}
    said, due = False, 0
    while not pipe.poll():
        if waiting and now() >= due:
            for request in [waiting.pop() for _ in range(min(_BURST, len(waiting)))]:
                connection = _connect(job.address, request)
                open_[connection.fileno()] = (connection, request)
                epoll.register(connection, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
            due = now() + int(_PAUSE_SECONDS * 1e9)
        if not waiting and not said:
            pipe.send("ready")
            said = True
        for fd, _ in epoll.poll(_PAUSE_SECONDS / 4):
            if fd in open_:
                connection, request = open_.pop(fd)
                connection.close()
                waiting.append(request)
                cut[_is_whole(request)] += 1
    return {"cut_readers": cut[True], "cut_half_sent": cut[False]}


def _connect(address: tuple[str, int], request: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    connection.settimeout(15)
    connection.connect(address)
    connection.sendall(request)
    return connection


def _is_whole(request: bytes) -> bool:
    return request.endswith(b"\r\n\r\n")
