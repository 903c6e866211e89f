"""A log without roll-ups: a steward drops what an ended run has written, and nobody sees a difference."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Broker, Fold, Run
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.session.archive import export_session, import_session
from orchestrator_free.steward import Steward
from orchestrator_free.subjects import Position
from tests.inside import serving, watching
from tests.security.place import ISOLATED, Place, installation, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Session

WORDS = 200


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with installation(tmp_path, [user("core", "gateway"), user("isolated", "worker")]) as found:
        yield found


async def work(run: Run) -> None:
    for number in range(WORDS):
        await run.text(f"{number} ")
        if number % 50 == 49:
            await run.reasoning("Hm. ")  # of another part, so that not all is one event


async def answered(gateway: Broker, url: str, name: str = "s1", **more: Any) -> tuple[Session, str]:
    """Let the agent answer one input; return the session and the subject of the run."""
    session = Broker(gateway.log, "ann").session(name)
    await session.create(**more)
    async with serving(url, "worker", work):
        sent = await session.send("go", to="worker")
        await session.result("worker", sent.run, timeout=30)
    return session, f"session.0.{name}.worker.run.{sent.run}"


async def test_a_finished_run_is_one_message_and_every_reader_sees_the_same(
    place: Place, eventually: Callable[..., Any]
) -> None:
    """Who followed live, who joins late, who resumes inside of the output, who exports and imports."""
    async with place.core() as gateway:
        session = Broker(gateway.log, "ann").session("s1")
        async with watching(session) as live:
            _, run = await answered(gateway, place.url("worker"))
            await eventually(lambda: _count(gateway, run, 1), 20)
            (end,) = await gateway.log.read(0, run)
            await eventually(lambda: live.sequence >= end.sequence, 20)
            seen = live.view(str(session.position(live.sequence)))
        late = await session.view()
        begun = (await gateway.log.first(0, "session.0.s1.ann.in.>")).sequence  # type: ignore[union-attr]
        inside = Position(gateway.log.epoch(0), begun + 5)
        resumed = []
        async for event in session.follow(after=inside):
            resumed.append(event.type)
            if event.type == "run.finished":
                break
        lines = [line async for line in export_session(session)]
        await import_session(Broker(gateway.log, "ann"), lines, "copy")
        copy = await Broker(gateway.log, "ann").session("copy").view()

    assert end.rollup and b"Session-Rollup: sub" in end.header
    assert texts(seen) == texts(late) == texts(copy) == ["".join(f"{number} " for number in range(WORDS))]
    assert begun + 5 < end.sequence and resumed == ["run.finished"]
    assert b'"rollup":true' in b"".join(lines).replace(b" ", b"")


def texts(view: dict[str, Any]) -> list[str]:
    runs = [run for agent in view["agents"] for run in agent["runs"]]
    return ["".join(part["text"] for part in run["parts"] if part["type"] == "text") for run in runs]


async def _count(broker: Broker, subject: str, count: int) -> bool:
    return len(await broker.log.read(0, subject)) == count


async def test_without_a_steward_nothing_is_lost_and_the_next_one_makes_up_for_it(
    place: Place, eventually: Callable[..., Any]
) -> None:
    """The run ends all the same; its output stands in the log until somebody sweeps."""
    async with place.connect("gateway", settings=ISOLATED) as gateway:
        async with Steward(gateway):  # makes the agent's consumers, and goes
            async with serving(place.url("worker"), "worker", work):
                pass
        session, run = await answered(gateway, place.url("worker"))
        before = len(await gateway.log.read(0, run))
        view = await session.view()
        async with Steward(gateway, sweep_seconds=0.2) as steward:
            await eventually(lambda: _count(gateway, run, 1), 20)
            assert steward.dropped == before - 1
        assert texts(await session.view()) == texts(view)

    assert before > 5


async def test_a_session_that_keeps_its_output_keeps_it(place: Place) -> None:
    """`compaction: off` holds without roll-ups, too: neither a request nor a sweep drops anything."""
    async with place.core() as gateway:
        _, run = await answered(gateway, place.url("worker"), compaction="off")
        before = len(await gateway.log.read(0, run))
        async with place.plain("worker") as worker, Steward(gateway, sweep_seconds=0.1):
            answer = await worker.request(f"steward.compact.{run}", timeout=10)
            await asyncio.sleep(0.6)
        assert len(await gateway.log.read(0, run)) == before > 5
        assert answer.data == b'{"dropped":0}'


async def test_what_an_agent_says_later_is_said(place: Place, eventually: Callable[..., Any]) -> None:
    """A timer goes through the steward, is taken back through it, and speaks in the agent's name."""
    async with place.core() as gateway, place.connect("worker") as worker:
        session = worker.session("s1")
        await Broker(gateway.log, "ann").session("s1").create()
        asked = await session.asks.ask("Which?", to=["ann"], seconds=1)
        decision = await asked.decision()
        kept = await session.asks.ask("And this?", to=["ann"], seconds=600)
        await Broker(gateway.log, "ann").session("s1").asks.answer(kept.ask, "yes")
        await kept.decision()
        fold = Fold("s1")
        async for event in session.follow():
            fold.apply(event)
            if event.kind == "stage":
                break

    assert decision.status == "expired"
    assert (event.member, event.type) == ("worker", "ask.expired")


def test_an_answer_to_a_read_is_no_live_copy() -> None:
    """What the broker appends to a copy ends the header; what it appends to an answer is something else."""
    stamp = (
        b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: session.0.s.m.floor\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026"
    )
    copy = stamp + b"\r\nNats-Last-Sequence: 3\r\n\r\n"
    answer = stamp + b"\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 3\r\n\r\n"

    assert (found := live_message("live.session.0.s.m.floor", b"{}", copy)) and found.previous == 3
    assert live_message("live.session.0.s.m.floor", b"{}", answer) is None
    assert live_message("live.session.0.s.other.floor", b"{}", copy) is None
