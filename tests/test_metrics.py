"""Lag as Prometheus sees it: names, sums that never fall, bounded labels, and a scrape that asks nobody."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator_free import connect, contract
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import InvalidInput
from orchestrator_free.lag import Lag, LagRow, Replica, lag_table, survey
from orchestrator_free.metrics import GatewayMetrics, Metrics, serve_lag
from orchestrator_free.metrics.families import agents_now, stream_families
from orchestrator_free.metrics.tally import AgentTally, Names
from orchestrator_free.monitor import Monitor
from orchestrator_free.operations import pausing
from orchestrator_free.working.stats import AgentStats
from tests.prometheus_server import shipped_prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

WORK = """
await run.text("hello")
if run.input.text == "fail":
    raise ValueError("no")
if run.attempt == 1 and run.input.text.startswith("sleep"):
    await asyncio.sleep(float(run.input.text.split()[1]))
"""
P = "orchestrator_free_"


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
    stream, name = contract.stream_name(0), contract.agent_consumer_name(agent)
    body = {"stream_name": stream, "config": contract.agent_consumer(0, agent), "action": ""}
    await ann.log.wire.api(f"CONSUMER.CREATE.{stream}.{name}", body)


def samples(text: str) -> dict[str, float]:
    """Return {`name{label="value"}`: number} without the package's prefix."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix(P) + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def shown(metrics: Metrics) -> dict[str, float]:
    return samples(generate_latest(metrics.registry).decode())


def promtool_finds(text: str) -> str:
    """Return what `promtool check metrics` has to say; it says nothing about good ones."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    return checked.stdout + checked.stderr


# -- what an installation shows -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_agents_life_in_numbers(broker: EmbeddedServer, ann: Broker, programs: Any, eventually: Any) -> None:
    """Runs, failures, attempts, replicas, waiting inputs; sums stay when a process goes and grow with the next."""

    session = ann.session("s1")
    await session.create()
    metrics = Metrics(ann, monitor_url=broker.monitor_url)
    (process,) = programs.agent("worker", WORK)
    done = [await session.send("hello", to="worker") for _ in range(3)]
    failed = await session.send("fail", to="worker")
    for sent in (*done, failed):
        await session.result("worker", sent.run, timeout=20)
    await eventually(lambda: _polled(metrics, "agent_attempts_total{agent=worker}", 4.0))
    await eventually(lambda: _polled(metrics, "agent_run_duration_seconds_count{agent=worker}", 4.0))
    found = shown(metrics)
    assert found["agent_runs_finished_total{agent=worker,status=done}"] == 3
    assert found["agent_runs_finished_total{agent=worker,status=error}"] == 1
    assert found["agent_time_to_first_token_seconds_bucket{agent=worker,le=+Inf}"] == 4
    assert 0 < found["agent_time_to_first_token_seconds_sum{agent=worker}"] < 4
    assert found["agent_replicas{agent=worker}"] == 1
    assert found["agent_offline{agent=worker}"] == 0
    assert found["agent_inputs_waiting{agent=worker}"] == 0
    assert found["consumer_behind_seconds{consumer_name=agent-worker,stream_name=SESSIONS_0}"] == 0
    assert promtool_finds(generate_latest(metrics.registry).decode()) == ""

    process.kill()
    await eventually(lambda: _polled(metrics, "agent_replicas{agent=worker}", 0.0))
    await session.send("hello", to="worker")
    assert await _polled(metrics, "agent_inputs_waiting{agent=worker}", 1.0)
    assert await _polled(metrics, "agent_offline{agent=worker}", 1.0)
    assert shown(metrics)["agent_attempts_total{agent=worker}"] == 4
    programs.agent("worker", WORK)
    await eventually(lambda: _polled(metrics, "agent_attempts_total{agent=worker}", 5.0))
    assert await _polled(metrics, "agent_offline{agent=worker}", 0.0)


async def _polled(metrics: Metrics, name: str, value: float) -> bool:
    await metrics.poll()
    return shown(metrics).get(name, 0.0) == value


async def test_the_broker_and_its_streams(broker: EmbeddedServer, ann: Broker) -> None:
    """Messages, sequences, the version, and which durability is in force."""

    session = ann.session("s1")
    for number in range(5):
        await session.send(str(number), to="nobody")
    metrics = Metrics(ann, monitor_url=broker.monitor_url)
    before = shown(metrics)
    await metrics.poll()
    found = shown(metrics)

    assert before["poll_last_success_timestamp_seconds"] == 0
    assert found["poll_last_success_timestamp_seconds"] > 1.7e9
    assert found["stream_total_messages{stream_name=SESSIONS_0}"] == 5
    assert found["stream_total_bytes{stream_name=SESSIONS_0}"] > 0
    assert found["stream_first_seq{stream_name=SESSIONS_0}"] == 1
    assert found["stream_last_seq{stream_name=SESSIONS_0}"] == 5
    assert found["broker_connected"] == 1
    assert found[f"broker_info{{version={ann.log.wire.server_version}}}"] == 1
    assert found["broker_fsync"] == 0


async def test_fsync_is_told_only_where_it_is_known(tmp_path: Path) -> None:
    """The monitor's address tells it; without one, or with a wrong one, the metric is absent and the rest is there."""

    settings = ServerSettings(data=tmp_path / "broker", port=0, durability="fsync")
    async with EmbeddedServer(settings) as broker, connect(broker.url) as ann:
        found = []
        for url in (broker.monitor_url, None, "http://127.0.0.1:1"):
            metrics = Metrics(ann, monitor_url=url)
            await metrics.poll()
            found.append(shown(metrics).get("broker_fsync"))
            assert "stream_last_seq{stream_name=SESSIONS_0}" in shown(metrics)

    assert found == [1, None, None]
    with pytest.raises(InvalidInput, match="monitor_url"):
        Metrics(ann, monitor_url="file:///etc/passwd")


