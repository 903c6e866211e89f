"""Asks: one answer wins, the broker keeps the time, and a run goes on wherever it is alive when it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import nats
import pytest

from orchestrator_free import Fold, connect
from orchestrator_free.errors import (
    AskClosed,
    AskNotFound,
    Conflict,
    InvalidAnswer,
    InvalidInput,
    NotAnswered,
    NotAsked,
)
from orchestrator_free.vocabulary.asking import LONGEST_SECONDS
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from orchestrator_free import Broker, Run, Session
    from orchestrator_free.embedded.server import EmbeddedServer

APPROVAL = """
decision = await run.approve("Refund 40 €?", data={"amount": 40}, to=["ann"], seconds=600)
await run.text(f"{decision.status} {decision.value} by {' '.join(decision.by)}")
"""


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


@pytest.fixture
async def people(broker_url: str, session: Session) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """`await people("bob")`: the session as bob sees it, over a connection of his own."""
    async with contextlib.AsyncExitStack() as stack:

        async def connected(member: str) -> Session:
            broker = await stack.enter_async_context(connect(broker_url, member=member))
            return broker.session(session.id)

        yield connected


async def stored(session: Session, *kinds: str) -> list[Any]:
    """All events of these kinds, message by message."""
    found = []
    async with asyncio.timeout(30):
        end = (await session.view(whole=False))["position"]
        last = int(end.rpartition("-")[2])
        async for event in session.follow(kinds=None, compact=False):
            if event.kind in kinds:
                found.append(event)
            if event.sequence >= last:
                return found
    raise AssertionError


async def waiting_ask(session: Session, eventually: Any) -> dict[str, Any]:
    """The one ask that is open."""
    [ask] = await eventually(session.asks.open, 40)
    return ask


def plain_subject(session: Session, member: str, tail: str) -> str:
    return f"session.{session.shard}.{session.id}.{member}.{tail}"


async def timer(broker_url: str, session: Session, ask: str, stage: str = "expired") -> Any:
    """What stands in the stream of timers for a stage, None if nothing does."""
    connection = await nats.connect(broker_url)
    try:
        subject = "at." + plain_subject(session, "ann", f"stage.{ask}.{stage}")
        return await connection.jetstream().get_last_msg("SESSIONS_TIMERS", subject)
    except nats.js.errors.NotFoundError:
        return None
    finally:
        await connection.close()


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_of_twenty_people_who_answer_at_once_exactly_one_counts(session: Session, people: Any) -> None:
    """The broker refuses the others before anything is stored; each is told what was decided."""
    everybody = [await people(f"p{number}") for number in range(20)]
    for _ in range(10):
        asked = await session.asks.ask("Who takes it?")
        results = await asyncio.gather(
            *(one.asks.answer(asked.ask, f"me {number}") for number, one in enumerate(everybody)),
            return_exceptions=True,
        )
        decision = await asked.decision(timeout=20)
        won = [result for result in results if isinstance(result, dict)]
        lost = [result for result in results if isinstance(result, AskClosed)]

        assert len(won) == 1
        assert len(lost) == 19
        assert [won[0]["value"], won[0]["by"]] == [decision.value, decision.by]
        assert all(decision.by[0] in str(error) and decision.value in str(error) for error in lost)
        assert [answer["counts"] for answer in decision.answers] == [True]


async def test_whoever_is_not_asked_is_refused_before_anything_is_stored(session: Session, people: Any) -> None:
    bob, cat = await people("bob"), await people("cat")
    asked = await session.asks.ask("Go?", to=["bob"], options=["yes", "no"])

    with pytest.raises(NotAsked, match="cat is not asked, only bob"):
        await cat.asks.answer(asked.ask, "yes")
    with pytest.raises(NotAsked, match="who asks does not answer"):
        await session.asks.answer(asked.ask, "yes")
    with pytest.raises(InvalidAnswer, match=r"'maybe'.* options yes, no"):
        await bob.asks.answer(asked.ask, "maybe")
    with pytest.raises(AskNotFound, match="no ask 'other'"):
        await bob.asks.answer("other", "yes")

    assert await stored(session, "answer") == []


async def test_the_same_answer_again_is_harmless_and_another_is_refused(session: Session, people: Any) -> None:
    """Also where one answer does not decide."""
    bob = await people("bob")
    asked = await session.asks.ask("Go?", to=["bob", "cat"], quorum=2)
    first = await bob.asks.answer(asked.ask, {"b": 1, "a": [True]}, "sure")
    again = await bob.asks.answer(asked.ask, {"a": [True], "b": 1})

    with pytest.raises(AskClosed, match="bob has answered"):
        await bob.asks.answer(asked.ask, {"a": [1], "b": 1})

    assert first["status"] == again["status"] == "open"
    assert [answer["comment"] for answer in again["answers"]] == ["sure"]


async def test_two_of_three_decide_and_one_veto_does(session: Session, people: Any) -> None:
    people_ = {name: await people(name) for name in ("bob", "cat", "dan")}
    options = {"to": list(people_), "quorum": 2, "options": ["approve", "deny"], "veto": "deny"}
    passed = await session.asks.ask("First?", **options)
    vetoed = await session.asks.ask("Second?", **options)
    for name in ("bob", "cat"):
        await people_[name].asks.answer(passed.ask, "approve")
    await people_["bob"].asks.answer(vetoed.ask, "approve")
    await people_["dan"].asks.answer(vetoed.ask, "deny", "too dear")
    yes, no = await passed.decision(timeout=10), await vetoed.decision(timeout=10)

    assert (yes.value, yes.by, bool(yes)) == ("approve", ["bob", "cat"], True)
    assert (no.value, no.by, bool(no), no.vetoed) == ("deny", ["dan"], False, True)
    with pytest.raises(AskClosed, match="decided already: 'deny' by dan"):
        await people_["cat"].asks.answer(vetoed.ask, "approve")


async def test_an_answer_of_a_plain_nats_client_counts(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """The wire is all that is needed: one message resumes a run."""

    async def handler(run: Run) -> None:
        decision = await run.ask("How many?", to=["plain"])
        await run.text(f"{decision.value} by {decision.by[0]}")

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        ask = await waiting_ask(session, eventually)
        connection = await nats.connect(broker_url)
        subject = plain_subject(session, "plain", f"answer.{ask['ask']}")
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        await connection.jetstream().publish(
            subject, json.dumps({"type": "answer", "value": 7}).encode(), headers=headers
        )
        await connection.close()
        run = await session.result(name, sent.run, timeout=30)

    assert run["parts"][0]["text"] == "7 by plain"


async def test_no_later_message_hides_what_counted(session: Session, broker_url: str, people: Any) -> None:
    """Who overwrites an answer, an ask or a stage with plain messages changes nothing, for early and late readers."""
    bob = await people("bob")
    asked = await session.asks.ask("Go?", to=["bob"], options=["yes", "no"], id="q")
    await bob.asks.answer("q", "yes")
    live = Fold(session.id)
    connection = await nats.connect(broker_url)
    publish = connection.jetstream().publish
    await publish(plain_subject(session, "bob", "answer.q"), b'{"type":"answer","value":"no"}')
    await publish(plain_subject(session, "ann", "ask.q"), b'{"type":"ask","text":"Other?","to":["eve"]}')
    await publish(plain_subject(session, "eve", "ask.q"), b'{"type":"ask","text":"Other?","to":["eve"]}')
    last = await publish(plain_subject(session, "ann", "stage.q.expired"), b'{"type":"ask.expired"}')
    await connection.close()
    async for event in session.follow(compact=False):
        live.apply(event)
        if event.sequence >= last.seq:
            break
    [late] = (await session.view())["asks"]

    assert [late["text"], late["status"], late["value"], late["by"]] == ["Go?", "decided", "yes", ["bob"]]
    assert [(answer["value"], answer["counts"]) for answer in late["answers"]] == [("yes", True), ("no", False)]
    assert live.asks.view() == [late]
    assert (await asked.decision(timeout=10)).value == "yes"


# -- asking -----------------------------------------------------------------------------------------------------------


async def test_asking_again_under_the_same_id_meets_the_ask_with_its_deadline(
    broker_url: str, session: Session, people: Any
) -> None:
    """The timer is the one that was set first; other content, or another asker, is a conflict."""
    first = await session.asks.ask("Go?", to=["bob"], seconds=500, id="q")
    before = await timer(broker_url, session, "q")
    again, other = await session.asks.ask("Go?", to=["bob"], seconds=500, id="q"), await people("bob")

    assert (first.repeated, again.repeated, again.position) == (False, True, first.position)
    assert (await timer(broker_url, session, "q")).seq == before.seq
    assert len(await stored(session, "ask")) == 1
    with pytest.raises(Conflict, match="other content"):
        await session.asks.ask("Stop?", to=["bob"], seconds=500, id="q")
    with pytest.raises(Conflict, match="asked by ann"):
        await other.asks.ask("Go?", id="q")


async def test_processes_that_ask_the_same_at_the_same_time_ask_once(session: Session, people: Any) -> None:
    """Two replicas of one agent; the decision is for both."""
    replicas = [await people("twin") for _ in range(6)]
    asked = await asyncio.gather(*(one.asks.ask("Go?", seconds=500, id="same") for one in replicas))
    await session.asks.answer("same", 1)
    decisions = await asyncio.gather(*(one.decision(timeout=20) for one in asked))

    assert sum(not one.repeated for one in asked) == 1
    assert {decision.value for decision in decisions} == {1}
    assert len(await stored(session, "ask")) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"to": ["a b"]}, "to 'a b' is not a valid name"),
        ({"to": ["bob"], "quorum": 2}, "2 of 1 members"),
        ({"quorum": 0}, "quorum"),
        ({"options": []}, "options"),
        ({"options": ["a", "a"]}, "options"),
        ({"options": [1]}, "options"),
        ({"options": ["a"], "veto": "b"}, "veto: 'b' is not one of the options a"),
        ({"rule": "loudest"}, "rule"),
        ({"rule": "highest"}, "seconds: the highest answer"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": LONGEST_SECONDS * 2}, "seconds: .* at most"),
        ({"seconds": float("nan")}, "seconds"),
        ({"escalations": [(5, ["cat"])]}, "to everybody"),
        ({"to": ["bob"], "seconds": 5, "escalations": [(5, ["cat"])]}, "escalations"),
        ({"to": ["bob"], "escalations": [(-1, ["cat"])]}, "seconds|after_seconds"),
        ({"to": ["bob"], "escalations": [(1, ["c.t"])]}, "valid name"),
        ({"to": ["bob"], "escalations": [(n, ["cat"]) for n in range(1, 10)]}, "9 escalations"),
        ({"data": object()}, "JSON"),
        ({"id": "a.b"}, "ask 'a.b' is not a valid name"),
        ({"run": {"agent": "x"}}, "run"),
    ],
)
async def test_an_ask_that_could_not_work_is_refused(session: Session, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        await session.asks.ask("Go?", **wrong)

    assert await stored(session, "ask", "stage") == []


async def test_only_who_asked_may_withdraw_and_only_what_is_open(session: Session, people: Any) -> None:
    bob = await people("bob")
    await session.asks.ask("Go?", id="q")
    await session.asks.ask("Go?", id="done")
    await bob.asks.answer("done", 1)

    with pytest.raises(NotAsked, match="ann has asked"):
        await bob.asks.withdraw("q")
    with pytest.raises(AskNotFound):
        await session.asks.withdraw("other")
    with pytest.raises(AskClosed, match="decided already: 1 by bob"):
        await session.asks.withdraw("done")
    withdrawn = await session.asks.withdraw("q", "changed my mind")
    again = await session.asks.withdraw("q")
    with pytest.raises(AskClosed, match="withdrawn already"):
        await bob.asks.answer("q", 1)

    assert (withdrawn["status"], withdrawn["reason"]) == ("withdrawn", "changed my mind")
    assert again == withdrawn
    assert not await (await session.asks.ask("Go?", id="q")).decision(timeout=10)


# -- time -------------------------------------------------------------------------------------------------------------


async def test_the_broker_says_that_time_is_up_while_no_process_of_ours_lives(
    broker_url: str, ann: Broker, fresh: Any, programs: Any, tmp_path: Any, eventually: Any
) -> None:
    """The asking program has ended; only a plain client looks. Escalation and expiry stand in the log, once each."""
    id = fresh("s")
    script = tmp_path / "asker.py"
    script.write_text(
        "import asyncio, os, sys\nfrom orchestrator_free import connect\n"
        "async def main():\n"
        "    async with connect(os.environ['ORCHESTRATOR_FREE_URL'], member='asker') as broker:\n"
        "        session = broker.session(sys.argv[1])\n"
        "        await session.create()\n"
        "        await session.asks.ask('Go?', to=['bob'], seconds=2, escalations=[(1, ['cat'])], id='q')\n"
        "        os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    program = programs.start(script, id)
    await eventually(lambda: not program.alive, 40)
    assert program.process.returncode == 0, program.output
    session = ann.session(id)
    connection = await nats.connect(broker_url)

    async def expired() -> bool:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            subject = plain_subject(session, "asker", "stage.q.expired")
            return bool(await connection.jetstream().get_last_msg(f"SESSIONS_{session.shard}", subject))
        return False

    await eventually(expired, 40)
    await connection.close()
    stages = await stored(session, "stage")
    [ask] = await session.asks.all()

    assert [(event.type, event.id) for event in stages] == [
        ("ask.escalated", "escalated-1"),
        ("ask.expired", "expired"),
    ]
    assert (ask["status"], ask["to"]) == ("expired", ["bob", "cat"])


async def test_what_was_due_while_the_broker_was_down_is_said_when_it_is_back(
    broker: EmbeddedServer, session: Session, people: Any, eventually: Any
) -> None:
    """Once; whoever waits over its restart hears of it, and of a decision after it, too."""
    short = await session.asks.ask("Now?", seconds=2)
    long = await session.asks.ask("Ever?", to=["bob"], seconds=600)
    waiting = [asyncio.create_task(asked.decision(timeout=90)) for asked in (short, long)]
    broker.kill()
    overdue = time.monotonic() + 3
    await eventually(lambda: time.monotonic() > overdue)
    await broker.start()
    expired = await waiting[0]
    await (await people("bob")).asks.answer(long.ask, "yes")
    decided = await waiting[1]

    assert (expired.status, decided.value) == ("expired", "yes")
    assert [event.type for event in await stored(session, "stage")] == ["ask.expired"]


async def test_whoever_waits_in_a_session_that_is_deleted_is_told(session: Session, eventually: Any) -> None:
    asked = await session.asks.ask("Go?", seconds=600)
    waiting = asyncio.create_task(asked.decision(timeout=60))
    await eventually(lambda: session.asks.open())
    await session.delete()

    with pytest.raises(AskNotFound):
        await waiting


async def test_an_answer_after_the_end_is_refused_and_a_plain_one_does_not_count(
    broker_url: str, session: Session, people: Any
) -> None:
    bob = await people("bob")
    asked = await session.asks.ask("Go?", seconds=0.5)
    decision = await asked.decision(timeout=40)
    with pytest.raises(AskClosed, match="expired already"):
        await bob.asks.answer(asked.ask, "yes")
    connection = await nats.connect(broker_url)
    subject = plain_subject(session, "bob", f"answer.{asked.ask}")
    await connection.jetstream().publish(subject, b'{"type":"answer","value":"yes"}')
    await connection.close()
    ask = await session.asks.get(asked.ask)

    assert (decision.status, bool(decision), decision.answers) == ("expired", False, [])
    assert (ask["status"], ask["answers"][0]["counts"]) == ("expired", False)
    assert ask["answers"][0]["reason"] == "the ask is expired already"


async def test_an_escalation_lets_the_second_person_answer(session: Session, people: Any, eventually: Any) -> None:
    bob, cat = await people("bob"), await people("cat")
    asked = await session.asks.ask("Go?", to=["bob"], seconds=600, escalations=[(0.5, ["cat"])])
    with pytest.raises(NotAsked):
        await cat.asks.answer(asked.ask, "yes")

    async def allowed() -> Any:
        with contextlib.suppress(NotAsked):
            return await cat.asks.answer(asked.ask, "yes")

    await eventually(allowed, 40)
    decision = await asked.decision(timeout=20)

    assert (decision.value, decision.by) == ("yes", ["cat"])
    with pytest.raises(AskClosed, match="'yes' by cat"):
        await bob.asks.answer(asked.ask, "no")


async def test_after_the_decision_the_broker_has_nothing_more_to_say(
    broker_url: str, session: Session, people: Any
) -> None:
    bob = await people("bob")
    asked = await session.asks.ask("Go?", to=["bob"], seconds=500, escalations=[(400, ["cat"])])
    stages = ("expired", "escalated-1")
    before = [await timer(broker_url, session, asked.ask, stage) for stage in stages]
    await bob.asks.answer(asked.ask, "yes")
    await asked.decision(timeout=20)
    after = [await timer(broker_url, session, asked.ask, stage) for stage in stages]

    assert all("Nats-Schedule" in one.headers for one in before)
    assert all(one is None or "Nats-Schedule" not in (one.headers or {}) for one in after)


async def test_a_timer_without_its_ask_is_harmless_and_does_not_shorten_the_next(
    session: Session, people: Any, eventually: Any
) -> None:
    """A process died right after it had set the timer; the one that asks then sets its own."""
    await session.append_later("stage", {"type": "ask.expired"}, 0.1, target="q", id="expired")
    await eventually(lambda: stored(session, "stage"), 40)
    asked = await session.asks.ask("Go?", seconds=500, id="q")
    view = await session.view()
    bob = await people("bob")
    answered = await bob.asks.answer("q", "yes")

    assert view["asks"][0]["status"] == "open"
    assert (answered["status"], asked.repeated) == ("decided", False)


async def test_of_bids_the_highest_wins_when_time_is_up(session: Session, people: Any) -> None:
    """Of equal ones the first; what is no number is refused."""
    bidders = [await people(name) for name in ("bob", "cat", "dan")]
    asked = await session.asks.ask("Who?", about="bids", rule="highest", seconds=5)
    with pytest.raises(InvalidAnswer, match="not a number"):
        await bidders[0].asks.answer(asked.ask, float("nan"))
    for bidder, bid in zip(bidders, (2, 5.5, 5.5), strict=True):
        await bidder.asks.answer(asked.ask, bid)
    decision = await asked.decision(timeout=40)

    assert (decision.status, decision.value, decision.by) == ("decided", 5.5, ["cat"])


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_a_run_goes_on_in_another_replica_with_an_answer_given_while_none_lived(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """The asking process is killed while it waits; nobody asks twice."""
    [victim] = programs.agent(name, APPROVAL)
    sent = await session.send("go", to=name)
    ask = await waiting_ask(session, eventually)

    async def shows() -> Any:
        return [run for agent in (await session.view())["agents"] for run in agent["runs"] if run["waiting"]]

    [run] = await eventually(shows, 20)
    victim.kill()
    answered = await session.asks.answer(ask["ask"], "approve")
    programs.agent(name, APPROVAL)
    done = await session.result(name, sent.run, timeout=60)

    assert (run["waiting"]["reason"], run["waiting"]["ask"]) == ("approval", ask["ask"])
    assert run["waiting"]["until"] > run["waiting"]["since"]
    assert (ask["about"], ask["data"], ask["run"]) == ("approval", {"amount": 40}, {"agent": name, "run": sent.run})
    assert answered["status"] == "decided"
    assert (done["status"], done["attempt"], done["waiting"]) == ("done", 2, None)
    assert done["parts"][0]["text"] == "decided approve by ann"
    assert len(await stored(session, "ask")) == 1


async def test_a_later_attempt_waits_for_the_same_ask_and_asks_anew_for_another(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """An approval of one thing is never taken for another's; what nobody waits for any more is withdrawn at the end."""
    body = """
    same = await run.approve("Both attempts ask this?", to=["ann"])
    other = await run.approve(f"Attempt {run.attempt}?", to=["ann"])
    await run.text(f"{same.value} {other.value}")
    """
    [victim] = programs.agent(name, body)
    sent = await session.send("go", to=name)
    first = await waiting_ask(session, eventually)
    await session.asks.answer(first["ask"], "approve")
    second = await waiting_ask(session, eventually)
    victim.kill()
    programs.agent(name, body)
    opened = await eventually(lambda: _two_open(session), 60)
    third = next(ask for ask in opened if ask["ask"] != second["ask"])
    await session.asks.answer(third["ask"], "deny")
    done = await session.result(name, sent.run, timeout=40)

    async def all_closed() -> bool:
        return not await session.asks.open()

    await eventually(all_closed, 20)
    asks = {ask["text"]: ask["status"] for ask in await session.asks.all()}
    assert done["parts"][0]["text"] == "approve deny"
    assert asks == {"Both attempts ask this?": "decided", "Attempt 1?": "withdrawn", "Attempt 2?": "decided"}


