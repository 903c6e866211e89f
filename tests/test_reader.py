"""Reading one session on a real broker: each event once, in order, from anywhere, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
from bisect import bisect_right
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from orchestrator_free.broker import Broker, connect
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import PositionLost
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.reading import reader as reading
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.session import Session
from orchestrator_free.subjects import Position, address, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Eventually = Callable[..., Awaitable[Any]]

STREAM = "SESSIONS_0"

#: ten members who write runs, inputs and state into one session until a file appears; argv: session, file, compact %
WRITERS = '''
import asyncio, os, random, sys
from orchestrator_free import connect
from orchestrator_free.events import encode
from orchestrator_free.fold import RunFold
from orchestrator_free.working.run import RunWriter
from orchestrator_free.subjects import address

async def work(broker, session, number):
    """Runs of numbered words; half of them written by two attempts."""
    agent, wire = f"agent-{number}", broker.log.wire
    while not os.path.exists(sys.argv[2]):
        sent = await session.send("go", to=agent)
        subject = str(address(session.shard, session.id, agent, "run", id=sent.run))
        fold, last, words = RunFold(agent, sent.run), 0, random.randrange(5, 40)
        for attempt in range(1, random.choice((2, 3))):
            writer = RunWriter(wire, subject, fold, last=last)
            await writer.start(attempt, f"{broker.member}/{sent.input}", None, f"replica-{attempt}")
            for word in range(words):
                await writer.write({"type": "text.delta", "part": str(word % 2), "text": f"{word} "})
                await asyncio.sleep(random.random() * 0.04)
            await writer.drained()
            last = writer._last
        state = str(address(session.shard, session.id, agent, "state", id=f"key-{number % 3}"))
        await wire.publish(state, encode({"type": "state.set", "value": sent.run}))
        compact = random.random() * 100 < int(sys.argv[3])
        await writer.finish("done", None, broker.objects, session.id, compact=compact)

async def main():
    async with connect(os.environ["ORCHESTRATOR_FREE_URL"], member="crowd") as broker:
        session = broker.session(sys.argv[1])
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(work(broker, session, number))
    print("finished")

asyncio.run(main())
'''


@pytest.fixture
def crowd(tmp_path: Path, programs: Any) -> Callable[..., tuple[Any, Callable[[], None]]]:
    """Start ten writers in a process of their own; call what it returns to let them come to an end."""

    def start(session: str, *, compact: int = 70) -> tuple[Any, Callable[[], None]]:
        script, stop = tmp_path / "writers.py", tmp_path / f"stop-{session}"
        script.write_text(WRITERS)
        return programs.start(script, session, str(stop), str(compact)), stop.touch

    return start


@dataclass
class Tape:
    """What was stored in a session, by sequence, recorded without our reader: the truth to compare with."""

    session: str
    stored: dict[int, Event] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    rollups: set[int] = field(default_factory=set)
    kept: list[tuple[int, bytes]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def add(self, subject: str, sequence: int, payload: bytes, *, rollup: bool) -> None:
        where = parse(subject)
        assert where is not None
        self.stored[sequence] = Event(sequence, "2025-01-01T00:00:00Z", where, orjson.loads(payload))
        self.payloads[sequence] = payload
        if rollup:
            self.rollups.add(sequence)

    @property
    def last(self) -> int:
        return max(self.stored, default=0)

    def fold(self, up_to: int) -> Fold:
        """Fold everything up to a sequence, from the nearest of the views that were kept on the way."""
        if not self.kept or self.kept[-1][0] < self.last:
            self.keep()
        start, view = next(kept for kept in reversed(self.kept) if kept[0] <= up_to)
        fold = Fold.load(orjson.loads(view))
        for sequence in self.order[bisect_right(self.order, start) : bisect_right(self.order, up_to)]:
            fold.apply(self.stored[sequence])
        return fold

    def keep(self) -> None:
        """Fold once, and keep a view every 200 events: what is compared is hundreds of places in one log."""
        fold, self.order = Fold(self.session), sorted(self.stored)
        self.kept = [(0, orjson.dumps(fold.view("ab12cd34-0")))]
        for count, sequence in enumerate(self.order, 1):
            fold.apply(self.stored[sequence])
            if count % 200 == 0 or sequence == self.order[-1]:
                self.kept.append((sequence, orjson.dumps(fold.view(f"ab12cd34-{sequence}"))))

    def unexplained(self, start: int, got: list[int]) -> list[Event]:
        """Return what a reader did not get, unless a later event of the same entity, which it got, replaced it."""
        whole = {
            self.stored[sequence].address: sequence
            for sequence in got
            if sequence in self.rollups or self.stored[sequence].kind not in ("run", "meta")
        }
        missing = {sequence for sequence in self.stored if start < sequence <= (got[-1] if got else start)} - set(got)
        return [self.stored[sequence] for sequence in missing if whole.get(self.stored[sequence].address, 0) < sequence]


@asynccontextmanager
async def recording(url: str, session: str) -> AsyncIterator[Tape]:
    """Record a session with plain nats-py, from now on."""
    tape = Tape(session)
    connection = await nats.connect(url)

    async def take(message: Any) -> None:
        header = message.headers
        rollup = header.get("Nats-Rollup") == "sub"
        tape.add(header["Nats-Subject"], int(header["Nats-Sequence"]), message.data, rollup=rollup)

    try:
        await connection.subscribe(
            f"live.session.0.{session}.>", cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await connection.flush()
        yield tape
    finally:
        await connection.close()


async def whole_log(url: str, session: str) -> Tape:
    """Read what the broker holds of a session, with plain nats-py."""
    tape = Tape(session)
    connection = await nats.connect(url)
    try:
        jetstream = connection.jetstream()
        filter = f"session.0.{session}.>"
        wanted = (await jetstream.stream_info(STREAM, subjects_filter=filter)).state.subjects or {}
        consumer = await jetstream.pull_subscribe(
            filter, stream=STREAM, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
        )
        while len(tape.stored) < sum(wanted.values()):
            for message in await consumer.fetch(500, timeout=10):
                rollup = (message.headers or {}).get("Nats-Rollup") == "sub"
                tape.add(message.subject, message.metadata.sequence.stream, message.data, rollup=rollup)
    finally:
        await connection.close()
    return tape


def shown(fold: Fold) -> Any:
    """The view without times: the tape has none, and finished runs carry their own."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: without_times(v) for k, v in value.items() if k not in ("time", "finished", "started", "created")
            }
        return [without_times(item) for item in value] if isinstance(value, list) else value

    return without_times(orjson.loads(orjson.dumps(fold.view("ab12cd34-0"))))


