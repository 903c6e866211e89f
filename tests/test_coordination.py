"""Coordination: of many contenders in several processes one succeeds, and no dead one is waited for."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import nats.js.errors
import pytest

from orchestrator_free import connect
from orchestrator_free.coordination import barrier, bids, claim, holder, lease, share, vote
from orchestrator_free.coordination.holding import acquire
from orchestrator_free.errors import (
    Conflict,
    InvalidInput,
    InvalidName,
    LeaseHeld,
    LeaseLost,
    NotAsked,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Event, Session
    from tests.conftest import Program, Programs

CONTENDERS = Path(__file__).with_name("contenders.py")
PROCESSES = 4
EACH = 10
SECONDS = 60


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    return ann.session(fresh("s"))


@pytest.fixture
async def other(broker_url: str, session: Session) -> AsyncIterator[Session]:
    """The same session, as another member."""
    async with connect(broker_url, member="bob") as broker:
        yield broker.session(session.id)


def said(*started: Program) -> list[dict[str, Any]]:
    """What contenders have printed; the last line of one that was killed may be cut off."""
    lines = [line for program in started for line in program.output.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines if line.endswith("}")]


async def contend(programs: Programs, session: Session, what: str, rounds: int, eventually: Any) -> list[Program]:
    """Start contenders in several processes, let them go at once, and return when all are at it."""
    started = [
        programs.start(CONTENDERS, what, session.id, str(number * EACH), str(EACH), str(rounds))
        for number in range(PROCESSES)
    ]
    await eventually(lambda: sum("ready" in line for line in said(*started)) == PROCESSES, SECONDS)
    await session.create()
    return started


async def ended(started: list[Program], eventually: Any) -> list[dict[str, Any]]:
    """Return what they said, once all have done what they had to."""
    await eventually(lambda: not any(program.alive for program in started), SECONDS)
    failed = [program.output[-3000:] for program in started if program.process.returncode != 0]
    assert not failed, "\n".join(failed)
    return said(*started)


async def history(session: Session, kind: str) -> list[Event]:
    """Return the events of a kind, message by message."""
    found: list[Event] = []
    end = (await session.log.last(session.shard, session.filter)).sequence
    async for event in session.follow(compact=False):
        found += [event] if event.kind == kind else []
        if event.sequence >= end:
            return found
    raise AssertionError


# -- claims -----------------------------------------------------------------------------------------------------------


async def test_of_forty_contenders_in_four_processes_one_has_each_claim(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """Everybody is told the same winner."""
    rounds = 50
    began = time.monotonic()
    lines = await ended(await contend(programs, session, "claims", rounds, eventually), eventually)

    tries = [line for line in lines if "round" in line]
    for number in range(rounds):
        told = [line for line in tries if line["round"] == number]
        assert len(told) == PROCESSES * EACH
        assert sum(line["won"] for line in told) == 1
        assert {line["by"] for line in told} == {next(line["member"] for line in told if line["won"])}
    seconds = max(line["at"] for line in tries) - min(line["at"] for line in tries)
    assert len((await session.view())["leases"]) == rounds
    print(f"\n{len(tries)} tries for {rounds} claims: {len(tries) / seconds:.0f}/s ({time.monotonic() - began:.0f} s)")


async def test_a_claim_with_a_key_is_met_again_by_the_same_member_only(session: Session, other: Session) -> None:
    """The next attempt of a run has what the crashed one has claimed."""
    first = await claim(session, "page", key="run-1", data={"n": 1})
    again = await claim(session, "page", key="run-1")
    others = await claim(session, "page", key="run-2")
    elsewhere = await claim(other, "page", key="run-1")

    assert (first.won, again.won, others.won, elsewhere.won) == (True, True, False, False)
    assert (elsewhere.by, elsewhere.data, again.position) == ("ann", {"n": 1}, first.position)
    assert bool(first) is True
    assert bool(others) is False


async def test_what_cannot_be_a_lease_is_refused_before_anything_is_sent(session: Session) -> None:
    """No token, no time, no JSON, too large."""
    with pytest.raises(InvalidName):
        await claim(session, "a.b")
    with pytest.raises(InvalidName):
        await holder(session, "*")
    with pytest.raises(InvalidName):
        async with lease(session, "a b", 2):
            pass
    with pytest.raises(InvalidName):
        async for _ in share(session, "pool", ["x.y"]):
            pass
    for seconds in (0.2, float("nan"), float("inf"), -1):
        with pytest.raises(InvalidInput, match="at least 1 s"):
            async with lease(session, "desk", seconds):
                pass
        with pytest.raises(InvalidInput, match="at least 1 s"):
            async for _ in share(session, "pool", ["x"], seconds=seconds):
                pass
    for data in ("x" * 65536, object()):
        with pytest.raises(InvalidInput):
            await claim(session, "page", data=data)
        with pytest.raises(InvalidInput):
            async with lease(session, "desk", 2, data=data):
                pass
    assert not await session.exists()


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_forty_contenders_hold_a_lease_one_at_a_time(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """A number that each adds to without comparing loses nothing; each term is had once, in order."""
    rounds = 2
    lines = await ended(await contend(programs, session, "leases", rounds, eventually), eventually)

    held = sorted((line for line in lines if "term" in line), key=lambda line: line["at"])
    total = PROCESSES * EACH * rounds
    view = await session.view()
    assert view["state"]["number"]["value"] == total
    assert sorted(line["term"] for line in held) == list(range(1, total + 1))
    words = await history(session, "lease")
    assert [(word.type, word.body["term"]) for word in words] == [
        (kind, term) for term in range(1, total + 1) for kind in ("lease.taken", "lease.released")
    ]
    assert view["leases"]["desk"]["status"] == "released"
    assert await history(session, "stage") == []
    seconds = held[-1]["at"] - held[0]["at"]
    print(f"\n{total} turns of 40 contenders in {seconds:.1f} s: {seconds / total * 1000:.0f} ms a turn")


async def test_a_lease_of_a_killed_process_lapses_for_everybody_and_the_next_one_has_it(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """The holder is killed, round after round; what the dead one wrote comes before what the next one writes."""
    started = await contend(programs, session, "hold", 1000, eventually)
    lapse, after = [], []
    for term in range(1, 3):
        found = await eventually(lambda: _with_term(said(*started), term), SECONDS)
        await eventually(lambda: holder(session, "desk"), SECONDS)
        victim = next(program for program in started if program.pid == found["pid"])
        killed = time.monotonic()
        victim.kill()
        async for event in session.follow(kinds=["stage"]):
            if event.type == "lease.lapsed" and event.body["term"] == term:
                break
        lapse.append(time.monotonic() - killed)
        found = await eventually(lambda: _with_term(said(*started), term + 1), SECONDS)
        after.append(found["at"] - killed)

    programs.kill()
    assert_fenced([*await history(session, "lease"), *await history(session, "run")])
    print(f"\nlease of 2 s, holder killed: lapsed after {lapse} s, next holder after {after} s")


def _with_term(lines: list[dict[str, Any]], term: int) -> dict[str, Any] | None:
    return next((line for line in lines if line.get("term") == term), None)


def assert_fenced(events: list[Event]) -> None:
    """Whatever was written under a term stands in the log between that term's taking and the next word on the lease."""
    term, written = 0, 0
    for event in sorted(events, key=lambda event: event.sequence):
        if event.kind == "lease":
            assert event.body["term"] in (term, term + 1) if event.type == "lease.released" else True
            term = event.body["term"] if event.type == "lease.taken" else 0
        else:
            written += 1
            assert event.body["term"] == term, event
    assert written


