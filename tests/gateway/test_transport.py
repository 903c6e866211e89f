"""Feeds over real sockets: framing, ends that clients can tell apart, flow control, takeovers."""

from __future__ import annotations

import asyncio
import gc
import select
import shutil
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.gateway.connections.takeover import FeedHttpProtocol
from orchestrator_free.gateway.connections.transport import (
    DEFAULT_LIMITS,
    EXTENSION,
    Broadcast,
    Feed,
    Head,
    Limits,
    frame,
    unframe,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

HEAD = Head((("content-type", "text/event-stream"), ("cache-control", "no-cache")))
SERVERS = {"taken": {}, "plain ASGI": {"http": "h11"}}


def both_loops(test: Callable[[], Awaitable[None]]) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on uvloop's, whose transports differ in what matters here."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

    @pytest.mark.parametrize("loop", loops)
    def run(loop: str) -> None:
        with asyncio.Runner(loop_factory=loops[loop]) as runner:
            runner.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


class Desk:
    """The application of these tests, which remembers its feeds and what became of them."""

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.closed: list[Feed] = []
        self.resumed: list[Feed] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.errors: list[Exception] = []

    def on_resume(self, conn: Feed) -> None:
        self.resumed.append(conn)

    def on_close(self, conn: Feed) -> None:
        self.closed.append(conn)

    async def feed(self, request: Request) -> FeedResponse:
        self.bodies.append(await request.body())
        return FeedResponse(HEAD, self, self.feeds.append)

    async def late(self, request: Request) -> FeedResponse:
        await self.gate.wait()
        return FeedResponse(HEAD, self, self.feeds.append)

    async def failing(self, request: Request) -> Response:
        self.feeds.append(request.scope["extensions"][EXTENSION](HEAD, self))
        raise RuntimeError("after the takeover")

    async def unready(self, request: Request) -> FeedResponse:
        def opened(conn: Feed) -> None:
            self.feeds.append(conn)
            raise HTTPException(409)

        return FeedResponse(HEAD, self, opened)

    async def greedy(self, request: Request) -> FeedResponse:
        take = request.scope["extensions"][EXTENSION]
        try:
            take(HEAD, self)
            take(HEAD, self)
        except RuntimeError as error:
            self.errors.append(error)
        return lambda *_: asyncio.sleep(0)

    async def big(self, request: Request) -> Response:
        return Response(b"x" * 32_000_000)

    def app(self) -> Starlette:
        plain = Route("/plain", lambda _: PlainTextResponse("plain"))
        feed = Route("/feed", self.feed, methods=["GET", "POST"])
        names = ("late", "failing", "unready", "greedy", "big")
        return Starlette(routes=[plain, feed, *(Route(f"/{name}", getattr(self, name)) for name in names)])


class Client:
    """A raw TCP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: str = "/feed", *, method: str = "GET", version: str = "1.1", body: bytes = b"") -> None:
        length = f"content-length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{method} {path} HTTP/{version}\r\nhost: x\r\n{length}\r\n".encode() + body)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 10)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)


@asynccontextmanager
async def connect(server: Server) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def feeding(**options: object) -> AsyncIterator[tuple[Desk, Server]]:
    desk = Desk()
    async with Server(desk.app(), port=0, **options) as server:
        yield desk, server


@asynccontextmanager
async def fed(
    limits: Limits = DEFAULT_LIMITS, *, version: str = "1.1", receive_buffer: int = 0
) -> AsyncIterator[tuple[Desk, Feed, Client]]:
    """A feed and its client, which has read the head."""
    async with feeding(limits=limits) as (desk, server), connect(server) as client:
        if receive_buffer:
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.ask(version=version)
        await client.head()
        yield desk, desk.feeds[0], client


# -- bytes ---------------------------------------------------------------------------------------------------


@given(st.binary())
def test_a_frame_is_one_chunk_and_can_be_undone(data: bytes) -> None:
    """What is framed for many clients can be given to one without chunks."""
    size, _, rest = frame(data).partition(b"\r\n")

    assert unframe(frame(data)) == data
    assert not data or (int(size, 16), rest) == (len(data), data + b"\r\n")


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nset-cookie: b"),
        ("x y", "a"),
        ("X", "a"),
        ("x", "\u20ac"),
        ("transfer-encoding", "chunked"),
    ],
)
def test_a_head_refuses_what_would_break_the_response(header: tuple[str, str]) -> None:
    """No injection, and nothing that contradicts the framing."""
    with pytest.raises(InvalidInput, match="header"):
        Head((header,))


@both_loops
async def test_a_feed_is_a_head_and_one_chunk_per_send() -> None:
    """The exact bytes of a feed."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask()
        head = await client.head()
        desk.feeds[0].send(b"data: 1\n\n")
        desk.feeds[0].send_framed(frame(b"data: 22\n\n"))
        desk.feeds[0].send(b"")
        desk.feeds[0].finish()

        assert head == (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
            b"keep-alive: timeout=1\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert await client.rest() == b"9\r\ndata: 1\n\n\r\na\r\ndata: 22\n\n\r\n0\r\n\r\n"
        await until(lambda: desk.closed == desk.feeds)
        assert desk.feeds[0].end == "finished"


@both_loops
async def test_http_1_0_gets_plain_bytes_and_an_end_of_connection() -> None:
    """A client that does not know chunks is served without them."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask(version="1.0")
        head = await client.head()
        desk.feeds[0].send(b"data: 1\n\n")
        desk.feeds[0].send_framed(frame(b"data: 2\n\n"))
        desk.feeds[0].finish()

        assert b"transfer-encoding" not in head and b"connection: close" in head
        assert await client.rest() == b"data: 1\n\ndata: 2\n\n"


@both_loops
async def test_a_cut_ends_inside_a_chunk_that_never_comes() -> None:
    """Some clients forgive an end between two chunks."""
    async with fed() as (_, feed, client):
        feed.send(b"data: 1\n\n")
        feed.cut()

        assert await client.rest() == frame(b"data: 1\n\n") + b"1\r\n"


@both_loops
async def test_http_1_0_sees_a_cut_as_a_reset() -> None:
    """Without chunks a plain end would be taken for success."""
    async with fed(version="1.0") as (desk, feed, client):
        feed.send(b"data: 1\n\n")
        assert await client.read(9) == b"data: 1\n\n"
        feed.cut()

        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: desk.closed == [feed])
        feed.abort()


@both_loops
async def test_head_is_answered_with_the_head_alone() -> None:
    """A HEAD request costs no feed."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask(method="HEAD")
        head = await client.rest()

        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"\r\n\r\n")
        await until(lambda: desk.closed == desk.feeds)


@both_loops
async def test_a_post_with_a_body_can_be_answered_with_a_feed() -> None:
    """Chat clients post their messages and read the feed as the response."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask(method="POST", body=b"hello")
        await client.head()

        assert desk.bodies == [b"hello"]


# -- ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS)
async def test_httpx_reads_a_finished_feed_to_its_clean_end(options: dict[str, str]) -> None:
    """A finished body is complete for an ordinary client, on our server and on plain ASGI."""
    async with feeding(**options) as (desk, server), httpx.AsyncClient() as http:
        async with http.stream("GET", f"http://{server.host}:{server.port}/feed") as response:
            await until(lambda: desk.feeds)
            desk.feeds[0].send(b"data: 1\n\n")
            desk.feeds[0].send_framed(frame(b"data: 2\n\n"))
            desk.feeds[0].finish()

            assert response.headers["content-type"] == "text/event-stream"
            assert await response.aread() == b"data: 1\n\ndata: 2\n\n"
        await until(lambda: desk.closed == desk.feeds)


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("end", ["cut", "abort"])
async def test_httpx_sees_a_cut_as_an_error_after_the_data(end: str, options: dict[str, str]) -> None:
    """A cut feed cannot be taken for a finished one; what was sent before it has arrived."""
    async with feeding(**options) as (desk, server), httpx.AsyncClient() as http:
        async with http.stream("GET", f"http://{server.host}:{server.port}/feed") as response:
            await until(lambda: desk.feeds)
            desk.feeds[0].send(b"data: 1\n\n")
            data = response.aiter_raw()
            assert await anext(data) == b"data: 1\n\n"
            getattr(desk.feeds[0], end)()

            with pytest.raises(httpx.RemoteProtocolError):
                await anext(data)
        await until(lambda: desk.closed == desk.feeds)
        assert desk.feeds[0].end == "cut"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(("end", "seen"), [("finish", "9"), ("cut", "terminated"), ("abort", "terminated")])
async def test_fetch_in_node_can_tell_the_ends_apart(end: str, seen: str) -> None:
    """undici is lenient: with `connection: close` in the head it takes a truncated body for a complete one."""
    async with feeding() as (desk, server):
        url = f"http://{server.host}:{server.port}/feed"
        script = f"fetch('{url}').then(r => r.text()).then(t => console.log(t.length), e => console.log(e.message))"
        node = await asyncio.create_subprocess_exec("node", "-e", script, stdout=asyncio.subprocess.PIPE)
        await until(lambda: desk.feeds, 20)
        desk.feeds[0].send(b"data: 1\n\n")
        getattr(desk.feeds[0], end)()
        output, _ = await asyncio.wait_for(node.communicate(), 20)

        assert output.decode().strip() == seen


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS)
async def test_a_client_that_leaves_is_told_once(options: dict[str, str]) -> None:
    """The end of the connection reaches the handler, once, and sends after it do nothing."""
    async with feeding(**options) as (desk, server):
        async with connect(server) as client:
            client.ask()
            await client.head()
            await until(lambda: desk.feeds)
        await until(lambda: desk.closed)
        feed = desk.feeds[0]
        for late in (
            lambda: feed.send(b"x"),
            lambda: feed.send_framed(frame(b"x")),
            feed.finish,
            feed.cut,
            feed.abort,
        ):
            late()

    assert (desk.closed, feed.end, feed.closed) == ([feed], "left", True)


@both_loops
async def test_a_client_that_shuts_its_write_side_has_left() -> None:
    """An EOF ends the feed: only dead processes and closed tabs send one."""
    async with fed() as (desk, feed, client):
        client.writer.write_eof()
        await until(lambda: desk.closed == [feed])

        assert feed.end == "left"


@both_loops
async def test_a_client_that_keeps_sending_is_cut() -> None:
    """Bytes after the request are ignored, but not for ever."""
    async with fed(Limits(incoming_bytes=1000)) as (desk, feed, client):
        client.writer.write(b"x" * 1000)
        await until(lambda: feed.incoming == 1000)
        assert not feed.closed
        client.writer.write(b"x")
        await until(lambda: desk.closed == [feed])

        assert feed.end == "flooded"


@both_loops
async def test_requests_behind_a_feed_are_ignored() -> None:
    """A pipelined request gets no response into the middle of a feed."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask()
        client.ask("/plain")
        await client.head()
        desk.feeds[0].send(b"1")
        desk.feeds[0].finish()

        assert await client.rest() == b"1\r\n1\r\n0\r\n\r\n"


# -- flow control --------------------------------------------------------------------------------------------


@both_loops
async def test_a_client_that_does_not_read_is_paused_and_later_gets_everything() -> None:
    """A full buffer pauses the feed; it resumes when the client reads again, and no byte is lost."""
    async with fed() as (desk, feed, client):
        client.writer.transport.pause_reading()
        sent = bytearray()
        while not feed.paused:
            sent += (data := b"%08d" % len(sent) * 1000)
            feed.send(data)
            await asyncio.sleep(0)
        most = feed.limits.buffer_bytes + len(frame(data))
        assert (feed.writable, feed.closed, desk.resumed) == (False, False, [])
        assert feed.limits.buffer_bytes < feed.buffered <= most
        assert feed.paused_since == pytest.approx(time.monotonic(), abs=1)

        client.writer.transport.resume_reading()
        received = bytearray()
        while len(received) < len(sent):
            size = int(await asyncio.wait_for(client.reader.readline(), 5), 16)
            received += (await client.read(size + 2))[:-2]
        assert received == sent
        assert (feed.paused, feed.writable, desk.resumed) == (False, True, [feed])


@both_loops
async def test_a_paused_feed_ends_before_its_buffer_grows_without_bound() -> None:
    """A sender that does not look at `paused` cannot fill the memory."""
    async with fed(Limits(buffer_bytes=10_000, overrun_bytes=100_000), receive_buffer=4096) as (
        desk,
        feed,
        _,
    ):
        most = 0
        while not feed.closed:
            feed.send(b"x" * 10_000)
            most = max(most, feed.buffered)
        await until(lambda: desk.closed == [feed])

        assert feed.end == "overrun"
        assert most <= 100_000


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("end", ["cut", "abort"])
async def test_a_stalled_client_is_gone_soon_after_a_cut(end: str, options: dict[str, str]) -> None:
    """What waits for a client that reads nothing is given up, by the kernel, too: a connection of ours is reset."""
    async with feeding(**options) as (desk, server), connect(server) as client:
        client.writer.transport.pause_reading()
        client.ask()
        await until(lambda: desk.feeds)
        feed = desk.feeds[0]
        while not feed.paused:
            feed.send(b"x" * 100_000)
            await asyncio.sleep(0)
        getattr(feed, end)()

        await until(lambda: desk.closed == [feed], 0.5 if end == "abort" else 2.0)
        if options == SERVERS["taken"]:
            await until(lambda: is_reset(client.writer.get_extra_info("socket").fileno()))


def is_reset(fd: int) -> bool:
    """Whether a connection has ended, as one sees who has not read everything."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


@both_loops
async def test_a_peer_that_acknowledges_nothing_is_given_up_by_the_kernel() -> None:
    """Phones vanish without a word; the heartbeat that is never acknowledged ends their feed."""
    async with fed(Limits(unacked_seconds=0.5), receive_buffer=4096) as (desk, feed, client):
        client.writer.transport.pause_reading()
        while not feed.buffered:
            feed.send(b"x" * 10_000)
            await asyncio.sleep(0)

        await until(lambda: desk.closed == [feed], 15)
        assert feed.end == "left"


@both_loops
async def test_a_feed_taken_while_an_earlier_response_still_waits_is_paused_from_the_start() -> None:
    """The state of the transport is inherited with it."""
    async with feeding() as (desk, server), connect(server) as client:
        client.writer.transport.pause_reading()
        client.ask("/big")
        client.ask()
        await until(lambda: desk.feeds)
        assert desk.feeds[0].paused

        client.writer.transport.resume_reading()
        await client.head()
        await client.read(32_000_000)
        await client.head()
        await until(lambda: desk.resumed == desk.feeds)


# -- taking --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/failing", "/unready"])
async def test_an_error_after_the_takeover_makes_no_second_response(path: str) -> None:
    """A client never sees an error page in the middle of its feed; nobody feeds it, so it is cut."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask(path)
        await client.head()

        assert await client.rest() == b"1\r\n"
        assert desk.feeds[0].end == "cut"


@both_loops
async def test_a_connection_is_taken_once() -> None:
    """A second handler would write into the first one's feed."""
    async with feeding() as (desk, server), connect(server) as client:
        client.ask("/greedy")
        await client.head()

        assert "once" in str(desk.errors[0])


@both_loops
async def test_a_client_that_left_before_the_takeover_gives_a_closed_feed() -> None:
    """The endpoint needs no special case: its handler hears of the end as always, after the takeover."""
    async with feeding() as (desk, server):
        async with connect(server) as client:
            client.ask("/late")
            await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)
        desk.gate.set()
        await until(lambda: desk.closed)

        assert desk.closed == desk.feeds
        assert desk.feeds[0].end == "left"


