"""An edge behind a leaf node: agents, a gateway and readers there use the log at the hub, with no option at all."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free import connect
from orchestrator_free.broker import stream_settings, wired
from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import SecondLog
from orchestrator_free.jetstream import neighbours
from orchestrator_free.jetstream.neighbours import logs_that_hear
from orchestrator_free.operations.doctor import examine
from tests.chaos.cluster import free_ports
from tests.chaos.test_cluster import GATEWAY, serving
from tests.chaos.test_kill_everything import SseClient
from tests.deploy.brokers import SECRETS, Broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
EDGE_PASSWORD = SECRETS["EDGE_PASSWORD"]
HANDLER = """
async with run.tool("look", {}) as call:
    call.output = {"found": 1}
for number in range(60):
    await run.text(f"{number} ")
    await asyncio.sleep(0.05)
"""


class Site:
    """A hub with the log, and an edge that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        hub, hub_monitor, leaf, edge, edge_monitor = free_ports(5)
        self.hub = Broker("leaf/hub.conf", folder / "hub", {"0.0.0.0:7422": f"127.0.0.1:{leaf}"}, hub, hub_monitor)
        self.line = line = f"nats://edge:{EDGE_PASSWORD}@127.0.0.1:{leaf}"
        self.edge = Broker("leaf/edge.conf", folder / "edge", {}, edge, edge_monitor, HUB_URL=line)
        self.hub_url = self.hub.url("core", SECRETS["CORE_PASSWORD"])
        self.edge_url = self.edge.url("edge", EDGE_PASSWORD)

    def kill(self) -> None:
        self.hub.kill()
        self.edge.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both servers, each started for itself."""
    found = Site(tmp_path_factory.mktemp("site"))
    try:
        found.hub.start()
        found.edge.start()
        yield found
    finally:
        found.kill()


@pytest.fixture(scope="module")
def broker_url(site: Site) -> str:
    """Programs of these tests run at the edge."""
    return site.edge_url


@pytest.fixture(autouse=True)
async def there(site: Site) -> None:
    """Begin when both serve."""
    await site.hub.serving()
    await site.edge.serving()


@asynccontextmanager
async def following(client: SseClient) -> AsyncIterator[None]:
    task = asyncio.create_task(client.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def gateway(programs: Any, tmp_path: Path, site: Site, eventually: Eventually) -> str:
    """A gateway at the edge."""
    script, port = tmp_path / "gateway.py", free_ports(1)[0]
    script.write_text(GATEWAY)
    programs.start(script, "up", "--broker", site.edge_url, "--port", str(port))
    await eventually(lambda: serving([f"http://127.0.0.1:{port}"]), 40)
    return f"http://127.0.0.1:{port}"


async def test_what_is_sent_at_the_hub_is_answered_at_the_edge(
    site: Site, programs: Any, gateway: str, fresh: Callable[[str], str], eventually: Eventually
) -> None:
    """Inputs, runs, objects, presence and timers cross the line; a client at the edge sees the hub's log, as it is."""
    programs.agent("edgy", HANDLER)
    async with connect(site.hub_url, member="ann") as ann:
        session = ann.session(fresh("s"))
        await session.create(agents=["edgy"])
        client = SseClient(gateway, session.id)
        sent = await session.send("hi", to="edgy")
        async with following(client):
            finished = await session.result("edgy", sent.run, timeout=40)
            await eventually(client.idle.is_set, 20)
        await ann.objects.put(session.id, "plan", b"x" * 300_000)
        async with httpx.AsyncClient() as http:
            plan = await http.get(f"{gateway}/sessions/{session.id}/objects/plan")
        members = await session.presence.now()
        ask = await session.asks.ask("Which?", to=["bob"], options=["a"], seconds=1)
        decided = await ask.decision()
        stored = [message.sequence for message in await ann.log.read_all(session.shard, f"session.*.{session.id}.>")]

    got = [int(position.rpartition("-")[2]) for position, _ in client.events]
    assert (finished["status"], finished["parts"][0]["output"]) == ("done", {"found": 1})
    assert got == sorted(set(got))
    assert set(stored[:2]) <= set(got)
    assert plan.content == b"x" * 300_000
    assert "edgy" in {member.member for member in members}
    assert decided.status == "expired"


KEEPS = {
    "server_name: edge": "server_name: keeper",  # a hub has one line to each name
    "leafnodes {": 'jetstream { store_dir: "STORE" }\nleafnodes {',
    "SESSIONS { users": "SESSIONS { jetstream: enabled, users",
}
DOMAIN = {'"STORE"': '"STORE", domain: edge'}
APART = {"default_js_domain": "# default_js_domain"}


