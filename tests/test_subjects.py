"""Names, subjects and positions: what is in the grammar comes back as it was, all else is refused by name."""

from __future__ import annotations

import asyncio
import re
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator_free import contract
from orchestrator_free.agent import Agent
from orchestrator_free.broker import Broker, connect
from orchestrator_free.errors import InvalidName, InvalidPosition
from orchestrator_free.jetstream import Log, Wire, WireOptions
from orchestrator_free.subjects import (
    KINDS,
    Address,
    Position,
    address,
    check_name,
    epoch_of,
    input_filters,
    parse,
    run_id,
    session_filter,
    shard_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GRAMMAR = string.ascii_letters + string.digits + "_-"
#: subject syntax, control characters, escapes, look-alikes of letters and digits, what cannot be seen
STRANGE = (
    [chr(code) for code in range(128) if chr(code) not in GRAMMAR]
    + list("\x80\x85\xa0\xad\u2028\u2029\u200b\u200d\u2060\ufeff\u202e\u0301\ufffd\ud800\udfff")
    + list("аеорсухіѕԁοΑΒⅠⅼ１２ａＡ٣०ªºſ\u212aⅽ𝐚𝟏＿－‐–—−․。＊＞éßıİ😀")
)
HOSTILE = [
    f"{before}{character}{after}" for character in STRANGE for before, after in (("", ""), ("a", "b"), ("a", ""))
]
HOSTILE += [
    "",
    "a" * 65,
    "a" * 10_000,
    "a..b",
    "..",
    "../etc/passwd",
    "%0d%0a",
    "a%2Eb",
    "session.0.s.m.meta",
    "$JS.API",
]
NOT_TEXT: list[Any] = [None, 5, 1.5, True, b"ann", ["ann"], ("ann",), {"ann": 1}, ["ann"] * 10_000]
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def unconnected() -> Broker:
    """A broker nobody connected: whatever reaches the network fails otherwise than with InvalidName."""
    return Broker(Log(Wire(WireOptions(url="nats://127.0.0.1:1"))), "ann")


def takers() -> dict[str, Callable[[Any], object]]:
    """Every parameter of the library that takes a name, but those of coroutines."""
    placed = {
        f"{kind} {part}": lambda bad, kind=kind, part=part: address(
            0, "s", "m", kind, **{other: bad if other == part else "x" for other in KINDS[kind]}
        )
        for kind, parts in KINDS.items()
        for part in parts
    }
    return placed | {
        "session": lambda bad: address(0, bad, "m", "meta"),
        "member": lambda bad: address(0, "s", bad, "meta"),
        "a name": lambda bad: check_name("a name", bad),
        "session ": session_filter_of,
        "agent": lambda bad: input_filters(0, bad),
        "agent ": lambda bad: contract.agent_consumer(0, bad),
        "agent  ": Agent,
        "session  ": unconnected().session,
    }


def session_filter_of(bad: Any) -> object:
    return session_filter(0, bad)


def waiting_takers() -> dict[str, Callable[[Any], Awaitable[object]]]:
    """Every coroutine of the library that takes a name."""
    session = unconnected().session("s")

    async def subscribe(**options: Any) -> None:
        async with session.subscribe(**options):
            pass

    async def connected(bad: Any) -> None:
        async with connect("nats://127.0.0.1:1", member=bad):
            pass

    return {
        "in target": lambda bad: session.send("x", to=[bad]),
        "in id": lambda bad: session.send("x", to="a", id=bad),
        "agent": lambda bad: session.create(agents=["a", bad]),
        "agent ": lambda bad: session.update(agents=[bad]),
        "durable": lambda bad: subscribe(durable=bad),
        "filter": lambda bad: subscribe(durable="d", agents=[bad]),
        "filter ": lambda bad: subscribe(durable="d", kinds=[bad]),
        "member": connected,
    }


def test_the_list_of_hostile_names_is_long_and_hostile() -> None:
    """At least 200 strings, none of them in the grammar; a list that shrank would test less in silence."""

    assert len(set(HOSTILE)) >= 200
    assert not [name for name in HOSTILE if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name, re.ASCII)]


@pytest.mark.parametrize("what", takers())
def test_every_hostile_name_is_refused_with_an_error_that_names_it(what: str) -> None:
    """The error says which parameter and shows the value, shortened, in one printable line."""

    taker = takers()[what]
    for bad in [*HOSTILE, *NOT_TEXT]:
        with pytest.raises(InvalidName) as caught:
            taker(bad)
        message = str(caught.value)
        assert message.startswith(what.strip()) and repr(bad)[:90] in message
        assert len(message) < 500 and message.isprintable()


@pytest.mark.parametrize("what", waiting_takers())
async def test_every_hostile_name_is_refused_before_anything_is_sent(what: str) -> None:
    """Coroutines refuse a name at once, without a connection."""

    taker = waiting_takers()[what]
    for bad in [*HOSTILE, 5, b"ann"]:
        with pytest.raises(InvalidName, match=what.strip()):
            async with asyncio.timeout(1):
                await taker(bad)


@given(st.text(max_size=70))
def test_a_name_is_taken_exactly_if_it_is_in_the_grammar(text: str) -> None:
    """1 to 64 of the ASCII letters, digits, _ and -; nothing is normalised."""

    if 1 <= len(text) <= 64 and set(text) <= set(GRAMMAR):
        assert check_name("x", text) == text
    else:
        with pytest.raises(InvalidName):
            check_name("x", text)


