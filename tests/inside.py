"""Agents and viewers that run inside a test, over connections of their own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from orchestrator_free import Agent, Fold, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator_free import Session


@asynccontextmanager
async def serving(
    url: str, name: str, handler: Any, *, replicas: int = 1, nkey_seed: Path | None = None, **settings: Any
) -> AsyncIterator[list[Any]]:
    """Run replicas of an agent inside the test, each over a connection of its own; yields the connections."""
    brokers: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as stack:
        try:
            for _ in range(replicas):
                agent = Agent(name, grace_seconds=0, **settings)
                agent(handler)
                broker = await stack.enter_async_context(connect(url, member=name, nkey_seed=nkey_seed))
                ready = asyncio.Event()
                tasks.append(asyncio.create_task(agent.serve(broker, ready=ready.set)))
                await asyncio.wait_for(ready.wait(), 20)
                brokers.append(broker)
            yield brokers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def watching(session: Session) -> AsyncIterator[Fold]:
    """Fold a session as it grows."""
    fold = Fold(session.id)

    async def follow() -> None:
        async for event in session.follow():
            fold.apply(event)

    task = asyncio.create_task(follow())
    try:
        yield fold
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
