"""The feed over WebSocket: what SSE has, with the same positions, in the same order."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Client:
    """A browser's WebSocket: what came, and how it ended."""

    def __init__(self, connection: Any) -> None:
        self.socket = connection
        self.messages: list[dict[str, Any]] = []
        self.code: int | None = None

    async def read(self) -> None:
        try:
            async for text in self.socket:
                self.messages.append(orjson.loads(text))
            self.code = self.socket.close_code
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else 1006

    @property
    def events(self) -> list[dict[str, Any]]:
        return [message for message in self.messages if "event" in message]

    @property
    def controls(self) -> list[str]:
        return [message["control"] for message in self.messages if "control" in message]


def upgrade(path: str, *more: str) -> bytes:
    """A request for a WebSocket, with header lines that replace its own."""
    own = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    own |= dict(line.split(": ", 1) for line in more)
    return "".join(
        [f"GET {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in own.items()), "\r\n"]
    ).encode()


async def answer_to(port: int, request: bytes, frame: bytes = b"") -> bytes:
    """Send a request, and a frame when the handshake is done; return what comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    said = b""
    if frame:
        said = await reader.readuntil(b"\r\n\r\n")
        writer.write(frame)
    async with asyncio.timeout(20):
        said += await reader.read()
    writer.close()
    return said


#: a text of one byte that is no UTF-8, masked with zeros
NO_TEXT = b"\x81\x81\x00\x00\x00\x00\xff"


@pytest.mark.parametrize(
    ("lines", "frame", "answer"),
    [
        ((), b"", b"404"), (("Origin: https://evil.example",), b"", b"403"), (("Sec-WebSocket-Key: x",), b"", b"400"),
        (("Sec-WebSocket-Version: 12",), b"", b"400"), ((f"X-Long: {'x' * 9000}",), b"", b"400"),
        (tuple(f"X-{n}: 1" for n in range(200)), b"", b"400"), ((), NO_TEXT, b"101"),
    ],
    ids=["unknown", "origin", "key", "version", "long line", "many lines", "no text"],
)  # fmt: skip
async def test_a_handshake_that_fails_says_nothing_loud_in_the_log(
    gateway: Any, pen: Any, lines: tuple[str, ...], frame: bytes, answer: bytes, caplog: Any, capfd: Any
) -> None:
    """Whoever is refused, or speaks nonsense, gets an answer; no line of warning or worse, so that nobody fills the log."""
    await pen.story("one")
    path = f"/sessions/{pen.session}/events" if frame else "/sessions/none-such/events"
    for _ in range(3):
        said = await answer_to(gateway.port, upgrade(path, *lines), frame)
        assert said.split(b" ", 2)[1] == answer, said
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []
    assert "Traceback" not in "".join(capfd.readouterr())


@asynccontextmanager
async def following(gateway: Any, session: str, **query: str) -> AsyncIterator[Client]:
    """Follow a session over a WebSocket."""
    address = f"ws://127.0.0.1:{gateway.port}/sessions/{session}/events?{urlencode(query)}"
    async with connect(address, max_size=2**24) as connection:
        client = Client(connection)
        task = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_websocket_gets_what_an_event_stream_gets(gateway: Any, pen: Any, eventually: Any) -> None:
    """The same envelopes, whether they were there or come; text that breaks framings included."""
    await pen.story("one", "two")
    async with gateway.feed(pen.session) as feed, following(gateway, pen.session) as client:
        await pen.start("three")
        await pen.say("three", "more")
        await eventually(lambda: len(feed.events) == len(pen.sequences) == len(client.events))

    assert client.events == [frame.envelope for frame in feed.events]


async def test_a_websocket_goes_on_behind_any_position(gateway: Any, pen: Any, eventually: Any) -> None:
    """By `after`; with `snapshot` it begins with the view; a position of another log is a reset."""
    await pen.story("one")
    async with following(gateway, pen.session) as client:
        await eventually(lambda: len(client.events) == len(pen.sequences))
        whole = client.events
    for count in (1, len(whole) // 2, len(whole) - 1):
        async with following(gateway, pen.session, after=whole[count - 1]["position"]) as client:
            await eventually(lambda: len(client.events) == len(whole) - count)
            assert client.events == whole[count:]
    async with following(gateway, pen.session, snapshot="1") as client:
        await eventually(lambda: client.controls == ["snapshot"])
        assert client.messages[0]["data"]["position"] == whole[-1]["position"]
    async with following(gateway, pen.session, after="00000000-5") as client:
        await eventually(lambda: client.controls == ["reset", "snapshot"])


async def test_a_websocket_ends_when_the_session_is_at_rest_or_gone(
    gateway: Any, ann: Any, pen: Any, eventually: Any
) -> None:
    """1000 where all is said, so that the client does not come back."""
    await pen.story("one")
    async with following(gateway, pen.session, until="idle") as client:
        await eventually(lambda: client.code)
        assert (client.controls, client.code) == (["idle"], 1000)
    async with following(gateway, pen.session) as client:
        await eventually(lambda: client.events)
        await ann.session(pen.session).delete()
        await eventually(lambda: client.code)
        assert (client.controls[-1], client.code) == ("deleted", 1000)


async def test_a_drained_gateway_tells_its_websockets_to_come_back(serve: Any, pen: Any, eventually: Any) -> None:
    """1012: the client resumes elsewhere."""
    await pen.story("one")
    async with serve() as gateway:
        async with following(gateway, pen.session) as client:
            await eventually(lambda: len(client.events) == len(pen.sequences))
            gateway.hub.close()
            await eventually(lambda: client.code)
    assert client.code == 1012


async def test_a_websocket_that_reads_nothing_is_cut_and_costs_no_memory(serve: Any, pen: Any, eventually: Any) -> None:
    """The others go on; the one that sleeps loses its connection, not its place."""
    await pen.create("one")
    await pen.start("one")
    async with serve(settings=GatewaySettings(stuck_seconds=1, sweep_seconds=0.2)) as gateway:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        narrow.connect(("127.0.0.1", gateway.port))
        address = f"ws://127.0.0.1:{gateway.port}/sessions/{pen.session}/events"
        sleeping = connect(address, sock=narrow, max_queue=1, max_size=2**24, close_timeout=0.1)
        async with following(gateway, pen.session) as good, sleeping as sleeper:
            text = "x" * 200_000
            for _ in range(60):
                await pen.say("one", text)
            await eventually(lambda: len(good.events) == len(pen.sequences), 60)
            await eventually(lambda: gateway.count("cuts_total", reason="slow") == 1, 60)
            sleeper.transport.abort()
            async with following(gateway, pen.session, after=good.events[-2]["position"]) as again:
                await eventually(lambda: len(again.events) == 1)


@pytest.mark.parametrize(("target", "status"), [("no-such-session", 404), ("a%20b", 400)], ids=["unknown", "no name"])
async def test_a_wrong_request_gets_its_problem_document(gateway: Any, target: str, status: int) -> None:
    """As over HTTP: the handshake is refused with a reason."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{gateway.port}/sessions/{target}/events"):
            pass
    assert refused.value.response.status_code == status
    assert orjson.loads(refused.value.response.body)["detail"]
