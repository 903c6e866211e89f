"""Isolated agents on three nodes: accounts, imports and the steward hold across them, and when one dies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator_free import Broker, Run, connect, contract
from orchestrator_free.contract_files import accounts_block
from orchestrator_free.errors import BrokerError
from orchestrator_free.steward import Steward
from tests.chaos.cluster import Cluster
from tests.inside import serving
from tests.security.place import user

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USERS = [user("core", "gateway"), user("isolated", "worker"), user("isolated", "critic")]


def url_for(cluster: Cluster, member: str) -> str:
    return cluster.url.replace("nats://", f"nats://acme-{member}:pw-acme-{member}@")


async def test_isolated_agents_work_on_a_cluster_and_outlive_a_leader(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    """Each process may sit on another node than the stream's leader; a leader that dies costs no run."""

    async def work(run: Run) -> None:
        for number in range(30):
            await run.text(f"{number} ")
        child = await run.delegate("critic", "please", within_seconds=600)
        await run.text((await child.result())["status"])
        await run.file("outline.md", run.input.text.encode())

    async def critic(run: Run) -> None:
        await run.text("Fine.")

    cluster = Cluster(tmp_path)
    accounts = accounts_block({"acme": USERS}, system="user: system, password: pw-system")
    for server in cluster.nodes.values():
        server.settings = replace(server.settings, extra=server.settings.extra + accounts)
    settings = contract.StreamSettings(isolated=True, replicas=3)
    async with cluster:
        async with (
            connect(url_for(cluster, "gateway"), member="gateway", settings=settings) as gateway,
            Steward(gateway, sweep_seconds=1.0),
            serving(url_for(cluster, "worker"), "worker", work, replicas=3),
            serving(url_for(cluster, "critic"), "critic", critic),
        ):
            session = Broker(gateway.log, "ann").session("s1")
            await session.create()
            first = await session.result("worker", (await session.send("one", to="worker")).run, timeout=60)
            cluster.kill((await gateway.log.info(0))["cluster"]["leader"])
            sent = await session.send("two", to="worker")
            second = await session.result("worker", sent.run, timeout=90)
            subject = f"session.0.s1.worker.run.{sent.run}"
            await eventually(lambda: _one(gateway, subject), 60)

    assert [run["status"] for run in (first, second)] == ["done", "done"]


async def _one(broker: Broker, subject: str) -> bool:
    try:
        return len(await broker.log.read(0, subject)) == 1
    except BrokerError:
        return False
