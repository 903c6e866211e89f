"""Shared state: values by key that many change at once, of which no change is lost, in one order with everything else."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_free import Fold, connect
from orchestrator_free.errors import (
    Conflict,
    InvalidEvent,
    InvalidInput,
    InvalidName,
    InvalidPatch,
    PatchFailed,
    TooLarge,
)
from orchestrator_free.session.patches import MAX_OPERATIONS, merged, patched
from orchestrator_free.session.state import STATE_BYTES, Value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker, Session
    from orchestrator_free.embedded.server import EmbeddedServer

WRITERS = """
import asyncio, os, sys
from orchestrator_free import connect

async def write(number):
    async with connect(os.environ["ORCHESTRATOR_FREE_URL"], member=f"w{number}") as broker:
        state = broker.session(sys.argv[1]).state
        for turn in range(int(sys.argv[4])):
            await CHANGE

async def main():
    first, last = int(sys.argv[2]), int(sys.argv[3])
    await asyncio.gather(*(write(number) for number in range(first, last)))

asyncio.run(main())
"""
INCREMENT = 'state.update("count", lambda n: n + 1, default=0, patience_seconds=100)'
MERGE = 'state.merge("fields", {f"w{number}": {"turns": turn + 1}}, patience_seconds=100)'


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    """A session that ann has begun."""
    session = ann.session(fresh("s"))
    await session.create(title="State")
    return session


@pytest.fixture
async def bob(broker_url: str, session: Session) -> AsyncIterator[Session]:
    """The same session, as bob sees it over a connection of his own."""
    async with connect(broker_url, member="bob") as broker:
        yield broker.session(session.id)


async def versions(session: Session, key: str) -> list[Any]:
    """The values of a key in order; deletions are `...`."""
    return [... if one.deleted else one.value for one in await session.state.history(key)]


# -- reading and writing ----------------------------------------------------------------------------------------------


async def test_a_value_is_read_by_everybody_with_who_set_it_and_when(session: Session, bob: Session) -> None:
    """The last one counts, whoever wrote it; the view shows the same."""
    assert await bob.state.get("plan") is None
    mine = await session.state.set("plan", {"step": 1})
    his = await bob.state.set("plan", {"step": 2})
    found = await session.state.get("plan")
    view = await session.view()

    assert found is not None
    assert (found.key, found.value, found.revision, found.by) == ("plan", {"step": 2}, his.revision, "bob")
    assert mine.revision < his.revision
    assert view["state"] == {"plan": {"value": {"step": 2}, "by": "bob", "revision": his.revision, "time": found.time}}
    assert await session.state.all() == {"plan": found}


@pytest.mark.parametrize("value", [None, False, 0, 1.5, "", "naïve 🦜\n\x00", [], {}, [[{"a": [None]}]], 2**63 - 1])
async def test_any_json_is_a_value(session: Session, value: Any) -> None:
    """Null is a value like any other, and not the same as none."""
    await session.state.set("k", value)
    found = await session.state.get("k")
    assert found is not None
    assert found.value == value and type(found.value) is type(value)


async def test_of_two_who_expect_the_same_revision_one_writes_and_the_other_hears_who(
    session: Session, bob: Session
) -> None:
    """The refusal names the one who was first; what it wrote stands."""
    first = await session.state.set("k", 1, expect=0)
    second = await bob.state.set("k", 2, expect=first.revision)
    with pytest.raises(Conflict, match=f"expected to have revision {first.revision}, but bob set revision") as refused:
        await session.state.set("k", 3, expect=first.revision)
    assert refused.value.actual == second.revision
    assert await versions(session, "k") == [1, 2]


async def test_expecting_none_holds_after_a_deletion_too(session: Session, bob: Session) -> None:
    """Delete and begin again, as often as one likes; of twenty who begin at once one does."""
    await session.state.set("k", "old", expect=0)
    with pytest.raises(Conflict, match="expected to have no value, but ann set"):
        await bob.state.set("k", "new", expect=0)
    assert await bob.state.delete("k")
    assert (await session.state.get("k"), await session.state.all()) == (None, {})
    results = await asyncio.gather(
        *((bob if n % 2 else session).state.set("k", n, expect=0) for n in range(20)), return_exceptions=True
    )
    won = [one for one in results if isinstance(one, Value)]
    assert len(won) == 1
    assert all(isinstance(one, Conflict) for one in results if one not in won)
    assert await versions(session, "k") == ["old", ..., won[0].value]


async def test_a_deletion_may_expect_a_revision_and_tells_whether_there_was_something(session: Session) -> None:
    """Nothing is written where nothing was."""
    assert not await session.state.delete("k")
    first = await session.state.set("k", 1)
    second = await session.state.set("k", 2)
    for expect in (0, first.revision):
        with pytest.raises(Conflict):
            await session.state.delete("k", expect=expect)
    assert await session.state.delete("k", expect=second.revision)
    assert not await session.state.delete("k")
    assert not await session.state.delete("k", expect=0)
    with pytest.raises(Conflict, match="but it has none"):
        await session.state.delete("k", expect=second.revision)
    assert await versions(session, "k") == [1, 2, ...]


async def test_the_history_has_every_version_in_order_and_in_pages(session: Session, bob: Session) -> None:
    """Who, what, when; deletions among them; the version of another key is not."""
    for number in range(450):
        await (bob if number % 3 else session).state.set("k", number)
    await session.state.set("other", 1)
    await session.state.delete("k")
    history = await session.state.history("k")
    pages: list[Value] = []
    while page := await session.state.history("k", after=pages[-1].revision if pages else 0, limit=100):
        pages += page

    assert [one.value for one in history] == [*range(450), None]
    assert [one.by for one in history[:4]] == ["ann", "bob", "bob", "ann"]
    assert [one.deleted for one in history] == [False] * 450 + [True]
    assert [one.revision for one in history] == sorted({one.revision for one in history})
    assert pages == history
    assert await session.state.history("never") == []


async def test_what_is_no_value_changes_nothing_and_blocks_nobody(session: Session, bob: Session) -> None:
    """Junk on a key's subject, an unknown type, and a write that expects what stood before them."""
    first = await session.state.set("k", 1)
    where = f"session.{session.shard}.{session.id}.bob.state.k"
    for number, payload in enumerate((b"junk", b'{"type":"of.tomorrow"}', b"")):
        await bob.log.wire.publish(where, payload, message_id=f"{session.id}{number}")
    found = await session.state.get("k")
    assert found is not None and (found.value, found.revision) == (1, first.revision)
    assert (await session.state.all())["k"] == found
    assert (await session.state.update("k", lambda n: n + 1)).value == 2
    await bob.log.wire.publish(where, b"junk", message_id=f"{session.id}more")
    second = await session.state.get("k")
    assert second is not None
    assert (await session.state.set("k", 3, expect=second.revision)).value == 3
    assert await versions(session, "k") == [1, 2, 3]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a.b", "*", ">", "a b", "x" * 65, "ü", None, 5])
