"""Forks: a session's history up to a position begins another session, and the first one does not notice."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import connect
from orchestrator_free.errors import (
    InvalidEvent,
    InvalidInput,
    InvalidName,
    InvalidPosition,
    PositionLost,
    SessionExists,
    SessionNotFound,
)
from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.subjects import Position, run_id
from orchestrator_free.views.conversation import conversation
from orchestrator_free.working.runwriter import finished, now
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker, Run, Session

View = dict[str, Any]
#: what a copy may have otherwise: its name, places in the log, times that the broker stamps, and that nobody works on it
OTHERWISE = {
    "session", "position", "sequence", "first", "last", "revision", "time", "created", "finished", "replayed", "queue",
    "by", "forked_from", "floor",
}  # fmt: skip


def plain(value: Any) -> Any:
    """What a copy has to have in common with the original."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in OTHERWISE}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


class Pen:
    """Writes a run as an agent does, event by event."""

    def __init__(self, session: Session, input: str) -> None:
        self.session = session
        self.input = input
        self.fold = RunFold(session.member, run_id(*input.split("/")))

    async def say(self, type: str, *, rollup: bool = False, **fields: Any) -> int:
        body = {"type": type, **fields}
        subject = f"session.{self.session.shard}.{self.session.id}.{self.session.member}.run.{self.fold.run}"
        sequence = await self.session.log.wire.publish(
            subject, encoded(body), rollup=rollup, message_id=secrets.token_hex(16)
        )
        assert self.fold.apply(body, sequence, now())
        return sequence

    async def begin(self) -> int:
        return await self.say("run.started", attempt=1, input=self.input)

    async def text(self, text: str) -> int:
        return await self.say("text.delta", part="1", text=text)

    async def finish(self, *, rollup: bool = True) -> int:
        return await self.say(**finished(self.fold, "done", None), rollup=rollup)


def encoded(body: View) -> bytes:
    from orchestrator_free.events import encode

    return encode(body)


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create(title="Review", agents=["critic"])
    return session


