"""Temporal's activity pattern, with `temporalio.testing.ActivityEnvironment`: its server is not needed, nor tested."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.testing import ActivityEnvironment

from orchestrator_free import connect
from orchestrator_free.adapters import temporal as adapter
from orchestrator_free.errors import InvalidInput
from tests.adapters.conftest import texts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Run

PROGRAM = """
import asyncio, sys
from temporalio.testing import ActivityEnvironment
from orchestrator_free import connect
from orchestrator_free.adapters import temporal

async def handle(run):
    await run.text(f"attempt {run.attempt}, ")
    await asyncio.Event().wait()

async def main(url, name, session, input):
    async with connect(url, member=name) as broker:
        await ActivityEnvironment().run(temporal.work, broker, handle, session, input)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def environment() -> Callable[..., ActivityEnvironment]:
    """An activity's surroundings: `environment(attempt=2)`; `beats` is what it told Temporal."""

    def make(**info: Any) -> ActivityEnvironment:
        made = ActivityEnvironment()
        made.info = dataclasses.replace(made.info, heartbeat_timeout=timedelta(seconds=1), **info)
        made.beats = []  # type: ignore[attr-defined]
        made.on_heartbeat = lambda *details: made.beats.append(details)  # type: ignore[attr-defined]
        return made

    return make


async def test_an_activity_does_a_run_and_its_heartbeats_say_so(
    ann: Any, broker_url: str, fresh: Any, environment: Any
) -> None:
    """One attempt: heartbeats name the run while it works, presence says that the agent lives, the result is the run's."""
    name, session = fresh("agent"), ann.session(fresh("s"))
    await session.create()
    sent = await session.send("Hello", to=name)
    env = environment()
    present: list[bool] = []

    async def handle(run: Run) -> None:
        await run.text(f"{run.input.text}, attempt {run.attempt}")
        async with asyncio.timeout(30):
            while len(env.beats) < 3:
                await asyncio.sleep(0.05)
        present.append(any(one.member == name for one in await session.presence.now()))

    async with connect(broker_url, member=name) as broker:
        found = await env.run(adapter.work, broker, handle, session.id, f"ann/{sent.input}")
        again = await env.run(adapter.work, broker, handle, session.id, f"ann/{sent.input}")

    assert found == again == {"run": sent.run, "status": "done", "attempt": 1, "error": None}
    assert env.beats[0] == ({"session": session.id, "run": sent.run},)
    assert present == [True]
    assert texts(await session.result(name, sent.run)) == ["Hello, attempt 1"]


async def test_temporal_s_next_attempt_is_the_run_s_next_attempt(
    ann: Any, broker_url: str, fresh: Any, environment: Any, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """A worker is killed in the middle: what it wrote counts no more, and stands under the run's attempts."""
    name, session = fresh("agent"), ann.session(fresh("s"))
    await session.create()
    sent = await session.send("Hello", to=name)
    script = tmp_path / "worker.py"
    script.write_text(PROGRAM)
    worker = programs.start(script, broker_url, name, session.id, f"ann/{sent.input}")

    async def begun() -> bool:
        agents = (await session.view())["agents"]
        return bool(agents and agents[0]["runs"] and agents[0]["runs"][0]["parts"])

    await eventually(begun, 60)
    worker.kill()

    async def handle(run: Run) -> None:
        await run.text(f"attempt {run.attempt}, whole")

    async with connect(broker_url, member=name) as broker:
        found = await environment(attempt=2).run(adapter.work, broker, handle, session.id, f"ann/{sent.input}")
    run = await session.result(name, sent.run)

    assert (found["status"], found["attempt"]) == ("done", 2)
    assert texts(run) == ["attempt 2, whole"]
    assert [part["text"] for part in run["attempts"][0]["parts"]] == ["attempt 1, "]


@pytest.mark.parametrize("where", ["session", "temporal"])
async def test_a_cancel_ends_both(ann: Any, broker_url: str, fresh: Any, environment: Any, where: str) -> None:
    """Said in the session the activity ends; said in Temporal the session's run is cancelled."""
    name, session = fresh("agent"), ann.session(fresh("s"))
    await session.create()
    sent = await session.send("Hello", to=name)
    env, begun = environment(), asyncio.Event()

    async def handle(run: Run) -> None:
        await run.text("so far")
        begun.set()
        await asyncio.Event().wait()

    async with connect(broker_url, member=name) as broker:
        task = asyncio.create_task(env.run(adapter.work, broker, handle, session.id, f"ann/{sent.input}"))
        await asyncio.wait_for(begun.wait(), 30)
        if where == "session":
            await session.control.cancel(sent.run, to=name)
            assert (await asyncio.wait_for(task, 30))["status"] == "cancelled"
        else:
            env.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 30)
        run = await session.result(name, sent.run, timeout=30)

    assert run["status"] == "cancelled"


async def test_an_input_that_is_not_there_is_refused(ann: Any, broker_url: str, fresh: Any, environment: Any) -> None:
    """With what to pass."""
    session = ann.session(fresh("s"))
    await session.create()
    async with connect(broker_url, member=fresh("agent")) as broker:
        with pytest.raises(InvalidInput, match="pass <sender>/<input id>"):
            await environment().run(adapter.work, broker, lambda run: asyncio.sleep(0), session.id, "ann/nothing")