async def test_a_paused_holder_is_refused_by_the_broker_when_it_wakes(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """A zombie writes nothing over its successor, and is told that it has lost its lease."""
    started = [programs.start(CONTENDERS, "hold", session.id, str(n), "1", "1000") for n in range(2)]
    await eventually(lambda: sum("ready" in line for line in said(*started)) == 2, SECONDS)
    await session.create()
    for term in range(1, 3):
        found = await eventually(lambda: _with_term(said(*started), term), SECONDS)
        holding = next(program for program in started if program.pid == found["pid"])
        holding.send(signal.SIGSTOP)
        await eventually(lambda: _with_term(said(*started), term + 1), SECONDS)
        holding.send(signal.SIGCONT)
        lost = lambda: sum("lost" in line for line in said(holding))  # noqa: E731
        await eventually(lambda: lost() >= sum("term" in line for line in said(holding)), SECONDS)

    programs.kill()
    assert_fenced([*await history(session, "lease"), *await history(session, "run")])


async def test_whoever_does_not_wait_is_told_who_has_it(session: Session, other: Session) -> None:
    """And whoever waits has it as soon as it is given up."""
    async with lease(session, "desk", 5, data="busy") as held:
        with pytest.raises(LeaseHeld, match="ann has it") as refused:
            async with lease(other, "desk", 5, wait=0):
                pass
        with pytest.raises(TimeoutError):
            async with lease(other, "desk", 5, wait=0.3):
                pass
        waiting = asyncio.create_task(acquire(other, "desk", 5))
        found = await holder(other, "desk")
    began = time.monotonic()
    async with await asyncio.wait_for(waiting, 20) as next_one:
        waited = time.monotonic() - began
        assert (held.term, next_one.term) == (1, 2)
    assert found is not None
    assert (found["holder"], found["data"], refused.value.lease["term"]) == ("ann", "busy", 1)
    print(f"\ngiven up, the next one had it after {waited * 1000:.0f} ms")


async def test_two_replicas_of_one_name_are_two_contenders(broker_url: str, session: Session, eventually: Any) -> None:
    """A lease belongs to a process, not to a name: the second replica waits, and has a term of its own."""
    async with connect(broker_url, member="ann") as broker:
        replica = broker.session(session.id)
        async with lease(session, "desk", 2) as first:
            with pytest.raises(LeaseHeld):
                async with lease(replica, "desk", 2, wait=0):
                    pass
        abandoned = await acquire(replica, "desk", 1)
        async with lease(session, "desk", 2) as third:
            with pytest.raises(LeaseLost):
                await abandoned.append("state", {"type": "state.set", "value": 1}, id="k")
            assert (first.term, abandoned.term, third.term) == (1, 2, 3)
            with pytest.raises(LeaseLost):
                await abandoned.release()
            assert (await holder(session, "desk"))["term"] == 3  # type: ignore[index]


async def test_a_holder_that_loses_its_lease_has_its_block_cancelled(
    session: Session, other: Session, eventually: Any
) -> None:
    """Somebody who takes it by force is one more word on the lease; the block ends with LeaseLost, its clean-up runs."""
    cleaned = asyncio.Event()
    with pytest.raises(LeaseLost, match="desk"):
        async with lease(session, "desk", 5) as held:
            try:
                body = {"type": "lease.taken", "term": held.term + 1, "hold": "force"}
                await other.append("lease", body, id="desk", expect=held.sequence, shared=True)
                await asyncio.sleep(30)
            finally:
                cleaned.set()
    assert held.lost.is_set()
    assert cleaned.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(LeaseLost):
        held.check()
    assert (await holder(session, "desk"))["holder"] == "bob"  # type: ignore[index]


async def test_a_block_that_fails_or_is_cancelled_gives_its_lease_back(session: Session) -> None:
    """The error is the block's own; nobody has to wait until the lease lapses."""
    with pytest.raises(ZeroDivisionError):
        async with lease(session, "desk", 60):
            raise ZeroDivisionError
    assert (await holder(session, "desk"))["status"] == "released"  # type: ignore[index]

    inside = asyncio.Event()

    async def hold() -> None:
        async with lease(session, "desk", 60):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await holder(session, "desk"))["status"] == "released"  # type: ignore[index]


