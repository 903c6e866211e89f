"""Notifications: people hear by webhook of what happened while nobody was watching; nothing is missed, nothing leaks."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
import standardwebhooks

from orchestrator_free import Broker, Session, connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import InvalidInput, NoticeNotFound
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.notify import (
    Notifier,
    NotifierSettings,
    Webhook,
    WebhookGone,
    WebhookSettings,
    dead_letters,
    read_secrets,
    retry_dead_letter,
)
from orchestrator_free.notify.rules import is_final, pause_before, read_retry_after
from orchestrator_free.notify.webhook import why_refused
from orchestrator_free.subjects import run_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROOT = Path(__file__).parents[1]
SECRET = "whsec_" + base64.b64encode(b"canary-secret-of-24-byte").decode()
COMMAND = "import sys\nfrom orchestrator_free.cli import main\nsys.argv[0] = 'orchestrator-free'\nmain()\n"


@dataclass
class Told:
    """A webhook that arrived, its signature checked by the library of the standard."""

    id: str
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        return self.body["data"]

    @property
    def type(self) -> str:
        return self.body["type"]


@dataclass
class Receiver:
    """A real HTTP server; `answers` are given first, then 204. An answer may be a status, headers, or an event to wait for."""

    port: int = 0
    told: list[Told] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    chance: float = 0.0
    path: str = "/hook"
    secret: str = SECRET
    tls: ssl.SSLContext | None = None
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def of(self, session: Session) -> list[Told]:
        """Return what was told of a session."""
        return [told for told in self.told if told.data["session"] == session.id]

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        id = request.headers["webhook-id"]
        self.tries.append(id)
        answer = self.answers.pop(0) if self.answers else 503 if random.random() < self.chance else 204
        if isinstance(answer, threading.Event):
            answer.wait(60)
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        try:
            said = standardwebhooks.Webhook(self.secret).verify(body, dict(request.headers))
        except standardwebhooks.WebhookVerificationError as error:
            self.forged.append(str(error))
            status = 400
        if status == 204:
            self.told.append(Told(id, said))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()

    def stop(self) -> None:
        """Stop listening; the port stays this receiver's for `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
        assert receiver.forged == []
    finally:
        receiver.stop()


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    """A notifier of the test's own."""
    return fresh("notify")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create(title="Order 7")
    return session


