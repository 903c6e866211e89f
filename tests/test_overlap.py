"""Overlap: what becomes of an input that comes while its agent is at work in the session, wherever its replicas are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_free import Agent, connect
from orchestrator_free.errors import InvalidEvent, InvalidInput
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.working.line import Entry, at_work
from orchestrator_free.working.overlap import POLICIES
from tests.inside import serving, watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Run, Session

SECONDS = 40


class Diary:
    """What handlers did, in the order in which they did it."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.begun: list[str] = []
        self.open: set[str] = set()
        self.most = 0
        self.go_on = asyncio.Event()

    async def work(self, run: Run) -> None:
        """Be at work for a moment; an input `hold` is at work until it is told to go on."""
        self.begun.append(run.input.text)
        self.open.add(run.id)
        self.most = max(self.most, len(self.open))
        try:
            await run.text(run.input.text)
            if run.input.text == "hold":
                await self.go_on.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.open.discard(run.id)


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


async def results(session: Session, name: str, sent: list[Any]) -> list[Any]:
    """Wait for the runs of inputs, in the order of the log."""
    ordered = sorted(sent, key=lambda one: one.position.sequence)
    return [await session.result(name, one.run, timeout=SECONDS) for one in ordered]


async def begun(session: Session, name: str, run: str) -> None:
    """Wait until a run has begun."""
    async with asyncio.timeout(SECONDS):
        async for event in session.follow(agents=[name], kinds=["run"]):
            if event.id == run:
                return


async def delivered(session: Session, consumer: str, times: int) -> bool:
    """Whether a durable consumer has delivered so often, repeats included."""
    found = await session.log.consumer(session.shard, consumer)
    return found is not None and found.delivered >= times


# -- queue ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_a_queue_is_worked_off_in_the_order_of_the_log_by_all_replicas_together(
    broker_url: str, session: Session, name: str, concurrency: int
) -> None:
    """One at a time, whoever does it; also when every place of a process is a pull's."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, replicas=3, overlap="queue", concurrency=concurrency):
        sent = await asyncio.gather(*(session.send(str(number), to=name) for number in range(30)))
        runs = await results(session, name, sent)

    ordered = [text for text, _ in sorted(enumerate(sent), key=lambda item: item[1].position.sequence)]
    assert {run["status"] for run in runs} == {"done"}
    assert (diary.begun, diary.most) == ([str(number) for number in ordered], 1)


async def test_other_sessions_do_not_wait_and_waiting_takes_no_place(
    broker_url: str, ann: Broker, session: Session, name: str, fresh: Any, eventually: Any
) -> None:
    """A process with two places holds 20 waiting inputs of one session and works for another one."""
    diary = Diary()
    other = ann.session(fresh("s"))
    async with serving(broker_url, name, diary.work, overlap="queue", concurrency=2):
        first = await session.send("hold", to=name)
        await begun(session, name, first.run)
        waiting = [await session.send(str(number), to=name) for number in range(20)]
        elsewhere = await other.send("elsewhere", to=name)
        done = await other.result(name, elsewhere.run, timeout=SECONDS)
        before = list(diary.begun)
        diary.go_on.set()
        runs = await results(session, name, waiting)

    assert (done["status"], before) == ("done", ["hold", "elsewhere"])
    assert [run["status"] for run in runs] == ["done"] * 20
    assert diary.begun[2:] == [str(number) for number in range(20)]


async def test_inputs_to_everybody_stand_in_the_same_line_and_notes_stand_in_none(
    broker_url: str, session: Session, name: str
) -> None:
    """In the order of the log, however they are addressed; what is not worked on is not waited for."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, replicas=2, overlap="queue"):
        held = await session.send("hold", to=name)
        await begun(session, name, held.run)
        await session.send("a note", to=name, note=True)
        sent = [await session.send(str(number), to=("all", name)[number % 2]) for number in range(8)]
        await session.send("for another", to="another")
        diary.go_on.set()
        runs = await results(session, name, sent)

    assert {run["status"] for run in runs} == {"done"}
    assert (diary.begun, diary.most) == (["hold", *(str(number) for number in range(8))], 1)


