"""The fold: whatever the interleaving, the cut, the compaction or the garbage, readers of one log show one view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event, decode, encode
from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.subjects import Address, address, run_id
from orchestrator_free.vocabulary import VOCABULARY, validate
from orchestrator_free.working.runwriter import finished

AGENTS = ("outliner", "critic")
Body = dict[str, Any]
View = dict[str, Any]


def at(milliseconds: int) -> str:
    """A time as the broker writes it: zeros at the end of the fraction left out."""
    moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    fraction = f"{moment.microsecond:06d}".rstrip("0")
    return f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{fraction}Z" if fraction else "Z")


def seen(fold: Fold) -> View:
    """The view as a client gets it, at one fixed position."""
    return orjson.loads(orjson.dumps(fold.view("ab12cd34-0")))


def folded(events: Iterable[Event], fold: Fold | None = None) -> Fold:
    fold = fold or Fold("s1")
    for event in events:
        fold.apply(event)
    return fold


@dataclass
class Desk:
    """An agent's place for one run at a time: what its writer has folded."""

    agent: str
    run: str = ""
    fold: RunFold | None = None
    parts: int = 0
    text: str = ""


@dataclass
class Author:
    """Writes a valid log of one session, the way members, agents, their writers and the monitor do."""

    events: list[Event] = field(default_factory=list)
    milliseconds: int = 0
    inputs: list[tuple[str, str]] = field(default_factory=list)
    desks: list[Desk] = field(default_factory=lambda: [Desk(agent) for agent in AGENTS for _ in range(2)])

    def append(self, member: str, kind: str, body: Body, *, target: str = "", id: str = "", gap: int = 1) -> Event:
        sequence = (self.events[-1].sequence if self.events else 0) + gap
        self.milliseconds += 7 * gap
        where = address(0, "s1", member, kind, target=target, id=id)
        self.events.append(Event(sequence, at(self.milliseconds), where, decode(encode(body))))
        return self.events[-1]

    def write(self, desk: Desk, body: Body, gap: int = 1) -> None:
        """Append an event of a run; the agent folds it by its own clock, which is two minutes ahead."""
        if desk.fold is not None:
            event = self.append(desk.agent, "run", body, id=desk.run, gap=gap)
            starts = body["type"] == "run.started"
            assert desk.fold.apply(
                event.body, event.sequence if starts else desk.fold.last, at(self.milliseconds + 120_000)
            )

    def begin(self, desk: Desk, number: int) -> None:
        """Begin a run, or the next attempt of the one that is open."""
        if desk.fold is None:
            done = {event.id for event in self.events if event.member == desk.agent and event.kind == "run"}
            waiting = [run_id(*source) for source in self.inputs if run_id(*source) not in done]
            if not waiting:
                return
            desk.run = waiting[number % len(waiting)]
            desk.fold = RunFold(desk.agent, desk.run)
        else:
            desk.fold = RunFold(desk.agent, desk.run)
            for event in self.events:
                if event.member == desk.agent and event.id == desk.run and event.kind == "run":
                    desk.fold.apply(event.body, event.sequence, event.time)
        sender, source = next(found for found in self.inputs if run_id(*found) == desk.run)
        body = {"type": "run.started", "attempt": desk.fold.attempt + 1, "input": f"{sender}/{source}", "replica": "x"}
        more = {"parent": {"agent": "planner", "run": "r0"}} if desk.run[1] in "012345678" else {}  # of all attempts
        self.write(desk, body | more | ({"whisper": True} if desk.run[0] in "0123" else {}))
        desk.parts, desk.text = number, ""

    def settle(self, agent: str, number: int) -> None:
        """Say what became of the oldest or newest control that this agent owes a final outcome."""
        mine = [event for event in self.events if event.kind == "ctl" and event.address.target in (agent, "all")]
        states = {
            event.id: event.body["state"] for event in self.events if event.kind == "outcome" and event.member == agent
        }
        owed = [event.id for event in mine if states.get(event.id, "accepted") == "accepted"]
        if owed:
            chosen = owed[-(number % 2)]
            known = ("applied", "rejected", "too_late", "expired")
            state = known[number % 4] if chosen in states else (*known, "accepted", "accepted")[number]
            self.append(agent, "outcome", {"type": "outcome", "state": state, "runs": []}, id=chosen)

    def end(self, desk: Desk, number: int, word: str) -> None:
        """Finish a run as its writer does: inline or with its parts in the object store, cut off where it was cancelled."""
        if desk.fold is None:
            return
        shown = folded(self.events).run(desk.agent, desk.run)
        if shown is not None and shown.cancelled and number % 2:
            kept = RunFold(desk.agent, desk.run)
            for event in self.events:
                if event.member == desk.agent and event.id == desk.run and event.sequence < shown.cancelled:
                    kept.apply(event.body, event.sequence, event.time)
            kept.attempt, kept.input, kept.first = desk.fold.attempt, desk.fold.input, kept.first or desk.fold.first
            kept.whisper = desk.fold.whisper
            body = finished(kept, "cancelled", word or None)
        else:
            body = finished(desk.fold, ("done", "error", "cancelled", "failed")[number % 4], word or None)
        if number > 4:
            body = {key: value for key, value in body.items() if key not in ("parts", "attempts")} | {"object": "run-1"}
        self.append(desk.agent, "run", body, id=desk.run)
        desk.run, desk.fold = "", None

    def pass_on(self, member: str, number: int, word: str) -> None:
        """Take one of the steps of a hand-off; each says the whole state."""
        holder = next((event.body["holder"] for event in reversed(self.events) if event.kind == "floor"), None)
        step = ("take", "request", "accept", "return", "release", "decline")[number % 6]
        request = {"from": member, "to": "desk", "reason": word} if step == "request" else None
        holder = {"take": member, "accept": member, "release": None, "return": "desk"}.get(step, holder)
        self.append(member, "floor", {"type": "floor", "step": step, "holder": holder, "request": request})

    def ask(self, number: int, word: str) -> Body:
        """Return an approval, a vote, a barrier, a call for bids, or a question."""
        if number == 0:
            return {"type": "ask", "about": "approval", "options": ["approve", "deny"], "veto": "deny", "to": ["ann"]}
        rule = ("quorum", "count", "highest", "lowest")[number % 4]
        return {"type": "ask", "text": word, "rule": rule, "quorum": 1 + number % 2, "seconds": 5.0}

    def answer(self, member: str, number: int, value: Any) -> None:
        """Answer one of the asks; a second word of the same member stands there, too, and does not count."""
        asks = [event for event in self.events if event.kind == "ask"]
        if asks:
            ask = asks[-1 - number % min(2, len(asks))]
            said = (value, "approve", "deny", 1, 2.5, 1)[number]
            self.append(member, "answer", {"type": "answer", "value": said}, id=ask.id)

    def stage(self, number: int) -> None:
        """Let an ask expire, be withdrawn or reach more members."""
        asks = [event for event in self.events if event.kind == "ask"]
        if asks:
            ask = asks[-1 - number % min(2, len(asks))]
            stage = ("expired", "withdrawn", "escalated")[number % 3]
            body = {"type": f"ask.{stage}"} | ({"to": ["desk", "ann"]} if stage == "escalated" else {})
            self.append(ask.member, "stage", body, target=ask.id, id=stage)

    def hold(self, member: str, number: int, value: Any) -> None:
        """Take a lease that is free, renew or give up one's own, or have a schedule fire late."""
        name = f"l{number % 2}"
        words = [event for event in self.events if event.kind == "lease" and event.id == name]
        last = words[-1] if words else None
        lapsed = {event.id for event in self.events if event.type == "lease.lapsed"}
        if last is None or last.type == "lease.released" or last.body["hold"] in lapsed:
            term = last.body["term"] + 1 if last else 1
            taken = {"type": "lease.taken", "term": term, "hold": f"h{term}", "data": value, "seconds": 5.0}
            self.append(member, "lease", taken, id=name)
        elif number < 3:
            released = {"type": "lease.released", "term": last.body["term"], "hold": last.body["hold"], "data": value}
            self.append(last.member, "lease", released | ({"done": True} if number else {}), id=name)
        else:
            word = last if number < 5 else words[0]
            late = {"type": "lease.lapsed", "term": word.body["term"]}
            self.append(word.member, "stage", late, target=name, id=word.body["hold"])

    def branch(self, name: str, number: int, word: str) -> None:
        """Edit an input, ask it again, go on from it, or go on where a redirect ended its run; of any input there is."""
        about, source = self.inputs[-1 - number % min(6, len(self.inputs))], f"i{len(self.inputs)}"
        known: Body = {"from": about[0], "input": about[1]}
        said = {"agent": "critic", "run": run_id(*about)} if name == "redirects" else known
        self.inputs.append(("ann", source))
        for target in ("outliner", "critic")[number % 2 :]:
            self.append("ann", "in", {"type": "input", "text": word, name: said}, target=target, id=source)

    def say(self, desk: Desk, kind: str, number: int, word: str) -> None:
        """Write a piece into one of three parallel parts of a kind."""
        open_parts = desk.fold.parts if desk.fold else {}
        part = f"{kind}-{desk.parts + number % 3}"
        if any(found.get("part") == part and not found.get("open") for found in open_parts.values()):
            desk.parts += 3
            part = f"{kind}-{desk.parts}"
        by = {"by": word if desk.parts % 2 else f"h{number % 3}"} if number > 2 else {}
        self.write(desk, {"type": f"{kind}.delta", "part": part, "text": word} | by, gap=1 + number % 2)

    def step(self, name: str, place: int, number: int, word: str, value: Any) -> None:
        """Do one thing; what cannot happen now does not."""
        desk = self.desks[place % len(self.desks)]
        call = {"call": f"c{number % 3}"}
        match name:
            case "create" if not self.events:
                self.append(
                    "ann", "meta", {"type": "session.created", "title": word, "agents": list(AGENTS[: number % 3])}
                )
            case "update":
                self.append(
                    "bob",
                    "meta",
                    {"type": "session.updated", "title": word} | ({"agents": ["critic"]} if number else {}),
                )
            case "input":
                sender, source = ("ann", "bob")[place % 2], f"i{len(self.inputs)}"
                self.inputs.append((sender, source))
                for target in ("all", "outliner", "critic")[number % 3 :]:
                    self.append(sender, "in", {"type": "input", "text": word, "data": value}, target=target, id=source)
            case "edits" | "again" | "after" | "redirects":
                self.branch(name, number, word)
            case "aside":
                source, how = f"i{len(self.inputs)}", ("note", "whisper", "parent")[number % 3]
                self.inputs.append(("bob", source))
                said = {"parent": {"agent": "critic", "run": run_id("ann", "i0")}} if how == "parent" else {how: True}
                self.append("bob", "in", {"type": "input", "text": word} | said, target="outliner", id=source)
            case "select":
                sender, source = self.inputs[-1 - number % min(5, len(self.inputs))]
                if f"{sender}/{source}" in folded(self.events).branches.after:
                    body = {"type": "branch.selected", "input": {"from": sender, "input": source}}
                    self.append(("ann", "bob")[place % 2], "meta", body)
            case "imported":
                self.append(
                    "ann",
                    "in",
                    {"type": "input", "text": word, "replayed": True},
                    target="all",
                    id=f"old{len(self.events)}",
                )
            case "state":
                self.append(
                    ("ann", "bob")[place % 2], "state", {"type": "state.set", "value": value}, id=f"k{number % 2}"
                )
            case "state.deleted":
                self.append(("ann", "bob")[place % 2], "state", {"type": name}, id=f"k{number % 2}")
            case "presence.set":
                status = ("available", "away", "offline")[number % 3]
                self.append(
                    ("ann", "bob", *AGENTS)[place % 4], "presence", {"type": name, "status": status, "reason": word}
                )
            case "floor":
                self.pass_on(("ann", "desk", *AGENTS)[place % 4], number, word)
            case "ask":
                self.append(desk.agent, "ask", self.ask(number, word), id=f"q{len(self.events)}")
            case "answer":
                self.answer(("ann", "bob", "critic", "desk")[place % 4], number, value)
            case "stage":
                self.stage(number)
            case "lease":
                self.hold(("ann", "bob", *AGENTS)[place % 4], number, value)
            case "notice":
                step = ("failed", "retry", "delivered")[number % 3]
                said = {"type": f"notification.{step}", "about": word, "position": word, "tries": 1 + number}
                self.append(("notify", "desk")[place % 2], "notice", said, id=f"n{number % 2}")
            case "run.waiting":
                self.write(desk, {"type": name, "reason": word, "ask": f"q{number}"})
            case "run.working":
                self.write(desk, {"type": name})
            case "run.stalled":
                self.write(desk, {"type": name, "seconds": 30.5})
            case "offline":
                gone = {"type": "agent.offline", "reason": word} | ({"back": word} if place % 2 else {})
                self.append((*AGENTS, "planner", "scout")[number % 4], "presence", gone)
            case "cancel" | "redirect" | "steer" | "pause" | "resume":
                target = desk.agent if number % 2 else "all"
                said = {"run": desk.run} if number < 4 and desk.run else {}
                said |= {"text": word} if name in ("redirect", "steer") else {}
                self.append("ann", "ctl", {"type": name} | said, target=target, id=f"x{len(self.events)}")
            case "outcome":
                self.settle(desk.agent, number)
            case "begin":
                self.begin(desk, number)
            case "end":
                self.end(desk, number, word)
            case "text" | "reasoning":
                self.say(desk, name, number, word)
            case "text.end" | "reasoning.end":
                self.write(desk, {"type": name, "part": f"{name[:-4]}-{desk.parts + number % 3}"})
            case "tool.input.delta":
                self.write(desk, {"type": name, "tool": "search", "text": word} | call)
            case "tool.input":
                by = {"by": word} if number % 2 else {}
                self.write(desk, {"type": name, "tool": "search", "input": value} | call | by)
            case "tool.output":
                self.write(desk, {"type": name, "output": value, "preliminary": number > 3} | call)
            case "tool.error":
                self.write(desk, {"type": name, "error": word} | call)
            case "source":
                self.write(desk, {"type": name, "id": f"s{number % 2}", "url": "https://example.org", "title": word})
            case "file":
                self.write(desk, {"type": name, "name": f"f{number % 2}", "object": "file-1", "size": number})
            case "data":
                named = {"id": f"d{number}"} if number < 3 else {"transient": True} if number > 4 else {}
                self.write(desk, {"type": name, "name": "progress", "data": value} | named)
            case "subagent":
                about = {"name": word, "status": ("running", "running", "done", "error")[number % 4]}
                about |= {"parent": f"h{place % 3}", "call": f"c{number % 3}" if number > 2 else None}
                self.write(desk, {"type": "data", "name": name, "id": f"h{number % 3}", "data": about})
            case "usage":
                self.write(desk, {"type": name, "usage": {"input_tokens": number, "dollars": number / 10}})
            case "error":
                self.write(desk, {"type": name, "message": word})
            case "raw" | "vendor.thing":
                self.write(desk, {"type": name, "data": value, "text": value, "open": True, "part": value})


