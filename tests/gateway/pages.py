"""Pages with the small TypeScript client in them, and a gateway that can go and come back on its port."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import connect
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class RefusedError(Exception):
    """What a command came to."""


class Page:
    """A process with the client in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def begin(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def end(self) -> Any:
        """What the oldest command that has ended came to."""
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            text = await self._process.stdout.readline()
        if not text:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-2000:])
        found = json.loads(text)
        if "value" not in found:
            raise RefusedError(json.dumps(found))
        return found["value"]

    async def do(self, *command: Any) -> Any:
        self.begin(*command)
        return await self.end()

    async def open(self, base: str, session: str, name: str = "session", **options: Any) -> None:
        await self.do("open", {"gateway": base, "session": session, **options}, name)

    async def eval(self, code: str) -> Any:
        return await self.do("eval", code)

    async def wait(self, code: str) -> Any:
        return await self.do("wait", code)


@pytest.fixture
def page(clients: Path) -> Callable[..., Any]:
    """Start a page: `async with page() as tab:`."""

    @asynccontextmanager
    async def start(*more: str) -> AsyncIterator[Page]:
        process = await asyncio.create_subprocess_exec(
            "node", *more, "session.mjs", cwd=clients, limit=2**24,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield Page(process)
        finally:
            process.kill()
            await process.wait()

    return start


class Restartable:
    """A gateway that can go and come back on its port."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.port = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        async with connect(self._url, member="gateway") as broker:
            gateway = Gateway(broker)
            async with Server(gateway.app, port=self.port, on_drain=gateway.drain) as served:
                self.port = served.port
                yield self.base


@pytest.fixture
def restartable(broker_url: str) -> Restartable:
    """A gateway for `async with restartable.up() as base:`, several times."""
    return Restartable(broker_url)
