"""The clients of Durable Streams that others have written, unmodified: TypeScript client, AI SDK transport, StreamDB."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.broker import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class App:
    """An app that tells how far it is."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> dict[str, Any]:
        """Return the next thing it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            text = await self._process.stdout.readline()
        if not text:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-3000:])
        return dict(json.loads(text))

    async def end(self) -> Any:
        """Return what came of it."""
        while True:
            line = await self.line()
            if "done" in line:
                return line["done"]


@pytest.fixture
def app(node: Path) -> Callable[..., Any]:
    """Run an app: `async with app("follow", url, "sse") as running:`."""

    @asynccontextmanager
    async def run(*arguments: str) -> AsyncIterator[App]:
        process = await asyncio.create_subprocess_exec(
            "node", "app.mjs", *arguments, cwd=node, limit=2**24,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield App(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return run


@pytest.fixture
async def gateway(process: Callable[[], Any], eventually: Any) -> Any:
    """A gateway in a process of its own."""
    found = process()
    await found.start(eventually)
    return found


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_client_and_its_producer_lose_nothing_when_the_gateway_is_killed(
    app: Any, gateway: Any, eventually: Any, fresh: Any, live: str
) -> None:
    """Pipelined batches and a live reader go on over a new gateway: every event once, in order."""
    async with app("follow", f"{gateway.url}/v1/stream/{fresh('s')}", live, "400") as running:
        while (await running.line()).get("seen", 0) < 50:
            pass
        gateway.kill()
        await gateway.start(eventually)
        found = await running.end()
    assert found["failures"] == []
    assert found["stored"] == list(range(400))
    assert found["seen"] == list(range(400))


async def test_the_client_reads_bytes_closes_and_resumes(app: Any, gateway: Any, fresh: Any) -> None:
    """Three megabytes in one append, byte for byte; the rest from the middle over SSE; the end is known."""
    async with app("bytes", f"{gateway.url}/v1/stream/{fresh('s')}") as running:
        assert await running.end() == {"same": True, "rest": [1, 2, 3, 4], "closed": True}


async def test_an_app_of_the_ai_sdk_resumes_an_answer_in_another_tab(app: Any, gateway: Any, fresh: Any) -> None:
    """The first tab is closed in the middle of the generation; the second one shows the whole text."""
    async with app("chat", f"{gateway.url}/v1/stream/{fresh('s')}", "200") as running:
        found = await running.end()
    whole = "".join(f"w{number} " for number in range(200))
    assert 0 < len(found["before"]) < len(whole)
    assert whole.startswith(found["before"])
    assert (found["after"], found["status"]) == (whole, "ready")


async def test_a_database_in_a_stream_is_the_same_for_a_live_reader_and_a_late_one(
    app: Any, gateway: Any, fresh: Any
) -> None:
    """Three producers insert, update and delete rows; both collections hold what was left."""
    async with app("database", f"{gateway.url}/v1/stream/{fresh('s')}", "60") as running:
        found = await running.end()
    expected = sorted(f"{name}{number}={number + 1}" for name in "abc" for number in range(1, 60))
    assert found["live"] == found["late"] == expected


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_client_follows_a_session_of_agents(
    app: Any, gateway: Any, eventually: Any, fresh: Any, programs: Any, broker_url: str, live: str
) -> None:
    """An agent's run, read by their client over a killed gateway: the events of the log, in its order, none twice."""
    name, agent = fresh("s"), fresh("agent")
    programs.agent(agent, 'for number in range(100):\n    await run.text(f"w{number} ")\n    await asyncio.sleep(0.02)')
    async with connect(broker_url, member="ann") as broker:
        session = broker.session(name)
        await session.create(agents=[agent])
        async with app("session", f"{gateway.url}/sessions/{name}/stream", live, "1") as running:
            await session.send("go", to=agent)
            while (await running.line()).get("seen", 0) < 10:
                pass
            gateway.kill()
            await gateway.start(eventually)
            found = (await running.end())["seen"]
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        stored = [
            (one["position"], one["event"]["type"]) for one in (await http.get(f"/sessions/{name}/stream")).json()
        ]
    positions = [int(position.rpartition("-")[2]) for position, _ in found]
    assert positions == sorted(set(positions))
    assert [tuple(one) for one in found if tuple(one) in stored] == [one for one in stored if one[0] in dict(found)]
    assert set(stored) <= {tuple(one) for one in found}
    assert found[-1][1] == "run.finished"