async def test_a_key_is_a_name(session: Session, key: Any) -> None:
    """Refused before anything is sent, by every method."""
    state = session.state
    for call in (
        state.get(key),
        state.set(key, 1),
        state.delete(key),
        state.merge(key, {}),
        state.patch(key, []),
        state.update(key, lambda n: n),
        state.history(key),
    ):
        with pytest.raises(InvalidName, match="key"):
            await call
    assert await state.all() == {}


async def test_a_value_beyond_the_limit_is_refused_with_the_limit(session: Session) -> None:
    """The last byte that fits, fits; nothing of what does not is written, whichever way it comes about."""
    await session.state.set("k", "x" * (STATE_BYTES - 2))
    for call in (
        session.state.set("k", "x" * (STATE_BYTES - 1)),
        session.state.update("k", lambda text: text + "x"),
        session.state.merge("k", {"text": "x" * STATE_BYTES}),
        session.state.patch("k", [{"op": "replace", "path": "", "value": "x" * STATE_BYTES}]),
    ):
        with pytest.raises(TooLarge, match=str(STATE_BYTES)):
            await call
    assert len(await session.state.history("k")) == 1


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", "\ud800", {1: 2}, 2**64])
async def test_what_json_cannot_say_is_refused(session: Session, value: Any) -> None:
    """The writer hears it."""
    with pytest.raises(InvalidEvent):
        await session.state.set("k", value)
    with pytest.raises(InvalidInput):
        await session.state.merge("k", {"a": value})
    assert await session.state.get("k") is None