STEPS = [
    "create", "update", "input", "input", "edits", "again", "after", "redirects", "aside", "select", "imported", "state", "offline", "offline", "cancel", "redirect",
    "steer", "pause", "outcome", "outcome", "begin", "begin", "begin", "end",
    "text", "text", "text", "reasoning", "text.end", "reasoning.end", "tool.input.delta", "tool.input.delta",
    "state.deleted", "presence.set", "floor", "ask", "ask", "answer", "answer", "answer", "stage", "lease", "lease",
    "lease", "notice", "run.waiting", "run.working", "run.stalled", "tool.input", "tool.output", "tool.error", "source", "file", "data", "subagent", "subagent", "usage", "error", "raw", "vendor.thing",
]  # fmt: skip
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 0, 0, 1, 2, 3]), st.integers(0, 5), words, values),
    min_size=20,
    max_size=90,
)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    author = Author()
    for name in ("create", "input", "input", "begin"):
        author.step(name, 0, 0, "x", None)
    for step in draw(steps):
        author.step(*step)
    return author.events


def ends(events: list[Event]) -> dict[Address, int]:
    """The finished runs, and the sequence of their ends."""
    return {event.address: event.sequence for event in events if event.type == "run.finished"}


def rolled_up(events: list[Event], runs: dict[Address, int]) -> list[Event]:
    """What the broker keeps when these runs' ends were published with `Nats-Rollup: sub`."""
    return [event for event in events if event.sequence >= runs.get(event.address, 0)]


