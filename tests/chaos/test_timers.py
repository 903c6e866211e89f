"""What the broker says later is said once, in time and after any leader's death; and of many answers one counts on R3."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import TIMERS, StreamSettings
from orchestrator_free.errors import AskClosed
from orchestrator_free.reading.entries import to_event
from tests.chaos.cluster import ELECTION_SECONDS, Cluster, running_cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from orchestrator_free import Session
    from orchestrator_free.events import Event

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
Fresh = Callable[[str], str] if TYPE_CHECKING else Any
R3 = StreamSettings(replicas=3)
LOG = "SESSIONS_0"
#: the asks of a test expire this long after they were asked, some before, some during and some after the failure
FIRST, LAST, MANY = 4.0, 16.0, 30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of the module's own; a test may kill them, the next one begins with all of them."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `ann`."""
    return cluster.url


@pytest.fixture(autouse=True)
async def whole(cluster: Cluster, eventually: Eventually) -> None:
    """Begin each test with three nodes that are up to date."""
    await cluster.start()
    async with connect(cluster.url, member="ann", settings=R3):
        await eventually(lambda: up_to_date(cluster), 60, every=0.2)


async def up_to_date(cluster: Cluster) -> bool:
    """Whether log and timers have a leader and two followers that are up to date."""
    for stream in (LOG, TIMERS):
        group = await cluster.group(stream)
        if not group.get("leader") or sum(one["current"] for one in group.get("replicas") or []) < 2:
            return False
    return True


async def stages(session: Session) -> list[Any]:
    """What the broker has said in a session, as it is stored."""
    log = session._broker.log
    messages = await log.read_all(session.shard, f"session.{session.shard}.{session.id}.*.stage.>")
    return [event for message in messages if (event := to_event(message)) is not None]


async def ask_many(session: Session) -> dict[str, tuple[float, str]]:
    """Ask many things that expire one after the other; return seconds and time of each."""
    step = (LAST - FIRST) / MANY
    asked = [await session.asks.ask("Go?", seconds=FIRST + number * step, id=f"q{number}") for number in range(MANY)]
    return {one.ask: (one.view["seconds"], (await session.asks.get(one.ask))["time"]) for one in asked}


@pytest.mark.parametrize("victims", [{TIMERS}, {LOG}, {TIMERS, LOG}], ids=["timers", "log", "both"])
async def test_every_ask_expires_once_and_not_early_though_leaders_die(
    cluster: Cluster, ann: Broker, fresh: Fresh, eventually: Eventually, victims: set[str]
) -> None:
    """One dead node stays dead; of two, without which there is no majority, both come back."""
    session = ann.session(fresh("s"))
    await session.create()
    due = await ask_many(session)
    dead = {await cluster.leader(stream) for stream in victims}
    if victims == {TIMERS, LOG}:
        dead |= set(cluster.others(*dead)[:1] if len(dead) == 1 else [])
    for node in dead:
        cluster.kill(node)
    if len(dead) > 1:
        await cluster.start()

    async def all_expired() -> bool:
        return all(ask["status"] == "expired" for ask in await session.asks.all())

    await eventually(all_expired, LAST + 5 * ELECTION_SECONDS, every=0.2)
    await cluster.start()
    await eventually(lambda: up_to_date(cluster), 60, every=0.2)
    said = await stages(session)
    late = [lateness(event, *due[event.address.target]) for event in said]
    print(f"said {min(late):.2f} to {max(late):.2f} s after they were due")

    assert Counter(event.address.target for event in said) == dict.fromkeys(due, 1)
    assert min(late) > -0.5, "said too early"


def lateness(event: Event, seconds: float, asked: str) -> float:
    """How many seconds after its time an event was stored."""
    return (datetime.fromisoformat(event.time) - datetime.fromisoformat(asked)).total_seconds() - seconds


async def test_what_is_due_while_no_majority_lives_is_said_once_when_it_is_back(
    cluster: Cluster, ann: Broker, fresh: Fresh, eventually: Eventually
) -> None:
    """Every node is killed; nothing of ours runs either, but this test's connection."""
    session = ann.session(fresh("s"))
    await session.create()
    asked = await session.asks.ask("Go?", to=["bob"], seconds=3, escalations=[(2, ["cat"])])
    for node in cluster.nodes:
        cluster.kill(node)
    overdue = time.monotonic() + 4
    await eventually(lambda: time.monotonic() > overdue, 30)
    await cluster.start()

    async def expired() -> bool:
        return [event.type for event in await stages(session)] == ["ask.escalated", "ask.expired"]

    await eventually(expired, 3 * ELECTION_SECONDS, every=0.2)
    ask = await session.asks.get(asked.ask)

    assert (ask["status"], ask["to"]) == ("expired", ["bob", "cat"])


async def test_of_many_who_answer_at_once_over_all_nodes_one_counts(
    cluster: Cluster, ann: Broker, fresh: Fresh
) -> None:
    """What a follower took and what the leader took is one order; the broker stores no second answer."""
    session = ann.session(fresh("s"))
    await session.create()
    nodes = list(cluster.nodes)

    async def answer(number: int, ask: str) -> Any:
        url = cluster.url_of(nodes[number % 3])
        async with connect(url, member=f"p{number}") as broker:
            return await broker.session(session.id).asks.answer(ask, number)

    for _ in range(5):
        asked = await session.asks.ask("Who takes it?")
        results = await asyncio.gather(*(answer(number, asked.ask) for number in range(20)), return_exceptions=True)
        decision = await asked.decision(timeout=40)

        assert [result["value"] for result in results if isinstance(result, dict)] == [decision.value]
        assert sum(isinstance(result, AskClosed) for result in results) == 19
        assert len(decision.answers) == 1


async def test_an_approval_given_while_the_leader_dies_resumes_the_run(
    cluster: Cluster, ann: Broker, fresh: Fresh, programs: Any, eventually: Eventually
) -> None:
    """The run waits through the election; its answer is stored once, whatever was sent again."""
    name = fresh("agent")
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    programs.agent(name, 'decision = await run.approve("Go?", to=["ann"])\nawait run.text(str(decision.value))')
    sent = await session.send("go", to=name)
    [ask] = await eventually(session.asks.open, 40)
    cluster.kill(await cluster.leader(LOG))
    answered = await session.asks.answer(ask["ask"], "approve")
    run = await session.result(name, sent.run, timeout=60)

    assert answered["status"] == "decided"
    assert (run["status"], run["parts"][0]["text"]) == ("done", "approve")