async def test_a_value_nested_too_deep_is_refused(session: Session) -> None:
    """Readers build views and archives around it."""
    deep: Any = 1
    for _ in range(240):
        deep = [deep]
    with pytest.raises(InvalidEvent, match="deep"):
        await session.state.set("k", deep)


@pytest.mark.parametrize("expect", [-1, 1.0, "1", True])
async def test_an_expectation_is_a_revision(session: Session, expect: Any) -> None:
    """A wrong type is not taken for `whatever stands there`."""
    for call in (session.state.set("k", 1, expect=expect), session.state.merge("k", {}, expect=expect)):
        with pytest.raises(InvalidInput, match="expect="):
            await call


# -- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_fifty_writers_in_five_processes_lose_no_update_of_one_key(
    session: Session, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Each over a connection of its own; every value from 1 to 500 was there exactly once."""
    script = tmp_path / "writers.py"
    script.write_text(WRITERS.replace("CHANGE", INCREMENT))
    started = [programs.start(script, session.id, str(first), str(first + 10), "10") for first in range(0, 50, 10)]
    await eventually(lambda: not any(one.alive for one in started), 110)

    history = await session.state.history("count")
    assert [one.process.returncode for one in started] == [0] * 5, started[0].output
    assert [one.value for one in history] == list(range(1, 501))
    assert Counter(one.by for one in history) == {f"w{number}": 10 for number in range(50)}


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_merges_of_different_fields_by_twenty_writers_all_count(
    session: Session, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """In two processes, each writer its own field, while ann changes another one by JSON Patch."""
    script = tmp_path / "writers.py"
    script.write_text(WRITERS.replace("CHANGE", MERGE))
    await session.state.set("fields", {"list": []})
    started = [programs.start(script, session.id, str(first), str(first + 10), "10") for first in (0, 10)]
    for number in range(30):
        await session.state.patch("fields", [{"op": "add", "path": "/list/-", "value": number}])
    await eventually(lambda: not any(one.alive for one in started), 110)

    found = await session.state.get("fields")
    assert found is not None
    assert found.value == {"list": list(range(30))} | {f"w{number}": {"turns": 10} for number in range(20)}


async def test_who_is_overtaken_all_the_time_hears_it(session: Session, bob: Session) -> None:
    """The loop is bounded: Conflict, and nothing of it is written."""
    await session.state.set("k", 0)

    class Overtaken:
        """A change that bob is always faster than."""

        calls = 0
        running: asyncio.Task[Any] | None = None

        def __call__(self, value: Any) -> Any:
            self.calls += 1
            return "mine"

    change = Overtaken()
    reading = bob.state.get
    original = session.log.last

    async def overtaken(*where: Any) -> Any:
        found = await original(*where)
        await bob.state.set("k", change.calls)
        return found

    session.log.last = overtaken  # type: ignore[method-assign]
    try:
        with pytest.raises(Conflict, match=r"faster than this for 0\.3 s"):
            await session.state.update("k", change, patience_seconds=0.3)
    finally:
        session.log.last = original  # type: ignore[method-assign]
    found = await reading("k")
    assert found is not None
    assert change.calls > 1 and found.by == "bob"
    assert "mine" not in await versions(session, "k")


async def test_an_error_in_the_function_leaves_the_value_as_it_was(session: Session) -> None:
    """And what it does to its argument is not seen by the next try."""
    await session.state.set("k", [1])

    def broken(value: list[int]) -> list[int]:
        value.append(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await session.state.update("k", broken)
    default: list[int] = []
    await session.state.update("fresh", lambda found: [*found, found.append(1)], default=default)
    assert (await versions(session, "k"), default) == ([[1]], [])


class Way:
    """A way to the broker; its answers wait while `flows` is cleared, what was asked is kept."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0
        self.asked = bytearray()
        self.flows = asyncio.Event()
        self.flows.set()

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, there = await asyncio.open_connection("127.0.0.1", self._target)
        self._tasks += [
            asyncio.create_task(self._ask(reader, there)),
            asyncio.create_task(self._answer(answers, writer)),
        ]

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                self.asked += piece
                writer.write(piece)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                await self.flows.wait()
                writer.write(piece)
        finally:
            writer.close()


