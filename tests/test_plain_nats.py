"""broker/PROTOCOL.md is enough: nats-py and nothing of ours sends, follows, works; and every example in it runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

BROKER = Path(__file__).parents[1] / "broker"
PROTOCOL = (BROKER / "PROTOCOL.md").read_text()
EXAMPLES = dict(re.findall(r"^```\w+ example=(\S+)\n(.*?)^```$", PROTOCOL, re.MULTILINE | re.DOTALL))
WRONG_LAST_SEQUENCE = 10071


@pytest.fixture(autouse=True)
async def js(broker_url: str) -> AsyncIterator[JetStreamContext]:
    """A plain connection to a broker with the streams of broker/streams."""
    connection = await nats.connect(broker_url)
    try:
        await make_streams(connection)
        yield connection.jetstream()
    finally:
        await connection.close()


async def make_streams(connection: nats.NATS) -> None:
    """Do what `nats stream add --config` does, for every file; the same again is no error."""
    for path in (BROKER / "streams").glob("*.json"):
        name = json.loads(path.read_text())["name"]
        answer = await connection.request(f"$JS.API.STREAM.CREATE.{name}", path.read_bytes(), timeout=5)
        assert "error" not in json.loads(answer.data)


async def send(js: JetStreamContext, session: str, agent: str, text: str, input_id: str) -> int:
    """Append an input as §6 says; return its sequence."""
    body = json.dumps({"type": "input", "text": text}).encode()
    subject = f"session.0.{session}.ann.in.{agent}.{input_id}"
    return (await js.publish(subject, body, headers={"Nats-Expected-Last-Subject-Sequence": "0"})).seq


async def fetch(js: JetStreamContext, name: str, count: int, *, ack: bool = True) -> list[Msg]:
    """Take exactly so many messages of a durable consumer."""
    messages = await js.pull_subscribe_bind(name, "SESSIONS_0")
    found: list[Msg] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await messages.fetch(count - len(found), timeout=5)
    if ack:
        for message in found:
            await message.ack_sync()
    await messages.unsubscribe()
    return found


def texts(messages: list[Msg]) -> list[str]:
    return [json.loads(message.data).get("text", "") for message in messages]


# -- by hand ----------------------------------------------------------------------------------------------------------


async def test_an_input_is_stored_once_however_often_it_is_sent(
    js: JetStreamContext, fresh: Callable[[str], str]
) -> None:
    """Expecting sequence 0 of the input's own subject: the retry is refused with the sequence it has."""
    session = fresh("s")
    sequence = await send(js, session, "outliner", "Hello", "i1")

    with pytest.raises(APIError) as refused:
        await send(js, session, "outliner", "Hello", "i1")
    stored = await js.get_last_msg("SESSIONS_0", f"session.0.{session}.ann.in.outliner.i1")
    assert refused.value.err_code == WRONG_LAST_SEQUENCE
    assert refused.value.description == f"wrong last sequence: {sequence}"
    assert stored.seq == sequence


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["session.0.{s}.>"], ["in", "outliner run", "critic run", "critic state"]),
        (["session.0.{s}.critic.>"], ["critic run", "critic state"]),
        (["session.0.{s}.*.run.*"], ["outliner run", "critic run"]),
        (["session.0.{s}.ann.>", "session.0.{s}.critic.state.*"], ["in", "critic state"]),
    ],
)
async def test_a_durable_consumer_filters_by_agent_and_kind(
    js: JetStreamContext, fresh: Callable[[str], str], filters: list[str], wanted: list[str]
) -> None:
    """The subject has both, so the broker does the filtering."""
    session, name = fresh("s"), fresh("service")
    await send(js, session, "outliner", "in", "i1")
    for member, kind in (("outliner", "run"), ("critic", "run"), ("critic", "state")):
        body = json.dumps({"type": "any", "text": f"{member} {kind}"}).encode()
        await js.publish(f"session.0.{session}.{member}.{kind}.x", body)
    config = ConsumerConfig(filter_subjects=[one.format(s=session) for one in filters])
    await js.add_consumer("SESSIONS_0", config, name=name, durable_name=name)

    assert texts(await fetch(js, name, len(wanted))) == wanted
    assert (await js.consumer_info("SESSIONS_0", name)).num_pending == 0


