"""The floor: who answers the person, that it passes on atomically, and that the others keep silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Broker, Fold, connect
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import Conflict, FloorForbidden, FloorRefused, InvalidInput, InvalidName
from orchestrator_free.events import encode
from orchestrator_free.session.floor import FloorState
from orchestrator_free.subjects import address
from tests.test_controls import serving, text_of, watching, work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Run, Session


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


def as_member(session: Session, member: str) -> Session:
    """The session as another member sees it."""
    return Broker(session.log, member).session(session.id)


async def echo(run: Run) -> None:
    await run.text(f"answer to {run.input.text}")


async def hand_over(session: Session, giver: str, taker: str) -> FloorState:
    """A hand-off from one member to another, as both of them do it."""
    await as_member(session, giver).floor.request(taker, reason="too hard")
    return await as_member(session, taker).floor.accept()


# -- steps --------------------------------------------------------------------------------------------------------


async def test_the_floor_goes_from_agent_to_person_and_back_and_every_step_is_kept(session: Session, name: str) -> None:
    """Request, accept, return; the view and the log tell who, when and why."""
    agent = as_member(session, name)
    none = await session.floor.state()
    await agent.floor.take()
    asked = await agent.floor.request("ann", reason="refund over the limit")
    accepted = await session.floor.accept()
    returned = await session.floor.give_back(reason="refunded")
    state = await session.floor.state()
    view = await session.view()

    assert none == FloorState()
    assert (asked.holder, asked.request.to, asked.request.reason) == (name, "ann", "refund over the limit")  # type: ignore[union-attr]
    assert (accepted.holder, accepted.previous, accepted.request) == ("ann", name, None)
    assert (returned.holder, returned.previous, returned.by, returned.reason) == (name, None, "ann", "refunded")
    assert state.revision == returned.revision == view["floor"]["revision"]
    assert [step.step for step in await session.floor.history()] == ["take", "request", "accept", "return"]
    assert [step["by"] for step in view["floor"]["history"]] == [name, name, "ann", "ann"]


async def test_of_many_who_accept_at_once_one_has_the_floor_and_the_others_hear_who(
    broker_url: str, session: Session, name: str
) -> None:
    """Twenty contenders over four connections, five times."""
    async with connect(broker_url) as one, connect(broker_url) as two, connect(broker_url) as three:
        logs = [session.log, one.log, two.log, three.log]
        desks = [Broker(logs[number % 4], f"m{number}").session(session.id) for number in range(20)]
        for _ in range(5):
            await as_member(session, name).floor.request("desk")
            results = await asyncio.gather(*(desk.floor.accept() for desk in desks), return_exceptions=True)
            won = [one for one in results if isinstance(one, FloorState)]
            lost = [one for one in results if isinstance(one, Conflict | FloorRefused)]
            state = await session.floor.state()
            await as_member(session, str(state.holder)).floor.release()

            assert [one.holder for one in won] == [state.holder]
            assert len(lost) == 19
            assert all(f"{state.holder} was faster" in str(one) for one in lost)


async def test_of_two_steps_over_the_same_state_the_second_is_a_conflict_that_names_the_first(session: Session) -> None:
    """The broker compares; nothing that was read before matters."""
    bob = as_member(session, "bob")
    state, last = await session.floor._now()
    await session.floor._publish("take", last, holder="ann")
    with pytest.raises(Conflict, match="ann was faster: take; ann has the floor now"):
        await bob.floor._publish("take", last, holder="bob")

    assert state.holder is None
    assert [step.by for step in await session.floor.history()] == ["ann"]


async def test_a_declined_request_leaves_the_floor_where_it_is(session: Session, name: str) -> None:
    """The one who asked hears why."""
    agent = as_member(session, name)
    await agent.floor.take()
    asked = await agent.floor.request("ann", reason="help")
    answer = asyncio.create_task(agent.floor.answer(asked, timeout=20))
    declined = await session.floor.decline("at lunch")
    heard = await answer

    assert (declined.holder, declined.request) == (name, None)
    assert (heard.step, heard.by, heard.reason, heard.holder) == ("decline", "ann", "at lunch", name)


async def test_requests_reach_the_one_who_is_asked_and_can_be_withdrawn(session: Session, name: str) -> None:
    """`wait_for_request` returns at once if one is open, and passes over those that are not."""
    agent = as_member(session, name)
    await agent.floor.request("bob")
    await agent.floor.withdraw("not needed")
    await agent.floor.request("carl")
    with pytest.raises(TimeoutError):
        await session.floor.wait_for_request(timeout=0.5)
    waiting = asyncio.create_task(session.floor.wait_for_request(timeout=20))
    await agent.floor.request("desk", reason="anybody")
    state = await waiting

    assert state.request is not None
    assert (state.request.sender, state.request.to, state.request.reason) == (name, "desk", "anybody")
    assert (await session.floor.accept()).holder == "ann"


REFUSED: list[tuple[str, Callable[[dict[str, Session]], Any], type[Exception], str]] = [
    ("nobody has it", lambda s: s["ann"].floor.give_back(), FloorRefused, "nobody has the floor"),
    ("nobody is asked", lambda s: s["ann"].floor.accept(), FloorRefused, "nobody is asked"),
    ("nobody is asked", lambda s: s["ann"].floor.decline(), FloorRefused, "nobody is asked"),
    ("nobody is asked", lambda s: s["ann"].floor.withdraw(), FloorRefused, "nobody is asked"),
    ("bob has it", lambda s: s["ann"].floor.give_back(), FloorForbidden, "bob has the floor, not ann"),
    ("bob has it", lambda s: s["ann"].floor.release(), FloorForbidden, "bob has the floor, not ann"),
    ("bob has it", lambda s: s["bob"].floor.take(), FloorRefused, "bob has the floor already"),
    ("bob has it", lambda s: s["ann"].floor.request("bob"), FloorRefused, "bob has the floor already"),
    ("bob has it", lambda s: s["bob"].floor.request("bob"), FloorRefused, "need not ask"),
    ("bob asks carl", lambda s: s["ann"].floor.accept(), FloorForbidden, "carl is asked .*, not ann"),
    ("bob asks carl", lambda s: s["ann"].floor.decline(), FloorForbidden, "carl is asked .*, not ann"),
    ("bob asks carl", lambda s: s["ann"].floor.withdraw(), FloorForbidden, "bob has asked, not ann"),
    ("bob asks carl", lambda s: s["ann"].floor.request("dora"), FloorRefused, "bob has asked carl already"),
    ("bob asks desk", lambda s: s["ann"].floor.decline(), FloorRefused, "the whole desk is asked"),
    ("bob asks desk", lambda s: s["bob"].floor.accept(), FloorForbidden, "desk is asked .*, not bob"),
    ("nobody has it", lambda s: s["ann"].floor.request("all"), InvalidInput, "the floor is for one"),
    ("nobody has it", lambda s: s["ann"].floor.request("a b"), InvalidName, "to 'a b'"),
    ("nobody has it", lambda s: s["ann"].floor.step("dance"), InvalidInput, "no step of the floor"),
    ("nobody has it", lambda s: s["ann"].floor.step("request"), InvalidInput, "name who is asked"),
    ("nobody has it", lambda s: s["ann"].floor.step("take", to="bob"), InvalidInput, "for nobody else"),
]


@pytest.mark.parametrize(("given", "step", "error", "words"), REFUSED)
async def test_a_step_that_is_not_ones_own_or_does_not_fit_is_refused_and_changes_nothing(
    session: Session, given: str, step: Any, error: type[Exception], words: str
) -> None:
    """The error says how the floor stands."""
    members = {member: as_member(session, member) for member in ("ann", "bob", "carl")}
    if given.startswith("bob"):
        await members["bob"].floor.take()
    if "asks" in given:
        await members["bob"].floor.request(given.split()[-1])
    before = await session.floor.state()
    with pytest.raises(error, match=words):
        await step(members)

    assert await session.floor.state() == before


async def test_a_request_may_be_put_differently_by_the_one_who_asked_and_supervisors_take_over(
    session: Session,
) -> None:
    """Taking over needs no request, ends an open one, and `return` gives the floor back to who had it."""
    bob, carl = as_member(session, "bob"), as_member(session, "carl")
    await bob.floor.take()
    await bob.floor.request("carl")
    await bob.floor.request("ann")
    taken = await carl.floor.take(reason="supervision")
    returned = await carl.floor.give_back()

    assert (taken.holder, taken.previous, taken.request) == ("carl", "bob", None)
    assert returned.holder == "bob"


# -- silence --------------------------------------------------------------------------------------------------------


async def test_an_agent_without_the_floor_does_not_answer_the_person(
    broker_url: str, session: Session, name: str
) -> None:
    """To `all`: silence, and nobody waits for it; by name: a visible refusal; delegated, from the holder, whispered: done."""
    cust, other = as_member(session, "cust"), as_member(session, "other")
    async with serving(broker_url, name, echo):
        before = await cust.send("zero", to="all")
        await session.result(name, before.run, timeout=20)
        await session.floor.take()
        silent = await cust.send("one", to="all")
        refused = await cust.send("two", to=name)
        delegated = await other.send("three", to=name, parent={"agent": "other", "run": "r1"})
        pretended = await cust.send("four", to=name, parent={"agent": "other", "run": "r1"})
        whispered = await session.send("five", to=name, whisper=True)
        helped = await cust.send("psst", to=name, whisper=True)
        mine = await session.send("six", to="all")
        noted = await cust.send("seven", to=name, note=True)
        runs = {sent.run: await session.result(name, sent.run, timeout=20) for sent in (
            refused, delegated, pretended, whispered, helped, mine,
        )}  # fmt: skip
        await session.floor.release()
        after = await cust.send("eight", to="all")
        await session.result(name, after.run, timeout=20)
    view = await session.view()
    fold = Fold.load(view)

    assert (runs[refused.run]["status"], runs[refused.run]["error"]) == ("rejected", "ann has the floor")
    assert runs[refused.run]["parts"] == []
    assert runs[pretended.run]["status"] == "rejected"
    assert [runs[sent.run]["status"] for sent in (delegated, whispered, helped, mine)] == ["done"] * 4
    known = {run["run"]: run for agent in view["agents"] for run in agent["runs"]}
    assert silent.run not in known
    assert noted.run not in known
    assert [run["whisper"] for run in known.values()] == [run in (whispered.run, helped.run) for run in known]
    assert list(fold.waiting()) == []
    assert {entry["text"]: entry["floor"] for entry in view["inputs"]}["one"] == "ann"


async def test_the_floor_at_an_inputs_place_in_the_log_counts_whenever_it_is_worked_on(
    broker_url: str, session: Session, name: str
) -> None:
    """An agent that comes later decides as one that was there; of two replicas none decides otherwise."""
    cust = as_member(session, "cust")
    await session.floor.take()
    during = await cust.send("during", to="all")
    by_name = await cust.send("by name", to=name)
    await session.floor.release()
    after = await cust.send("after", to="all")
    await session.floor.take(cancel=False)
    async with serving(broker_url, name, echo):
        answered = await session.result(name, after.run, timeout=20)
        refused = await session.result(name, by_name.run, timeout=20)
    view = await session.view()

    assert answered["status"] == "done"
    assert refused["status"] == "rejected"
    assert during.run not in {run["run"] for agent in view["agents"] for run in agent["runs"]}


async def test_the_holder_answers_inputs_to_all_though_the_session_names_others(
    broker_url: str, session: Session, name: str, fresh: Callable[[str], str]
) -> None:
    """Agent to agent: the one who was handed the floor is the one who answers."""
    expert = fresh("expert")
    cust = as_member(session, "cust")
    async with serving(broker_url, name, echo), serving(broker_url, expert, echo):
        await hand_over(session, name, expert)
        sent = await cust.send("who are you?", to="all")
        run = await session.result(expert, sent.run, timeout=20)
        later = await cust.send("and you?", to=name)
        refused = await session.result(name, later.run, timeout=20)
        view = await session.view()

    assert run["status"] == "done"
    assert (refused["status"], refused["error"]) == ("rejected", f"{expert} has the floor")
    assert sent.run not in {run["run"] for agent in view["agents"] if agent["agent"] == name for run in agent["runs"]}


async def test_an_agent_hands_off_from_within_a_run_and_hears_what_becomes_of_it(
    broker_url: str, session: Session, name: str
) -> None:
    """`run.hand_off` asks; the handler goes on when somebody has accepted."""

    async def handler(run: Run) -> None:
        asked = await run.hand_off("ann", "I do not know")
        found = await run.session.floor.answer(asked, timeout=20)
        await run.text(f"{found.by} answers from now on")

    async with serving(broker_url, name, handler):
        sent = await as_member(session, "cust").send("help", to="all")
        await session.floor.wait_for_request(timeout=20)
        await session.floor.accept()
        run = await session.result(name, sent.run, timeout=20)

    assert run["status"] == "done"
    assert run["parts"][0]["text"] == "ann answers from now on"


async def test_taking_over_ends_the_answer_for_every_viewer_at_once(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Nothing after the cancel is shown; whispers and delegated work go on; so does what the one who takes over does."""
    cust = as_member(session, "cust")
    async with serving(broker_url, name, work), watching(session) as live, watching(cust) as second:
        sent = await cust.send("go", to="all")
        side = await session.send("check something", to=name, whisper=True)
        await eventually(lambda: len(text_of(second, name, sent.run)) > 50 and text_of(live, name, side.run))
        await session.floor.take(reason="wrong answer")
        await eventually(lambda: live.run(name, sent.run).view()["status"] == "cancelled")  # type: ignore[union-attr]
        await eventually(lambda: second.run(name, sent.run).view()["status"] == "cancelled")  # type: ignore[union-attr]
        shown = text_of(second, name, sent.run)
        run = await session.result(name, sent.run, timeout=20)
        went_on = text_of(live, name, side.run)
        await eventually(lambda: len(text_of(live, name, side.run)) > len(went_on))
        await session.control.cancel(side.run, to=name)
        await session.result(name, side.run, timeout=20)

    assert (run["status"], run["error"]) == ("cancelled", "ann has the floor")
    assert run["parts"][0]["text"] == shown


