"""The rules of Durable Streams, without a broker: decisions on appends, forks, JSON mode, offsets, cursors, life."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_free.durable_streams.cursor import Cursors
from orchestrator_free.durable_streams.forks import inherited, stretches
from orchestrator_free.durable_streams.head import Accepted, Head, decide, payload_of
from orchestrator_free.durable_streams.json_mode import flatten, prefix
from orchestrator_free.durable_streams.life import due, must_renew
from orchestrator_free.durable_streams.offsets import offset_of, sequence_of
from orchestrator_free.durable_streams.records import Mark, Record, Segment
from orchestrator_free.durable_streams.refusals import Refusal
from orchestrator_free.durable_streams.requests import Append, Producer, append_of, creation_of
from orchestrator_free.durable_streams.tail import Tail

TEXT = "text/plain"
STORE = "store"


def append(**values: Any) -> Append:
    return Append(**({"body": b"x", "content_type": TEXT} | values))


def verdict(head: Head, wanted: Append) -> Any:
    """`store`, the accepted write, or the refusal's status."""
    try:
        return decide(head, wanted, TEXT) or STORE
    except Refusal as refusal:
        return refusal.status


P = Producer
OPEN = Head(tail=7, last=7, seq="05", producers={"p": P("p", 2, 4), "new": None})
CLOSED = Head(tail=7, last=8, closed=True, closed_by=P("p", 2, 5), producers={"p": P("p", 2, 5), "new": None})


@pytest.mark.parametrize(
    ("head", "wanted", "expected"),
    [
        (OPEN, append(), STORE),
        (OPEN, append(content_type="TEXT/plain; charset=utf-8"), STORE),
        (OPEN, append(content_type="application/json"), 409),
        (OPEN, append(seq="06"), STORE),
        (OPEN, append(seq="05"), 409),
        (OPEN, append(seq="1"), STORE),  # as text: behind "05"
        (OPEN, append(producer=P("p", 2, 5)), STORE),
        (OPEN, append(producer=P("p", 2, 4)), (False, P("p", 2, 4))),
        (OPEN, append(producer=P("p", 2, 0)), (False, P("p", 2, 4))),
        (OPEN, append(producer=P("p", 2, 6)), 409),
        (OPEN, append(producer=P("p", 3, 0)), STORE),
        (OPEN, append(producer=P("p", 3, 1)), 400),
        (OPEN, append(producer=P("p", 1, 9)), 403),
        (OPEN, append(producer=P("new", 9, 0)), STORE),
        (OPEN, append(producer=P("new", 0, 1)), 409),
        (OPEN, append(producer=P("p", 2, 4), seq="01"), (False, P("p", 2, 4))),  # a repetition before the order
        (OPEN, append(expect=7), STORE),
        (OPEN, append(expect=6), 412),
        (OPEN, append(expect=6, producer=P("p", 2, 4)), (False, P("p", 2, 4))),  # it was true when it was stored
        (OPEN, append(body=b"", close=True, content_type="any/thing"), STORE),
        (CLOSED, append(), 409),
        (CLOSED, append(close=True), 409),
        (CLOSED, append(body=b"", close=True), (True, None)),
        (CLOSED, append(producer=P("p", 2, 5), close=True), (True, P("p", 2, 5))),
        (CLOSED, append(producer=P("p", 2, 4)), 409),
        (CLOSED, append(producer=P("p", 1, 0)), 403),
        (CLOSED, append(producer=P("new", 0, 0)), 409),
        (CLOSED, append(content_type="application/json"), 409),
    ],
)
def test_what_becomes_of_an_append(head: Head, wanted: Append, expected: Any) -> None:
    """The protocol's table of decisions."""
    found = verdict(head, wanted)
    if isinstance(found, Accepted):
        assert (found.tail, found.stored) == (7, False)
        found = (found.closed, found.producer)
    assert found == expected


