"""`orchestrator-free doctor` at a real broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orchestrator_free import Run, connect
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker


def by_name(done: Any) -> dict[str, Any]:
    return {check["name"]: check for check in done.json}


async def answer(run: Run) -> None:
    await run.text("yes")


async def test_it_says_what_is_in_order_and_what_owes_work_and_is_gone(
    ann: Broker, broker: Any, command: Any, fresh: Callable[[str], str]
) -> None:
    """Exit code 0 while all is well; 1, with the agent's name, once it owes an answer and nobody lives."""
    name = fresh("writer")
    async with serving(broker.url, name, answer):
        done = await asyncio.to_thread(command, "doctor", "--monitor-url", broker.monitor_url, "--json")
        found = by_name(done)
        assert done.code == 0, done.out
        assert found["broker"]["status"] == found["streams"]["status"] == found["clock"]["status"] == "ok"
        assert found["durability"]["status"] == "warning"
        assert found["permissions"]["says"] == "these credentials may do everything"
    await ann.session(fresh("s")).send("late", to=name)
    done = await asyncio.to_thread(command, "doctor", "--json")
    assert done.code == 1
    assert found["agents"]["status"] == "ok"
    assert by_name(done)["agents"]["status"] == "problem"
    assert f"{name} (1)" in by_name(done)["agents"]["says"]
    people = await asyncio.to_thread(command, "doctor")
    assert "problem" in people.out
    assert "start them" in people.out


async def test_it_changes_nothing_and_fix_creates_what_is_missing(ann: Broker, command: Any) -> None:
    """A stream that is gone is a problem; only --fix makes it, and says so."""
    await ann.log.wire.api("STREAM.DELETE.SESSIONS_TIMERS")
    done = await asyncio.to_thread(command, "doctor", "--json")
    assert done.code == 1
    assert by_name(done)["streams"]["says"] == "missing: SESSIONS_TIMERS"
    again = await asyncio.to_thread(command, "doctor", "--json")
    assert by_name(again)["streams"]["says"] == "missing: SESSIONS_TIMERS"
    fixed = await asyncio.to_thread(command, "doctor", "--fix", "--json")
    assert "created stream SESSIONS_TIMERS" in fixed.err
    assert by_name(fixed)["streams"]["status"] == "ok"


async def test_an_ask_whose_time_was_up_long_ago_is_found(
    ann: Broker, command: Any, fresh: Callable[[str], str]
) -> None:
    """One that nobody ends is a problem; one that was answered is none, and one that has time either."""
    session = ann.session(fresh("s"))
    await session.create()
    from orchestrator_free.operations import doctor
    from orchestrator_free.operations.facts import Facts

    late = await session.append("ask", {"type": "ask", "about": "approval", "seconds": 0.001}, id="late")
    await session.append("ask", {"type": "ask", "about": "approval", "seconds": 900}, id="early")
    await session.append("ask", {"type": "ask", "about": "approval", "seconds": 0.001}, id="answered")
    async with connect(ann.log.wire.options.url, member="bob") as bob:
        await bob.session(session.id).append("answer", {"type": "answer", "value": "approve"}, id="answered")
    assert late
    facts = Facts(streams={"SESSIONS_0": await ann.log.info(0)})
    before, doctor._LATE = doctor._LATE, doctor.timedelta(seconds=0)
    try:
        await doctor._stuck(ann, facts)
    finally:
        doctor._LATE = before
    assert (session.id, "late") in facts.overdue
    assert not {(session.id, "early"), (session.id, "answered")} & {*facts.overdue, *facts.old}


async def test_no_broker_is_its_own_exit_code(command: Any) -> None:
    """69, and what to do."""
    done = await asyncio.to_thread(command, "--url", "nats://127.0.0.1:9", "doctor")
    assert done.code == 69
    assert "no broker answers" in done.err