def entities(events: list[Event]) -> list[Event]:
    """What a compact read takes of a log: the last event of each subject; whole what the last does not say all of."""
    last = {event.address: event for event in events}
    whole = {
        where
        for where, event in last.items()
        if where.kind not in ("run", "meta", "floor", "ask", "answer", "stage") or event.type == "session.created"
    }
    whole |= {where for where, event in last.items() if event.type == "run.finished"}
    return [event for event in events if event.address not in whole or last[event.address] is event]


# -- properties -----------------------------------------------------------------------------------------------------


@given(logs())
def test_a_valid_log_is_understood_whole(events: list[Event]) -> None:
    """Nothing that members, agents and the monitor write is skipped; this also keeps the generator honest."""

    assert folded(events).skipped == 0


@given(logs(), st.data())
def test_a_view_may_be_taken_at_any_event_and_folded_on(events: list[Event], data: st.DataObject) -> None:
    """Folding a prefix, writing the view out, loading it and folding the rest equals folding all."""

    cut = data.draw(st.integers(0, len(events)))
    prefix = folded(events[:cut])
    text = orjson.dumps(prefix.view(f"ab12cd34-{prefix.sequence}"))
    loaded = Fold.load(orjson.loads(text))

    assert loaded.sequence == prefix.sequence
    assert seen(loaded) == seen(prefix)
    whole = folded(events)
    rest = folded(events[cut:], loaded)
    assert seen(rest) == seen(whole)
    assert set(rest.waiting()) == set(whole.waiting())


