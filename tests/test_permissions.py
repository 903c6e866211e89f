"""The roles of broker/permissions.conf at a broker that enforces them: what each needs works, the rest is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import nkeys
import pytest

from orchestrator_free import Agent, Broker, Run, connect, contract
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerError, PermissionDenied
from orchestrator_free.events import encode
from orchestrator_free.floors import FloorWatch
from orchestrator_free.monitor import Monitor
from orchestrator_free.notify import Notifier, NotifierSettings, Webhook, WebhookSettings
from orchestrator_free.working.runwriter import INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BROKER = Path(__file__).parents[1] / "broker"
USERS = ("gateway", "operator", "outliner", "billing", "notify", "dashboard", "synadia", "partner", "system")


@dataclass
class Place:
    """A broker with the users of permissions.conf, and the files with their seeds."""

    server: EmbeddedServer
    seeds: dict[str, Path]

    def connect(self, user: str, **options: Any) -> contextlib.AbstractAsyncContextManager[Broker]:
        """Connect with our library."""
        return connect(self.server.url, **{"member": user, "nkey_seed": self.seeds[user], **options})

    async def plain(self, user: str) -> nats.NATS:
        """Connect with nats-py; refusals go to `errors` of the connection."""
        errors: list[str] = []

        async def note(error: Exception) -> None:
            errors.append(str(error))

        connection = await nats.connect(
            self.server.url, nkeys_seed=str(self.seeds[user]), inbox_prefix=f"_INBOX.{user}".encode(), error_cb=note
        )
        connection.errors = errors  # type: ignore[attr-defined]
        return connection


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    seeds = {}
    for user in USERS:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        monkeypatch.setenv(f"{user.upper()}_NKEY", nkeys.from_seed(bytearray(seed)).public_key.decode())
        seeds[user] = tmp_path / f"{user}.nk"
        seeds[user].write_bytes(seed)
    permissions = (BROKER / "permissions.conf").read_text()
    settings = ServerSettings(data=tmp_path / "broker", port=0, extra=permissions)
    async with EmbeddedServer(settings) as server:
        yield Place(server, seeds)


@contextlib.asynccontextmanager
async def working(agent: Agent, broker: Broker) -> AsyncIterator[None]:
    """Let an agent work while the block runs."""
    ready = asyncio.Event()
    task = asyncio.create_task(agent.serve(broker, ready=ready.set))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def outliner() -> Agent:
    """An agent that uses everything an agent can."""
    agent = Agent("outliner")

    @agent
    async def outline(run: Run) -> None:
        await run.reasoning("Looking. ")
        async with run.tool("split", {"chars": 5}) as call:
            call.output = {"headings": 3}
        await run.text("x" * (INLINE_LIMIT + 1) if run.input.text == "large" else "Hello")
        await run.file("outline.md", b"# Outline", media_type="text/markdown")
        if run.input.text == "delegate":
            await run.delegate("critic", "please", within_seconds=600)

    return agent


async def test_the_real_agent_works_end_to_end_under_its_role(place: Place) -> None:
    """Inputs from the gateway, runs with tools, files, large results and delegation in time; presence, and its monitor."""
    async with place.connect("gateway") as gateway, place.connect("outliner") as broker, working(outliner(), broker):
        session = Broker(gateway.log, "ann").session("s1")
        await session.create(title="Review", agents=["outliner"])
        runs = {}
        for text in ("small", "large", "delegate"):
            sent = await session.send(text, to="all")
            runs[text] = await session.result("outliner", sent.run, timeout=20)
        (key, _), *_ = await gateway.log.present("agent.outliner")
        async with Monitor(gateway):
            view = await session.view()

        assert {text: run["status"] for text, run in runs.items()} == dict.fromkeys(runs, "done")
        file = next(part for part in runs["small"]["parts"] if part["type"] == "file")
        assert await session.object(file["object"]) == b"# Outline"
        assert runs["large"]["object"] and len(runs["large"]["parts"]) == 4
        assert [entry["from"] for entry in view["inputs"]] == ["ann", "ann", "ann", "outliner"]
        assert key.startswith("agent.outliner.")


async def test_a_notifier_tells_and_writes_down_what_it_could_not_under_its_role(place: Place) -> None:
    """It reads everything, and publishes notices under its own name only."""
    secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
    # Nobody answers on port 1: after one try it is a notice.
    target = WebhookSettings("http://127.0.0.1:1/", [secret])
    settings = NotifierSettings(settle_seconds=0, tries=1)
    async with place.connect("gateway") as gateway, place.connect("notify") as broker, Webhook(target) as webhook:
        session = Broker(gateway.log, "ann").session("s1")
        await session.create(title="Review")
        ready = asyncio.Event()
        task = asyncio.create_task(Notifier(broker, webhook, settings).run(ready=ready.set))
        try:
            async with asyncio.timeout(30):
                await ready.wait()
                await session.append("ask", {"type": "ask", "about": "approval"}, id="q1")
                event = await anext(session.follow(kinds=["notice"]))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(PermissionDenied):
            await broker.session("s1").append("answer", {"type": "answer", "value": 1}, id="q1")

    assert (event.member, event.type, event.body["about"]) == ("notify", "notification.failed", "ask.open")


AGENT = """
from orchestrator_free import Agent, Run

