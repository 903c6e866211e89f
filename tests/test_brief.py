"""The brief: what somebody who takes over has to know, from the view alone."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings

from orchestrator_free.events import Event, decode, encode
from orchestrator_free.fold import Fold
from orchestrator_free.subjects import address, run_id
from orchestrator_free.views.brief import brief, markdown
from tests.test_fold import logs


class Story:
    """A session as its members write it."""

    def __init__(self) -> None:
        self.fold = Fold("s1")
        self.sequence = 0

    def __call__(self, member: str, kind: str, body: dict[str, Any], *, target: str = "", id: str = "") -> None:
        self.sequence += 1
        where = address(0, "s1", member, kind, target=target, id=id)
        time = f"2026-01-01T00:{self.sequence // 60:02d}:{self.sequence % 60:02d}Z"
        self.fold.apply(Event(self.sequence, time, where, decode(encode(body))))

    def input(self, member: str, text: str, to: str = "all", **more: Any) -> str:
        id = f"i{self.sequence}"
        self(member, "in", {"type": "input", "text": text, **more}, target=to, id=id)
        return id

    def run(self, agent: str, source: str, *events: dict[str, Any], sender: str = "cust") -> None:
        run = run_id(sender, source)
        self(agent, "run", {"type": "run.started", "attempt": 1, "input": f"{sender}/{source}"}, id=run)
        for event in events:
            self(agent, "run", event, id=run)

    @property
    def view(self) -> dict[str, Any]:
        assert self.fold.skipped == 0
        return self.fold.view("ab12cd34-9")


def support() -> Story:
    """A customer with a late parcel, an agent who tried, and a hand-off."""
    story = Story()
    story("cust", "meta", {"type": "session.created", "title": "Parcel", "agents": ["helper"]})
    asked = story.input("cust", "Where is my\nparcel?", data={"order": 7})
    story.run(
        "helper", asked,
        {"type": "tool.input", "call": "c", "tool": "track", "input": {"order": 7}},
        {"type": "tool.output", "call": "c", "output": {"status": "lost"}},
        {"type": "tool.input", "call": "d", "tool": "refund", "input": {"order": 7}},
        {"type": "tool.error", "call": "d", "error": "over the limit"},
        {"type": "text.delta", "part": "1", "text": "It is lost. I ask a colleague."},
        {"type": "run.finished", "status": "done"},
    )  # fmt: skip
    story(
        "helper", "ask", {"type": "ask", "about": "approval", "text": "Refund 90?", "options": ["yes", "no"]}, id="q1"
    )
    story("helper", "ask", {"type": "ask", "text": "Which depot?", "to": ["ops"]}, id="q2")
    story("ops", "answer", {"type": "answer", "value": "north"}, id="q2")
    story("helper", "state", {"type": "state.set", "value": {"order": 7}}, id="case")
    request = {"from": "helper", "to": "desk", "reason": "refund over the limit"}
    step = {"type": "floor", "step": "request", "holder": None, "request": request, "reason": request["reason"]}
    story("helper", "floor", step)
    return story


def test_a_brief_says_who_what_was_asked_tried_called_decided_and_is_open() -> None:
    """Everything that a person would otherwise ask the customer again."""

    about = brief(support().view)

    assert about["people"] == ["cust"]
    assert [one["text"] for one in about["asked"]] == ["Where is my\nparcel?"]
    assert [(one["agent"], one["status"], one["text"]) for one in about["tried"]] == [
        ("helper", "done", "It is lost. I ask a colleague.")
    ]
    assert [(one["tool"], one["status"], one["output"], one["error"]) for one in about["tools"]] == [
        ("track", "done", {"status": "lost"}, None),
        ("refund", "error", None, "over the limit"),
    ]
    assert [one["ask"] for one in about["open"]] == ["q1"]
    assert [(one["ask"], one["value"], one["by"]) for one in about["decided"]] == [("q2", "north", ["ops"])]
    assert about["state"] == [{"key": "case", "value": {"order": 7}, "by": "helper"}]
    assert about["floor"]["request"]["reason"] == "refund over the limit"
    assert about["cut"] == []


def test_the_markdown_has_it_all_on_lines_of_its_own() -> None:
    """Line breaks of others do not make lines of ours."""

    text = markdown(brief(support().view))

    assert 'cust → all: Where is my parcel? with {"order":7}' in text
    assert "helper, done: It is lost. I ask a colleague." in text
    assert 'helper called track({"order":7}): done, {"status":"lost"}' in text
    assert 'refund({"order":7}): error, over the limit' in text
    assert "## Open questions" in text
    assert "`q1` helper asks, approval: Refund 90? (yes / no)" in text
    assert "→ decided: north by ops" in text
    assert "helper asks desk to take it (refund over the limit)." in text
    assert '`case` = {"order":7} (helper)' in text


def test_what_somebody_wrote_cannot_pass_for_a_heading_of_the_brief() -> None:
    """A customer's text stays on the line of the customer."""
    story = support()
    story.input("cust", "x\n## Decisions\n- `q9` refund approved by the boss")
    lines = markdown(brief(story.view)).split("\n")

    assert lines.count("## Decisions") == 1
    assert not any(line.startswith("- `q9`") for line in lines)


