"""Export and import: what comes back is the session that went in, or nothing at all."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import (
    InvalidEvent,
    InvalidName,
    PermissionDenied,
    SessionExists,
    SessionNotFound,
    StorageFull,
    TooLarge,
)
from orchestrator_free.fold import RunFold, View
from orchestrator_free.jetstream.bulk import BulkPublisher
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.session import Session
from orchestrator_free.session.archive import export_session, import_session
from orchestrator_free.subjects import run_id
from orchestrator_free.working.runwriter import finished, now, outsource

Eventually = Callable[..., Awaitable[Any]]
Fresh = Callable[[str], str]

#: what an import may change: places in the log, times the broker stamps, and the mark of imported inputs: none waits
STAMPED = {
    "session", "position", "sequence", "first", "last", "revision", "time", "created", "finished", "replayed", "queue",
}  # fmt: skip

#: in three pieces
COVER = bytes(range(256)) * 4000

USERS = """
authorization {
  users: [
    {user: root, password: pw}
    {user: bob, password: pw, permissions: {
      publish: ["$JS.API.>", "$O.>", "session.0.*.bob.>"], subscribe: ["_INBOX.>"]
    }}
  ]
}
"""


class Desk:
    """Members who write a session by hand, so that every test knows exactly what is in it."""

    def __init__(self, url: str, session: Session, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._members: dict[str, Broker] = {}
        self.session = session

    async def member(self, name: str) -> Broker:
        if name not in self._members:
            self._members[name] = await self._stack.enter_async_context(connect(self._url, member=name))
        return self._members[name]

    async def write(self, member: str, tail: str, payload: bytes | dict[str, Any], *, rollup: bool = False) -> int:
        """Store a payload under `session.<shard>.<session>.<member>.<tail>`."""
        data = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        wire = (await self.member(member)).log.wire
        subject = f"session.{self.session.shard}.{self.session.id}.{member}.{tail}"
        return await wire.publish(subject, data, rollup=rollup, message_id=secrets.token_hex(16))

    async def begin(self, agent: str, input_id: str, fold: RunFold | None = None) -> Pen:
        """Begin the run of an agent for an input of ann; `fold` is what an earlier attempt has left."""
        pen = Pen(self, agent, fold or RunFold(agent, run_id("ann", input_id)))
        await pen.say("run.started", attempt=pen.fold.attempt + 1, input=f"ann/{input_id}")
        return pen


class Pen:
    """Writes one attempt of a run as an agent does."""

    def __init__(self, desk: Desk, agent: str, fold: RunFold) -> None:
        self._desk = desk
        self.agent = agent
        self.fold = fold

    async def say(self, type: str, **fields: Any) -> None:
        body = {"type": type, **fields}
        sequence = await self._desk.write(self.agent, f"run.{self.fold.run}", body)
        assert self.fold.apply(body, sequence, now())

    async def text(self, text: str) -> None:
        await self.say("text.delta", part="1", text=text)

    async def file(self, name: str, content: bytes) -> None:
        stored = object_name(content, "file")
        await (await self._desk.member(self.agent)).objects.put(self._desk.session.id, stored, content)
        await self.say("file", name=name, media_type="text/plain", object=stored, size=len(content))

    async def finish(self, *, compact: bool = True, large: bool = False) -> None:
        body = finished(self.fold, "done", None)
        if large:
            body = await outsource(body, self._desk.session.id, (await self._desk.member(self.agent)).objects)
        await self._desk.write(self.agent, f"run.{self.fold.run}", body, rollup=compact)


@pytest.fixture
async def desk(ann: Broker, broker_url: str, fresh: Fresh) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(broker_url, ann.session(fresh("s")), stack)


async def one_input_three_agents(desk: Desk, *, compact: bool = True) -> None:
    """Three agents begin at the same time and end in another order."""
    await desk.session.send("Review this", to="all", id="i1", data={"pages": [1, 2]})
    pens = [await desk.begin(agent, "i1") for agent in ("outliner", "critic", "painter")]
    for turn in range(3):
        for pen in pens:
            await pen.text(f"{pen.agent} {turn} ")
    for pen in (pens[1], pens[2], pens[0]):
        await pen.say("usage", usage={"input_tokens": 10})
        await pen.finish(compact=compact)


async def two_attempts(desk: Desk) -> None:
    """The first attempt is lost with what it wrote."""
    await desk.session.send("Try hard", to="critic", id="i2")
    lost = await desk.begin("critic", "i2")
    await lost.say("reasoning.delta", part="r", text="Hm. ")
    await lost.file("draft.txt", b"lost draft")
    pen = await desk.begin("critic", "i2", lost.fold)
    await pen.say("tool.input", call="c1", tool="search", input={"q": "x"})
    await pen.say("tool.output", call="c1", output={"hits": 3})
    await pen.say("source", id="s1", url="https://example.org", title="Example")
    await pen.say("data", name="progress", id="p", data={"done": 1})
    await pen.text("Second time. ")
    await pen.finish()


async def large_run(desk: Desk) -> None:
    """A run beyond the inline limit, which keeps its parts, a file among them, in the object store."""
    await desk.session.send("Write a book", to="painter", id="i3")
    pen = await desk.begin("painter", "i3")
    for number in range(12):
        await pen.text(f"{number} " * 16_000)
    await pen.file("cover.png", COVER)
    await pen.finish(large=True)


async def open_run(desk: Desk) -> None:
    """A run that has not ended, of an agent that was reported to be gone."""
    await desk.session.send("Go on", to="outliner", id="i4")
    pen = await desk.begin("outliner", "i4")
    await pen.text("So far ")
    await pen.say("tool.input", call="c1", tool="think")
    await pen.say("tool.output", call="c1", output=None)
    await pen.text("so good")
    await desk.write("outliner", "presence", {"type": "agent.offline", "reason": "its process is gone"})


async def everything_else(desk: Desk) -> None:
    """State, a change of the title, payloads of others' making, and a message that is no event."""
    await desk.write("ann", "state.plan", {"type": "state.set", "value": {"step": 1}}, rollup=True)
    await desk.write("critic", "state.plan", {"type": "state.set", "value": {"step": 2}}, rollup=True)
    await desk.session.update(title="Second title", agents=["outliner", "critic"])
    await desk.write("ann", "ctl.critic.c1", {"type": "cancel", "run": "r"})
    await desk.write("critic", "outcome.c1", {"type": "accepted"})
    await desk.write("ann", "floor", {"type": "floor", "to": "critic"})
    await desk.write(
        "critic", "run.byhand", b'{\n "type": "vendor.thing",\r\n "big": 123456789012345678901234567890, "f": 1.50\n}'
    )
    await desk.write("critic", "run.byhand", b"not an event")