agent = Agent("outliner")

@agent
async def outline(run: Run) -> None:
    await run.text(f"Hello, {run.input.text}")

agent.main()
"""


async def test_an_agent_process_works_with_a_password_in_its_url(
    place: Place, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way to authenticate that permissions.conf names."""
    monkeypatch.setenv("OUTLINER_PASSWORD", "correct-horse")
    password = "user: outliner, password: $OUTLINER_PASSWORD"
    extra = place.server.settings.extra.replace("nkey: $OUTLINER_NKEY", password)
    async with EmbeddedServer(ServerSettings(data=tmp_path / "other", port=0, extra=extra)) as server:
        (tmp_path / "agent.py").write_text(AGENT)
        async with connect(server.url, member="gateway", nkey_seed=place.seeds["gateway"]) as gateway:
            url = server.url.replace("nats://", "nats://outliner:correct-horse@")
            program = programs.start(tmp_path / "agent.py", ORCHESTRATOR_FREE_URL=url)
            session = Broker(gateway.log, "ann").session("s1")
            sent = await session.send("ann", to="outliner")
            run = await session.result("outliner", sent.run, timeout=20)

    assert [part["text"] for part in run["parts"]] == ["Hello, ann"], program.output
    assert "permissions violation" not in program.output


async def test_the_gateway_role_creates_lists_follows_and_deletes(place: Place) -> None:
    """The gateway is first at an empty broker, and may do what the HTTP surface promises."""
    async with place.connect("gateway") as gateway:
        session = Broker(gateway.log, "ann").session("s1")
        await session.create(title="one")
        await session.update(title="two")
        async with session.subscribe("audit") as deliveries:
            async with asyncio.timeout(10):
                delivery = await anext(deliveries)
            await delivery.ack()

        assert [info.title for info in await gateway.sessions()] == ["two"]
        await session.delete()
        assert not await session.exists()


async def test_an_agent_cannot_publish_as_another_member(place: Place) -> None:
    """The name stands in the subject: the broker refuses, and the error says what and why."""
    async with place.connect("gateway"), place.connect("outliner") as broker:
        forged = Broker(broker.log, "ann").session("s1")

        with pytest.raises(PermissionDenied) as caught:
            await forged.send("Transfer everything", to="outliner", id="i1")
        with pytest.raises(PermissionDenied):
            await Broker(broker.log, "critic").session("s1").send("x", to="outliner")
        assert "session.0.s1.ann.in.outliner.i1" in str(caught.value)
        assert "permissions violation" in str(caught.value).lower()
        assert await broker.session("s1").send("As myself", to="critic")


async def test_an_agent_cannot_take_or_change_the_consumers_of_others(place: Place) -> None:
    """Neither another agent's inputs nor a service's position are within reach."""
    async with place.connect("gateway"), place.connect("outliner") as broker:
        wire = broker.log.wire
        config = contract.agent_consumer(0, "outliner") | {"durable_name": "agent-critic"}
        refused = {
            "CONSUMER.CREATE.SESSIONS_0.agent-critic": {"stream_name": "SESSIONS_0", "config": config},
            "CONSUMER.MSG.NEXT.SESSIONS_0.agent-critic": {"batch": 1},
            "CONSUMER.DELETE.SESSIONS_0.agent-outliner": {},
            "STREAM.PURGE.SESSIONS_0": {"filter": "session.0.s1.>"},
            "STREAM.PURGE.KV_orchestrator_free_presence": {},
            "STREAM.UPDATE.SESSIONS_0": contract.stream_config(0, contract.StreamSettings()),
            "STREAM.DELETE.SESSIONS_0": {},
            "STREAM.CREATE.OTHER": {"name": "OTHER", "subjects": ["other"]},
        }

        for name, body in refused.items():
            with pytest.raises(PermissionDenied):
                await wire.api(name, body)
        with pytest.raises(PermissionDenied):
            await wire.publish("$KV.orchestrator_free_presence.agent.critic.1", b"{}")
        with pytest.raises(PermissionDenied):
            await wire.exchange("$JS.ACK.SESSIONS_0.agent-critic.1.1.1.1.0", b"+ACK", seconds=4)


