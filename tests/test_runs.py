"""Runs on a real broker by real agent processes: what they write, who does them, and what a crash leaves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest

from orchestrator_free import Run
from orchestrator_free.broker import Broker
from orchestrator_free.embedded.server import ServerSettings, running_server
from orchestrator_free.errors import Conflict
from orchestrator_free.fold import Fold
from orchestrator_free.session import Session
from orchestrator_free.subjects import run_id
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from orchestrator_free.embedded.server import EmbeddedServer
    from orchestrator_free.events import Event

    Eventually = Callable[..., Awaitable[Any]]

#: seconds after which a silent replica loses its run, in these tests
ACK_WAIT = 2.0


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    """A session of its own, begun by `ann`."""
    found = ann.session(fresh("runs"))
    await found.create(title="Test")
    return found


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    """The name of an agent of its own: its consumer is not shared with other tests."""
    return fresh("agent")


async def shown(session: Session, agent: str, run: str) -> dict[str, Any] | None:
    """Return a run as the view shows it now."""
    view = await session.view()
    runs = [found for entry in view["agents"] if entry["agent"] == agent for found in entry["runs"]]
    return next((found for found in runs if found["run"] == run), None)


def text_of(run: dict[str, Any]) -> str:
    return "".join(part["text"] for part in run["parts"] if part["type"] == "text")


async def written(session: Session, eventually: Eventually, agent: str, run: str, text: str) -> dict[str, Any]:
    """Wait until the view shows a text in a run; return the run."""

    async def has_text() -> dict[str, Any] | None:
        found = await shown(session, agent, run)
        return found if found and text in text_of(found) else None

    return await eventually(has_text, 20, every=0.05)


async def log_of(session: Session) -> list[Event]:
    """Return what the broker holds of a session, message by message."""
    events: list[Event] = []
    last = (await session.send("mark", to="nobody")).position.sequence
    async with aclosing(session.follow(compact=False)) as feed:
        async for event in feed:
            if event.sequence >= last:
                return events
            events.append(event)
    raise AssertionError("a feed does not end")


# -- what a handler writes ------------------------------------------------------------------------------------------


async def test_ten_lines_are_an_agent(session: Session, broker_url: str, programs: Any, tmp_path: Path) -> None:
    """The example of the package's docstring, as it stands there."""

    import orchestrator_free

    example = (orchestrator_free.__doc__ or "").partition("    from")[2]
    script = tmp_path / "greeter.py"
    script.write_text("\n".join(line.removeprefix("    ") for line in f"    from{example}".splitlines()))
    programs.start(script)
    sent = await session.send("Ann", to="greeter")
    run = await session.result("greeter", sent.run, timeout=20)

    assert (run["status"], run["attempt"], run["input"]) == ("done", 1, f"ann/{sent.input}")
    assert run["parts"] == [{"type": "text", "part": "1", "text": "Hello, Ann!"}]
    assert len(script.read_text().strip().splitlines()) <= 10


