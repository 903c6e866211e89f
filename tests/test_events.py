"""Payloads: what is an event, what the vocabulary refuses, and that it names the field it refuses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event, decode, encode
from orchestrator_free.fold import RunFold
from orchestrator_free.subjects import address
from orchestrator_free.vocabulary import VOCABULARY, validate

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip

#: (kind, a valid payload with every field, the fields that must be there)
RUNS = {"parent": {"agent": "a", "run": "r"}, "redirects": {"agent": "a", "run": "r"}}
INPUTS = {name: {"from": "ann", "input": "I"} for name in ("edits", "again", "after")}
CONTROL = {"run": "r", "deadline": "2026-01-01T00:00:00Z", "reason": "enough"}
NOTICE = {"about": "run.finished", "position": "0123abcd-1", "tries": 3, "error": "410"}
EXAMPLES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("in", {"type": "input", "text": "x", "data": {}, "replayed": True, "depth": 1, "overlap": "queue", "note": True,
            "whisper": True, **RUNS, **INPUTS}, set()),
    ("run", {"type": "run.started", "attempt": 1, "input": "ann/I", "replica": "x", "parent": None,
             "whisper": True}, {"attempt", "input"}),
    ("run", {"type": "run.finished", "status": "done", "attempt": 1, "input": "ann/I", "parent": None, "error": "x",
             "into": {"agent": "a", "run": "r"}, "whisper": True,
             "usage": {"tokens": 1.5}, "parts": [{"type": "text"}], "attempts": [{}], "object": "o", "first": 1,
             "started": "2025-01-01T00:00:00Z",
             "timing": {"first_output_seconds": 0.1, "longest_silence_seconds": 0.2}}, {"status"}),
    ("run", {"type": "text.delta", "part": "1", "text": "x", "by": "sub"}, {"part", "text"}),
    ("run", {"type": "text.end", "part": "1"}, {"part"}),
    ("run", {"type": "reasoning.delta", "part": "1", "text": "x", "by": "sub"}, {"part", "text"}),
    ("run", {"type": "reasoning.end", "part": "1"}, {"part"}),
    ("run", {"type": "tool.input.delta", "call": "c", "tool": "t", "text": "{", "by": "sub"}, {"call", "tool", "text"}),
    ("run", {"type": "tool.input", "call": "c", "tool": "t", "input": {}, "by": "sub"}, {"call", "tool"}),
    ("run", {"type": "tool.output", "call": "c", "output": {}, "preliminary": True}, {"call"}),
    ("run", {"type": "tool.error", "call": "c", "error": "x"}, {"call", "error"}),
    ("run", {"type": "source", "id": "s", "url": "https://x", "title": "x", "by": "sub"}, {"id"}),
    ("run", {"type": "file", "name": "f", "media_type": "text/plain", "url": "x", "object": "o", "size": 1}, {"name"}),
    ("run", {"type": "data", "name": "n", "id": "i", "data": {}, "transient": True, "by": "sub"}, {"name"}),
    ("run", {"type": "usage", "usage": {"tokens": 1}}, {"usage"}),
    ("run", {"type": "error", "message": "x"}, {"message"}),
    ("run", {"type": "run.waiting", "reason": "approval", "ask": "q", "until": "2026-01-01T00:00:00Z"}, {"reason"}),
    ("run", {"type": "run.working"}, set()),
    ("run", {"type": "run.stalled", "seconds": 30.5}, {"seconds"}),
    ("run", {"type": "raw", "data": {}}, set()),
    ("meta", {"type": "session.created", "title": "x", "agents": ["a"], "compaction": "off",
              "forked_from": {"session": "s", "position": "0123abcd-1"}}, set()),
    ("meta", {"type": "session.updated", "title": "x", "agents": ["a"]}, set()),
    ("meta", {"type": "session.deleted"}, set()),
    ("meta", {"type": "branch.selected", "input": {"from": "ann", "input": "I"}}, {"input"}),
    ("presence", {"type": "agent.offline", "reason": "x", "back": "2026-01-01T00:00:00Z"}, set()),
    ("presence", {"type": "presence.set", "status": "away", "reason": "lunch", "back": "2026-01-01T00:00:00Z"}, {"status"}),
    ("state", {"type": "state.set", "value": {}}, set()),
    ("state", {"type": "state.deleted"}, set()),
    ("ctl", {"type": "cancel", "children": True, **CONTROL}, set()),
    ("ctl", {"type": "steer", "text": "shorter", "data": {}, "input": {"from": "ann", "input": "I"}, **CONTROL}, {"text"}),
    ("ctl", {"type": "redirect", "text": "in French", "data": {}, **CONTROL}, {"text"}),
    ("ctl", {"type": "pause", **CONTROL}, set()),
    ("ctl", {"type": "resume", **CONTROL}, set()),
    ("outcome", {"type": "outcome", "state": "applied", "reason": "", "runs": ["r"]}, {"state"}),
    ("ask", {"type": "ask", "about": "approval", "text": "Refund?", "data": {}, "to": ["ann"], "options": ["yes"],
             "rule": "quorum", "quorum": 1, "veto": "no", "run": {"agent": "a", "run": "r"}, "seconds": 60.5,
             "escalations": [{"to": ["bob"], "after_seconds": 30.5}]}, set()),
    ("answer", {"type": "answer", "value": "yes", "comment": "fine"}, set()),
    ("stage", {"type": "ask.escalated", "to": ["bob"]}, {"to"}),
    ("stage", {"type": "ask.expired"}, set()),
    ("stage", {"type": "ask.withdrawn", "reason": "not needed"}, set()),
    ("floor", {"type": "floor", "step": "request", "holder": "a", "previous": "ann", "reason": "a person is wanted",
               "request": {"from": "a", "to": "desk", "reason": "x"}}, {"step", "holder"}),
    ("stage", {"type": "lease.lapsed", "term": 1}, {"term"}),
    ("lease", {"type": "lease.taken", "term": 1, "hold": "h", "seconds": 5.5, "data": {}}, {"term", "hold"}),
    ("lease", {"type": "lease.released", "term": 1, "hold": "h", "done": True, "data": {}}, {"term", "hold"}),
    ("notice", {"type": "notification.failed", **NOTICE}, {"about", "position", "tries"}),
    ("notice", {"type": "notification.retry", **NOTICE}, {"about", "position", "tries"}),
    ("notice", {"type": "notification.delivered", **NOTICE}, {"about", "position", "tries"}),
    (
        "notice",
        {"type": "letter.settled", "letter": "run/writer/3f2a", "how": "dismissed", "by": "ann", "reason": "old"},
        {"letter", "how"},
    ),
]  # fmt: skip
#: fields that hold anything JSON
ANYTHING = {"data", "output", "value"}
#: fields that must be there and may say that there is none
NULLABLE = {("floor", "holder")}
WRONG: list[Any] = [None, True, 1, -1.5, "x", [], {}, [1], {"x": "y"}, {"agent": 1}]


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), json_values, max_size=5),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
def test_a_payload_survives_being_encoded_and_decoded(body: dict[str, Any], kind: str) -> None:
    """Whatever JSON can say comes back as it was, on one line."""

    event = body | {"type": kind}
    payload = encode(event)
    assert decode(payload) == event
    assert b"\n" not in payload and b"\r" not in payload


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass"))
    | json_values.map(orjson.dumps)
)
def test_bytes_that_are_no_event_are_refused_with_one_error_type(payload: bytes) -> None:
    """`decode` gives an object with a textual `type`, or raises InvalidEvent; nothing else comes out."""

    try:
        body = decode(payload)
    except InvalidEvent:
        return
    assert isinstance(body, dict) and isinstance(body["type"], str)


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"[]", b'"x"', b"{}", b'{"type":1}', b'{"type":null}', b"{'type':'x'}", b'{"type":"x"', b"\xff\xfe",
     b'{"type":"x"}{}', b'{"type":NaN}', b'{"type":"\xff"}', b"[" * 100_000, b'{"type":"\\ud800"}'],
)  # fmt: skip
def test_a_payload_without_a_type_is_no_event(payload: bytes) -> None:
    """The hand-written cases: no JSON, no object, no type, no text, bad UTF-8, absurd depth."""

    with pytest.raises(InvalidEvent):
        decode(payload)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", 2**64, "\ud800", {"x": object()}, {(1, 2): 3}])
def test_what_json_cannot_say_is_refused_when_it_is_written(value: Any) -> None:
    """The writer hears it, not the readers."""

    with pytest.raises(InvalidEvent, match="cannot be written as JSON"):
        encode({"type": "data", "name": "x", "data": value})


def test_there_is_an_example_of_every_type_in_the_vocabulary() -> None:
    """A new type needs its example here, with every field it has."""

    models = {
        (kind, model.model_fields["type"].default): model for kind, found in VOCABULARY.items() for model in found
    }
    assert {(kind, body["type"]) for kind, body, _ in EXAMPLES} == set(models)
    for kind, body, required in EXAMPLES:
        fields = models[kind, body["type"]].model_fields
        assert set(body) == set(fields)
        assert required == {name for name, field in fields.items() if field.is_required()}


@pytest.mark.parametrize(
    ("kind", "body", "required"), EXAMPLES, ids=lambda value: value.get("type", "") if isinstance(value, dict) else ""
)
def test_the_vocabulary_takes_its_examples_and_fields_it_does_not_know(
    kind: str, body: dict[str, Any], required: set[str]
) -> None:
    """All fields, only the required ones, and one more that a later version may add."""

    validate(kind, body)
    validate(kind, {"type": body["type"]} | {name: body[name] for name in required})
    validate(kind, body | {"x_later": {"version": 2}})


@pytest.mark.parametrize(
    ("kind", "body", "required"), EXAMPLES, ids=lambda value: value.get("type", "") if isinstance(value, dict) else ""
)
def test_a_missing_field_is_named(kind: str, body: dict[str, Any], required: set[str]) -> None:
    """For each required field of each type."""

    for name in required:
        with pytest.raises(InvalidEvent, match=rf"{body['type']}: .*\b{name}\b"):
            validate(kind, {key: value for key, value in body.items() if key != name})


@pytest.mark.parametrize(
    ("kind", "body", "required"), EXAMPLES, ids=lambda value: value.get("type", "") if isinstance(value, dict) else ""
)
def test_a_wrong_type_in_any_field_is_refused_and_named_and_never_converted(
    kind: str, body: dict[str, Any], required: set[str]
) -> None:
    """A value of another JSON type is refused: what the vocabulary takes, every reader's fold must understand."""

    for name, good in body.items():
        if name in ANYTHING or name == "type" or (body["type"], name) == ("tool.input", "input"):
            continue
        for bad in WRONG:
            if type(bad) is type(good) or (bad is None and name not in required) or (good is None and bad != 1):
                continue
            if (type(good), type(bad)) == (float, int) or (bad is None and (body["type"], name) in NULLABLE):
                continue  # JSON knows one type of number
            with pytest.raises(InvalidEvent, match=rf"{body['type']}: .*\b{name}\b"):
                validate(kind, body | {name: bad})