async def test_a_lease_is_renewed_for_as_long_as_its_block_takes(session: Session) -> None:
    """Three times its seconds go by, and nothing is said of it but that it was taken and given up."""
    async with lease(session, "desk", 1) as held:
        await asyncio.sleep(3.2)
        held.check()
    assert [word.type for word in await history(session, "lease")] == ["lease.taken", "lease.released"]
    assert await history(session, "stage") == []


async def test_a_lease_that_is_not_renewed_lapses_in_the_view_though_nobody_is_there(
    session: Session, eventually: Any
) -> None:
    """The broker says it, in the name of whoever held it; and says nothing of leases that were given up."""
    began = time.monotonic()
    await acquire(session, "desk", 1)
    given = await acquire(session, "given", 1)
    await given.release(data="early")

    async def leases() -> dict[str, Any] | None:
        found = (await session.view())["leases"]
        return found if found["desk"]["status"] == "lapsed" else None

    found = await eventually(leases, SECONDS)
    seconds = time.monotonic() - began
    assert (found["desk"]["holder"], found["desk"]["by"], found["desk"]["term"]) == (None, "ann", 1)
    assert (found["given"]["status"], found["given"]["data"]) == ("released", "early")
    assert [event.address.target for event in await history(session, "stage")] == ["desk"]
    print(f"\na lease of 1 s lapsed after {seconds:.2f} s")


