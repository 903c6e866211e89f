"""Durable Streams on a cluster: three gateways over R3, every request at another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import connect
from orchestrator_free.contract import StreamSettings
from tests.chaos.cluster import Cluster, running_cluster
from tests.durable_streams.lottery import Lottery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of the module's own."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker."""
    return cluster.url


@pytest.fixture
async def lottery(cluster: Cluster, process: Callable[[], Any], eventually: Any) -> AsyncIterator[Lottery]:
    """Three gateways behind a proxy that picks one by chance."""
    async with connect(cluster.url, member="ann", settings=StreamSettings(replicas=3)):
        await eventually(cluster.whole, 60, every=0.2)
    gateways = [process() for _ in cluster.nodes]
    await asyncio.gather(*(gateway.start(eventually) for gateway in gateways))
    async with Lottery([gateway.port for gateway in gateways]) as found:
        yield found


async def test_the_public_suite_passes_whole_with_three_gateways_on_a_cluster(
    lottery: Lottery, cluster: Cluster, suite: Any
) -> None:
    """332 of 332 although every request of a test goes to any of three gateways, and reads to any of three nodes."""
    outcome = await suite(f"http://127.0.0.1:{lottery.port}")

    assert outcome.failures == []
    assert (outcome.passed, outcome.failed) == (332, 0)
    assert min(lottery.counts.values()) > 200
    assert len(lottery.counts) == 3
    assert len(await cluster.members("DURABLE_STREAMS_0")) == 3
