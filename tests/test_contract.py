"""broker/ is what the contract says, its schemas are what the library publishes, and nats-server takes its files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator_free import Agent, Broker, Run, RunError, Session, connect, contract, contract_files
from orchestrator_free.embedded.binary import find_binary
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.events import decode
from orchestrator_free.gateway.channels.frames import Frame
from orchestrator_free.gateway.problems import problem
from orchestrator_free.jetstream import AccessBucket, Message
from orchestrator_free.monitor import Monitor, MonitorSettings
from orchestrator_free.reading.entries import Entry, to_event
from orchestrator_free.subjects import parse
from orchestrator_free.vocabulary import VOCABULARY
from orchestrator_free.working.runwriter import INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BROKER = Path(__file__).parents[1] / "broker"
VALIDATORS = {
    path.stem: Draft202012Validator(json.loads(path.read_text())) for path in (BROKER / "schemas").glob("*.json")
}
NOW = "2026-01-01T00:00:00Z"


# -- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*contract_files.files(), "PROTOCOL.md"])
def test_what_is_committed_is_what_the_contract_renders(name: str) -> None:
    """A change of the contract changes the files in the same commit."""
    committed = (BROKER / name).read_text()
    rendered = contract_files.files().get(name) or contract_files.with_tables(committed)

    assert committed == rendered, f"broker/{name} is not what the contract says; run `{contract_files.COMMAND}`"


def test_no_file_is_left_over() -> None:
    """A file that is no longer rendered is gone."""
    found = {str(path.relative_to(BROKER)) for path in BROKER.rglob("*") if path.is_file()}

    assert found == {*contract_files.files(), "PROTOCOL.md"}


def test_writing_again_changes_nothing_and_more_shards_are_more_streams(tmp_path: Path) -> None:
    """`write` says what it changed; an operator with four shards gets four streams and permissions for each."""
    assert len(contract_files.write(tmp_path, 4)) == len(contract_files.files(4))
    assert contract_files.write(tmp_path, 4) == []

    streams = sorted(path.name for path in (tmp_path / "streams").glob("sessions_*.json"))
    assert streams == [f"sessions_{shard}.json" for shard in range(4)]
    assert '"$JS.API.CONSUMER.MSG.NEXT.SESSIONS_3.agent-outliner"' in (tmp_path / "permissions.conf").read_text()


def check_config(path: Path, environment: dict[str, str]) -> str:
    """Return what nats-server says about a configuration."""
    command = [str(find_binary().path), "-t", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ | environment)
    return done.stdout + done.stderr


def users() -> dict[str, str]:
    """Return a public key for every user that permissions.conf names."""
    names = ("GATEWAY", "OPERATOR", "OUTLINER", "BILLING", "NOTIFY", "DASHBOARD", "SYNADIA", "PARTNER", "SYSTEM")
    return {
        f"{name}_NKEY": nkeys.from_seed(
            bytearray(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
        ).public_key.decode()
        for name in names
    }


def test_nats_server_accepts_the_configuration() -> None:
    """`nats-server -t` on the file as it is shipped."""
    assert "is valid" in check_config(BROKER / "nats-server.conf", {})


def test_nats_server_accepts_the_users_and_wants_their_keys(tmp_path: Path) -> None:
    """The include needs the keys in the environment: a server never starts with a default user."""
    server = (BROKER / "nats-server.conf").read_text()
    (tmp_path / "nats-server.conf").write_text(server.replace("# include", "include"))
    (tmp_path / "permissions.conf").write_text((BROKER / "permissions.conf").read_text())

    assert "is valid" in check_config(tmp_path / "nats-server.conf", users())
    without = {name: key for name, key in users().items() if name != "OUTLINER_NKEY"}
    assert "variable reference for 'OUTLINER_NKEY'" in check_config(tmp_path / "nats-server.conf", without)


async def test_streams_made_from_the_files_are_those_of_the_library(tmp_path: Path) -> None:
    """`nats stream add --config` and the first gateway give the same installation."""
    async with EmbeddedServer(ServerSettings(data=tmp_path, port=0)) as server, connect(server.url) as ours:
        names = {path.stem: json.loads(path.read_text()) for path in (BROKER / "streams").glob("*.json")}
        for config in names.values():
            if config["name"] not in contract.OPTIONAL:  # who needs them makes them
                await ours.log.wire.api(f"STREAM.DELETE.{config['name']}")
            await ours.log.wire.api(f"STREAM.CREATE.{config['name']}", config)
        await AccessBucket(ours.log).open()
        for name in ("agent", "service"):
            config = json.loads((BROKER / f"consumers/{name}.json").read_text())
            body = {"stream_name": "SESSIONS_0", "config": config}
            await ours.log.wire.api(f"CONSUMER.CREATE.SESSIONS_0.{config['durable_name']}", body)
        async with connect(server.url) as again, working(outliner(), again):
            sent = await again.session("s1").send("small", to="outliner")
            assert (await again.session("s1").result("outliner", sent.run, timeout=20))["status"] == "done"


# -- AsyncAPI -----------------------------------------------------------------------------------------------------


def test_the_asyncapi_document_reads_back_and_its_references_lead_somewhere() -> None:
    """Our YAML means what was meant, for a reader that did not write it."""
    document = yaml.safe_load((BROKER / "asyncapi.yaml").read_text())
    references = list(refs(document))

    assert document == contract_files.asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert all(target(document, reference) for reference in references)
    assert {message["name"] for message in document["components"]["messages"].values()} == {
        contract_files.type_of(model) for models in VOCABULARY.values() for model in models
    }


def refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [ref for item in value.values() for ref in refs(item)]
    return [ref for item in value for ref in refs(item)] if isinstance(value, list) else []


def target(document: Any, reference: str) -> Any:
    file, _, path = reference.partition("#")
    found = json.loads((BROKER / file).read_text()) if file else document
    for step in path.strip("/").split("/"):
        found = found[step]
    return found


@pytest.mark.parametrize("text", ["on", "a: b", "# no", "", "1", "x #y", "it's", "{a}", "é", "null", "- a", "3.0.0"])
def test_texts_that_yaml_would_misread_are_quoted(text: str) -> None:
    """Whatever a description says, it stays that text."""
    assert yaml.safe_load(contract_files.to_yaml({"a": [text, {"b": text}]})) == {"a": [text, {"b": text}]}


# -- schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_every_schema_is_one(name: str) -> None:
    """JSON Schema 2020-12, by its own meta-schema."""
    Draft202012Validator.check_schema(VALIDATORS[name].schema)


def outliner() -> Agent:
    """An agent whose runs have everything that a run can have."""
    agent = Agent("outliner", ack_wait_seconds=1.0, grace_seconds=0.0)

    @agent
    async def outline(run: Run) -> None:
        if run.input.text == "fails":
            raise RunError("cannot outline this")
        if run.input.text == "dies" and run.attempt == 1:
            await run.text("half of it")
            await asyncio.Event().wait()
        await run.reasoning("Looking. ")
        await run.emit({"type": "tool.input.delta", "call": "c0", "tool": "draft", "text": '{"a"'})
        async with run.tool("split", {"chars": 5}) as call:
            await call.progress({"done": 1})
            call.output = {"headings": 3}
        with contextlib.suppress(ValueError):
            async with run.tool("breaks"):
                raise ValueError
        await run.text("x" * (INLINE_LIMIT + 1) if run.input.text == "large" else "# Outline")
        await run.source("https://example.org", title="Example")
        await run.data("progress", {"done": 1}, id="p")
        await run.data("blink", 1, transient=True)
        await run.file("outline.md", b"# Outline", media_type="text/markdown")
        await run.usage(input_tokens=10, output_tokens=20)
        await run.notice("the source is old")
        await run.emit({"type": "run.waiting", "reason": "rate limit", "until": NOW})
        await run.emit({"type": "run.stalled", "seconds": 30.5})
        await run.emit({"type": "run.working"})
        await run.emit({"type": "raw", "data": {"vendor": "event"}})
        await run.emit({"type": "outliner.mood", "mood": "good"})

    return agent


@contextlib.asynccontextmanager
async def working(agent: Agent, broker: Broker) -> AsyncIterator[None]:
    """Let an agent work while the block runs; what it is at is cut, as by a crash."""
    ready = asyncio.Event()
    task = asyncio.create_task(agent.serve(broker, ready=ready.set))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def drive(session: Session, url: str, eventually: Callable[..., Any]) -> None:
    """Let a session have everything that a session can have."""
    await session.create(title="Review", agents=["outliner"], compaction="off")
    await session.update(title="Second")
    async with connect(url, member="outliner") as broker:
        async with working(outliner(), broker):
            dead = await session.send("dies", to="outliner")
            await eventually(lambda: has_text(session, dead.run), 10)
        async with working(outliner(), broker):
            sent = [dead, await session.send("fails", to="all", data={"a": 1})]
            sent.append(await session.send("large", to="outliner", parent={"agent": "critic", "run": dead.run}))
            for one in sent:
                await session.result("outliner", one.run, timeout=30)
            await control(session)
    await session.send("anybody?", to="nobody")
    await coordinate(session, sent[0].input)
    log = session._broker.log
    async with Monitor(Broker(log, "gateway"), settings=MonitorSettings(tick_seconds=0.1, offline_after_seconds=0.2)):
        await eventually(lambda: log.last(session.shard, f"session.{session.shard}.{session.id}.nobody.presence"), 20)


async def coordinate(session: Session, input: str) -> None:
    """Say everything that members say to each other beside inputs and controls."""
    said: list[tuple[str, str, str, dict[str, Any]]] = [
        ("meta", "", "", {"type": "branch.selected", "input": {"from": "ann", "input": input}}),
        ("presence", "", "", {"type": "presence.set", "status": "away", "reason": "lunch", "back": NOW}),
        ("state", "", "plan", {"type": "state.set", "value": {"step": 1}}),
        ("state", "", "draft", {"type": "state.deleted"}),
        ("ask", "", "q1", {"type": "ask", "about": "approval", "to": ["ann"], "options": ["yes", "no"], "veto": "no"}),
        ("answer", "", "q1", {"type": "answer", "value": "yes", "comment": "fine"}),
        ("ask", "", "q2", {"type": "ask", "seconds": 60, "escalations": [{"to": ["bob"], "after_seconds": 30}]}),
        ("stage", "q2", "1", {"type": "ask.escalated", "to": ["bob"]}),
        ("stage", "q2", "expired", {"type": "ask.expired"}),
        ("ask", "", "q3", {"type": "ask", "run": {"agent": "outliner", "run": "over"}}),
        ("stage", "q3", "withdrawn", {"type": "ask.withdrawn", "reason": "not needed"}),
        (
            "floor",
            "",
            "",
            {"type": "floor", "step": "request", "holder": None, "request": {"from": "ann", "to": "bob"}},
        ),
        ("lease", "", "l1", {"type": "lease.taken", "term": 1, "hold": "h1", "seconds": 5}),
        ("lease", "", "l1", {"type": "lease.released", "term": 1, "hold": "h1"}),
        ("lease", "", "l2", {"type": "lease.taken", "term": 1, "hold": "h2"}),
        ("stage", "l2", "h2", {"type": "lease.lapsed", "term": 1}),
        ("notice", "", "l1", {"type": "letter.settled", "letter": "run/bob/r1", "how": "retried", "by": "ann"}),
        *(
            (
                "notice",
                "",
                f"n-{step}",
                {"type": f"notification.{step}", "about": "ask.open", "position": "x", "tries": 8},
            )
            for step in ("failed", "retry", "delivered")
        ),
    ]
    for kind, target, id, body in said:
        await session.append(kind, body, target=target, id=id)


async def control(session: Session) -> None:
    """Say everything that can be said to an agent, about a run that is over."""
    about: dict[str, Any] = {"to": "outliner", "run": "over"}
    said = [
        await session.control.cancel("over", to="outliner"),
        await session.control.steer("shorter", data={"lines": 3}, **about),
        await session.control.redirect("in French", **about),
        await session.control.pause(**about),
        await session.control.resume(**about),
    ]
    for one in said:
        await one.outcome(timeout=20)


async def has_text(session: Session, run: str) -> bool:
    """Whether an open run has written something."""
    view = await session.view()
    return any(one["run"] == run and one["parts"] for agent in view["agents"] for one in agent["runs"])


@pytest.mark.slow
async def test_schemas_accept_what_the_library_publishes(
    broker_url: str, ann: Broker, eventually: Callable[..., Any]
) -> None:
    """Every stored payload of a session with everything in it, its envelopes, and its view."""
    session = ann.session("everything")
    await drive(session, broker_url, eventually)
    stored = await ann.log.read(session.shard, session.filter)
    view = await session.view(whole=False)

    seen = set()
    for message in stored:
        kind, body = message.subject.split(".")[4], decode(message.payload)
        VALIDATORS[kind].validate(body)
        seen.add((kind, body["type"]))
        event = to_event(message)
        assert event is not None
        VALIDATORS["envelope"].validate(json.loads(Frame("0123abcd", Entry(message, event)).ndjson))
    VALIDATORS["view"].validate(view)
    VALIDATORS["view"].validate(await session.view())
    known = {(kind, contract_files.type_of(model)) for kind, models in VOCABULARY.items() for model in models}
    assert known - seen == {("meta", "session.deleted")}, "drive() leaves out a type of the vocabulary"
    assert seen - known == {("run", "outliner.mood")}
    runs = [run for agent in view["agents"] for run in agent["runs"]]
    assert sorted(run["status"] for run in runs) == ["done", "done", "error"]
    assert [run["attempt"] for run in runs] == [2, 1, 1] and runs[0]["attempts"]


BROKEN = {
    "no type": ("in", {"text": "Hello"}),
    "type is no text": ("in", {"type": 1}),
    "text is no text": ("in", {"type": "input", "text": 1}),
    "parent without a run": ("in", {"type": "input", "parent": {"agent": "a"}}),
    "attempt 0": ("run", {"type": "run.started", "attempt": 0, "input": "ann/i1"}),
    "no input": ("run", {"type": "run.started", "attempt": 1}),
    "unknown status": ("run", {"type": "run.finished", "status": "great"}),
    "delta without part": ("run", {"type": "text.delta", "text": "x"}),
    "parts are no list": ("run", {"type": "run.finished", "status": "done", "parts": {}}),
    "usage is no number": ("run", {"type": "usage", "usage": {"tokens": "many"}}),
    "compaction is a boolean": ("meta", {"type": "session.created", "compaction": True}),
    "agents are no names": ("meta", {"type": "session.updated", "agents": [1]}),
    "reason is no text": ("presence", {"type": "agent.offline", "reason": None}),
    "envelope without event": ("envelope", {"position": "0123abcd-1", "session": "s", "member": "m", "kind": "in"}),
    "view of nothing": ("view", {}),
    "problem without status": ("problem", {"type": "about:blank", "title": "x", "detail": "y"}),
    "not an object": ("state", [1]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_schemas_refuse_what_is_broken(name: str) -> None:
    """A known type with a wrong field is wrong, whoever reads the schema."""
    schema, value = BROKEN[name]

    assert not VALIDATORS[schema].is_valid(value)


#: of each kind a payload of a known type
KNOWN: dict[str, dict[str, Any]] = {
    "in": {"type": "input"}, "run": {"type": "usage", "usage": {}}, "meta": {"type": "session.updated"},
    "presence": {"type": "presence.set", "status": "away"}, "state": {"type": "state.set"}, "ctl": {"type": "cancel"},
    "outcome": {"type": "outcome", "state": "applied"}, "ask": {"type": "ask"}, "answer": {"type": "answer"},
    "stage": {"type": "ask.escalated", "to": []}, "floor": {"type": "floor", "step": "release", "holder": None},
    "lease": {"type": "lease.taken", "term": 1, "hold": "h1"},
    "notice": {"type": "notification.failed", "about": "ask.open", "position": "0123abcd-1", "tries": 8},
}  # fmt: skip


@pytest.mark.parametrize("kind", VOCABULARY)
def test_schemas_let_unknown_types_and_fields_pass(kind: str) -> None:
    """Old readers survive new writers."""
    assert VALIDATORS[kind].is_valid({"type": "of.tomorrow", "anything": [1]})
    assert VALIDATORS[kind].is_valid(KNOWN[kind] | {"more": {"x": 1}})


def test_problems_are_as_their_schema_says() -> None:
    """The gateway's errors."""
    VALIDATORS["problem"].validate(json.loads(problem(404, "Session not found", "create it first").body))


