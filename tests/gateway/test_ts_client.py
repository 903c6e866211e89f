"""The small TypeScript client in node, against a real gateway and real agents: live, offline, and back."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.broker import connect
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.serving import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

ANSWER = """
async with run.tool("search", {"q": run.input.text}) as tool:
    tool.output = ["found"]
for number in range(40):
    await run.text(f"w{number} ")
    await asyncio.sleep(0.02)
"""
WHOLE = "".join(f"w{number} " for number in range(40))
TEXT = "session.view.agents[0]?.runs[0]?.parts.find((part) => part.type === 'text')?.text"


class Refused(Exception):
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
            raise Refused(json.dumps(found))
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


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A session with an agent."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


async def view_of(base: str, session: str) -> Any:
    async with httpx.AsyncClient(base_url=base) as http:
        return (await http.get(f"/sessions/{session}")).json()


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_two_pages_and_a_late_one_show_the_same(
    restartable: Restartable, page: Any, chat: str, transport: str
) -> None:
    """While an answer streams, and after it: what the gateway's own view says."""
    node = ("--experimental-websocket",) if transport == "websocket" else ()
    async with restartable.up() as base, page(*node) as one, page(*node) as two:
        for tab in (one, two):
            await tab.open(base, chat, transport=transport)
        sent = await one.eval("session.send('hello')")
        assert await two.wait(f"{TEXT}?.startsWith('w0 w1 ') && session.view.inputs[0].text") == "hello"
        await two.open(base, chat, "late", transport=transport)
        for tab in (one, two):
            await tab.wait(f"{TEXT} === {WHOLE!r} && session.view.agents[0].runs[0].status === 'done'")
        await two.wait("late.view.position === session.view.position")
        views = [await one.eval("session.view"), await two.eval("session.view"), await two.eval("late.view")]
        expected = await view_of(base, chat)

    assert sent["run"] == views[0]["agents"][0]["runs"][0]["run"]
    assert views == [expected] * 3
