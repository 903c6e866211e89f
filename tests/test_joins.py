"""Joins: a run that waits for what it delegated, all of it or the first; deadlines, circles, failures; the tree."""

from __future__ import annotations

import asyncio
import io
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from orchestrator_free import Agent, Fold, RunError, connect
from orchestrator_free.cli.tree import render_tree
from orchestrator_free.views.tree import tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Run, Session

SECONDS = 40


@asynccontextmanager
async def serving(url: str, **agents: Any) -> AsyncIterator[None]:
    """Run agents inside the test: name, with `-` as `_`, and handler, or handler and settings."""
    tasks: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as stack:
        try:
            for key, made in agents.items():
                handler, settings = made if isinstance(made, tuple) else (made, {})
                agent = Agent(key.replace("_", "-"), grace_seconds=0, **settings)
                agent(handler)
                broker = await stack.enter_async_context(connect(url, member=agent.name))
                ready = asyncio.Event()
                tasks.append(asyncio.create_task(agent.serve(broker, ready=ready.set)))
                await asyncio.wait_for(ready.wait(), 20)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create()
    return session


async def quick(run: Run) -> None:
    """Fail if asked to."""
    if run.input.text == "fail":
        raise RunError("as asked")
    await run.text(f"{run.agent} did {run.input.text}")


async def slow(run: Run) -> None:
    """Go on until cancelled."""
    await run.text("slowly")
    await asyncio.Event().wait()


async def ask(session: Session, agent: str, text: str = "go") -> Any:
    sent = await session.send(text, to=agent)
    return await session.result(agent, sent.run, timeout=SECONDS)


async def test_gather_returns_all_in_order_and_failures_are_among_them(broker_url: str, session: Session) -> None:
    """A child that fails does not fail its parent; the parent sees how and why."""

    async def parent(run: Run) -> None:
        children = [await run.delegate("quick", text) for text in ("one", "fail", "two")]
        views = await run.gather(children, timeout=SECONDS)
        await run.data("views", [[view["status"], view["error"]] for view in views])

    async with serving(broker_url, parent=parent, quick=quick):
        run = await ask(session, "parent")

    assert run["parts"][0]["data"] == [["done", None], ["error", "as asked"], ["done", None]]


async def test_first_takes_the_first_that_is_done_and_cancels_the_rest(
    broker_url: str, session: Session, eventually: Any
) -> None:
    """One that failed before does not count."""

    async def parent(run: Run) -> None:
        children = [await run.delegate("slow", "x"), await run.delegate("quick", "fail")]
        children.append(await run.delegate("quick", "it"))
        found = await run.first(children, timeout=SECONDS)
        await run.text(found["parts"][0]["text"])

    async with serving(broker_url, parent=parent, quick=quick, slow=slow):
        run = await ask(session, "parent")
        view: Any = await eventually(lambda: rested(session), 20)

    ends = {(one["agent"], one["status"], one["error"]) for agent in view["agents"] for one in agent["runs"]}
    assert run["parts"][0]["text"] == "quick did it"
    assert ("slow", "cancelled", "quick was first") in ends


async def rested(session: Session) -> Any:
    """Return the view once nothing is open any more."""
    view = await session.view()
    return None if any(one["finished"] is None for agent in view["agents"] for one in agent["runs"]) else view


async def test_first_of_which_none_is_done_says_how_each_ended(broker_url: str, session: Session) -> None:
    """As an error that the parent may handle."""

    async def parent(run: Run) -> None:
        await run.first([await run.delegate("quick", "fail"), await run.delegate("quick", "fail", data=2)])

    async with serving(broker_url, parent=parent, quick=quick):
        run = await ask(session, "parent")

    assert run["status"] == "error"
    assert run["error"] == "none of 2 delegations is done: quick error (as asked); quick error (as asked)"


