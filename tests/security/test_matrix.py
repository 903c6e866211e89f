"""Every role tries every kind of subject and request, of its own and of others: what came of it is seen at the broker.

`pytest -s tests/security/test_matrix.py` prints the summary.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Broker, contract
from orchestrator_free.errors import BrokerError
from orchestrator_free.jetstream.direct import DirectGet
from tests.security.place import installation, user
from tests.security.report import Tally, show

if TYPE_CHECKING:
    from pathlib import Path

    import nats

ROLES = (
    "core", "operator", "agent", "isolated", "narrow", "service", "notifier", "observer", "door", "guest", "caller",
)  # fmt: skip
#: the server serves the JetStream API from the system's account: whoever operates it can hear what is answered there
SYSTEM_HEARS = {"_R_.>", ">", "*.>"}
#: what may be done (+) or not (.) in the own tenant; nothing of it in another one, or by the system's user.
#: {me} is the one who tries, `narrow` an isolated agent of session s1 only
EXPECTED = """
                                            core operator agent isolated narrow service notifier observer door guest caller
publish own inputs and answers in s1           +     +      +      +        +      .       .        .       +    +     .
publish own work in s1                         +     +      +      +        +      .       .        .       .    +     .
publish own inputs and answers in s2           +     +      +      +        .      .       .        .       +    +     .
publish own work in s2                         +     +      +      +        .      .       .        .       .    +     .
publish own meta                               +     +      .      .        .      .       .        .       +    .     .
publish own notice                             +     +      .      .        .      .       +        .       .    .     .
publish as another agent                       +     +      .      .        .      .       .        .       .    .     .
publish as a person                            +     +      .      .        .      .       .        .       .    .     .
publish outside of the grammar                 +     +      .      .        .      .       .        .       .    .     .
roll up all                                    .     .      .      .        .      .       .        .       .    .     .
roll up own subject                            .     .      .      .        .      .       .        .       .    .     .
let an own event vanish                        .     .      .      .        .      .       .        .       .    .     .
own timer in s1                                +     +      +      +        +      .       .        .       .    +     .
own timer in s2                                +     +      +      +        .      .       .        .       .    +     .
own timer that speaks for another              +     +      +      .        .      .       .        .       .    +     .
timer of another                               +     +      .      .        .      .       .        .       .    .     .
roll up all timers                             +     +      +      .        .      .       .        .       .    +     .
what is due                                    .     .      .      .        .      .       .        .       .    .     .
own presence                                   +     +      +      +        +      .       .        .       .    +     .
own look at s1                                 +     +      +      +        +      +       .        +       .    +     .
presence of another                            +     +      .      .        .      .       .        .       .    .     .
look of another                                +     +      .      .        .      .       .        .       .    .     .
look of a gateway                              +     +      .      .        .      .       .        .       .    .     .
roll up all presence                           .     .      .      .        .      .       .        .       .    .     .
chunk of an own object                         +     +      +      +        +      .       .        .       +    +     .
chunk of another's object                      +     +      .      .        .      .       .        .       .    .     .
description of a stored object                 +     +      +      .        .      .       .        .       +    +     .
roll up all objects                            .     .      .      .        .      .       .        .       .    .     .
compaction of an own run                       .     .      +      +        +      .       .        .       .    +     .
compaction of another's run                    .     .      .      .        .      .       .        .       .    .     .
the steward's own subjects                     .     .      .      .        .      .       .        .       .    .     .
audit                                          +     +      .      .        .      .       .        .       .    .     .
read the log                                   +     +      +      +        +      +       +        +       +    +     .
read a literal subject                         +     +      +      .        .      +       +        +       +    +     .
read presence, objects, timers                 +     +      +      +        +      +       +        +       +    +     .
read the audit log                             .     +      .      .        .      .       .        .       .    .     .
list streams and consumers                     +     +      .      .        .      .       .        .       .    .     .
own consumer of inputs                         +     +      +      +        +      .       .        .       .    +     .
own consumer of a service                      +     +      .      .        .      +       +        .       .    .     .
consumer of another                            +     +      .      .        .      .       .        .       .    .     .
take inputs of another                         +     +      .      .        .      .       .        .       .    .     .
acknowledge for another                        +     +      .      .        .      .       .        .       .    .     .
delete consumers                               +     +      .      .        .      .       .        .       .    .     .
purge the log                                  +     +      .      .        .      .       .        .       .    .     .
purge presence                                 .     +      .      .        .      .       .        .       .    .     .
back up                                        .     +      .      .        .      .       .        .       .    .     .
delete streams                                 .     .      .      .        .      .       .        .       .    .     .
delete messages                                .     .      .      .        .      .       .        .       .    .     .
make streams                                   .     .      .      .        .      .       .        .       .    .     .
hear events                                    +     +      +      +        +      +       +        +       +    +     .
hear presence                                  +     +      +      +        +      +       +        +       +    +     .
hear what is published                         .     .      .      .        .      .       .        .       .    .     .
hear another's answers                         .     .      .      .        .      .       .        .       .    .     .
hear what the steward is asked                 +     .      .      .        .      .       .        .       .    .     .
prompt agents                                  .     .      .      .        .      .       .        .       .    +     +
answer the front door                          .     .      .      .        .      .       .        .       .    .     +
say that an agent is there                     .     .      .      .        .      .       .        .       +    .     .
answer callers                                 .     .      .      .        .      .       .        .       +    +     .
hear what callers ask                          .     .      .      .        .      .       .        .       +    .     .
hear what callers are told                     .     .      .      .        .      .       .        .       .    +     .
hear which agents are there                    .     .      .      .        .      .       .        .       .    +     +
hear everything                                .     .      .      .        .      .       .        .       .    .     .
"""
WORK = (
    "{me}.run.p", "{me}.ctl.critic.p", "{me}.outcome.p", "{me}.state.p", "{me}.ask.p", "{me}.stage.p.p", "{me}.lease.p",
    "{me}.floor", "{me}.presence",
)  # fmt: skip
SAYING = ("{me}.in.critic.p", "{me}.answer.p")
FOREIGN = ("run.p", "in.outliner.p", "ctl.outliner.p", "state.p", "answer.p", "outcome.p", "lease.p", "floor", "meta")
LATER = "@at 2040-01-01T00:00:00Z"
P, OBJ = "$KV.orchestrator_free_presence", "$O.orchestrator_free_objects"
STREAMS = (
    "SESSIONS_0",
    contract.TIMERS,
    f"KV_{contract.PRESENCE_BUCKET}",
    f"OBJ_{contract.OBJECT_BUCKET}",
    contract.AUDIT,
)
OBJECT = base64.urlsafe_b64encode(b"s1/file-0123456789abcdef").decode()
#: what nobody in the test answers
UNANSWERED = ("steward.compact.", "agents.", "$SRV.", "_INBOX.")
CANARY = "the-secret-of-acme"


@dataclass
class Try:
    """One attempt: a message that would be stored, a request that would be answered, or a subscription."""

    row: str
    how: str
    subject: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def later(row: str, subject: str, target: str | None = None, **more: str) -> Try:
    headers = {"Nats-Schedule": LATER, "Nats-Schedule-Target": f"due.{target or subject}", **more}
    return Try(row, "store", f"at.{subject}", headers=headers)


def tries(me: str) -> list[Try]:
    """Return everything that one user tries."""
    found: list[Try] = []

    def store(row: str, *subjects: str, body: Any = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        found.extend(Try(row, "store", subject, body, named) for subject in subjects)

    def ask(row: str, *requests: str, body: Any = None) -> None:
        found.extend(Try(row, "ask", f"$JS.API.{request}", body) for request in requests)

    def hear(row: str, *subjects: str) -> None:
        found.extend(Try(row, "hear", subject) for subject in subjects)

    own = [kind.replace("{me}", me) for kind in WORK]
    for session in ("s1", "s2"):
        said = (f"session.0.{session}.{kind.replace('{me}', me)}" for kind in SAYING)
        store(f"publish own inputs and answers in {session}", *said)
        store(f"publish own work in {session}", *(f"session.0.{session}.{kind}" for kind in own))
        found.append(later(f"own timer in {session}", f"session.0.{session}.{me}.stage.p.expired"))
        found.append(later(f"own timer in {session}", f"session.0.{session}.{me}.ctl.critic.p"))
    store("publish own meta", f"session.0.s1.{me}.meta", f"session.0.s2.{me}.meta")
    store("publish own notice", f"session.0.s1.{me}.notice.p", f"session.0.s2.{me}.notice.p")
    for session in ("s1", "s2"):
        store("publish as another agent", *(f"session.0.{session}.critic.{kind}" for kind in FOREIGN))
        store("publish as a person", *(f"session.0.{session}.ann.{kind}" for kind in FOREIGN))
    store("publish outside of the grammar", "session.0.s1", f"session.0.s1.{me}.run", f"session.0.s1.{me}.run.p.more")
    store("roll up all", f"session.0.s1.{me}.run.p", f"session.0.s1.{me}.state.p", Nats_Rollup="all")
    store("roll up own subject", f"session.0.s1.{me}.run.p", Nats_Rollup="sub")
    store("let an own event vanish", f"session.0.s1.{me}.run.p", Nats_TTL="1s")
    stage = f"session.0.s1.{me}.stage.p.x"
    found.append(later("own timer that speaks for another", stage, "session.0.s1.ann.answer.q"))
    found.append(Try("own timer that speaks for another", "store", f"at.{stage}", headers={
        "Nats-Schedule": LATER, "Nats-Schedule-Target": "at.session.0.s1.critic.stage.q.expired"}))  # fmt: skip
    found.append(later("timer of another", "session.0.s1.critic.stage.p.expired"))
    found.append(later("timer of another", "session.0.s2.ann.stage.p.expired"))
    store("roll up all timers", f"at.{stage}", Nats_Rollup="all")
    store("what is due", f"due.session.0.s1.{me}.stage.p.x", "due.session.0.s1.ann.answer.q")
    store("own presence", f"{P}.agent.{me}.p")
    store("own look at s1", f"{P}.watch.s1.{me}.p")
    store("presence of another", f"{P}.agent.critic.p")
    store("look of another", f"{P}.watch.s1.ann.p", f"{P}.device.s1.ann.p")
    store("look of a gateway", f"{P}.watch.s1.p")
    store("roll up all presence", f"{P}.agent.{me}.p", Nats_Rollup="all")
    store("chunk of an own object", f"{OBJ}.C.{me}.p")
    store("chunk of another's object", f"{OBJ}.C.critic.p", f"{OBJ}.C.p")
    store("description of a stored object", f"{OBJ}.M.{OBJECT}", body={"nuid": f"{me}.p", "chunks": 1, "digest": "x"})
    store("roll up all objects", f"{OBJ}.C.{me}.p", Nats_Rollup="all")
    found.append(Try("compaction of an own run", "store", f"steward.compact.session.0.s1.{me}.run.p"))
    found.append(Try("compaction of another's run", "store", "steward.compact.session.0.s1.critic.run.p"))
    found.extend(
        Try("the steward's own subjects", "store", f"steward.{what}")
        for what in (
            f"at.{stage}",
            f"object.{OBJECT}",
            "consumer.SESSIONS_0.agent-critic",
            "compact.session.0.s1.ann.run.p",
        )
    )
    store("audit", "audit.p")
    store("prompt agents", "agents.prompt.critic.p.new", "agents.status.critic.p.new", "$SRV.INFO.agents", "$SRV.PING")
    store("answer the front door", "agents.answer.p")
    store("say that an agent is there", "agents.hb.critic.p.new")
    store("answer callers", "_INBOX.agents.p")
    log, last = "SESSIONS_0", {"last_by_subj": "session.0.s1.ann.meta"}
    ask("read the log", f"STREAM.INFO.{log}")
    ask("read the log", f"STREAM.MSG.GET.{log}", f"DIRECT.GET.{log}", body=last)
    ask("read the log", f"STREAM.INFO.{log}", body={"subjects_filter": "session.>"})
    ask("read a literal subject", f"DIRECT.GET.{log}.session.0.s1.ann.meta")
    ask("read presence, objects, timers", *(f"STREAM.INFO.{name}" for name in STREAMS[1:4]))
    for name, subject in ((STREAMS[1], "at.>"), (STREAMS[3], f"{OBJ}.>")):
        ask("read presence, objects, timers", f"STREAM.MSG.GET.{name}", body={"last_by_subj": subject})
    ask("read presence, objects, timers", f"DIRECT.GET.{STREAMS[2]}", body={"last_by_subj": f"{P}.>"})
    ask("read the audit log", f"STREAM.INFO.{STREAMS[4]}")
    ask(
        "read the audit log",
        f"STREAM.MSG.GET.{STREAMS[4]}",
        f"DIRECT.GET.{STREAMS[4]}",
        body={"last_by_subj": "audit.>"},
    )
    ask("list streams and consumers", f"CONSUMER.LIST.{log}", f"CONSUMER.NAMES.{log}", body={})
    for name, config in (
        (f"agent-{me}", contract.agent_consumer(0, me)),
        (f"control-{me}", contract.control_consumer(0, me)),
    ):
        ask("own consumer of inputs", f"CONSUMER.CREATE.{log}.{name}", body={"stream_name": log, "config": config})
        ask("own consumer of inputs", f"CONSUMER.INFO.{log}.{name}")
        ask("own consumer of inputs", f"CONSUMER.MSG.NEXT.{log}.{name}", body={"batch": 1, "no_wait": True})
    config = contract.service_consumer(0, me)
    ask("own consumer of a service", f"CONSUMER.CREATE.{log}.service-{me}", body={"stream_name": log, "config": config})
    for name in ("agent-critic", "control-critic", "service-audit"):
        config = contract.service_consumer(0, "audit") | {"durable_name": name}
        ask("consumer of another", f"CONSUMER.INFO.{log}.{name}")
        ask("consumer of another", f"CONSUMER.CREATE.{log}.{name}", body={"stream_name": log, "config": config})
        ask("consumer of another", f"CONSUMER.DURABLE.CREATE.{log}.{name}", body={"stream_name": log, "config": config})
        ask("take inputs of another", f"CONSUMER.MSG.NEXT.{log}.{name}", body={"batch": 1, "no_wait": True})
        found.append(Try("acknowledge for another", "ask", f"$JS.ACK.{log}.{name}.1.1.1.1.0", "+WPI"))
    ask("delete consumers", f"CONSUMER.DELETE.{log}.agent-nobody", f"CONSUMER.DELETE.{log}.service-nobody")
    ask("purge the log", f"STREAM.PURGE.{log}", body={"filter": "session.0.nothing.>"})
    ask("purge presence", f"STREAM.PURGE.{STREAMS[2]}", body={"filter": f"{P}.nothing"})
    ask("back up", f"STREAM.SNAPSHOT.{log}", body={"deliver_subject": f"_INBOX.{me}.backup", "no_consumers": True})
    ask("delete streams", *(f"STREAM.DELETE.{name}" for name in STREAMS), "STREAM.DELETE.none")
    ask("delete messages", f"STREAM.MSG.DELETE.{log}", body={"seq": 999_999})
    ask("make streams", "STREAM.CREATE.OTHER", body={"name": "OTHER", "subjects": ["other"]})
    hear("hear events", "live.session.>", "live.session.0.s1.>", "live.session.0.s2.ann.>")
    hear("hear presence", f"{P}.>", f"{P}.watch.s1.>")
    hear("hear what is published", "session.>", "session.0.s1.>", "at.>", f"{OBJ}.>", "$JS.API.>", "$JS.ACK.>")
    hear("hear another's answers", "_INBOX.>", "_INBOX.gateway.>", "_INBOX.critic.>", "_R_.>")
    hear("hear what the steward is asked", "steward.>")
    hear("hear what callers ask", "agents.prompt.*.*.*", "$SRV.INFO.agents", "agents.answer.*")
    hear("hear what callers are told", "_INBOX.agents.>")
    hear("hear which agents are there", "agents.hb.*.*.*")
    hear("hear everything", ">", "*.>", "$SYS.>", "$JS.>", "$KV.>", "live.>")
    if me == "gateway":
        found = [one for one in found if one.subject != "_INBOX.gateway.>"]  # that is its own
    return found


async def attempt(
    connection: nats.NATS, who: str, inbox: str, all_of_it: list[Try], stir: Any, due: set[int]
) -> dict[int, list[Any]]:
    """Try everything over one connection; return what came back, answers and what was overheard, by number.

    `due` are those of which something must come back.
    """
    came: dict[int, list[Any]] = {}
    for number, one in enumerate(all_of_it):

        async def take(message: Any, number: int = number) -> None:
            came.setdefault(number, []).append(message)

        await connection.subscribe(one.subject if one.how == "hear" else f"{inbox}.try.{number}", cb=take)
    for number, one in enumerate(all_of_it):
        if one.how != "hear":
            body = {"type": "try", "token": f"{who}/{number}", **(one.body or {})} if one.how == "store" else one.body
            payload = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
            await connection.publish(one.subject, payload, reply=f"{inbox}.try.{number}", headers=one.headers or None)
    await connection.flush()
    await stir()
    end = time.monotonic() + 15
    while not due <= came.keys() and time.monotonic() < end:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)  # what must not come cannot be waited for
    return came


def refused(answer: Any) -> bool:
    """Whether a request did not get through: nobody hears it, or the steward said no."""
    if (answer.headers or {}).get("Status") == "503":
        return True
    try:
        error = json.loads(answer.data).get("error") or {}
    except (ValueError, AttributeError):
        return False
    return error.get("err_code", 1) in (0, 10039)


def acknowledged(answer: Any) -> bool:
    """Whether the broker, or the steward, says that something is stored."""
    try:
        return "error" not in json.loads(answer.data)
    except ValueError:
        return False


async def stored(core: Broker) -> set[str]:
    """Return the tokens of the attempts that stand in any stream of the tenant."""
    payloads: list[bytes] = []
    for name in (STREAMS[0], STREAMS[2]):
        messages, _, _ = await DirectGet(core.log.wire)(name, {"seq": 1, "next_by_subj": ">", "batch": 10_000})
        payloads += [message.payload for message in messages]
    for name in (STREAMS[1], STREAMS[3]):
        last = 0
        with suppress(BrokerError):  # there are no more
            while True:
                body = {"seq": last + 1, "next_by_subj": ">"}
                message = (await core.log.wire.api(f"STREAM.MSG.GET.{name}", body))["message"]
                last = message["seq"]
                payloads.append(base64.b64decode(message.get("data", "")))
    found = set()
    for payload in payloads:
        with suppress(ValueError, LookupError, TypeError):
            found.add(str(json.loads(payload)["token"]))
    return found


class Acme:
    """The tenant that everybody tries to get at: what stands in it, and what happens in it meanwhile."""

    def __init__(self, core: Broker, operator: Broker, *others: nats.NATS) -> None:
        self.core = core
        self.operator = operator
        self.critic, self.door, self.guest, self.partner = others
        self.stamps: set[str] = set()
        self.asked: set[str] = set()
        self.stored: set[str] = set()

    async def prepare(self) -> None:
        """Let there be sessions, consumers of others, and things to read."""
        await self.core.log.wire.api(
            f"STREAM.CREATE.{contract.AUDIT}", contract.audit_stream(contract.StreamSettings())
        )
        for name in ("s1", "s2"):
            await Broker(self.core.log, "ann").session(name).create(title=CANARY)
        self.core.log.wire.subscribe("steward.>", self._note)
        for connection, subjects in (
            (self.door, (*contract.PROMPTED, contract.ANSWERED)),
            (self.guest, (contract.CALLERS_INBOX, contract.HEARTBEATS)),
        ):
            for subject in subjects:
                await connection.subscribe(subject, cb=self._note_message)
            await connection.flush()
        for name in MEMBERS.values():
            for config in (contract.agent_consumer(0, name), contract.control_consumer(0, name)):
                body = {"stream_name": "SESSIONS_0", "config": config}
                await self.core.log.wire.api(f"CONSUMER.CREATE.SESSIONS_0.{config['durable_name']}", body)
        for name in ("agent-critic", "control-critic", "service-audit"):
            config = contract.service_consumer(0, "audit") | {"durable_name": name}
            await self.core.log.wire.api(
                f"CONSUMER.CREATE.SESSIONS_0.{name}", {"stream_name": "SESSIONS_0", "config": config}
            )
        for name in STREAMS:
            self.stamps.add((await self.operator.log.wire.api(f"STREAM.INFO.{name}"))["created"])

    def _note(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        with suppress(ValueError, LookupError, TypeError):
            self.asked.add(f"{json.loads(payload)['token']} {subject}")

    async def _note_message(self, message: Any) -> None:
        self._note(message.subject, message.reply, message.data, b"")

    async def stir(self) -> None:
        """Let everything happen that somebody could overhear."""
        body = {"type": "try", "canary": CANARY}
        for name in ("s1", "s2"):
            await Broker(self.core.log, "ann").session(name).append("state", body, id="stir")
        for connection, subject in (
            (self.guest, "agents.prompt.critic.p.new"),
            (self.guest, "$SRV.INFO.agents"),
            (self.partner, "agents.answer.stir"),
            (self.door, "_INBOX.agents.stir"),
            (self.door, "agents.hb.critic.p.new"),
        ):
            await connection.publish(subject, json.dumps(body).encode())
            await connection.flush()
        await self.core.log.announce("watch.s1.aa", json.dumps(body | {"device": "d"}).encode())
        await self.critic.request(
            "$JS.API.STREAM.MSG.GET.SESSIONS_0", b'{"last_by_subj": "session.0.s1.>"}', timeout=10
        )
        headers = {"Nats-Schedule": LATER, "Nats-Schedule-Target": "due.session.0.s1.critic.stage.stir.x"}
        await self.critic.request(
            "at.session.0.s1.critic.stage.stir.x", json.dumps(body).encode(), headers=headers, timeout=10
        )

    async def state(self) -> list[Any]:
        """Return how the tenant stands: what a foreign hand could have changed."""
        found = []
        for name in STREAMS:
            info = await self.operator.log.wire.api(f"STREAM.INFO.{name}")
            found.append((name, info["created"], info["config"], info["state"]["consumer_count"]))
        found.append(sorted(await self.core.log.consumer_names(0)))
        return found

    def has(self, token: str, subject: str) -> bool:
        """Whether an attempt stands in a stream, or the steward was asked by it on the steward's own subject."""
        return token in self.stored or f"{token} {subject}" in self.asked

    def told(self, answer: Any) -> bool:
        """Whether a message says anything of this tenant."""
        data = answer.data + json.dumps(dict(answer.headers or {})).encode()
        with suppress(ValueError, LookupError, TypeError):
            data += base64.b64decode(json.loads(answer.data)["message"]["data"])
        return any(one.encode() in data for one in (CANARY, *self.stamps))


