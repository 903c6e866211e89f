"""Coordination on a cluster: one winner, no lost addition, no zombie's word, while the leader of the log is killed."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import connect
from orchestrator_free.contract import TIMERS, StreamSettings, stream_name
from orchestrator_free.coordination import claim, holder
from orchestrator_free.coordination.holding import acquire
from orchestrator_free.errors import LeaseLost
from tests.chaos.cluster import Cluster, running_cluster
from tests.test_coordination import CONTENDERS, EACH, PROCESSES, assert_fenced, contend, ended, history, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from orchestrator_free.coordination import Lease
    from orchestrator_free.session import Session
    from tests.conftest import Programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
R3 = StreamSettings(replicas=3)
LOG = stream_name(0)
SECONDS = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of the module's own; a test may kill them, the next one begins with all of them."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def broker_url(cluster: Cluster) -> str:
    """Take the place of the single broker, for `programs`."""
    return cluster.url


@pytest.fixture
async def session(cluster: Cluster, fresh: Callable[[str], str], eventually: Eventually) -> AsyncIterator[Session]:
    """A session on three nodes that are up to date."""
    await cluster.start()
    async with connect(cluster.url, member="ann", settings=R3) as broker:

        async def whole() -> bool:
            groups = [(await broker.log.wire.api(f"STREAM.INFO.{name}"))["cluster"] for name in (LOG, TIMERS)]
            return all(
                group.get("leader") and sum(one["current"] for one in group.get("replicas") or ()) == 2
                for group in groups
            )

        await eventually(whole, 40, every=0.2)
        yield broker.session(fresh("s"))


async def test_each_claim_has_one_winner_though_the_leader_is_killed(
    cluster: Cluster, session: Session, programs: Programs, eventually: Eventually
) -> None:
    """Forty contenders in four processes; what was promised before the leader died stands after it."""
    rounds = 20
    started = await contend(programs, session, "claims", rounds, eventually)
    await eventually(lambda: any(line.get("round") == 5 for line in said(*started)), SECONDS)
    cluster.kill(await cluster.leader(LOG))
    lines = await ended(started, eventually)

    tries = [line for line in lines if "round" in line]
    assert len(tries) == rounds * PROCESSES * EACH
    for number in range(rounds):
        told = [line for line in tries if line["round"] == number]
        winners = {line["member"] for line in told if line["won"]}
        assert (len(winners), {line["by"] for line in told}) == (1, winners)
    leases = (await session.view())["leases"]
    assert {line["by"] for line in tries if line["round"] == 0} == {leases["c0"]["holder"]}
    spent = max(line["at"] for line in tries) - min(line["at"] for line in tries)
    print(f"\nR3: {len(tries)} tries for {rounds} claims in {spent:.1f} s, leader killed")


async def test_a_lease_is_held_one_at_a_time_though_leaders_are_killed(
    cluster: Cluster, session: Session, programs: Programs, eventually: Eventually
) -> None:
    """Nothing that was added under the lease is lost or done twice; each term has one holder."""
    started = await contend(programs, session, "leases", 1, eventually)
    await eventually(lambda: sum("term" in line for line in said(*started)) >= 5, SECONDS)
    cluster.kill(await cluster.leader(LOG))
    await eventually(lambda: sum("term" in line for line in said(*started)) >= 20, SECONDS)
    lines = await ended(started, eventually)

    terms = [line["term"] for line in lines if "term" in line]
    assert sorted(terms) == list(range(1, PROCESSES * EACH + 1))
    assert (await session.view())["state"]["number"]["value"] == PROCESSES * EACH
    assert_fenced([*await history(session, "lease"), *await history(session, "state")])
    at = sorted(line["at"] for line in lines if "term" in line)
    pauses = [after - before for before, after in pairwise(at)]
    print(f"\nR3: {len(terms)} turns in {at[-1] - at[0]:.1f} s, leader killed; longest pause {max(pauses):.1f} s")


async def test_a_lease_lapses_though_its_holder_and_the_leader_of_the_timers_die(
    cluster: Cluster, session: Session, programs: Programs, eventually: Eventually
) -> None:
    """The next holder is there soon after the cluster has leaders again."""
    started = [programs.start(CONTENDERS, "hold", session.id, str(number), "1", "1000") for number in range(2)]
    await eventually(lambda: sum("ready" in line for line in said(*started)) == 2, SECONDS)
    await session.create()
    first = await eventually(lambda: next((line for line in said(*started) if line.get("term") == 1), None), SECONDS)
    killed = time.monotonic()
    next(program for program in started if program.pid == first["pid"]).kill()
    cluster.kill(await cluster.leader(TIMERS))
    await eventually(lambda: any(line.get("term", 0) > 1 for line in said(*started)), SECONDS)
    spent = time.monotonic() - killed
    programs.kill()

    assert_fenced([*await history(session, "lease"), *await history(session, "run")])
    print(f"\nR3: lease of 2 s, holder and leader of the timers killed: next holder after {spent:.1f} s")


async def test_no_write_under_a_lease_comes_after_the_lease_has_moved_on(
    cluster: Cluster, session: Session, eventually: Eventually
) -> None:
    """The fence is another subject than the write's, and a filter: R3 holds it, in the middle of an election, too."""
    written = 0

    async def write(held: Lease, number: int) -> int:
        done = 0
        while True:
            try:
                await held.append("run", {"type": "data", "name": "n", "term": held.term}, id=f"r{number}")
            except LeaseLost:
                return done
            done += 1
            stored.append(number)

    for turn in range(12):
        stored: list[int] = []
        held = await acquire(session, "desk", 120)
        writers = [asyncio.create_task(write(held, number)) for number in range(5)]
        await eventually(lambda: len(stored) >= 5, 30)
        if turn == 5:
            cluster.kill(await cluster.leader(LOG))
        taken = {"type": "lease.taken", "term": held.term + 1, "hold": f"force-{turn}"}
        sequence = await session.append("lease", taken, id="desk", expect=held.sequence, shared=True)
        written += sum(await asyncio.gather(*writers))
        await session.append("lease", taken | {"type": "lease.released"}, id="desk", expect=sequence, shared=True)

    events = [*await history(session, "lease"), *await history(session, "run")]
    assert_fenced(events)
    assert sum(event.kind == "run" for event in events) == written
    assert (await claim(session, "desk")).won is False
    assert (await holder(session, "desk"))["status"] == "released"  # type: ignore[index]
    assert (await session.view())["leases"]["desk"]["term"] == 24