async def test_a_durable_consumer_starts_at_the_beginning_a_sequence_a_time_or_new(
    js: JetStreamContext, fresh: Callable[[str], str], eventually: Callable[..., Any]
) -> None:
    """The four ways to begin; each name keeps its own position."""
    session = fresh("s")
    await send(js, session, "outliner", "one", "1")
    second = await send(js, session, "outliner", "two", "2")
    stored = datetime.now(UTC)
    between = stored + timedelta(milliseconds=5)
    await eventually(lambda: datetime.now(UTC) > between + timedelta(milliseconds=5))
    await send(js, session, "outliner", "three", "3")
    starts: dict[str, dict[str, Any]] = {
        "one": {"deliver_policy": DeliverPolicy.ALL},
        "two": {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": second},
        "three": {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": between},
        "four": {"deliver_policy": DeliverPolicy.NEW},
    }
    names = {first: fresh(first) for first in starts}
    for first, start in starts.items():
        config = ConsumerConfig(filter_subject=f"session.0.{session}.>", **start)
        await js.add_consumer("SESSIONS_0", config, name=names[first], durable_name=names[first])
    await send(js, session, "outliner", "four", "4")

    everything = list(starts)
    for first, name in names.items():
        wanted = everything[everything.index(first) :]
        assert texts(await fetch(js, name, len(wanted))) == wanted


@pytest.mark.parametrize("kill", [False, True])
async def test_a_durable_consumer_goes_on_where_it_stood_after_a_restart_of_the_broker(
    js: JetStreamContext, broker: Any, broker_url: str, fresh: Callable[[str], str], *, kill: bool
) -> None:
    """Nothing is missing; what was acknowledged comes again after a crash at most."""
    session, name = fresh("s"), fresh("service")
    config = ConsumerConfig(filter_subject=f"session.0.{session}.>", ack_wait=1)
    await js.add_consumer("SESSIONS_0", config, name=name, durable_name=name)
    for number in range(4):
        await send(js, session, "outliner", f"{number}", f"{number}")
    assert texts(await fetch(js, name, 2)) == ["0", "1"]
    assert texts(await fetch(js, name, 1, ack=False)) == ["2"]

    await broker.restart(kill=kill)

    connection = await nats.connect(broker_url)
    try:
        again = connection.jetstream()
        await send(again, session, "outliner", "4", "4")
        found: set[str] = set()
        while not found >= {"2", "3", "4"}:
            found |= set(texts(await fetch(again, name, 1)))
    finally:
        await connection.close()
    assert kill or found == {"2", "3", "4"}


async def test_a_subscription_of_the_library_is_a_consumer_that_anybody_can_go_on_with(
    js: JetStreamContext, ann: Any, fresh: Callable[[str], str]
) -> None:
    """§11: its name is the session's and its own; nats-py takes what the library left."""
    session = ann.session(fresh("s"))
    for text in ("one", "two"):
        await session.send(text, to="outliner")
    async with session.subscribe("billing", kinds=["in"], places=1) as deliveries:
        async with asyncio.timeout(10):
            first = await anext(deliveries)
        await first.ack()

    assert first.event.body["text"] == "one"
    assert texts(await fetch(js, f"session={session.id}=billing", 1)) == ["two"]


async def test_a_change_of_state_expects_the_last_one_over_all_members(
    js: JetStreamContext, ann: Any, fresh: Callable[[str], str]
) -> None:
    """§8: of two who saw the same value one succeeds; a deletion is a version; our library shows what the log has."""
    session = fresh("s")

    async def change(member: str, value: int, revision: int, kind: str = "state.set") -> int:
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(revision),
            "Nats-Expected-Last-Subject-Sequence-Subject": f"session.0.{session}.*.state.plan",
            "Nats-Rollup": "sub",
        }
        body = json.dumps({"type": kind, "value": value}).encode()
        return (await js.publish(f"session.0.{session}.{member}.state.plan", body, headers=headers)).seq

    first = await change("ann", 1, 0)
    second = await change("bob", 2, first)
    with pytest.raises(APIError) as refused:
        await change("ann", 3, first)

    state = (await ann.session(session).view())["state"]
    assert refused.value.description == f"wrong last sequence: {second}"
    assert state["plan"].items() >= {"value": 2, "by": "bob", "revision": second}.items()

    ours = ann.session(session).state
    third = (await ours.set("plan", 3, expect=second)).revision
    fourth = await change("bob", 0, third, "state.deleted")
    assert await ours.get("plan") is None
    fifth = await change("bob", 5, fourth)
    # bob's roll-ups have dropped what bob had written before
    assert [one.revision for one in await ours.history("plan")] == [first, third, fifth]


async def test_a_run_written_by_hand_is_folded_by_the_library(
    js: JetStreamContext, ann: Any, fresh: Callable[[str], str]
) -> None:
    """§7 with nats-py: a crash, a take-over, a zombie that is refused, and an end that replaces the deltas."""
    session = fresh("s")
    await send(js, session, "outliner", "Hello", "i1")
    run = hashlib.sha256(b"ann.i1").hexdigest()[:24]

    async def write(expect: int, **body: Any) -> int:
        rollup = {"Nats-Rollup": "sub"} if body["type"] == "run.finished" else {}
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expect)} | rollup
        subject = f"session.0.{session}.outliner.run.{run}"
        return (await js.publish(subject, json.dumps(body).encode(), headers=headers)).seq

    started = await write(0, type="run.started", attempt=1, input="ann/i1", replica="a")
    lost = await write(started, type="text.delta", part="1", text="half of")
    taken = await write(lost, type="run.started", attempt=2, input="ann/i1", replica="b")
    with pytest.raises(APIError):
        await write(lost, type="text.delta", part="1", text=" it")
    last = await write(taken, type="text.delta", part="1", text="whole")
    part = {"type": "text", "part": "1", "text": "whole"}
    attempts = [{"attempt": 1, "parts": [{**part, "text": "half of"}]}]
    before = (await ann.session(session).view())["agents"][0]["runs"][0]
    end = {"status": "done", "attempt": 2, "input": "ann/i1", "parts": [part], "usage": {"tokens": 2}, "first": started}
    await write(last, type="run.finished", **end, attempts=attempts)

    finished = await ann.session(session).result("outliner", run, timeout=10)
    with pytest.raises(NotFoundError):
        await js.get_msg("SESSIONS_0", taken)
    assert (finished["status"], finished["attempt"], finished["usage"]) == ("done", 2, {"tokens": 2})
    assert finished["parts"] == [part]
    assert finished["attempts"] == before["attempts"] == attempts


