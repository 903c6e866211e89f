"""No silent agents: who owes work and is gone is said in the log, once, and taken back by the agent's next word."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import connect, contract
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import PermissionDenied
from orchestrator_free.events import decode, encode
from orchestrator_free.monitor import Monitor, MonitorSettings
from orchestrator_free.monitor.telling import GONE, NEVER
from orchestrator_free.subjects import run_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator_free import Broker, Session

WORK = """
await run.text(f"attempt {run.attempt}")
if run.attempt == 1 and run.input.text.startswith("sleep"):
    await asyncio.sleep(float(run.input.text.split()[1]))
"""
AT_ONCE = MonitorSettings(offline_after_seconds=0.0, unknown_after_seconds=0.0)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A broker of the test's own: what is counted here would count what other tests left."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0)) as server:
        yield server


@pytest.fixture
def broker_url(broker: EmbeddedServer) -> str:
    return broker.url


async def connected_once(ann: Broker, agent: str) -> None:
    """Leave what an agent leaves that has connected and is gone: its durable consumer."""
    for shard in range(ann.log.shards):
        stream, name = contract.stream_name(shard), contract.agent_consumer_name(agent)
        body = {"stream_name": stream, "config": contract.agent_consumer(shard, agent), "action": ""}
        await ann.log.wire.api(f"CONSUMER.CREATE.{stream}.{name}", body)


async def said(session: Session) -> list[tuple[str, str]]:
    """Return (agent, reason) of each last `agent.offline` of a session; roll-up leaves one per agent."""
    every = f"session.{session.shard}.{session.id}.*.presence"
    messages = await session._broker.log.read(session.shard, every)
    return [(message.subject.split(".")[3], decode(message.payload)["reason"]) for message in messages]


def listen(ann: Broker) -> list[str]:
    """Collect the subject of every presence event as it is stored, those that a later one replaces included."""
    heard: list[str] = []
    ann.log.wire.subscribe("live.session.*.*.*.presence", lambda subject, *_: heard.append(subject))
    return heard


async def agent_view(session: Session, agent: str) -> dict[str, Any]:
    view = await session.view()
    return next((found for found in view["agents"] if found["agent"] == agent), {"status": "", "runs": []})


async def has_text(session: Session, text: str) -> bool:
    return text in str((await session.view())["agents"])


async def has_status(session: Session, agent: str, status: str) -> dict[str, Any] | None:
    shown = await agent_view(session, agent)
    return shown if shown["status"] == status else None


class CountingMonitor(Monitor):
    """Counts how often it has looked."""

    ticks = 0

    async def tick(self) -> None:
        await super().tick()
        self.ticks += 1


async def publish(session: Session, agent: str, kind: str, **body: Any) -> int:
    """Append as another member would."""
    subject = f"session.{session.shard}.{session.id}.{agent}.{kind}"
    return await session._broker.log.wire.publish(subject, encode(body))


# -- with real processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_run_whose_only_replica_is_killed_is_lost_until_the_agent_returns(
    broker: EmbeddedServer, ann: Broker, programs: Any, eventually: Any
) -> None:
    """After kill -9: `offline` and `lost` in under 15 s, said once by three monitors; then attempt 2, a clean view."""

    session = ann.session("s1")
    await session.create(agents=["worker"])
    heard = listen(ann)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(broker.url)) for _ in range(3)]
        monitors = [await stack.enter_async_context(CountingMonitor(connection)) for connection in connections]
        (process,) = programs.agent("worker", WORK)
        sent = await session.send("sleep 3600", to="worker")
        await eventually(lambda: has_text(session, "attempt 1"))
        process.kill()
        killed = time.monotonic()
        shown = await eventually(lambda: has_status(session, "worker", "offline"))
        took = time.monotonic() - killed
        print(f"\nkill -9 to agent.offline in the view: {took:.1f} s")
        assert took < 15
        assert shown["reason"] == GONE
        assert [run["status"] for run in shown["runs"]] == ["lost"]
        ticks = [monitor.ticks + 2 for monitor in monitors]
        await eventually(lambda: all(monitor.ticks >= tick for monitor, tick in zip(monitors, ticks, strict=True)))
        assert len(heard) == 1
        assert await said(session) == [("worker", GONE)]

        programs.agent("worker", WORK)
        run = await session.result("worker", sent.run, timeout=30)
        assert (run["status"], run["attempt"]) == ("done", 2)
        shown = await agent_view(session, "worker")
        assert (shown["status"], shown["reason"]) == ("idle", None)
        assert [run["status"] for run in shown["runs"]] == ["done"]
        assert len(heard) == sum(monitor.published for monitor in monitors) == 1


@pytest.mark.slow
async def test_a_restarted_broker_makes_no_living_agent_offline(
    broker: EmbeddedServer, ann: Broker, programs: Any, eventually: Any
) -> None:
    """Presence is lost with the broker's memory; the agent in the middle of a run is not called offline for it."""

    session = ann.session("s1")
    await session.create(agents=["worker"])
    programs.agent("worker", WORK)
    async with Monitor(ann) as monitor:
        sent = await session.send("sleep 14", to="worker")
        await eventually(lambda: has_text(session, "attempt 1"))
        await broker.restart(kill=True)
        run = await session.result("worker", sent.run, timeout=40)

    assert (run["status"], run["attempt"]) == ("done", 1)
    assert await said(session) == []
    assert monitor.published == 0