async def test_everything_a_handler_writes_is_in_the_view(session: Session, name: str, programs: Any) -> None:
    """Text, reasoning, tools, sources, data, files, notices and usage, in their order; files can be fetched."""

    programs.agent(
        name,
        """
        await run.reasoning("Looking ")
        await run.reasoning("for headings.")
        async with run.tool("split", {"chars": len(run.input.text)}) as call:
            await call.progress({"headings": 1})
            call.output = {"headings": 3}
        try:
            async with run.tool("search", {"q": "x"}, call="mine"):
                raise RunError("nothing found")
        except RunError:
            pass
        await run.source("https://example.org", title="Example")
        await run.data("progress", {"done": 1}, id="p")
        await run.data("progress", {"done": 2}, id="p")
        await run.data("seen", run.input.data, transient=True)
        await run.file("outline.md", b"# One", media_type="text/markdown")
        await run.notice("slow")
        await run.usage(input_tokens=10, output_tokens=2)
        await run.usage(output_tokens=3)
        for word in "## Out", "line":
            await run.text(word)
        await run.emit({"type": "vendor.thing", "x": [1, None]})
        """,
    )
    sent = await session.send("Hello", to=name, data={"k": [1]})
    run = await session.result(name, sent.run, timeout=20)

    tools = [part for part in run["parts"] if part["type"] == "tool"]
    assert all(part.pop("started") and part.pop("seconds") >= 0 for part in tools)
    stored = next(part["object"] for part in run["parts"] if part["type"] == "file")
    assert run["parts"] == [
        {"type": "reasoning", "part": "1", "text": "Looking for headings."},
        {"type": "tool", "call": "call-2", "tool": "split", "status": "done", "input": {"chars": 5},
         "output": {"headings": 3}, "error": None},
        {"type": "tool", "call": "mine", "tool": "search", "status": "error", "input": {"q": "x"}, "output": None,
         "error": "nothing found"},
        {"type": "source", "id": "source-3", "url": "https://example.org", "title": "Example"},
        {"type": "data", "name": "progress", "data": {"done": 2}, "id": "p"},
        {"type": "file", "name": "outline.md", "media_type": "text/markdown", "object": stored, "size": 5},
        {"type": "error", "message": "slow"},
        {"type": "text", "part": "4", "text": "## Outline"},
        {"type": "other", "event": {"type": "vendor.thing", "x": [1, None]}},
    ]  # fmt: skip
    assert run["usage"] == {"input_tokens": 10, "output_tokens": 5}
    assert await session.object(stored) == b"# One"


async def test_what_a_handler_changes_afterwards_was_not_said(session: Session, name: str, programs: Any) -> None:
    """An event is what it was when it was written, in the log and in the finished run, though the object lives on."""

    await session.update(title="off")
    programs.agent(
        name,
        """
        counts = {"done": 0}
        for number in range(5):
            counts["done"] = number
            await run.data("step", counts)
        async with run.tool("t", counts) as call:
            call.output = counts
        counts["done"] = 99
        """,
    )
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)

    assert [part["data"]["done"] for part in run["parts"] if part["type"] == "data"] == [0, 1, 2, 3, 4]
    assert (run["parts"][5]["input"], run["parts"][5]["output"]) == ({"done": 4}, {"done": 4})


@pytest.mark.parametrize("seed", range(3))
async def test_readers_fold_from_the_events_what_the_agent_folded_itself(
    ann: Broker, fresh: Any, name: str, programs: Any, seed: int
) -> None:
    """Four tasks write at once and the writer merges what waits: no word moves to where it changes the run."""

    session = ann.session(fresh("runs"))
    await session.create(compaction="off")
    programs.agent(
        name,
        f"""
        import random
        dice = random.Random({seed})

        async def write(task):
            for number in range(60):
                part, call = f"{{task}}-{{dice.randrange(3)}}", f"{{task}}-{{number // 6}}"
                event = dice.choice([
                    {{"type": "text.delta", "part": part, "text": f"{{number}} "}},
                    {{"type": "text.delta", "part": part, "text": f"{{number}} "}},
                    {{"type": "text.delta", "part": part, "text": f"{{number}} ", "vendor": 1}},
                    {{"type": "reasoning.delta", "part": part, "text": "é😀"}},
                    {{"type": "tool.input.delta", "call": call, "tool": "t", "text": f"{{number}},"}},
                    {{"type": "tool.input", "call": call, "tool": "t", "input": number}},
                    {{"type": "tool.output", "call": call, "output": number}},
                    {{"type": "data", "name": part, "id": "x", "data": number}},
                    {{"type": "usage", "usage": {{"n": 1}}}},
                    {{"type": "audio.delta", "data": number, "part": [task], "text": None}},
                    {{"type": "audio.delta", "part": {{"x": 1}}, "text": 5}},
                ])
                await run.emit(event)
                if dice.random() < 0.1:
                    await asyncio.sleep(0.002)

        await asyncio.gather(*(write(task) for task in range(4)))
        """,
    )
    sent = await session.send("x", to=name)
    whole = await session.result(name, sent.run, timeout=20)
    events = [event for event in await log_of(session) if event.kind == "run"]
    fold = Fold(session.id)
    for event in events[:-1]:
        fold.apply(event)

    def plain(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        timed = ("open", "started", "seconds")
        ended = {"status": "?", "error": "?"}
        return [
            {key: value for key, value in part.items() if key not in timed} | (ended if part["type"] == "tool" else {})
            for part in parts
        ]

    assert events[-1].type == "run.finished"
    assert len(events) > 20
    assert fold.skipped == 0
    assert plain(fold.runs[name, sent.run].part_views()) == plain(whole["parts"])
    assert fold.runs[name, sent.run].usage == whole["usage"]


async def test_tokens_that_wait_for_the_broker_become_one_event(
    ann: Broker, fresh: Any, name: str, programs: Any
) -> None:
    """A handler that is faster than the broker makes fewer, larger events; the first one leaves at once."""

    session = ann.session(fresh("runs"))
    await session.create(compaction="off")
    programs.agent(name, 'for number in range(3000):\n    await run.text("é")')
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)
    deltas = [event.body["text"] for event in await log_of(session) if event.type == "text.delta"]

    assert deltas[0] == "é" and len(deltas) < 1500
    assert "".join(deltas) == text_of(run) == "é" * 3000