async def test_what_had_not_begun_when_the_floor_passed_is_for_the_one_who_has_it(
    broker_url: str, session: Session, name: str
) -> None:
    """An input that waited while nobody served the agent is not answered by it after the hand-off."""
    cust = as_member(session, "cust")
    waiting = await cust.send("anybody?", to="all")
    await hand_over(session, name, "ann")
    async with serving(broker_url, name, echo):
        run = await session.result(name, waiting.run, timeout=20)

    assert (run["status"], run["parts"], run["error"]) == ("cancelled", [], "ann has the floor")


async def test_a_queue_does_not_wait_for_inputs_that_are_for_somebody_else(
    broker_url: str, session: Session, name: str
) -> None:
    """Inputs to `all` while another had the floor never begin; the line goes on behind them."""
    cust = as_member(session, "cust")
    await session.floor.take()
    for number in range(5):
        await cust.send(f"for ann {number}", to="all")
    await session.floor.release()
    sent = [await cust.send(f"for the agent {number}", to="all") for number in range(3)]
    async with serving(broker_url, name, echo, overlap="queue"):
        runs = [await session.result(name, one.run, timeout=30) for one in sent]

    assert [run["status"] for run in runs] == ["done"] * 3


async def test_delegated_work_of_a_whisper_is_a_whisper(
    broker_url: str, session: Session, name: str, fresh: Callable[[str], str]
) -> None:
    """A client that hides whispers hides what they led to."""
    helper = fresh("helper")

    async def handler(run: Run) -> None:
        child = await run.delegate(helper, "look it up")
        await child.result(timeout=20)

    async with serving(broker_url, name, handler), serving(broker_url, helper, echo):
        sent = await session.send("what is 90 in euros?", to=name, whisper=True)
        await session.result(name, sent.run, timeout=20)
    view = await session.view()

    assert [run["whisper"] for agent in view["agents"] for run in agent["runs"]] == [True, True]


