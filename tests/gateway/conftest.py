"""What the gateway's tests share: gateways in this process, feeds over real sockets, a writer for any member."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.events import Event, encode
from orchestrator_free.fold import Fold
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.subjects import address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

#: text that has broken somebody's event stream before
NASTY = 'a "quote"\nline\r\nline\rline \u2028 \u2029 \x00 \u0085 naïve 🦜 \\n data: x\n\nid: 1\n\n'


@dataclass
class Received:
    """What a spec-conformant client dispatches."""

    event: str
    data: str
    id: str

    @property
    def envelope(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.data)
        return found


class SseParser:
    """The event-stream grammar of the HTML standard; an event, and its id, count once its blank line has come."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments: list[str] = []
        self._line = b""
        self._cr = False
        self._reset()

    def _reset(self) -> None:
        self._event, self._data, self._id = "", [], self.last_id  # type: ignore[var-annotated]

    def feed(self, piece: bytes) -> list[Received]:
        found = []
        for line in self._lines(piece):
            if not line:
                self.last_id = self._id
                if self._data:
                    found.append(Received(self._event, "\n".join(self._data), self.last_id))
                self._reset()
            else:
                self._take(line.decode())
        return found

    def _lines(self, piece: bytes) -> list[bytes]:
        if self._cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._cr = piece.endswith(b"\r") or (self._cr and not piece)
        text = (self._line + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._line = text.split(b"\n")
        return lines

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments.append(value)
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry":
                self.retry = int(value)


class Feed:
    """A client of a feed over a socket of its own; reads until it ends, which is `finished` or `truncated`.

    Attributes:
        body: what came, without HTTP's framing.
        events: the log's events; controls: the other frames, by name.
    """

    def __init__(self, port: int, target: str, headers: dict[str, str], receive_buffer: int = 0) -> None:
        self.port = port
        self.target = target
        self.headers = headers
        self.status = 0
        self.head = ""
        self.body = bytearray()
        self.events: list[Received] = []
        self.controls: list[Received] = []
        self.end: str | None = None
        self.parser = SseParser()
        self.reading = asyncio.Event()
        self.reading.set()
        self.arrived: list[float] = []
        self._receive_buffer = receive_buffer
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        # A limit of one byte: what this client does not read stays in the kernel.
        self._reader, self._writer = await asyncio.open_connection(
            sock=sock, limit=1 if self._receive_buffer else 2**16
        )
        lines = [
            f"GET {self.target} HTTP/1.1",
            "host: localhost",
            *(f"{k}: {v}" for k, v in self.headers.items()),
            "",
            "",
        ]
        self._writer.write("\r\n".join(lines).encode())

    async def run(self) -> None:
        try:
            if self._writer is None:
                await self.open()
            await self.reading.wait()
            await self._read()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if isinstance(error, asyncio.IncompleteReadError):
                self._take(error.partial if self.status else b"")
            self.end = "truncated"
        finally:
            self.close()

    async def _until(self, end: bytes) -> bytes:
        found = b""
        while not found.endswith(end):
            found += await self._reader.readexactly(1)
        return found

    async def _read(self) -> None:
        self.head = (await self._until(b"\r\n\r\n")).decode("latin-1").lower()
        self.status = int(self.head.split(" ", 2)[1])
        if "transfer-encoding: chunked" not in self.head:
            length = int(self.head.partition("content-length: ")[2].partition("\r")[0])
            self.body += await self._reader.readexactly(length)
            self.end = "finished"
            return
        while size := int(await self._until(b"\r\n"), 16):
            while size:
                await self.reading.wait()
                piece = await self._reader.read(min(size, 2**16))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", size)
                self._take(piece)
                size -= len(piece)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        self.end = "finished"

    def _take(self, piece: bytes) -> None:
        self.body += piece
        if "ndjson" in self.head:
            return
        for one in self.parser.feed(piece):
            (self.controls if one.event else self.events).append(one)
            self.arrived.append(asyncio.get_running_loop().time())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def positions(self) -> list[str]:
        return [one.id for one in self.events]

    @property
    def names(self) -> list[str]:
        return [one.event for one in self.controls]


def _target(session: str, query: dict[str, Any]) -> str:
    return f"/sessions/{session}/events" + (f"?{urlencode(query)}" if query else "")


@dataclass
class Serving:
    """A gateway that serves."""

    gateway: Gateway
    server: Server
    http: httpx.AsyncClient

    @property
    def hub(self) -> Any:
        return self.gateway.hub

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def feed(
        self, session: str, *, headers: dict[str, str] | None = None, port: int = 0, buffer: int = 0, **query: Any
    ) -> AsyncIterator[Feed]:
        """Follow a session; the feed reads in the background."""
        feed = Feed(port or self.port, _target(session, query), headers or {}, buffer)
        await feed.open()
        task = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            feed.close()

    async def read(self, session: str, *, headers: dict[str, str] | None = None, port: int = 0, **query: Any) -> Feed:
        """Follow a session until the feed ends by itself."""
        feed = Feed(port or self.port, _target(session, query), headers or {})
        async with asyncio.timeout(20):
            await feed.run()
        return feed

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.gateway.registry.get_sample_value(f"orchestrator_free_gateway_{name}", labels) or 0.0


@asynccontextmanager
async def _serve(url: str, *, settings: GatewaySettings | None = None, **server: Any) -> AsyncIterator[Serving]:
    async with connect(url, member="gateway") as broker:
        gateway = Gateway(broker, settings=settings)
        async with (
            Server(gateway.app, port=0, on_drain=gateway.drain, **server) as served,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=30) as http,
        ):
            yield Serving(gateway, served, http)