async def test_a_long_text_is_merged_and_split_but_never_changed(session: Session, name: str, programs: Any) -> None:
    """A million characters in one piece, in single characters and in one raw event."""

    programs.agent(
        name,
        """
        await run.text("ab" * 250_000)
        for number in range(3000):
            await run.text("é")
        await run.emit({"type": "text.delta", "part": "raw", "text": "\\x01" * 500_000})
        """,
    )
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=30)

    assert run["status"] == "done"
    assert [part["text"] for part in run["parts"]] == ["ab" * 250_000 + "é" * 3000, "\x01" * 500_000]


async def test_a_run_larger_than_a_message_is_whole_in_the_view(session: Session, name: str, programs: Any) -> None:
    """Its end points into the object store; readers, late ones too, get all of it."""

    programs.agent(name, 'for number in range(50_000): await run.text(f"word {number} ")')
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=60)
    end = next(event for event in await log_of(session) if event.type == "run.finished")

    assert len(orjson.dumps(end.body)) < 10_000 and "parts" not in end.body
    assert await session.object(end.body["object"]) is not None
    expected = "".join(f"word {number} " for number in range(50_000))
    assert text_of(run) == expected
    found = await shown(session, name, sent.run)
    assert found is not None and text_of(found) == expected


async def test_compaction_leaves_the_end_of_a_run_only_and_can_be_switched_off(
    ann: Broker, fresh: Any, name: str, programs: Any
) -> None:
    """A compacted session has one event a run; with `compaction="off"` every delta stays; the views are the same."""

    programs.agent(name, 'for word in ("a ", "b ", "c "):\n    await run.text(word)\n    await asyncio.sleep(0.02)')
    kinds: dict[str, list[str]] = {}
    texts = set()
    for compaction in ("on", "off"):
        session = ann.session(fresh("runs"))
        await session.create(compaction=compaction)
        sent = await session.send("x", to=name)
        texts.add(text_of(await session.result(name, sent.run, timeout=20)))
        kinds[compaction] = [event.type for event in await log_of(session) if event.kind == "run"]
    assert kinds["on"] == ["run.finished"]
    assert (kinds["off"][0], kinds["off"][-1]) == ("run.started", "run.finished")
    assert kinds["off"].count("text.delta") == 3
    assert texts == {"a b c "}