async def _two_open(session: Session) -> list[dict[str, Any]]:
    found = await session.asks.open()
    return found if len(found) == 2 else []


async def test_of_two_clients_that_run_a_tool_the_first_counts(
    broker_url: str, session: Session, name: str, people: Any, eventually: Any
) -> None:
    async def handler(run: Run) -> None:
        place = await run.client_tool("location", {"exact": True}, seconds=600)
        await run.text(place["city"])

    phone, tablet = await people("phone"), await people("tablet")
    async with serving(broker_url, name, handler):
        sent = await session.send("where am I?", to=name)
        ask = await waiting_ask(session, eventually)
        await phone.asks.answer(ask["ask"], {"city": "Graz"})
        with pytest.raises(AskClosed, match=r"Graz.* by phone"):
            await tablet.asks.answer(ask["ask"], {"city": "Linz"})
        run = await session.result(name, sent.run, timeout=30)

    tool, text = run["parts"]
    assert ask["about"] == "tool"
    assert ask["data"] == {"tool": "location", "input": {"exact": True}}
    assert (tool["call"], tool["tool"], tool["status"]) == (ask["ask"], "location", "done")
    assert (tool["output"], text["text"]) == ({"city": "Graz"}, "Graz")


async def test_a_tool_that_no_client_runs_in_time_is_an_error_that_everybody_sees(
    broker_url: str, session: Session, name: str, eventually: Any, people: Any
) -> None:
    """As is one whose client says that it failed; a handler may go on after both."""

    async def handler(run: Run) -> None:
        with contextlib.suppress(NotAnswered):
            await run.client_tool("location", seconds=0.5)
        await run.client_tool("camera", seconds=600)

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        ask = await eventually(lambda: _camera(session), 40)
        await (await people("phone")).asks.answer(ask["ask"], {"error": "no camera"})
        run = await session.result(name, sent.run, timeout=30)

    assert [(part["tool"], part["status"], part["error"]) for part in run["parts"]] == [
        ("location", "error", "location: nobody ran it (expired)"),
        ("camera", "error", "camera: no camera"),
    ]
    assert (run["status"], run["error"]) == ("error", "camera: no camera")