@asynccontextmanager
async def edge_that_keeps(site: Site, folder: Path, changes: dict[str, str]) -> AsyncIterator[str]:
    """Another edge, whose server has JetStream of its own; its address."""
    port, monitor = free_ports(2)
    edge = Broker(
        "leaf/edge.conf", folder, KEEPS | changes | {"STORE": str(folder / "store")}, port, monitor, HUB_URL=site.line
    )
    try:
        edge.start()
        await edge.serving()
        yield edge.url("edge", EDGE_PASSWORD)
    finally:
        edge.kill()


@pytest.mark.parametrize(
    ("changes", "words"),
    [(APART, "one elsewhere hears what is said"), (APART | DOMAIN, "one elsewhere hears what is said")],
    ids=["no domain", "domain"],
)
async def test_an_edge_with_a_jetstream_of_its_own_makes_no_second_log(
    site: Site, tmp_path: Path, changes: dict[str, str], words: str, eventually: Eventually
) -> None:
    """Its JetStream answers, and has no log: nothing is made, the error and the doctor say what to do."""
    async with connect(site.hub_url, member="ann"), edge_that_keeps(site, tmp_path, changes) as url:

        async def is_refused() -> bool:  # as soon as the line stands
            async with wired(url, member="operator") as wire:
                return await logs_that_hear(wire) == 1

        await eventually(is_refused, 40)
        for settings in (None, StreamSettings(shards=2), StreamSettings(domain="edge")):
            with pytest.raises(SecondLog, match=words) as caught:
                async with connect(url, member="core", settings=settings):
                    pass
            assert "deploy/leaf" in str(caught.value)
        async with wired(url, member="operator") as wire:
            assert (await wire.api("STREAM.NAMES"))["total"] == 0
            found = await examine(wire, role="operator", member="operator")
        assert ("log", "problem") in {(check.name, check.status) for check in found}


async def test_a_hub_out_of_reach_is_no_reason_to_make_a_log_at_the_edge(
    site: Site, tmp_path: Path, eventually: Eventually
) -> None:
    """A JetStream with a domain is made a log in only for who names the domain; one that was made so is used by all."""
    nowhere = Site(tmp_path / "nowhere")  # never started
    async with edge_that_keeps(nowhere, tmp_path / "edge", APART | DOMAIN) as url:
        for settings, words in (
            (None, "ORCHESTRATOR_FREE_DOMAIN=edge"),
            (StreamSettings(domain="hub"), "not of 'hub'"),
        ):
            with pytest.raises(SecondLog, match=words):
                async with connect(url, member="core", settings=settings):
                    pass
        chosen = stream_settings({"ORCHESTRATOR_FREE_DOMAIN": "edge"})
        for settings in (chosen, None):
            async with connect(url, member="ann", settings=settings) as ann:
                await ann.session("s1").send("hello", to="nobody")
        async with wired(url, member="operator") as wire:
            found = await examine(wire, role="operator", member="operator")
        assert ("log", "ok") in {(check.name, check.status) for check in found}


async def test_two_jetstreams_that_answer_as_one_are_told_apart(tmp_path: Path, eventually: Eventually) -> None:
    """Both sides let the API through and both keep: whoever comes first, at either side, is refused before two logs are."""
    site = Site(tmp_path / "fresh")
    try:
        site.hub.start()
        await site.hub.serving()
        async with edge_that_keeps(site, tmp_path / "edge", {}) as url:
            async with wired(url, member="operator") as wire:

                async def both_answer() -> bool:
                    return len(await neighbours._answers(wire, "$JS.API.INFO")) == 2

                await eventually(both_answer, 40)
            for one in (url, site.hub_url):
                with pytest.raises(SecondLog, match="2 JetStreams answer"):
                    async with connect(one, member="core"):
                        pass
            async with wired(url, member="operator") as wire:
                assert (await wire.api("STREAM.NAMES"))["total"] == 0
    finally:
        site.kill()


async def test_a_line_that_breaks_costs_a_pause(
    site: Site, programs: Any, gateway: str, fresh: Callable[[str], str], eventually: Eventually
) -> None:
    """The edge's server is killed in the middle of a run there: the run goes on, its reader has every event once."""
    programs.agent("edgier", HANDLER)
    async with connect(site.hub_url, member="ann") as ann:
        session = ann.session(fresh("s"))
        await session.create(agents=["edgier"], compaction="off")
        client = SseClient(gateway, session.id)
        sent = await session.send("hi", to="edgier")
        async with following(client):
            await eventually(lambda: len(client.events) > 15, 40)
            site.edge.kill()
            site.edge.start()
            await site.edge.serving()
            finished = await session.result("edgier", sent.run, timeout=60)
            await eventually(client.idle.is_set, 40)
        stored = [message.sequence for message in await ann.log.read_all(session.shard, f"session.*.{session.id}.>")]

    text = next(part["text"] for part in finished["parts"] if part["type"] == "text")
    assert text == "".join(f"{number} " for number in range(60))
    assert [int(position.rpartition("-")[2]) for position, _ in client.events] == stored