async def test_a_scrape_asks_nobody(broker: EmbeddedServer, ann: Broker, eventually: Any) -> None:
    """With the broker gone the last answer is still shown, with its time, and that the connection is down."""

    metrics = Metrics(ann)
    await metrics.poll()
    polled = shown(metrics)["poll_last_success_timestamp_seconds"]
    await broker.stop()
    await eventually(lambda: shown(metrics)["broker_connected"] == 0)
    found = shown(metrics)

    assert "stream_last_seq{stream_name=SESSIONS_0}" in found
    assert found["poll_last_success_timestamp_seconds"] == polled
    assert not any(name.startswith("broker_info") for name in found)


async def test_subscriptions_of_one_name_count_as_one(ann: Broker) -> None:
    """A durable per session makes no label per session: their numbers are added, ages and floors the worst."""

    for number in range(3):
        session = ann.session(f"s{number}")
        for _ in range(number + 1):
            await session.send("hello", to="nobody")
        async with session.subscribe("billing"):
            pass
    metrics = Metrics(ann)
    await metrics.poll()
    found = shown(metrics)
    name = "{consumer_name=billing,stream_name=SESSIONS_0}"

    assert found[f"consumer_durables{name}"] == 3
    assert found[f"consumer_num_pending{name}"] == 6
    assert found[f"consumer_ack_floor_stream_seq{name}"] == 0
    assert found[f"consumer_behind_seconds{name}"] > 0
    assert not any("s1" in sample for sample in found)


async def test_more_consumers_than_one_page_are_all_seen(ann: Broker) -> None:
    """The broker lists 256 consumers at a time, and 1,024 names; labels stay bounded, the rest is in `other`."""

    stream = contract.stream_name(0)

    async def durable(number: int) -> None:
        config = {"durable_name": f"d{number}", "ack_policy": "explicit", "filter_subject": "session.0.x.>",
                  "mem_storage": True}  # fmt: skip
        await ann.log.wire.api(f"CONSUMER.CREATE.{stream}.d{number}", {"stream_name": stream, "config": config})

    for start in range(0, 1100, 100):
        await asyncio.gather(*(durable(number) for number in range(start, start + 100)))
    assert len(set(await ann.log.consumer_names(0))) == 1100
    assert len(await survey(ann.log)) == 1100
    metrics = Metrics(ann)
    await metrics.poll()
    found = {name: value for name, value in shown(metrics).items() if name.startswith("consumer_durables")}

    assert len(found) == 201
    assert found[f"consumer_durables{{consumer_name=other,stream_name={stream}}}"] == 900


async def test_the_table_names_the_worst_first(ann: Broker) -> None:
    """One row per agent or subscription, over all sessions, as people see it."""

    await connected_once(ann, "gone")
    await connected_once(ann, "idle")
    session = ann.session("s1")
    await session.send("hello", to="gone")
    await session.send("hello", to="gone")
    await ann.log.announce("agent.idle.p1", b"{}")
    async with session.subscribe("audit", start="new"):
        rows = await lag_table(ann)

    assert [(row.consumer, row.waiting, row.in_work, row.redelivered, row.replicas) for row in rows] == [
        ("agent-gone", 2, 0, 0, 0),
        ("agent-idle", 0, 0, 0, 1),
        ("audit", 0, 0, 0, None),
    ]
    assert rows[0].seconds_behind > 0
    assert [row.seconds_behind for row in rows[1:]] == [0, 0]
    assert LagRow("a", 1, 2, 3, 4.5, None).as_dict() == {
        "consumer": "a", "waiting": 1, "in_work": 2, "redelivered": 3, "seconds_behind": 4.5, "replicas": None,
        "paused": False,
    }  # fmt: skip