@given(logs(), st.data())
def test_any_compaction_of_a_log_folds_to_the_same_view(events: list[Event], data: st.DataObject) -> None:
    """Whichever finished runs were rolled up, a late reader sees what an early one does."""

    runs = ends(events)
    kept = data.draw(st.lists(st.booleans(), min_size=len(runs), max_size=len(runs)))
    compacted = rolled_up(events, {where: end for (where, end), roll in zip(runs.items(), kept, strict=True) if roll})

    assert seen(folded(compacted)) == seen(folded(events))


@given(logs(), st.data())
def test_reading_by_entities_folds_to_the_same_view(events: list[Event], data: st.DataObject) -> None:
    """A compact read at any moment, and the events after it one by one, is the view of the whole log."""

    cut = data.draw(st.integers(0, len(events)))
    compact = folded(entities(rolled_up(events[:cut], ends(events[:cut]))))

    assert seen(compact) == seen(folded(events[:cut]))
    assert seen(folded(events[cut:], compact)) == seen(folded(events))


@given(logs())
def test_joining_adjacent_deltas_changes_nothing(events: list[Event]) -> None:
    """A busy writer sends fewer, larger events; readers cannot tell."""

    joined: list[Event] = []
    for event in events:
        before = joined[-1] if joined else event
        same = all(before.body.get(key) == event.body.get(key) for key in ("type", "part", "call"))
        if joined and before.address == event.address and same and event.type.endswith(".delta"):
            joined[-1] = before._replace(body=before.body | {"text": before.body["text"] + event.body["text"]})
        else:
            joined.append(event)

    def without_last(view: View) -> View:
        for agent in view["agents"]:
            for run in agent["runs"]:
                del run["last"]
        return view

    assert without_last(seen(folded(joined))) == without_last(seen(folded(events)))


@given(logs(), st.integers(0, 100))
def test_a_view_is_a_value_that_later_events_do_not_change(events: list[Event], cut: int) -> None:
    """Who took a view may keep it while the fold goes on, and load it twice."""

    fold = Fold("s1")
    taken: list[tuple[View, bytes]] = []
    for event in events:
        fold.apply(event)
        view = fold.view("ab12cd34-0")
        taken.append((view, orjson.dumps(view)))
    cut %= len(events)
    folded(events[cut + 1 :], Fold.load(taken[cut][0]))

    assert all(orjson.dumps(view) == before for view, before in taken)


#: a valid body of each type with its required fields only
SMALLEST: dict[str, list[Body]] = {
    "in": [{"type": "input"}],
    "run": [
        {"type": "run.started", "attempt": 9, "input": "ann/I"}, {"type": "run.finished", "status": "done"},
        {"type": "text.delta", "part": "p", "text": "x"}, {"type": "text.end", "part": "p"},
        {"type": "reasoning.delta", "part": "p", "text": "x"}, {"type": "reasoning.end", "part": "p"},
        {"type": "tool.input.delta", "call": "c", "tool": "t", "text": "x"}, {"type": "tool.input", "call": "c", "tool": "t"},
        {"type": "tool.output", "call": "c"}, {"type": "tool.error", "call": "c", "error": "x"},
        {"type": "source", "id": "s"}, {"type": "file", "name": "f"}, {"type": "data", "name": "d"},
        {"type": "usage", "usage": {}}, {"type": "error", "message": "x"}, {"type": "raw"},
        {"type": "run.waiting", "reason": "x"}, {"type": "run.working"}, {"type": "run.stalled", "seconds": 3},
    ],
    "meta": [{"type": "session.created"}, {"type": "session.updated"}, {"type": "session.deleted"},
        {"type": "branch.selected", "input": {"from": "ann", "input": "i0"}},
    ],
    "presence": [{"type": "agent.offline"}, {"type": "presence.set", "status": "away"}],
    "state": [{"type": "state.set"}, {"type": "state.deleted"}],
    "ask": [{"type": "ask"}],
    "answer": [{"type": "answer"}],
    "stage": [
        {"type": "ask.escalated", "to": []}, {"type": "ask.expired"}, {"type": "ask.withdrawn"},
        {"type": "lease.lapsed", "term": 1},
    ],
    "floor": [{"type": "floor", "step": "release", "holder": None}],
    "lease": [
        {"type": "lease.taken", "term": 1, "hold": "h1"}, {"type": "lease.released", "term": 1, "hold": "h1"},
    ],
    "notice": [
        {"type": f"notification.{step}", "about": "run.finished", "position": "ab12cd34-1", "tries": 1}
        for step in ("failed", "retry", "delivered")
    ] + [{"type": "letter.settled", "letter": "run/writer/r1", "how": "dismissed"}],
    "ctl": [
        {"type": "cancel"}, {"type": "steer", "text": "x"}, {"type": "redirect", "text": "x"}, {"type": "pause"},
        {"type": "resume"},
    ],
    "outcome": [{"type": "outcome", "state": "applied"}],
}  # fmt: skip
WRONG: list[Any] = [
    None, True, 0, -1, 1.5, "x", "", [], [None], [1], ["x"], [[]], {}, {"x": None}, {"x": "y"}, {"x": True}, {"agent": 1},
    {"agent": "a", "run": None}, [{"type": "text", "part": "1", "text": [1], "open": True}], [{"type": []}], 2**64 - 1,
    [{"type": "tool", "call": "c", "status": "running"}], [{"type": "data", "name": {}, "id": []}],
]  # fmt: skip