async def test_a_join_that_takes_too_long_is_an_error_and_the_children_go_on(broker_url: str, session: Session) -> None:
    """The parent decides what then."""

    async def parent(run: Run) -> None:
        child = await run.delegate("slow", "x")
        for join in (run.gather([child], timeout=0.3), run.first([child], timeout=0.3)):
            try:
                await join
            except TimeoutError:
                await run.text("waited in vain ")
        await run.data("nothing", await run.gather([]))

    async with serving(broker_url, parent=parent, slow=slow):
        run = await ask(session, "parent")
        view = await session.view()

    assert run["parts"][0]["text"] == "waited in vain waited in vain "
    assert run["parts"][1]["data"] == []
    assert {one["status"] for agent in view["agents"] if agent["agent"] == "slow" for one in agent["runs"]} == {
        "running"
    }


async def test_a_deadline_cancels_the_child_though_the_parent_was_killed(
    broker_url: str, session: Session, programs: Any, eventually: Any
) -> None:
    """The broker holds it; a child that ends in time is left alone."""
    body = """
    quick = await run.delegate("quick", "in time", within_seconds=1.5)
    await quick.result()
    await run.delegate("slow", "x", within_seconds=1.5)
    await run.text("delegated")
    await asyncio.sleep(60)
    """
    [parent] = programs.agent("parent", body)
    fold = Fold(session.id)

    async def follow() -> None:
        async for event in session.follow():
            fold.apply(event)

    async with serving(broker_url, quick=quick, slow=slow):
        task = asyncio.create_task(follow())
        await session.send("go", to="parent")
        await eventually(lambda: any(run.agent == "slow" and run.parts for run in fold.runs.values()), 30)
        parent.kill()
        await eventually(lambda: any(run.agent == "slow" and not run.open for run in fold.runs.values()), 30)
        task.cancel()
        view = await session.view()

    ends = {one["agent"]: (one["status"], one["error"]) for agent in view["agents"] for one in agent["runs"]}
    assert ends["slow"] == ("cancelled", "its time was up")
    assert ends["quick"] == ("done", None)
    assert [(control["to"], control["type"]) for control in view["controls"]] == [("slow", "cancel")]


async def test_delegating_the_same_to_an_agent_that_is_at_work_on_it_is_refused_as_a_circle(
    broker_url: str, session: Session
) -> None:
    """Over any number of agents; the same agent with other words is no circle."""

    async def one(run: Run) -> None:
        view = await (await run.delegate("two", run.input.text)).result(timeout=SECONDS)
        await run.text(f"{view['status']}: {view['error']}")

    async def two(run: Run) -> None:
        if run.input.text != "leaf":
            await (await run.delegate("two", "leaf")).result(timeout=SECONDS)
            await run.delegate("one", run.input.text)

    async with serving(broker_url, one=one, two=two):
        run = await ask(session, "one", "the same")
        view = await session.view()

    runs = [found for agent in view["agents"] for found in agent["runs"]]
    assert run["parts"][0]["text"] == "error: two may not delegate to one: one is at work on the same already, a circle"
    assert len(runs) == 3


async def test_a_run_that_writes_nothing_is_shown_as_stalled_until_it_writes(
    broker_url: str, session: Session, eventually: Any
) -> None:
    """Not one that says that it waits, nor one that is paused; it is said once."""
    go_on = asyncio.Event()

    async def silent(run: Run) -> None:
        await run.text("a")
        if run.input.text == "waits":
            await run.emit({"type": "run.waiting", "reason": "rate limit"})
        await go_on.wait()
        await run.text("b")

    fold, events = Fold(session.id), []

    async def follow() -> None:
        async for event in session.follow(compact=False):
            events.append(event)
            fold.apply(event)

    async with serving(broker_url, silent=(silent, {"stall_seconds": 2})):
        task = asyncio.create_task(follow())
        stalls, waits, paused = [await session.send(text, to="silent") for text in ("stalls", "waits", "paused")]
        await (await session.control.pause(to="silent", run=paused.run)).outcome(timeout=SECONDS)
        await eventually(lambda: (run := fold.run("silent", stalls.run)) is not None and run.stalled is not None)
        shown = fold.run("silent", stalls.run).view()["stalled"]  # type: ignore[union-attr]
        later = await session.send("stalls later", to="silent")
        await eventually(lambda: (run := fold.run("silent", later.run)) is not None and run.stalled is not None)
        others = [fold.run("silent", one.run).stalled for one in (waits, paused)]  # type: ignore[union-attr]
        await (await session.control.resume(to="silent", run=paused.run)).outcome(timeout=SECONDS)
        go_on.set()
        runs = [await session.result("silent", one.run, timeout=SECONDS) for one in (stalls, waits, paused)]
        task.cancel()

    assert 1.9 < shown < SECONDS
    assert others == [None, None]
    assert [event.id for event in events if event.type == "run.stalled"][:1] == [stalls.run]
    assert len([event for event in events if event.type == "run.stalled" and event.id == stalls.run]) == 1
    assert [(run["status"], run["stalled"], run["parts"][0]["text"]) for run in runs] == [("done", None, "ab")] * 3