async def test_two_processes_of_one_member_that_write_the_same_do_not_both_believe_it(
    session: Session, broker: EmbeddedServer, eventually: Any
) -> None:
    """One of them gets its answer so late that it asks again; what it finds in the log then is the other's."""
    async with Way(int(broker.url.rpartition(":")[2])) as way:
        async with connect(f"nats://127.0.0.1:{way.port}", member="ann") as second:
            twin = second.session(session.id)
            await twin.exists()
            await session.state.set("k", "same", expect=0)
            way.flows.clear()
            late = asyncio.create_task(twin.state.set("k", "same", expect=0))
            await eventually(lambda: way.asked.count(b".ann.state.k ") >= 2)
            way.flows.set()
            with pytest.raises(Conflict, match="ann set revision"):
                await late
    assert await versions(session, "k") == ["same"]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_updates_while_the_broker_is_killed_are_made_exactly_once(
    session: Session, broker: EmbeddedServer, broker_url: str
) -> None:
    """Each update that was said to be made was made, and none twice: the count is that of the successes."""
    async with contextlib.AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(broker_url, member=f"m{n % 3}")) for n in range(8)]
        done = 0
        stop = asyncio.Event()

        async def write(one: Broker) -> None:
            nonlocal done
            while not stop.is_set():
                await one.session(session.id).state.update("count", lambda n: n + 1, default=0)
                done += 1
                await asyncio.sleep(random.uniform(0, 0.01))

        writing = [asyncio.create_task(write(one)) for one in brokers]
        for _ in range(3):
            before = done
            async with asyncio.timeout(40):
                while done < before + 50:
                    await asyncio.sleep(0.01)
            await broker.restart(kill=True)
        stop.set()
        await asyncio.gather(*writing)
    assert await versions(session, "count") == list(range(1, done + 1))


# -- one order --------------------------------------------------------------------------------------------------------


async def test_state_and_messages_are_one_order_for_every_reader(
    session: Session, bob: Session, broker_url: str, eventually: Any
) -> None:
    """Readers from the beginning, from the middle, and of the view see the same; a view and its tail make the same."""
    seen: list[list[tuple[int, str]]] = [[], []]

    async def follow(place: int, one: Session) -> None:
        async for event in one.follow(compact=False):
            seen[place].append((event.sequence, event.kind))

    readers = [asyncio.create_task(follow(place, one)) for place, one in enumerate((session, bob))]

    async def talk(one: Session) -> None:
        for number in range(20):
            await one.send(f"{number}", to="nobody")
            await one.state.update("turns", lambda n: n + 1, default=0)
            await one.state.set(f"of-{one.member}", number)

    halfway = asyncio.create_task(session.view())
    await asyncio.gather(talk(session), talk(bob))
    await eventually(lambda: all(len(one) == 121 for one in seen))
    for reader in readers:
        reader.cancel()
    fold = Fold.load(await halfway)
    async with asyncio.timeout(20):
        async for event in session.follow(session.position(fold.sequence), compact=False):
            fold.apply(event)
            if event.sequence == seen[0][-1][0]:
                break
    async with connect(broker_url, member="eve") as late:
        view = await late.session(session.id).view()

    assert seen[0] == seen[1] == sorted(seen[0])
    assert Counter(kind for _, kind in seen[0]) == {"meta": 1, "in": 40, "state": 80}
    assert fold.view(view["position"]) == view
    assert {key: one["value"] for key, one in view["state"].items()} == {"turns": 40, "of-ann": 19, "of-bob": 19}