@dataclass
class Received:
    """A reader and what it handed on."""

    reader: Reader
    entries: list[Entry]
    lost: list[PositionLost]
    start: int = 0

    @property
    def sequences(self) -> list[int]:
        return [entry.event.sequence for entry in self.entries]

    def compare(self, tape: Tape) -> None:
        """Strictly ordered, as stored, nothing missing but what was replaced, and the same view in the end."""
        got = self.sequences
        assert not self.lost
        assert all(before < after for before, after in zip([self.start, *got], got, strict=False))
        assert all(tape.payloads[entry.event.sequence] == entry.message.payload for entry in self.entries)
        assert tape.unexplained(self.start, got) == []
        fold = tape.fold(self.start)
        for entry in self.entries:
            fold.apply(entry.event)
        assert shown(fold) == shown(tape.fold(got[-1] if got else self.start))


@asynccontextmanager
async def reading_from(
    broker: Broker, session: str, after: Position | None = None, *, compact: bool = True, **wrap: Any
) -> AsyncIterator[Received]:
    """Open a reader; `on_live` may wrap what takes its live messages."""
    entries: list[Entry] = []
    lost: list[PositionLost] = []
    reader = Reader(broker.log, session, entries.extend, lost.append)
    for name, wrapper in wrap.items():
        setattr(reader, name, wrapper(getattr(reader, name)))
    try:
        await reader.open(after, compact=compact)
        yield Received(reader, entries, lost, after.sequence if after else 0)
    finally:
        reader.close()


async def put(
    broker: Broker, session: str, kind: str, body: dict[str, Any], *, member: str = "a", id: str = "x"
) -> int:
    """Publish one event of a member; return its sequence."""
    where = address(0, session, member, kind, target="a", id=id)
    return await broker.log.wire.publish(str(where), orjson.dumps(body))


def delta(text: str) -> dict[str, Any]:
    return {"type": "text.delta", "part": "1", "text": text}


# -- joining the log and the live tail ------------------------------------------------------------------------------