@pytest.mark.slow
async def test_a_name_nobody_serves_is_said_until_somebody_does(ann: Broker, programs: Any, eventually: Any) -> None:
    """An input to a name without any consumer is answered by `offline`; the agent's first connection repairs it."""

    session = ann.session("s1")
    await session.create()
    async with Monitor(ann):
        begun = time.monotonic()
        sent = await session.send("hello", to="wroker")
        shown = await eventually(lambda: has_status(session, "wroker", "offline"))
        print(f"\ninput to a name nobody serves, to agent.offline: {time.monotonic() - begun:.1f} s")
        assert (shown["reason"], shown["runs"]) == (NEVER, [])
        programs.agent("wroker", WORK)
        await session.result("wroker", sent.run, timeout=20)

    assert (await agent_view(session, "wroker"))["status"] == "idle"
    assert await said(session) == [("wroker", NEVER)]


# -- one look at a time: no process, no waiting ---------------------------------------------------------------------


async def test_a_fresh_monitor_waits_before_it_judges(ann: Broker) -> None:
    """A monitor that has just started, or lost the broker, knows nothing of presence and says nothing."""

    await connected_once(ann, "worker")
    session = ann.session("s1")
    await session.send("hello", to="worker")
    monitor = Monitor(ann, settings=AT_ONCE)
    monitor._distrust()
    await monitor.tick()
    assert monitor.published == 0

    monitor._trusted = 0.0
    monitor._absent.clear()
    await monitor.tick()
    assert await said(session) == [("worker", GONE)]


async def test_every_session_that_waits_is_told_once_by_monitors_that_race(broker: EmbeddedServer, ann: Broker) -> None:
    """Three monitors at the same moment write one event per session, and none when they look again."""

    await connected_once(ann, "worker")
    heard = listen(ann)
    sessions = [ann.session(f"s{number}") for number in range(20)]
    for session in sessions:
        await session.send("one", to="worker")
        await session.send("two", to="worker")
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(broker.url)) for _ in range(3)]
        monitors = [Monitor(connection, settings=AT_ONCE) for connection in connections]
        for _ in range(3):
            await asyncio.gather(*(monitor.tick() for monitor in monitors))

    assert sum(monitor.published for monitor in monitors) == len(heard) == len(set(heard)) == 20
    for session in sessions:
        assert await said(session) == [("worker", GONE)]


async def test_a_new_input_to_an_offline_agent_is_answered_again(ann: Broker) -> None:
    """What was said before the input says nothing about it."""

    await connected_once(ann, "worker")
    session = ann.session("s1")
    monitor = Monitor(ann, settings=AT_ONCE)
    published = []
    for _ in range(2):
        await session.send("hello", to="worker")
        await monitor.tick()
        await monitor.tick()
        published.append(monitor.published)

    assert published == [1, 2]


async def test_only_work_that_is_really_owed_counts(ann: Broker) -> None:
    """Finished runs, imported history, notes and inputs to all that are meant for others make nobody offline."""

    await connected_once(ann, "worker")
    await connected_once(ann, "other")
    finished, replayed, others, meant = (ann.session(name) for name in ("finished", "replayed", "others", "meant"))
    sent = await finished.send("done already", to="worker")
    await publish(finished, "worker", f"run.{sent.run}", type="run.started", attempt=1, input=f"ann/{sent.input}")
    await publish(finished, "worker", f"run.{sent.run}", type="run.finished", status="done")
    await publish(replayed, "ann", "in.worker.i1", type="input", text="long ago", replayed=True)
    await replayed.send("to be read by a customer", to="nobody", note=True)
    await replayed.send("to be read", to="worker", note=True)
    await others.create(agents=["other"])
    await others.send("not for worker", to="all")
    await meant.create(agents=["worker"])
    await meant.send("for worker", to="all")
    monitor = Monitor(ann, settings=AT_ONCE)
    await monitor.tick()

    assert await said(finished) == []
    assert await said(replayed) == []
    assert await said(others) == [("other", GONE)]
    assert await said(meant) == [("worker", GONE)]


async def test_a_long_debt_is_gone_through_page_by_page(ann: Broker) -> None:
    """One tick looks at a bounded number of inputs; the next goes on, and none is left out."""

    await connected_once(ann, "worker")
    sessions = [ann.session(f"s{number}") for number in range(12)]
    for session in sessions:
        await session.send("hello", to="worker")
    monitor = Monitor(ann, settings=MonitorSettings(offline_after_seconds=0.0, inputs_per_tick=5))
    counts = []
    for _ in range(4):
        await monitor.tick()
        counts.append(monitor.published)

    assert counts == [5, 10, 12, 12]