# -- the examples of PROTOCOL.md ----------------------------------------------------------------------------------


@pytest.fixture
def example(programs: Any, tmp_path: Path, broker_url: str) -> Callable[..., Any]:
    """Start a program of §17: `example("send.py", "s1", "outliner", "Hello")`."""

    def start(name: str, *arguments: str) -> Any:
        (tmp_path / name).write_text(EXAMPLES[name])
        return programs.start(tmp_path / name, *arguments, NATS_URL=broker_url)

    return start


def lines(program: Any) -> list[dict[str, Any]]:
    """Return what a program printed; the last line may still be incomplete."""
    return [json.loads(line) for line in program.output.splitlines(keepends=True) if line.endswith("}\n")]


async def ended(program: Any, eventually: Callable[..., Awaitable[Any]]) -> str:
    await eventually(lambda: not program.alive, 20)
    return str(program.output)


async def nothing_outstanding(js: JetStreamContext, name: str) -> bool:
    info = await js.consumer_info("SESSIONS_0", name)
    return info.num_pending == 0 and info.num_ack_pending == 0


async def test_the_sender_of_the_document_sends_once(
    example: Callable[..., Any], fresh: Callable[[str], str], eventually: Callable[..., Awaitable[Any]]
) -> None:
    """send.py: again is harmless, other content under the same id is refused."""
    session = fresh("s")
    for repeated in (False, True):
        program = example("send.py", session, "outliner", "Hello", "i1")
        await ended(program, eventually)
        assert lines(program)[0]["repeated"] is repeated

    assert "other content" in await ended(example("send.py", session, "outliner", "Bye", "i1"), eventually)


