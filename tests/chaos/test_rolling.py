"""Operations on a living system: servers and gateways are restarted or killed under load, and nobody loses anything.

A small load by default. `ROLLING=full pytest -s tests/chaos/test_rolling.py` takes 500 events/s and 100 SSE clients, and
prints what writers and readers went through.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from tests.chaos.cluster import ELECTION_SECONDS, Cluster, free_ports, running_cluster
from tests.chaos.load import Load
from tests.chaos.test_cluster import GATEWAY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
Fresh = Callable[[str], str] if TYPE_CHECKING else Any
FULL = os.environ.get("ROLLING") == "full"
RATE, WRITERS, SESSIONS, CLIENTS = (500, 50, 10, 100) if FULL else (100, 10, 5, 20)
#: of steady load between two faults
STEADY_SECONDS = 5.0 if FULL else 1.0
#: a node that is told to stop hands over what it leads first: nobody waits for an election
HANDED_OVER_SECONDS = 3.0
#: what a reader may need when the broker is there again; what it asked of the leader that was killed is asked anew at once
READERS_SECONDS = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with every event on disk before it counts, as production has it."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), durability="fsync") as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `programs`."""
    return cluster.url


class Gateways:
    """Two gateway processes on ports that stay theirs."""

    def __init__(self, programs: Any, script: Path, url: str, eventually: Eventually) -> None:
        script.write_text(GATEWAY)
        self.ports = free_ports(2)
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self._start = lambda port: programs.start(script, "up", "--broker", url, "--port", str(port), "--replicas", "3")
        self._eventually = eventually
        self._running = [self._start(port) for port in self.ports]

    async def ready(self) -> None:
        await self._eventually(lambda: serving(self.urls), 60)

    async def restart(self, number: int) -> float:
        """End one with SIGTERM, as an operator does, and start it again; return how long it took to leave."""
        gone = self._running[number]
        began = time.monotonic()
        gone.send(signal.SIGTERM)
        await self._eventually(lambda: not gone.alive, 20)
        took = time.monotonic() - began
        assert gone.process.returncode == 0, gone.output
        self._running[number] = self._start(self.ports[number])
        await self.ready()
        return took


class Stage:
    """A cluster, two gateways and a load that runs while something is done to them."""

    def __init__(self, cluster: Cluster, gateways: Gateways, ann: Broker, load: Load, eventually: Eventually) -> None:
        self.cluster = cluster
        self.gateways = gateways
        self.load = load
        self._ann = ann
        self._eventually = eventually

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        async with self.load.running(self._ann):
            await self.steady()
            yield
            await self.steady()
        await self.load.judge(self._ann)

    async def steady(self, seconds: float = STEADY_SECONDS) -> None:
        """Let the load go on undisturbed: so many more events, and every client is near the end."""
        goal = self.load.written + int(RATE * seconds)
        await self._eventually(lambda: self.load.written >= goal, 60, every=0.05)

    async def whole(self) -> None:
        await self._eventually(self.cluster.whole, 60, every=0.2)


@pytest.fixture
async def stage(
    cluster: Cluster, programs: Any, tmp_path: Path, fresh: Fresh, eventually: Eventually
) -> AsyncIterator[Stage]:
    """Two gateways and a load over several sessions."""
    await cluster.start()
    gateways = Gateways(programs, tmp_path / "gateway.py", cluster.url, eventually)
    await gateways.ready()
    async with connect(cluster.url, member="ann", settings=StreamSettings(replicas=3)) as ann:
        await eventually(cluster.whole, 60, every=0.2)
        names = [fresh("s") for _ in range(SESSIONS)]
        for name in names:
            await ann.session(name).create()
        load = Load.over(names, gateways.urls, rate=RATE, writers=WRITERS, clients=CLIENTS)
        yield Stage(cluster, gateways, ann, load, eventually)


def tell(capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\n  {RATE} events/s, {CLIENTS} clients at 2 gateways, fsync, R3. {what}")


async def test_a_rolling_restart_of_the_brokers_is_hardly_noticed(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each node in turn leaves on SIGTERM and is back before the next: nothing lost, doubled, or held up for long."""
    async with stage.under_load():
        for node in stage.cluster.nodes:
            await stage.cluster.nodes[node].stop()
            await stage.cluster.start()
            await stage.whole()
            await stage.steady()
    tell(capsys, f"Rolling restart of 3 brokers: {stage.load.report()}")
    assert max(run.slowest for run in stage.load.runs) < HANDED_OVER_SECONDS


async def test_a_killed_leader_costs_one_election(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL of the log's leader: writers wait for the next one, readers no longer than they, and that is all."""
    async with stage.under_load():
        stage.cluster.kill(await stage.cluster.leader())
        await stage.steady()
        await stage.cluster.start()
        await stage.whole()
    tell(capsys, f"Leader killed: {stage.load.report()}")
    stall = max(run.slowest for run in stage.load.runs)
    assert stall < ELECTION_SECONDS
    assert max(client.worst_gap for client in stage.load.clients) < stall + READERS_SECONDS


async def test_a_rolling_restart_of_the_gateways_moves_the_clients(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gateway drains on SIGTERM: its clients go on at the other one, from where they were."""
    took = []
    async with stage.under_load():
        for number in range(2):
            took.append(await stage.gateways.restart(number))
            await stage.steady()
    tell(capsys, f"Rolling restart of 2 gateways, gone after {max(took):.1f} s: {stage.load.report()}")
    assert all(client.resumes >= 1 for client in stage.load.clients)
