"""A steady load and those who read along: runs written as agents write them, and SSE clients that change gateways."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orchestrator_free.broker import Broker

_RETRY_SECONDS = 0.1
_SILENCE_SECONDS = 45.0


@dataclass(eq=False)
class Run:
    """One run's writer: a publish in flight, each expecting the sequence of the one before, as an agent does it.

    Attributes:
        acked: sequence by number of every event that the broker acknowledged.
        slowest: the longest wait for an acknowledgement, in seconds.
    """

    session: str
    member: str
    acked: dict[int, int] = field(default_factory=dict)
    slowest: float = 0.0

    def payload(self, number: int) -> bytes:
        return b'{"type":"text.delta","part":"1","text":"%s-%d "}' % (self.member.encode(), number)

    async def write(self, broker: Broker, every: float, stop: asyncio.Event) -> None:
        """Write an event every so many seconds, and make up for what was held up, until told to stop."""
        subject = f"session.{broker.log.shard(self.session)}.{self.session}.{self.member}.run.r"
        loop = asyncio.get_running_loop()
        due, last, number = loop.time(), 0, 0
        while not stop.is_set():
            began = time.monotonic()
            last = self.acked[number] = await broker.log.wire.publish(subject, self.payload(number), expect=last)
            self.slowest = max(self.slowest, time.monotonic() - began)
            number, due = number + 1, due + every
            await asyncio.sleep(max(0.0, due - loop.time()))


class Client:
    """Follows a session over HTTP/1.1; when its feed ends, however, it resumes at the next gateway by `Last-Event-ID`.

    Attributes:
        sequences: of the events, as they came.
        resumes: how often it had to ask again after the first time.
        refusals: answers other than 200 and connections refused, on the way back.
        controls: names of what was no event: `reset` would mean that it lost its place.
        worst_gap: the longest time between two reads that brought something, in seconds.
    """

    def __init__(self, gateways: Sequence[str], session: str) -> None:
        self.session = session
        self.sequences: list[int] = []
        self.resumes = -1
        self.refusals = 0
        self.controls: list[str] = []
        self.worst_gap = 0.0
        self._gateways = cycle(gateways)
        self._position = ""
        self._hash = hashlib.sha256()
        self._heard = 0.0

    @property
    def digest(self) -> str:
        """A hash over the bytes of every event, in the order of arrival."""
        return self._hash.hexdigest()

    async def follow(self) -> None:
        """Read until cancelled."""
        while True:
            self.resumes += 1
            try:
                async with asyncio.timeout(None) as patience:
                    await self._read(next(self._gateways), patience)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
                pass
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, gateway: str, patience: asyncio.Timeout) -> None:
        where = urlsplit(gateway)
        try:
            reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 22)
        except OSError:
            self.refusals += 1
            raise
        try:
            last = f"Last-Event-ID: {self._position}\r\n" if self._position else ""
            writer.write(f"GET /sessions/{self.session}/events HTTP/1.1\r\nHost: {where.netloc}\r\n{last}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                self.refusals += 1
                return
            buffer = b""
            while size := int(await reader.readline(), 16):
                patience.reschedule(asyncio.get_running_loop().time() + _SILENCE_SECONDS)
                *frames, buffer = (buffer + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
                self._take(frames)
        finally:
            writer.close()

    def _take(self, frames: list[bytes]) -> None:
        before = len(self.sequences)
        for frame in frames:
            head, _, data = frame.partition(b"\ndata: ")
            if data and head.startswith(b"id: "):
                self._position = head[4:].decode()
                self.sequences.append(int(self._position.rpartition("-")[2]))
                self._hash.update(data)
            elif frame.startswith(b"event: ") and not frame.startswith(b"event: cut\n"):  # it resumes
                self.controls.append(frame[7:].partition(b"\n")[0].decode())
        if len(self.sequences) > before:
            now = time.monotonic()
            self.worst_gap = max(self.worst_gap, now - self._heard if self._heard else 0.0)
            self._heard = now


@dataclass(eq=False)
class Load:
    """Sessions with their writers and readers: `async with load.running(broker)`."""

    runs: list[Run]
    clients: list[Client]
    rate: float

    @classmethod
    def over(cls, sessions: Sequence[str], gateways: Sequence[str], *, rate: float, writers: int, clients: int) -> Load:
        """Spread writers and clients evenly over sessions, and clients over gateways."""
        runs = [Run(sessions[number % len(sessions)], f"w{number}") for number in range(writers)]
        readers = []
        for number in range(clients):
            first = (number // len(sessions)) % len(gateways)
            readers.append(Client([*gateways[first:], *gateways[:first]], sessions[number % len(sessions)]))
        return cls(runs, readers, rate)

    @asynccontextmanager
    async def running(self, broker: Broker) -> AsyncIterator[None]:
        """Write and read until the block ends; then let the writers finish and every reader catch up."""
        stop = asyncio.Event()
        following = [asyncio.create_task(client.follow()) for client in self.clients]
        writing = [asyncio.create_task(run.write(broker, len(self.runs) / self.rate, stop)) for run in self.runs]
        try:
            yield
            stop.set()
            await asyncio.gather(*writing)
            await self._caught_up()
        finally:
            for task in (*writing, *following):
                task.cancel()
            await asyncio.gather(*writing, *following, return_exceptions=True)

    async def _caught_up(self) -> None:
        last = {run.session: 0 for run in self.runs}
        for run in self.runs:
            last[run.session] = max(last[run.session], *run.acked.values())
        end = time.monotonic() + 40
        while behind := [one for one in self.clients if not one.sequences or one.sequences[-1] < last[one.session]]:
            assert time.monotonic() < end, f"{len(behind)} clients do not catch up"
            await asyncio.sleep(0.02)

    @property
    def written(self) -> int:
        """Events acknowledged so far."""
        return sum(len(run.acked) for run in self.runs)

    def report(self) -> str:
        """Say what writers and readers went through."""
        gaps = sorted(client.worst_gap for client in self.clients)
        return (
            f"{self.written} events acknowledged, {sum(len(c.sequences) for c in self.clients)} delivered; "
            f"worst stall of a writer {max(run.slowest for run in self.runs):.2f} s; worst gap of a client: median "
            f"{gaps[len(gaps) // 2]:.2f} s, highest {gaps[-1]:.2f} s; "
            f"{sum(client.resumes for client in self.clients)} resumes, {sum(c.refusals for c in self.clients)} refusals"
        )

    async def judge(self, broker: Broker) -> None:
        """Compare everything with the log: nothing acknowledged is lost, nothing is there twice, all saw the same."""
        for session in {run.session for run in self.runs}:
            log = await self._log(broker, session)
            for run in (one for one in self.runs if one.session == session):
                subject = f"session.{broker.log.shard(session)}.{session}.{run.member}.run.r"
                stored = [(message.sequence, message.payload) for message in log if message.subject == subject]
                assert stored == [(sequence, run.payload(number)) for number, sequence in run.acked.items()]
            sequences = [message.sequence for message in log]
            readers = [client for client in self.clients if client.session == session]
            assert [one.controls for one in readers] == [[]] * len(readers)
            assert all(one.sequences == sequences for one in readers)
            assert len({one.digest for one in readers}) <= 1

    async def _log(self, broker: Broker, session: str) -> list[Any]:
        shard = broker.log.shard(session)
        subject = f"session.{shard}.{session}.>"
        last = await broker.log.last(shard, subject)
        assert last is not None
        return await broker.log.read(shard, subject, reach=last.sequence)