@asynccontextmanager
async def notifying(
    url: str, name: str, receiver: Receiver, *, timeout: float = 5, **settings: Any
) -> AsyncIterator[Notifier]:
    """Run a notifier inside the test."""
    chosen = NotifierSettings(**{"settle_seconds": 0, "first_pause_seconds": 0.1, **settings})
    target = WebhookSettings(receiver.url, [SECRET], timeout_seconds=timeout)
    async with connect(url, member=name) as broker, Webhook(target) as webhook:
        notifier = Notifier(broker, webhook, chosen)
        ready = asyncio.Event()
        task = asyncio.create_task(notifier.run(ready=ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 20)
            yield notifier
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def append(session: Session, member: str, kind: str, body: dict[str, Any], **where: Any) -> int:
    """Write an event of any member."""
    return await Broker(session._log, member).session(session.id).append(kind, body, **where)


async def work(session: Session, *, status: str = "done", text: str = "Here it is.", **end: Any) -> str:
    """Send an input and finish its run, as an agent called `writer`; return the run's id."""
    input = secrets.token_hex(4)
    await session.append("in", {"type": "input", "text": "Write."}, target="writer", id=input)
    return await finish(session, input, status=status, text=text, **end)


async def finish(session: Session, input: str, *, status: str = "done", text: str = "Here it is.", **end: Any) -> str:
    run, source = run_id("ann", input), f"ann/{input}"
    await append(session, "writer", "run", {"type": "run.started", "attempt": 1, "input": source}, id=run)
    parts = [{"type": "text", "part": "1", "text": text}]
    body = {
        "type": "run.finished",
        "status": status,
        "input": source,
        "parts": parts,
        "usage": {"output_tokens": 3},
    } | end
    await append(session, "writer", "run", body, id=run)
    return run


# -- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [("done", "run.finished"), ("error", "run.failed"), ("failed", "run.failed"), ("rejected", "run.failed")],
)
async def test_the_end_of_a_run_is_told_with_whose_it_was_and_how_it_ended(
    status: str, told: str, broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with notifying(broker_url, name, receiver, link="https://app.example/{session}"):
        run = await work(session, status=status, text="x" * 800, error=None if status == "done" else "no")
        [one] = await eventually(lambda: receiver.of(session))

    assert one.type == told
    assert one.id == f"msg_{one.data['position'].replace('-', '_')}"
    expected = {
        "session": session.id, "title": "Order 7", "link": f"https://app.example/{session.id}", "agent": "writer",
        "run": run, "status": status, "error": None if status == "done" else "no", "usage": {"output_tokens": 3},
    }  # fmt: skip
    assert expected.items() <= one.data.items()
    assert one.data["text"] == "x" * 499 + "…"
    assert (one.data["input"]["from"], one.data["input"]["text"]) == ("ann", "Write.")
    assert datetime.fromisoformat(one.body["timestamp"]).tzinfo is not None


async def test_an_ask_a_loss_a_stall_and_a_request_for_a_person_are_told(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    ask = {"type": "ask", "about": "approval", "text": "Refund 20?", "to": ["ann"], "options": ["approve", "deny"]}
    request = {"from": "writer", "to": "desk", "reason": "angry"}
    floor = {"type": "floor", "step": "request", "holder": "writer", "request": request}
    async with notifying(broker_url, name, receiver):
        await append(session, "writer", "ask", ask, id="q1")
        await append(session, "writer", "floor", floor)
        await append(session, "slow", "run", {"type": "run.started", "attempt": 1, "input": "ann/i"}, id="r1")
        await append(session, "slow", "run", {"type": "run.stalled", "seconds": 30.5}, id="r1")
        await append(session, "gone", "run", {"type": "run.started", "attempt": 1, "input": "ann/i"}, id="r2")
        await append(session, "gone", "presence", {"type": "agent.offline", "reason": "no process"})
        await eventually(lambda: len(receiver.of(session)) == 4)

    told = {one.type: one.data for one in receiver.of(session)}
    assert told["ask.open"]["text"] == "Refund 20?"
    assert {"ask": "q1", "from": "writer", "about": "approval", "to": ["ann"]}.items() <= told["ask.open"][
        "ask"
    ].items()
    assert told["floor.requested"]["floor"] == {"holder": "writer", **request}
    assert (told["run.stalled"]["run"], told["run.stalled"]["seconds"]) == ("r1", 30.5)
    assert (told["run.lost"]["agent"], told["run.lost"]["reason"], told["run.lost"]["runs"]) == (
        "gone",
        "no process",
        ["r2"],
    )


async def test_whoever_is_asked_when_nobody_answered_is_told_too(
    broker_url: str, ann: Broker, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    """The broker escalates at its time; of a vote among agents nobody is told."""
    writer = Broker(ann.log, "writer").session(session.id)
    async with notifying(broker_url, name, receiver):
        await writer.asks.ask("Who leads?", about="vote", to=["critic"], escalations=[(0.5, ["boss"])])
        asked = await writer.asks.ask("Refund?", about="approval", to=["ann"], escalations=[(1, ["boss"])], seconds=60)
        await eventually(lambda: len(receiver.of(session)) == 2, 40)

    assert [(one.type, one.data["ask"]["to"]) for one in receiver.of(session)] == [
        ("ask.open", ["ann"]), ("ask.escalated", ["boss"]),
    ]  # fmt: skip
    assert {(one.data["ask"]["ask"], one.data["text"]) for one in receiver.of(session)} == {(asked.ask, "Refund?")}


async def test_output_parts_of_larger_work_coordination_and_history_are_not_told(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    """The one thing for people that comes last is the only one that arrives."""
    replayed = {"type": "input", "text": "old", "replayed": True}
    async with notifying(broker_url, name, receiver) as notifier:
        await append(session, "writer", "run", {"type": "run.started", "attempt": 1, "input": "ann/i"}, id="open")
        await append(session, "writer", "run", {"type": "text.delta", "part": "1", "text": '"run.finished"'}, id="open")
        await work(session, status="cancelled")
        await work(session, parent={"agent": "planner", "run": "r"})
        await work(session, into={"agent": "writer", "run": "r"})
        await work(session, whisper=True)
        await append(session, "ann", "in", replayed, target="all", id="old")
        await finish(session, "old")
        await append(session, "writer", "ask", {"type": "ask", "about": "vote"}, id="v")
        await append(session, "ann", "floor", {"type": "floor", "step": "take", "holder": "ann"})
        await append(session, "ann", "presence", {"type": "presence.set", "status": "away"})
        last = await work(session)
        await eventually(lambda: receiver.of(session))

    assert [one.data["run"] for one in receiver.of(session)] == [last]
    assert notifier.metrics.sent.labels("run.finished")._value.get() == 1


async def test_what_has_been_overtaken_is_not_told(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    """The receiver is away while an ask is answered, an agent comes back, a floor request is withdrawn."""
    async with notifying(broker_url, name, receiver):
        pass
    await append(session, "writer", "ask", {"type": "ask", "about": "approval"}, id="q1")
    await append(session, "writer", "floor", {
        "type": "floor", "step": "request", "holder": None, "request": {"from": "writer", "to": "desk"},
    })  # fmt: skip
    await append(session, "gone", "presence", {"type": "agent.offline", "reason": "no process"})
    await append(session, "ann", "answer", {"type": "answer", "value": "approve"}, id="q1")
    await append(session, "writer", "floor", {"type": "floor", "step": "withdraw", "holder": None})
    await append(session, "gone", "run", {"type": "run.started", "attempt": 1, "input": "ann/i"}, id="r")
    last = await work(session)
    async with notifying(broker_url, name, receiver) as notifier:
        await eventually(lambda: receiver.of(session))

    assert [one.data.get("run") for one in receiver.of(session)] == [last]
    assert notifier.metrics.unsent.labels("over")._value.get() == 3


@pytest.mark.parametrize(
    ("client", "always", "expected"),
    [
        ({}, False, False), ({}, True, True), ({"status": "idle"}, False, True), ({"kind": "service"}, False, True),
    ],
)  # fmt: skip
async def test_whoever_watches_is_not_told(
    client: dict[str, str], always: bool, expected: bool, broker_url: str, ann: Broker, session: Session,
    receiver: Receiver, name: str, eventually: Any, fresh: Any,
) -> None:  # fmt: skip
    """A person at a device counts; an idle device and a service do not."""
    other = ann.session(fresh("s"))
    await other.create()
    clients = orjson.dumps({"clients": [{"member": "ann", "device": "phone", **client}]})

    async def watch() -> None:
        while True:
            await ann.log.announce(f"watch.{session.id}.gw1", clients)
            await asyncio.sleep(1)

    async def is_there() -> bool:
        return bool(list(await ann.log.present(f"watch.{session.id}")))

    task = asyncio.create_task(watch())
    await eventually(is_there)
    try:
        async with notifying(broker_url, name, receiver, always=always, at_once=1):
            await work(session)
            await work(other)
            await eventually(lambda: receiver.of(other))
    finally:
        task.cancel()

    assert bool(receiver.of(session)) is expected


async def test_only_the_chosen_events_are_told_and_a_choice_may_change(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with notifying(broker_url, name, receiver, events=frozenset({"run.failed"})):
        await work(session)
        await work(session, status="error")
        await eventually(lambda: receiver.of(session))
    async with notifying(broker_url, name, receiver, events=frozenset({"run.cancelled", "ask.open"})):
        await work(session, status="cancelled")
        await eventually(lambda: len(receiver.of(session)) == 2)

    assert [one.type for one in receiver.of(session)] == ["run.failed", "run.cancelled"]


async def test_reading_late_spares_nearly_all_output_of_runs(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    """The end of a run replaces its output in the log before the notifier looks."""
    async with notifying(broker_url, name, receiver, settle_seconds=3) as notifier:
        body = {"type": "run.started", "attempt": 1, "input": "ann/i"}
        subject = f"session.0.{session.id}.writer.run.r1"
        await append(session, "writer", "run", body, id="r1")
        for number in range(500):
            delta = {"type": "text.delta", "part": "1", "text": f"w{number} "}
            await session._log.wire.publish(subject, orjson.dumps(delta))
        end = {"type": "run.finished", "status": "done", "input": "ann/i", "parts": []}
        await session._log.wire.publish(subject, orjson.dumps(end), rollup=True)
        await eventually(lambda: receiver.of(session), 40)

    assert notifier.metrics.read._value.get() < 150


# -- nothing is missed, nothing is told twice -------------------------------------------------------------------------


async def test_what_happened_while_no_instance_ran_is_told_at_the_next_start_once(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    """What happened before the very first start is history."""
    await work(session)
    async with notifying(broker_url, name, receiver):
        first = await work(session)
        await eventually(lambda: receiver.of(session))
    missed = [await work(session) for _ in range(5)]
    async with notifying(broker_url, name, receiver):
        last = await work(session)
        await eventually(lambda: len(receiver.of(session)) == 7)

    assert sorted(one.data["run"] for one in receiver.of(session)) == sorted([first, *missed, last])


async def test_a_receiver_that_is_down_for_a_while_hears_of_everything_when_it_is_back(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with notifying(broker_url, name, receiver, tries=50) as notifier:
        receiver.stop()
        runs = [await work(session) for _ in range(6)]
        await eventually(lambda: notifier.metrics.failures._value.get() >= 6)
        receiver.start()
        await eventually(lambda: len(receiver.of(session)) == 6, 60)

    assert sorted(one.data["run"] for one in receiver.of(session)) == sorted(runs)


async def test_two_instances_share_the_work_and_nothing_is_told_twice(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with notifying(broker_url, name, receiver, at_once=1) as one, notifying(broker_url, name, receiver) as two:
        runs = [await work(session) for _ in range(40)]
        await eventually(lambda: len(receiver.of(session)) >= 40)

    assert sorted(told.data["run"] for told in receiver.of(session)) == sorted(runs)
    assert len({told.id for told in receiver.told}) == 40
    assert all(each.metrics.read._value.get() > 0 for each in (one, two))


async def test_an_instance_killed_in_the_middle_of_a_try_is_stood_in_for(
    broker_url: str, session: Session, receiver: Receiver, name: str, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """kill -9 while the receiver thinks; the broker gives the event to the next one, under the same id."""
    thinks = threading.Event()
    receiver.answers.append(thinks)
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    options = ("notify", "--webhook", receiver.url, "--name", name, "--settle", "0", "--timeout", "60")
    first = programs.start(script, *options, ORCHESTRATOR_FREE_WEBHOOK_SECRET=SECRET)
    await eventually(lambda: "telling" in first.output, 30)
    run = await work(session)
    await eventually(lambda: receiver.tries, 30)
    first.send(signal.SIGKILL)
    second = programs.start(script, *options, ORCHESTRATOR_FREE_WEBHOOK_SECRET=SECRET)
    other = await work(session)
    await eventually(lambda: len(receiver.of(session)) == 2, 80)
    thinks.set()

    assert {one.data["run"] for one in receiver.of(session)} == {run, other}
    assert receiver.tries[0] in {one.id for one in receiver.of(session)}
    assert second.alive


async def test_a_broker_that_is_killed_delays_and_loses_nothing(
    broker: Any, broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with notifying(broker_url, name, receiver):
        before = await work(session)
        await eventually(lambda: receiver.of(session))
        await broker.restart(kill=True)
        after = await work(session)
        await eventually(lambda: any(one.data["run"] == after for one in receiver.of(session)), 60)

    assert {one.data["run"] for one in receiver.of(session)} == {before, after}
    assert len({one.id for one in receiver.of(session)}) == 2


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_instances_and_the_broker_are_killed_again_and_again_and_everything_is_told(
    broker: Any, session: Session, receiver: Receiver, name: str, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Three instances, one of them killed every 1.5 s, the broker once, and a receiver that fails one time in five."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    options = ("--webhook", receiver.url, "--name", name, "--settle", "1", "--first-pause", "0.5", "--tries", "50")

    def start() -> Any:
        return programs.start(script, "notify", *options, ORCHESTRATOR_FREE_WEBHOOK_SECRET=SECRET)

    instances = [start() for _ in range(3)]
    await eventually(lambda: all("telling" in one.output for one in instances), 60)
    receiver.chance = 0.2
    runs: list[str] = []

    async def kill() -> None:
        while True:
            await asyncio.sleep(1.5)
            instances.pop(0).kill()
            instances.append(start())

    killing = asyncio.create_task(kill())
    for number in range(80):
        runs.append(await work(session))
        if number == 40:
            await broker.restart(kill=True)
        else:
            await asyncio.sleep(0.1)
    killing.cancel()
    await eventually(lambda: {one.data["run"] for one in receiver.of(session)} == set(runs), 110)

    assert len({one.id for one in receiver.of(session)}) == len(runs)
    assert (await session.view())["notices"] == []


# -- trying again -----------------------------------------------------------------------------------------------------


async def test_a_try_that_failed_is_repeated_under_the_same_id(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    receiver.answers += [500, (429, {"retry-after": "1"}), 503, 408]
    async with notifying(broker_url, name, receiver) as notifier:
        await work(session)
        await eventually(lambda: receiver.of(session), 60)

    assert len(receiver.tries) == 5
    assert len(set(receiver.tries)) == 1
    assert notifier.metrics.failures._value.get() == 4


async def test_a_receiver_that_does_not_answer_is_given_up_for_that_try(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    thinks = threading.Event()
    receiver.answers.append(thinks)
    async with notifying(broker_url, name, receiver, timeout=0.5):
        await work(session)
        await eventually(lambda: receiver.of(session))
    thinks.set()

    assert len(receiver.tries) == 2


def test_pauses_grow_and_keep_what_the_receiver_asks_for() -> None:
    pauses = [pause_before(tries, first_seconds=5) for tries in range(1, 9)]
    expected = [5, 20, 80, 320, 1280, 3600, 3600, 3600]
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert all(0.9 * want <= pause <= 1.1 * want for pause, want in zip(pauses, expected, strict=True))
    assert len({pause_before(1, first_seconds=5) for _ in range(20)}) > 1
    assert pause_before(1, first_seconds=1, retry_after=60) == 60
    assert pause_before(1, first_seconds=1, retry_after=1e9) == 3600
    assert pause_before(10_000, first_seconds=5) < 4000
    assert read_retry_after("120", now) == 120
    assert read_retry_after("Thu, 01 Jan 2026 00:01:00 GMT", now) == 60
    for bad in (None, "", "soon", "-5", "9" * 400, "٣", "Thu, 01 Jan 2026 00:01:00"):
        assert read_retry_after(bad, now) is None
    assert [status for status in (200, 301, 400, 404, 408, 409, 425, 429, 500, 503) if is_final(status)] == [
        301,
        400,
        404,
    ]


# -- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["command line", "http"])
async def test_a_dead_letter_is_seen_by_everybody_and_can_be_tried_again(
    over: str,
    broker_url: str,
    ann: Broker,
    session: Session,
    receiver: Receiver,
    name: str,
    eventually: Any,
    command: Any,
) -> None:
    """In the view, over HTTP, in the list of the command line; the retry keeps the id and says what became of it."""
    receiver.answers += [500, 500]

    async def notice() -> Any:
        found = (await session.view())["notices"]
        return found[0] if found else None

    async def delivered() -> bool:
        return (await notice())["status"] == "delivered"

    async with notifying(broker_url, name, receiver, tries=2) as notifier:
        run = await work(session)
        dead = await eventually(notice)
        assert receiver.of(session) == []
        gateway = Gateway(ann)
        async with Server(gateway.app, port=0, on_drain=gateway.drain) as server, httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{server.port}/sessions/{session.id}")
        listed = await asyncio.to_thread(command, "notify", "--dead-letters", "--json")
        if over == "http":
            async with Server(gateway.app, port=0) as server, httpx.AsyncClient() as http:
                url = f"http://127.0.0.1:{server.port}/sessions/{session.id}/notices"
                assert (await http.post(f"{url}/{dead['notice']}/retry")).status_code == 202
                assert (await http.post(f"{url}/msg_00000000_1/retry")).status_code == 404
        else:
            done = await asyncio.to_thread(command, "notify", "--retry", dead["notice"])
            assert done.returncode == 0, done.stderr
        await eventually(delivered)
        after = await notice()

    [letter] = [line for line in map(orjson.loads, listed.stdout.splitlines()) if line["session"] == session.id]
    assert answer.json()["notices"] == [dead]
    assert {
        "from": name,
        "status": "failed",
        "about": "run.finished",
        "tries": 2,
        "error": "answered 500",
    }.items() <= dead.items()
    assert (letter["id"], letter["service"], letter["status"]) == (dead["notice"], name, "failed")
    [told] = receiver.of(session)
    assert (told.id, told.data["run"], told.data["position"]) == (dead["notice"], run, dead["position"])
    assert after["tries"] == 3
    assert notifier.metrics.dead_letters._value.get() == 1
    assert [one for one in await dead_letters(ann) if one.session == session.id] == []


@pytest.fixture
def command(tmp_path: Path, broker_url: str) -> Callable[..., Any]:
    """Run the command line to its end."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ORCHESTRATOR_FREE_URL": broker_url, "COLUMNS": "200", **environment}
        line = [sys.executable, str(script), *arguments]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return call


@pytest.mark.parametrize("answer", [400, 404, (302, {"location": "http://127.0.0.1:1/"})])
async def test_a_refusal_or_a_redirect_is_a_dead_letter_at_once(
    answer: Any, broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    receiver.answers.append(answer)

    async def dead() -> Any:
        return (await session.view())["notices"]

    async with notifying(broker_url, name, receiver):
        await work(session)
        [notice] = await eventually(dead)

    assert len(receiver.tries) == notice["tries"] == 1
    assert str(answer[0] if isinstance(answer, tuple) else answer) in notice["error"]


async def test_a_retry_of_what_is_gone_from_the_log_fails_visibly(
    broker_url: str, ann: Broker, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    receiver.answers.append(400)

    async def notice() -> Any:
        found = (await session.view())["notices"]
        return found[0] if found else None

    async def failed_again() -> bool:
        return "not in the log" in (await notice())["error"]

    async with notifying(broker_url, name, receiver):
        run = await work(session)
        dead = await eventually(notice)
        await session._log.purge(session.shard, f"session.{session.shard}.{session.id}.writer.run.{run}")
        await retry_dead_letter(ann, dead["notice"])
        await eventually(failed_again)
    with pytest.raises(NoticeNotFound, match="msg_00000000_1"):
        await retry_dead_letter(ann, "msg_00000000_1")


async def test_410_ends_the_service_and_what_it_was_to_tell_waits_for_the_next_start(
    broker_url: str, session: Session, receiver: Receiver, name: str, eventually: Any
) -> None:
    receiver.answers.append(410)
    target = WebhookSettings(receiver.url, [SECRET])
    async with connect(broker_url, member=name) as broker, Webhook(target) as webhook:
        notifier = Notifier(broker, webhook, NotifierSettings(settle_seconds=0))
        ready = asyncio.Event()
        task = asyncio.create_task(notifier.run(ready=ready.set))
        await asyncio.wait_for(ready.wait(), 20)
        run = await work(session)
        with pytest.raises(WebhookGone, match="410"):
            await asyncio.wait_for(task, 30)
    assert (await session.view())["notices"] == []
    async with notifying(broker_url, name, receiver):
        await eventually(lambda: receiver.of(session), 60)

    assert [one.data["run"] for one in receiver.of(session)] == [run]


# -- before it starts, and what it does not say -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "whom to tell"),
        (("--webhook", "ftp://example.org"), "must begin with https"),
        (("--webhook", "example.org/hook"), "must begin with https"),
        (("--webhook", "https://"), "name a host"),
        (("--webhook", "http://[::1"), "no URL"),
        (("--webhook", "https://ann:canary-pass@example.org"), "user or a password"),
        (("--webhook", "https://example.org", "--events", "run.finished,lunch"), "'lunch' is no event"),
        (("--webhook", "https://example.org", "--events", ","), "at least one event"),
        (("--webhook", "https://example.org", "--settle", "25"), "settle_seconds"),
        (("--webhook", "https://example.org", "--tries", "0"), "tries"),
        (("--webhook", "https://example.org", "--name", "a.b"), "not a valid name"),
        (("--webhook", "https://example.org", "--secret-file", "/nowhere"), "cannot read the secret"),
        (("--retry", "a.b"), "not a valid name"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: tuple[str, ...], words: str, command: Any) -> None:
    done = command("notify", *options, ORCHESTRATOR_FREE_WEBHOOK_SECRET=SECRET)

    assert done.returncode == 2, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "canary" not in done.stderr + done.stdout
    assert SECRET[6:] not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_canary-is-no-base64!!", "canary ünïcödé canary"]
)
def test_a_bad_secret_is_refused_without_being_shown(secret: str, command: Any) -> None:
    done = command("notify", "--webhook", "https://example.org", ORCHESTRATOR_FREE_WEBHOOK_SECRET=secret)

    assert done.returncode == 2
    assert "secret" in done.stderr
    assert "canary" not in done.stderr + done.stdout


async def test_neither_the_secret_nor_the_path_of_the_address_is_logged(
    broker_url: str, session: Session, receiver: Receiver, name: str, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Not even while everything goes wrong, at the most talkative level."""
    script, secret = tmp_path / "command.py", tmp_path / "secret"
    script.write_text(COMMAND)
    secret.write_text(f"{SECRET}\n")
    receiver.path = "/hooks/canary-path?token=canary-token"
    receiver.answers += [500, 302]
    program = programs.start(
        script, "--log-level", "debug", "notify", "--webhook", receiver.url, "--secret-file", str(secret), "--name", name,
        "--settle", "0", "--first-pause", "0.1",
    )  # fmt: skip
    await eventually(lambda: "telling" in program.output, 30)
    await work(session)
    await eventually(lambda: "given up" in program.output, 30)
    await work(session)
    await eventually(lambda: receiver.of(session), 30)
    receiver.stop()
    await work(session)
    await eventually(lambda: "ConnectError" in program.output, 30)
    program.send(signal.SIGTERM)
    await eventually(lambda: not program.alive, 30)

    assert program.process.returncode == 0
    assert "canary" not in program.output
    assert SECRET[6:] not in program.output
    assert base64.b64decode(SECRET[6:]).decode() not in program.output


def test_settings_do_not_show_their_secret(tmp_path: Path) -> None:
    settings = WebhookSettings("https://example.org/canary-path", [SECRET])

    assert "canary" not in repr(settings)
    assert "canary" not in repr(vars(settings)["signers"])
    (tmp_path / "two").write_text(f"{SECRET}\n\n{SECRET}\n")
    assert read_secrets(None, tmp_path / "two") == [SECRET, SECRET]
    with pytest.raises(InvalidInput, match="needs a secret"):
        WebhookSettings("https://example.org", [])


async def test_during_a_rotation_both_secrets_sign(receiver: Receiver) -> None:
    new = "whsec_" + base64.b64encode(b"another-secret-of-24-byt").decode()
    async with Webhook(WebhookSettings(receiver.url, [new, SECRET])) as webhook:
        assert (await webhook.send("msg_1", b'{"type":"x"}')).ok
        receiver.secret = new
        assert (await webhook.send("msg_2", b'{"type":"x"}')).ok


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "refused", "refused_in_public"),
    [
        ("93.184.215.14", False, False), ("2606:4700::1111", False, False),
        ("127.0.0.1", False, True), ("::1", False, True), ("10.1.2.3", False, True), ("192.168.1.1", False, True),
        ("fd12::1", False, True), ("::ffff:10.0.0.1", False, True),
        ("169.254.169.254", True, True), ("fe80::1%eth0", True, True), ("fd00:ec2::254", True, True),
        ("::ffff:169.254.169.254", True, True), ("2002:a9fe:a9fe::1", True, True), ("64:ff9b::a9fe:a9fe", True, True),
        ("0.0.0.0", True, True), ("::", True, True), ("224.0.0.1", True, True), ("ff02::1", True, True),
        ("255.255.255.255", True, True), ("240.0.0.1", True, True),
    ],
)  # fmt: skip
def test_addresses_that_webhooks_must_not_reach(address: str, refused: bool, refused_in_public: bool) -> None:
    assert bool(why_refused(address, public_only=False)) is refused
    assert bool(why_refused(address, public_only=True)) is refused_in_public


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:a9fe:a9fe]", "2852039166", "0xa9fea9fe"])
async def test_a_metadata_address_is_refused_however_it_is_written(host: str) -> None:
    async with Webhook(WebhookSettings(f"http://{host}/latest", [SECRET], timeout_seconds=5)) as webhook:
        answer = await webhook.send("msg_1", b"{}")

    assert not answer.ok
    assert answer.final
    assert "metadata" in answer.error


async def test_the_name_is_resolved_for_each_try_and_the_checked_address_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that points to a metadata address the second time is refused; the receiver is told the name all the same."""
    loop = asyncio.get_running_loop()
    answers = [["127.0.0.1"], ["127.0.0.1", "169.254.169.254"]]

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(2, 1, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    url = receiver.url.replace("127.0.0.1", "hooks.example.test")
    async with Webhook(WebhookSettings(url, [SECRET])) as webhook:
        first, second = await webhook.send("msg_1", b'{"a":1}'), await webhook.send("msg_2", b'{"a":1}')

    assert first.ok
    assert second.final
    assert "hooks.example.test is 169.254.169.254" in second.error
    assert receiver.tries == ["msg_1"]


async def test_nobody_at_the_address_is_no_reason_to_give_up(receiver: Receiver) -> None:
    receiver.stop()
    async with Webhook(WebhookSettings(receiver.url, [SECRET])) as webhook:
        refused = await webhook.send("msg_1", b"{}")
    async with Webhook(WebhookSettings("http://nobody.invalid/", [SECRET])) as webhook:
        unknown = await webhook.send("msg_1", b"{}")

    assert not refused.ok
    assert not unknown.ok
    assert not refused.final
    assert not unknown.final


async def test_the_certificate_must_be_that_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the connection goes to an address that was checked, the name is what is asked for and verified."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=hooks "
        "-addext subjectAltName=DNS:hooks.example.test"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    receiver = Receiver(tls=context)
    receiver.start()
    try:
        answers = []
        for trusted, host in (
            (True, "hooks.example.test"),
            (True, "other.example.test"),
            (False, "hooks.example.test"),
        ):
            with monkeypatch.context() as patch:
                if trusted:
                    patch.setenv("SSL_CERT_FILE", str(certificate))
                settings = WebhookSettings(f"https://{host}:{receiver.port}/", [SECRET])
                async with Webhook(settings) as webhook:
                    answers.append(await webhook.send("msg_1", b'{"a":1}'))
    finally:
        receiver.stop()

    assert [answer.ok for answer in answers] == [True, False, False]
    assert asked[0] == "hooks.example.test"
    assert not any(answer.final for answer in answers)
    assert receiver.tries == ["msg_1"]


# -- the whole way ----------------------------------------------------------------------------------------------------


async def test_a_person_who_closes_the_tab_hears_of_the_end_and_one_who_stays_does_not(
    broker_url: str, ann: Broker, receiver: Receiver, name: str, fresh: Any, programs: Any, eventually: Any
) -> None:
    """A real agent process, a gateway, a feed that stays open and one that is closed while the agent is at work."""
    agent = fresh("writer")
    programs.agent(
        agent, "for number in range(40):\n    await run.text(f'w{number} ')\n    await asyncio.sleep(0.05)\n"
    )
    stays, leaves = ann.session(fresh("s")), ann.session(fresh("s"))
    gateway = Gateway(ann)

    async def look(http: httpx.AsyncClient, session: Session, seen: asyncio.Event) -> None:
        async with http.stream("GET", f"/sessions/{session.id}/events") as feed:
            async for line in feed.aiter_lines():
                if "text.delta" in line:
                    seen.set()

    async with (
        Server(gateway.app, port=0, on_drain=gateway.drain) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as http,
        notifying(broker_url, name, receiver, settle_seconds=1) as notifier,
    ):
        seen = [asyncio.Event(), asyncio.Event()]
        for session in (stays, leaves):
            await session.create(agents=[agent])
        feeds = [asyncio.create_task(look(http, *each)) for each in zip((stays, leaves), seen, strict=True)]
        await session.send("go", to=agent)
        await stays.send("go", to=agent)
        await asyncio.wait_for(asyncio.gather(*(each.wait() for each in seen)), 60)
        feeds[1].cancel()
        await asyncio.gather(feeds[1], return_exceptions=True)
        await eventually(lambda: receiver.of(leaves), 60)
        await eventually(lambda: notifier.metrics.unsent.labels("watched")._value.get() == 1, 60)
        feeds[0].cancel()
        await asyncio.gather(feeds[0], return_exceptions=True)

    [told] = receiver.of(leaves)
    assert (told.type, told.data["status"]) == ("run.finished", "done")
    assert told.data["text"].startswith("w0 w1 w2")
    assert receiver.of(stays) == []


async def test_over_several_shards_everything_is_told(
    tmp_path: Path, receiver: Receiver, name: str, eventually: Any
) -> None:
    async with EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0)) as server:
        async with connect(server.url, member="ann", settings=StreamSettings(shards=3)) as ann:
            sessions = [ann.session(f"s{number}") for number in range(9)]
            async with notifying(server.url, name, receiver):
                runs = [await work(session) for session in sessions]
                await eventually(lambda: len(receiver.told) == 9)
            assert {session.shard for session in sessions} == {0, 1, 2}

    assert sorted(told.data["run"] for told in receiver.told) == sorted(runs)


# -- the documentation ------------------------------------------------------------------------------------------------


async def test_the_receiver_of_the_documentation_works(
    broker_url: str, session: Session, programs: Any, tmp_path: Path, name: str, eventually: Any
) -> None:
    page = (ROOT / "docs" / "notifications.md").read_text()
    [source] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    script = tmp_path / "receiver.py"
    script.write_text(source)
    probe = Receiver()
    probe.start()
    probe.stop()
    program = programs.start(script, PORT=str(probe.port), WEBHOOK_SECRET=SECRET)
    async with notifying(broker_url, name, probe, tries=30):
        await work(session)
        await eventually(lambda: f"run.finished {session.id}" in program.output, 40)
    forged = httpx.post(probe.url, content=b"{}", headers={"webhook-id": "x"})

    assert forged.status_code == 400
    assert Counter(re.findall(r"msg_\w+", program.output)).most_common(1)[0][1] == 1
