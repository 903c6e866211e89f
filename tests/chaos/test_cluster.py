"""The promises on a cluster: what R3 streams give up when a node goes, no reader and no agent may notice."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import Conflict, OrchestratorFreeError
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.jetstream import Message
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS
from orchestrator_free.reading.entries import to_event
from orchestrator_free.reading.reader import Reader
from tests.chaos.cluster import ELECTION_SECONDS, Cluster, free_ports, running_cluster
from tests.chaos.test_kill_everything import SseClient, folded, view_hash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
Fresh = Callable[[str], str] if TYPE_CHECKING else Any
R3 = StreamSettings(replicas=3)
AGENTS = ("ada", "bob", "cyd")
TOKENS = 500
#: what the broker answers while an earlier write to the subject waits for its majority
IN_PROCESS = 10164
HANDLER = """
for number in range({tokens}):
    await run.text(f"{{run.agent}}-{{number}} ")
    await asyncio.sleep({pace})
"""
GATEWAY = "from orchestrator_free.cli import main\nmain()\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of the module's own; a test may kill them, the next one begins with all of them."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `ann` and `programs`."""
    return cluster.url


@pytest.fixture(autouse=True)
async def whole(cluster: Cluster, eventually: Eventually) -> None:
    """Begin each test with three nodes that are up to date."""
    await cluster.start()
    async with connect(cluster.url, member="ann", settings=R3):
        await eventually(cluster.whole, 40, every=0.2)


# -- readers ------------------------------------------------------------------------------------------------------


def known(events: list[Event]) -> list[tuple[int, str, bytes]]:
    """Return what must be the same for all readers."""
    return [(event.sequence, str(event.address), orjson.dumps(event.body)) for event in events]


class Watcher:
    """Follows a session from its beginning until every run is finished, over a connection that began at one node."""

    def __init__(self, url: str, session: str) -> None:
        self.events: list[Event] = []
        self.error: OrchestratorFreeError | None = None
        self.ended = asyncio.Event()
        self._arrivals: list[float] = []
        self._url = url
        self._session = session

    async def run(self) -> None:
        finished = 0
        try:
            async with connect(self._url, member="watcher") as broker:
                async for event in broker.session(self._session).follow(compact=False):
                    self.events.append(event)
                    self._arrivals.append(time.monotonic())
                    finished += event.type == "run.finished"
                    if finished == len(AGENTS):
                        break
        except OrchestratorFreeError as error:
            self.error = error
        self.ended.set()

    @property
    def stall(self) -> float:
        """The longest time without an event, in seconds."""
        return max(after - before for before, after in pairwise(self._arrivals))

    def view(self, position: str) -> dict[str, Any]:
        fold = Fold(self._session)
        for event in self.events:
            fold.apply(event)
        return fold.view(position)


async def leaders_log(broker: Broker, session: str) -> list[Message]:
    """Read a session message by message from the leader, which alone is never behind."""
    found: list[Message] = []
    after = 0
    while message := await broker.log._get(0, {"seq": after + 1, "next_by_subj": f"session.0.{session}.>"}):
        after = message.sequence
        found.append(message)
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


# -- three agents, and everybody who reads along --------------------------------------------------------------------