def busy() -> Fold:
    """A session with one run of everything in progress, a control without outcome, and an agent that is away."""
    return folded(busy_log())


def busy_log() -> list[Event]:
    author = Author()
    for step in (
        "create",
        "input",
        "begin",
        "text",
        "tool.input.delta",
        "tool.input",
        "data",
        "usage",
        "state",
        "steer",
    ):
        author.step(step, 0, 0, "x", {"a": 1})
    author.append("outliner", "presence", {"type": "agent.offline", "reason": "gone"})
    return author.events


def event_of(kind: str, body: Body, sequence: int = 99) -> Event:
    """An event of the run, or about the control, that `busy` has."""
    control = f"x{len(busy_log()) - 2}"
    id = {"run": run_id("ann", "i0"), "presence": "", "meta": "", "outcome": control}.get(kind, "x")
    member = "outliner" if kind in ("run", "presence", "outcome") else "ann"
    return Event(sequence, at(99_000), address(0, "s1", member, kind, target="outliner", id=id), body)


def test_every_type_of_the_vocabulary_has_its_smallest_body_here() -> None:
    """A new type is tested against wrong fields too."""

    for kind, models in VOCABULARY.items():
        assert {model.model_fields["type"].default for model in models} == {body["type"] for body in SMALLEST[kind]}
        assert [validate(kind, body) for body in SMALLEST[kind]]


@pytest.mark.parametrize("kind", SMALLEST)
def test_a_malformed_event_is_counted_and_leaves_the_view_as_it_was(kind: str) -> None:
    """Every wrong type in every field of every type: never raised, never half applied."""

    refused = 0
    for smallest, model in zip(SMALLEST[kind], VOCABULARY[kind], strict=True):
        for name in set(model.model_fields) - {"type"}:
            for bad in WRONG:
                body = smallest | {name: bad}
                fold = busy()
                before = seen(fold)
                fold.apply(event_of(kind, body))
                try:
                    validate(kind, body)
                except InvalidEvent:
                    refused += 1
                    assert (fold.skipped, seen(fold)) == (1, before), body
                assert fold.sequence == 99
                assert seen(Fold.load(seen(fold))) == seen(fold)
        for name in set(smallest) - {"type"}:
            fold = busy()
            before = seen(fold)
            fold.apply(event_of(kind, {key: value for key, value in smallest.items() if key != name}))
            assert (fold.skipped, seen(fold)) == (1, before), (smallest, name)
    assert refused > (0 if kind == "state" else 10) - 1


#: strings that mean something to the fold, so that random bodies meet its branches
keys = st.sampled_from([
    "part", "call", "tool", "text", "open", "id", "name", "input", "output", "status", "usage", "parts", "attempts",
    "attempt", "error", "first", "started", "parent", "object", "agents", "title", "preliminary", "transient", "data",
    "event", "seconds", "reason", "value", "replayed",
    "run", "runs", "state", "deadline", "children", "edits", "again", "after", "redirects", "note", "whisper",
])  # fmt: skip
kinds_of_part = st.sampled_from(["text", "reasoning", "tool", "source", "file", "data", "error", "raw", "other"])
fields = st.deferred(
    lambda: st.dictionaries(keys, values | st.sampled_from(["p", "c", "d", "done"]) | parts | references, max_size=6)
)
references = st.sampled_from([
    True, {"from": "ann", "input": "i0"}, {"from": "ann", "input": "x"}, {"agent": "critic", "run": run_id("ann", "i0")},
    {"agent": "critic", "run": run_id("ann", "x")},
])  # fmt: skip
parts = st.lists(st.builds(lambda body, kind: body | {"type": kind}, fields, kinds_of_part), max_size=2)
bodies = st.one_of([
    st.builds(lambda body, smallest: (kind, smallest | body), fields, st.sampled_from(found))
    for kind, found in SMALLEST.items()
])  # fmt: skip


@settings(max_examples=150)
@given(st.lists(bodies, max_size=12))
def test_whatever_comes_the_fold_does_not_raise_and_the_view_is_json(received: list[tuple[str, Body]]) -> None:
    """Hostile members may write any JSON: each reader's view can be written, loaded, and is the same then."""

    fold = busy()
    for sequence, (kind, body) in enumerate(received, 99):
        fold.apply(event_of(kind, decode(encode(body)), sequence))
        view = seen(fold)
        assert seen(Fold.load(view)) == view
        assert all(isinstance(pair, tuple) for pair in fold.waiting())