def test_a_refusal_says_what_a_client_needs_to_go_on() -> None:
    """Stale epoch: the present one. Gap: what is expected. Closed: where it ends. Moved tail: where it is."""

    def headers(head: Head, wanted: Append) -> dict[str, str]:
        with pytest.raises(Refusal) as caught:
            decide(head, wanted, TEXT)
        return caught.value.headers

    assert headers(OPEN, append(producer=P("p", 1, 0))) == {"producer-epoch": "2"}
    gap = {"producer-expected-seq": "5", "producer-received-seq": "9"}
    assert headers(OPEN, append(producer=P("p", 2, 9))) == gap
    assert headers(CLOSED, append()) == {"stream-closed": "true", "stream-next-offset": offset_of(7)}
    assert headers(OPEN, append(expect=3)) == {"stream-next-offset": offset_of(7), "etag": f'"{offset_of(7)}"'}


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from(["", "a", "b"])), max_size=12))
def test_a_head_that_was_loaded_from_the_last_message_is_the_one_that_saw_all(steps: list[Any]) -> None:
    """Tail, closing and the writer's sequence are in every message, so a gateway that starts reads one."""
    seen = Head(tail=0)
    messages: list[tuple[int, Mark]] = []
    for number, (more, bare, seq) in enumerate(steps, 1):
        more = more and number < len(steps) and not bare
        mark = Mark(after=seen.last, more=more, bare=bare, tail=seen.tail if bare else 0, seq=seq or seen.seq)
        messages.append((number * 3, mark))
        seen.apply(number * 3, mark)
    if not messages:
        return
    loaded = Head(tail=0)
    sequence, mark = messages[-1]
    assert Mark.find(b"NATS/1.0\r\nDurable-Stream: %b\r\n\r\n" % mark.encode().encode()) == mark
    loaded.apply(sequence, mark)
    assert (loaded.last, loaded.seq, loaded.closed) == (seen.last, seen.seq, seen.closed)
    if not mark.more:
        assert loaded.tail == seen.tail


# -- forks ----------------------------------------------------------------------------------------------------------


def read(record: Record, logs: dict[str, list[int]], after: int) -> list[int]:
    """Read as the store does: through the stretches."""
    found = []
    for stretch in stretches(record, after):
        end = stretch.upto or 10**9
        found += [sequence for sequence in logs[stretch.id] if stretch.after < sequence <= end]
    return found


@given(st.data())
def test_a_fork_of_forks_reads_as_if_it_had_everything(data: st.DataObject) -> None:
    """Generated chains: from any offset a fork yields what its source held up to the place, then its own."""
    sequence = 0
    logs: dict[str, list[int]] = {}
    whole: list[int] = []
    record = Record(path="0", id="0", content_type=TEXT)
    for depth in range(data.draw(st.integers(1, 4))):
        if depth:
            at = data.draw(st.sampled_from([0, *whole]))
            tail = whole[-1] if whole else 0
            base, segments = inherited(record, tail, at)
            record = Record(path=str(depth), id=str(depth), content_type=TEXT, at=base, segments=segments)
            whole = [one for one in whole if one <= at]
        logs[record.id] = []
        for _ in range(data.draw(st.integers(0, 4))):
            sequence += data.draw(st.integers(1, 3))
            logs[record.id].append(sequence)
            whole.append(sequence)
            for other in logs:
                if other != record.id and data.draw(st.booleans()):  # the sources go on, unseen
                    sequence += 1
                    logs[other].append(sequence)
    assert Record.decode(record.encode()) == record
    for after in [0, *whole]:
        assert read(record, logs, after) == [one for one in whole if one > after]


def test_a_fork_beyond_the_end_is_refused() -> None:
    """It names both offsets."""
    source = Record(path="s", id="s", content_type=TEXT, at=4, segments=(Segment("r", 4),))
    with pytest.raises(Refusal, match=offset_of(9)) as caught:
        inherited(source, 8, 9)
    assert caught.value.status == 400


# -- JSON mode ------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
)  # fmt: skip


@given(st.lists(VALUES, min_size=1, max_size=6), st.sampled_from([None, 1]), st.data())
def test_arrays_are_flattened_one_level_and_cut_between_values(values: list[Any], indent: Any, data: Any) -> None:
    """What is stored is the text between the brackets; any number of first values can be taken of it."""
    stored = flatten(json.dumps(values, indent=indent).encode())
    assert json.loads(b"[" + stored + b"]") == values
    count = data.draw(st.integers(0, len(values)))
    assert json.loads(b"[" + (prefix(stored, count) or b"") + b"]") == values[:count]
    assert prefix(stored, len(values) + 1) is None


def test_what_was_sent_is_kept_as_it_was_written() -> None:
    """No number loses a digit, no value is written anew."""
    assert flatten(b' [ 1.10, 12345678901234567890 , {"a" : 1e300}] ') == b'1.10, 12345678901234567890 , {"a" : 1e300}'
    assert flatten(b' {"a" : 1.0} ') == b'{"a" : 1.0}'
    assert payload_of(b"[]", "application/json", creating=True) == b""
    for bad in (b"[]", b"{", b"[1,]", b"NaN", b"\xff"):
        with pytest.raises(Refusal):
            payload_of(bad, "application/json; charset=utf-8")