async def try_all(
    acme: Acme, connection: nats.NATS, me: str, expected: dict[str, dict[str, bool]], role: str | None
) -> dict[int, bool]:
    """Try everything, in a role of the tenant or as somebody of none; return what came of it by number."""
    all_of_it = tries(me)
    who = f"{me} of {'acme' if role else 'beta'}"
    due = {
        number
        for number, one in enumerate(all_of_it)
        if role and expected[one.row][role] and not one.subject.startswith(UNANSWERED)
    }
    came = await attempt(connection, who, f"_INBOX.{me}", all_of_it, acme.stir, due)
    acme.stored = await stored(acme.core)
    found = {}
    for number, one in enumerate(all_of_it):
        token, back = f"{who}/{number}", came.get(number, [])
        if role is None:
            found[number] = acme.has(token, one.subject) or any(acme.told(message) for message in back)
        elif one.how == "store":
            found[number] = acme.has(token, one.subject) or any(acknowledged(message) for message in back)
        else:
            found[number] = any(one.how == "hear" or not refused(message) for message in back)
    return found


def table() -> dict[str, dict[str, bool]]:
    """Read `EXPECTED`."""
    head, *rows = [line for line in EXPECTED.splitlines() if line.strip()]
    assert tuple(head.split()) == ROLES
    return {
        line[:44].strip(): dict(zip(ROLES, (cell == "+" for cell in line[44:].split()), strict=True)) for line in rows
    }