class Stage:
    """One session with three agents, a watcher at every node, and two gateways, at different nodes, with a client."""

    def __init__(self, cluster: Cluster, ann: Broker, session: str, eventually: Eventually) -> None:
        self.session = ann.session(session)
        self.watchers = [Watcher(cluster.url_of(node), session) for node in cluster.nodes]
        self.clients: list[SseClient] = []
        self._cluster = cluster
        self._ann = ann
        self._eventually = eventually

    async def prepare(self, programs: Any, folder: Path, *, pace: float) -> None:
        """Start agents and gateways, and begin the session."""
        for name in AGENTS:
            programs.agent(name, HANDLER.format(tokens=TOKENS, pace=pace))
        script = folder / "gateway.py"
        script.write_text(GATEWAY)
        urls = []
        for node, port in zip(list(self._cluster.nodes)[1:], free_ports(2), strict=True):
            programs.start(script, "up", "--broker", self._cluster.url_of(node), "--port", str(port))
            urls.append(f"http://127.0.0.1:{port}")
        self.clients = [SseClient(url, self.session.id) for url in urls]
        await self._eventually(lambda: serving(urls), 40)
        await self._eventually(self._living, 40)
        await self.session.create(agents=AGENTS, compaction="off")

    async def _living(self) -> bool:
        return len(list(await self._ann.log.present("agent"))) >= len(AGENTS)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        async with running(*(one.run() for one in self.watchers), *(one.run() for one in self.clients)):
            yield

    async def reached(self, events: int) -> None:
        """Wait until every watcher has so many events."""
        await self._eventually(lambda: all(len(one.events) >= events or one.error for one in self.watchers), 40)

    async def ended(self) -> None:
        await self._eventually(lambda: all(one.ended.is_set() for one in self.watchers), 60)
        await self._eventually(lambda: all(one.idle.is_set() or "reset" in one.controls for one in self.clients), 20)

    async def report(self, what: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Print what the readers went through."""
        log = [event for message in await leaders_log(self._ann, self.session.id) if (event := to_event(message))]
        attempts = [event.body["attempt"] for event in log if event.type == "run.started"]
        offline = sum(event.type == "agent.offline" for event in log)
        stalls = ", ".join(f"{one.stall:.2f}" for one in self.watchers)
        with capsys.disabled():
            print(f"\n  {what}: {len(log)} events, attempts {attempts}, agent.offline {offline}; longest stalls of the")
            print(f"  readers {stalls} s; resumes of the gateways' clients {[one.resumes for one in self.clients]}")

    async def judge(self) -> None:
        """Compare all readers with the leader's log, and with somebody who comes late."""
        log = [event for message in await leaders_log(self._ann, self.session.id) if (event := to_event(message))]
        late = await self.session.view()

        assert [one.error for one in self.watchers] == [None] * len(self.watchers)
        assert all(known(one.events) == known(log) for one in self.watchers)
        for client in self.clients:
            got = [int(position.rpartition("-")[2]) for position, _ in client.events]
            missed = sorted({event.sequence for event in log} - set(got))
            assert (missed, client.controls) == ([], ["idle"])
            assert got == [event.sequence for event in log]
        views = {view_hash(one.view(late["position"])) for one in self.watchers}
        assert views | {view_hash(folded(self.session.id, one.events)) for one in self.clients} == {view_hash(late)}
        for name in AGENTS:
            mine = [event for event in log if event.member == name]
            said = "".join(event.body["text"] for event in mine if event.type == "text.delta")
            assert said == "".join(f"{name}-{number} " for number in range(TOKENS))
            assert [event.type for event in mine].count("run.finished") == 1
            assert (mine[-1].type, mine[-1].body["status"]) == ("run.finished", "done")
        assert {event.body["attempt"] for event in log if event.type == "run.started"} == {1}


async def serving(urls: list[str]) -> bool:
    try:
        async with httpx.AsyncClient() as http:
            return all([(await http.get(f"{url}/readyz")).is_success for url in urls])
    except httpx.HTTPError:
        return False


@pytest.fixture
def stage(cluster: Cluster, ann: Broker, fresh: Fresh, eventually: Eventually) -> Stage:
    """A session for three agents and their readers."""
    return Stage(cluster, ann, fresh("s"), eventually)


async def test_a_killed_leader_costs_a_pause_and_nothing_else(
    cluster: Cluster, stage: Stage, programs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every token once and in order, one attempt, one end per run; every reader at every node sees the same."""
    await stage.prepare(programs, tmp_path, pace=0.03)
    async with stage.reading():
        await stage.session.send("go", to="all")
        await stage.reached(300)
        cluster.kill(await cluster.leader())
        await stage.ended()

    await stage.report("leader killed", capsys)
    await stage.judge()
    assert all(one.stall < ELECTION_SECONDS for one in stage.watchers)


async def test_a_rolling_restart_is_hardly_noticed(
    cluster: Cluster, stage: Stage, programs: Any, tmp_path: Path, eventually: Eventually, capsys: Any
) -> None:
    """Each node in turn gets SIGTERM while three runs go on: it hands its leaderships over before it leaves."""
    await stage.prepare(programs, tmp_path, pace=0.05)
    async with stage.reading():
        await stage.session.send("go", to="all")
        await stage.reached(100)
        for node in cluster.nodes:
            assert not any(one.ended.is_set() for one in stage.watchers), "the runs were over too early"
            await cluster.nodes[node].stop()
            await cluster.start()
            await eventually(cluster.whole, 40, every=0.2)
        await stage.ended()

    await stage.report("rolling restart", capsys)
    await stage.judge()


# -- one node away --------------------------------------------------------------------------------------------------


async def test_whichever_node_is_away_newcomers_get_in_and_everything_works(
    cluster: Cluster, fresh: Fresh, eventually: Eventually
) -> None:
    """Log, presence and objects are on all three nodes; a position of one node is good at the others."""
    name = fresh("s")
    for node in cluster.nodes:
        await cluster.nodes[node].stop()
        async with connect(cluster.url_of(*cluster.others(node)), member="bob") as bob:
            session = bob.session(f"{name}-{node}")
            created = await session.create()
            await bob.log.announce("agent.zoe.1", node.encode())
            await bob.objects.put(session.id, "o", b"bytes")
            sent = await session.send("hi", to="nobody")
            shown = dict(await bob.log.present("agent.zoe"))
            assert (shown, await session.object("o")) == ({"agent.zoe.1": node.encode()}, b"bytes")
        for other in cluster.others(node):
            async with connect(cluster.url_of(other), member="bob") as bob:
                async for event in bob.session(session.id).follow(str(created)):
                    assert event.sequence == sent.position.sequence
                    break
        await cluster.start()
        await eventually(cluster.whole, 40, every=0.2)


async def test_a_write_that_waits_for_its_majority_is_not_taken_for_somebody_elses(
    cluster: Cluster, fresh: Fresh, ann: Broker, eventually: Eventually
) -> None:
    """The broker refuses the retry of a write that it has not decided on yet; that is no conflict, it is stored once."""
    subject = f"session.0.{fresh('s')}.bob.state.k"
    leader = await cluster.leader()
    async with connect(cluster.url_of(leader), member="bob") as bob:
        first = await bob.log.wire.publish(subject, b"1", expect=0)
        with cluster.frozen(*cluster.others(leader)):
            waiting = asyncio.create_task(bob.log.wire.publish(subject, b"2", expect=first))
            await asyncio.sleep(0)
            answer, _ = await bob.log.wire.exchange(subject, b"2", header=expecting(first), seconds=5)
            assert orjson.loads(answer)["error"]["err_code"] == IN_PROCESS  # the second write of the two
            tries = bob.log.wire._counter
            await eventually(lambda: bob.log.wire._counter > tries + 2, 5)
        second = await waiting
    stored = await leaders_log(ann, subject.split(".")[2])

    assert [(message.sequence, message.payload) for message in stored] == [(first, b"1"), (second, b"2")]


def expecting(sequence: int) -> bytes:
    return f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {sequence}\r\n\r\n".encode()


# -- the splice -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def typing(url: str, session: str, members: int) -> AsyncIterator[None]:
    """Let some members write as fast as they can."""

    async def write(broker: Broker, member: str) -> None:
        subject, last = f"session.0.{session}.{member}.run.r", 0
        while True:
            last = await broker.log.wire.publish(subject, b'{"type":"text.delta","part":"1","text":"x"}', expect=last)

    async with connect(url, member="typing") as broker, running(*(write(broker, f"w{n}") for n in range(members))):
        yield


async def opened(broker: Broker, session: str, after: int, eventually: Eventually) -> list[int]:
    """Open a session, from its beginning or after a sequence; return the sequences that came, a few live ones, too."""
    got: list[int] = []
    lost: list[Exception] = []
    reader = Reader(broker.log, session, lambda entries: got.extend(one.event.sequence for one in entries), lost.append)
    try:
        await reader.open(broker.session(session).position(after) if after else None)
        end = reader.sequence
        await eventually(lambda: reader.sequence > end + 10 or lost, 20)
    finally:
        reader.close()
    assert lost == []
    return got


async def test_a_hundred_opens_under_load_miss_nothing(
    tmp_path: Path, fresh: Fresh, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    """No gap, no duplicate, from the beginning or a position; at a node that keeps no replica, so any may answer."""
    name = fresh("s")
    async with (
        Cluster(tmp_path, nodes=("n1", "n2", "n3", "n4", "n5")) as five,
        connect(five.url, member="ann", settings=R3) as ann,
    ):
        await eventually(five.whole, 40, every=0.2)
        await ann.session(name).create()
        inside = await five.members()
        outside = next(node for node in five.nodes if node not in inside)
        opens: list[tuple[int, list[int]]] = []
        async with connect(five.url_of(outside), member="bob") as bob, typing(five.url_of(*inside), name, 6):
            for number in range(100):
                last = await bob.log.last(0, f"session.0.{name}.>")
                after = last.sequence if last and number % 2 else 0
                opens.append((after, await opened(bob, name, after, eventually)))
        log = [message.sequence for message in await leaders_log(ann, name)]

    wrong = [got for after, got in opens if got != [one for one in log if after < one <= got[-1]]]
    with capsys.disabled():
        print(f"\n  {len(opens)} opens while {len(log)} events were written: {len(wrong)} with a gap or a duplicate")
    assert wrong == []


# -- compare and set ------------------------------------------------------------------------------------------------


async def test_no_update_is_lost_though_the_leader_is_killed(
    cluster: Cluster, ann: Broker, fresh: Fresh, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty writers count together in one state key, each under its own name: every count that was taken is there."""
    session, each = fresh("s"), 10
    everyone = f"session.0.{session}.*.state.counter"
    taken: list[int] = []
    conflicts = 0

    async def count(broker: Broker, member: str) -> None:
        nonlocal conflicts
        subject = f"session.0.{session}.{member}.state.counter"
        for _ in range(each):
            while True:
                last = await broker.log.last(0, everyone)
                value, expect = (int(last.payload), last.sequence) if last else (0, 0)
                try:
                    await broker.log.wire.publish(
                        subject, b"%d" % (value + 1), expect=expect, expect_filter=everyone, rollup=True
                    )
                except Conflict:
                    conflicts += 1
                    continue
                taken.append(value + 1)
                break

    started = time.monotonic()
    async with connect(cluster.url_of(cluster.others(await cluster.leader())[0]), member="bob") as bob:
        writers = [asyncio.create_task(count(bob, f"w{number}")) for number in range(20)]
        await eventually(lambda: len(taken) > 60, 30)
        cluster.kill(await cluster.leader())
        async with asyncio.timeout(2 * PUBLISH_DEADLINE_SECONDS):
            await asyncio.gather(*writers)
    with capsys.disabled():
        took = time.monotonic() - started
        print(f"\n  {len(taken)} counts, {conflicts} conflicts in {took:.1f} s, the leader's election included")

    last = await ann.log.last(0, everyone)
    assert last is not None
    assert int(last.payload) == 20 * each
    assert sorted(taken) == list(range(1, 20 * each + 1))
