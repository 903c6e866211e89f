"""The publishing half of the load generator: open loop at a fixed rate, or as fast as acknowledgements allow.

Open loop: the time a token is due is fixed in advance and travels in its payload; a log that stalls makes
later tokens late, it never makes them fewer.
"""

from __future__ import annotations

import ctypes
import socket
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.feed.measure import now, percentiles, wait_until
from benchmarks.feed.wires import Address, Stream, Wire, delta, finished, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.feed.workers import Pipe

_PR_SET_TIMERSLACK = 29
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Paced:
    """Publish tokens round-robin over `streams`, `rate` a second in all, starting at `start`."""

    wire: Wire
    address: Address
    streams: Sequence[Stream]
    rate: float
    seconds: float
    start: int

    @property
    def total(self) -> int:
        """How many tokens it will publish: the same number to every stream."""
        return max(1, round(self.rate * self.seconds / len(self.streams))) * len(self.streams)


@dataclass(frozen=True, slots=True)
class Bulk:
    """Write whole histories: open every run of a session (`opening`), interleave `tokens` tokens each, end
    them (`finish`)."""

    wire: Wire
    address: Address
    sessions: Sequence[Sequence[Stream]]
    tokens: int
    opening: bool = True
    finish: bool = False
    window: int = 512

    def frames(self) -> Iterator[bytes]:
        """Yield the appends in order, session by session."""
        stamp = now()
        end = finished(self.tokens, self_contained=self.wire.compacts) if self.finish else b""
        frame = self.wire.frame
        for streams in self.sessions:
            keys = [self.wire.key(stream) for stream in streams]
            if self.opening:
                if begin := self.wire.created(streams[0].session):
                    yield begin
                yield from (frame(key, started()) for key in keys)
            for number in range(self.tokens):
                payload = delta(number, stamp)
                yield from (frame(key, payload) for key in keys)
            if self.finish:
                yield from (frame(key, end, final=True) for key in keys)


class _Log:
    """One connection that counts acknowledgements."""

    def __init__(self, wire: Wire, address: Address) -> None:
        self._wire = wire
        self._socket = socket.create_connection(address, timeout=15)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.sent = 0
        self.acked = 0
        self._socket.sendall(wire.hello)
        greeting = b""
        while wire.ready not in greeting:
            greeting += self._receive()

    def _receive(self, flags: int = 0) -> bytes:
        data = self._socket.recv(1 << 18, flags)
        if not data:
            raise ConnectionError("the log closed the connection")
        return data

    def send(self, frames: Sequence[bytes]) -> None:
        """Write appends."""
        self._socket.sendall(b"".join(frames))
        self.sent += len(frames)

    def take(self, *, wait: bool) -> None:
        """Count acknowledgements that have arrived; with `wait`, at least one read of them."""
        try:
            data = self._rest + self._receive(0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if self._wire.refused in data:
            at = data.index(self._wire.refused)
            raise RuntimeError(f"the log refused an append: {data[at : at + 200]!r}")
        self.acked += data.count(self._wire.acked)
        self._rest = data[len(data) - len(self._wire.acked) + 1 :]

    def drain(self) -> None:
        """Wait until everything sent is acknowledged."""
        while self.acked < self.sent:
            self.take(wait=True)


def publish_paced(pipe: Pipe, job: Paced) -> dict[str, float]:
    """Publish at a fixed rate; return how late the generator itself was with writing, in ms."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    log = _Log(job.wire, job.address)
    keys = [job.wire.key(stream) for stream in job.streams]
    count, interval, frame = len(keys), 1e9 / job.rate, job.wire.frame
    late: list[float] = []
    pipe.send("ready")
    number = 0
    while number < job.total:
        due = job.start + int(number * interval)
        wait_until(due)
        current = now()
        late.append((current - due) / 1e6)
        reached = min(job.total, max(number + 1, int((current - job.start) / interval) + 1), number + 4096)
        log.send(
            [
                frame(keys[one % count], delta(one // count, job.start + int(one * interval)))
                for one in range(number, reached)
            ]
        )
        number = reached
        log.take(wait=False)
    seconds = (now() - job.start) / 1e9
    log.drain()
    lateness = percentiles(late)
    return {"published": number, "late_p50": lateness["p50"], "late_p99": lateness["p99"], "seconds": seconds}


def publish_bulk(pipe: Pipe, job: Bulk) -> dict[str, float]:
    """Publish as fast as `window` unacknowledged appends allow; return how many and in how many seconds."""
    log = _Log(job.wire, job.address)
    frames = job.frames()
    start = now()
    while batch := list(islice(frames, _BATCH)):
        log.send(batch)
        while log.sent - log.acked > job.window:
            log.take(wait=True)
    log.drain()
    return {"published": log.sent, "seconds": (now() - start) / 1e9}
