"""The promises on three nodes: what R3 streams give up in a leader change, no reader and no agent may notice."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.reader import to_event
from orchestrator_free.session import Broker, connect
from tests.chaos.cluster import Cluster, free_ports, running_cluster
from tests.chaos.test_kill_everything import SseClient, folded, view_hash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

AGENTS = ("ada", "bob", "cyd")
TOKENS = 500
HANDLER = """
for number in range({tokens}):
    await run.text(f"{{run.agent}}-{{number}} ")
    await asyncio.sleep({pace})
"""
GATEWAY = "from orchestrator_free.cli import main\nmain()\n"
R3 = StreamSettings(replicas=3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for the module; a test may kill them, `whole` brings them back."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `ann` and `programs`."""
    return cluster.url


@pytest.fixture(autouse=True)
async def whole(cluster: Cluster, eventually: Any) -> None:
    """Begin each test with three nodes that are up to date."""
    await cluster.start()
    async with connect(cluster.url, member="ann", settings=R3):
        await eventually(cluster.whole, 30, every=0.2)


class Watcher:
    """Follows a session over a connection that began at one node."""

    def __init__(self, url: str, session: str) -> None:
        self.events: list[Event] = []
        self.arrivals: list[float] = []
        self.error: OrchestratorFreeError | None = None
        self.ended = asyncio.Event()
        self._url = url
        self._session = session

    async def run(self, *, compact: bool = False) -> None:
        try:
            async with connect(self._url, member="watcher") as broker:
                async for event in broker.session(self._session).follow(compact=compact):
                    self.events.append(event)
                    self.arrivals.append(time.monotonic())
                    if sum(one.type == "run.finished" for one in self.events[-50:]) and self._finished() == len(AGENTS):
                        break
        except OrchestratorFreeError as error:
            self.error = error
        self.ended.set()

    def _finished(self) -> int:
        return sum(event.type == "run.finished" for event in self.events)

    @property
    def stall(self) -> float:
        """The longest time without an event."""
        return max(after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False))

    def view(self) -> dict[str, Any]:
        fold = Fold(self._session)
        for event in self.events:
            fold.apply(event)
        return fold.view("")


def known(events: list[Event]) -> list[tuple[int, str, bytes]]:
    """Return what makes two readers' events the same."""
    return [(event.sequence, str(event.address), orjson.dumps(event.body)) for event in events]


async def leaders_log(broker: Broker, session: str) -> list[Event]:
    """Read a session message by message from the leader, which alone is never behind."""
    found: list[Event] = []
    after = 0
    while message := await broker.log._get(0, {"seq": after + 1, "next_by_subj": f"session.0.{session}.>"}):
        after = message.sequence
        event = to_event(message)
        assert event is not None
        found.append(event)
    return found


@asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Stage:
    """Three agents, a watcher at every node, two gateways at different nodes with a client each."""

    def __init__(self, cluster: Cluster, programs: Any, folder: Any, session: str, eventually: Any) -> None:
        self.cluster = cluster
        self.session = session
        self.watchers = [Watcher(cluster.url_of(node), session) for node in cluster.nodes]
        self._eventually = eventually
        self.clients = []
        script = folder / "gateway.py"
        script.write_text(GATEWAY)
        for node in list(cluster.nodes)[:2]:
            port = str(free_ports(1)[0])
            programs.start(script, "up", "--broker", cluster.url_of(node), "--port", port)
            self.clients.append(SseClient(f"http://127.0.0.1:{port}", session))
        self._urls = [client._url for client in self.clients]

    async def ready(self, ann: Broker) -> None:
        async def served() -> bool:
            try:
                async with httpx.AsyncClient() as http:
                    return all([(await http.get(url.rsplit("/", 3)[0] + "/readyz")).is_success for url in self._urls])
            except httpx.HTTPError:
                return False

        async def living() -> bool:
            return len(list(await ann.log.present("agent"))) >= len(AGENTS)

        await self._eventually(served, 30)
        await self._eventually(living, 30)

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        async with running(*(one.run() for one in self.watchers), *(one.run() for one in self.clients)):
            yield

    async def done(self, seconds: float) -> None:
        await self._eventually(lambda: all(one.ended.is_set() for one in self.watchers), seconds)
        await self._eventually(lambda: all(one.idle.is_set() for one in self.clients), seconds)


async def judge(stage: Stage, ann: Broker, capsys: Any, what: str) -> None:
    log = await leaders_log(ann, stage.session)
    late = await ann.session(stage.session).view()
    errors = [watcher.error for watcher in stage.watchers if watcher.error]
    controls = [client.controls for client in stage.clients]
    offline = sum(event.type == "agent.offline" for event in log)
    attempts = sorted(event.body["attempt"] for event in log if event.type == "run.started")
    with capsys.disabled():
        stalls = ", ".join(f"{watcher.stall:.2f}" for watcher in stage.watchers)
        print(f"\n  {what}: {len(log)} events, stalls of the readers {stalls} s, attempts {attempts},", end=" ")
        print(f"offline {offline}, errors {[str(e) for e in errors]}, controls {controls}")
    assert not errors
    assert all(known(watcher.events) == known(log) for watcher in stage.watchers)
    views = {view_hash(watcher.view() | {"position": late["position"]}) for watcher in stage.watchers}
    views |= {view_hash(folded(stage.session, client.events)) for client in stage.clients}
    assert views == {view_hash(late)}
    sequences = [event.sequence for event in log]
    for client in stage.clients:
        assert [int(position.rpartition("-")[2]) for position, _ in client.events] == sequences
        assert set(client.controls) == {"idle"}
    for name in AGENTS:
        mine = [event for event in log if event.member == name]
        said = "".join(event.body["text"] for event in mine if event.type == "text.delta")
        assert said == "".join(f"{name}-{number} " for number in range(TOKENS))
        assert [event.type for event in mine].count("run.finished") == 1
        assert mine[-1].body["status"] == "done"


async def begin(stage: Stage, ann: Broker) -> None:
    await stage.ready(ann)
    session = ann.session(stage.session)
    await session.create(agents=AGENTS, compaction="off")


async def test_a_killed_leader_costs_a_pause_and_nothing_else(
    cluster: Cluster, programs: Any, ann: Broker, fresh: Any, tmp_path: Any, eventually: Any, capsys: Any
) -> None:
    """Every token once and in order, one attempt, one end per run; every reader at every node sees the same."""
    for name in AGENTS:
        programs.agent(name, HANDLER.format(tokens=TOKENS, pace=0.03))
    stage = Stage(cluster, programs, tmp_path, fresh("s"), eventually)
    await begin(stage, ann)
    async with stage.playing():
        await ann.session(stage.session).send("go", to="all")
        await eventually(lambda: all(len(one.events) > 300 or one.ended.is_set() for one in stage.watchers), 30)
        cluster.nodes[await cluster.leader()].kill()
        await stage.done(60)
    await judge(stage, ann, capsys, "leader killed")