async def test_a_stale_lapse_and_words_that_make_no_sense_end_nobodys_lease(session: Session, other: Session) -> None:
    """What is said of another hold, by another member, or of nothing, changes nothing."""
    async with lease(session, "desk", 30) as held:
        lapse = {"type": "lease.lapsed", "term": held.term}
        await other.append("stage", lapse, target="desk", id=held._hold)  # somebody else's word
        await session.append("stage", lapse, target="desk", id="other-hold")
        await session.append("stage", lapse, target="never-taken", id=held._hold)
        held.check()
        found = await holder(other, "desk")
        assert found is not None
        assert (found["holder"], found["term"]) == ("ann", 1)
        assert (await session.view())["leases"]["desk"]["status"] == "held"
        await held.append("state", {"type": "state.set", "value": 1}, id="k")
    async with lease(other, "desk", 5) as held:
        assert held.term == 2


async def test_a_plain_client_leases_by_the_protocol_beside_the_library(
    broker_url: str, session: Session, eventually: Any
) -> None:
    """Nothing but nats-py and PROTOCOL §9.10: it takes, writes under the fence, lapses, is fenced, waits, releases."""
    connection = await nats.connect(broker_url)
    js = connection.jetstream()
    head = f"session.0.{session.id}"
    words, mine, lapse = f"{head}.*.lease.desk", f"{head}.cyd.lease.desk", f"{head}.cyd.stage.desk.h1"

    def over(sequence: int, **more: str) -> dict[str, str]:
        subject = "Nats-Expected-Last-Subject-Sequence"
        return {subject: str(sequence), f"{subject}-Subject": words, **more}

    async def say(subject: str, headers: dict[str, str], **body: Any) -> int:
        return (await js.publish(subject, json.dumps(body).encode() if body else b"", headers=headers)).seq

    try:
        at = (datetime.now(UTC) + timedelta(seconds=3)).isoformat().replace("+00:00", "Z")
        later = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"due.{lapse}", "Nats-Schedule-TTL": "24h"}
        await say(f"at.{lapse}", later, type="lease.lapsed", term=1)
        taken = await say(mine, over(0), type="lease.taken", term=1, hold="h1", seconds=3)
        await say(f"{head}.cyd.state.k", over(taken, **{"Nats-Msg-Id": "m1"}), type="state.set", value=1)
        with pytest.raises(LeaseHeld, match="cyd has it"):
            async with lease(session, "desk", 5, wait=0):
                pass
        async with lease(session, "desk", 5) as held:  # the plain client does not renew
            assert held.term == 2
            with pytest.raises(nats.js.errors.APIError, match="wrong last sequence"):
                await say(f"{head}.cyd.state.k", over(taken, **{"Nats-Msg-Id": "m2"}), type="state.set", value=2)
        last = await js.get_msg("SESSIONS_0", subject=words)
        assert json.loads(last.data or b"{}")["type"] == "lease.released"
        taken = await say(mine, over(last.seq or 0), type="lease.taken", term=3, hold="h2", seconds=60)
        await say(mine, over(taken), type="lease.released", term=3, hold="h2")
    finally:
        await connection.close()
    view = await session.view()
    assert (view["leases"]["desk"]["status"], view["leases"]["desk"]["by"], view["state"]["k"]["value"]) == (
        "released",
        "cyd",
        1,
    )


# -- shared work --------------------------------------------------------------------------------------------------------


