"""Real agents in the account of those that are not trusted: all of their work, and no right more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Broker, Run
from orchestrator_free.working.runwriter import INLINE_LIMIT
from tests.inside import serving
from tests.security.place import Place, installation, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

AGENTS = ("outliner", "critic")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    users = [user("core", "gateway"), *(user("isolated", name) for name in AGENTS)]
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