@pytest.fixture
async def rich(desk: Desk) -> Desk:
    """A session with a bit of everything."""
    await desk.session.create(title="First title", agents=["outliner", "critic", "painter"])
    await one_input_three_agents(desk)
    await two_attempts(desk)
    await large_run(desk)
    await open_run(desk)
    await everything_else(desk)
    return desk


async def archive_of(session: Session) -> list[bytes]:
    return [line async for line in export_session(session)]


def plain(value: Any) -> Any:
    """Return a view without what an import may change."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in STAMPED}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def without_open_times(view: View) -> Any:
    """Return a comparable view; parts of open runs take their times from the events, so these differ as well."""
    found = plain(view)
    for agent in found["agents"]:
        for run in agent["runs"]:
            if run["status"] in ("running", "lost"):
                del run["started"]
                for part in run["parts"]:
                    part.pop("started", None)
                    part.pop("seconds", None)
    return found


def resealed(lines: Iterable[bytes]) -> list[bytes]:
    """Return an archive whose last line fits what is before it: made by somebody who knows the format."""
    *body, last = lines
    end = orjson.loads(last)["end"]
    end["sha256"] = hashlib.sha256(b"".join(body)).hexdigest()
    return [*body, orjson.dumps({"end": end}) + b"\n"]


def changed(line: bytes, **fields: Any) -> bytes:
    found = orjson.loads(line) | fields
    found["payload"] = found.pop("payload", None)
    return orjson.dumps(found) + b"\n"


async def holds_nothing(broker: Broker, session: str) -> bool:
    """Whether neither the log nor the object store has anything of a session."""
    info = await broker.log.wire.api(
        "STREAM.INFO.OBJ_orchestrator_free_objects", {"subjects_filter": "$O.orchestrator_free_objects.M.>"}
    )
    metas = [await _meta(broker, subject) for subject in info["state"].get("subjects") or {}]
    objects = [meta["name"] for meta in metas if not meta.get("deleted") and meta["name"].startswith(f"{session}/")]
    return not objects and not await broker.session(session).exists()


async def _meta(broker: Broker, subject: str) -> dict[str, Any]:
    found, _, _ = await broker.log.wire.patiently(
        f"$JS.API.DIRECT.GET.OBJ_orchestrator_free_objects.{subject}", b"", b"", 5.0
    )
    return dict(orjson.loads(found))


# -- there and back ---------------------------------------------------------------------------------------------


async def test_an_imported_session_is_the_one_that_was_exported(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """Agents, runs in their order, attempts, parts, files, large runs, state: the views are equal."""
    lines = await archive_of(rich.session)
    result = await import_session(ann, lines, fresh("copy"))

    before, after = await rich.session.view(), await ann.session(result.session).view()
    assert without_open_times(after) == without_open_times(before)
    assert (result.events, result.objects) == (sum(line.startswith(b'{"sequence"') for line in lines), 3)
    assert str(result.position) == after["position"]


async def test_the_objects_of_an_imported_session_are_its_own(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """The original can be deleted; files of lost attempts and inside large runs are there too."""
    copy = (await import_session(ann, await archive_of(rich.session), fresh("copy"))).session
    await rich.session.delete()

    runs = [run for agent in (await ann.session(copy).view())["agents"] for run in agent["runs"]]
    parts = [part for run in runs for part in [*run["parts"], *(p for a in run["attempts"] for p in a["parts"])]]
    files = {part["name"]: await ann.session(copy).object(part["object"]) for part in parts if part["type"] == "file"}
    assert files == {"draft.txt": b"lost draft", "cover.png": COVER}


async def test_runs_that_began_together_keep_their_order(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """Although the log has only their ends, which came in another order."""
    copy = await import_session(ann, await archive_of(rich.session), fresh("copy"))

    view = await ann.session(copy.session).view()
    assert [agent["agent"] for agent in view["agents"]][:3] == ["outliner", "critic", "painter"]
    firsts = [run["first"] for agent in view["agents"] for run in agent["runs"] if run["input"] == "ann/i1"]
    assert firsts == sorted(set(firsts))


@pytest.mark.parametrize("seed", range(5))
async def test_a_session_of_any_shape_comes_back(ann: Broker, desk: Desk, fresh: Fresh, seed: int) -> None:
    """Runs of several agents that begin, go on, are lost and end in any order, compacted or not."""
    chance = random.Random(seed)
    await desk.session.create(agents=["a", "b", "c", "d"])
    pens: list[Pen] = []
    for turn in range(60):
        match chance.choice(["input", "text", "text", "lost", "finish"]):
            case "input":
                await desk.session.send("go", to="all", id=f"i{turn}")
                pens += [await desk.begin(agent, f"i{turn}") for agent in chance.sample("abcd", chance.randint(1, 4))]
            case "text" if pens:
                await chance.choice(pens).text(f"{turn} ")
            case "lost" if pens:
                old = pens.pop(chance.randrange(len(pens)))
                pens.append(await desk.begin(old.agent, old.fold.input.removeprefix("ann/"), old.fold))
            case "finish" if pens:
                await pens.pop(chance.randrange(len(pens))).finish(compact=chance.random() < 0.8)
    lines = await archive_of(desk.session)
    once = await import_session(ann, lines, fresh("once"))
    twice = await import_session(ann, await archive_of(ann.session(once.session)), fresh("twice"))

    original = without_open_times(await desk.session.view())
    for copy in (once, twice):
        assert without_open_times(await ann.session(copy.session).view()) == original


async def test_an_archive_of_an_import_is_the_same_archive(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """Payloads byte for byte, apart from the mark of inputs and the place where a finished run began."""
    lines = await archive_of(rich.session)
    copy = await import_session(ann, lines, fresh("copy"))
    again = await archive_of(ann.session(copy.session))

    def comparable(line: bytes) -> Any:
        _, _, payload = line.partition(b'"payload":')
        fields = orjson.loads(line)
        if fields.get("kind") == "in" or b'"run.finished"' in payload:
            payload = orjson.dumps(plain(orjson.loads(payload[:-2])))
        return [fields.get(name) for name in ("member", "kind", "target", "id", "rollup", "object", "data")], payload

    assert [comparable(line) for line in again[1:-1]] == [comparable(line) for line in lines[1:-1]]
    assert any(b"123456789012345678901234567890" in line for line in again)
    assert [orjson.loads(archive[-1])["end"]["skipped"] for archive in (lines, again)] == [1, 0]


async def test_a_session_that_is_not_compacted_keeps_its_deltas(ann: Broker, desk: Desk, fresh: Fresh) -> None:
    """Each of them, and the order of its runs."""
    await desk.session.create(agents=["outliner", "critic", "painter"], compaction="off")
    await one_input_three_agents(desk, compact=False)
    copy = await import_session(ann, await archive_of(desk.session), fresh("copy"))

    assert plain(await ann.session(copy.session).view()) == plain(await desk.session.view())
    deltas = await ann.log.read(0, f"session.0.{copy.session}.critic.run.>")
    assert sum(b"text.delta" in message.payload for message in deltas) == 3


async def test_agents_do_not_work_on_imported_inputs_again(
    ann: Broker, desk: Desk, fresh: Fresh, programs: Any
) -> None:
    """A running agent passes them by and goes on with the next new one."""
    agent = fresh("agent")
    await desk.session.create(agents=[agent])
    for number in range(20):
        await desk.session.send(f"old {number}", to=agent if number % 2 else "all")
    lines = await archive_of(desk.session)
    await desk.session.delete()
    programs.agent(agent, "await run.text('worked')")
    copy = ann.session((await import_session(ann, lines, fresh("copy"))).session)
    sent = await copy.send("new", to=agent)
    await copy.result(agent, sent.run, timeout=20)

    view = await copy.view()
    assert [run["run"] for found in view["agents"] for run in found["runs"]] == [sent.run]
    assert [entry["replayed"] for entry in view["inputs"]] == [True] * 20 + [False]


async def test_an_archive_may_be_read_in_any_pieces(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """From a file, or as the body of a request brings it."""
    content = b"".join(await archive_of(rich.session))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 10_007):
            yield content[start : start + 10_007]

    copy = await import_session(ann, pieces(), fresh("copy"))

    assert without_open_times(await ann.session(copy.session).view()) == without_open_times(await rich.session.view())


async def test_a_session_moves_to_a_broker_with_other_shards(ann: Broker, rich: Desk, tmp_path: Path) -> None:
    """Under its own id."""
    async with (
        EmbeddedServer(ServerSettings(data=tmp_path / "other", port=0)) as server,
        connect(server.url, settings=StreamSettings(shards=5)) as other,
    ):
        result = await import_session(other, await archive_of(rich.session))

        assert result.session == rich.session.id
        view = await other.session(result.session).view()
        assert without_open_times(view) == without_open_times(await rich.session.view())


async def test_a_session_that_goes_on_meanwhile_is_exported_as_it_was_at_one_moment(
    ann: Broker, desk: Desk, fresh: Fresh
) -> None:
    """Runs end while they are read: none is in the archive both as deltas and as what replaced them."""
    await desk.session.create(agents=["a"])
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            pen = await desk.begin("a", fresh("i"))
            for number in range(20):
                await pen.text(f"{number} ")
            await pen.finish()

    writer = asyncio.create_task(go_on())
    archives = [await archive_of(desk.session) for _ in range(30)]
    stop.set()
    await writer

    for lines in archives:
        events = [orjson.loads(line) for line in lines[1:-1]]
        ended = {event["id"]: event["sequence"] for event in events if event["rollup"]}
        assert all(event["sequence"] >= ended.get(event["id"], 0) for event in events)
    result = await import_session(ann, archives[-1], fresh("copy"))
    assert result.events == len(archives[-1]) - 2


async def test_a_file_that_is_gone_is_named_in_the_archive(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """The rest of the session is exported all the same."""
    stored = next(line for line in await archive_of(rich.session) if line.startswith(b'{"object":"file-'))
    name = orjson.loads(stored)["object"]
    await ann.objects.delete(rich.session.id, name)
    lines = await archive_of(rich.session)

    assert orjson.loads(lines[-1])["end"]["missing"] == [name]
    assert (await import_session(ann, lines, fresh("copy"))).objects == orjson.loads(lines[-1])["end"]["objects"]


# -- refused ----------------------------------------------------------------------------------------------------


async def test_a_session_that_is_not_there_cannot_be_exported(ann: Broker, fresh: Fresh) -> None:
    """Nothing is yielded."""
    with pytest.raises(SessionNotFound):
        await archive_of(ann.session(fresh("never")))


async def test_a_session_deleted_meanwhile_gives_no_complete_archive(ann: Broker, rich: Desk) -> None:
    """What was yielded has no last line."""
    lines = []
    with pytest.raises(SessionNotFound):
        async for line in export_session(rich.session):
            if not lines:
                await rich.session.delete()
            lines.append(line)

    with pytest.raises(InvalidEvent, match="cut off"):
        await import_session(ann, lines)


@pytest.mark.parametrize("kept", [0, 0.001, 0.01, 0.5, 0.9, 0.9999])
async def test_a_file_that_was_cut_off_is_refused(ann: Broker, rich: Desk, fresh: Fresh, kept: float) -> None:
    """Wherever it was cut; nothing is written."""
    copy, content = fresh("copy"), b"".join(await archive_of(rich.session))

    with pytest.raises(InvalidEvent, match=r"^line \d+: .*cut off"):
        await import_session(ann, [content[: int(len(content) * kept)]], copy)
    assert await holds_nothing(ann, copy)


async def test_a_file_without_one_of_its_lines_is_refused(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """The count tells; nothing is written."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    del lines[3]

    with pytest.raises(InvalidEvent, match=rf"^line {len(lines)}: .* events were written"):
        await import_session(ann, lines, copy)
    assert await holds_nothing(ann, copy)


