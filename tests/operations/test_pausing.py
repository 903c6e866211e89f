"""An agent that is paused takes nothing, whatever process of it comes and goes; one that is drained finishes and ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Run
from orchestrator_free.errors import InvalidInput
from orchestrator_free.lag import lag_table, living_replicas
from orchestrator_free.operations import pausing
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

SLOW = """
import pathlib
for _ in range(600):
    await run.text("x")
    if pathlib.Path(run.input.text).exists():
        break
    await asyncio.sleep(0.05)
"""


async def answer(run: Run) -> None:
    await run.text("yes")


async def status(ann: Broker, session: str, run: str) -> str:
    view = await ann.session(session).view()
    return next((one["status"] for agent in view["agents"] for one in agent["runs"] if one["run"] == run), "")


async def test_a_paused_agent_takes_nothing_also_after_restarts_until_it_is_resumed(
    ann: Broker, broker: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """Agent and broker are started again in between; people and `lag` see it, and what waited is answered in the end."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    async with serving(broker.url, name, answer):
        first = await session.send("before", to=name)
        assert (await session.result(name, first.run, timeout=30))["status"] == "done"
        found = await pausing.pause(ann, name)
        assert (found.paused, found.replicas) == (True, 1)
        sent = await session.send("while paused", to=name)

        async def is_away() -> bool:
            members = {member.member: member for member in await session.presence.now()}
            return members[name].status == "away" and "paused" in members[name].reason

        await eventually(is_away, 30, every=0.2)
        assert [len(member.devices) for member in await session.presence.now() if member.member == name] == [1]
    await broker.restart(kill=True)
    async with serving(broker.url, name, answer, ack_wait_seconds=4):  # another configuration does not undo it
        await eventually(lambda: _lives(ann, name), 30)
        second = await session.send("still paused", to=name)
        [row] = [row for row in await lag_table(ann) if row.consumer == f"agent-{name}"]
        assert (row.paused, row.waiting) == (True, 2)
        assert not await status(ann, session.id, sent.run)
        resumed = await pausing.resume(ann, name)
        assert not resumed.paused
        for one in (sent, second):
            assert (await session.result(name, one.run, timeout=30))["status"] == "done"


async def _lives(ann: Broker, name: str) -> bool:
    return any(replica.agent == name for replica in await living_replicas(ann.log))


async def test_what_waits_for_its_turn_in_a_process_does_not_begin_while_paused(
    ann: Broker, broker: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """The run at work finishes; the next in the line goes back to the broker."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    go = asyncio.Event()

    async def wait(run: Run) -> None:
        await run.text("begun")
        await go.wait()

    async with serving(broker.url, name, wait, overlap="queue"):
        first = await session.send("one", to=name)
        await eventually(lambda: status(ann, session.id, first.run), 30)
        second = await session.send("two", to=name)

        async def holds_both() -> bool:
            return (await pausing.standing(ann, name)).in_work == 2

        await eventually(holds_both, 30)
        await pausing.pause(ann, name)
        go.set()
        assert (await session.result(name, first.run, timeout=30))["status"] == "done"

        async def gave_back() -> bool:
            print(
                "S",
                await status(ann, session.id, second.run),
                [o.about["runs"] for o in await living_replicas(ann.log)],
                await pausing.standing(ann, name),
            )
            return not await status(ann, session.id, second.run) and bool(await _idle(ann, name))

        await eventually(gave_back, 30)
        await pausing.resume(ann, name)
        assert (await session.result(name, second.run, timeout=30))["status"] == "done"


async def _idle(ann: Broker, name: str) -> bool:
    replicas = [one for one in await living_replicas(ann.log) if one.agent == name]
    return all(one.about["runs"] == 0 for one in replicas)


async def test_runs_can_be_held_as_well(ann: Broker, broker: Any, fresh: Callable[[str], str], eventually: Any) -> None:
    """They get the control `pause`, and `resume` with the agent."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    go = asyncio.Event()

    async def wait(run: Run) -> None:
        await run.text("begun")
        await go.wait()

    async with serving(broker.url, name, wait):
        sent = await session.send("one", to=name)
        await eventually(lambda: status(ann, session.id, sent.run), 30)
        await pausing.pause(ann, name, hold_runs=True)
        controls = (await session.view())["controls"]
        assert [(one["type"], one["run"]) for one in controls] == [("pause", sent.run)]
        await pausing.resume(ann, name)
        controls = (await session.view())["controls"]
        assert [one["type"] for one in controls] == ["pause", "resume"]
        go.set()
        assert (await session.result(name, sent.run, timeout=30))["status"] == "done"


async def test_a_drained_process_finishes_and_ends_and_the_others_go_on(
    ann: Broker, programs: Any, tmp_path: Any, command: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """Real processes: one of two by its instance, then the rest; each ends with 0, no run is given to another."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    done = tmp_path / "go"
    processes = programs.agent(name, SLOW, replicas=2, concurrency=1)

    async def living() -> list[str]:
        return sorted(one.key.rpartition(".")[2] for one in await living_replicas(ann.log) if one.agent == name)

    instances = await eventually(lambda: _two(living), 40, every=0.2)
    sent = [await session.send(str(done), to=name) for _ in range(2)]
    await eventually(lambda: _both(ann, session.id, sent), 40, every=0.2)
    draining = asyncio.create_task(asyncio.to_thread(command, "drain", name, "--replica", instances[0], seconds=90))
    late = await session.send(str(done), to=name)
    assert all(process.alive for process in processes)
    await eventually(lambda: any("draining" in process.output for process in processes), 30)
    done.write_text("")
    assert (await draining).code == 0
    await eventually(lambda: sum(process.alive for process in processes) == 1, 30)
    for one in [*sent, late]:
        assert (await session.result(name, one.run, timeout=40))["attempt"] == 1
    assert (await asyncio.to_thread(command, "drain", name, seconds=90)).code == 0
    await eventually(lambda: not any(process.alive for process in processes), 30)
    assert {process.process.returncode for process in processes} == {0}
    assert (await asyncio.to_thread(command, "drain", name)).code == 2


async def _two(living: Any) -> list[str] | None:
    found = await living()
    return found if len(found) == 2 else None


async def _both(ann: Broker, session: str, sent: Any) -> bool:
    return all([await status(ann, session, one.run) for one in sent])


async def test_an_agent_that_nobody_knows_cannot_be_paused(ann: Broker, command: Any) -> None:
    """A slip of the pen pauses nothing silently."""
    with pytest.raises(InvalidInput, match="has ever connected"):
        await pausing.pause(ann, "nobody")
    assert (await asyncio.to_thread(command, "pause-agent", "nobody")).code == 2
