"""Controls: what people and agents may tell a running agent, and that the log says what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Fold
from orchestrator_free.contract import stream_name
from orchestrator_free.errors import Conflict, SessionNotFound
from tests.inside import serving, watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Event, Run, Session

WORK = """
for number in range(2000):
    await run.text(f"w{number} ")
    await asyncio.sleep(0.01)
"""


async def work(run: Run) -> None:
    """Write for about ten seconds."""
    for number in range(1000):
        await run.text(f"w{number} ")
        await asyncio.sleep(0.01)


def text_of(fold: Fold, agent: str, run: str) -> str:
    found = fold.run(agent, run)
    return "".join(part["text"] for part in found.part_views()) if found is not None else ""


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


async def test_a_cancel_ends_the_run_keeps_what_was_shown_and_lets_the_handler_clean_up(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Nothing after the control's position is shown, live or later."""
    cleaned = asyncio.Event()

    async def handler(run: Run) -> None:
        try:
            await work(run)
        finally:
            cleaned.set()

    async with serving(broker_url, name, handler), watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: len(text_of(live, name, sent.run)) > 100)
        control = await session.control.cancel(sent.run, to=name, reason="enough")
        outcome = await control.outcome(timeout=5)
        await eventually(lambda: (run := live.run(name, sent.run)) is not None and not run.open)
        shown = text_of(live, name, sent.run)
        view = await session.view()

    run = view["agents"][0]["runs"][0]
    assert (outcome.state, outcome.runs) == ("applied", [sent.run])
    assert cleaned.is_set()
    assert (run["status"], run["error"]) == ("cancelled", "enough")
    assert run["parts"][0]["text"] == shown
    assert run["last"] > run["cancelled"] == control.position.sequence


async def test_everybody_sees_a_cancel_at_its_position_though_the_agent_is_slow_to_stop(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """An agent that shields itself for a while is not shown any more; the view does not change when it ends."""
    released = asyncio.Event()

    async def stubborn(run: Run) -> None:
        try:
            await work(run)
        except asyncio.CancelledError:
            await run.text("still talking")
            await released.wait()
            raise

    async with serving(broker_url, name, stubborn), watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: text_of(live, name, sent.run))
        control = await session.control.cancel(sent.run, to=name)
        await eventually(lambda: live.sequence > control.position.sequence)
        at_once = live.run(name, sent.run).view()["status"]  # type: ignore[union-attr]
        idle_at_once = list(live.waiting())
        released.set()
        await control.outcome(timeout=5)
        view = await session.view()

    assert at_once == "cancelled"
    assert idle_at_once == []
    assert "still talking" not in view["agents"][0]["runs"][0]["parts"][0]["text"]