def test_envelopes_name_the_entity() -> None:
    """Target and id stand there where the subject has them."""
    address = parse("session.0.s1.ann.in.outliner.i1")
    assert address is not None
    message = Message(str(address), 7, NOW, b'{"type":"input"}', rollup=False)
    event = to_event(message)
    assert event is not None
    envelope = json.loads(Frame("0123abcd", Entry(message, event)).ndjson)

    VALIDATORS["envelope"].validate(envelope)
    assert envelope["position"] == "0123abcd-7"
    assert (envelope["target"], envelope["id"]) == ("outliner", "i1")


# -- the contract as data ---------------------------------------------------------------------------------------------


def test_names_of_durable_subscriptions_cannot_meet() -> None:
    """`a-b` + `c` and `a` + `b-c` are different subscriptions."""
    assert contract.session_consumer_name("a-b", "c") != contract.session_consumer_name("a", "b-c")


@pytest.mark.parametrize("role", contract.ROLES)
def test_only_core_and_operators_publish_under_every_name(role: str) -> None:
    """What a role may publish into the log has its own name in the place of the sender."""
    allowed = contract.permissions(role, "bob", shards=2)["publish"]["allow"]
    events = [subject for subject in allowed if subject.startswith("session.")]

    kinds = ("run.*", "in.*.*", "ctl.*.*", "outcome.*", "state.*", "ask.*", "answer.*", "stage.*.*", "lease.*", "floor")
    own = [f"session.*.*.bob.{kind}" for kind in (*kinds, "presence")]
    wanted = {
        "core": ["session.>"],
        "operator": ["session.>"],
        "agent": own,
        "isolated": own,
        "service": [],
        "notifier": ["session.*.*.bob.notice.*"],
        "door": [f"session.*.*.bob.{kind}" for kind in ("in.*.*", "answer.*", "meta")],
        "guest": own,
        "caller": [],
        "observer": [],
    }
    assert events == wanted[role]
    later = [subject for subject in allowed if subject.startswith("at.")]
    timed = ["at.session.*.*.bob.stage.*.*", "at.session.*.*.bob.ctl.*.*"]
    assert later == {
        "core": ["at.session.>"],
        "operator": ["at.session.>"],
        "agent": timed,
        "isolated": timed,
        "guest": timed,
    }.get(role, [])
    assert not any("{" in subject for subject in allowed)


def test_a_short_age_shortens_the_window_of_message_ids() -> None:
    """The broker refuses a stream whose window is longer than its age."""
    assert contract.stream_config(0, contract.StreamSettings(max_age_seconds=60))["duplicate_window"] == 60 * 10**9
    assert contract.stream_config(0, contract.StreamSettings())["duplicate_window"] == 120 * 10**9