MEMBERS = {
    "core": "gateway", "operator": "operator", "agent": "trusted", "isolated": "worker", "narrow": "narrow",
    "service": "billing", "notifier": "notify", "observer": "dashboard", "door": "synadia", "guest": "visitor",
    "caller": "partner",
}  # fmt: skip
#: who is there besides, one of a role
OTHERS = {"isolated": "critic", "door": "porter", "guest": "regular", "caller": "client"}


@pytest.mark.slow
async def test_no_role_does_what_it_must_not(tmp_path: Path) -> None:
    """What the table allows works; whatever it does not allow leaves no trace at the broker. 0 leaks."""
    expected = table()
    tenants = {
        tenant: [
            *(
                user("isolated", name, "s1", tenant=tenant) if role == "narrow" else user(role, name, tenant=tenant)
                for role, name in MEMBERS.items()
            ),
            *(user(role, name, tenant=tenant) for role, name in OTHERS.items()),
        ]
        for tenant in ("acme", "beta")
    }
    tallies = []
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(installation(tmp_path, tenants))
        core = await stack.enter_async_context(place.core("acme"))
        await stack.enter_async_context(place.core("beta"))
        operator = await stack.enter_async_context(place.connect("operator", "acme"))
        others = [await stack.enter_async_context(place.plain(name, "acme")) for name in OTHERS.values()]
        acme = Acme(core, operator, *others)
        await acme.prepare()
        for role, name in MEMBERS.items():
            tally = Tally(f"acme {role}")
            async with place.plain(name, "acme") as connection:
                found = await try_all(acme, connection, name, expected, role)
            for one, came in zip(tries(name), found.values(), strict=True):
                tally.count(f"{one.row}: {one.how} {one.subject}", expected=expected[one.row][role], found=came)
            tallies.append(tally)
        before = await acme.state()
        for role, name in [*((f"beta {role}", name) for role, name in MEMBERS.items()), ("system", "system")]:
            tally = Tally(role)
            async with place.system() if name == "system" else place.plain(name, "beta") as connection:
                found = await try_all(acme, connection, name, expected, None)
            for one, came in zip(tries(name), found.values(), strict=True):
                known = name == "system" and one.how == "hear" and one.subject in SYSTEM_HEARS
                tally.count(f"{one.row}: {one.how} {one.subject}", expected=known, found=came)
            tallies.append(tally)
        after = await acme.state()

    print(f"\n{show(tallies)}", *[one for tally in tallies for one in tally.broken], sep="\n")
    assert [leak for one in tallies for leak in one.leaks] == []
    assert [broken for one in tallies for broken in one.broken] == []
    assert before == after
    assert {one.row for one in tries("worker")} == set(expected), "a row of the table that nobody tries"
    assert sum(one.allowed + one.denied for one in tallies) >= 500