async def test_an_agent_waits_for_anothers_answer_to_the_same_input(
    session: Session, name: str, fresh: Any, programs: Any
) -> None:
    """Several get one input; the view shows it to both, and `result_of` gives the other's finished run."""

    other = fresh("critic")
    programs.agent(name, 'await asyncio.sleep(0.3)\nawait run.text("draft")')
    programs.agent(
        other, f'draft = await run.result_of({name!r}, timeout=10)\nawait run.text(draft["parts"][0]["text"] + "!")'
    )
    sent = await session.send("x", to=[name, other])
    run = await session.result(other, sent.run, timeout=20)

    assert text_of(run) == "draft!"
    assert [entry["to"] for entry in (await session.view())["inputs"]] == [name, other]


# -- how a run ends -------------------------------------------------------------------------------------------------


async def test_a_handlers_exception_ends_the_run_without_telling_its_text(
    session: Session, name: str, programs: Any
) -> None:
    """Nobody meant the message of a ValueError to be read by customers; the agent's own log has it."""

    (program,) = programs.agent(name, 'await run.text("half")\nraise ValueError("password is hunter2")')
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)

    assert (run["status"], text_of(run)) == ("error", "half")
    assert "ValueError" in run["error"]
    assert b"hunter2" not in orjson.dumps([event.body for event in await log_of(session)])
    assert program.alive


async def test_a_run_error_shows_its_text(session: Session, name: str, programs: Any) -> None:
    """RunError is for messages that people may see."""

    programs.agent(name, 'raise RunError("The document is empty.")')
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)

    assert (run["status"], run["error"]) == ("error", "The document is empty.")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('await run.text("half \\ud800")', "surrogates"),
        ('await run.emit({"type": "text.delta", "part": "1", "text": 5})', "text.delta: .*text"),
        ('await run.emit({"type": "text.delta", "part": "1"})', "text.delta: .*text"),
        ('await run.emit({"text": "x"})', "type"),
        ('await run.data("x", {"y": object()})', "JSON"),
        ('await run.usage(tokens="5")', "usage: .*tokens"),
        ('await run.usage(tokens=float("nan"))', "usage: .*tokens"),
        ('await run.data("x", "y" * 2_000_000)', "run.file"),
        ('deep = 1\nfor _ in range(230): deep = [deep]\nawait run.data("x", deep)', "nested"),
        ('await run.emit({"type": "run.finished", "status": "done"})', "run.finished"),
        ('await run.emit({"type": "text.end", "part": "p"})\nawait run.emit({"type": "text.delta", "part": "p", "text": "x"})\n'
         'await run.emit({"type": "text.end", "part": "p"})\nawait run.emit({"type": "text.delta", "part": "p", "text": "x"})', "closed"),
    ],
)  # fmt: skip
async def test_a_handler_hears_at_once_what_cannot_be_written(
    session: Session, name: str, programs: Any, body: str, error: str
) -> None:
    """The call raises, not a later one; the run ends at the first attempt, with a message that says what was wrong."""

    programs.agent(name, 'await run.text("before ")\n' + body + '\nawait run.text("never")')
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)

    assert (run["status"], run["attempt"], text_of(run).rstrip("x")) == ("error", 1, "before ")
    assert re.search(error, run["error"])


async def test_nothing_is_written_after_a_runs_end(
    session: Session, name: str, programs: Any, tmp_path: Path, eventually: Eventually
) -> None:
    """A task that the handler left behind gets RunFinished, and the run stays as it was."""

    marker = tmp_path / "late"
    programs.agent(
        name,
        f"""
        async def late():
            while True:
                try:
                    await run.text("x")
                    await asyncio.sleep(0.02)
                except Exception as error:
                    pathlib.Path({str(marker)!r}).write_text(type(error).__name__)
                    raise
        run.left_behind = asyncio.create_task(late())
        await asyncio.sleep(0.2)
        """,
    )
    sent = await session.send("x", to=name)
    run = await session.result(name, sent.run, timeout=20)
    await eventually(marker.exists)

    assert marker.read_text() == "RunFinished"
    found = await shown(session, name, sent.run)
    assert found is not None and found["parts"] == run["parts"]


