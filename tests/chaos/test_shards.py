"""Two shards on a cluster: sessions and agents are spread over both, and what happens to one does not touch the other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free import contract
from orchestrator_free.broker import Broker, connect
from orchestrator_free.cli.options import EXIT_FAILED
from orchestrator_free.subjects import shard_of
from tests.chaos.cluster import ELECTION_SECONDS, Cluster, free_ports, running_cluster
from tests.chaos.load import Run
from tests.chaos.test_cluster import GATEWAY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
STREAMS = (
    "SESSIONS_0",
    "SESSIONS_1",
    contract.TIMERS,
    "KV_orchestrator_free_presence",
    "OBJ_orchestrator_free_objects",
)
#: a shard whose leader lives may be slowed by the others' election, not stopped
UNTOUCHED_SECONDS = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes without a stream."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `programs`."""
    return cluster.url


class Gateway:
    """A gateway's process, as an operator starts it on a cluster; the streams are its work."""

    def __init__(self, programs: Any, folder: Path, url: str) -> None:
        self._script = folder / "gateway.py"
        self._script.write_text(GATEWAY)
        self._programs = programs
        self._broker = url
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, *arguments: str, **environment: str) -> Any:
        command = ("up", "--broker", self._broker, "--port", str(self.port), *arguments)
        return self._programs.start(self._script, *command, **environment)


@pytest.fixture
async def gateway(cluster: Cluster, programs: Any, tmp_path: Path, eventually: Eventually) -> Gateway:
    """A gateway over a cluster that was told its shards and replicas on the command line."""
    await cluster.start()
    found = Gateway(programs, tmp_path, cluster.url)
    found.start("--shards", "2", "--replicas", "3")
    await eventually(lambda: serving([found.url]), 60)
    return found


@pytest.fixture
async def ann(cluster: Cluster, gateway: Gateway) -> AsyncIterator[Broker]:
    """A connection that takes the installation as it is."""
    async with connect(cluster.url, member="ann") as connection:
        yield connection


def named(prefix: str, shard: int, count: int) -> list[str]:
    """Return names of sessions that belong to a shard."""
    names = (f"{prefix}-{number}" for number in range(1000))
    return [name for name in names if shard_of(name, 2) == shard][:count]


@asynccontextmanager
async def writing(broker: Broker, runs: list[Run]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run.write(broker, 0.02, stop)) for run in runs]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_the_command_line_gives_every_stream_its_copies(ann: Broker) -> None:
    """`up --broker URL --shards 2 --replicas 3`: shards, timers, presence, objects, all there is is on all three nodes."""
    found = (await ann.log.wire.api("STREAM.LIST"))["streams"]
    copies = {info["config"]["name"]: info["config"]["num_replicas"] for info in found}

    assert copies == dict.fromkeys(copies, 3)
    assert set(STREAMS) <= set(copies)
    assert ann.log.shards == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "why"),
    [
        (["--shards", "4"], {}, "orchestrator_free.shards: wanted '4', found '2'"),
        (["--replicas", "1"], {}, "num_replicas: wanted 1, found 3"),
        ([], {"ORCHESTRATOR_FREE_SHARDS": "1"}, "orchestrator_free.shards: wanted '1', found '2'"),
    ],
)
async def test_settings_that_disagree_are_refused(
    gateway: Gateway, arguments: list[str], environment: dict[str, str], why: str, eventually: Eventually
) -> None:
    """Such a gateway says what differs and ends; nothing was changed."""
    other = gateway.start(*arguments, **environment)

    await eventually(lambda: not other.alive, 40)

    assert other.process.returncode == EXIT_FAILED
    assert why in " ".join(other.output.split())


async def test_an_agent_that_was_told_something_else_does_not_start(
    gateway: Gateway, programs: Any, eventually: Eventually
) -> None:
    """It would look for sessions in the wrong streams."""
    (agent,) = programs.agent("ada", "pass")
    await eventually(lambda: "agent ready" in agent.output, 40)
    wrong = programs.start(Path(agent.process.args[-1]), ORCHESTRATOR_FREE_SHARDS="3")
    await eventually(lambda: not wrong.alive, 40)

    assert wrong.process.returncode == 78
    assert "orchestrator_free.shards: wanted '3', found '2'" in wrong.output