async def test_a_monitor_with_a_registry_fills_it(ann: Broker, eventually: Any) -> None:
    """A gateway passes its own registry; its counters and the lag come out of one scrape, and promtool likes both."""

    registry = CollectorRegistry()
    gateway = GatewayMetrics(registry)
    gateway.clients.inc()
    gateway.resumes.labels("hot").inc()
    gateway.cuts.labels("slow").inc()
    gateway.delivery_latency.observe(0.002)
    async with Monitor(ann, registry=registry):
        text = await eventually(lambda: _text_with(registry, f"{P}stream_last_seq"))

    found = samples(text)
    assert found["gateway_clients"] == 1
    assert found["gateway_resumes_total{how=hot}"] == 1
    assert promtool_finds(text) == ""
    assert f"{P}stream_last_seq" not in generate_latest(registry).decode()


async def _text_with(registry: CollectorRegistry, name: str) -> str:
    text = generate_latest(registry).decode()
    return text if name in text else ""


# -- sums over processes --------------------------------------------------------------------------------------------


def told(key: str, stats: object, agent: str = "a") -> Replica:
    return Replica(agent, key, {"stats": stats})


def stats_after(runs: int) -> dict[str, Any]:
    stats = AgentStats()
    for _ in range(runs):
        stats.attempts += 1
        stats.finished("done", 0.2)
    return json.loads(json.dumps(stats.snapshot()))


def test_sums_never_fall_when_processes_come_and_go() -> None:
    """What a process counted stays when it is gone, counts once when it is back, and adds to that of others."""

    tally, names = AgentTally(), Names()
    seen = []
    for replicas in (
        [told("p1", stats_after(3)), told("p2", stats_after(2))],
        [told("p2", stats_after(4))],
        [],
        [told("p1", stats_after(5)), told("p3", stats_after(1))],
    ):
        tally.update(replicas, 0.0, names)
        seen.append(tally.totals["a"]["finished done"])

    assert seen == [5, 7, 7, 10]
    assert tally.totals["a"]["duration sum"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "stats",
    [
        None, [], "x", {"attempts": "many"}, {"attempts": -1}, {"attempts": float("nan")}, {"attempts": True},
        {"attempts": 1e300}, {"finished": [1]}, {"finished": {"odd": 1}}, {"duration": {"counts": [1], "sum": 1}},
        {"duration": {"counts": "no"}}, {"first_token": 3},
    ],
)  # fmt: skip
def test_counts_that_make_no_sense_are_left_out(stats: object) -> None:
    """A presence entry is whatever a process wrote; nonsense changes no sum."""

    tally, names = AgentTally(), Names()
    tally.update([told("p1", stats_after(2))], 0.0, names)
    before = dict(tally.totals["a"])
    tally.update([told("p1", stats), told("p2", stats)], 0.0, names)

    assert tally.totals["a"] == before


