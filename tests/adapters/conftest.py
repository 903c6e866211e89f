"""What the adapters' tests share: a handler at work in a session, and a server that speaks like a vendor's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Session
    from orchestrator_free.adapters.translation import Translation

SECONDS = 60


@dataclass
class Work:
    """A handler at work on inputs of a session."""

    session: Session
    agent: str

    async def ask(self, text: str = "Hello") -> dict[str, Any]:
        """Send an input; return its run when it is finished."""
        return await self.session.result(self.agent, (await self.begin(text)).run, timeout=SECONDS)

    async def begin(self, text: str = "Hello") -> Any:
        """Send an input."""
        return await self.session.send(text, to=self.agent)

    async def run(self) -> dict[str, Any]:
        """The newest run as it stands, empty while there is none."""
        agents = (await self.session.view())["agents"]
        runs = [run for agent in agents if agent["agent"] == self.agent for run in agent["runs"]]
        return runs[-1] if runs else {}

    async def end(self) -> dict[str, Any]:
        """The newest run, when it is finished."""
        return await self.session.result(self.agent, (await self.run())["run"], timeout=SECONDS)


@pytest.fixture
def working(ann: Broker, broker_url: str, fresh: Callable[[str], str]) -> Callable[..., Any]:
    """Serve a handler in a session of its own: `async with working(handler) as work: run = await work.ask()`."""

    @asynccontextmanager
    async def start(handler: Any, **settings: Any) -> AsyncIterator[Work]:
        name = fresh("agent")
        session = ann.session(fresh("s"))
        await session.create()
        async with serving(broker_url, name, handler, **settings):
            yield Work(session, name)

    return start


def parts(run: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The parts of a kind."""
    return [part for part in run["parts"] if part["type"] == kind]


def texts(run: dict[str, Any], kind: str = "text") -> list[str]:
    """The texts of parts of a kind."""
    return [part["text"] for part in parts(run, kind)]


def translated(translation: Translation, events: list[Any]) -> list[dict[str, Any]]:
    """What a translation makes of events."""
    for event in events:
        translation.take(event)
    translation.end()
    translation.sheet.end_all(everybody=True)
    return translation.sheet.take()


#: the server says no more, and waits until the client is gone
HANG = object()


class ModelServer:
    """Answers each request with the next of its answers: pieces of a body, `HANG`, or a status and a body.

    Attributes:
        requests: what was asked, `path` and `body`. gone: set when a client leaves an answer that hangs.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[SimpleNamespace] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.lower().splitlines() if "content-length" in line)
            body = json.loads(await reader.readexactly(length))
            self.requests.append(SimpleNamespace(head=head, path=head.split(" ")[1], body=body))
            await self._answer(self.answers.pop(0), reader, writer)
        writer.close()

    async def _answer(self, answer: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, pieces = answer if isinstance(answer, tuple) else (200, answer)
        kind = "text/event-stream" if status == 200 else "application/json"
        more = "x-should-retry: false\r\ntransfer-encoding: chunked\r\nconnection: close"
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}\r\n\r\n".encode())
        for piece in pieces:
            if piece is HANG:
                await writer.drain()
                await reader.read()
                self.gone.set()
                return
            if piece:
                writer.write(f"{len(piece.encode()):x}\r\n{piece}\r\n".encode())
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@pytest.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A server of a language model; `url` is its address."""
    server = ModelServer()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the shipped programs are."""
    return Path(__file__).parents[2] / "agents"


@pytest.fixture
def asked(eventually: Any) -> Callable[..., Any]:
    """Wait for the one open ask of a session: `ask = await asked(work)`."""

    async def wait(work: Work) -> dict[str, Any]:
        async def found() -> Any:
            return [ask for ask in (await work.session.view())["asks"] if ask["status"] == "open"]

        (ask,) = await eventually(found, SECONDS)
        return ask

    return wait


@pytest.fixture
def shown(eventually: Any) -> Callable[..., Any]:
    """Wait until a run shows a text: `await shown(work, "Let me")`."""

    async def wait(work: Work, text: str) -> None:
        async def found() -> bool:
            return text in json.dumps((await work.run()).get("parts", []), ensure_ascii=False)

        await eventually(found, SECONDS)

    return wait