def test_numbers_that_grow_beyond_what_json_readers_take_stay_json() -> None:
    """The sum of two 64-bit counts is no 64-bit count; it becomes a float instead of breaking everybody's view."""

    fold = busy()
    for sequence, usage in enumerate([{"n": 2**64 - 1}, {"n": 2**64 - 1}, {"f": 1.7e308}, {"m": 1, "f": 1.7e308}], 99):
        fold.apply(event_of("run", {"type": "usage", "usage": usage}, sequence))

    found = seen(fold)["agents"][0]["runs"][0]["usage"]
    assert fold.skipped == 1
    assert {name: found.get(name) for name in "nfm"} == {"n": 2.0**65, "f": 1.7e308, "m": None}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_payload_nested_too_deep_to_be_shown_is_no_event(opening: bytes) -> None:
    """JSON may be read deeper than it can be written: what would make the view unwritable is refused at the door."""

    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    for depth in (10, 200, 240, 254, 300, 1000):
        payload = b'{"type":"data","name":"x","data":' + opening * depth + b"1" + closing * depth + b"}"
        try:
            body = decode(payload)
        except InvalidEvent:
            assert depth > 200
            continue
        fold = busy()
        fold.apply(event_of("run", body))
        fold.apply(event_of("run", {"type": "run.started", "attempt": 2, "input": "x"}, 100))
        assert seen(fold)
        assert depth <= 240


# -- examples -------------------------------------------------------------------------------------------------------


def run_of(*bodies: Body, every: int = 1000) -> View:
    """The view of a run with these events, one a second from 1 s on."""
    fold = Fold("s1")
    for number, body in enumerate(bodies, 1):
        fold.apply(Event(number, at(number * every), address(0, "s1", "outliner", "run", id="R"), body))
    assert fold.skipped == 0
    return seen(fold)["agents"][0]["runs"][0]


STARTED = {"type": "run.started", "attempt": 1, "input": "ann/I"}


def test_a_run_shows_every_kind_of_part_in_the_order_they_were_opened() -> None:
    """Text and reasoning grow where they began; the rest stands where it came."""

    run = run_of(
        STARTED,
        {"type": "reasoning.delta", "part": "1", "text": "Looking "},
        {"type": "text.delta", "part": "2", "text": "## Out"},
        {"type": "reasoning.delta", "part": "1", "text": "for headings."},
        {"type": "source", "id": "s", "url": "https://example.org", "title": "Example"},
        {"type": "text.delta", "part": "2", "text": "line"},
        {"type": "reasoning.end", "part": "1"},
        {"type": "file", "name": "o.md", "media_type": "text/markdown", "object": "file-1", "size": 3},
        {"type": "error", "message": "slow"},
        {"type": "vendor.thing", "text": [1]},
    )

    assert run["parts"] == [
        {"type": "reasoning", "part": "1", "text": "Looking for headings."},
        {"type": "text", "part": "2", "text": "## Outline", "open": True},
        {"type": "source", "id": "s", "url": "https://example.org", "title": "Example"},
        {"type": "file", "name": "o.md", "media_type": "text/markdown", "object": "file-1", "size": 3},
        {"type": "error", "message": "slow"},
        {"type": "other", "event": {"type": "vendor.thing", "text": [1]}},
    ]
    assert (run["status"], run["started"], run["finished"]) == ("running", at(1000), None)
    assert (run["first"], run["last"], run["input"]) == (1, 10, "ann/I")


def test_a_tool_call_shows_its_input_as_it_is_written_and_then_as_it_is() -> None:
    """`tool.input` replaces the pieces; preliminary outputs replace each other; the last one ends the call."""

    delta = {"type": "tool.input.delta", "call": "c", "tool": "search"}
    begun = [STARTED, delta | {"text": '{"q":'}, delta | {"text": '"x"}'}]
    called = [*begun, {"type": "tool.input", "call": "c", "tool": "search", "input": {"q": "x"}}]
    early = [*called, {"type": "tool.output", "call": "c", "output": 1, "preliminary": True}]
    part = {"type": "tool", "call": "c", "tool": "search", "status": "running", "input": None, "output": None,
            "error": None, "started": at(2000), "seconds": None}  # fmt: skip

    assert run_of(*begun)["parts"] == [part | {"text": '{"q":"x"}', "open": True}]
    assert run_of(*called)["parts"] == [part | {"input": {"q": "x"}}]
    assert run_of(*early)["parts"] == [part | {"input": {"q": "x"}, "output": 1}]
    assert run_of(*early, {"type": "tool.output", "call": "c", "output": 2})["parts"] == [
        part | {"input": {"q": "x"}, "output": 2, "status": "done", "seconds": 4.0}
    ]
    assert run_of(*early, {"type": "tool.error", "call": "c", "error": "no"})["parts"] == [
        part | {"input": {"q": "x"}, "output": 1, "status": "error", "error": "no", "seconds": 4.0}
    ]


def test_a_duration_is_the_time_between_two_stored_events_to_the_millisecond() -> None:
    """By the broker's clock, whatever number of digits it writes."""

    times = ["2025-01-01T00:00:00Z", "2025-01-01T00:00:00.9Z", "2025-01-01T00:00:02.123456789Z"]
    bodies = [STARTED, {"type": "tool.input", "call": "c", "tool": "t"}, {"type": "tool.output", "call": "c"}]
    run = RunFold("a", "r")
    for number, (time, body) in enumerate(zip(times, bodies, strict=True), 1):
        assert run.apply(body, number, time)

    assert run.part_views()[0]["seconds"] == 1.223