def test_names_beyond_the_limit_are_others() -> None:
    """The first names keep their place, whatever comes."""

    names = Names(most=2)

    assert [names(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", "other", "a", "other", "b"]


async def test_nonsense_in_the_presence_bucket_breaks_nothing(ann: Broker) -> None:
    """Entries that are no JSON, or say nothing, count as a living process and no more."""

    await ann.log.announce("agent.odd.p1", b"not json")
    await ann.log.announce("agent.odd.p2", b"[1]")
    await ann.log.announce("agent.odd.p3", b'{"stats": {"active": "x"}}')
    metrics = Metrics(ann)
    await metrics.poll()

    assert shown(metrics)["agent_replicas{agent=odd}"] == 3
    assert shown(metrics)["agent_runs_active{agent=odd}"] == 0


# -- a real Prometheus ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def lag_exporter(ann: Broker, **options: Any) -> AsyncIterator[str]:
    """Serve the lag; yield the URL."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_lag(ann, host="127.0.0.1", port=0, ready=url.set_result, **options))
    try:
        yield await asyncio.wait_for(url, 10)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_the_exporter_serves_metrics_and_health(broker: EmbeddedServer, ann: Broker, eventually: Any) -> None:
    """Prometheus' own format by default, OpenMetrics when asked for, and a health page; the port is free afterwards."""

    async with lag_exporter(ann, monitor_url=broker.monitor_url) as url, httpx.AsyncClient() as client:
        text = await eventually(lambda: _scraped(client, url))
        assert promtool_finds(text) == ""
        answer = await client.get(f"{url}/metrics", headers={"accept": "application/openmetrics-text"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        assert (await client.get(f"{url}/healthz")).json()["broker"] == "connected"
        port = int(url.rpartition(":")[2])
        with pytest.raises(InvalidInput, match=f"127.0.0.1:{port}"):
            await serve_lag(ann, host="127.0.0.1", port=port)
    socket.create_server(("127.0.0.1", port)).close()


async def _scraped(client: httpx.AsyncClient, url: str) -> str:
    text = (await client.get(f"{url}/metrics")).text
    return text if f"{P}broker_fsync" in text else ""


@pytest.mark.slow
async def test_a_real_prometheus_sees_a_stopped_agent_fall_behind_and_catch_up(
    ann: Broker, programs: Any, eventually: Any, tmp_path: Path
) -> None:
    """The lag of a stopped agent grows in PromQL, and is gone after it starts."""

    session = ann.session("s1")
    await session.create()
    behind = f'{P}consumer_behind_seconds{{consumer_name="agent-worker"}}'
    waiting = f'{P}agent_inputs_waiting{{agent="worker"}}'
    async with AsyncExitStack() as stack:
        exporter = await stack.enter_async_context(lag_exporter(ann, poll_seconds=0.5))
        targets = {"orchestrator-free-exporter": exporter.removeprefix("http://")}
        prometheus = await stack.enter_async_context(shipped_prometheus(tmp_path, targets, every="1s"))

        async def reaches(query: str, accept: Callable[[float], bool]) -> float:
            async def check() -> float | None:
                found = await prometheus.query(query)
                value = float(found[0]["value"][1]) if found else None
                return (value or 1e-9) if value is not None and accept(value) else None

            return float(await eventually(check, 40))

        (process,) = programs.agent("worker", WORK)
        await reaches(f'{P}agent_replicas{{agent="worker"}}', lambda value: value == 1)
        process.kill()
        await reaches(f'{P}agent_replicas{{agent="worker"}} or vector(0)', lambda value: value == 0)
        for _ in range(3):
            await session.send("hello", to="worker")
        first = await reaches(behind, lambda value: value > 0)
        second = await reaches(behind, lambda value: value > first + 3)
        assert await reaches(f"deriv({behind}[4s])", lambda value: value > 0.5)
        assert await reaches(waiting, lambda value: value == 3)
        assert await reaches(f'{P}agent_offline{{agent="worker"}}', lambda value: value == 1)
        programs.agent("worker", WORK)
        await reaches(behind, lambda value: value == 0)
        await reaches(waiting, lambda value: value == 0)
        await reaches(f'{P}agent_offline{{agent="worker"}}', lambda value: value == 0)
        await reaches(f'{P}agent_runs_finished_total{{agent="worker",status="done"}}', lambda value: value == 3)
        print(f"\nseconds behind as Prometheus saw it: {first:.1f}, {second:.1f}, then 0")


# -- how many replicas are needed -----------------------------------------------------------------------------------


def lag_of(waiting: int, in_work: int = 0) -> Lag:
    return Lag("SESSIONS_0", "agent-a", "a", 1, waiting, in_work, 0, 0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("waiting", "in_work", "replicas", "wanted"),
    [
        (0, 0, [], 0),  # nothing is owed: scale to zero
        (1, 0, [], 1),
        (33, 0, [], 3),  # nobody says how many places a replica has: 16
        (0, 3, [], 1),  # begun, and their process is gone
        (0, 4, [(4, 4)], 1),  # full, and nothing waits
        (1, 4, [(4, 4)], 2),
        (8, 8, [(4, 4), (4, 4)], 4),
        (0, 1, [(4, 1), (4, 0)], 1),  # one would do
        (0, 0, [(4, 0)], 0),
        (5, 0, [("odd", "odd")], 1),  # nonsense counts as what is usual
    ],
)
def test_desired_replicas_are_what_waits_and_is_at_work(
    waiting: int, in_work: int, replicas: list[tuple[Any, Any]], wanted: int
) -> None:
    """Places that are needed, in replicas; at least one while anything is owed."""
    living = [
        Replica("a", f"p{number}", {"places": places, "stats": {"active": active}})
        for number, (places, active) in enumerate(replicas)
    ]
    lags = [lag_of(waiting, in_work)]

    assert agents_now(lags, living, Names())["a"].desired == wanted


@pytest.mark.parametrize(
    ("in_work", "alive", "wanted", "offline"), [(0, 0, 0, False), (2, 1, 1, False), (2, 0, 1, True)]
)
def test_a_paused_agent_is_not_scaled_for_inputs_it_will_not_take(
    in_work: int, alive: int, wanted: int, offline: bool
) -> None:
    """It needs processes for what it had begun, and is missed only for that."""
    lag = replace(lag_of(100, in_work), paused=True)
    found = agents_now([lag], [Replica("a", f"p{n}", {"places": 4}) for n in range(alive)], Names())["a"]

    assert (found.waiting, found.desired, found.offline, found.paused) == (100, wanted, offline, True)


async def test_pausing_an_agent_scales_it_to_nothing_and_resuming_it_up_again(ann: Broker, eventually: Any) -> None:
    """With the broker's own pause, as the next poll tells."""
    await connected_once(ann, "shy")
    metrics = Metrics(ann)
    await ann.session("s1").send("hello", to="shy")
    await eventually(lambda: _polled(metrics, "agent_desired_replicas{agent=shy}", 1.0))
    await pausing.pause(ann, "shy")
    await eventually(lambda: _polled(metrics, "agent_desired_replicas{agent=shy}", 0.0))
    assert [shown(metrics)[f"agent_{name}{{agent=shy}}"] for name in ("inputs_waiting", "paused", "offline")] == [
        1,
        1,
        0,
    ]
    await pausing.resume(ann, "shy")
    await eventually(lambda: _polled(metrics, "agent_desired_replicas{agent=shy}", 1.0))


@pytest.mark.slow
async def test_runs_that_stall_and_runs_that_ask_are_told_apart(ann: Broker, programs: Any, eventually: Any) -> None:
    """Replicas say how many of their runs write nothing, how many wait for people, and for how long."""
    session = ann.session("s1")
    await session.create()
    metrics = Metrics(ann)
    programs.agent("quiet", 'await run.text("a")\nawait asyncio.sleep(60)', stall_seconds=0.5, concurrency=3)
    programs.agent("asker", 'await run.approve("Go on?", to=["ann"])', stall_seconds=0.5)
    await session.send("hello", to=["quiet", "asker"])
    await eventually(lambda: _polled(metrics, "agent_runs_stalled_now{agent=quiet}", 1.0))
    await eventually(lambda: _polled(metrics, "agent_runs_asking{agent=asker}", 1.0))
    found = shown(metrics)
    assert found["agent_runs_stalled_now{agent=asker}"] == 0
    assert found["agent_runs_asking{agent=quiet}"] == 0
    assert 0 < found["agent_longest_asking_seconds{agent=asker}"] < 60
    assert found["agent_desired_replicas{agent=quiet}"] == 1

    (ask,) = (await session.view())["asks"]
    await session.asks.answer(ask["ask"], "approve")
    await eventually(lambda: _polled(metrics, "agent_runs_asking{agent=asker}", 0.0))


def test_a_replicated_stream_tells_its_copies_and_one_without_a_leader_does_not_hide_the_others() -> None:
    """Copies that are current, the lag of the last one; of a stream that nobody answers for, only that it has none."""
    followers = [{"name": "n2", "current": True, "lag": 0}, {"name": "n3", "current": False, "lag": 42}]
    info = {
        "config": {"name": "SESSIONS_0", "num_replicas": 3, "max_bytes": 1000},
        "state": {"messages": 1, "bytes": 10, "first_seq": 1, "last_seq": 1, "consumer_count": 0},
        "cluster": {"leader": "n1", "replicas": followers},
    }
    families = {family.name: family for family in stream_families({"SESSIONS_0": info, "SESSIONS_1": None})}
    values = {
        (name.removeprefix(f"{P}stream_"), sample.labels["stream_name"]): sample.value
        for name, family in families.items()
        for sample in family.samples
    }

    assert values["leader", "SESSIONS_0"] == 1
    assert values["leader", "SESSIONS_1"] == 0
    assert (values["replicas", "SESSIONS_0"], values["replicas_current", "SESSIONS_0"]) == (3, 2)
    assert values["replica_lag", "SESSIONS_0"] == 42
    assert values["max_bytes", "SESSIONS_0"] == 1000
    assert ("last_seq", "SESSIONS_1") not in values