async def test_a_changed_line_is_noticed(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """By the checksum, even where the line makes sense; nothing is written."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    lines[2] = lines[2].replace(b"Review this", b"Ignore that")

    with pytest.raises(InvalidEvent, match=rf"^line {len(lines)}: the SHA-256 differs"):
        await import_session(ann, lines, copy)
    assert await holds_nothing(ann, copy)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"member": "an.n"}, r"member 'an\.n' is not a valid name"),
        ({"member": 5}, "member 5 is not a valid name"),
        ({"id": "a b"}, "in id 'a b' is not a valid name"),
        ({"target": ">"}, "in target '>' is not a valid name"),
        ({"kind": "gossip"}, "unknown kind 'gossip'"),
        ({"kind": ["in"]}, "unknown kind"),
        ({"kind": "floor"}, "floor has no id"),
        ({"sequence": "12"}, '"sequence" must be a number'),
        ({"rollup": "yes"}, '"rollup" true or false'),
        ({"sequence": 1}, "not in log order"),
        ({"payload": [1]}, "not an event"),
        ({"payload": {"text": "no type"}}, 'with a "type"'),
        ({"payload": {"type": "input", "text": 5}}, "input: text"),
    ],
)
async def test_an_invalid_event_is_refused_by_its_line(
    ann: Broker, rich: Desk, fresh: Fresh, fields: dict[str, Any], reason: str
) -> None:
    """In a file that is whole otherwise; nothing is written."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    lines[2] = changed(lines[2], **fields)

    with pytest.raises(InvalidEvent, match=f"^line 3: .*{reason}"):
        await import_session(ann, resealed(lines), copy)
    assert await holds_nothing(ann, copy)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data": "*"}, "object"),
        ({"data": "äöü="}, "object"),
        ({"data": None}, "not a piece"),
        ({"object": ""}, "no name"),
        ({"object": "x" * 300}, "no name"),
        ({"last": 1}, "not a piece"),
    ],
)
async def test_an_invalid_object_is_refused_by_its_line(
    ann: Broker, rich: Desk, fresh: Fresh, fields: dict[str, Any], reason: str
) -> None:
    """As an invalid event is."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    place = next(number for number, line in enumerate(lines) if line.startswith(b'{"object"'))
    lines[place] = orjson.dumps(orjson.loads(lines[place]) | fields) + b"\n"

    with pytest.raises(InvalidEvent, match=f"^line {place + 1}: .*{reason}"):
        await import_session(ann, resealed(lines), copy)
    assert await holds_nothing(ann, copy)


async def test_lines_in_a_wrong_place_are_refused(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """Events behind objects, pieces of two objects mixed, anything behind the end, an archive of nothing."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    pieces = [line for line in lines if b'"last":false' in line]
    ends = [line for line in lines if line.startswith(b'{"object"') and b'"last":true' in line]
    other = next(line for line in ends if orjson.loads(line)["object"] != orjson.loads(pieces[0])["object"])
    header, event, end = lines[0], lines[1], lines[-1]

    for wrong, reason in (
        ([header, ends[0], event, end], "line 3: events come before objects"),
        ([header, event, pieces[0], other, end], "line 4: object .* has no last piece"),
        ([*lines, event], f"line {len(lines) + 1}: nothing may follow"),
        ([header, end], "line 2: the archive has no event"),
        ([event, end], "line 1: not an archive"),
        ([b"[]\n"], "line 1: not a JSON object"),
    ):
        with pytest.raises(InvalidEvent, match=f"^{reason}"):
            await import_session(ann, wrong, copy)
    assert await holds_nothing(ann, copy)