def test_the_same_data_id_replaces_in_place_and_without_id_each_stays() -> None:
    """So a progress bar is one part; names with spaces do not run into ids."""

    def data(name: str, value: int, **more: Any) -> Body:
        return {"type": "data", "name": name, "data": value} | more

    run = run_of(STARTED, data("p", 1, id="x"), data("q", 2), data("p", 3, id="x"), data("q", 4), data("p", 5, id="y"),
                 data("p", 6, transient=True), data("a b", 7, id="c"), data("a", 8, id="b c"))  # fmt: skip
    assert [(part["name"], part["data"]) for part in run["parts"]] == [
        ("p", 3), ("q", 2), ("q", 4), ("p", 5), ("a b", 7), ("a", 8),
    ]  # fmt: skip


def test_usage_adds_up_within_an_attempt_and_starts_again_with_the_next() -> None:
    """What a lost attempt used is not what the run shows."""

    usage = [{"type": "usage", "usage": found} for found in ({"in": 10}, {"in": 5, "out": 2.5}, {"out": 1})]
    again = {"type": "run.started", "attempt": 2, "input": "ann/I"}

    assert run_of(STARTED, *usage)["usage"] == {"in": 15, "out": 3.5}
    assert run_of(STARTED, *usage, again, usage[0])["usage"] == {"in": 10}


def test_a_new_attempt_moves_what_there_was_aside_and_starts_empty() -> None:
    """What a lost attempt wrote stays readable under `attempts`; an attempt that wrote nothing leaves nothing."""

    run = run_of(
        STARTED,
        {"type": "text.delta", "part": "1", "text": "half"},
        {"type": "run.started", "attempt": 2, "input": "ann/I"},
        {"type": "run.started", "attempt": 3, "input": "ann/I"},
        {"type": "text.delta", "part": "1", "text": "whole"},
    )

    assert run["attempt"] == 3
    assert run["attempts"] == [{"attempt": 1, "parts": [{"type": "text", "part": "1", "text": "half"}]}]
    assert run["parts"] == [{"type": "text", "part": "1", "text": "whole", "open": True}]
    assert (run["status"], run["started"]) == ("running", at(1000))


def test_a_finished_run_replaces_what_was_folded_and_nothing_comes_after_it() -> None:
    """The end is self-contained; a late event of the run is skipped and counted."""

    fold = Fold("s1")
    end = {"type": "run.finished", "status": "error", "error": "no", "attempt": 2, "input": "ann/I", "usage": {"n": 1},
           "parts": [{"type": "text", "part": "1", "text": "whole"}], "attempts": [], "first": 1, "started": at(5)}  # fmt: skip
    half = [{"type": "text.delta", "part": part, "text": "half"} for part in "12"]
    late = [{"type": "text.delta", "part": "3", "text": "x"}, STARTED, {"type": "usage", "usage": {"n": 5}}]
    for number, body in enumerate([STARTED, *half, end, *late], 1):
        fold.apply(Event(number, at(number * 1000), address(0, "s1", "outliner", "run", id="R"), body))

    assert fold.skipped == len(late)
    assert seen(fold)["agents"] == [{"agent": "outliner", "status": "idle", "reason": None, "back": None, "runs": [
        {"run": "R", "agent": "outliner", "input": "ann/I", "parent": None, "whisper": False, "into": None, "waiting": None, "stalled": None, "status": "error", "cancelled": None, "attempt": 2, "attempts": [],
         "started": at(5), "finished": at(4000), "usage": {"n": 1}, "error": "no", "object": None, "first": 1, "last": 4,
         "parts": [{"type": "text", "part": "1", "text": "whole"}]}]}]  # fmt: skip


def test_an_end_without_parts_lets_the_deltas_stand() -> None:
    """A short `run.finished` of another language is enough when nothing was rolled up."""

    run = run_of(
        STARTED, {"type": "text.delta", "part": "1", "text": "all"}, {"type": "run.finished", "status": "done"}
    )
    assert (run["status"], run["parts"]) == ("done", [{"type": "text", "part": "1", "text": "all"}])


def test_tool_calls_that_are_open_when_the_run_ends_end_as_errors() -> None:
    """Nobody waits for a tool of a finished run."""

    fold = RunFold("a", "r")
    for number, body in enumerate([STARTED, {"type": "tool.input", "call": "c", "tool": "t"}], 1):
        fold.apply(body, number, at(number))

    part = finished(fold, "done", None)["parts"][0]
    assert (part["status"], part["error"]) == ("error", "the run ended first")


def test_an_agent_that_went_silent_is_offline_and_its_runs_are_lost_until_it_writes_again() -> None:
    """Its finished runs stay finished; one event of any of its runs brings it back, but a lost run only its own."""

    fold = Fold("s1")

    def put(number: int, member: str, kind: str, body: Body, id: str = "") -> View:
        fold.apply(Event(number, at(number), address(0, "s1", member, kind, id=id), body))
        return {agent["agent"]: (agent["status"], agent["reason"], [run["status"] for run in agent["runs"]])
                for agent in seen(fold)["agents"]}  # fmt: skip

    put(1, "a", "run", STARTED, "R1")
    put(2, "a", "run", STARTED, "R2")
    put(3, "a", "run", {"type": "run.finished", "status": "done"}, "R2")
    put(4, "a", "run", STARTED, "R3")
    assert put(5, "b", "run", STARTED, "R1") == {
        "a": ("working", None, ["running", "done", "running"]), "b": ("working", None, ["running"])}  # fmt: skip
    assert put(6, "a", "presence", {"type": "agent.offline", "reason": "no heartbeat"}) == {
        "a": ("offline", "no heartbeat", ["lost", "done", "lost"]), "b": ("working", None, ["running"])}  # fmt: skip
    assert put(7, "a", "run", {"type": "text.delta", "part": "1", "text": "x"}, "R1") == {
        "a": ("working", None, ["running", "done", "lost"]), "b": ("working", None, ["running"])}  # fmt: skip
    assert put(8, "c", "presence", {"type": "agent.offline"})["c"] == ("offline", "", [])
    assert list(put(9, "d", "presence", {"type": "agent.offline"})) == ["a", "b", "c", "d"]
    assert list(put(10, "c", "presence", {"type": "agent.offline"})) == ["a", "b", "d", "c"]