@pytest.fixture
def serve(broker_url: str) -> Callable[..., Any]:
    """Start a gateway: `async with serve(settings=…, limits=…) as gateway:`."""

    def start(url: str = "", **options: Any) -> Any:
        return _serve(url or broker_url, **options)

    return start


@pytest.fixture
async def gateway(broker_url: str) -> AsyncIterator[Serving]:
    """A gateway over the module's broker."""
    async with _serve(broker_url) as serving:
        yield serving


@dataclass
class Pen:
    """Writes a session's events as any member, as a plain publisher would."""

    broker: Broker
    session: str
    sequences: list[int] = field(default_factory=list)

    async def write(self, member: str, kind: str, body: Any, *, rollup: bool = False, **where: str) -> int:
        """Append one event, or raw bytes; return its sequence."""
        subject = str(address(self.broker.log.shard(self.session), self.session, member, kind, **where))
        payload = body if isinstance(body, bytes) else encode(body)
        wire = self.broker.log.wire
        sequence = await wire.publish(subject, payload, rollup=rollup, message_id=secrets.token_hex(8))
        self.sequences.append(sequence)
        return sequence

    async def create(self, *agents: str) -> None:
        await self.write("ann", "meta", {"type": "session.created", "title": self.session, "agents": agents})

    async def start(self, agent: str, run: str = "r1") -> None:
        await self.write(agent, "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=run)

    async def say(self, agent: str, text: str, run: str = "r1") -> int:
        return await self.write(agent, "run", {"type": "text.delta", "part": "1", "text": text}, id=run)

    async def finish(self, agent: str, run: str = "r1") -> None:
        """End a run without replacing its deltas, so that the log stays as it was written."""
        await self.write(agent, "run", {"type": "run.finished", "status": "done"}, id=run)

    async def story(self, *agents: str, deltas: int = 3) -> None:
        """A session with finished runs, every event of them kept."""
        await self.create(*agents)
        for agent in agents:
            await self.start(agent)
            for number in range(deltas):
                await self.say(agent, f"{number} {NASTY if number == 1 else 'word'}")
            await self.finish(agent)

    async def log(self) -> list[tuple[str, Any]]:
        """Return (position, payload) of every event in the log."""
        shard = self.broker.log.shard(self.session)
        session = self.broker.session(self.session)
        messages = await self.broker.log.read(shard, session.filter)
        return [(str(session.position(one.sequence)), orjson.loads(one.payload)) for one in messages]


@pytest.fixture
def pen(ann: Broker, fresh: Callable[[str], str]) -> Pen:
    """A new session to write in."""
    return Pen(ann, fresh("s"))


@pytest.fixture
def pen_for(ann: Broker) -> Callable[[str], Pen]:
    """A pen for a session of any name."""
    return lambda session: Pen(ann, session)


def events_of(received: list[Received]) -> list[tuple[str, Any]]:
    """Return (position, payload) of what a client got, as `Pen.log` does."""
    return [(one.envelope["position"], one.envelope["event"]) for one in received]


def refold(envelopes: list[dict[str, Any]], fold: Fold) -> dict[str, Any]:
    """Fold envelopes as a client would."""
    for envelope in envelopes:
        where = address(
            0, fold.session, envelope["member"], envelope["kind"],
            target=envelope.get("target", ""), id=envelope.get("id", ""),
        )  # fmt: skip
        fold.apply(Event(int(envelope["position"].rpartition("-")[2]), envelope["time"], where, envelope["event"]))
    return fold.view(envelopes[-1]["position"])


@pytest.fixture
def got() -> Callable[[list[Received]], list[tuple[str, Any]]]:
    """What a client got, in the form of `Pen.log`: `got(feed.events) == await pen.log()`."""
    return events_of


@pytest.fixture
def folded() -> Callable[[list[dict[str, Any]], Fold], dict[str, Any]]:
    """Fold envelopes: `folded([…], Fold(session))`."""
    return refold


class Proxy:
    """A TCP proxy: it ends an answer after `cut_after` bytes of its body (reset or closed by turns), or delays it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.cut_after: int | None = None
        self.delay = 0.0
        self.closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """End every connection; while `closed` is set, new ones end at once, too."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream, out = await asyncio.open_connection("127.0.0.1", self._target)
        there = asyncio.create_task(_copy(reader, out))
        try:
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                await self._answer(upstream, writer)
        finally:
            there.cancel()
            writer.transport.abort() if (self.cut_after or 0) % 2 else writer.close()
            out.transport.abort()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.cut_after
        if left is not None:
            writer.write(await upstream.readuntil(b"\r\n\r\n"))
        while piece := await upstream.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(piece if left is None else piece[:left])
            await writer.drain()
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()


@pytest.fixture
def proxy() -> Callable[[int], Proxy]:
    """A TCP proxy to a port: `async with proxy(port) as between:`."""
    return Proxy


@pytest.fixture(scope="session")
def clients(packages: Callable[[Path], Path]) -> Path:
    """tests/clients with its packages."""
    return packages(Path(__file__).parents[1] / "clients")
