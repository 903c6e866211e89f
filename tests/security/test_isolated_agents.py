"""Real agents in the account of those that are not trusted: all of their work, and no right more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from orchestrator_free import Agent, Broker, Run, contract
from orchestrator_free.errors import BrokerError, PermissionDenied
from orchestrator_free.working.runwriter import INLINE_LIMIT
from tests.inside import serving
from tests.security.place import ISOLATED, Place, installation, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

AGENTS = ("outliner", "critic")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    users = [user("core", "gateway"), user("isolated", "narrow", "s1"), *(user("isolated", name) for name in AGENTS)]
    async with installation(tmp_path, users) as found:
        yield found


async def outline(run: Run) -> None:
    """Use everything an agent can."""
    await run.reasoning("Looking. ")
    async with run.tool("split", {"chars": 5}) as call:
        call.output = {"headings": 3}
    if run.input.text == "delegate":
        child = await run.delegate("critic", "please", within_seconds=600)
        await run.text(f"critic is {(await child.result())['status']}")
    elif run.input.text == "ask":
        yes = await run.approve("Refund?", to=["ann"], seconds=600)
        await run.text("granted" if yes else "not granted")
    elif run.input.text == "state":
        await run.session.state.set("plan", {"step": 1})
        await run.session.state.update("plan", lambda plan: {"step": plan["step"] + 1})
        await run.text(str((await run.session.state.get("plan")).value))
    elif run.input.text == "wait":
        await asyncio.sleep(600)
    else:
        for word in ("x" * (INLINE_LIMIT + 1),) if run.input.text == "large" else ("Hel", "lo"):
            await run.text(word)
    await run.file("outline.md", f"# {run.input.text}".encode(), media_type="text/markdown")
    await run.usage(input_tokens=10)


async def critic(run: Run) -> None:
    await run.text("Fine.")


async def test_an_isolated_agent_does_all_its_work(place: Place, eventually: Callable[..., Any]) -> None:
    """Inputs, tools, files, a large end, delegation with a deadline, an approval, state; nothing of it is refused."""
    async with place.core() as gateway:
        async with serving(place.url("outliner"), "outliner", outline) as (broker,):
            async with serving(place.url("critic"), "critic", critic):
                session = Broker(gateway.log, "ann").session("s1")
                await session.create(title="Review", agents=["outliner"])
                runs = {}
                for text in ("small", "large", "delegate", "state"):
                    sent = await session.send(text, to="all")
                    runs[text] = await session.result("outliner", sent.run, timeout=30)
                asked = await session.send("ask", to="outliner")
                ask = await eventually(lambda: _open_ask(session), 20)
                await session.asks.answer(ask, "approve")
                runs["ask"] = await session.result("outliner", asked.run, timeout=30)
                cut = await session.send("wait", to="outliner")
                await eventually(lambda: _runs(session, cut.run, "running"), 20)
                control = await session.control.cancel(cut.run, to="outliner")
                outcome = await control.outcome(timeout=20)
                refused = broker.log.wire.denied
                assert broker.log.wire.rollups is False

    said = {text: [part["text"] for part in run["parts"] if part["type"] == "text"] for text, run in runs.items()}
    assert {text: run["status"] for text, run in runs.items()} == dict.fromkeys(runs, "done")
    assert said["small"] == ["Hello"] and said["delegate"] == ["critic is done"]
    assert said["state"] == ["{'step': 2}"] and said["ask"] == ["granted"]
    assert runs["large"]["object"] and len(runs["large"]["parts"]) == 4
    assert outcome.state == "applied"
    assert refused == set()


async def _open_ask(session: Any) -> str:
    view = await session.view()
    return next((ask["ask"] for ask in view["asks"] if ask["status"] == "open"), "")


async def _runs(session: Any, run: str, status: str) -> bool:
    view = await session.view()
    return any(one["run"] == run and one["status"] == status for agent in view["agents"] for one in agent["runs"])


async def test_without_a_gateway_an_agent_is_told_what_is_missing(place: Place) -> None:
    """Nobody has made its consumers, and it may not: an error that says what to start, no endless waiting."""
    agent = Agent("outliner")
    agent(critic)
    async with place.connect("gateway", settings=ISOLATED), place.connect("outliner") as broker:
        with pytest.raises(
            BrokerError, match=r"nobody serves it \(for an isolated agent the steward of a gateway does\)"
        ):
            await agent.serve(broker)


async def test_an_agent_of_some_sessions_gets_their_inputs_only(place: Place, eventually: Callable[..., Any]) -> None:
    """A list narrows what it may say and what it is given; the steward leaves its consumers as they were made."""
    async with place.core() as gateway:
        for config in (
            contract.agent_consumer(0, "narrow", sessions=["s1"]),
            contract.control_consumer(0, "narrow", sessions=["s1"]),
        ):
            body = {"stream_name": "SESSIONS_0", "config": config}
            await gateway.log.wire.api(f"CONSUMER.CREATE.SESSIONS_0.{config['durable_name']}", body)
        sent = {}
        for name in ("s1", "s2"):
            session = Broker(gateway.log, "ann").session(name)
            await session.create()
            sent[name] = await session.send("small", to="narrow")
        async with serving(place.url("narrow"), "narrow", outline):
            run = await Broker(gateway.log, "ann").session("s1").result("narrow", sent["s1"].run, timeout=30)
            state = await gateway.log.consumer(0, "agent-narrow")
        async with place.connect("narrow") as broker:
            with pytest.raises(PermissionDenied, match=r"session\.0\.s2\.narrow"):
                await broker.session("s2").send("Hello", to="ann")

    assert run["status"] == "done"
    assert state is not None and all(".s1." in filter for filter in state.filters) and state.pending == 0


AGENT = """
import asyncio, os
from orchestrator_free import Agent, Run
from orchestrator_free.coordination import lease

agent = Agent("outliner", ack_wait_seconds=1.0)

@agent
async def outline(run: Run) -> None:
    await run.text(f"attempt {run.attempt} ")
    if run.attempt == 1:
        await asyncio.sleep(600)
    async with lease(run.session, "printer", 5):
        await run.text("done")

agent.main()
"""


async def test_a_killed_agent_is_taken_over(
    place: Place, programs: Any, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    """A real process dies with SIGKILL inside of its run; the next one does it again, with a lease."""
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    async with place.core() as gateway:
        session = Broker(gateway.log, "ann").session("s1")
        await session.create()
        first = programs.start(script, ORCHESTRATOR_FREE_URL=place.url("outliner"))
        sent = await session.send("go", to="outliner")
        await eventually(lambda: _runs(session, sent.run, "running"), 30)
        first.kill()
        second = programs.start(script, ORCHESTRATOR_FREE_URL=place.url("outliner"))
        run = await session.result("outliner", sent.run, timeout=40)
        view = await session.view()

    assert run["attempt"] == 2 and "".join(part["text"] for part in run["parts"]) == "attempt 2 done"
    assert view["leases"], second.output
    assert "permissions violation" not in first.output + second.output


async def test_isolated_agents_beside_a_log_that_takes_roll_ups_are_reported(place: Place) -> None:
    """Half of the isolation is none: the gateway's log says so, and what to do."""
    with structlog.testing.capture_logs() as logs:
        async with place.core(isolated=False), serving(place.url("critic"), "critic", critic):
            pass

    (said,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert "takes roll-ups" in said["event"] and "allow_rollup_hdrs" in said["do"]