async def splice(broker: Broker, tape: Tape, number: int, eventually: Eventually) -> Received:
    """Open a reader somewhere, let it get at least 12 live events, close it."""
    after = None
    if number % 4 > 1:
        after = broker.session(tape.session).position(random.choice(list(tape.stored)))
    async with reading_from(broker, tape.session, after, compact=number % 2 == 0) as received:
        opened = len(received.entries)
        await eventually(lambda: len(received.entries) >= opened + 12 or received.lost, 60)
    return received


@pytest.mark.slow
@pytest.mark.parametrize("round", range(6))
async def test_readers_join_a_busy_session_anywhere_and_miss_nothing(
    broker_url: str, fresh: Any, crowd: Any, eventually: Eventually, round: int
) -> None:
    """36 a round while ten writers work and roll up, compact or not, from the beginning or any position."""

    name = fresh("splice")
    async with recording(broker_url, name) as tape, connect(broker_url) as one, connect(broker_url) as two:
        writers, stop = crowd(name)
        await eventually(lambda: len(tape.stored) > 200, 60)
        received: list[Received] = []

        async def lane(number: int) -> None:
            for turn in range(6):
                broker = (one, two)[number % 2]
                received.append(await splice(broker, tape, number + turn, eventually))

        await asyncio.gather(*(lane(number) for number in range(6)))
        stop()
        await eventually(lambda: not writers.alive, 60)
        await eventually(lambda: tape.last >= max(found.reader.sequence for found in received), 20)
        log = await whole_log(broker_url, name)

    assert "finished" in writers.output
    assert log.payloads.items() <= tape.payloads.items()
    assert len(received) == 36
    for found in received:
        found.compare(tape)


@pytest.mark.slow
async def test_every_view_of_a_busy_session_is_that_of_its_position(
    broker_url: str, fresh: Any, crowd: Any, eventually: Eventually
) -> None:
    """A view is never torn: at position p it shows what folding everything up to p shows, though runs roll up."""

    name = fresh("views")
    async with recording(broker_url, name) as tape, connect(broker_url) as broker:
        writers, stop = crowd(name, compact=100)
        await eventually(lambda: len(tape.stored) > 200, 60)
        folds: list[tuple[int, Fold]] = []
        while len(folds) < 100:
            view = await broker.session(name).view()
            folds.append((Position.parse(view["position"]).sequence, Fold.load(view)))
        stop()
        await eventually(lambda: not writers.alive, 60)
        await eventually(lambda: tape.last >= folds[-1][0], 20)

    for sequence, fold in folds:
        assert shown(fold) == shown(tape.fold(sequence))


async def test_a_session_of_more_entities_than_one_answer_holds_is_read_whole(
    broker_url: str, ann: Broker, fresh: Any, crowd: Any, eventually: Eventually
) -> None:
    """Beyond 1,024 subjects the broker refuses the one request; pages join to one view, also while it grows."""

    name = fresh("large")
    session = ann.session(name)
    async with recording(broker_url, name) as tape:
        for start in range(0, 1500, 250):
            await asyncio.gather(*(session.send(str(number), to="a") for number in range(start, start + 250)))
        writers, stop = crowd(name, compact=100)
        await eventually(lambda: len(tape.stored) > 1700, 60)
        received = [await splice(ann, tape, number, eventually) for number in range(8)]
        views = [await session.view() for _ in range(5)]
        stop()
        await eventually(lambda: not writers.alive, 60)

    for found in received:
        found.compare(tape)
    for view in views:
        assert shown(Fold.load(view)) == shown(tape.fold(Position.parse(view["position"]).sequence))


async def test_a_session_larger_than_what_the_broker_sends_at_once_is_read_whole(tmp_path: Path, fresh: Any) -> None:
    """nats-server cuts an answer at `max_pending` bytes without a word; the reader asks for the rest."""

    settings = ServerSettings(data=tmp_path / "broker", port=0, max_pending=2 * 1024 * 1024)
    async with EmbeddedServer(settings) as server, connect(server.url) as broker:
        name = fresh("heavy")
        end = {"type": "run.finished", "status": "done", "input": "x"}
        for number in range(60):
            parts = [{"type": "text", "part": "1", "text": f"{number}" * 50_000}]
            await put(broker, name, "run", end | {"parts": parts, "first": number + 1}, id=f"r{number}")
        view = await broker.session(name).view()

    assert [run["run"] for run in view["agents"][0]["runs"]] == [f"r{number}" for number in range(60)]