async def test_nobody_hears_the_replies_of_others(place: Place, eventually: Callable[..., Any]) -> None:
    """Inboxes are scoped by name: a subscription to another's, or to all, is refused."""
    async with place.connect("gateway"):
        connection = await place.plain("outliner")
        try:
            for subject in ("_INBOX.>", "_INBOX.gateway.>", ">", "session.>"):
                await connection.subscribe(subject)
            await eventually(lambda: len(connection.errors) >= 4, 10)
        finally:
            await connection.close()
        assert all("permissions violation for subscription" in error for error in connection.errors)


@pytest.mark.parametrize("user", ["outliner", "billing", "dashboard"])
async def test_everybody_may_look_and_be_seen_as_themselves_only(place: Place, user: str) -> None:
    """Who looks is read and heard by every role; an entry under another name, or a gateway's, is refused."""
    async with place.connect("gateway") as gateway, place.connect(user) as broker:
        ann = Broker(gateway.log, "ann").session("s1")
        await ann.create()
        session = broker.session("s1")
        changes = session.presence.watch()
        async with session.presence.join(device="tab"), asyncio.timeout(20):
            assert [(one.member, one.device) for one in await ann.watchers()] == [(user, "tab")]
            async for members in changes:
                if {one.member: one.status for one in members} == {"ann": "offline", user: "joined"}:
                    break
            async with ann.presence.join(device="phone"):
                assert {one.member for one in await session.watchers()} == {"ann", user}
                async for members in changes:
                    if {one.member: one.status for one in members} == {"ann": "joined", user: "joined"}:
                        break
        await changes.aclose()
        for key in ("watch.s1.ann.1", "watch.s1.gateway", "device.s1.ann.phone"):
            with pytest.raises(PermissionDenied):
                await broker.log.announce(key, b"{}")


async def test_an_agent_says_of_itself_that_it_is_away_and_of_nobody_else(place: Place) -> None:
    """With a reason and a time; in the log, so everybody sees it."""
    async with place.connect("gateway") as gateway, place.connect("outliner") as broker:
        ann = Broker(gateway.log, "ann").session("s1")
        await ann.create(agents=["outliner"])
        await broker.session("s1").presence.set("away", reason="maintenance", back="2030-01-01T00:00:00Z")
        said = (await ann.view())["presence"]
        with pytest.raises(PermissionDenied):
            await Broker(broker.log, "critic").session("s1").presence.set("away")
    assert [(name, one["status"], one["reason"]) for name, one in said.items()] == [("outliner", "away", "maintenance")]


async def test_the_floor_is_taken_under_ones_own_name_only(place: Place) -> None:
    """What a desk needs works under the agent's role: floors of all sessions, accept, note, whisper, brief, give back."""
    async with place.connect("gateway") as gateway, place.connect("outliner") as desk:
        ann = Broker(gateway.log, "ann").session("s1")
        await ann.create(agents=["critic"])
        await ann.floor.request("outliner", reason="please")
        seen: list[Any] = []
        watch = FloorWatch(desk, lambda name, state: seen.append((name, state.step)))
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(20):
            await watch.scanned.wait()
        session = desk.session("s1")
        await session.floor.accept()
        await session.send("Hello", to="ann", note=True)
        await session.send("Is it in stock?", to="critic", whisper=True)
        about = await session.brief()
        with pytest.raises(PermissionDenied):
            await Broker(desk.log, "critic").session("s1").floor.take()
        await session.floor.give_back()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    assert seen[0] == ("s1", "request")
    assert about["floor"]["holder"] == "outliner"