async def test_the_service_of_the_document_sees_each_event_once_over_two_lives(
    js: JetStreamContext,
    example: Callable[..., Any],
    fresh: Callable[[str], str],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    """service.py: killed and started again it goes on; what is no event is left out and acknowledged."""
    session, name = fresh("s"), fresh("billing")

    async def of_session(program: Any, count: int) -> list[str]:
        def found() -> list[str]:
            return [line["event"]["text"] for line in lines(program) if f".{session}." in line["subject"]]

        await eventually(lambda: len(found()) >= count, 20)
        return found()

    await send(js, session, "outliner", "one", "1")
    await js.publish(f"session.0.{session}.eve.state.k", b"not json")
    await js.publish(f"session.0.{session}.eve.state.k", b'{"type":"x"}', headers={"Nats-Sequence": "1"})
    await send(js, session, "outliner", "two", "2")
    first = example("service.py", name)
    assert await of_session(first, 2) == ["one", "two"]
    await eventually(lambda: nothing_outstanding(js, f"service-{name}"), 10)
    first.kill()
    await send(js, session, "outliner", "three", "3")

    assert await of_session(example("service.py", name), 1) == ["three"]


async def test_the_agent_of_the_document_is_an_agent_for_the_library(
    js: JetStreamContext,
    example: Callable[..., Any],
    ann: Any,
    fresh: Callable[[str], str],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    """agent.py: inputs by name and to all, presence, one event left of a finished run, and a part of any view."""
    session, agent = ann.session(fresh("s")), fresh("outliner")
    await session.create(title="Review", agents=[agent])
    sent = [await session.send(text, to=to) for text, to in (("Hello", agent), ("everybody", "all"))]
    program = example("agent.py", agent)
    runs = [await session.result(agent, one.run, timeout=20) for one in sent]
    present = await eventually(lambda: ann.log.present(f"agent.{agent}"), 10)
    stored = await ann.log.read(0, f"session.0.{session.id}.{agent}.run.*")

    assert [run["status"] for run in runs] == ["done", "done"], program.output
    assert [part["text"] for run in runs for part in run["parts"]] == ["You said: Hello", "You said: everybody"]
    assert [run["input"] for run in runs] == [f"ann/{one.input}" for one in sent]
    assert (len(stored), len(present)) == (2, 1)
    await eventually(lambda: nothing_outstanding(js, f"agent-{agent}"), 10)


@pytest.mark.slow
async def test_an_agent_of_the_document_takes_over_from_one_that_was_killed(
    js: JetStreamContext, example: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """The input comes again, and the next attempt begins on the same run."""
    session, agent = ann.session(fresh("s")), fresh("outliner")
    sent = await session.send("Hello", to=agent)
    config = json.loads((BROKER / "consumers/agent.json").read_text())
    config |= {"durable_name": f"agent-{agent}", "filter_subjects": [f"session.0.*.*.in.{agent}.*"], "ack_wait": 10**9}
    request = json.dumps({"stream_name": "SESSIONS_0", "config": config}).encode()
    await js._nc.request(f"$JS.API.CONSUMER.CREATE.SESSIONS_0.agent-{agent}", request, timeout=5)
    await fetch(js, f"agent-{agent}", 1, ack=False)
    subject = f"session.0.{session.id}.{agent}.run.{sent.run}"
    body = {"type": "run.started", "attempt": 1, "input": f"ann/{sent.input}", "replica": "dead"}
    await js.publish(subject, json.dumps(body).encode(), headers={"Nats-Expected-Last-Subject-Sequence": "0"})

    program = example("agent.py", agent)
    run = await session.result(agent, sent.run, timeout=20)
    assert (run["status"], run["attempt"]) == ("done", 2), program.output


@pytest.mark.slow
async def test_the_reader_of_the_document_misses_nothing_while_the_broker_is_killed(
    broker: Any,
    broker_url: str,
    example: Callable[..., Any],
    fresh: Callable[[str], str],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    """follow.py, §10: from the beginning and from a sequence, under load, through a crash: each once, in order."""
    session, stored = fresh("s"), []

    async def write(count: int) -> None:
        connection = await nats.connect(broker_url)
        try:
            for number in range(count):
                subject = f"session.0.{session}.m{number % 3}.in.outliner.{fresh('i')}"
                body = json.dumps({"type": "input", "text": str(number)}).encode()
                stored.append((await connection.jetstream().publish(subject, body)).seq)
        finally:
            await connection.close()

    await write(100)
    early = example("follow.py", session)
    load = asyncio.create_task(write(600))
    await eventually(lambda: len(stored) > 250, 20)
    late = example("follow.py", session, str(stored[200]))
    await load
    await broker.restart(kill=True)
    await write(100)

    await eventually(lambda: len(lines(early)) >= 800 and len(lines(late)) >= 599, 40)
    assert [line["sequence"] for line in lines(early)] == stored
    assert [line["sequence"] for line in lines(late)] == stored[201:]


async def test_the_reader_of_the_document_reads_an_open_run_and_a_finished_one(
    js: JetStreamContext,
    example: Callable[..., Any],
    ann: Any,
    fresh: Callable[[str], str],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    """The beginning by entities: one event of what is finished, all of what is open."""
    session = fresh("s")
    await ann.session(session).create(title="Review")
    await ann.session(session).update(title="Second")
    for run, last in (("done", "run.finished"), ("open", "text.delta")):
        for kind in ("run.started", last):
            headers = {"Nats-Rollup": "sub"} if kind == "run.finished" else None
            await js.publish(f"session.0.{session}.a.run.{run}", json.dumps({"type": kind}).encode(), headers=headers)
    program = example("follow.py", session)

    await eventually(lambda: len(lines(program)) >= 5, 20)
    wanted = ["session.created", "session.updated", "run.finished", "run.started", "text.delta"]
    assert [line["event"]["type"] for line in lines(program)] == wanted


def test_the_vectors_of_the_document_are_right() -> None:
    """Shards, run ids and epochs, computed with the standard library alone."""
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PROTOCOL, re.MULTILINE)
    created = re.search(r"`SESSIONS_0`\s+created\s+`(\S+)`\s+it\s+is\s+`(\w{8})`", PROTOCOL)

    assert len(rows) == 3 and created
    for session, *numbers in rows:
        crc = zlib.crc32(session.encode())
        assert [int(number) for number in numbers] == [crc, crc % 1, crc % 2, crc % 8]
    assert f"`{hashlib.sha256(b'ann.i1').hexdigest()[:24]}`" in PROTOCOL
    assert hashlib.sha256(f"SESSIONS_0 {created[1]}".encode()).hexdigest()[:8] == created[2]


async def test_a_position_has_the_same_epoch_after_a_restart(
    broker: Any, broker_url: str, ann: Any, fresh: Callable[[str], str]
) -> None:
    """§9 by hand, and as the library computes it."""
    position = str(await ann.session(fresh("s")).create())
    await broker.restart(kill=True)
    connection = await nats.connect(broker_url)
    try:
        answer = json.loads((await connection.request("$JS.API.STREAM.INFO.SESSIONS_0", b"", timeout=5)).data)
    finally:
        await connection.close()

    epoch = hashlib.sha256(f"SESSIONS_0 {answer['created']}".encode()).hexdigest()[:8]
    assert position == f"{epoch}-{answer['state']['last_seq']}"


# -- byte by byte -----------------------------------------------------------------------------------------------------


class Actor:
    """One connection of the transcript; hears the broker line by line, and answers its pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, line: str) -> None:
        """Send a line."""
        self._writer.write(line.encode() + b"\r\n")

    async def heard(self) -> str:
        """Return the next line that is not the broker's housekeeping."""
        while True:
            async with asyncio.timeout(10):
                line = (await self._reader.readuntil(b"\r\n"))[:-2].decode()
            if line == "PING":
                self.say("PONG")
            elif not line.startswith("INFO "):
                return line

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def test_the_transcript_of_the_document_is_what_passes(broker: Any, tmp_path: Path) -> None:
    """§16 line by line over plain TCP, at a broker that holds nothing but the streams and the consumer."""
    async with another(broker, tmp_path / "transcript") as server, contextlib.AsyncExitStack() as stack:
        await make_everything(server.url)
        actors: dict[str, Actor] = {}
        acknowledgement = ""
        for row in filter(None, EXAMPLES["transcript"].splitlines()):
            name, direction, line = [*re.split(" +", row, maxsplit=2), ""][:3]
            if name not in actors:
                actors[name] = Actor(*await asyncio.open_connection("127.0.0.1", server.port))
                stack.push_async_callback(actors[name].close)
            if direction == ">":
                actors[name].say(acknowledgement if line.startswith("PUB $JS.ACK") else line)
                continue
            heard = await actors[name].heard()
            assert re.fullmatch(".*".join(map(re.escape, line.split("…"))), heard), f"{row!r} was {heard!r}"
            if "$JS.ACK" in heard:
                acknowledgement = f"PUB {heard.split()[3]} _INBOX.outliner.5 4"


def another(broker: Any, folder: Path) -> Any:
    """Return a broker of the test's own."""
    return type(broker)(type(broker.settings)(data=folder, port=0))


async def make_everything(url: str) -> None:
    """Make the streams and the agent's consumer."""
    connection = await nats.connect(url)
    await make_streams(connection)
    body = b'{"stream_name": "SESSIONS_0", "config": %b}' % (BROKER / "consumers/agent.json").read_bytes()
    await connection.request("$JS.API.CONSUMER.CREATE.SESSIONS_0.agent-outliner", body)
    await connection.close()


@pytest.mark.skipif(shutil.which("nats") is None, reason="the `nats` command is not installed here")
async def test_the_commands_of_the_document_run(broker: Any, tmp_path: Path) -> None:
    """cli.sh in the folder broker/, at a broker that has nothing."""
    async with another(broker, tmp_path / "cli") as server:
        command = ["bash", "-euc", EXAMPLES["cli.sh"]]
        environment = os.environ | {"NATS_URL": server.url}
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=BROKER, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert '"seq":1' in done.stdout.replace(" ", "")