# -- wire and crashes -----------------------------------------------------------------------------------------------


async def test_a_step_by_plain_nats_counts_and_one_in_the_name_of_another_does_not(
    session: Session, ann: Broker
) -> None:
    """Readers skip what a member says for somebody else; the next step still stands over it."""
    wire = ann.log.wire
    expect_filter = f"session.{session.shard}.{session.id}.*.floor"

    async def publish(member: str, body: dict[str, Any], expect: int) -> int:
        subject = str(address(session.shard, session.id, member, "floor"))
        return await wire.publish(subject, encode({"type": "floor"} | body), expect=expect, expect_filter=expect_filter)

    first = await publish("bob", {"step": "take", "holder": "bob"}, 0)
    with pytest.raises(Conflict):
        await publish("carl", {"step": "take", "holder": "carl"}, 0)
    forged = await publish("carl", {"step": "accept", "holder": "ann"}, first)
    await publish("carl", {"step": "take"}, forged)
    state = await session.floor.state()
    view = await session.view()
    taken = await session.floor.take()

    assert (state.holder, state.revision) == ("bob", first)
    assert view["floor"]["holder"] == "bob"
    assert (taken.holder, taken.previous) == ("ann", "bob")


async def test_the_floor_survives_a_broker_that_is_killed(tmp_path: Path, name: str) -> None:
    """SIGKILL to everything: who has the floor and who is asked is still there, and so is the silence of the others."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "data", port=0)) as server:
        async with connect(server.url, member="ann") as broker:
            session = broker.session("s")
            await session.create(agents=[name])
            await session.floor.take()
            await session.floor.request("bob")
            before = await session.floor.state()
            await server.restart(kill=True)
            after = await session.floor.state()
            async with serving(server.url, name, echo):
                sent = await as_member(session, "cust").send("hello", to=name)
                run = await session.result(name, sent.run, timeout=40)

    assert after == before
    assert (run["status"], run["error"]) == ("rejected", "ann has the floor")