def test_when_a_cancel_is_refused_another_that_stands_takes_its_place() -> None:
    """A reader of the full log and one of the compacted log agree on what ended the run, and whether."""

    end = {"type": "run.finished", "status": "done", "input": "ann/I", "parts": [], "first": 2}
    written: list[tuple[str, str, Body, str]] = [
        ("ann", "in", {"type": "input"}, "I"),
        ("a", "run", STARTED, "R"),
        ("ann", "ctl", {"type": "cancel"}, "c1"),
        ("ann", "ctl", {"type": "cancel"}, "c2"),
        ("a", "outcome", {"type": "outcome", "state": "expired"}, "c1"),
        ("a", "run", end, "R"),
        ("ann", "ctl", {"type": "cancel"}, "c3"),
        ("a", "outcome", {"type": "outcome", "state": "too_late"}, "c2"),
    ]
    log = [
        Event(number, at(number), address(0, "s1", member, kind, target="a", id=id), body)
        for number, (member, kind, body, id) in enumerate(written, 1)
    ]

    def cancelled(count: int, events: list[Event]) -> Any:
        view = seen(folded([event for event in events if event.sequence <= count]))
        return [run["cancelled"] for agent in view["agents"] for run in agent["runs"]]

    assert [cancelled(count, log) for count in (2, 3, 4, 5)] == [[None], [3], [3], [4]]
    for events in (log, rolled_up(log, ends(log))):
        assert [cancelled(count, events) for count in (6, 7, 8)] == [[4], [4], [None]]


def test_the_session_shows_its_title_agents_inputs_and_state() -> None:
    """One input to several targets is several entries; a state key has its last value, whoever wrote it."""

    fold = Fold("s1")
    written: list[tuple[str, str, Body, str, str]] = [
        ("ann", "meta", {"type": "session.created", "title": "Review", "agents": ["a", "b"]}, "", ""),
        ("ann", "in", {"type": "input", "text": "Hello", "data": {"x": 1}}, "a", "I"),
        ("ann", "in", {"type": "input", "text": "Hello", "data": {"x": 1}}, "b", "I"),
        ("ann", "state", {"type": "state.set", "value": 1}, "", "k"),
        ("bob", "state", {"type": "state.set", "value": [2]}, "", "k"),
        ("bob", "meta", {"type": "session.updated", "title": "Review 2"}, "", ""),
    ]
    for number, (member, kind, body, target, id) in enumerate(written, 1):
        fold.apply(Event(number, at(number), address(0, "s1", member, kind, target=target, id=id), body))

    view = seen(fold)
    assert view["meta"] == {
        "title": "Review 2",
        "agents": ["a", "b"],
        "created": at(1),
        "by": "ann",
        "compaction": "on",
        "forked_from": None,
    }
    entry = {"input": "I", "from": "ann", "to": "a", "text": "Hello", "data": {"x": 1}, "parent": None,
             "replayed": False, "note": False, "whisper": False, "after": None, "siblings": 1, "floor": None,
             "time": at(2), "sequence": 2}  # fmt: skip
    assert view["inputs"] == [entry, entry | {"to": "b", "time": at(3), "sequence": 3}]
    assert view["state"] == {"k": {"value": [2], "by": "bob", "revision": 5, "time": at(5)}}
    assert (view["session"], view["position"]) == ("s1", "ab12cd34-0")


def test_waiting_names_what_is_open_and_what_nobody_began() -> None:
    """An input to `all` waits for every agent of the session; imported history waits for nobody."""

    fold = Fold("s1")

    def put(number: int, member: str, kind: str, body: Body, target: str = "", id: str = "") -> set[tuple[str, str]]:
        fold.apply(Event(number, at(number), address(0, "s1", member, kind, target=target, id=id), body))
        return set(fold.waiting())

    one, two = run_id("ann", "I"), run_id("ann", "J")
    assert put(1, "ann", "meta", {"type": "session.created", "agents": ["a", "b"]}) == set()
    assert put(2, "ann", "in", {"type": "input", "replayed": True}, "all", "old") == set()
    assert put(3, "ann", "in", {"type": "input"}, "all", "I") == {("a", one), ("b", one)}
    assert put(4, "ann", "in", {"type": "input"}, "c", "J") == {("a", one), ("b", one), ("c", two)}
    assert put(5, "a", "run", STARTED, id=one) == {("a", one), ("b", one), ("c", two)}
    assert put(6, "a", "run", {"type": "run.finished", "status": "failed"}, id=one) == {("b", one), ("c", two)}


def test_events_of_other_kinds_and_of_later_versions_are_no_mistakes() -> None:
    """Kinds of later versions change nothing; unknown types of known kinds are counted."""

    fold = busy()
    before = seen(fold)
    fold.apply(Event(200, at(0), Address(0, "s1", "ann", "tomorrow"), {"type": "x"}))
    assert (fold.skipped, seen(fold), fold.sequence) == (0, before, 200)
    known = set(VOCABULARY) - {"run"}  # there the view shows what it does not know
    for number, kind in enumerate(sorted(known), 300):
        fold.apply(event_of(kind, {"type": "x"}, number))
    assert (fold.skipped, seen(fold), fold.sequence) == (len(known), before, 299 + len(known))


def test_the_deletion_of_a_session_is_noted() -> None:
    """Its followers are told before the log is purged."""

    fold = busy()
    fold.apply(event_of("meta", {"type": "session.deleted"}))
    assert fold.deleted and fold.skipped == 0