async def test_an_input_that_cannot_be_read_fails_with_the_reason(
    session: Session, broker_url: str, name: str, programs: Any
) -> None:
    """Any NATS client may publish anything: no JSON, a wrong type, a wrong field. None of it reaches the handler."""

    programs.agent(name, 'await run.text("called")')
    connection = await nats.connect(broker_url)
    bad = {"bytes": b"\xff\xfe", "list": b"[1]", "other": b'{"type":"note"}', "field": b'{"type":"input","text":5}'}
    for id, payload in bad.items():
        await connection.jetstream().publish(f"session.0.{session.id}.eve.in.{name}.{id}", payload)
    await connection.close()
    runs = {id: await session.result(name, run_id("eve", id), timeout=20) for id in bad}

    assert {run["status"] for run in runs.values()} == {"failed"}
    assert all(run["error"].startswith("the input cannot be read: ") and not run["parts"] for run in runs.values())
    assert "not JSON" in runs["bytes"]["error"] and "text" in runs["field"]["error"]


async def test_an_input_is_sent_once_however_often_it_is_sent(
    session: Session, name: str, programs: Any, tmp_path: Path
) -> None:
    """The same id and content is the same input; other content under the same id is refused."""

    calls = tmp_path / "calls"
    programs.agent(name, f'open({str(calls)!r}, "a").write(run.input.id + "\\n")')
    one, two = [await session.send("x", to=name, data={"n": 1}, id="mine") for _ in range(2)]
    many = await asyncio.gather(*(session.send("x", to=name, data={"n": 1}, id="mine") for _ in range(5)))
    with pytest.raises(Conflict, match="other content"):
        await session.send("y", to=name, data={"n": 1}, id="mine")
    await session.result(name, one.run, timeout=20)
    last = await session.send("x", to=name)
    await session.result(name, last.run, timeout=20)

    assert (one.repeated, two.repeated, all(sent.repeated for sent in many)) == (False, True, True)
    assert {one.position, two.position, *(sent.position for sent in many)} == {one.position}
    assert calls.read_text().split() == ["mine", last.input]


async def test_an_input_to_all_is_done_by_the_sessions_agents_and_nobody_else(
    ann: Broker, fresh: Any, name: str, programs: Any
) -> None:
    """The session names who answers; imported history is never worked on."""

    other, session = fresh("other"), ann.session(fresh("runs"))
    await session.create(agents=[name])
    for agent in (name, other):
        programs.agent(agent, "await run.text(run.agent)")
    old = {"type": "input", "text": "old", "replayed": True}
    await ann.log.wire.publish(f"session.0.{session.id}.ann.in.{name}.old", orjson.dumps(old))
    sent = await session.send("x", to="all")
    await session.result(name, sent.run, timeout=20)
    check = await session.send("x", to=other)
    await session.result(other, check.run, timeout=20)

    view = await session.view()
    runs = {entry["agent"]: [run["run"] for run in entry["runs"]] for entry in view["agents"]}
    assert runs == {name: [sent.run], other: [check.run]}


# -- replicas -------------------------------------------------------------------------------------------------------


async def test_two_replicas_share_the_inputs_and_do_none_twice(
    session: Session, name: str, programs: Any, tmp_path: Path
) -> None:
    """60 inputs, both processes work, every input is done by one of them."""

    calls = tmp_path / "calls"
    body = f'open({str(calls)!r}, "a").write(f"{{run.input.id}} {{os.getpid()}}\\n")\nawait asyncio.sleep(0.05)\nawait run.text("x")'
    programs.agent(name, body, replicas=2, concurrency=4)
    sent = [await session.send(str(number), to=name) for number in range(60)]
    runs = [await session.result(name, one.run, timeout=30) for one in sent]
    done = [line.split() for line in calls.read_text().splitlines()]

    assert {(run["status"], run["attempt"], text_of(run)) for run in runs} == {("done", 1, "x")}
    assert sorted(id for id, _ in done) == sorted(one.input for one in sent)
    assert len({pid for _, pid in done}) == 2


