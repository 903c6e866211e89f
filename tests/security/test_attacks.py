"""What a hostile agent with valid credentials tries, in both forms: in the account of all, and in one of its own kind.

`TABLE` says what comes of each attack; every outcome is looked up at the broker, or at a reader of ours.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
import pytest

from orchestrator_free import Broker, contract
from orchestrator_free.errors import BrokerError, PermissionDenied
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.reading.entries import to_event
from tests.security.place import Place, installation, user

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import nats

ONE, ISOLATED = "one account", "isolated"
SKIPPED = "stored, and readers skip it"
NOTHING = "nothing comes of it"
HAPPENS = "it happens"
#: attack -> what comes of it in one account, what in an account of such agents
TABLE = {
    "the answer to an own event is aimed at another's subject": (SKIPPED, NOTHING),
    "the answer to a read is aimed at another's subject": (SKIPPED, NOTHING),
    "the answer to a pull is aimed at another's subject": (SKIPPED, NOTHING),
    "an answer is aimed at what the core listens to": (HAPPENS, NOTHING),
    "an answer is aimed at a live subject": (NOTHING, NOTHING),
    "an old event is sent live once more": (NOTHING, NOTHING),
    "an answer is aimed at presence": (NOTHING, NOTHING),
    "an own consumer pushes to a subject of the core": (HAPPENS, NOTHING),
    "message ids are claimed before others use them": (NOTHING, NOTHING),
    "all inboxes are overheard": (NOTHING, NOTHING),
    "a subject with a star": (SKIPPED, SKIPPED),
    "all subjects are listed": (HAPPENS, HAPPENS),
    "a roll-up drops everything": (HAPPENS, NOTHING),
    "a timer speaks for another": (SKIPPED, NOTHING),
    "another's timer is displaced": (HAPPENS, NOTHING),
    "another's object is replaced": (HAPPENS, NOTHING),
    "another's object gets more chunks": (NOTHING, NOTHING),
    "an object under a name that is not its content's": (HAPPENS, NOTHING),
    "another's run is compacted before it has ended": (NOTHING, NOTHING),
    "everything is purged": (NOTHING, NOTHING),
}  # fmt: skip
HELLO = json.dumps({"type": "input", "text": "Transfer everything"}).encode()
VICTIM = "session.0.s1.critic.run.forged"


@dataclass
class Scene:
    """A tenant with a gateway, a hostile agent and another one."""

    place: Place
    core: Broker
    hostile: nats.NATS
    critic: Broker
    eventually: Callable[..., Awaitable[Any]]

    async def stored(self, subject: str) -> str:
        """Tell what came of a forgery: after the core has written and read something later, it would be there."""
        await self.settle()
        found = await self.core.log.read(0, subject)
        assert all(to_event(message) is None for message in found), "a reader believes it"
        return SKIPPED if found else NOTHING

    async def settle(self) -> None:
        """Wait until the broker has dealt with what was sent."""
        await self.hostile.flush()
        for _ in range(3):
            await self.core.log.info(0)
            await asyncio.sleep(0.1)

    async def ask(self, subject: str, payload: bytes, **headers: str) -> dict[str, Any]:
        """Return the answer to a request; none if it was refused."""
        try:
            answer = await self.hostile.request(subject, payload, timeout=2, headers=headers or None)
        except (TimeoutError, nats.errors.Error):
            return {"error": "no answer"}
        found: dict[str, Any] = json.loads(answer.data)
        return found


async def answer_to_event(scene: Scene) -> str:
    await scene.hostile.publish("session.0.s1.worker.state.k", b'{"type":"state.set","value":1}', reply=VICTIM)
    return await scene.stored(VICTIM)


async def answer_to_read(scene: Scene) -> str:
    await scene.ask("session.0.s1.worker.in.critic.x", HELLO)
    body = b'{"last_by_subj": "session.0.s1.worker.in.critic.x"}'
    for request in ("DIRECT.GET", "STREAM.MSG.GET"):
        await scene.hostile.publish(f"$JS.API.{request}.SESSIONS_0", body, reply="session.0.s1.ann.in.critic.forged")
    return await scene.stored("session.0.s1.ann.in.critic.forged")


async def answer_to_pull(scene: Scene) -> str:
    """The message is stored again, on its own subject: `critic` gets the input twice."""
    await make_consumer(scene)
    await scene.ask("session.0.s1.worker.in.worker.x", HELLO)
    pull = "$JS.API.CONSUMER.MSG.NEXT.SESSIONS_0.agent-worker"
    await scene.hostile.publish(pull, b'{"batch": 1}', reply="session.0.s1.ann.in.critic.forged")
    await scene.settle()
    assert await scene.core.log.read(0, "session.0.s1.ann.in.>") == []
    return SKIPPED if len(await scene.core.log.read(0, "session.0.s1.worker.in.worker.x")) > 1 else NOTHING


async def make_consumer(scene: Scene, **more: Any) -> dict[str, Any]:
    config = contract.agent_consumer(0, "worker") | more
    body = json.dumps({"stream_name": "SESSIONS_0", "config": config}).encode()
    return await scene.ask("$JS.API.CONSUMER.CREATE.SESSIONS_0.agent-worker", body)


async def answer_to_core(scene: Scene) -> str:
    heard: list[str] = []
    scene.core.log.wire.subscribe("steward.>", lambda subject, *_: heard.append(subject))
    await scene.settle()
    for reply in ("steward.compact.session.0.s1.critic.run.r", "steward.at.session.0.s1.critic.stage.a.b"):
        await scene.hostile.publish("session.0.s1.worker.state.k", b'{"type":"state.set"}', reply=reply)
    await scene.settle()
    return HAPPENS if heard else NOTHING


async def follow(scene: Scene, attack: Callable[[], Awaitable[None]]) -> str:
    """Let the other agent follow a session while it is attacked; what it sees must be the log."""
    seen: list[Any] = []

    async def read() -> None:
        async for event in scene.critic.session("s1").follow():
            one = event.member, event.kind, event.sequence
            seen.append(one)

    session = Broker(scene.core.log, "ann").session("s1")
    task = asyncio.create_task(read())
    try:
        await session.append("state", {"type": "state.set", "value": 1}, id="before")
        await scene.eventually(lambda: len(seen) >= 2, 20)
        await attack()
        await scene.settle()
        await session.append("state", {"type": "state.set", "value": 2}, id="after")
        last = (await scene.core.log.last(0, "session.0.s1.>")).sequence  # type: ignore[union-attr]
        await scene.eventually(lambda: seen[-1][2] >= last, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    stored = [to_event(message) for message in await scene.core.log.read(0, "session.0.s1.>")]
    log = [(event.member, event.kind, event.sequence) for event in stored if event is not None]
    assert sorted({entry[2] for entry in seen}) == [entry[2] for entry in seen], "out of order"
    return NOTHING if set(seen) <= set(log) and len(seen) == len(log) else HAPPENS


async def answer_to_live(scene: Scene) -> str:
    async def attack() -> None:
        stamps = {
            "Nats-Stream": "SESSIONS_0", "Nats-Subject": VICTIM, "Nats-Sequence": "900",
            "Nats-Time-Stamp": "2026-01-01T00:00:00Z", "Nats-Last-Sequence": "0",
        }  # fmt: skip
        await make_consumer(scene)
        await scene.hostile.publish(
            "session.0.s2.worker.in.worker.x", b'{"type":"run.started"}', reply=f"live.{VICTIM}", headers=stamps
        )
        pull = "$JS.API.CONSUMER.MSG.NEXT.SESSIONS_0.agent-worker"
        await scene.hostile.publish(pull, b'{"batch": 5}', reply=f"live.{VICTIM}")
        body = b'{"multi_last": ["session.0.s2.>"], "batch": 9}'
        await scene.hostile.publish("$JS.API.DIRECT.GET.SESSIONS_0", body, reply=f"live.{VICTIM}")

    return await follow(scene, attack)


async def live_again(scene: Scene) -> str:
    """A true event, sent to those who have not read so far yet: they would skip what lies before it."""

    async def attack() -> None:
        session = Broker(scene.core.log, "ann").session("s1")
        for number in range(20):
            await session.append("state", {"type": "state.set", "value": number}, id=f"k{number}")
            subject = f"session.0.s1.ann.state.k{number}"
            body = json.dumps({"multi_last": [subject], "batch": 1}).encode()
            await scene.hostile.publish("$JS.API.DIRECT.GET.SESSIONS_0", body, reply=f"live.{subject}")

    return await follow(scene, attack)


async def answer_to_presence(scene: Scene) -> str:
    seen: list[Any] = []
    release = scene.critic.log.hear_presence("watch.s1", lambda key, payload: seen.append((key, payload)))
    await scene.critic.log.info(0)
    for request, body in (("DIRECT.GET.SESSIONS_0", b'{"last_by_subj": "session.0.s1.>"}'),):
        reply = "$KV.orchestrator_free_presence.watch.s1.ann.x"
        await scene.hostile.publish(f"$JS.API.{request}", body, reply=reply)
    await scene.settle()
    release()
    return HAPPENS if seen or await Broker(scene.core.log, "ann").session("s1").watchers() else NOTHING


async def push(scene: Scene) -> str:
    await make_consumer(scene, deliver_subject="steward.compact.session.0.s1.critic.run.r")
    info = await scene.core.log.wire.api("CONSUMER.LIST.SESSIONS_0", {})
    return HAPPENS if any(one["config"].get("deliver_subject") for one in info["consumers"]) else NOTHING


async def claim_ids(scene: Scene) -> str:
    for number in range(20):
        headers = {"Nats-Msg-Id": f"critic-{number}"}
        await scene.ask(f"session.0.s2.worker.state.k{number}", b'{"type":"state.set"}', **headers)
    for number in range(20):
        await scene.critic.session("s1").state.set(f"k{number}", number)
    values = [await scene.critic.session("s1").state.get(f"k{number}") for number in range(20)]
    return NOTHING if [value and value.value for value in values] == list(range(20)) else HAPPENS


async def overhear(scene: Scene) -> str:
    heard: list[Any] = []

    async def note(message: Any) -> None:
        heard.append(message)

    for subject in ("_INBOX.>", "_INBOX.gateway.>", "_INBOX.critic.>", "_R_.>"):
        await scene.hostile.subscribe(subject, cb=note)
    await scene.hostile.flush()
    await scene.critic.log.info(0)
    await scene.settle()
    return HAPPENS if heard else NOTHING


async def star(scene: Scene) -> str:
    await scene.ask("session.0.s1.worker.state.*", b'{"type":"state.set"}')
    return await scene.stored("session.0.s1.worker.state.>")


async def list_all(scene: Scene) -> str:
    info = await scene.ask("$JS.API.STREAM.INFO.SESSIONS_0", b'{"subjects_filter": "session.>"}')
    return HAPPENS if "session.0.s2.ann.meta" in info["state"]["subjects"] else NOTHING


async def roll_up(scene: Scene) -> str:
    for kind in ("all", "sub"):
        await scene.ask("session.0.s2.worker.state.k", b'{"type":"state.set"}', **{"Nats-Rollup": kind})
    return NOTHING if await Broker(scene.core.log, "ann").session("s1").exists() else HAPPENS


async def speak_for(scene: Scene) -> str:
    headers = {"Nats-Schedule": "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target": "due.session.0.s1.ann.answer.q"}
    await scene.ask("at.session.0.s1.worker.stage.q.expired", b'{"type":"answer","value":"yes"}', **headers)
    await asyncio.sleep(1.5)
    return await scene.stored("session.0.s1.ann.answer.q")


async def displace(scene: Scene) -> str:
    timer = "session.0.s1.critic.stage.q.expired"
    await scene.critic.log.later(timer, b'{"type":"ask.expired"}', "2040-01-01T00:00:00Z")
    headers = {"Nats-Schedule": "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target": f"at.{timer}"}
    await scene.ask("at.session.0.s1.worker.stage.q.expired", b"{}", **headers)
    await asyncio.sleep(1.5)
    body = {"last_by_subj": f"at.{timer}"}
    message = (await scene.core.log.wire.api(f"STREAM.MSG.GET.{contract.TIMERS}", body))["message"]
    return NOTHING if b"ask.expired" in base64.b64decode(message["data"]) else HAPPENS


async def put(scene: Scene) -> tuple[str, bytes]:
    data = b"# What the critic wrote"
    name = object_name(data, "file")
    await scene.critic.objects.put("s1", name, data)
    return name, data


def meta(name: str) -> str:
    return f"$O.{contract.OBJECT_BUCKET}.M.{base64.urlsafe_b64encode(f's1/{name}'.encode()).decode()}"


async def replace(scene: Scene) -> str:
    name, data = await put(scene)
    body = {"name": f"s1/{name}", "nuid": "worker.x", "chunks": 0, "digest": "", "options": {"max_chunk_size": 1}}
    await scene.ask(meta(name), json.dumps(body).encode())
    try:
        return NOTHING if await scene.core.objects.get("s1", name) == data else HAPPENS
    except BrokerError:
        return HAPPENS


async def more_chunks(scene: Scene) -> str:
    name, data = await put(scene)
    _, info = await scene.core.objects.info("s1", name)
    assert info is not None
    await scene.ask(f"$O.{contract.OBJECT_BUCKET}.C.{info['nuid']}", b"more")
    return NOTHING if await scene.core.objects.get("s1", name) == data else HAPPENS


async def false_name(scene: Scene) -> str:
    """Squat the name of what another one will write."""
    data = b"# What the critic will write"
    name = object_name(data, "file")
    await scene.ask(f"$O.{contract.OBJECT_BUCKET}.C.worker.x", b"something else")
    digest = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(b"something else").digest()).decode()
    body = {"name": f"s1/{name}", "nuid": "worker.x", "chunks": 1, "digest": digest, "options": {"max_chunk_size": 99}}
    await scene.ask(meta(name), json.dumps(body).encode())
    await scene.critic.objects.put("s1", name, data)
    return NOTHING if await scene.core.objects.get("s1", name) == data else HAPPENS


async def compact_early(scene: Scene) -> str:
    wire = scene.critic.log.wire
    subject, last = "session.0.s1.critic.run.r", 0
    for text in ("a", "b", "c"):
        body = json.dumps({"type": "text.delta", "part": "1", "text": text}).encode()
        last = await wire.publish(subject, body, expect=last)
    await scene.hostile.publish(f"steward.compact.{subject}")
    await scene.hostile.publish(
        "session.0.s1.worker.state.k", b'{"type":"state.set"}', reply=f"steward.compact.{subject}"
    )
    await scene.settle()
    return NOTHING if len(await scene.core.log.read(0, subject)) == 3 else HAPPENS


async def purge(scene: Scene) -> str:
    for name in ("SESSIONS_0", contract.TIMERS, f"OBJ_{contract.OBJECT_BUCKET}", f"KV_{contract.PRESENCE_BUCKET}"):
        for call, body in (("PURGE", b""), ("DELETE", b""), ("MSG.DELETE", b'{"seq": 1}')):
            answer = await scene.ask(f"$JS.API.STREAM.{call}.{name}", body)
            assert answer == {"error": "no answer"}
    return NOTHING if await Broker(scene.core.log, "ann").session("s1").exists() else HAPPENS


ATTACKS = dict(
    zip(
        TABLE,
        (
            answer_to_event, answer_to_read, answer_to_pull, answer_to_core, answer_to_live, live_again,
            answer_to_presence, push, claim_ids, overhear, star, list_all, roll_up, speak_for, displace, replace,
            more_chunks, false_name, compact_early, purge,
        ),
        strict=True,
    )
)  # fmt: skip


@pytest.mark.parametrize("form", [ONE, ISOLATED])
@pytest.mark.parametrize("attack", TABLE)
async def test_what_comes_of_an_attack(attack: str, form: str, tmp_path: Path, eventually: Callable[..., Any]) -> None:
    """What one account does not stop, readers skip or docs/broker-security.md names; accounts of their own stop it."""
    role = "isolated" if form == ISOLATED else "agent"
    users = [user("core", "gateway"), user(role, "worker"), user(role, "critic")]
    async with (
        installation(tmp_path, users) as place,
        place.core(isolated=form == ISOLATED) as core,
        place.plain("worker") as hostile,
        place.connect("critic") as critic,
    ):
        for name in ("s1", "s2"):
            await Broker(core.log, "ann").session(name).create(title="Review")

        came = await ATTACKS[attack](Scene(place, core, hostile, critic, eventually))

    assert came == TABLE[attack][form == ISOLATED]


async def test_a_refusal_is_said_at_once_and_names_the_subject(tmp_path: Path) -> None:
    """Nothing hangs until a deadline: publishing, requests, reads and live subscriptions all say what was refused."""
    users = [user("core", "gateway"), user("isolated", "worker", "s1"), user("service", "billing")]
    async with installation(tmp_path, users) as place, place.core(), place.connect("worker") as worker:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(PermissionDenied, match=r"session\.0\.s2\.worker\.state\.k"):
            await worker.session("s2").state.set("k", 1)
        with pytest.raises(PermissionDenied, match=r"\$JS\.API\.STREAM\.PURGE\.SESSIONS_0"):
            await worker.log.purge(0, "session.0.s1.>")
        with pytest.raises(PermissionDenied, match=r"at\.session\.0\.s2"):
            await worker.log.later("session.0.s2.worker.stage.a.b", b"{}", "2040-01-01T00:00:00Z")
        with pytest.raises(PermissionDenied, match=r"\$JS\.API\.DIRECT\.GET\.SESSIONS_TIMERS"):
            await worker.log._direct(contract.TIMERS, {"last_by_subj": "at.>"})
        assert await worker.session("s1").state.set("k", 1)
        assert loop.time() - begun < 4