async def test_watching_begins_with_what_is_there_and_goes_on_with_every_change(
    session: Session, bob: Session, eventually: Any
) -> None:
    """One key or all; deletions are told; so is what comes after the session was deleted and begun anew."""
    await session.state.set("a", 1)
    await session.state.set("b", 1)
    await session.state.delete("b")
    told: dict[str | None, list[tuple[str, Any]]] = {None: [], "a": []}

    async def watch(key: str | None) -> None:
        async for one in bob.state.watch(key):
            told[key].append((one.key, ... if one.deleted else one.value))

    watching = [asyncio.create_task(watch(key)) for key in told]
    await eventually(lambda: told == {None: [("a", 1)], "a": [("a", 1)]})
    await session.state.set("a", 2)
    await session.state.set("b", 2)
    await session.state.delete("a")
    changes: list[tuple[str, Any]] = [("a", 1), ("a", 2), ("b", 2), ("a", ...)]
    await eventually(lambda: told[None] == changes and told["a"] == [one for one in changes if one[0] == "a"])
    await session.delete()
    await eventually(lambda: told[None] == [*changes, ("b", ...)])
    await session.state.set("a", 3)
    await eventually(lambda: told[None][-1] == ("a", 3) and told["a"][-1] == ("a", 3))
    for one in watching:
        one.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def test_a_handler_reads_and_changes_the_state_under_its_agents_name(
    session: Session, programs: Any, fresh: Callable[[str], str]
) -> None:
    """`run.session.state`; the answer and the value are in one log."""
    name = fresh("agent")
    programs.agent(
        name,
        """
        plan = await run.session.state.get("plan")
        await run.session.state.merge("plan", {"done": plan.value["todo"]})
        await run.text("noted")
        """,
    )
    await session.state.set("plan", {"todo": 3})
    sent = await session.send("go", to=name)
    run = await session.result(name, sent.run, timeout=30)
    found = await session.state.get("plan")

    assert run["status"] == "done", run["error"]
    assert found is not None
    assert (found.value, found.by) == ({"todo": 3, "done": 3}, name)