@both_loops
async def test_nothing_of_the_request_outlives_the_takeover() -> None:
    """Without any garbage collection: 10,000 idle clients must not cost 10,000 parsers."""
    gc.collect()
    gc.disable()
    try:
        async with fed() as (_, feed, _client):
            await until(lambda: not any(isinstance(thing, FeedHttpProtocol) for thing in gc.get_objects()))

            assert not feed.closed
    finally:
        gc.enable()


# -- many ----------------------------------------------------------------------------------------------------


@both_loops
async def test_a_broadcast_reaches_every_member_with_the_same_bytes() -> None:
    """500 clients, old and new HTTP, receive every burst in order."""
    group = Broadcast()
    bursts = [b"".join(b"data: %d.%d\n\n" % (burst, event) for event in range(8)) for burst in range(20)]
    async with feeding() as (desk, server):
        clients = [Client(*await asyncio.open_connection(server.host, server.port)) for _ in range(500)]
        for number, client in enumerate(clients):
            client.ask(version="1.0" if number % 10 == 0 else "1.1")
            await client.head()
        for feed in desk.feeds:
            group.add(feed)
        for burst in bursts:
            assert group.write(burst) == []
        for feed in group:
            feed.finish()

        old, new = b"".join(bursts), b"".join(map(frame, bursts)) + b"0\r\n\r\n"
        for number, client in enumerate(clients):
            assert await client.rest() == (old if number % 10 == 0 else new)
            client.writer.close()