@pytest.mark.parametrize(
    ("kind", "body", "required"), EXAMPLES, ids=lambda value: value.get("type", "") if isinstance(value, dict) else ""
)
def test_what_the_vocabulary_takes_the_fold_understands(kind: str, body: dict[str, Any], required: set[str]) -> None:
    """A writer checks with the vocabulary, readers fold: they agree on what is well-formed."""

    if kind != "run":
        return
    for candidate in (body, {"type": body["type"]} | {name: body[name] for name in required}):
        assert RunFold("a", "r").apply(candidate, 1, "2025-01-01T00:00:00Z")


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -float("inf"), "5", True, None])
def test_a_count_that_is_no_number_is_refused(count: Any) -> None:
    """JSON has no word for it, and a sum would carry it on."""

    for body in ({"type": "usage"}, {"type": "run.finished", "status": "done"}):
        with pytest.raises(InvalidEvent, match="tokens"):
            validate("run", body | {"usage": {"tokens": count}})


def test_types_the_vocabulary_does_not_know_pass() -> None:
    """Newer writers and vendors are not refused, on any kind."""

    for kind in (*VOCABULARY, "tomorrow"):
        validate(kind, {"type": "vendor.thing", "part": 5})


def test_an_event_tells_who_wrote_what_from_its_address() -> None:
    """Nothing of it is taken from the payload."""

    where = address(0, "s1", "outliner", "run", id="R")
    event = Event(7, "2025-01-01T00:00:00Z", where, {"type": "text.delta", "member": "eve", "id": "x"})
    assert (event.type, event.session, event.member, event.kind, event.id) == (
        "text.delta",
        "s1",
        "outliner",
        "run",
        "R",
    )