async def test_an_agent_that_writes_is_alive_whatever_its_presence_says(ann: Broker, eventually: Any) -> None:
    """While a run grows its agent is not called offline; when it stops growing it is."""

    await connected_once(ann, "worker")
    session = ann.session("s1")
    sent = await session.send("hello", to="worker")
    monitor = Monitor(ann, settings=MonitorSettings(tick_seconds=0.1, offline_after_seconds=1.0))
    run = f"run.{run_id('ann', sent.input)}"
    await publish(session, "worker", run, type="run.started", attempt=1, input=f"ann/{sent.input}")
    begun = time.monotonic()
    for number in itertools.takewhile(lambda _: time.monotonic() < begun + 2, itertools.count()):
        await publish(session, "worker", run, type="text.delta", part="1", text=str(number))
        await monitor.tick()
        await asyncio.sleep(0.02)
    assert monitor.published == 0

    async def told() -> bool:
        await monitor.tick()
        return monitor.published == 1

    await eventually(told)
    assert [run["status"] for run in (await agent_view(session, "worker"))["runs"]] == ["lost"]


async def test_a_person_who_is_asked_is_no_missing_agent(ann: Broker) -> None:
    """Inputs to somebody who writes into the session, or is present as a client, wait for a person."""

    session = ann.session("s1")
    await session.create()
    await ann.log.announce("watch.s1.bob.tab1", b'{"device": "tab1"}')
    await session.send("a question", to=["ann", "bob", "carl"])
    monitor = Monitor(ann, settings=AT_ONCE)
    await monitor.tick()
    await monitor.tick()

    assert await said(session) == [("carl", NEVER)]


async def test_agents_of_a_session_that_never_connected_are_named(ann: Broker) -> None:
    """An input to all is for the agents the session names; those that nobody serves are said to be missing."""

    await connected_once(ann, "worker")
    session = ann.session("s1")
    await session.create(agents=["worker", "ghost"])
    await session.send("hello", to="all")
    monitor = Monitor(ann, settings=AT_ONCE)
    await monitor.tick()
    await monitor.tick()

    assert sorted(await said(session)) == [("ghost", NEVER), ("worker", GONE)]


async def test_a_deleted_session_stays_deleted(ann: Broker, eventually: Any) -> None:
    """An input that is gone when its time has come is owed to nobody; nothing is written where nothing is left."""

    session = ann.session("s1")
    await session.create()
    await session.send("hello", to="nobody")
    monitor = Monitor(ann, settings=MonitorSettings(offline_after_seconds=0.0, unknown_after_seconds=1.0))
    await monitor.tick()
    await session.delete()

    async def forgotten() -> bool:
        await monitor.tick()
        return not monitor._shards[0].waiting

    assert monitor._shards[0].waiting
    await eventually(forgotten)
    assert monitor.published == 0
    assert not await session.exists()


async def test_what_was_sent_before_the_first_monitor_started_is_found(ann: Broker) -> None:
    """A monitor looks through the past, too, a page per tick."""

    sessions = [ann.session(f"s{number}") for number in range(5)]
    for session in sessions:
        await session.send("hello", to="nobody")
    monitor = Monitor(ann, settings=AT_ONCE)
    await monitor.tick()
    await monitor.tick()

    assert monitor.published == 5


async def test_a_monitor_outlives_a_broker_that_refuses(ann: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be published is tried again in the next tick."""

    await connected_once(ann, "worker")
    session = ann.session("s1")
    await session.send("hello", to="worker")
    monitor = Monitor(ann, settings=AT_ONCE)

    async def refuse(*_: object, **__: object) -> int:
        raise PermissionDenied("no")

    with monkeypatch.context() as patch:
        patch.setattr(ann.log.wire, "publish", refuse)
        await monitor.tick()
    assert monitor.published == 0
    await monitor.tick()
    assert await said(session) == [("worker", GONE)]


async def test_shards_are_looked_after_alike(tmp_path: Path) -> None:
    """An agent is told in the sessions of every shard."""

    settings = contract.StreamSettings(shards=3)
    async with (
        EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0)) as broker,
        connect(broker.url, member="ann", settings=settings) as ann,
    ):
        await connected_once(ann, "worker")
        sessions = [ann.session(f"s{number}") for number in range(9)]
        for session in sessions:
            await session.send("hello", to=["worker", "ghost"])
        monitor = Monitor(ann, settings=AT_ONCE)
        await monitor.tick()
        await monitor.tick()

        assert len({session.shard for session in sessions}) == 3
        for session in sessions:
            assert sorted(await said(session)) == [("ghost", NEVER), ("worker", GONE)]
