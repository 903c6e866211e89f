"""What the guides for programs show is run as it stands: agents as agents, the rest line by line."""

from __future__ import annotations

import ast
import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import fields
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Agent, Run, connect
from orchestrator_free.working.attempts import AgentSettings
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.broker import Broker
    from orchestrator_free.session import Session

DOCS = Path(__file__).parents[1] / "docs"
SECONDS = 60


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page that are to be run."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def agents() -> dict[str, Agent]:
    """Return the agents of the guide by name."""
    found = {}
    for code in blocks("agents.md"):
        names: dict[str, Any] = {}
        exec(compile(code, "docs/agents.md", "exec"), names)
        found[names["agent"].name] = names["agent"]
    return found


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    """A session that has been created."""
    session = ann.session(fresh("s"))
    await session.create()
    return session


@pytest.fixture
async def at_work(broker_url: str) -> Any:
    """All agents of the guide, each over a connection of its own."""
    async with AsyncExitStack() as stack:
        for name, agent in agents().items():
            await stack.enter_async_context(serving(broker_url, name, agent._handler))
        yield


@pytest.mark.usefixtures("at_work")
async def test_the_analyst_says_everything_that_a_run_can_say(session: Session) -> None:
    sent = await session.send("q3?", to="analyst")
    run = await session.result("analyst", sent.run, timeout=SECONDS)

    kinds = [part["type"] for part in run["parts"]]
    assert (run["status"], kinds) == ("done", ["reasoning", "tool", "text", "source", "data", "file"])
    assert run["parts"][1]["output"] == {"revenue": 12}
    assert run["parts"][2]["text"] == "Revenue was 12 million."
    assert run["usage"] == {"input_tokens": 40, "output_tokens": 9}


async def test_the_counter_goes_on_where_the_dead_attempt_stopped(
    broker_url: str, session: Session, eventually: Any
) -> None:
    """The first replica hangs in the middle and is silent; the one of the guide takes over, and says nothing twice."""
    count = agents()["counter"]._handler
    stuck = asyncio.Event()

    async def hangs(run: Run) -> None:
        await run.text("0 1 2 ")
        await stuck.wait()

    async with connect(broker_url, member="counter") as broker:
        first = Agent("counter", grace_seconds=0)
        first(hangs)
        task = asyncio.create_task(first.serve(broker))
        sent = await session.send("count", to="counter")
        await eventually(lambda: _said(session, "0 1 2 "), SECONDS)
        broker.log.wire.client._transport.close()  # its process is cut off, and the broker hears nothing more of it
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with serving(broker_url, "counter", count):
        run = await session.result("counter", sent.run, timeout=SECONDS)

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert "".join(part["text"] for part in run["parts"]) == "0 1 2 3 4 "


async def _said(session: Session, text: str) -> bool:
    runs = [run for agent in (await session.view())["agents"] for run in agent["runs"]]
    return any("".join(part.get("text", "") for part in run["parts"]) == text for run in runs)


@pytest.mark.usefixtures("at_work")
async def test_the_novelist_takes_what_people_add(session: Session, eventually: Any) -> None:
    sent = await session.send("write", to="novelist")
    await eventually(lambda: _said(session, "Chapter 1. "), SECONDS)
    control = await session.control.steer("a dragon", to="novelist", run=sent.run)
    outcome = await control.outcome(timeout=SECONDS)
    run = await session.result("novelist", sent.run, timeout=SECONDS)

    assert outcome.state == "applied"
    assert f"({session.member} wants: a dragon) Chapter" in run["parts"][0]["text"]


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize(
    ("word", "text"), [("approve", "Refunded: voucher."), ("deny", "")], ids=["approved", "denied"]
)
async def test_the_refund_waits_for_lee(ann: Broker, session: Session, eventually: Any, word: str, text: str) -> None:
    """Approved, it asks on; denied, it asks the desk to take over."""
    lee = ann.as_member("lee").session(session.id)
    sent = await session.send("40", to="refunds")
    for value in (word, "voucher")[: 2 if text else 1]:
        [asked] = await eventually(lee.asks.open, SECONDS)
        await lee.asks.answer(asked["ask"], value)
        await eventually(lambda asked=asked: _is_closed(lee, asked), SECONDS)
    run = await session.result("refunds", sent.run, timeout=SECONDS)
    floor = await session.floor.state()

    assert run["status"] == "done"
    assert "".join(part.get("text", "") for part in run["parts"]) == text
    assert (floor.request is not None and floor.request.to == "desk") is (not text)


async def _is_closed(session: Session, asked: Any) -> bool:
    return asked["ask"] not in [one["ask"] for one in await session.asks.open()]


@pytest.mark.usefixtures("at_work")
async def test_the_editor_waits_for_its_children(session: Session) -> None:
    sent = await session.send("now", to="editor")
    run = await session.result("editor", sent.run, timeout=SECONDS)

    assert run["parts"][0]["text"] == "analyst is done. counter is done. "


async def test_what_the_guide_for_programs_shows_runs_line_by_line(broker_url: str) -> None:
    """In the order of the page, in one namespace, beside an agent that answers."""
    code = blocks("sessions.md")

    async def echo(run: Run) -> None:
        if run.input.text == "slowly":
            while not (said := await run.steers()):
                await asyncio.sleep(0.05)
            await run.text(said[0].text)
            await asyncio.sleep(SECONDS)
        await run.text(run.input.text)

    async with serving(broker_url, "echo", echo), connect(broker_url, member="ann") as broker:
        names: dict[str, Any] = {"broker": broker}
        async with asyncio.timeout(3 * SECONDS):
            for block in code:
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                found = eval(compile(block, "docs/sessions.md", "exec", flags=flags), names)
                if isawaitable(found):
                    await found
        view = await names["session"].view()

    runs = {run["run"]: run["status"] for run in view["agents"][0]["runs"]}
    assert names["again"].repeated
    assert [runs[names[sent].run] for sent in ("sent", "slow", "edited")] == ["done", "cancelled", "done"]
    assert names["turns"][0]["text"] == "It arrived late."
    assert view["state"]["cart"]["value"] == {"items": 2}
    assert len(code) > 8


def test_every_setting_of_an_agent_is_in_its_guide() -> None:
    """With its default."""
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|", (DOCS / "agents.md").read_text(), re.MULTILINE))
    settings = {field.name: str(field.default).removesuffix(".0") for field in fields(AgentSettings)}

    assert rows == settings
