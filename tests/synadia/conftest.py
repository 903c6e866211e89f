"""A caller of the real `synadia-ai-agents` package, and doors inside the test."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
import pytest
from synadia_ai.agents import Agents

from orchestrator_free import connect
from orchestrator_free.synadia import DoorSettings, FrontDoor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def doors(url: str, count: int = 1, **settings: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run front doors, each over a connection of its own."""
    tasks = []
    async with AsyncExitStack() as stack:
        try:
            for _ in range(count):
                broker = await stack.enter_async_context(connect(url, member="synadia"))
                ready = asyncio.Event()
                tasks.append(asyncio.create_task(FrontDoor(broker, DoorSettings(**settings)).run(ready=ready.set)))
                await asyncio.wait_for(ready.wait(), 20)
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def caller(broker_url: str) -> AsyncIterator[Agents]:
    """A caller as somebody else wrote it: their client over their connection."""
    connection = await nats.connect(broker_url)  # as it comes: it is away for two seconds after a restart
    agents = Agents(nc=connection)
    yield agents
    await agents.close()
    await connection.close()


@pytest.fixture
def find(caller: Agents) -> Callable[..., Any]:
    """Discover one agent: `await find("writer", "new")`."""

    async def one(agent: str, session: str) -> Any:
        for _ in range(40):
            for found in await caller.discover(stall=0.2):
                if (found.agent, found.session_name) == (agent, session):
                    return found
        raise AssertionError(f"{agent} in {session} is not discovered")

    return one