async def _camera(session: Session) -> dict[str, Any] | None:
    return next((ask for ask in await session.asks.open() if ask["data"]["tool"] == "camera"), None)


async def test_a_cancel_ends_the_wait_and_withdraws_the_ask(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    async def handler(run: Run) -> None:
        await run.approve("Go?", to=["ann"], seconds=600)

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        ask = await waiting_ask(session, eventually)
        outcome = await (await session.control.cancel(sent.run, to=name)).outcome(timeout=20)
        run = await session.result(name, sent.run, timeout=20)
        found = await session.asks.get(ask["ask"])

    assert (outcome.state, run["status"], run["waiting"]) == ("applied", "cancelled", None)
    assert (found["status"], found["reason"]) == ("withdrawn", "the run has ended")
    with pytest.raises(AskClosed, match="withdrawn"):
        await session.asks.answer(ask["ask"], "approve")


async def test_a_cancel_of_a_run_whose_process_was_killed_withdraws_its_ask(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """The next replica ends the run without calling the handler, and tidies up after the dead one."""
    [victim] = programs.agent(name, APPROVAL)
    sent = await session.send("go", to=name)
    ask = await waiting_ask(session, eventually)
    victim.kill()
    control = await session.control.cancel(sent.run, to=name)
    programs.agent(name, APPROVAL)
    await control.outcome(timeout=60)

    async def withdrawn() -> bool:
        return (await session.asks.get(ask["ask"]))["status"] == "withdrawn"

    await eventually(withdrawn, 20)


async def test_a_run_that_waits_may_be_paused_and_is_answered_meanwhile(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    async def handler(run: Run) -> None:
        decision = await run.approve("Go?", to=["ann"])
        await run.text("on" if decision else "off")

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        ask = await waiting_ask(session, eventually)
        await (await session.control.pause(to=name)).outcome(timeout=20)
        await session.asks.answer(ask["ask"], "approve")
        with pytest.raises(TimeoutError):
            await session.result(name, sent.run, timeout=0.5)
        await (await session.control.resume(to=name)).outcome(timeout=20)
        run = await session.result(name, sent.run, timeout=20)

    assert run["parts"][0]["text"] == "on"


async def test_everybody_sees_what_a_run_waits_for(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Not only asks; and that it goes on."""
    go, went = asyncio.Event(), asyncio.Event()

    async def handler(run: Run) -> None:
        async with run.waiting("rate limit", until="2030-01-01T00:00:00Z"):
            await go.wait()
        await went.wait()

    async def waits() -> Any:
        [run] = [run for agent in (await session.view())["agents"] for run in agent["runs"]] or [{"waiting": None}]
        return run["waiting"]

    async def works() -> bool:
        return await waits() is None

    async with serving(broker_url, name, handler):
        await session.send("go", to=name)
        waiting = await eventually(waits)
        go.set()
        await eventually(works)
        went.set()

    assert (waiting["reason"], waiting["ask"], waiting["until"]) == ("rate limit", None, "2030-01-01T00:00:00Z")


async def test_a_handler_that_waits_no_longer_goes_on_and_its_ask_ends_with_the_run(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Its own patience is shorter than the ask's; the view says at once that it works again."""
    went = asyncio.Event()

    async def handler(run: Run) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await run.approve("Go?", to=["ann"], seconds=600)
        await went.wait()
        await run.text("without")

    async def runs() -> Any:
        return [run for agent in (await session.view())["agents"] for run in agent["runs"]]

    async def waits() -> bool:
        return [run["waiting"] is not None for run in await runs()] == [True]

    async def works() -> bool:
        return [run["waiting"] for run in await runs()] == [None]

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        await eventually(waits)
        await eventually(works)
        [ask] = await session.asks.open()
        went.set()
        run = await session.result(name, sent.run, timeout=20)

        async def withdrawn() -> bool:
            return (await session.asks.get(ask["ask"]))["status"] == "withdrawn"

        await eventually(withdrawn)

    assert (run["status"], run["parts"][0]["text"]) == ("done", "without")


async def test_an_id_that_was_used_for_another_question_ends_the_run_with_a_clear_error(
    broker_url: str, session: Session, name: str
) -> None:
    async def handler(run: Run) -> None:
        await run.approve("Delete?", to=["ann"], id="q")

    await session.asks.ask("Send?", id="q")
    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        run = await session.result(name, sent.run, timeout=20)

    assert run["status"] == "error"
    assert "asked by ann; use a new id" in run["error"]