async def test_sessions_agents_and_durable_readers_work_across_both(
    ann: Broker, gateway: Gateway, programs: Any, fresh: Callable[[str], str], eventually: Eventually
) -> None:
    """One agent answers in the sessions of both; one name of a durable reads one of each; lag is told of each shard."""
    prefix = fresh("s")
    names = named(prefix, 0, 3) + named(prefix, 1, 3)
    programs.agent("bob", 'await run.text(f"{run.session.id} done")')
    async with asyncio.timeout(100):
        for name in names:
            session = ann.session(name)
            await session.create(agents=["bob"])
            sent = await session.send("hi", to="bob")
            finished = await session.result("bob", sent.run, timeout=40)
            assert finished["parts"][0]["text"] == f"{name} done"
        for name in (names[0], names[3]):
            async with ann.session(name).subscribe("billing", start="beginning") as deliveries:
                async for delivery in deliveries:
                    await delivery.ack()
                    if delivery.event.type == "run.finished":
                        break
    async with httpx.AsyncClient() as http:
        listed = (await http.get(f"{gateway.url}/sessions", params={"limit": 1000})).json()["sessions"]

        async def told() -> bool:
            text = (await http.get(f"{gateway.url}/metrics")).text
            lines = [line for line in text.splitlines() if line.startswith("orchestrator_free_consumer_num_pending{")]
            return {
                (stream, consumer)
                for stream in ("SESSIONS_0", "SESSIONS_1")
                for consumer in ("agent-bob", "billing")
                if any(f'"{stream}"' in line and f'"{consumer}"' in line for line in lines)
            } == {(s, c) for s in ("SESSIONS_0", "SESSIONS_1") for c in ("agent-bob", "billing")}

        await eventually(told, 30, every=0.5)
    assert {one["session"] for one in listed} >= set(names)


async def apart(cluster: Cluster, broker: Broker, eventually: Eventually) -> str:
    """Let the two shards have leaders at different nodes; return that of the first."""

    async def moved() -> bool:
        first, second = await cluster.leader("SESSIONS_0"), await cluster.leader("SESSIONS_1")
        if first and first == second:
            await broker.log.wire.api("STREAM.LEADER.STEPDOWN.SESSIONS_1")
        return bool(first and second and first != second)

    await eventually(moved, 60, every=1.0)
    return await cluster.leader("SESSIONS_0")


async def test_a_shard_whose_leader_is_killed_does_not_hold_up_the_other(
    cluster: Cluster, ann: Broker, fresh: Callable[[str], str], eventually: Eventually, capsys: Any
) -> None:
    """Writers of the one wait for an election, writers of the other go on; nothing acknowledged is lost in either."""
    prefix = fresh("s")
    runs = [[Run(name, f"w{n}") for n, name in enumerate(named(prefix, shard, 4))] for shard in (0, 1)]
    leader = await apart(cluster, ann, eventually)
    async with connect(cluster.url_of(*cluster.others(leader)), member="ann") as broker:
        async with writing(broker, runs[0] + runs[1]):
            await eventually(lambda: all(len(run.acked) > 50 for some in runs for run in some), 40)
            cluster.kill(leader)
            before = sum(len(run.acked) for run in runs[0])
            await eventually(lambda: sum(len(run.acked) for run in runs[0]) > before + 100, 60)
    stalls = [max(run.slowest for run in some) for some in runs]
    with capsys.disabled():
        print(
            f"\n  leader of one of two shards killed: its writers waited {stalls[0]:.2f} s, the others {stalls[1]:.2f} s"
        )

    assert stalls[1] < UNTOUCHED_SECONDS < stalls[0] < ELECTION_SECONDS
    for shard, some in enumerate(runs):
        for run in some:
            subject = f"session.{shard}.{run.session}.{run.member}.run.r"
            stored = await ann.log.read(shard, subject, reach=max(run.acked.values()))
            assert [(m.sequence, m.payload) for m in stored] == [(s, run.payload(n)) for n, s in run.acked.items()]