@pytest.fixture
async def critic(broker_url: str, session: Session) -> AsyncIterator[Session]:
    """The session as the agent `critic` sees it; it is written by hand."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(connect(broker_url, member="critic"))
        yield broker.session(session.id)


async def answered(session: Session, critic: Session, text: str, **more: Any) -> str:
    """Ask, answer, and return the id of the input."""
    sent = await session.send(text, to="critic", **more)
    pen = Pen(critic, f"ann/{sent.input}")
    await pen.begin()
    await pen.text(f"answer to {text}")
    await pen.finish()
    return sent.input


async def log_of(session: Session) -> list[tuple[str, int, bytes]]:
    """Everything that is stored of a session."""
    messages = await session.log.read_all(session.shard, session.filter)
    return [(message.subject, message.sequence, bytes(message.payload)) for message in messages]


async def test_a_fork_has_the_whole_history_and_the_original_does_not_change(
    session: Session, critic: Session, fresh: Callable[[str], str]
) -> None:
    """Inputs, answers, branches, state and files; `meta` says what it was forked from; nobody works on it again."""
    one = await answered(session, critic, "one", data={"n": 1})
    await answered(session, critic, "two")
    await session.branches.edit(one, "eins", cancel=False)
    await session.append("state", {"type": "state.set", "value": [1]}, id="k")
    await session.send("beside", to="critic", note=True)
    await session.branches.select(one)
    before, stored = await session.view(), await log_of(session)

    fork = await session.fork(fresh("fork"), title="Another way")

    view = await fork.view()
    assert plain(view) == plain(before) | {"meta": plain(before["meta"]) | {"title": "Another way"}}
    assert view["meta"]["forked_from"] == {"session": session.id, "position": before["position"]}
    assert view["meta"]["by"] == "ann"
    assert all(entry["replayed"] for entry in view["inputs"])
    assert list(Fold.load(view).waiting()) == []
    assert (await session.view(), await log_of(session)) == (before, stored)


async def test_a_fork_in_the_middle_has_what_stood_there_then(session: Session, critic: Session) -> None:
    """The answers, the state, the title and the selected branch as they were; both go on by themselves."""
    one = await answered(session, critic, "one")
    await session.branches.edit(one, "eins")
    await session.branches.select(one)
    await session.append("state", {"type": "state.set", "value": "early"}, id="k")
    middle = await session.view()
    await answered(session, critic, "late")
    await session.append("state", {"type": "state.set", "value": "late"}, id="k")
    await session.append("state", {"type": "state.set", "value": "late"}, id="new")
    await session.update(title="Later")

    fork = await session.fork(at=middle["position"])
    assert plain(await fork.view()) == plain(middle)

    await fork.send("on my own", to="critic")
    await session.send("on mine", to="critic")
    assert [turn["text"] for turn in await fork.branches.conversation()] == ["one", "on my own"]
    assert [turn["text"] for turn in await session.branches.conversation()] == ["one", "late", "on mine"]


async def test_a_run_that_is_open_at_the_position_is_kept_as_far_as_it_had_come(
    session: Session, critic: Session
) -> None:
    """It ended there as cancelled, with the reason; its tool call failed; the original writes on."""
    sent = await session.send("go", to="critic")
    pen = Pen(critic, f"ann/{sent.input}")
    await pen.begin()
    await pen.text("so far ")
    await pen.say("usage", usage={"n": 1})
    position = await pen.say("tool.input", call="c", tool="search", input=1)
    await pen.text("and more")

    fork = await session.fork(at=session.position(position))

    (run,) = (await fork.view())["agents"][0]["runs"]
    assert (run["status"], run["error"], run["usage"]) == (
        "cancelled", "the session was forked while this was being written", {"n": 1},
    )  # fmt: skip
    assert [(part["type"], part.get("text"), part.get("error")) for part in run["parts"]] == [
        ("text", "so far ", None), ("tool", None, "the run ended first"),
    ]  # fmt: skip
    await pen.finish()
    (run,) = (await session.view())["agents"][0]["runs"]
    assert (run["status"], run["parts"][0]["text"]) == ("done", "so far and more")


async def test_of_a_run_that_has_ended_since_only_that_it_had_begun_is_known(
    session: Session, critic: Session, broker_url: str
) -> None:
    """Compaction has taken its deltas, and what it wrote later is not of that moment; the order of runs stays."""
    sent = await session.send("go", to=["critic", "writer"])
    async with connect(broker_url, member="writer") as writer:
        first, second = Pen(critic, f"ann/{sent.input}"), Pen(writer.session(session.id), f"ann/{sent.input}")
        await first.begin()
        await first.text("early ")
        await second.begin()
        position = await second.text("open")
        await first.text("late")
        await first.finish()
        await second.finish(rollup=False)

        fork = await session.fork(at=session.position(position))

    agents = (await fork.view())["agents"]
    assert [agent["agent"] for agent in agents] == ["critic", "writer"]
    runs = [agent["runs"][0] for agent in agents]
    assert [(run["status"], run["input"], [part["text"] for part in run["parts"]]) for run in runs] == [
        ("cancelled", f"ann/{sent.input}", []), ("cancelled", f"ann/{sent.input}", ["open"]),
    ]  # fmt: skip
    assert "only the end" in runs[0]["error"]


async def test_what_a_cancel_had_hidden_is_not_in_the_fork(session: Session, critic: Session) -> None:
    """Cancelled and still open, or ended without compaction: the copy shows what the original shows."""
    for rollup in (None, False):
        sent = await session.send("go", to="critic")
        pen = Pen(critic, f"ann/{sent.input}")
        await pen.begin()
        await pen.text("shown")
        await session.control.cancel(sent.run, to="critic")
        await pen.text(" and hidden")
        if rollup is False:
            await pen.say("run.finished", status="cancelled", error="enough")

    runs = (await (await session.fork()).view())["agents"][0]["runs"]

    assert [(run["status"], run["error"], [part["text"] for part in run["parts"]]) for run in runs] == [
        ("cancelled", "cancelled", ["shown"]), ("cancelled", "enough", ["shown"]),
    ]  # fmt: skip


async def test_what_is_about_now_is_not_copied(session: Session, critic: Session) -> None:
    """Leases, the floor, presence, controls and open asks stay where they are; a settled ask is history."""
    await answered(session, critic, "one")
    await session.floor.step("take")
    await session.append("lease", {"type": "lease.taken", "term": 1, "hold": "h1"}, id="l")
    await session.append("presence", {"type": "presence.set", "status": "away"})
    await session.control.pause(to="critic")
    for id, value in (("open", None), ("settled", "yes")):
        await critic.append("ask", {"type": "ask", "text": id}, id=id)
        if value:
            await session.append("answer", {"type": "answer", "value": value}, id=id)
    view = await session.view()
    assert (len(view["leases"]), len(view["asks"]), view["floor"]["holder"]) == (1, 2, "ann")

    copy = await (await session.fork()).view()

    assert [copy[name] for name in ("leases", "floor", "presence", "controls")] == [{}, None, {}, []]
    assert [(ask["ask"], ask["status"], ask["value"]) for ask in copy["asks"]] == [("settled", "decided", "yes")]
    assert [agent["status"] for agent in copy["agents"]] == ["idle"]


async def test_a_large_session_with_files_and_large_runs_is_copied_whole(session: Session, critic: Session) -> None:
    """1,500 inputs, a file, a finished run in the object store, and an open one too large for one message."""
    content = secrets.token_bytes(600_000)
    stored = object_name(content, "file")
    await critic._broker.objects.put(session.id, stored, content)
    for number in range(3):
        sent = await session.send(f"large {number}", to="critic")
        pen = Pen(critic, f"ann/{sent.input}")
        await pen.begin()
        if number == 0:
            await pen.say("file", name="f", media_type="text/plain", object=stored, size=len(content))
        for piece in range(30 if number else 1):
            await pen.text(f"{piece:05d}" * 8000)
        if number < 2:
            await finish_large(pen)
    await asyncio.gather(*(session.send(f"small {number}", to="critic") for number in range(1500)))
    view = await session.view()

    fork = await session.fork()

    copy = await fork.view()
    assert copy["inputs"][-1]["text"] == view["inputs"][-1]["text"]
    assert plain(copy["inputs"]) == plain(view["inputs"])
    assert copy["branch"] == view["branch"]
    runs = [one["agents"][0]["runs"] for one in (view, copy)]
    texts = [["".join(part.get("text", "") for part in run["parts"]) for run in found] for found in runs]
    assert texts[0] == texts[1]
    assert [run["status"] for run in runs[1]] == ["done", "done", "cancelled"]
    await session.delete()
    assert await fork.object(stored) == content
    assert plain(await fork.view()) == plain(copy)


async def finish_large(pen: Pen) -> None:
    """Finish a run with its parts in the object store, as its writer does."""
    from orchestrator_free.working.runwriter import outsource

    body = await outsource(finished(pen.fold, "done", None), pen.session.id, pen.session._broker.objects)
    await pen.say(**body, rollup=True)


async def test_agents_know_the_history_in_the_fork_and_it_can_be_edited_there(
    session: Session, critic: Session, broker_url: str
) -> None:
    """They answer what is new in the fork, with the copied turns before it, and none of the copied inputs."""
    one = await answered(session, critic, "one")
    two = await answered(session, critic, "two")
    fork = await session.fork()

    async def tell(run: Run) -> None:
        turns = await run.history()
        await run.text(" | ".join(f"{turn['text']}: {turn['answers'][0]['text']}" for turn in turns))

    async with serving(broker_url, "critic", tell):
        sent = await fork.send("three", to="critic")
        told = await fork.result("critic", sent.run, timeout=30)
        edited = await fork.branches.edit(two, "zwei")
        told_again = await fork.result("critic", edited.run, timeout=30)

    assert told["parts"][0]["text"] == "one: answer to one | two: answer to two"
    assert told_again["parts"][0]["text"] == "one: answer to one"
    view = await fork.view()
    assert len(view["agents"][0]["runs"]) == 4
    assert [turn["text"] for turn in conversation(view)] == ["one", "zwei"]
    assert [turn["input"] for turn in await session.branches.conversation()] == [one, two]


async def test_a_fork_can_be_forked(session: Session, critic: Session) -> None:
    """It says what it was copied from itself; the history stays whole."""
    await answered(session, critic, "one")
    first = await session.fork()
    await first.send("two", to="critic")

    second = await first.fork()

    view = await second.view()
    assert view["meta"]["forked_from"]["session"] == first.id
    assert [turn["text"] for turn in conversation(view)] == ["one", "two"]
    assert [turn["answers"][0]["text"] for turn in conversation(view)[:1]] == ["answer to one"]


async def test_a_session_that_nobody_created_can_be_forked(ann: Broker, fresh: Callable[[str], str]) -> None:
    """It began with its first input."""
    session = ann.session(fresh("s"))
    await session.send("hello", to="critic")

    view = await (await session.fork()).view()

    assert [entry["text"] for entry in view["inputs"]] == ["hello"]
    assert view["meta"]["forked_from"]["session"] == session.id


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing(
    session: Session, ann: Broker, fresh: Callable[[str], str]
) -> None:
    """A position of another log, beyond the end, before the beginning, or none at all; an id that is taken or none."""
    sent = await session.send("one", to="critic")
    taken = ann.session(fresh("taken"))
    await taken.create()
    first = (await log_of(session))[0][1]
    name = fresh("fork")

    for at, error, reason in (
        (Position("00000000", 5), PositionLost, "recreated"),
        (session.position(sent.position.sequence + 1), PositionLost, "ahead"),
        (session.position(first - 1), PositionLost, "too_old"),
        (Position(sent.position.epoch, 0), PositionLost, "too_old"),
        ("yesterday", InvalidPosition, "not a position"),
    ):
        with pytest.raises(error, match=reason):
            await session.fork(name, at=at)
    with pytest.raises(SessionExists):
        await session.fork(taken.id)
    with pytest.raises(InvalidInput, match="another id"):
        await session.fork(session.id)
    with pytest.raises(InvalidName):
        await session.fork("not a name")
    with pytest.raises(InvalidEvent, match="title"):
        await session.fork(name, title=5)  # type: ignore[arg-type]
    with pytest.raises(SessionNotFound):
        await ann.session(fresh("s")).fork(name)
    assert not await ann.session(name).exists()
    assert (await taken.view())["inputs"] == []
