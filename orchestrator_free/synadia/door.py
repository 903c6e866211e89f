"""The front door: agents of ours, in every session, as callers of the Synadia Agent Protocol find and prompt them.

A handful of subscriptions serve any number of sessions, and any number of doors share them: one answers each request.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import (
    BrokerError,
    Conflict,
    InvalidInput,
    InvalidName,
    OrchestratorFreeError,
    SessionNotFound,
)
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.projections.answer import Answer
from orchestrator_free.session import Session
from orchestrator_free.subjects import ROOT, check_name, parse
from orchestrator_free.synadia.caller import Caller, CallerGone
from orchestrator_free.synadia.frames import (
    ACK,
    KEEP_ALIVE_SECONDS,
    NEW,
    QUEUE,
    Prompt,
    Registration,
    read_prompt,
    status,
)
from orchestrator_free.synadia.senders import SenderRefused, Senders
from orchestrator_free.synadia.telling import Telling
from orchestrator_free.views.members import replicas_of

_log = logs.logger("orchestrator_free.synadia")
#: doors of one installation share what only one of them is to answer
_DOORS: Final = "orchestrator-free-door"
#: who is there is looked up again after so long
_FRESH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """How callers see this installation.

    Attributes:
        owner: the fourth token of the subjects.
        member: the member whose inputs the prompts become.
        max_sessions: so many sessions are listed, those that were begun or renamed last.
        at_once: prompts that are answered at the same time by one door; more are refused with 429.
        signed: prompts that nobody has signed are refused with 401.
    """

    owner: str = "orchestrator-free"
    member: str = "synadia"
    max_sessions: int = 100
    at_once: int = 256
    signed: bool = False

    def __post_init__(self) -> None:
        check_name("owner", self.owner)
        check_name("member", self.member)


class FrontDoor:
    """Answers callers: `await FrontDoor(broker).run()`, until cancelled. Needs the role `door`."""

    def __init__(self, broker: Broker, settings: DoorSettings | None = None) -> None:
        """Prepare.

        Raises:
            InvalidInput: the extra `synadia` is not installed.
        """
        self._broker = broker
        self._wire = broker.log.wire
        self._settings = settings or DoorSettings()
        self._senders = Senders(required=self._settings.signed)
        self._version = version("orchestrator-free")
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = 0
        self._found: list[Registration] = []
        self._looked = -_FRESH_SECONDS

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; `ready` is called when prompts are taken."""
        ends = self._subscribe()
        try:
            ready()
            while True:
                await self._beat()
                await asyncio.sleep(KEEP_ALIVE_SECONDS)
        finally:
            for end in ends:
                end()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _subscribe(self) -> list[Callable[[], None]]:
        owner = self._settings.owner
        ends = [
            self._wire.subscribe(f"agents.prompt.*.{owner}.*", self._on_prompt, queue=QUEUE),
            self._wire.subscribe(f"agents.status.*.{owner}.*", self._on_status, queue=QUEUE),
        ]
        return ends + [self._wire.subscribe(one, self._on_discovery, queue=_DOORS) for one in contract.DISCOVERY]

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- who is there -------------------------------------------------------------------------------------------

    async def registrations(self) -> list[Registration]:
        """Return whom callers may prompt: each living agent for a new session, and in each listed session."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < _FRESH_SECONDS:
            return self._found
        log, owner = self._broker.log, self._settings.owner
        alive = replicas_of(key for key, _ in await log.present("agent"))
        found = [
            Registration(agent, owner, NEW, f"{agent}: every prompt begins a session of its own", len(replicas))
            for agent, replicas in sorted(alive.items())
        ]
        for name, title, agents in await self._sessions():
            for agent in agents or sorted(alive):
                about = f"{agent} in {title or name}"
                found.append(Registration(agent, owner, name, about, len(alive.get(agent, ()))))
        self._found, self._looked = found, now
        return found

    async def _sessions(self) -> list[tuple[str, str, list[str]]]:
        """Return (id, title, agents) of the sessions that were begun or changed last."""
        log = self._broker.log
        last: dict[str, str] = {}
        for shard in range(log.shards):
            for message in await log.table(shard, f"{ROOT}.{shard}.*.*.meta"):
                if (where := parse(message.subject)) is not None and where.session != NEW:
                    last[where.session] = max(last.get(where.session, ""), message.time)
        chosen = sorted(last, key=last.__getitem__, reverse=True)[: self._settings.max_sessions]
        metas = await asyncio.gather(*(self._broker.session(name).meta() for name in chosen))
        return [(name, meta["title"], meta["agents"]) for name, meta in zip(chosen, metas, strict=True)]

    async def _beat(self) -> None:
        try:
            for one in await self.registrations():
                if one.replicas:
                    self._wire.send(one.subject("hb"), orjson.dumps(one.heartbeat(_now())))
        except BrokerError as error:
            _log.warning("no heartbeats", error=str(error))

    def _on_discovery(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        if _is_callers(reply):
            self._spawn(self._introduce(subject.split("."), reply))

    async def _introduce(self, tokens: list[str], reply: str) -> None:
        """Answer `$SRV.PING` or `$SRV.INFO`, for all of `agents` or one of them."""
        for one in await self.registrations():
            if len(tokens) < 4 or tokens[3] == one.id:
                told = one.ping(self._version) if tokens[1] == "PING" else self._info(one)
                self._wire.send(reply, orjson.dumps(told))

    def _info(self, one: Registration) -> dict[str, Any]:
        return one.info(self._version, self._limit, signed=self._settings.signed)

    @property
    def _limit(self) -> int:
        """What a prompt may have, attachments included: it becomes an event and objects, which are cut in pieces."""
        return self._wire.max_payload // 2

    def _on_status(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        if _is_callers(reply):
            self._spawn(self._tell_status(subject, reply))

    async def _tell_status(self, subject: str, reply: str) -> None:
        for one in await self.registrations():
            if one.subject("status") == subject:
                self._wire.send(reply, orjson.dumps(one.heartbeat(_now())))
                return
        await Caller(self._wire, reply).fail(404, f"{subject}: nobody of that name")

    # -- prompts ------------------------------------------------------------------------------------------------

    def _on_prompt(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        if not _is_callers(reply):
            _log.warning("a prompt whose reply subject is no caller's inbox is not answered", subject=subject)
            return
        _, _, agent, _, session = subject.split(".")
        caller = Caller(self._wire, reply)
        try:
            sender = self._senders.check(subject, payload, header)
        except SenderRefused as error:
            _log.info("a prompt was refused", subject=subject, reason=str(error.__cause__ or error))
            self._spawn(caller.fail(error.code, str(error)))
            return
        self._spawn(self._answer(agent, session, payload, sender, caller))

    async def _answer(
        self, agent: str, name: str, payload: bytes, sender: dict[str, str] | None, caller: Caller
    ) -> None:
        """Ask, and tell the answer; whatever goes wrong is told with the code that the protocol has for it."""
        if self._answering >= self._settings.at_once:
            await caller.fail(429, f"{self._answering} prompts are being answered here; try again in a moment")
            return
        self._answering += 1
        try:
            telling = await self._begin(agent, name, read_prompt(payload), sender, caller)
            keeping = asyncio.create_task(caller.keep(KEEP_ALIVE_SECONDS))
            try:
                await telling.run()
            finally:
                keeping.cancel()
        except CallerGone as gone:
            _log.info("a caller has left; the run goes on", session=name, agent=agent, reason=str(gone))
        except (InvalidInput, InvalidName) as error:
            await caller.fail(400, str(error))
        except SessionNotFound as error:
            await caller.fail(404, str(error))
        except Conflict as error:
            await caller.fail(409, str(error))
        except BrokerError as error:
            _log.warning("a prompt could not be answered", session=name, agent=agent, error=str(error))
            await caller.fail(500, "the broker does not answer; what was asked may be in the session")
        finally:
            self._answering -= 1

    async def _begin(
        self, agent: str, name: str, prompt: Prompt, sender: dict[str, str] | None, caller: Caller
    ) -> Telling:
        """Append the input, or find the one whose answer broke off; acknowledge, and return what tells the answer."""
        session = await self._session(agent, name)
        await caller.say(ACK)
        if prompt.resume is not None:
            if not await _was_asked(session, agent, prompt.resume.input):
                raise SessionNotFound(f"{session.id}: nobody asked {agent} {prompt.resume.input} here")
            return Telling(session, Answer(session.member, prompt.resume.input), caller, skip=prompt.resume.characters)
        data = await self._beside(session, prompt, sender)
        sent = await session.send(prompt.prompt, to=agent, id=prompt.id, data=data)
        await caller.say(status(f"input {session.id}/{sent.input}"))
        return Telling(session, Answer(session.member, sent.input), caller)

    async def _session(self, agent: str, name: str) -> Session:
        """Return the session of a prompt, begun if it is for a new one.

        Raises:
            SessionNotFound: there is none of that name, or for a new one no agent of that name.
        """
        broker = self._broker.as_member(self._settings.member)
        if name != NEW:
            session = broker.session(name)
            if not await session.exists():
                raise SessionNotFound(f"{name}; a prompt to the registration {NEW!r} begins one")
            return session
        if agent not in replicas_of(key for key, _ in await self._broker.log.present("agent")):
            raise SessionNotFound(f"of agent {agent!r}: no such agent is there now")
        session = broker.session(secrets.token_hex(12))
        await session.create(agents=[agent])
        return session

    async def _beside(self, session: Session, prompt: Prompt, sender: dict[str, str] | None) -> dict[str, Any] | None:
        """Store the attachments; return what goes beside the text: their names, fields we do not know, who signed."""
        files = []
        for file in prompt.attachments:
            content = file.data()
            stored = object_name(content, "attachment")
            await self._broker.objects.put(session.id, stored, content)
            files.append({"name": file.filename, "object": stored, "size": len(content)})
        # What we know stands over what the prompt says of itself.
        extra = {name: value for name, value in (prompt.model_extra or {}).items() if name != "sender"}
        return (extra | ({"attachments": files} if files else {}) | ({"sender": sender} if sender else {})) or None


def _is_callers(reply: str) -> bool:
    """Whether a reply subject is an inbox of a caller, here or in another account: the door writes nowhere else."""
    return reply.startswith(("_INBOX.", "_R_."))


async def _was_asked(session: Session, agent: str, input: str) -> bool:
    subject = f"{ROOT}.{session.shard}.{session.id}.{session.member}.in.{agent}.{input}"
    return await session.log.last(session.shard, subject) is not None


async def _logged(work: Any) -> None:
    try:
        await work
    except CallerGone as gone:
        _log.info("a caller has left", reason=str(gone))
    except OrchestratorFreeError as error:
        _log.warning("a request was not answered", error=str(error))
    except Exception:
        _log.exception("a request was not answered")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