async def test_places_in_the_queue_are_in_the_view(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """For everybody, until a run begins."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, overlap="queue"), watching(session) as live:
        first = await session.send("hold", to=name)
        await begun(session, name, first.run)
        sent = [await session.send(str(number), to=name) for number in range(3)]
        await eventually(lambda: len(live.queue()) == 3)
        view = await session.view()
        diary.go_on.set()
        await results(session, name, sent)
        await eventually(lambda: not live.queue())

    assert view["queue"] == [
        {"agent": name, "run": one.run, "input": one.input, "from": "ann", "place": place}
        for place, one in enumerate(sent, 1)
    ]


async def test_a_waiting_input_that_is_cancelled_ends_at_once_and_the_others_go_on(
    broker_url: str, session: Session, name: str
) -> None:
    """Not in its turn: it does not have to wait for what is before it."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, overlap="queue", replicas=2):
        first = await session.send("hold", to=name)
        await begun(session, name, first.run)
        second = await session.send("never", to=name)
        third = await session.send("third", to=name)
        control = await session.control.cancel(second.run, to=name, reason="changed my mind")
        outcome = await control.outcome(timeout=SECONDS)
        ended = await session.result(name, second.run, timeout=SECONDS)
        still = set(diary.open)
        diary.go_on.set()
        last = await session.result(name, third.run, timeout=SECONDS)

    assert (outcome.state, ended["status"], ended["error"]) == ("applied", "cancelled", "changed my mind")
    assert (still, last["status"]) == ({first.run}, "done")
    assert diary.begun == ["hold", "third"]


async def test_what_a_run_delegates_back_to_its_own_agent_belongs_to_its_turn(
    broker_url: str, session: Session, name: str, fresh: Any
) -> None:
    """Directly or through another agent: it does not wait for the run that waits for it; the next input does."""
    other = fresh("between")
    order: list[str] = []

    async def parent(run: Run) -> None:
        order.append(f"begin {run.input.text}")
        if run.input.text == "go":
            await asyncio.sleep(0.3)  # so that the next input is there first
            children = [await run.delegate(name, "directly"), await run.delegate(other, "through")]
            views = await run.gather(children, timeout=SECONDS)
            await run.text(",".join(view["status"] for view in views))
        order.append(f"end {run.input.text}")

    async def between(run: Run) -> None:
        await (await run.delegate(name, "back")).result(timeout=SECONDS)

    async with serving(broker_url, name, parent, overlap="queue", replicas=2), serving(broker_url, other, between):
        first = await session.send("go", to=name)
        second = await session.send("next", to=name)
        run, _ = await results(session, name, [first, second])

    assert run["parts"][0]["text"] == "done,done"
    assert order[0] == "begin go"
    assert order[-3:] == ["end go", "begin next", "end next"]


async def test_nobody_gets_ahead_by_claiming_a_parent(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """A parent counts for its own agent's inputs only: the sender stands in the subject."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, overlap="queue"):
        first = await session.send("hold", to=name)
        await begun(session, name, first.run)
        second = await session.send("second", to=name)
        forged = await session.send("forged", to=name, parent={"agent": name, "run": first.run})
        wild = await session.send("wild", to=name, parent={"agent": "ann", "run": ">"})
        await eventually(lambda: delivered(session, f"agent-{name}", 4))
        before = list(diary.begun)
        diary.go_on.set()
        await results(session, name, [second, forged, wild])

    assert before == ["hold"]
    assert diary.begun == ["hold", "second", "forged", "wild"]


async def test_a_replica_of_the_log_that_lags_can_only_delay(broker_url: str, session: Session, name: str) -> None:
    """Direct Gets that do not show what is younger than 0.3 s, as a replica that is behind its leader would answer."""
    diary = Diary(0.01)
    hidden = 0

    def lag(broker: Any) -> None:
        honest = broker.log._direct

        async def stale(stream: str, body: Any, deadline: float = 20.0) -> Any:
            nonlocal hidden
            messages, status, header = await honest(stream, body, deadline)
            horizon = datetime.now(UTC).timestamp() - 0.3
            old = [message for message in messages if datetime.fromisoformat(message.time).timestamp() < horizon]
            hidden += len(messages) - len(old)
            return old, status if old or not messages else 404, header

        broker.log._direct = stale

    async with serving(broker_url, name, diary.work, overlap="queue", replicas=3) as brokers:
        for broker in brokers:
            lag(broker)
        sent = [await session.send(str(number), to=name) for number in range(6)]
        runs = await results(session, name, sent)

    assert hidden > 0
    assert {run["status"] for run in runs} == {"done"}
    assert (diary.begun, diary.most) == ([str(number) for number in range(6)], 1)


async def test_a_replica_that_stops_gives_back_at_once_what_waits_in_it(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """Otherwise the others would wait for a minute until the broker takes it back."""
    body = "await run.text('x')\nawait asyncio.sleep(1.5 if run.input.text == '0' else 0.01)"
    settings = {"overlap": "queue", "ack_wait_seconds": 60.0, "grace_seconds": 10.0}
    replicas = programs.agent(name, body, replicas=3, **settings)
    await eventually(lambda: present(session, name, 3), 30)
    sent = [await session.send(str(number), to=name) for number in range(20)]
    await begun(session, name, sent[0].run)
    await eventually(lambda: delivered(session, f"agent-{name}", 20))
    for replica in replicas[:2]:
        replica.send(signal.SIGTERM)
    runs = await results(session, name, sent)

    assert [run["status"] for run in runs] == ["done"] * 20
    assert [run["first"] for run in runs] == sorted(run["first"] for run in runs)


async def present(session: Session, name: str, count: int) -> bool:
    return len(list(await session.log.present(f"agent.{name}"))) >= count


async def test_what_is_too_much_to_wait_in_a_process_waits_at_the_broker(
    broker_url: str, session: Session, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest goes back first, so the line always goes on."""
    monkeypatch.setattr("orchestrator_free.working.overlap.MOST_WAITING", 3)
    monkeypatch.setattr("orchestrator_free.working.overlap._BACK_SECONDS", 0.2)
    diary = Diary(0.01)
    async with serving(broker_url, name, diary.work, overlap="queue", replicas=2):
        sent = await asyncio.gather(*(session.send(str(number), to=name) for number in range(20)))
        runs = await results(session, name, sent)

    order = sorted(range(20), key=lambda number: sent[number].position.sequence)
    assert {(run["status"], run["attempt"]) for run in runs} == {("done", 1)}
    assert (diary.begun, diary.most) == ([str(number) for number in order], 1)


async def test_nobody_begins_what_was_sent_to_a_process_that_stood_still(
    ann: Broker, name: str, fresh: Any, programs: Any, eventually: Any
) -> None:
    """Woken up, it leaves alone what another one is at work on by then: nothing is begun again."""
    body = "await run.text('x')\nawait asyncio.sleep(3)\nawait run.text('y')"
    replicas = programs.agent(name, body, replicas=2, ack_wait_seconds=1.0, max_attempts=9)
    sessions = [ann.session(fresh("s")) for _ in range(2)]
    await eventually(lambda: present(sessions[0], name, 2), 30)
    os.kill(replicas[0].pid, signal.SIGSTOP)
    try:
        sent = [await session.send("x", to=name) for session in sessions]  # each replica asks for one
        for session, one in zip(sessions, sent, strict=True):
            await begun(session, name, one.run)
    finally:
        os.kill(replicas[0].pid, signal.SIGCONT)
    runs = [await session.result(name, one.run, timeout=SECONDS) for session, one in zip(sessions, sent, strict=True)]
    await eventually(lambda: "stood still" in replicas[0].output)

    assert [(run["status"], run["attempt"], run["parts"][0]["text"]) for run in runs] == [("done", 1, "xy")] * 2


# -- two at the same moment -----------------------------------------------------------------------------------------


@asynccontextmanager
async def two_tabs(url: str, session: Session) -> AsyncIterator[Any]:
    """Two connections of one person; what they send at the same moment is returned in the order of the log."""
    async with connect(url, member="ann") as one, connect(url, member="ann") as other:
        tabs = [one.session(session.id), other.session(session.id)]

        async def send(to: str, **more: Any) -> list[Any]:
            sent = await asyncio.gather(*(tab.send(text, to=to, **more) for tab, text in zip(tabs, "ab", strict=True)))
            return sorted(sent, key=lambda found: found.position.sequence)

        yield send


ROUNDS = 5


async def rounds(url: str, session: Session, name: str, handler: Any, policy: Any, **settings: Any) -> list[Any]:
    """Have two tabs send at the same moment, several times; return what became of the two, each time."""
    found = []
    async with (
        serving(url, name, handler, replicas=2, overlap=policy, **settings),
        two_tabs(url, session) as send,
    ):
        for _ in range(ROUNDS):
            sent = await send(name)
            found.append(await results(session, name, sent))
    return found


async def test_two_tabs_with_concurrent_both_run_at_once(broker_url: str, session: Session, name: str) -> None:
    """Neither ends before the other has begun."""
    both: dict[str, asyncio.Event] = {}
    met: list[str] = []

    async def handler(run: Run) -> None:
        met.append(run.id)
        mine = both.setdefault(str((len(met) - 1) // 2), asyncio.Event())
        if len(met) % 2 == 0:
            mine.set()
        await asyncio.wait_for(mine.wait(), SECONDS)

    found = await rounds(broker_url, session, name, handler, "concurrent")

    assert [[run["status"] for run in runs] for runs in found] == [["done", "done"]] * ROUNDS


async def test_two_tabs_with_queue_run_one_after_the_other(broker_url: str, session: Session, name: str) -> None:
    """The first in the log ends before the second begins."""
    found = await rounds(broker_url, session, name, Diary(0.05).work, "queue")

    assert [[run["status"] for run in runs] for runs in found] == [["done", "done"]] * ROUNDS
    assert all(first["last"] < second["first"] for first, second in found)


async def test_two_tabs_with_reject_get_one_answer_and_one_refusal(
    broker_url: str, session: Session, name: str
) -> None:
    """The second in the log is refused, and the refusal names the run."""
    found = await rounds(broker_url, session, name, Diary(0.1).work, "reject")

    assert [[run["status"] for run in runs] for runs in found] == [["done", "rejected"]] * ROUNDS
    assert all(second["error"] == f"agent {name} is at work on run {first['run']}" for first, second in found)
    assert all(second["parts"] == [] for _, second in found)


async def test_two_tabs_with_interrupt_get_the_answer_to_the_last(broker_url: str, session: Session, name: str) -> None:
    """The first in the log is cancelled, begun or not, and says for what."""
    diary = Diary(2.0)
    diary.seconds = 1.0
    found = await rounds(broker_url, session, name, diary.work, "interrupt")

    assert [[run["status"] for run in runs] for runs in found] == [["cancelled", "done"]] * ROUNDS
    assert all(f"interrupted by input {second['input']}" == first["error"] for first, second in found)
    assert diary.most == 1


async def test_two_tabs_with_steer_are_one_run(broker_url: str, session: Session, name: str) -> None:
    """The second in the log is taken by the run of the first; its own run says into which."""
    taken: list[tuple[str, str]] = []

    async def handler(run: Run) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for steer in await run.steers():
                taken.append((steer.sender, steer.text))
                await run.text(steer.text)
                return
            await asyncio.sleep(0.01)

    found = await rounds(broker_url, session, name, handler, "steer")

    assert [[run["status"] for run in runs] for runs in found] == [["done", "done"]] * ROUNDS
    assert all(second["into"] == {"agent": name, "run": first["run"]} for first, second in found)
    assert all(first["into"] is None and not second["parts"] for first, second in found)
    assert [sender for sender, _ in taken] == ["ann"] * ROUNDS
    assert all(first["parts"][0]["text"] in "ab" for first, _ in found)


async def test_two_tabs_with_latest_get_the_answer_to_the_last(broker_url: str, session: Session, name: str) -> None:
    """Of what waits for a run only the last in the log is worked on."""
    diary = Diary(0.01)
    async with (
        serving(broker_url, name, diary.work, replicas=2, overlap="latest"),
        two_tabs(broker_url, session) as send,
    ):
        for number in range(ROUNDS):
            diary.go_on.clear()
            held = await session.send("hold", to=name)
            await begun(session, name, held.run)
            sent = [one for _ in range(2) for one in await send(name)]
            diary.go_on.set()
            runs = await results(session, name, sent)
            assert [run["status"] for run in runs] == ["cancelled"] * 3 + ["done"], number
            assert all(run["error"].startswith("superseded by input ann/") for run in runs[:3])
            assert runs[0]["parts"] == []


async def test_a_steer_that_comes_too_late_runs_in_its_turn(broker_url: str, session: Session, name: str) -> None:
    """The run ended without having looked; nothing is lost."""
    diary = Diary()
    async with serving(broker_url, name, diary.work, overlap="steer", replicas=2):
        first = await session.send("hold", to=name)
        await begun(session, name, first.run)
        second = await session.send("second", to=name)
        async with asyncio.timeout(SECONDS):
            async for event in session.follow(kinds=["outcome"]):
                if event.body["state"] == "accepted":
                    break
        diary.go_on.set()
        runs = await results(session, name, [first, second])
        view = await session.view()

    assert [(run["status"], run["into"]) for run in runs] == [("done", None)] * 2
    assert diary.begun == ["hold", "second"]
    assert [control["outcomes"][name]["state"] for control in view["controls"]] == ["too_late"]


async def test_a_steer_is_taken_once_however_long_it_waits(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """The durable consumer brings it again and again until it has an outcome."""
    taken: list[str] = []
    look = asyncio.Event()

    async def handler(run: Run) -> None:
        await look.wait()
        taken.extend(steer.text for steer in await run.steers())

    async with serving(broker_url, name, handler):
        sent = await session.send("go", to=name)
        await begun(session, name, sent.run)
        control = await session.control.steer("be brief", to=name, run=sent.run)
        await eventually(lambda: delivered(session, f"control-{name}", 4))
        look.set()
        outcome = await control.outcome(timeout=SECONDS)

    assert (outcome.state, taken) == ("applied", ["be brief"])


# -- who decides ----------------------------------------------------------------------------------------------------


async def test_an_input_may_say_otherwise_only_if_the_agent_allows_it(
    broker_url: str, session: Session, name: str, fresh: Any
) -> None:
    """Allowed, an input to a `queue` agent is rejected as it asked for; not allowed, it waits like the others."""
    strict, diary, other = fresh("strict"), Diary(), Diary()
    async with (
        serving(broker_url, name, diary.work, overlap="queue", overlap_override=True),
        serving(broker_url, strict, other.work, overlap="queue"),
    ):
        for agent in (name, strict):
            held = await session.send("hold", to=agent)
            await begun(session, agent, held.run)
        refused = await session.send("x", to=name, overlap="reject")
        at_once = await session.send("y", to=name, overlap="concurrent")
        waits = await session.send("x", to=strict, overlap="reject")
        first = await results(session, name, [refused, at_once])
        before = set(other.begun)
        diary.go_on.set()
        other.go_on.set()
        last = await session.result(strict, waits.run, timeout=SECONDS)

    assert [run["status"] for run in first] == ["rejected", "done"]
    assert (before, last["status"]) == ({"hold"}, "done")


async def test_a_policy_that_is_none_is_refused_everywhere(ann: Broker, session: Session, name: str) -> None:
    """In the agent's declaration, in the library, over HTTP; nothing is sent."""
    with pytest.raises(InvalidInput, match=r"overlap 'whenever' is none of concurrent, queue"):
        Agent(name, overlap="whenever")
    with pytest.raises(InvalidEvent, match="overlap"):
        await session.send("x", to=name, overlap="whenever")  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app=Gateway(ann).app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answer = await http.post(f"/sessions/{session.id}/inputs", json={"to": name, "overlap": "whenever"})
        taken = await http.post(f"/sessions/{session.id}/inputs", json={"to": name, "overlap": "queue", "from": "bob"})
    view = await session.view()

    assert (answer.status_code, answer.json()["title"]) == (400, "Invalid Input")
    assert "overlap" in answer.json()["detail"]
    assert taken.status_code == 202
    assert [entry["from"] for entry in view["inputs"]] == ["bob"]


policies = st.sampled_from([policy for policy in POLICIES if policy != "steer"])


@given(st.lists(st.tuples(policies, st.integers(1, 40), st.integers(1, 9)), min_size=2, max_size=9), st.data())
def test_whether_an_input_is_rejected_does_not_depend_on_when_it_is_asked(
    arrivals: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Whoever decides knows more or less of what ended; all decide alike."""
    entries: list[Entry] = []
    for number, (policy, work, gap) in enumerate(arrivals):
        sequence = (entries[-1].sequence if entries else 0) + gap
        mine = Entry(f"r{number}", sequence, sequence, policy)
        refused = policy == "reject" and at_work(mine, entries) is not None
        taken = {entry.ended for entry in entries}
        mine.ended = next(end for end in range(sequence + (1 if refused else work), 10_000) if end not in taken)
        mine.status = "rejected" if refused else "done"
        entries.append(mine)
    mine = data.draw(st.sampled_from(entries))
    now = data.draw(st.integers(mine.sequence, 200))
    known = [replace(entry, ended=0, status="") if entry.ended > now else entry for entry in entries]
    truth, found = at_work(mine, entries), at_work(mine, known)

    assert (truth and truth.run) == (found and found.run)
