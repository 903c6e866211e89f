"""The shipped clusters, run as they are on this machine: three nodes in three zones, two clusters joined."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import PermissionDenied
from tests.chaos.cluster import ELECTION_SECONDS, free_ports
from tests.chaos.test_cluster import GATEWAY, serving
from tests.deploy.brokers import SECRETS, Broker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

CLI = (sys.executable, "-m", "orchestrator_free")
Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any


@pytest.fixture
def started() -> Iterator[Callable[[list[Broker]], list[Broker]]]:
    """Start brokers, and kill them at the end."""
    with ExitStack() as stack:

        def start(brokers: list[Broker]) -> list[Broker]:
            for broker in brokers:
                stack.callback(broker.kill)
                broker.start()
            return brokers

        yield start


def three_nodes(folder: Path) -> list[Broker]:
    """Return the nodes of deploy/cluster, for this machine."""
    routes = free_ports(3)
    names = {f"nats-{n}:6222": f"127.0.0.1:{route}" for n, route in enumerate(routes, 1)}
    nodes = []
    for number, route in enumerate(routes, 1):
        changes = names | {"0.0.0.0:6222": f"127.0.0.1:{route}"}
        nodes.append(Broker(f"cluster/nats-{number}.conf", folder / f"n{number}", changes, *free_ports(2)))
    return nodes


async def test_three_nodes_of_plain_files_keep_a_copy_in_every_zone(
    tmp_path: Path, started: Callable[[list[Broker]], list[Broker]], fresh: Callable[[str], str], eventually: Eventually
) -> None:
    """Three copies with every event on disk; a node may be killed, and what was acknowledged is there."""
    nodes = started(three_nodes(tmp_path))
    async with asyncio.timeout(120):
        await asyncio.gather(*(node.serving() for node in nodes))
        url = ",".join(node.url() for node in nodes)
        async with connect(url, member="ann", settings=StreamSettings(replicas=3, shards=2)) as ann:
            session = ann.session(fresh("s"))
            await session.create()
            infos = [await ann.log.wire.api(f"STREAM.INFO.SESSIONS_{shard}") for shard in range(2)]
            sent = await session.send("hi", to="nobody")
            leader = infos[session.shard]["cluster"]["leader"]
            nodes[int(leader.removeprefix("nats-")) - 1].kill()
            again = await session.send("still there?", to="nobody")
            await eventually(lambda: ann.log.wire.connected.is_set(), ELECTION_SECONDS)
            stored = [
                message.sequence for message in await ann.log.read_all(session.shard, f"session.*.{session.id}.>")
            ]

    for info in infos:
        members = {info["cluster"]["leader"], *(one["name"] for one in info["cluster"]["replicas"])}
        assert members == {"nats-1", "nats-2", "nats-3"}
    assert stored[-2:] == [sent.position.sequence, again.position.sequence]


def with_users(folder: Path) -> tuple[Path, Path]:
    """Make users as an operator does; return the file for the brokers and the folder of the keys."""
    for words in (("init", str(folder), "--shards", "2"), ("agent", "echo", "--dir", str(folder))):
        done = subprocess.run([*CLI, "broker", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "users.conf", folder / "keys" / "main"


async def test_three_nodes_know_who_is_who(
    tmp_path: Path,
    started: Callable[[list[Broker]], list[Broker]],
    fresh: Callable[[str], str],
    programs: Any,
    eventually: Eventually,
) -> None:
    """`broker init` and its users.conf beside common.conf: a key opens, no key does not; an isolated agent works on R3."""
    users, keys = with_users(tmp_path / "users")
    nodes = three_nodes(tmp_path)
    for node in nodes:
        common = node.folder / "common.conf"
        common.write_text(common.read_text().replace('# include "users.conf"', 'include "users.conf"'))
        (node.folder / "users.conf").write_text(users.read_text())
    started(nodes)
    async with asyncio.timeout(120):
        await asyncio.gather(*(node.serving() for node in nodes))
        url = ",".join(node.url() for node in nodes)
        port, script = free_ports(1)[0], tmp_path / "gateway.py"
        script.write_text(GATEWAY)
        command = ("up", "--broker", url, "--port", str(port), "--replicas", "3", "--shards", "2")
        programs.start(script, *command, ORCHESTRATOR_FREE_NKEY=str(keys / "gateway.nk"))
        await eventually(lambda: serving([f"http://127.0.0.1:{port}"]), 60)
        async with connect(url, member="operator", nkey_seed=keys / "operator.nk") as gateway:
            agent = programs.start(
                agent_in(tmp_path), ORCHESTRATOR_FREE_URL=url, ORCHESTRATOR_FREE_NKEY=str(keys / "echo.nk")
            )
            session = gateway.as_member("ann").session(fresh("s"))
            await session.create(agents=["echo"])
            sent = await session.send("hi", to="echo")
            finished = await session.result("echo", sent.run, timeout=60)
            assert agent.alive, agent.output
        with pytest.raises(PermissionDenied):
            async with connect(url, member="eve"):
                pass

    assert finished["parts"][0]["text"] == "hi from the west"


async def test_two_clusters_are_one_system(
    tmp_path: Path, started: Callable[[list[Broker]], list[Broker]], fresh: Callable[[str], str], programs: Any
) -> None:
    """Streams in the east; a person and an agent in the west use them with no option."""
    gates, routes = free_ports(2), free_ports(2)
    names = {f"{region}-1:7222": f"127.0.0.1:{gate}" for region, gate in zip(("east", "west"), gates, strict=True)}
    sides = []
    for region, gate, route in zip(("east", "west"), gates, routes, strict=True):
        changes = names | {
            "0.0.0.0:7222": f"127.0.0.1:{gate}", "0.0.0.0:6222": f"127.0.0.1:{route}",
            f"{region}-1:6222": f"127.0.0.1:{route}",
        }  # fmt: skip
        sides.append(Broker(f"supercluster/{region}.conf", tmp_path / region, changes, *free_ports(2)))
    east, west = started(sides)
    east_url, west_url = (side.url("core", SECRETS["CORE_PASSWORD"]) for side in (east, west))
    async with asyncio.timeout(120):
        await asyncio.gather(east.serving(), west.serving())
        async with connect(east_url, member="ann") as ann:
            where = (await ann.log.wire.api("STREAM.INFO.SESSIONS_0"))["cluster"]["name"]
            programs.start(agent_in(tmp_path), ORCHESTRATOR_FREE_URL=west_url)
            async with connect(west_url, member="bob") as bob:
                session = bob.session(fresh("s"))
                await session.create(agents=["echo"])
                sent = await session.send("hi", to="echo")
                finished = await session.result("echo", sent.run, timeout=60)
            seen = await ann.session(session.id).view()

    assert where == "east"
    assert finished["parts"][0]["text"] == "hi from the west"
    assert seen["agents"][0]["runs"][0]["parts"] == finished["parts"]


def agent_in(folder: Path) -> Path:
    """Write an agent's program."""
    script = folder / "echo.py"
    script.write_text(
        "from orchestrator_free import Agent, Run\n"
        "agent = Agent('echo')\n"
        "@agent\n"
        "async def handle(run: Run) -> None:\n"
        "    await run.text(f'{run.input.text} from the west')\n"
        "agent.main()\n"
    )
    return script


@pytest.fixture
def broker_url() -> str:
    """Programs are told theirs one by one."""
    return ""