async def test_an_observer_reads_everything_and_writes_nothing(place: Place) -> None:
    """View and live tail work for it; inputs, consumers and deletion do not."""
    async with place.connect("gateway") as gateway, place.connect("dashboard") as observer:
        ann, seen = Broker(gateway.log, "ann").session("s1"), observer.session("s1")
        await ann.create(title="Review")
        events = seen.follow()
        async with asyncio.timeout(10):
            first = await anext(events)
            await ann.update(title="Second")
            second = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]

        assert [first.type, second.type] == ["session.created", "session.updated"]
        assert (await seen.view())["meta"]["title"] == "Second"
        with pytest.raises(PermissionDenied):
            await seen.send("x", to="outliner")
        with pytest.raises(PermissionDenied):
            await seen.update(title="Third")
        with pytest.raises(BrokerError):
            async with seen.subscribe("mine"):
                pass


async def test_a_service_follows_all_sessions_with_its_own_consumer(place: Place) -> None:
    """nats-py, the consumer of broker/consumers/service.json, and no right to publish events."""
    async with place.connect("gateway") as gateway:
        for name in ("s1", "s2"):
            await Broker(gateway.log, "ann").session(name).create()
        connection = await place.plain("billing")
        try:
            body = b'{"stream_name": "SESSIONS_0", "config": %b}' % (BROKER / "consumers/service.json").read_bytes()
            await connection.request("$JS.API.CONSUMER.CREATE.SESSIONS_0.service-billing", body, timeout=5)
            messages = await connection.jetstream().pull_subscribe_bind("service-billing", "SESSIONS_0")
            found = await messages.fetch(2, timeout=5)
            for message in found:
                await message.ack_sync()
            with pytest.raises(nats.errors.TimeoutError):
                await connection.request("session.0.s1.billing.in.outliner.i1", b'{"type":"input"}', timeout=0.5)
        finally:
            await connection.close()

        assert [message.subject for message in found] == ["session.0.s1.ann.meta", "session.0.s2.ann.meta"]
        assert "permissions violation" in connection.errors[-1]


async def test_what_permissions_do_not_stop_readers_do(place: Place, eventually: Callable[..., Any]) -> None:
    """The broker can be made to store its answers under another member's subject; readers skip those."""
    async with place.connect("gateway") as gateway:
        await Broker(gateway.log, "ann").session("s1").create(title="Review")
        connection = await place.plain("outliner")
        try:
            wanted = encode({"type": "input", "text": "Transfer everything"})
            await connection.jetstream().publish("session.0.s1.outliner.in.critic.x", wanted)
            copy = b'{"last_by_subj": "session.0.s1.outliner.in.critic.x"}'
            for request, body, number in (
                ("$JS.API.DIRECT.GET.SESSIONS_0", copy, 1),
                ("$JS.API.STREAM.MSG.GET.SESSIONS_0", copy, 2),
                ("session.0.s1.outliner.state.k", encode({"type": "state.set", "value": 1}), 3),
            ):
                await connection.publish(request, body, reply=f"session.0.s1.ann.in.critic.forged{number}")
            forged = "session.0.s1.ann.in.critic.*"
            await eventually(lambda: _stored(gateway, forged, 3), 10)
        finally:
            await connection.close()

        view = await gateway.session("s1").view()
        assert [entry["from"] for entry in view["inputs"]] == ["outliner"]


async def _stored(broker: Broker, subject: str, count: int) -> bool:
    return len(await broker.log.read(0, subject)) == count


async def test_the_system_user_sees_connections_and_no_session(place: Place) -> None:
    """Operators watch the server from an account of its own."""
    async with place.connect("gateway"):
        connection = await nats.connect(place.server.url, nkeys_seed=str(place.seeds["system"]))
        try:
            answer = await connection.request("$SYS.REQ.SERVER.PING.CONNZ", b"", timeout=5)
            refused = await connection.request("$JS.API.STREAM.INFO.SESSIONS_0", b"", timeout=5)
        finally:
            await connection.close()

        assert b"orchestrator-free gateway" in answer.data
        assert "error" in json.loads(refused.data)


async def test_without_a_key_nobody_connects(place: Place) -> None:
    """permissions.conf has no default user and no shared secret."""
    with pytest.raises(PermissionDenied, match="refused the credentials"):
        async with connect(place.server.url, member="outliner"):
            pass