async def test_an_input_goes_to_the_replica_that_is_free(
    session: Session, name: str, programs: Any, eventually: Eventually
) -> None:
    """With one place each and one long run, the other replica does the rest at once; nothing is begun twice."""

    body = "await run.text(str(os.getpid()))\nawait asyncio.sleep(float(run.input.text))"
    programs.agent(name, body, replicas=2, concurrency=1, ack_wait_seconds=1.0)
    long = await session.send("4", to=name)
    await eventually(lambda: shown(session, name, long.run), 20, every=0.1)
    short = [await session.send("0.1", to=name) for _ in range(6)]
    runs = [await session.result(name, one.run, timeout=3) for one in short]
    busy = await session.result(name, long.run, timeout=20)

    assert {run["attempt"] for run in (*runs, busy)} == {1}
    assert len({text_of(run) for run in runs}) == 1
    assert text_of(busy) != text_of(runs[0])


async def test_a_killed_process_loses_its_run_to_a_replica(
    session: Session, name: str, programs: Any, eventually: Eventually
) -> None:
    """Within ack_wait + 2 s the next attempt begins; what the first one wrote is kept aside; there is one end."""

    body = """
    if run.attempt == 1:
        await run.text(f"half {os.getpid()}")
        await asyncio.sleep(3600)
    await run.text(f"whole, after {len(run.earlier)}")
    """
    replicas = programs.agent(name, body, replicas=2, ack_wait_seconds=ACK_WAIT)
    ends: list[Event] = []

    async def watch() -> None:
        async for event in session.follow(kinds=["run"]):
            ends.extend([event] if event.type == "run.finished" else [])

    watching = asyncio.create_task(watch())
    sent = await session.send("x", to=name)
    first = await written(session, eventually, name, sent.run, "half")
    victim = next(replica for replica in replicas if str(replica.pid) in text_of(first))
    victim.kill()
    killed = time.monotonic()
    run = await session.result(name, sent.run, timeout=20)

    assert time.monotonic() - killed < ACK_WAIT + 2
    assert (run["status"], run["attempt"], text_of(run)) == ("done", 2, "whole, after 1")
    assert run["attempts"] == [{"attempt": 1, "parts": [{"type": "text", "part": "1", "text": f"half {victim.pid}"}]}]
    again = await session.send("x", to=name, id="again")
    await written(session, eventually, name, again.run, "half")
    watching.cancel()
    assert [event.id for event in ends] == [sent.run]


async def test_a_process_that_was_stopped_and_wakes_up_cannot_write_any_more(
    session: Session, name: str, programs: Any, tmp_path: Path, eventually: Eventually
) -> None:
    """The broker refuses the zombie's next write, its handler gets RunFenced, the view shows the second attempt only."""

    marker = tmp_path / "fenced"
    body = f"""
    if run.attempt > 1:
        await run.text("second")
        return
    try:
        while True:
            await run.text("zombie ")
            await asyncio.sleep(0.05)
    except RunFenced:
        pathlib.Path({str(marker)!r}).touch()
        raise
    """
    (zombie,) = programs.agent(name, body, ack_wait_seconds=ACK_WAIT)
    sent = await session.send("x", to=name)
    await written(session, eventually, name, sent.run, "zombie")
    zombie.send(signal.SIGSTOP)
    programs.agent(name, body, ack_wait_seconds=ACK_WAIT)
    run = await session.result(name, sent.run, timeout=20)
    zombie.send(signal.SIGCONT)
    await eventually(marker.exists)

    assert (run["attempt"], text_of(run)) == (2, "second")
    assert "zombie" in run["attempts"][0]["parts"][0]["text"]
    assert await shown(session, name, sent.run) == run
    assert [event.type for event in await log_of(session) if event.kind == "run"] == ["run.finished"]