# -- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "patch", "result"),
    [
        # the test cases of RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
async def test_merge_patches_are_those_of_the_rfc(session: Session, value: Any, patch: Any, result: Any) -> None:
    """Nothing that was passed is changed."""
    before = orjson.dumps([value, patch])
    assert merged(value, patch) == result
    assert orjson.dumps([value, patch]) == before
    await session.state.set("k", value)
    assert (await session.state.merge("k", patch)).value == result


async def test_a_merge_patch_begins_a_value_where_there_is_none(session: Session) -> None:
    """As if there were an empty object; JSON Patch needs something to change."""
    assert (await session.state.merge("k", {"a": 1, "b": None})).value == {"a": 1}
    with pytest.raises(PatchFailed, match="'other' has no value that could be patched; set it first"):
        await session.state.patch("other", [{"op": "add", "path": "", "value": 1}])
    await session.state.delete("k")
    with pytest.raises(PatchFailed):
        await session.state.patch("k", [{"op": "add", "path": "/a", "value": 1}])
    assert await session.state.get("other") is None


async def test_operations_apply_in_order(session: Session) -> None:
    """Each kind of them."""
    await session.state.set("k", {"a": 1, "list": [1, 2], "x/y": {"~": 1}})
    operations = [
        {"op": "test", "path": "/a", "value": 1},
        {"op": "add", "path": "/list/-", "value": 3},
        {"op": "add", "path": "/list/0", "value": 0},
        {"op": "copy", "from": "/list", "path": "/copy"},
        {"op": "replace", "path": "/copy/0", "value": "zero"},
        {"op": "move", "from": "/a", "path": "/b"},
        {"op": "remove", "path": "/x~1y/~0"},
    ]
    before = orjson.dumps(operations)
    changed = await session.state.patch("k", operations)
    assert changed.value == {"b": 1, "list": [0, 1, 2, 3], "copy": ["zero", 1, 2, 3], "x/y": {}}
    assert orjson.dumps(operations) == before


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"op": "remove", "path": "/none"}, "operation 1 .remove /none. does not apply"),
        ({"op": "replace", "path": "/none/x", "value": 1}, "operation 1 .replace /none/x. does not apply"),
        ({"op": "test", "path": "/a", "value": 2}, "operation 1 .test /a.: there is another value, or none"),
        ({"op": "test", "path": "/a", "value": True}, "another value"),
        ({"op": "test", "path": "/none", "value": None}, "another value, or none"),
        ({"op": "add", "path": "/list/9", "value": 1}, "does not apply"),
        ({"op": "add", "path": "/list/x", "value": 1}, "does not apply"),
        ({"op": "add", "path": "/a/b", "value": 1}, "does not apply"),
        ({"op": "move", "from": "/list", "path": "/list/0"}, "does not apply"),
        ({"op": "copy", "from": "/none", "path": "/b"}, "does not apply"),
    ],
)
async def test_a_patch_that_does_not_apply_says_which_operation_and_changes_nothing(
    session: Session, operation: dict[str, Any], words: str
) -> None:
    """Also what the operations before it would have changed."""
    await session.state.set("k", {"a": 1, "list": [1]})
    with pytest.raises(PatchFailed, match=words):
        await session.state.patch("k", [{"op": "add", "path": "/b", "value": 1}, operation])
    assert await versions(session, "k") == [{"a": 1, "list": [1]}]


@pytest.mark.parametrize(
    "operations",
    [
        None, "x", "[]", {"op": "add", "path": "/a", "value": 1}, ["x"], [None], [{}], [{"op": "fly", "path": "/a"}],
        [{"op": "add", "path": "/a"}], [{"op": "add", "value": 1}], [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": 5, "value": 1}], [{"op": ["add"], "path": "/a", "value": 1}], [{"op": "move", "path": "/a"}],
        [{"op": "add", "path": "/a~2", "value": 1}], [{"op": "add", "path": "/a", "value": ...}],
        [{"op": "test", "path": "/a", "value": 1}] * (MAX_OPERATIONS + 1),
    ],
    ids=lambda operations: repr(operations)[:80],
)  # fmt: skip
async def test_what_is_no_json_patch_is_refused_whatever_the_value(session: Session, operations: Any) -> None:
    """Its shape is wrong, so it is refused before the value is looked at."""
    with pytest.raises(InvalidPatch):
        await session.state.patch("k", operations)


async def test_copies_of_copies_end_at_the_limit(session: Session) -> None:
    """Forty operations would fill any memory."""
    await session.state.set("k", {"a": "x" * 100})
    doubling = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(40)]
    with pytest.raises(TooLarge, match=f"operation 1[0-9] .* the limit is {STATE_BYTES}"):
        await session.state.patch("k", doubling)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)
pointers = st.lists(st.sampled_from(["a", "b", "0", "1", "-", "", "01", "~0", "~"]), max_size=3).map(
    lambda tokens: "".join(f"/{token}" for token in tokens)
)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]), "path": pointers | json_values},
    optional={"value": json_values, "from": pointers | json_values},
)


@given(json_values, st.lists(operations | json_values, max_size=5) | json_values)
def test_whatever_a_patch_says_it_applies_or_is_refused_and_changes_no_argument(value: Any, patch: Any) -> None:
    """Nothing else is raised; the result is JSON."""
    before = orjson.dumps([value, patch])
    with contextlib.suppress(InvalidPatch, PatchFailed):
        orjson.dumps(patched(value, patch, limit=10_000))
    orjson.dumps(merged(value, patch))
    assert orjson.dumps([value, patch]) == before