# -- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"stream-ttl": "01"}, {"stream-ttl": "+1"}, {"stream-ttl": "1.0"}, {"stream-ttl": "-1"}, {"stream-ttl": ""},
        {"stream-ttl": "99999999999999999999"}, {"stream-ttl": "1", "stream-expires-at": "2030-01-01T00:00:00Z"},
        {"stream-expires-at": "tomorrow"}, {"stream-expires-at": "2030-01-01"}, {"stream-expires-at": "2030-13-01T00:00:00Z"},
        {"stream-fork-offset": offset_of(1)}, {"stream-fork-sub-offset": "0"}, {"stream-forked-from": "elsewhere"},
        {"stream-forked-from": "/v1/stream/"}, {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "-1"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "now"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-sub-offset": "1e3"},
    ],
)  # fmt: skip
def test_a_creation_that_cannot_be_read_is_refused(headers: dict[str, str]) -> None:
    """Each with 400 and the header's name."""
    with pytest.raises(Refusal) as caught:
        creation_of(headers)
    assert caught.value.status == 400
    assert any(name in str(caught.value).lower() for name in headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"producer-id": "p"}, {"producer-id": "p", "producer-epoch": "0"}, {"producer-epoch": "0", "producer-seq": "0"},
        {"producer-id": "", "producer-epoch": "0", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "1e3", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(2**53)},
        {"producer-id": "p", "producer-epoch": "0", "producer-seq": "9" * 400},
        {"if-match": '"a", "b"'}, {"if-match": "nonsense"},
    ],
)  # fmt: skip
def test_an_append_that_cannot_be_read_is_refused(headers: dict[str, str]) -> None:
    """Each with 400."""
    with pytest.raises(Refusal) as caught:
        append_of({"content-type": TEXT, **headers}, b"x")
    assert caught.value.status == 400


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_offsets_sort_as_their_sequences(one: int, other: int) -> None:
    """As text, which is all that clients know of them."""
    assert (offset_of(one) < offset_of(other)) == (one < other)
    assert sequence_of(offset_of(one)) == one


@pytest.mark.parametrize("text", ["", " ", "0", "_", "1_", "-2", "+1_1", "0_1,2", "0_1/..", "0_" + "9" * 30, "٣_٣"])
def test_no_offset_is_taken_for_one(text: str) -> None:
    """What is no offset is refused, whatever digits it has."""
    with pytest.raises(Refusal):
        sequence_of(text)


# -- caches, life, memory -------------------------------------------------------------------------------------------


def test_a_cursor_is_always_later_than_the_one_that_is_echoed() -> None:
    """And the same for all who echo the same, so that they can share what is sent."""
    cursors, now = Cursors(), 1_800_000_000.0
    current = cursors.now(now)
    assert cursors.least(None, now) == cursors.least(str(current - 1), now) == cursors.least("no number", now) == 0
    later = {cursors.least(str(current), now) for _ in range(10)}
    assert len(later) == 1
    assert min(later) > current
    assert cursors.least(str(current + 5000), now) > current + 5000
    assert cursors.now(now + 20) == current + 1


@given(st.integers(1, 10_000), st.lists(st.integers(0, 5_000), max_size=30))
def test_a_stream_never_expires_earlier_than_promised(ttl: int, pauses: list[int]) -> None:
    """However its uses fall, and although not each of them is written down."""
    record = Record(path="p", id="i", content_type=TEXT, ttl=ttl)
    now, written, writes = 0, due(record, 0), 1
    for pause in pauses:
        now += pause
        if now >= written:
            return
        if must_renew(record, written, now):
            written, writes = due(record, now), writes + 1
        assert written >= now + ttl * 1000
    assert writes <= 1 + now / (ttl * 100) + 1


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=60), st.integers(10, 200))
def test_the_memory_of_a_stream_is_bounded_and_never_begins_inside_an_append(steps: list[Any], budget: int) -> None:
    """What is given out is what came, whole appends only, or nothing at all."""
    tail, sequence, appends, parts = Tail(0, budget), 0, [], b""
    for number, (size, more) in enumerate(steps):
        more = more and number < len(steps) - 1
        sequence += 2
        piece = bytes([number % 256]) * size
        tail.add(sequence, piece, more=more)
        parts += piece
        if not more:
            appends.append((sequence, parts))
            parts = b""
    assert tail.size <= budget + max(len(payload) for _, payload in appends)
    for after in [0, *(end for end, _ in appends)]:
        chunk = tail.after(after, 50)
        if chunk is None:
            assert after < tail.floor
            continue
        expected = [payload for end, payload in appends if end > after]
        assert list(chunk.payloads) == expected[: len(chunk.payloads)]
        assert chunk.payloads or not expected
