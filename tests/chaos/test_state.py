"""Shared state on a cluster whose leaders are killed: every update that was said to be made was made once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from tests.chaos.cluster import Cluster

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_updates_of_one_key_are_made_exactly_once_while_leaders_are_killed(
    tmp_path: Path, eventually: Any
) -> None:
    """Twelve writers of three names on R3 with compare-and-set; two leaders die. The count is that of the successes."""
    async with Cluster(tmp_path) as cluster, contextlib.AsyncExitStack() as stack:
        settings = StreamSettings(replicas=3)
        await stack.enter_async_context(connect(cluster.url, member="first", settings=settings))
        brokers = [await stack.enter_async_context(connect(cluster.url, member=f"m{n % 3}")) for n in range(12)]
        await eventually(cluster.whole, 40)
        done = 0
        stop = asyncio.Event()

        async def write(broker: Broker) -> None:
            nonlocal done
            while not stop.is_set():
                state = broker.session("s1").state
                await state.update("count", lambda count: count + 1, default=0, patience_seconds=100)
                done += 1

        writing = [asyncio.create_task(write(broker)) for broker in brokers]
        for _ in range(2):
            before = done
            await eventually(lambda reached=before + 100: done >= reached, 60)
            leader = await cluster.leader()
            cluster.kill(leader)
            before = done
            await eventually(lambda reached=before + 100: done >= reached, 60)
            await cluster.start()
            await eventually(cluster.whole, 60)
        stop.set()
        await asyncio.gather(*writing)
        history = await brokers[0].session("s1").state.history("count")

    assert [one.value for one in history] == list(range(1, done + 1))