async def test_a_run_that_has_not_begun_is_cancelled_without_calling_the_handler(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """The input waits for an agent that is away; the session is at rest at once, the outcome comes with the agent."""
    called: list[str] = []

    async def handler(run: Run) -> None:
        called.append(run.id)

    async with serving(broker_url, name, handler):
        pass  # so that it has its place in the broker
    async with watching(session) as live:
        sent = await session.send("go", to=name)
        control = await session.control.cancel(sent.run, to=name)
        await eventually(lambda: live.sequence >= control.position.sequence)
        waiting = list(live.waiting())
        async with serving(broker_url, name, handler):
            outcome = await control.outcome(timeout=15)
            run = await session.result(name, sent.run, timeout=5)

    assert waiting == []
    assert (outcome.state, run["status"], run["parts"]) == ("applied", "cancelled", [])
    assert called == []


async def test_a_cancel_reaches_a_run_whose_process_was_killed(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """The next replica ends the run instead of doing it again."""
    [victim] = programs.agent(name, WORK)
    async with watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: len(text_of(live, name, sent.run)) > 50)
        victim.kill()
        before = live.sequence
        control = await session.control.cancel(sent.run, to=name)
        await eventually(lambda: live.sequence > before)
        shown = live.run(name, sent.run).view()["status"]  # type: ignore[union-attr]
        programs.agent(name, WORK)
        outcome = await control.outcome(timeout=25)
        run = await session.result(name, sent.run, timeout=5)

    assert shown == "cancelled"
    assert (outcome.state, run["status"]) == ("applied", "cancelled")
    assert run["parts"][0]["text"].startswith("w0 w1 ")


async def test_a_steer_reaches_the_handler_at_its_next_checkpoint(broker_url: str, session: Session, name: str) -> None:
    """Applied once the handler has looked; too late if it never does."""
    looked = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(run: Run) -> None:
        await go_on.wait()
        for steer in await run.steers():
            await run.text(f"{steer.sender} says {steer.text}")
        looked.set()
        await asyncio.wait_for(second.wait(), 10)

    second = asyncio.Event()
    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        await begun(session, name, sent.run)
        first = await session.control.steer("be brief", to=name, run=sent.run)
        await accepted(session, first.control)
        go_on.set()
        outcome = await first.outcome(timeout=5)
        await looked.wait()
        late = await session.control.steer("too late", to=name, run=sent.run)
        await accepted(session, late.control)
        second.set()
        unseen = await late.outcome(timeout=5)
        run = await session.result(name, sent.run, timeout=5)

    assert outcome.state == "applied"
    assert unseen.state == "too_late"
    assert run["parts"][0]["text"] == "ann says be brief"


async def begun(session: Session, agent: str, run: str) -> None:
    """Wait until a run has begun."""
    async with asyncio.timeout(10):
        async for event in session.follow(agents=[agent], kinds=["run"]):
            if event.id == run:
                return


async def accepted(session: Session, control: str) -> None:
    """Wait until a control was accepted."""
    async with asyncio.timeout(10):
        async for event in session.follow(kinds=["outcome"]):
            if event.id == control:
                return


async def test_a_redirect_ends_the_answer_and_begins_another_that_knows_it(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """The new run is in the log like any other, with the old one at hand."""

    async def handler(run: Run) -> None:
        before = await run.redirected()
        if before is not None:
            await run.text(f"instead of {before['parts'][0]['text'][:6]}: {run.input.text}")
            return
        await work(run)

    async with serving(broker_url, name, handler), watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: len(text_of(live, name, sent.run)) > 20)
        control = await session.control.redirect("about cats", to=name, run=sent.run)
        outcome = await control.outcome(timeout=5)
        await eventually(lambda: len(live.runs) == 2 and not any(run.open for run in live.runs.values()))

    second = next(run for (_, key), run in live.runs.items() if key != sent.run)
    assert outcome.state == "applied"
    assert live.run(name, sent.run).status == "cancelled"  # type: ignore[union-attr]
    assert second.part_views()[0]["text"] == "instead of w0 w1 : about cats"


def outcomes(fold: Fold, agent: str) -> list[str]:
    """What became of each control at an agent, so far."""
    return [control["outcomes"].get(agent, {}).get("state", "") for control in fold.controls.view()]


async def until(session: Session, sequence: int) -> AsyncIterator[Event]:
    """Yield every event up to a sequence, message by message."""
    async for event in session.follow(compact=False):
        yield event
        if event.sequence >= sequence:
            return


async def test_a_paused_run_writes_nothing_until_it_is_resumed(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Not a token between the two outcomes."""
    async with serving(broker_url, name, work), watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: len(text_of(live, name, sent.run)) > 20)
        paused = await session.control.pause(to=name, run=sent.run)
        await paused.outcome(timeout=5)
        for turn in range(100):  # time in which it would have written
            await session.state.set("turn", turn)
        resumed = await session.control.resume(to=name, run=sent.run)
        await resumed.outcome(timeout=5)
        longer = len(text_of(live, name, sent.run)) + 50
        await eventually(lambda: len(text_of(live, name, sent.run)) > longer)
        history = [event async for event in until(session, live.sequence)]
        end = await session.control.cancel(sent.run, to=name)
        await end.outcome(timeout=5)
        await eventually(lambda: outcomes(live, name) == ["applied", "applied", "applied"])

    applied = (event for event in history if event.id == paused.control and event.body.get("state") == "applied")
    stopped = next(applied).sequence
    kinds = [event.kind for event in history if stopped < event.sequence < resumed.position.sequence]
    assert set(kinds) == {"state"}
    assert len(kinds) == 100


async def test_a_cancel_goes_down_to_what_the_run_delegated(
    broker_url: str, session: Session, name: str, fresh: Any, eventually: Any
) -> None:
    """Parent, child and grandchild end; the parent relays nothing, the children stand in the log under their own names."""
    child, grandchild = fresh("child"), fresh("grandchild")

    async def parent_work(run: Run) -> None:
        await (await run.delegate(child, "go")).result()

    async def child_work(run: Run) -> None:
        await (await run.delegate(grandchild, "go")).result()

    async with (
        serving(broker_url, name, parent_work),
        serving(broker_url, child, child_work),
        serving(broker_url, grandchild, work),
        watching(session) as live,
    ):
        sent = await session.send("go", to=name)
        await eventually(lambda: any(run.agent == grandchild and run.parts for run in live.runs.values()))
        control = await session.control.cancel(sent.run, to=name)
        await control.outcome(timeout=5)
        await eventually(lambda: len(live.runs) == 3 and not any(run.open for run in live.runs.values()))

    parents = {run.agent: (run.parent or {}).get("agent") for run in live.runs.values()}
    assert {run.status for run in live.runs.values()} == {"cancelled"}
    assert parents == {name: None, child: name, grandchild: child}


async def test_delegating_in_a_circle_ends_with_an_error_that_says_so(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Depth is counted along the inputs, over processes."""

    async def handler(run: Run) -> None:
        result = await (await run.delegate(name, f"again {run.input.depth}")).result()
        await run.text(f"{result['status']}: {result['error']}")

    async with serving(broker_url, name, handler), watching(session) as live:
        await session.send("go", to=name)
        await eventually(lambda: live.runs and not any(run.open for run in live.runs.values()), 20)

    errors = [run.error for run in live.runs.values() if run.status == "error"]
    assert len(live.runs) == 9
    assert errors == [f"{name} may not delegate to {name}: 8 delegations deep already"]


async def test_controls_for_nothing_get_an_outcome_that_says_why(broker_url: str, session: Session, name: str) -> None:
    """Unknown run, finished run, deadline passed, the same id again, the same id for something else."""

    async def quick(run: Run) -> None:
        await run.text("done")

    async with serving(broker_url, name, quick):
        sent = await session.send("go", to=name)
        await session.result(name, sent.run, timeout=5)
        unknown = await (await session.control.cancel("nosuchrun", to=name)).outcome(timeout=10)
        over = await (await session.control.cancel(sent.run, to=name, id="c1")).outcome(timeout=10)
        again = await session.control.cancel(sent.run, to=name, id="c1")
        expired = await (await session.control.cancel("nosuchrun", to=name, within_seconds=-1)).outcome(timeout=10)
        with pytest.raises(Conflict, match="other content"):
            await session.control.cancel("another", to=name, id="c1")
        view = await session.view()

    assert (unknown.state, over.state, expired.state) == ("rejected", "too_late", "expired")
    assert "nosuchrun" in unknown.reason
    assert (await again.outcome(timeout=5)).state == "too_late"
    assert view["agents"][0]["runs"][0]["status"] == "done"
    assert len(view["controls"]) == 3


async def test_a_control_to_all_for_a_run_of_nobody_is_refused_by_the_agents_of_the_session(
    broker_url: str, session: Session, name: str, fresh: Callable[[str], str]
) -> None:
    """An agent that has nothing to do with the session does not speak in it."""

    async def quick(run: Run) -> None:
        await run.text("done")

    other = fresh("agent")
    async with serving(broker_url, other, quick), serving(broker_url, name, quick):
        sent = await session.send("go", to=name)
        await session.result(name, sent.run, timeout=20)
        outcome = await (await session.control.cancel("nosuchrun")).outcome(timeout=30)
        with pytest.raises(TimeoutError):
            await (await session.control.cancel(sent.run)).outcome(timeout=1)
        view = await session.view()

    assert (outcome.agent, outcome.state) == (name, "rejected")
    assert "nosuchrun" in outcome.reason
    assert [list(control["outcomes"]) for control in view["controls"]] == [[name], []]


async def test_who_waits_in_a_session_that_is_deleted_is_told(session: Session, name: str) -> None:
    """For a run that nobody has begun, and for the outcome of its cancel."""
    sent = await session.send("go", to=name)
    control = await session.control.cancel(sent.run, to=name)
    waiting = [
        asyncio.create_task(session.result(name, sent.run, timeout=30)),
        asyncio.create_task(control.outcome(timeout=30)),
    ]
    ended, _ = await asyncio.wait(waiting, timeout=0.5)
    assert not ended
    await session.delete()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [SessionNotFound] * 2


async def test_what_the_broker_was_made_to_store_neither_blocks_an_input_nor_hides_it(
    session: Session, name: str
) -> None:
    """Answers of the broker on an input's subject, before the input and after it; sent again it is met again."""
    log, stream = session.log, stream_name(session.shard)
    subject = f"session.{session.shard}.{session.id}.ann.in.{name}.i1"
    await session.send("another", to=name, id="i0")
    copy = f'{{"last_by_subj": "{subject.removesuffix("i1")}i0"}}'.encode()

    async def forge(*ways: str) -> None:
        for request in (f"$JS.API.{way}.GET.{stream}" for way in ways):
            before = len(await log.read_all(session.shard, subject))
            log.wire.send(request, copy, reply=subject)
            async with asyncio.timeout(20):
                while len(await log.read_all(session.shard, subject)) == before:
                    await asyncio.sleep(0.05)

    await forge("DIRECT", "STREAM.MSG")
    sent = await session.send("go", to=name, id="i1")
    assert not sent.repeated
    await forge("STREAM.MSG")  # the copy of an input expects an empty subject, as the input did
    again = await session.send("go", to=name, id="i1")
    assert (again.repeated, again.position) == (True, sent.position)
    with pytest.raises(Conflict, match="other content"):
        await session.send("stop", to=name, id="i1")
    assert [entry["text"] for entry in (await session.view())["inputs"]] == ["another", "go"]


async def test_a_cancelled_log_folds_alike_compacted_or_not(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Who watched it live and who comes later see the same."""
    async with serving(broker_url, name, work), watching(session) as live:
        sent = await session.send("go", to=name)
        await eventually(lambda: len(text_of(live, name, sent.run)) > 200)
        await (await session.control.cancel(to=name)).outcome(timeout=5)
        view = await session.view()
        await eventually(lambda: str(session.position(live.sequence)) == view["position"])

    assert live.view(view["position"]) == view