async def test_shared_tasks_are_each_done_once_though_a_process_is_killed(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """What the dead one had begun is begun again by others; all tasks are done, and everybody hears of it."""
    tasks = 80
    started = await contend(programs, session, "work", tasks, eventually)
    await eventually(lambda: sum("task" in line for line in said(started[0])) >= 3, SECONDS)
    started[0].kill()
    dead, living = said(started[0]), await ended(started[1:], eventually)

    leases = (await session.view())["leases"]
    assert {lease["status"] for lease in leases.values()} == {"done"}
    assert {name: lease["data"] for name, lease in leases.items()} == {f"pool-t{n}": n * 2 for n in range(tasks)}
    words = await history(session, "lease")
    assert sum(bool(word.body.get("done")) for word in words) == tasks
    begun = [line["task"] for line in (*dead, *living) if "task" in line]
    again = [word for word in words if word.type == "lease.taken" and word.body["term"] > 1]
    assert set(begun) == {f"t{number}" for number in range(tasks)}
    assert len(again) <= EACH
    print(f"\n{tasks} tasks, one of 4 processes killed: {len(again)} begun again")


async def test_a_task_that_fails_is_given_back_and_done_by_another(session: Session, other: Session) -> None:
    """Its term says how often it was begun."""
    with pytest.raises(ZeroDivisionError):
        async for task in share(session, "pool", ["only"]):
            async with task:
                raise ZeroDivisionError

    terms = []
    async for task in share(other, "pool", ["only"]):
        async with task:
            terms.append(task.term)
    assert terms == [2]
    assert [task async for task in share(session, "pool", ["only"])] == []
    with pytest.raises(LeaseHeld, match="bob has done it"):
        async with lease(session, "pool-only", 5):
            pass


# -- the blackboard -----------------------------------------------------------------------------------------------------


async def test_nothing_that_forty_contenders_write_on_a_blackboard_is_lost(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """Each adds to the same list; each takes on what it can claim of what is asked for there."""
    await session.state.set("wanted", [f"w{number}" for number in range(20)])
    lines = await ended(await contend(programs, session, "board", 20, eventually), eventually)

    done = (await session.state.get("done")).value  # type: ignore[union-attr]
    assert sorted(done) == sorted(f"w{number}" for number in range(20))
    taken = [line["taken"] for line in lines if "taken" in line]
    assert sorted(taken) == sorted(done)


# -- barriers, votes, bids ------------------------------------------------------------------------------------------------


async def test_forty_contenders_meet_vote_and_bid_and_all_see_the_same(
    session: Session, programs: Programs, eventually: Any
) -> None:
    """Whoever opens it, whoever comes late: one decision."""
    rounds = 1
    lines = await ended(await contend(programs, session, "ballots", rounds, eventually), eventually)

    told = [line for line in lines if "met" in line]
    assert len(told) == PROCESSES * EACH * rounds
    for line in told:
        assert line["met"] == {f"m{number}": number for number in range(40)}
        assert (line["voted"][0], len(line["voted"][1])) == ("b", 21)
        assert line["bid"][0] == 0
        assert len(line["bid"][1]) == 1
    assert len({json.dumps([line["voted"], line["bid"]]) for line in told}) <= rounds
    asks = (await session.view())["asks"]
    assert len(asks) == 3 * rounds
    assert all(ask["status"] == "decided" for ask in asks)


async def test_a_call_for_bids_is_decided_though_the_one_who_called_is_dead(
    broker_url: str, session: Session, other: Session
) -> None:
    """The deadline is the broker's."""
    async with connect(broker_url, member="caller") as broker:
        calling = asyncio.create_task(bids(broker.session(session.id), "job", "Who?", None, seconds=2))
        while not await session.exists():
            await asyncio.sleep(0.02)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    mine, theirs = await asyncio.gather(
        bids(session, "job", "Who?", 3.5, seconds=2), bids(other, "job", "Who?", 2, seconds=2)
    )
    assert mine == theirs
    assert (mine.value, mine.by) == (2, ["bob"])


async def test_a_ballot_of_the_same_name_with_other_words_is_refused(session: Session, other: Session) -> None:
    """Who is not asked has no vote; too few at a barrier is seen by those who wait."""
    waiting = asyncio.create_task(
        vote(session, "v", "Which?", ["a", "b"], "a", quorum=2, voters=["ann", "cyd"], seconds=3)
    )
    while not await session.exists():
        await asyncio.sleep(0.02)
    with pytest.raises(Conflict, match="another options"):
        await vote(other, "v", "Which?", ["a", "c"], "a", quorum=2, voters=["ann", "cyd"], seconds=3)
    with pytest.raises(NotAsked):
        await vote(other, "v", "Which?", ["a", "b"], "a", quorum=2, voters=["ann", "cyd"], seconds=3)
    alone = await barrier(other, "gate", 2, value=1, seconds=1)
    assert (alone.status, bool(alone)) == ("expired", False)
    assert (await asyncio.wait_for(waiting, 20)).status == "expired"
    with pytest.raises(InvalidInput):
        await barrier(other, "gate2")
    with pytest.raises(InvalidInput):
        await bids(other, "b", "?", 1, seconds=1, best="middle")