async def test_a_control_with_a_time_limit_may_be_given_again_under_its_id(session: Session, ann: Broker) -> None:
    """The first deadline stands; other content is refused as ever."""
    first = await session.control.cancel(to="nobody", within_seconds=60, id="c1")
    again = await session.control.cancel(to="nobody", within_seconds=60, id="c1")
    view = await session.view()

    assert again.position == first.position
    assert len(view["controls"]) == 1
    with pytest.raises(Exception, match="other content"):
        await session.control.cancel(to="nobody", reason="else", within_seconds=60, id="c1")


async def test_the_tree_nests_runs_by_who_asked_and_shows_what_waits(
    broker_url: str, session: Session, eventually: Any
) -> None:
    """Also what has not begun; on the terminal, too."""

    async def parent(run: Run) -> None:
        await run.gather([await run.delegate("quick", "first"), await run.delegate("nobody", "later")])

    async with serving(broker_url, parent=parent, quick=quick):
        await session.send("go", to="parent")
        await session.send("alone", to="quick")
        await eventually(lambda: settled(session), 20)
        view = await session.view()

    found = tree(view)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_tree(view))
    shown = console.export_text()
    assert [(node["agent"], node["status"], node["text"]) for node in found] == [
        ("parent", "running", "go"),
        ("quick", "done", "alone"),
    ]
    assert [(node["agent"], node["status"]) for node in found[0]["children"]] == [
        ("quick", "done"),
        ("nobody", "queued"),
    ]
    assert "place 1 in the queue" in shown


async def settled(session: Session) -> bool:
    view = await session.view()
    ends = [run["status"] for agent in view["agents"] for run in agent["runs"] if agent["agent"] == "quick"]
    return ends == ["done", "done"] and len(view["queue"]) == 1


def test_runs_that_claim_each_other_as_parents_are_all_shown() -> None:
    """Parents stand in payloads: whatever they say, nothing disappears and nothing goes round for ever."""
    runs = [
        {"run": name, "parent": {"agent": "a", "run": parent}, "status": "done", "first": place, "error": None,
         "waiting": None, "stalled": None}
        for place, (name, parent) in enumerate([("r1", "r2"), ("r2", "r1"), ("r3", "r3"), ("r4", "gone"), ("r5", "r4")])
    ]  # fmt: skip
    view = {"inputs": [], "agents": [{"agent": "a", "runs": runs}], "queue": []}

    def count(nodes: list[Any]) -> int:
        return sum(1 + count(node["children"]) for node in nodes)

    assert count(tree(view)) == 5
    assert [node["run"] for node in tree(view)] == ["r1", "r2", "r3", "r4"]


def test_runs_that_claim_to_stand_endlessly_deep_are_shown_on_a_terminal() -> None:
    """One below the other, deeper than any agent delegates: each is a line, and nothing is nested without bound."""
    runs = [
        {"run": f"r{place}", "parent": {"agent": "a", "run": f"r{place - 1}"}, "status": "done", "first": place,
         "error": f"e{place}", "waiting": None, "stalled": None}
        for place in range(3000)
    ]  # fmt: skip
    view = {"inputs": [], "agents": [{"agent": "a", "runs": runs}], "queue": []}
    console = Console(width=100, record=True, file=io.StringIO())

    console.print(render_tree(view))

    assert {f"e{place}" for place in range(3000)} <= set(console.export_text().split())