@both_loops
async def test_a_broadcast_skips_paused_and_closed_members_and_names_the_paused() -> None:
    """Whoever keeps the cursors learns whom it has to serve later."""
    async with (
        feeding() as (desk, server),
        connect(server) as slow,
        connect(server) as gone,
        connect(server) as fine,
    ):
        for client in (slow, gone, fine):
            client.ask()
            await client.head()
        group = Broadcast()
        for feed in desk.feeds:
            group.add(feed)
        slow.writer.transport.pause_reading()
        while not desk.feeds[0].paused:
            desk.feeds[0].send(b"x" * 100_000)
            await asyncio.sleep(0)
        desk.feeds[1].cut()

        assert group.write(b"data: 1\n\n") == [desk.feeds[0]]
        assert await fine.read(14) == frame(b"data: 1\n\n")
        group.discard(desk.feeds[0])
        assert (group.write(b"data: 2\n\n"), len(group)) == ([], 2)


async def test_plain_asgi_has_the_same_flow_control() -> None:
    """A server that hands over no connection gives the same pauses, and every byte."""
    async with (
        feeding(**SERVERS["plain ASGI"]) as (desk, server),
        httpx.AsyncClient() as http,
        http.stream("GET", f"http://{server.host}:{server.port}/feed") as response,
    ):
        await until(lambda: desk.feeds)
        feed = desk.feeds[0]
        sent, received = bytearray(), bytearray()
        while not feed.paused:
            sent += (data := b"%08d" % len(sent) * 1000)
            feed.send(data)
            await asyncio.sleep(0)
        assert feed.buffered > feed.limits.buffer_bytes

        async for data in response.aiter_raw():
            received += data
            if len(received) == len(sent):
                feed.finish()
        assert received == sent
        assert desk.resumed == [feed]


async def test_plain_asgi_answers_head_without_a_feed() -> None:
    """A HEAD request costs no feed there either."""
    async with feeding(**SERVERS["plain ASGI"]) as (desk, server), httpx.AsyncClient() as http:
        response = await http.head(f"http://{server.host}:{server.port}/feed")

        assert (response.status_code, desk.feeds) == (200, [])