@given(st.integers(0, 9999), names, names, st.sampled_from(sorted(KINDS)), names, names)
def test_an_address_survives_being_written_and_parsed(
    shard: int, session: str, member: str, kind: str, target: str, id: str
) -> None:
    """address → text → parse is the identity, for every kind; unused parts stay empty."""

    parts = {part: {"target": target, "id": id}[part] for part in KINDS[kind]}
    built = address(shard, session, member, kind, **parts)

    assert parse(str(built)) == built
    assert (built.session, built.member, built.kind) == (session, member, kind)
    assert (built.target, built.id) == (parts.get("target", ""), parts.get("id", ""))


tokens = st.one_of(names, st.sampled_from([*KINDS, "session", "live", "0", "00", "٣", "²", "-1", "*", ">", "", "a b"]))


@given(st.lists(tokens, max_size=9).map(".".join) | st.text(max_size=40))
def test_what_parses_is_written_the_same_again(subject: str) -> None:
    """parse → text is the identity too: no second spelling of a subject is understood, and nothing raises."""

    found = parse(subject)
    assert found is None or str(found) == subject


@pytest.mark.parametrize(
    "subject",
    [
        "session.0.s.m",
        "session.0.s.m.meta.x",
        "session.0.s.m.in.t",
        "session.0.s.m.in.t.i.x",
        "session.0.s.m.nope.x",
        "session.0.s.m.run.*",
        "session.0.s.*.run.r",
        "session.0.s.m.run.",
        "session.x.s.m.run.r",
        "session.-1.s.m.run.r",
        "session.٣.s.m.run.r",
        "session.01.s.m.run.r",
        "session." + "9" * 5000 + ".s.m.run.r",
        "live.session.0.s.m.run.r",
        "sessions.0.s.m.run.r",
        "session.0.s.m.run.r ",
        "session.0.s.m.run.r\n",
        "",
    ],
)
def test_a_subject_of_another_shape_is_not_ours(subject: str) -> None:
    """A reader skips it; it is no half-understood event."""

    assert parse(subject) is None


def test_subjects_are_spelled_as_the_protocol_says() -> None:
    """The wire is a promise to other languages: these texts do not change."""

    assert str(address(3, "s1", "ann", "in", target="outliner", id="I")) == "session.3.s1.ann.in.outliner.I"
    assert str(address(0, "s1", "outliner", "run", id="R")) == "session.0.s1.outliner.run.R"
    assert str(address(0, "s1", "ann", "meta")) == "session.0.s1.ann.meta"
    assert parse("session.0.s1.ann.state.K") == Address(0, "s1", "ann", "state", "", "K")
    assert session_filter(2, "s1") == "session.2.s1.>"
    assert input_filters(0, "outliner") == ["session.0.*.*.in.outliner.*", "session.0.*.*.in.all.*"]
    assert run_id("ann", "I") == "96e589de2c95d476c6ca9175"
    assert epoch_of("SESSIONS_0", "2025-01-01T00:00:00Z") == "fbb47de0"
    assert [shard_of("s4", shards) for shards in (1, 4, 16)] == [0, 3, 15]


@given(names, names, names, names)
def test_run_ids_differ_for_different_inputs(sender: str, input_id: str, other_sender: str, other_id: str) -> None:
    """A run belongs to one sender's one input; 24 hex digits are a valid name."""

    assume((sender, input_id) != (other_sender, other_id))
    assert run_id(sender, input_id) != run_id(other_sender, other_id)
    assert check_name("run", run_id(sender, input_id)) == run_id(sender, input_id)


@given(names, st.integers(1, 64))
def test_a_session_has_one_shard_within_range(session: str, shards: int) -> None:
    """The shard depends on nothing but the id and the number of shards."""

    assert shard_of(session, shards) == shard_of(session, shards) in range(shards)


epochs = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
sequences = st.integers(0, 2**63 - 1)


@given(epochs, sequences)
def test_a_position_survives_being_written_and_parsed(epoch: str, sequence: int) -> None:
    """Position → text → parse is the identity."""

    position = Position(epoch, sequence)
    assert Position.parse(str(position)) == position


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fA-F]{7,9}.{0,2}[0-9٠-٩+_ ]{0,21}", fullmatch=True))
def test_what_parses_as_a_position_is_written_the_same_again(text: str) -> None:
    """No second spelling of a position is taken; everything else is refused as what it is."""

    try:
        assert str(Position.parse(text)) == text
    except InvalidPosition as error:
        assert repr(text[:80])[:-1] in str(error)


@pytest.mark.parametrize(
    "text",
    ["", "0", "57", "ab12cd34", "ab12cd34-", "ab12cd34-01", "ab12cd34--1", "ab12cd34-1\n", " ab12cd34-1", "AB12CD34-1",
     "ab12cd3-1", "ab12cd345-1", "ab12cd34-1e3", "ab12cd34-٣", "ab12cd34-" + "9" * 20, "ab12cd34:1", "now", "-1",
     "ab12cd34-1,ab12cd34-2", "x" * 10_000],
)  # fmt: skip
def test_a_text_that_no_log_gave_is_no_position(text: str) -> None:
    """The error shows the text, shortened, and says where positions come from."""

    with pytest.raises(InvalidPosition, match="is not a position") as caught:
        Position.parse(text)
    assert len(str(caught.value)) < 500


def test_positions_of_one_log_are_ordered_by_sequence() -> None:
    """So that a client may keep the newest."""

    assert Position("ab12cd34", 9) < Position("ab12cd34", 10)