# -- what the live tail loses ---------------------------------------------------------------------------------------


def losing(*lost: int) -> Callable[[Any], Any]:
    """Wrap a reader's `_on_live` so that the live messages with these numbers, from 1, never come."""

    def wrapper(on_live: Any) -> Any:
        count = 0

        def take(*message: Any) -> None:
            nonlocal count
            count += 1
            if count not in lost:
                on_live(*message)

        return take

    return wrapper


async def test_a_hole_in_a_runs_chain_is_repaired_in_order(ann: Broker, fresh: Any, eventually: Eventually) -> None:
    """The next event of the run tells that one is missing: it is fetched, and handed on before the later ones."""

    name = fresh("hole")
    await put(ann, name, "run", delta("0"))
    async with reading_from(ann, name, _on_live=losing(2, 3, 7)) as received:
        written = [await put(ann, name, "run", delta(str(number))) for number in range(1, 11)]
        await eventually(lambda: len(received.entries) >= 11 or received.lost, 10)

    assert not received.lost
    assert received.sequences[1:] == written
    assert "".join(entry.event.body["text"] for entry in received.entries) == "012345678910"
    assert received.reader.repairs >= 1


async def test_the_last_event_before_silence_is_found_though_its_live_copy_was_lost(
    ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle session is compared with the leader."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.3)
    name = fresh("idle")
    async with reading_from(ann, name, _on_live=losing(2)) as received:
        written = [await put(ann, name, "in", {"type": "input"}, id=f"i{number}") for number in range(2)]
        await eventually(lambda: len(received.entries) >= 2 or received.lost, 10)

    assert (received.sequences, received.lost) == (written, [])


# -- what idle sessions cost ----------------------------------------------------------------------------------------


@dataclass
class Turns:
    """Counts a reader's turns and its comparisons with the log; while `busy`, something is stored before each turn."""

    broker: Broker
    busy: bool = True
    turns: int = 0
    compared: list[int] = field(default_factory=list)

    def turning(self, same_log: Any) -> Any:
        async def turn(within_seconds: float) -> None:
            self.turns += 1
            if self.busy:
                await put(self.broker, "somebody-else", "run", delta("."))
                await self.broker.log.info(0)
            await same_log(within_seconds)

        return turn

    def comparing(self, barrier: Any) -> Any:
        async def compare() -> int:
            if self.turns:
                self.compared.append(self.turns)
            found: int = await barrier()
            return found

        return compare

    @property
    def wrap(self) -> dict[str, Any]:
        return {"_same_log": self.turning, "_barrier": self.comparing}


async def test_an_idle_session_is_compared_with_the_log_ever_less_often(
    ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At two turns, then after 2, 4 and 5 of them; from the beginning again when somebody looks or something happens."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.05)
    name, seen = fresh("idle"), Turns(ann)
    await put(ann, name, "in", {"type": "input"})
    async with reading_from(ann, name, **seen.wrap) as received:
        await eventually(lambda: seen.turns >= 19)
        assert [turn for turn in seen.compared if turn < 19] == [1, 2, 4, 8, 13, 18]
        for again in (received.reader.wake, lambda: put(ann, name, "run", delta("a"))):
            await eventually(lambda: len(seen.compared) > 2 and seen.compared[-1] - seen.compared[-2] == 5)
            begun = seen.turns
            if (done := again()) is not None:
                await done
            await eventually(lambda: seen.turns >= begun + 3)
            assert len([turn for turn in seen.compared if turn > begun]) >= 2


async def test_nothing_is_compared_while_nothing_is_stored(
    ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the stream, one request for all its sessions, says so; a loss is found at the turn after it."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.05)
    name, seen = fresh("quiet"), Turns(ann, busy=False)
    await put(ann, name, "in", {"type": "input"}, id="i0")
    async with reading_from(ann, name, _on_live=losing(1), **seen.wrap) as received:
        await eventually(lambda: seen.turns >= 20)
        assert len(seen.compared) == 1
        written = await put(ann, name, "in", {"type": "input"}, id="i1")
        begun = seen.turns
        await eventually(lambda: received.sequences[-1] == written)
        assert seen.turns <= begun + 3
        assert received.lost == []


async def test_a_loss_in_a_session_that_was_idle_for_long_is_noticed_within_five_turns(
    ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then the others of the shard compare at their next turn: they may lack something, too."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.05)
    name, other = fresh("idle"), fresh("other")
    seen, beside = Turns(ann), Turns(ann)
    for one in (name, other):
        await put(ann, one, "in", {"type": "input"}, id="i0")
    async with (
        reading_from(ann, name, _on_live=losing(1), **seen.wrap) as received,
        reading_from(ann, other, **beside.wrap),
    ):
        await eventually(lambda: seen.turns >= 19 and beside.turns >= 19)
        await eventually(lambda: seen.compared[-1] == seen.turns)
        written, begun = await put(ann, name, "in", {"type": "input"}, id="i1"), seen.turns
        await eventually(lambda: received.sequences[-1] == written)
        assert seen.turns <= begun + 6
        begun = beside.turns
        await eventually(lambda: beside.turns >= begun + 3)
        assert len([turn for turn in beside.compared if turn >= begun]) >= 2
        assert received.lost == []


async def test_an_event_that_was_missed_while_later_ones_were_handed_on_is_a_reset(
    ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed on cannot be put in order any more: the reader says so instead of skipping in silence."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.3)
    name = fresh("disorder")
    async with reading_from(ann, name, _on_live=losing(1)) as received:
        for number in range(3):
            await put(ann, name, "in", {"type": "input"}, id=f"i{number}")
        await eventually(lambda: received.lost, 10)

    assert received.lost[0].reason == "disorder"


async def test_a_missed_event_of_a_run_is_a_reset_once_others_have_passed_it(
    ann: Broker, fresh: Any, eventually: Eventually
) -> None:
    """The run's own chain tells at once, without waiting for the next comparison."""

    name = fresh("passed")
    async with reading_from(ann, name, _on_live=losing(2)) as received:
        await put(ann, name, "run", delta("a"))
        await put(ann, name, "run", delta("b"))
        await put(ann, name, "in", {"type": "input"})
        await put(ann, name, "run", delta("c"))
        await eventually(lambda: received.lost, 3)

    assert received.lost[0].reason == "disorder"
    assert [entry.event.body.get("text", "in") for entry in received.entries] == ["a", "in"]


async def test_a_follower_raises_what_its_reader_cannot_repair(
    ann: Broker, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Session.follow` ends with PositionLost; a view and a new feed from it go on."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.3)
    original = Reader._on_live
    name, count = fresh("follower"), 0

    def lossy(self: Reader, *message: Any) -> None:
        nonlocal count
        count += 1
        if count != 1:
            original(self, *message)

    monkeypatch.setattr(Reader, "_on_live", lossy)
    session = ann.session(name)
    await session.create()
    got = []
    with pytest.raises(PositionLost, match="disorder"):
        async with asyncio.timeout(20):
            async for event in session.follow():
                got.append(event.type)
                if len(got) == 1:
                    for number in range(3):
                        await session.send(str(number), to="a", id=f"i{number}")
    assert got == ["session.created", "input", "input"]
    assert [entry["text"] for entry in (await session.view())["inputs"]] == ["0", "1", "2"]


# -- the broker -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_broker_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    broker: EmbeddedServer, fresh: Any, crowd: Any, eventually: Eventually
) -> None:
    """Writers and readers go on by themselves: every word is in the log once, and every reader has the log."""

    name = fresh("killed")
    async with connect(broker.url) as connection:
        writers, stop = crowd(name, compact=0)
        async with (
            reading_from(connection, name, compact=False) as beginning,
            reading_from(connection, name) as compact,
        ):
            for _ in range(3):
                seen = len(beginning.entries)
                await eventually(lambda seen=seen: len(beginning.entries) > seen + 150, 60)
                await broker.restart(kill=True)
            stop()
            await eventually(lambda: not writers.alive, 90)
            log = await whole_log(broker.url, name)
            for received in (beginning, compact):
                await eventually(lambda received=received: received.reader.sequence >= log.last or received.lost, 60)
                received.compare(log)
        view = await connection.session(name).view()

    assert "finished" in writers.output
    assert beginning.sequences == sorted(log.stored)
    runs = [run for agent in view["agents"] for run in agent["runs"]]
    assert len(runs) >= 10
    for run in runs:
        assert run["status"] == "done"
        for number, part in enumerate(sorted(run["parts"], key=lambda part: part["part"])):
            words = [int(word) for word in part["text"].split()]
            assert words == list(range(number, 2 * len(words) + number, 2))


@asynccontextmanager
async def way_to(url: str) -> AsyncIterator[tuple[str, Callable[[bool], None]]]:
    """A way to the broker that can be cut: its address, and the switch."""
    host, _, port = url.removeprefix("nats://").partition(":")
    writers: set[asyncio.StreamWriter] = set()
    whole = asyncio.Event()
    whole.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole.wait()
        there, back = await asyncio.open_connection(host, int(port))
        writers.update((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    def switch(on: bool) -> None:
        if on:
            whole.set()
            return
        whole.clear()
        for writer in writers:
            writer.transport.abort()
        writers.clear()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", switch
        switch(False)
        whole.set()


async def test_a_reader_whose_connection_was_cut_goes_on_in_order(
    broker_url: str, ann: Broker, fresh: Any, eventually: Eventually
) -> None:
    """What was stored while it was away comes before what is stored as it comes back, though that is there first."""

    name = fresh("cut")
    sent = 0

    async def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await put(ann, name, "in", {"type": "input"}, id=f"i{sent}")

    async with way_to(broker_url) as (url, switch), connect(url) as far, reading_from(far, name) as received:
        for _ in range(3):
            await send(10)
            await eventually(lambda: len(received.entries) == sent or received.lost)
            switch(False)
            await send(30)
            back = far.log.wire.reconnects
            switch(True)
            while far.log.wire.reconnects == back:
                await send(1)
        await send(10)
        await eventually(lambda: len(received.entries) == sent or received.lost)

    assert not received.lost
    assert [entry.event.id for entry in received.entries] == [f"i{number}" for number in range(1, sent + 1)]


async def made_anew(url: str) -> None:
    """Delete the stream and create it again, as an operator would, over another connection."""
    connection = await nats.connect(url)
    await connection.jetstream().delete_stream(STREAM)
    await connection.close()
    async with connect(url):
        pass


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
async def test_a_stream_that_was_made_anew_is_a_reset_for_those_who_follow(
    broker_url: str, ann: Broker, fresh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """Also without a reconnect, and although the new log's sequences look like ones that were seen before."""

    monkeypatch.setattr(reading, "CHECK_SECONDS", 0.5)
    name = fresh("anew")
    for number in range(5):
        await put(ann, name, "in", {"type": "input"}, id=f"i{number}")
    async with reading_from(ann, name) as received:
        await made_anew(broker_url)
        if busy:
            async with connect(broker_url) as other:
                for number in range(20):
                    await put(other, name, "in", {"type": "input", "text": "new"}, id=f"j{number}")
        await eventually(lambda: received.lost, 20)

    assert received.lost[0].reason == "recreated"
    assert len(received.entries) == 5


async def lost(session: Session, after: Position | str) -> str:
    """Return the reason for which a position is refused."""
    with pytest.raises(PositionLost) as caught:
        async with asyncio.timeout(10):
            async for _ in session.follow(after):
                raise AssertionError("an event came")
    return caught.value.reason


async def test_a_position_of_a_log_that_is_gone_is_refused(broker_url: str, ann: Broker, fresh: Any) -> None:
    """By connections made before and after, also when the new log is longer than the position."""

    name = fresh("gone")
    session = ann.session(name)
    await session.create()
    old = (await session.send("x", to="a")).position
    await made_anew(broker_url)
    async with connect(broker_url) as other:
        await other.session(name).create()
        for _ in range(old.sequence):
            await other.session(name).send("new", to="a")
        assert await lost(other.session(name), old) == "recreated"
        assert await lost(session, str(old)) == "recreated"


async def test_a_position_beyond_the_end_is_refused(ann: Broker, fresh: Any) -> None:
    """After a lossy recovery the log is shorter than what a client has seen; the next events are not its next."""

    session = ann.session(fresh("ahead"))
    end = await session.create()
    assert await lost(session, Position(end.epoch, end.sequence + 1)) == "ahead"


async def test_a_position_of_another_installation_is_refused(ann: Broker, fresh: Any) -> None:
    """Another epoch is another log, whatever the number."""

    session = ann.session(fresh("other"))
    end = await session.create()
    assert await lost(session, Position("00000000", end.sequence)) == "recreated"


@pytest.mark.parametrize("entities", [3, 1100])
async def test_a_position_whose_session_was_trimmed_away_is_refused(ann: Broker, fresh: Any, entities: int) -> None:
    """Purged and begun again: what lies between the position and now is gone, which no reader may skip in silence."""

    session = ann.session(fresh("trimmed"))
    await session.create()
    middle = (await session.send("x", to="a")).position
    await asyncio.gather(*(session.send("x", to="a") for _ in range(entities)))
    await session.delete()
    await session.create()
    await asyncio.gather(*(session.send("y", to="a") for _ in range(entities)))

    assert await lost(session, middle) == "too_old"


async def test_a_follower_whose_session_is_deleted_is_told(ann: Broker, fresh: Any) -> None:
    """`session.deleted` is the last event."""

    session = ann.session(fresh("deleted"))
    await session.create()
    got: list[str] = []
    async with asyncio.timeout(20):
        async for event in session.follow():
            got.append(event.type)
            if event.type == "session.created":
                await session.delete()
            if event.type == "session.deleted":
                break
    assert got == ["session.created", "session.deleted"]


async def test_what_is_no_event_is_counted_and_holds_nobody_up(ann: Broker, fresh: Any, eventually: Eventually) -> None:
    """Not JSON, no type, a subject outside the grammar: skipped by every reader alike."""

    name = fresh("garbage")
    wire = ann.log.wire
    for part in range(2):
        for number, payload in enumerate((b"\xff", b"[]", b"{}", b"", b'{"type":1}')):
            await wire.publish(f"session.0.{name}.a.in.a.g{part}{number}", payload)
        await wire.publish(f"session.0.{name}.a.nonsense", b'{"type":"x"}')
        await put(ann, name, "in", {"type": "input"}, id=f"i{part}")
        if part == 0:
            received = Received(Reader(ann.log, name, (entries := []).extend, (lost := []).append), entries, lost)
            await received.reader.open()
    try:
        await eventually(lambda: len(received.entries) == 2, 10)
        assert (received.reader.skipped, received.lost) == (12, [])
    finally:
        received.reader.close()


# -- pace -----------------------------------------------------------------------------------------------------------

SLOW = '''
import asyncio, os, re, sys
from orchestrator_free import connect

def memory():
    """Megabytes now, and the most there ever were; `ru_maxrss` would count what our parent had when it forked."""
    status = open("/proc/self/status").read()
    return [int(re.search(name + r":\\s+(\\d+) kB", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")]

async def main():
    async with connect(os.environ["ORCHESTRATOR_FREE_URL"]) as broker:
        count, last, disorder = 0, 0, 0
        async for event in broker.session(sys.argv[1]).follow(compact=False):
            count += 1
            disorder += event.sequence <= last
            last = event.sequence
            if count == 1:
                before, _ = memory()
                print("waiting", flush=True)
                while not os.path.exists(sys.argv[2]):
                    await asyncio.sleep(0.05)
            if event.type == "state.set":
                print("result", count, disorder, memory()[1] - before, flush=True)
                return
            if count % 100 == 0:
                await asyncio.sleep(0)

asyncio.run(main())
'''


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["while-it-waits", "before-it-comes"])
async def test_a_consumer_that_pauses_loses_nothing_and_holds_bounded_memory(
    ann: Broker, fresh: Any, programs: Any, tmp_path: Path, eventually: Eventually, late: bool
) -> None:
    """30,000 events of 4 KB come while it waits, or are there when it comes: 120 MB are read as it takes them."""

    name, go, script = fresh("slow"), tmp_path / "go", tmp_path / "slow.py"
    script.write_text(SLOW)
    await put(ann, name, "run", delta("first"))

    async def fill() -> None:
        payload = orjson.dumps(delta("x" * 4000))
        subject = str(address(0, name, "a", "run", id="x"))
        for _ in range(300):
            await asyncio.gather(*(ann.log.wire.publish(subject, payload) for _ in range(100)))
        await put(ann, name, "state", {"type": "state.set"})

    if late:
        await fill()
    follower = programs.start(script, name, str(go))
    await eventually(lambda: "waiting" in follower.output, 30)
    if not late:
        await fill()
    go.touch()
    await eventually(lambda: not follower.alive, 90)

    count, disorder, growth = follower.output.partition("result ")[2].split()
    assert (int(count), int(disorder)) == (30_002, 0)
    assert float(growth) < 150  # megabytes; all of them decoded would be 300