async def test_a_zombie_that_wakes_up_while_the_second_attempt_works_does_not_disturb_it(
    session: Session, name: str, programs: Any, tmp_path: Path, eventually: Eventually
) -> None:
    """Both write the same words at the same time; only the second attempt's are in its answer."""

    body = """
    for number in range(60):
        await run.text(f"{number} ")
        await asyncio.sleep(0.05)
    """
    (zombie,) = programs.agent(name, body, ack_wait_seconds=ACK_WAIT)
    sent = await session.send("x", to=name)
    await written(session, eventually, name, sent.run, "5 ")
    zombie.send(signal.SIGSTOP)
    programs.agent(name, body, ack_wait_seconds=ACK_WAIT)

    async def second() -> bool:
        found = await shown(session, name, sent.run)
        return found is not None and found["attempt"] == 2 and "5 " in text_of(found)

    await eventually(second, 20, every=0.05)
    zombie.send(signal.SIGCONT)
    run = await session.result(name, sent.run, timeout=20)

    assert run["attempt"] == 2
    assert text_of(run) == "".join(f"{number} " for number in range(60))


async def test_sigterm_gives_the_run_to_a_replica_at_once(
    session: Session, name: str, programs: Any, eventually: Eventually
) -> None:
    """A deployment does not wait for ack_wait (here 60 s): what does not end in time is handed over."""

    body = """
    await run.text(f"{os.getpid()}")
    if run.attempt == 1:
        await asyncio.sleep(3600)
    """
    replicas = programs.agent(name, body, replicas=2, ack_wait_seconds=60, grace_seconds=0.3)
    sent = await session.send("x", to=name)

    async def begun() -> str:
        found = await shown(session, name, sent.run)
        return text_of(found) if found else ""

    pid = await eventually(begun, 20, every=0.05)
    leaving = next(replica for replica in replicas if str(replica.pid) == pid)
    leaving.send(signal.SIGTERM)
    run = await session.result(name, sent.run, timeout=10)
    await eventually(lambda: not leaving.alive, 10)

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert leaving.process.returncode == 0


async def test_sigterm_lets_a_short_run_end_first(
    session: Session, name: str, programs: Any, eventually: Eventually
) -> None:
    """Within the grace period the process finishes what it does and leaves with 0; what came meanwhile is not lost."""

    body = 'await run.text("begun ")\nawait asyncio.sleep(1)\nawait run.text("ended")'
    (program,) = programs.agent(name, body, grace_seconds=20, ack_wait_seconds=60)
    sent = await session.send("x", to=name)
    await written(session, eventually, name, sent.run, "begun")
    program.send(signal.SIGTERM)
    late = [await session.send("x", to=name) for _ in range(5)]
    await eventually(lambda: not program.alive, 10)
    run = await session.result(name, sent.run, timeout=1)
    programs.agent(name, body, ack_wait_seconds=60)
    others = [await session.result(name, one.run, timeout=20) for one in late]

    assert program.process.returncode == 0
    assert {(run["attempt"], text_of(run)) for run in (run, *others)} == {(1, "begun ended")}


async def test_an_input_that_kills_its_process_is_given_up_and_stays_visible(
    session: Session, name: str, programs: Any, tmp_path: Path
) -> None:
    """A launcher starts the process again and again; after max_attempts the run is `failed` and others go on."""

    calls = tmp_path / "calls"
    body = f"""
    if run.input.text == "poison":
        open({str(calls)!r}, "a").write("x")
        os._exit(1)
    await run.text("fine")
    """

    async def launcher() -> None:
        while True:
            (program,) = programs.agent(name, body, max_attempts=3, ack_wait_seconds=1.0, concurrency=1)
            while program.alive:
                await asyncio.sleep(0.05)

    launching = asyncio.create_task(launcher())
    try:
        sent = await session.send("poison", to=name)
        fine = await session.send("other", to=name)
        run = await session.result(name, sent.run, timeout=40)
        other = await session.result(name, fine.run, timeout=20)
    finally:
        launching.cancel()

    assert (run["status"], run["error"]) == ("failed", "gave up after 3 attempts without a result")
    assert calls.read_text() == "xxx"
    assert [entry["text"] for entry in (await session.view())["inputs"]] == ["poison", "other"]
    assert (other["status"], text_of(other)) == ("done", "fine")