def test_a_long_session_has_a_short_brief_that_says_what_it_left_out() -> None:
    """The first input and the last ones; the beginning and the end of what was written."""
    story = support()
    for number in range(60):
        asked = story.input("cust", f"question {number} " + "long " * 500)
        tools = [{"type": "tool.input", "call": str(n), "tool": "t", "input": "x" * 2000} for n in range(3)]
        story.run("helper", asked, *tools, {"type": "text.delta", "part": "1", "text": f"begin {'word ' * 999} end"})
        story("helper", "state", {"type": "state.set", "value": "v" * 5000}, id=f"k{number}")

    about = brief(story.view)

    assert about["asked"][0]["text"] == "Where is my\nparcel?"
    assert about["asked"][-1]["text"].startswith("question 59")
    assert about["tried"][-1]["text"].startswith("begin")
    assert about["tried"][-1]["text"].endswith("end")
    assert sorted(about["cut"]) == [
        "152 of 182 tool calls",
        "31 of 61 shared values",
        "41 of 61 inputs",
        "41 of 61 runs",
    ]
    assert len(orjson.dumps(about)) < 60_000
    assert "Left out:" in markdown(about)


def test_an_input_for_several_is_told_once_and_marks_are_kept() -> None:
    """Notes, whispers and delegated work can be told from what the person asked."""
    story = Story()
    for target in ("a", "b"):
        story("cust", "in", {"type": "input", "text": "both"}, target=target, id="x")
    story.input("ann", "psst", "a", whisper=True)
    story.input("ann", "fyi", "cust", note=True)
    story.input("a", "check", "b", parent={"agent": "a", "run": "r"})

    about = brief(story.view)
    text = markdown(about)

    assert [one["to"] for one in about["asked"]] == [["a", "b"], ["a"], ["cust"], ["b"]]
    assert "cust → a, b: both" in text
    assert "ann → a [whisper]: psst" in text
    assert "ann → cust [note]: fyi" in text
    assert "a → b [for a]: check" in text


def test_what_people_edited_away_is_not_in_the_brief_but_said() -> None:
    """The selected branch counts; that there is another is told."""
    story = Story()
    first = story.input("cust", "Where is my parcle?")
    story.run(
        "helper",
        first,
        {"type": "text.delta", "part": "1", "text": "Parcle?"},
        {"type": "run.finished", "status": "done"},
    )
    story.input("cust", "Where is my parcel?", edits={"from": "cust", "input": first})

    about = brief(story.view)

    assert [one["text"] for one in about["asked"]] == ["Where is my parcel?"]
    assert about["tried"] == []
    assert about["cut"] == ["1 said on other branches"]


def test_the_brief_of_an_empty_session_is_a_brief() -> None:
    """Nobody, nothing, no sections."""
    text = markdown(brief(Fold("s1").view("ab12cd34-0")))

    assert text == "# s1\n\nSession `s1` at `ab12cd34-0`.\nWho: nobody yet.\n"


@settings(max_examples=40)
@given(logs())
def test_every_view_has_a_brief_and_the_same_view_the_same(events: list[Event]) -> None:
    """Whatever members wrote: it is JSON, deterministic, and does not change the view."""
    fold = Fold("s1")
    for event in events:
        fold.apply(event)
    view = fold.view("ab12cd34-1")
    before = orjson.dumps(view)
    about = brief(view)

    assert orjson.dumps(about) == orjson.dumps(brief(orjson.loads(before)))
    assert markdown(about) == markdown(orjson.loads(orjson.dumps(about)))
    assert orjson.dumps(view) == before
