"""What clients of other protocols are told: exactly what the view shows, whatever is cut, resumed, lost or rolled up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator_free.errors import InvalidPosition
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.projections.agui import EventStream, messages
from orchestrator_free.projections.aisdk import MessageStream, ui_messages
from orchestrator_free.projections.answer import Answer, answers, shown
from orchestrator_free.projections.told import name_of
from orchestrator_free.subjects import address, run_id
from orchestrator_free.working.runwriter import finished
from tests.test_fold import Author, at, ends, folded, logs, rolled_up

Stream = MessageStream | EventStream
Message = dict[str, Any]
KINDS = (5, 6, 7, "agui", "agui0", "interrupted")


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """Logs in which runs delegate to each other and ask people."""
    events: list[Event] = []
    running: dict[str, str] = {}
    for event in draw(logs()):
        body = event.body
        if event.type == "run.started":
            running[event.member] = event.id
        if isinstance(body.get("parent"), dict) and event.kind == "run":
            body = body | {"parent": {"agent": "outliner", "run": run_id("ann", "i0")}}
        if event.type == "ask" and event.member in running:
            body = body | {"run": {"agent": event.member, "run": running[event.member]}}
        events.append(event._replace(body=body))
    return events


def stream_of(kind: Any, source: tuple[str, str], cursor: str = "", resumed: str = "", behind: str = "") -> Stream:
    if isinstance(kind, int):
        return MessageStream("s1", *source, profile=kind, cursor=cursor)  # type: ignore[arg-type]
    viewer = "ann" if kind == "interrupted" else ""
    return EventStream(
        "s1", *source, modern=kind != "agui0", cursor=cursor, viewer=viewer, resumed=resumed, behind=behind
    )


def gone_on(kind: Any, source: tuple[str, str], stream: Stream, fold: Fold) -> EventStream | None:
    """The run that goes on where a stream was interrupted, once its asks are answered."""
    if kind != "interrupted" or not stream.ended or stream.answer.ended:
        return None
    again = stream_of(kind, source, resumed=f"r{fold.sequence}", behind=stream.answer.cursor)
    assert isinstance(again, EventStream)
    return None if any(ask["ask"] in stream.answer._asks for _, ask in again._turn(fold)) else again


def event_of(kind: str, body: Message, sequence: int, *, member: str, target: str = "", id: str = "") -> Event:
    return Event(sequence, at(sequence), address(0, "s1", member, kind, target=target, id=id), body)


@dataclass
class Reader:
    """A client that refuses what the real ones refuse, over all the streams it takes to read one answer."""

    texts: dict[str, str] = field(default_factory=dict)
    open: set[tuple[str, str]] = field(default_factory=set)
    once: set[tuple[str, str]] = field(default_factory=set)
    begun: bool = False
    ended: bool = False

    def begin_again(self) -> None:
        """Another run of AG-UI begins: what was closed may be opened again, and texts go on."""
        assert self.ended
        assert not self.open
        self.begun = self.ended = False
        self.once = {one for one in self.once if one[0] == "TOOL_CALL"}

    def opens(self, what: str, name: str) -> None:
        assert (what, name) not in self.once, f"twice: {what} {name}"
        self.once.add((what, name))
        self.open.add((what, name))

    def closes(self, what: str, name: str) -> None:
        assert (what, name) in self.open, f"never opened: {what} {name}"
        self.open.remove((what, name))

    def take(self, message: Message) -> None:
        assert not self.ended, f"after the end: {message}"
        kind = message["type"]
        if kind not in ("start", "RUN_STARTED"):
            assert self.begun
        (self._chunk if kind[0].islower() else self._event)(kind, message)

    def _chunk(self, kind: str, chunk: Message) -> None:
        what, _, _ = kind.rpartition("-")
        match kind:
            case "start":
                assert not self.begun
                self.begun = True
            case "text-start" | "reasoning-start":
                self.opens(what, chunk["id"])
                self.texts[chunk["id"]] = ""
            case "text-delta" | "reasoning-delta":
                assert (what, chunk["id"]) in self.open
                self.texts[chunk["id"]] += chunk["delta"]
            case "text-end" | "reasoning-end":
                self.closes(what, chunk["id"])
            case "tool-input-start":
                self.opens("tool", chunk["toolCallId"])
            case "tool-input-available":
                if ("tool", chunk["toolCallId"]) not in self.open:
                    self.opens("tool", chunk["toolCallId"])  # an approval
            case "tool-output-available" | "tool-output-error" | "tool-output-denied":
                assert ("tool", chunk["toolCallId"]) in self.open
                if not chunk.get("preliminary"):
                    self.closes("tool", chunk["toolCallId"])
            case "finish":
                self.ended = True
                assert {what for what, _ in self.open} <= {"tool"}, self.open

    def _event(self, kind: str, event: Message) -> None:
        what, _, _ = kind.rpartition("_")
        name = event.get("messageId") or event.get("toolCallId") or event.get("subagentRunId") or ""
        name = event["toolCallId"] if what == "TOOL_CALL" else name
        match kind:
            case "RUN_STARTED":
                assert not self.begun
                self.begun = True
            case "RUN_FINISHED" | "RUN_ERROR":
                assert not self.open
                self.ended = True
            case "TOOL_CALL_RESULT":
                self.opens("result", name)
                self.closes("result", name)
            case (
                "SUBAGENT_STARTED"
                | "TEXT_MESSAGE_START"
                | "REASONING_MESSAGE_START"
                | "TOOL_CALL_START"
                | "REASONING_START"
            ):
                self.opens(what, name)
                self.texts.setdefault(name, "")
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT" | "TOOL_CALL_ARGS":
                assert (what, name) in self.open
                assert event["delta"]
                self.texts[name] += event["delta"]
            case (
                "SUBAGENT_FINISHED"
                | "SUBAGENT_ERROR"
                | "TEXT_MESSAGE_END"
                | "REASONING_MESSAGE_END"
                | "TOOL_CALL_END"
                | "REASONING_END"
            ):
                self.closes(what, name)
        if kind == "TOOL_CALL_END":
            orjson.loads(self.texts[name])
        assert_no_null(event | {"value": ""})  # in what an agent wrote null is welcome


def assert_no_null(value: Any) -> None:
    assert value is not None
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        assert_no_null(item)


def batches(events: list[Event], chance: Random) -> list[int]:
    """Where the client is told: how many events are there."""
    found = [chance.randint(1, 4)]
    while found[-1] < len(events):
        found.append(found[-1] + chance.choice((1, 1, 2, 5, 20)))
    return found


Frozen = dict[str, tuple[int, list[Message]]]


def follow(kind: Any, source: tuple[str, str], events: list[Event], chance: Random) -> tuple[Reader, Fold, Frozen]:
    """Read an answer through a log that grows, with streams that break.

    Return also the attempt and the parts that the view had of each run when it was told as over: that is told once.
    """
    reader, fold, seen, resumed = Reader(), Fold("s1"), 0, ""
    stream = stream_of(kind, source)
    frozen: Frozen = {}
    for count in batches(events, chance):
        folded(events[seen:count], fold)
        seen = min(count, len(events))
        again = True
        while again:
            again = False
            for place, message in stream.advance(fold):
                reader.take(message)
                if isinstance(message.get("type"), str) and not place:
                    continue
                assert len(place) < 8000
                if chance.random() < 0.1 and not reader.ended:
                    if chance.random() < 0.5:  # at another gateway, which has read a compacted log
                        fold = folded(rolled_up(events[:seen], ends(events[:seen])))
                    stream, again = stream_of(kind, source, place, resumed), True
                    break
            if not again and (more := gone_on(kind, source, stream, fold)) is not None:
                reader.begin_again()
                stream, resumed, again = more, more.run, True
        for run in stream.answer.members(fold):
            if run.cancelled or not run.open:
                frozen.setdefault(name_of(run.agent, run.run), (run.attempt, run.part_views()))
        if stream.answer.ended or (stream.ended and kind != "interrupted"):
            break
    return reader, fold, frozen


@settings(suppress_health_check=[HealthCheck.large_base_example, HealthCheck.too_slow])
@given(stories(), st.sampled_from(KINDS), st.integers(0, 2**32), st.data())
def test_a_client_is_told_what_the_view_shows_however_its_stream_breaks(
    events: list[Event], kind: Any, seed: int, data: st.DataObject
) -> None:
    """Each text of the last attempt whole, everything closed before the one end, and nothing twice."""
    fold = folded(events)
    source = data.draw(st.sampled_from(answers(fold)))
    reader, fold, frozen = follow(kind, source, events, Random(seed))
    answer = Answer(*source)

    if kind in (5, "agui", "agui0"):
        assert reader.ended == answer.complete(fold)
    for run in answer.members(fold):
        name = name_of(run.agent, run.run)
        if run.shown_status in ("running", "lost") and (kind == "interrupted" or (isinstance(kind, int) and kind > 5)):
            continue  # it may wait for the person, whose turn ends the stream
        attempt, parts = frozen.get(name, (run.attempt, run.part_views()))
        for index, part in enumerate(parts):
            if part["type"] in ("text", "reasoning") and reader.begun:
                assert reader.texts.get(f"{name}.{attempt}.{index}") == part["text"], (name, index)


#: what a run does between its beginning and its end, in which it waits for people now and then
_DOINGS = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning", "end", "helper", "helped", "tool", "output", "ask", "answer", "again"]), st.integers(0, 2)),
    min_size=4, max_size=40,
)  # fmt: skip


def waiting_run(doings: list[tuple[str, int]]) -> list[Event]:
    """The log of one run that asks `ann` and goes on when she has answered, with texts and sub-agents left open."""
    events = [event_of("in", {"type": "input", "text": "x"}, 1, member="ann", target="outliner", id="i0")]
    name, run = run_id("ann", "i0"), RunFold("outliner", run_id("ann", "i0"))
    attempt = ended = 0
    asked = ""

    def add(kind: str, body: Message, member: str = "outliner", id: str = name) -> None:
        events.append(event_of(kind, body, len(events) + 1, member=member, id=id))
        if kind == "run":
            assert run.apply(events[-1].body, len(events), at(len(events))) or body["type"] == "run.finished"

    for what, number in [("again", 0), *doings]:
        by = {"by": f"h{number}"} if number else {}
        match what:
            case "again":
                attempt += 1
                add("run", {"type": "run.started", "attempt": attempt, "input": "ann/i0"})
                if asked:  # it meets the ask of the attempt before
                    add("run", {"type": "run.waiting", "reason": "approval", "ask": asked})
            case "answer" if asked:
                add("answer", {"type": "answer", "value": "yes"}, member="ann", id=asked)
                add("run", {"type": "run.working"})
                asked = ""
            case _ if asked:
                continue  # it waits
            case "text" | "reasoning":
                add(
                    "run",
                    {"type": f"{what}.delta", "part": f"{what}-{number}-{ended}", "text": f"{len(events)} ", **by},
                )
            case "end":
                add("run", {"type": "text.end", "part": f"text-{number}-{ended}"})
                ended += 1
            case "helper" | "helped":
                about = {"name": "x", "status": "running" if what == "helper" else "done", "parent": f"h{number - 1}"}
                about |= {"call": "c1" if number == 2 else None}
                add("run", {"type": "data", "name": "subagent", "id": f"h{number}", "data": about})
            case "tool":
                add("run", {"type": "tool.input", "call": f"c{number}", "tool": "t", "input": {}, **by})
            case "output":
                add("run", {"type": "tool.output", "call": f"c{number}", "output": 1})
            case "ask":
                asked = f"q{len(events)}"
                about = {"agent": "outliner", "run": name}
                add("ask", {"type": "ask", "text": "?", "to": ["ann"], "run": about}, id=asked)
                add("run", {"type": "run.waiting", "reason": "approval", "ask": asked})
    if not asked:
        body = finished(run, "done", None)
        add("run", body if len(events) % 3 else {**body, "parts": [], "object": "run-1"})
    return events


@settings(suppress_health_check=list(HealthCheck))
@given(_DOINGS, st.integers(0, 2**32))
def test_an_answer_that_is_interrupted_again_and_again_is_told_whole(doings: list[tuple[str, int]], seed: int) -> None:
    """Whatever is open where the person's turn comes is closed before the run's end, and goes on in the next."""
    events = waiting_run(doings)
    reader, fold, _ = follow("interrupted", ("ann", "i0"), events, Random(seed))

    (run,) = fold.runs.values()
    assert fold.skipped == 0
    assert reader.ended
    for index, part in enumerate(run.part_views()):
        if part["type"] in ("text", "reasoning"):
            assert reader.texts.get(f"{name_of(run.agent, run.run)}.{run.attempt}.{index}") == part["text"]


@given(stories())
def test_the_history_can_be_told_of_any_log(events: list[Event]) -> None:
    """Also when everything was rolled up; each complete answer with its texts."""
    for fold in (folded(events), folded(rolled_up(events, ends(events)))):
        for profile in (5, 6, 7):
            told = ui_messages(fold, profile=profile)  # type: ignore[arg-type]
            assert len({message["id"] for message in told if message["role"] == "assistant"}) <= len(told)
        assert_no_null(messages(fold, shown(fold)))


def test_half_of_a_tools_input_is_json_to_a_client_that_parses_arguments() -> None:
    """A call that was cut off in the middle of its input, or whose input is a text, does not break the client."""
    author = Author()
    for step in ("create", "input", "begin"):
        author.step(step, 0, 2, "x", None)
    author.step("tool.input.delta", 0, 0, '{"q": ', None)
    author.step("tool.input", 0, 1, "x", "a text")
    author.step("end", 0, 0, "", None)
    fold = folded(author.events)
    stream = EventStream("s1", *answers(fold)[0])
    arguments = [event["delta"] for _, event in stream.advance(fold) if event["type"] == "TOOL_CALL_ARGS"]

    assert list(map(orjson.loads, arguments)) == ['{"q": ', "a text"]


HOSTILE: list[Message] = [
    {"type": "tool"}, {"type": "text"}, {"type": "text", "text": 5}, {"type": "reasoning", "text": None},
    {"type": "data"}, {"type": "data", "id": [1], "name": None}, {"type": "source"}, {"type": "file"},
    {"type": "source", "url": 7, "title": {}}, {"type": "error"}, {}, {"type": None}, {"type": 9},
    {"type": "tool", "tool": 5, "status": "done", "input": 10**18, "output": [None, "\ud7ff\r\n\n"]},
    {"type": "tool", "tool": "x" * 10_000, "status": "error", "error": None},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_run_can_break_the_streams_of_others(kind: Any) -> None:
    """Parts as no writer of ours writes them are told as far as they make sense."""
    for step, over in [(step, {"type": "run.finished", "status": "done", "parts": HOSTILE}) for step in (1, 3)]:
        author = Author()
        author.step("create", 0, 0, "x", None)
        author.step("input", 0, 2, "x", None)
        author.step("begin", 1, 0, "", None)
        author.step("text", 1, 0, "x", None)
        critic = run_id(*author.inputs[0])
        author.append("critic", "run", {"type": "run.started", "attempt": 1, "input": "ann/i0"}, id=critic)
        author.append("critic", "run", {"type": "text.delta", "part": "1", "text": "begun"}, id=critic)
        author.append("critic", "run", over, id=critic)
        for seed in range(20):
            reader, fold, _ = follow(kind, ("ann", "i0"), author.events, Random(seed + step))
            assert reader.begun
            if kind in (5, "agui", "agui0"):
                assert reader.ended == Answer("ann", "i0").complete(fold)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attempt_that_is_lost_leaves_nothing_open(kind: Any) -> None:
    """Text, reasoning and tool call of the first attempt are closed when the second begins, also behind a cursor."""
    run = {"type": "run.started", "input": "ann/I"}
    bodies: list[Message] = [
        run | {"attempt": 1}, {"type": "text.delta", "part": "1", "text": "half"},
        {"type": "reasoning.delta", "part": "1", "text": "why"},
        {"type": "tool.input.delta", "call": "c", "tool": "t", "text": '{"q"'},
        run | {"attempt": 2}, {"type": "text.delta", "part": "1", "text": "whole"},
        {"type": "run.finished", "status": "done", "input": "ann/I", "attempt": 2, "object": "run-1"},
    ]  # fmt: skip
    events = [event_of("in", {"type": "input"}, 1, member="ann", target="a", id="I")]
    name = run_id("ann", "I")
    events += [event_of("run", body, n, member="a", target="", id=name) for n, body in enumerate(bodies, 2)]
    for seed in range(100):
        reader, _, _ = follow(kind, ("ann", "I"), events, Random(seed))
        assert reader.ended
        assert not reader.open


def test_a_cancel_alone_ends_the_answer_and_closes_what_is_open() -> None:
    """No event of the run has to come first; one that no agent had begun ends, too."""
    author = Author()
    for name in ("create", "input", "begin", "text"):
        author.step(name, 0, 0 if name != "input" else 1, "x", None)
    author.append("ann", "ctl", {"type": "cancel"}, target="all", id="c")
    for kind in KINDS:
        stream, reader, fold = stream_of(kind, ("ann", "i0")), Reader(), Fold("s1")
        for event in author.events:
            for _, message in stream.advance(folded([event], fold)):
                reader.take(message)
        assert reader.ended
        assert not reader.open


def test_a_cursor_of_another_answer_or_that_is_none_is_refused() -> None:
    """Clearly, and without an exception of another kind."""
    for bad in (
        "x",
        "a.b.c.d",
        "a.b.1.-5",
        "a.b.1.0_1-t9-0",
        "é",
        "0~0",
        "~",
        "a.b.1.0",
        f"a.{'0' * 8}.1.2e",
        "1" * 9000,
    ):
        with pytest.raises(InvalidPosition):
            Answer("ann", "i0", bad)
    assert Answer("ann", "i0", "0!").ended


def long_run(parts: int, inputs: int) -> list[Event]:
    """A session with earlier answers, and a run with finished parts and one that grows."""
    events: list[Event] = []

    def put(member: str, kind: str, body: Message, target: str = "", id: str = "") -> None:
        events.append(event_of(kind, body, len(events) + 1, member=member, target=target, id=id))

    put("ann", "meta", {"type": "session.created", "agents": ["a"]})
    for number in range(inputs + 1):
        name = run_id("ann", f"i{number}")
        put("ann", "in", {"type": "input", "text": "x"}, "a", f"i{number}")
        put("a", "run", {"type": "run.started", "attempt": 1, "input": f"ann/i{number}"}, id=name)
        if number < inputs:
            put("a", "run", {"type": "run.finished", "status": "done", "input": f"ann/i{number}"}, id=name)
    for number in range(parts):
        put("a", "run", {"type": "data", "name": "p", "id": "bar", "data": number}, id=name)
        put("a", "run", {"type": "text.delta", "part": f"t{number}", "text": "x"}, id=name)
        put("a", "run", {"type": "text.end", "part": f"t{number}"}, id=name)
    return events


def seconds_per_token(kind: Any, parts: int, inputs: int) -> float:
    events = long_run(parts, inputs)
    fold, stream = folded(events), stream_of(kind, ("ann", f"i{inputs}"))
    sizes = {len(place) for place, _ in stream.advance(fold)}
    assert max(sizes) < 300
    where, count = events[-1].address, 300
    begin = time.process_time()
    for number in range(count):
        body = {"type": "text.delta", "part": "new", "text": "y"}
        fold.apply(Event(10**6 + number, at(number), where, body))
        told = list(stream.advance(fold))
        assert told
    return (time.process_time() - begin) / count


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_costs_the_same_at_the_end_of_a_long_session(kind: Any) -> None:
    """5,000 finished parts, a progress bar and 2,000 earlier inputs: one telling is as dear as in a new session."""
    short = min(seconds_per_token(kind, 5, 5) for _ in range(3))
    long = min(seconds_per_token(kind, 5_000, 2_000) for _ in range(2))
    print(f"{kind}: {short * 1e6:.0f} µs in a new session, {long * 1e6:.0f} µs in a long one")
    assert long < 5 * short + 0.0005
