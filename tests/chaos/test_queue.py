"""A queue under kills: 200 inputs at once to one agent, four replicas as processes, one of them killed every 2 s."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Fold
from orchestrator_free.broker import connect
from orchestrator_free.contract import StreamSettings
from tests.chaos.cluster import Cluster
from tests.test_overlap import Diary, serving

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free import Broker

INPUTS = 200
REPLICAS = 4
KILL_EVERY_SECONDS = 2.0
SECONDS = 90
HANDLER = """
for number in range(4):
    await run.text(f"{run.input.text}.{number} ")
    await asyncio.sleep(0.005)
"""
SETTINGS = {"overlap": "queue", "ack_wait_seconds": 1.5, "max_attempts": 20, "grace_seconds": 0.0}


class Kills:
    """Kills one replica after the other, and starts another in its place each time."""

    def __init__(self, programs: Any, name: str) -> None:
        self._programs = programs
        self._name = name
        self.count = 0

    async def run(self) -> None:
        """Kill until cancelled."""
        replicas = self._programs.agent(self._name, HANDLER, replicas=REPLICAS, **SETTINGS)
        for place in itertools.cycle(range(REPLICAS)):
            await asyncio.sleep(KILL_EVERY_SECONDS)
            replicas[place].kill()
            self.count += 1
            replicas[place : place + 1] = self._programs.agent(self._name, HANDLER, **SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_each_of_200_inputs_is_answered_once_and_in_order_though_a_replica_is_killed_every_two_seconds(
    ann: Broker, programs: Any, fresh: Any, eventually: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """None lost, none twice, no two at once; what a killed replica had begun is begun again in its turn."""
    name = fresh("agent")
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    kills = Kills(programs, name)
    events: list[Any] = []
    fold = Fold(session.id)

    async def follow() -> None:
        async for event in session.follow(compact=False):
            events.append(event)
            fold.apply(event)

    tasks = [asyncio.create_task(follow()), asyncio.create_task(kills.run())]
    try:
        await eventually(lambda: presences(ann, name), 30)
        began = time.monotonic()
        sent = await asyncio.gather(*(session.send(str(number), to=name) for number in range(INPUTS)))
        await eventually(lambda: sum(run.status == "done" for run in fold.runs.values()) == INPUTS, SECONDS)
        took = time.monotonic() - began
        view = await session.view()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    order = [one.run for one in sorted(sent, key=lambda one: one.position.sequence)]
    texts = {one.run: str(number) for number, one in enumerate(sent)}
    ended = [event.id for event in events if event.type == "run.finished"]
    again = sum(run["attempt"] > 1 for run in view["agents"][0]["runs"])
    with capsys.disabled():
        print(
            f"\n  {INPUTS} inputs, {REPLICAS} replicas, {kills.count} killed, {again} runs begun again: {took:.1f} s; "
            f"{INPUTS / took:.1f} runs/s"
        )
    assert kills.count >= 3
    assert ended == order, "a run ended twice, never, or out of its order"
    assert one_at_a_time(events)
    runs = {run["run"]: run for run in view["agents"][0]["runs"]}
    assert set(runs) == set(order)
    for key, run in runs.items():
        assert run["parts"][0]["text"] == "".join(f"{texts[key]}.{number} " for number in range(4))
    assert view["queue"] == []


async def presences(broker: Broker, name: str) -> bool:
    return len(list(await broker.log.present(f"agent.{name}"))) >= REPLICAS


def one_at_a_time(events: list[Any]) -> bool:
    """Whether every event of a run stands between the end of the run before it and its own."""
    runs = [event.id for event in events if event.kind == "run"]
    blocks = [key for key, _ in itertools.groupby(runs)]
    return len(blocks) == len(set(blocks))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_queue_on_a_cluster_goes_on_in_order_when_the_leader_is_killed(
    tmp_path: Path, fresh: Any, eventually: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reads may be answered by any node. Inputs that came back while nobody led are held twice, and begun once."""
    name, diary = fresh("agent"), Diary(0.01)
    async with Cluster(tmp_path) as cluster:
        async with connect(cluster.url, member="ann", settings=StreamSettings(replicas=3)) as ann:
            await eventually(cluster.whole, 60, every=0.5)
            session = ann.session(fresh("s"))
            await session.create(agents=[name])
            settings = {"overlap": "queue", "ack_wait_seconds": 3.0}
            async with serving(cluster.url, name, diary.work, replicas=3, **settings):
                began = time.monotonic()
                sent = list(await asyncio.gather(*(session.send(str(number), to=name) for number in range(40))))
                cluster.kill(await cluster.leader())
                sent += await asyncio.gather(*(session.send(str(number), to=name) for number in range(40, 60)))
                order = sorted(range(60), key=lambda number: sent[number].position.sequence)
                runs = [await session.result(name, sent[number].run, timeout=90) for number in order]
                took = time.monotonic() - began

    with capsys.disabled():
        print(f"\n  60 inputs, 3 replicas, 3 nodes, the leader killed: {took:.1f} s; {len(diary.begun)} calls")
    assert {run["status"] for run in runs} == {"done"}
    assert [run["last"] for run in runs] == sorted(run["last"] for run in runs)
    assert list(dict.fromkeys(diary.begun)) == [str(number) for number in order]
    assert diary.most == 1