# -- the world around -----------------------------------------------------------------------------------------------


async def test_a_session_deleted_in_the_middle_of_a_run_stays_deleted(
    ann: Broker, session: Session, name: str, fresh: Any, programs: Any, tmp_path: Path, eventually: Eventually
) -> None:
    """The run's next write is refused; neither it nor a redelivery brings the session back; the agent works on."""

    marker = tmp_path / "fenced"
    body = f"""
    try:
        while run.input.text == "long":
            await run.text("x ")
            await asyncio.sleep(0.05)
    except RunFenced:
        pathlib.Path({str(marker)!r}).touch()
        raise
    """
    programs.agent(name, body, replicas=2, concurrency=1, ack_wait_seconds=1.0)
    sent = await session.send("long", to=name)
    await written(session, eventually, name, sent.run, "x")
    await session.delete()
    await eventually(marker.exists)
    other = ann.session(fresh("runs"))
    for _ in range(3):
        short = await other.send("short", to=name)
        await other.result(name, short.run, timeout=10)
    quiet_until = time.monotonic() + 2.5
    await eventually(lambda: time.monotonic() > quiet_until)

    assert not await session.exists()


@pytest.mark.slow
async def test_a_broker_killed_in_the_middle_of_a_run_loses_and_doubles_nothing(
    broker: EmbeddedServer, session: Session, name: str, programs: Any, eventually: Eventually
) -> None:
    """Twice, once for longer than ack_wait: the same process goes on writing where it was, in its first attempt."""

    body = """
    for number in range(150):
        await run.text(f"{number} ")
        await asyncio.sleep(0.05)
    """
    programs.agent(name, body, ack_wait_seconds=1.0)
    sent = await session.send("x", to=name)
    for away, word in ((0.0, "20 "), (2.5, "70 ")):
        await written(session, eventually, name, sent.run, word)
        broker.kill()
        back = time.monotonic() + away
        await eventually(lambda back=back: time.monotonic() > back)
        await broker.restart()
    run = await session.result(name, sent.run, timeout=60)

    assert (run["status"], run["attempt"]) == ("done", 1)
    assert text_of(run) == "".join(f"{number} " for number in range(150))


def test_an_agent_without_a_broker_says_so_and_ends(programs: Any, name: str) -> None:
    """Exit code 69, EX_UNAVAILABLE, and a message with the address and what to do."""

    script = programs.agent(name, "pass")[0].process.args[-1]
    environment = {**os.environ, "ORCHESTRATOR_FREE_URL": "nats://127.0.0.1:1"}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=30)

    assert run.returncode == 69
    assert "no broker answers at nats://127.0.0.1:1" in run.stderr


def test_an_agent_that_may_not_connect_says_so_and_ends(programs: Any, name: str, tmp_path: Path) -> None:
    """Wrong credentials: exit code 77, EX_NOPERM, one line and no traceback."""
    script = programs.agent(name, "pass")[0].process.args[-1]
    with running_server(
        ServerSettings(data=tmp_path / "guarded", port=0, extra='authorization { token: "right" }')
    ) as guarded:
        environment = {**os.environ, "ORCHESTRATOR_FREE_URL": guarded.url, "ORCHESTRATOR_FREE_TOKEN": "wrong"}
        run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)

    assert run.returncode == 77
    assert "refused the credentials" in run.stderr
    assert "Traceback" not in run.stderr


async def test_a_handler_that_is_no_coroutine_is_told_what_it_is(session: Session, name: str, broker_url: str) -> None:
    """Whoever forgot the `async` reads it in the session."""

    def forgot_async(run: Run) -> None:
        """Return nothing that could be awaited."""

    async with serving(broker_url, name, forgot_async):
        sent = await session.send("x", to=name)
        run = await session.result(name, sent.run, timeout=20)

    assert (run["status"], run["error"]) == (
        "error", "the agent's handler is no coroutine: define it with `async def`"
    )  # fmt: skip
