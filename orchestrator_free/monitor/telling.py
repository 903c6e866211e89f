"""Saying that an agent owes answers and is not there: once, and only if the log says nothing newer.

An event is written only if it says something new, and the broker takes it only if nothing of this agent came into the
session since that was decided. So of several monitors one writes, and an agent that comes back in that moment is not
called offline.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free import logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, Conflict, InvalidEvent
from orchestrator_free.events import decode, encode
from orchestrator_free.jetstream import Log, Message
from orchestrator_free.lag import seconds_between
from orchestrator_free.subjects import ALL, ROOT, Address, address, parse, run_id
from orchestrator_free.views.members import excuse_of
from orchestrator_free.working.turns import meant

_log = logs.logger("orchestrator_free.monitor")

GONE: Final = "no process of this agent is running"
NEVER: Final = "no agent of this name has ever connected"

_AT_ONCE: Final = 16
_DEADLINE_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Owed:
    """An input that waits for an answer."""

    where: Address
    sequence: int
    time: str

    def run_subject(self, agent: str) -> str:
        """Return where an agent answers it."""
        where = self.where
        return str(address(where.shard, where.session, agent, "run", id=run_id(where.member, where.id)))


class Teller:
    """Writes `agent.offline`.

    Attributes:
        published: events it wrote; what another monitor wrote first does not count.
    """

    def __init__(self, broker: Broker, alive_seconds: float) -> None:
        """Prepare.

        Args:
            broker: a connection that may publish for every member.
            alive_seconds: an agent that wrote so recently lives, whatever the presence says.
        """
        self.published = 0
        self._broker = broker
        self._log = broker.log
        self._alive_seconds = alive_seconds

    async def settle(self, agent: str, owed: Iterable[Owed], reason: str, now: str) -> bool:
        """Say in every session of these inputs that they wait in vain; return whether all is said."""
        sessions: dict[str, list[Owed]] = defaultdict(list)
        for one in owed:
            sessions[one.where.session].append(one)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def settled(session: str) -> bool:
            async with gate:
                return await self.tell(session, agent, sessions[session], reason, now)

        order = random.sample(list(sessions), len(sessions))  # so that several monitors share the work
        return all(await asyncio.gather(*(settled(session) for session in order)))

    async def tell(self, session: str, agent: str, owed: Sequence[Owed], reason: str, now: str) -> bool:
        """Say in a session that inputs of an agent wait in vain; False if that is to be looked at again."""
        try:
            return await self._say(session, agent, owed, reason, now)
        except BrokerError as error:
            _log.warning("cannot say that an agent is offline", agent=agent, session=session, error=str(error))
            return False

    async def _say(self, session: str, agent: str, owed: Sequence[Owed], reason: str, now: str) -> bool:
        """Publish `agent.offline` if it says something new; return False if that is to be looked at again."""
        shard = self._log.shard(session)
        everything = f"{ROOT}.{shard}.{session}.{agent}.>"
        last = await self._log.last(shard, everything)
        kind = _kind(last)
        if last is not None and kind == "run" and seconds_between(last.time, now) < self._alive_seconds:
            return False  # it writes, so it lives, whatever the presence says
        told = last is not None and kind == "presence" and _type(last.payload) == "agent.offline"
        if reason == NEVER and not told and kind not in ("", "run"):
            return True  # a person, or a service: it writes here, and does no runs
        said = last.sequence if last is not None and told else 0
        if all(one.sequence < said for one in owed):
            return True
        owed = await self._still_owed(session, agent, owed)
        if all(one.sequence < said for one in owed):
            return True
        subject = str(address(shard, session, agent, "presence"))
        before = await self._log.last(shard, subject)
        body = encode({"type": "agent.offline", "reason": reason} | excuse_of(before.payload if before else b""))
        try:
            await self._log.wire.publish(
                subject, body, expect=last.sequence if last else 0, expect_filter=everything, rollup=True,
                deadline=_DEADLINE_SECONDS,
            )  # fmt: skip
        except Conflict:
            return False  # another monitor said it, or the agent is back: the next tick sees which
        self.published += 1
        return True

    async def _still_owed(self, session: str, agent: str, owed: Sequence[Owed]) -> list[Owed]:
        """Return those that are meant for the agent, are still there, and whose run is not finished."""
        everybody = {one.sequence for one in owed if one.where.target == ALL}
        theirs = everybody - await meant(self._broker.session(session), agent, everybody)
        found = [one for one in owed if one.sequence not in theirs]
        if not found:
            return []
        subjects = [subject for one in found for subject in (str(one.where), one.run_subject(agent))]
        there = {message.subject: message for message in await self._log.last_of(self._log.shard(session), subjects)}
        finished = {subject for subject, message in there.items() if _type(message.payload) == "run.finished"}
        return [one for one in found if str(one.where) in there and one.run_subject(agent) not in finished]


def owed_among(log: Log, messages: Iterable[Message]) -> list[Owed]:
    """Return the inputs among messages that are to be worked on at all."""
    found = []
    for message in messages:
        where = parse(message.subject)
        if where is None or not message.payload or where.shard != log.shard(where.session):
            continue  # an agent skips them, too
        if not _is_aside(message.payload):
            found.append(Owed(where, message.sequence, message.time))
    return found


def _is_aside(payload: bytes) -> bool:
    try:
        return any(f'"{mark}"'.encode() in payload and decode(payload).get(mark) for mark in ("replayed", "note"))
    except InvalidEvent:
        return False


def _type(payload: bytes) -> Any:
    try:
        return decode(payload)["type"]
    except InvalidEvent:
        return ""


def _kind(message: Message | None) -> str:
    where = None if message is None else parse(message.subject)
    return "" if where is None else where.kind