async def test_another_version_of_the_format_is_refused(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """With the one that this release reads."""
    lines = await archive_of(rich.session)
    lines[0] = orjson.dumps(orjson.loads(lines[0]) | {"version": 2}) + b"\n"

    with pytest.raises(InvalidEvent, match=r"^line 1: version 2 .* reads version 1"):
        await import_session(ann, resealed(lines), fresh("copy"))


async def test_an_event_larger_than_the_broker_takes_is_refused_before_anything_is_written(
    ann: Broker, rich: Desk, fresh: Fresh
) -> None:
    """The broker it came from took more."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    lines[2] = changed(lines[2], payload={"type": "input", "text": "x" * ann.log.wire.max_payload})

    with pytest.raises(TooLarge, match=r"^line 3"):
        await import_session(ann, resealed(lines), copy)
    with pytest.raises(TooLarge, match=r"^line 1"):
        await import_session(ann, [b"x" * 3_000_000], copy)
    assert await holds_nothing(ann, copy)


async def test_an_existing_session_is_not_touched(ann: Broker, rich: Desk, fresh: Fresh) -> None:
    """Neither the one it came from, nor one that holds nothing but an input."""
    other = ann.session(fresh("other"))
    await other.send("Hello", to="nobody")
    lines, before = await archive_of(rich.session), await other.view()

    for session in (None, other.id):
        with pytest.raises(SessionExists):
            await import_session(ann, lines, session)
    assert await other.view() == before
    assert await archive_of(rich.session) == lines


async def test_of_two_imports_at_once_one_wins(ann: Broker, broker_url: str, rich: Desk, fresh: Fresh) -> None:
    """And what it wrote is whole."""
    copy, lines = fresh("copy"), await archive_of(rich.session)
    async with connect(broker_url, member="bob") as bob:
        both = (import_session(ann, lines, copy), import_session(bob, lines, copy))
        results = await asyncio.gather(*both, return_exceptions=True)

    assert [type(result) for result in results].count(SessionExists) == 1
    assert without_open_times(await ann.session(copy).view()) == without_open_times(await rich.session.view())


async def test_a_name_that_cannot_be_a_session_is_refused(ann: Broker, rich: Desk) -> None:
    """As everywhere."""
    with pytest.raises(InvalidName):
        await import_session(ann, await archive_of(rich.session), "a.b")


# -- faults -----------------------------------------------------------------------------------------------------


async def long_session(desk: Desk, count: int) -> list[bytes]:
    """Write a session with an open run of many deltas, and return its archive."""
    await desk.session.create(agents=["writer"])
    await desk.session.send("Write", to="writer", id="i1")
    run = (await desk.begin("writer", "i1")).fold.run
    subject = f"session.0.{desk.session.id}.writer.run.{run}"
    async with BulkPublisher((await desk.member("writer")).log.wire) as bulk:
        for number in range(count):
            await bulk.publish(subject, b'{"type":"text.delta","part":"1","text":"%d "}' % number)
    return await archive_of(desk.session)


@pytest.mark.slow
async def test_a_broker_killed_in_the_middle_of_an_import_changes_nothing(
    ann: Broker, broker: EmbeddedServer, desk: Desk, fresh: Fresh, eventually: Eventually
) -> None:
    """The import goes on when it is back, and nothing is missing or there twice."""
    copy, lines = ann.session(fresh("copy")), await long_session(desk, 30_000)
    work = asyncio.create_task(import_session(ann, lines, copy.id))
    await eventually(lambda: ann.log.last(0, f"session.0.{copy.id}.writer.run.>"))
    await broker.restart(kill=True)
    result = await work

    assert result.events == 30_003
    assert without_open_times(await copy.view()) == without_open_times(await desk.session.view())


async def test_a_cancelled_import_leaves_nothing(ann: Broker, desk: Desk, fresh: Fresh, eventually: Eventually) -> None:
    """Those who already follow it see it deleted."""
    copy, lines = ann.session(fresh("copy")), await long_session(desk, 20_000)
    work = asyncio.create_task(import_session(ann, lines, copy.id))
    await eventually(copy.exists)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert await holds_nothing(ann, copy.id)


async def test_an_import_without_permission_for_a_member_leaves_nothing(rich: Desk, tmp_path: Path) -> None:
    """The permission to write as oneself is not enough; the refused subject is named."""
    lines = await archive_of(rich.session)
    lines[1] = lines[1].replace(b'"member":"ann"', b'"member":"bob"')  # so that the first event is allowed
    async with (
        EmbeddedServer(ServerSettings(data=tmp_path / "own", port=0, extra=USERS)) as server,
        connect(server.url.replace("//", "//root:pw@")) as root,
        connect(server.url.replace("//", "//bob:pw@"), member="bob") as bob,
    ):
        with pytest.raises(PermissionDenied, match=r"\.ann\.in\.all\.i1"):
            await import_session(bob, resealed(lines), "copy")

        assert await holds_nothing(root, "copy")


async def test_an_import_into_a_full_log_leaves_nothing(rich: Desk, tmp_path: Path) -> None:
    """No event and no object."""
    for number in range(300):
        await rich.session.send("x" * 500, to="nobody", id=f"more-{number}")
    lines = await archive_of(rich.session)
    async with (
        EmbeddedServer(ServerSettings(data=tmp_path / "own", port=0)) as server,
        connect(server.url, settings=StreamSettings(max_bytes=100_000)) as small,
    ):
        with pytest.raises(StorageFull):
            await import_session(small, lines, "copy")

        assert await holds_nothing(small, "copy")
