"""No silent agents: what an agent owes while no process of it lives is said in the log, once.

Runs in every gateway, any number side by side, and they agree on nothing: an event is written only if it says
something new, and the broker takes it only if nothing of this agent came into the session since that was decided. So
of several monitors one writes, and an agent that comes back in that moment is not called offline.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self

import structlog
from prometheus_client import CollectorRegistry

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, Conflict, InvalidEvent
from orchestrator_free.events import decode, encode
from orchestrator_free.jetstream import Message
from orchestrator_free.lag import LagRow, agent_of, lag_table, living_replicas, seconds_between
from orchestrator_free.metrics import Metrics, serve_lag
from orchestrator_free.subjects import ALL, ROOT, Address, address, input_filters, parse, run_id
from orchestrator_free.views.members import excuse_of, watchers_of
from orchestrator_free.working.turns import meant

__all__ = ["LagRow", "Monitor", "MonitorSettings", "lag_table", "serve_lag"]

_log = structlog.get_logger("orchestrator_free.monitor")

GONE: Final = "no process of this agent is running"
NEVER: Final = "no agent of this name has ever connected"

_PAGE: Final = 256
_PAST_PAGE: Final = 1024
#: inputs to anybody that are looked through per tick, and that may wait to be old enough
_ARRIVALS: Final = 4096
_AT_ONCE: Final = 16
_DEADLINE_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """How closely to look.

    Attributes:
        tick_seconds: between two looks; a tenth of it is random.
        offline_after_seconds: how long an agent has no presence entry (they live for 6 s) before it is offline.
        unknown_after_seconds: how long an input waits for an agent that has never connected; it may just be starting.
        inputs_per_tick: owed inputs that are looked at in one tick, so that work stays bounded; then the next ones.
    """

    tick_seconds: float = 2.0
    offline_after_seconds: float = 4.0
    unknown_after_seconds: float = 10.0
    inputs_per_tick: int = 256


@dataclass(frozen=True, slots=True)
class _Owed:
    """An input that waits for an answer."""

    where: Address
    sequence: int
    time: str

    def run_subject(self, agent: str) -> str:
        where = self.where
        return str(address(where.shard, where.session, agent, "run", id=run_id(where.member, where.id)))


@dataclass(slots=True)
class _Debt:
    """How far the inputs of an offline agent were looked at; begins anew when its consumer has moved."""

    mark: tuple[str, int, int]
    cursors: dict[str, int]
    warned: bool = False


@dataclass(slots=True)
class _Shard:
    """What a monitor knows of a stream, and how far it has looked for inputs to names that nobody serves.

    Attributes:
        now: the broker's clock at this tick. end: the last sequence then. before: that of the tick before: a replica
            may be behind, so what a read did not find is passed over only up to there.
        start: the end when the monitor began: up to there is the past, read slowly; from there on the tail.
    """

    created: str
    start: int
    tail: int
    now: str = ""
    end: int = 0
    before: int = 0
    past: int = 0
    waiting: dict[tuple[str, str], list[_Owed]] = field(default_factory=dict)


class Monitor:
    """Looks after the agents until cancelled: `async with Monitor(broker):`, or `await monitor.run()`.

    Attributes:
        published: events this monitor wrote; what another one wrote first does not count.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        registry: CollectorRegistry | None = None,
        monitor_url: str | None = None,
        settings: MonitorSettings | None = None,
    ) -> None:
        """Prepare.

        Args:
            broker: a connection that may publish for every member.
            registry: where lag metrics go, too; None for no metrics.
            monitor_url: the broker's HTTP monitor, which tells the durability; only for metrics.
            settings: how closely to look.
        """
        self.settings = settings or MonitorSettings()
        self.published = 0
        self._broker = broker
        self._log = broker.log
        self._metrics = None if registry is None else Metrics(broker, registry=registry, monitor_url=monitor_url)
        self._absent: dict[str, float] = {}
        self._trusted = 0.0
        self._debts: dict[tuple[int, str], _Debt] = {}
        self._shards: dict[int, _Shard] = {}
        self._left = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name="monitor")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        reconnected = self._log.wire.on_reconnect
        reconnected.append(self._distrust)
        self._distrust()
        try:
            async with AsyncExitStack() as stack:
                if self._metrics is not None:
                    await stack.enter_async_context(self._metrics)
                while True:
                    await self._tick_safely()
                    await asyncio.sleep(self.settings.tick_seconds * random.uniform(0.95, 1.05))
        finally:
            reconnected.remove(self._distrust)

    def _distrust(self) -> None:
        """Presence lives in the broker's memory: when that may have been lost, absence says nothing for a while."""
        self._absent.clear()
        self._trusted = asyncio.get_running_loop().time() + contract.PRESENCE_TTL_SECONDS

    async def _tick_safely(self) -> None:
        try:
            await self.tick()
        except BrokerError as error:
            self._distrust()
            _log.warning("cannot look after the agents, trying again", error=str(error))
        except Exception:
            _log.exception("looking after the agents failed, trying again")

    async def tick(self) -> None:
        """Look once."""
        present = {replica.agent for replica in await living_replicas(self._log)}
        names = {shard: await self._agents(shard) for shard in range(self._log.shards)}
        overdue = self._overdue(set().union(*names.values()), present)
        self._debts = {key: debt for key, debt in self._debts.items() if key[1] in overdue}
        self._left = self.settings.inputs_per_tick
        for shard, agents in names.items():
            stream = await self._look_at_stream(shard)
            gone = sorted(agents & overdue)
            for agent in random.sample(gone, len(gone)):
                await self._look_at(shard, agent, stream)
            await self._look_for_strangers(shard, agents | present, stream)

    async def _look_at_stream(self, shard: int) -> _Shard:
        info = await self._log.info(shard)
        stream, end = self._shards.get(shard), info["state"]["last_seq"]
        if stream is None or stream.created != info["created"]:
            stream = self._shards[shard] = _Shard(info["created"], end, end)
        stream.now, stream.before, stream.end = info["ts"], stream.end, end
        return stream

    async def _agents(self, shard: int) -> set[str]:
        return {agent for name in await self._log.consumer_names(shard) if (agent := agent_of(name))}

    def _overdue(self, agents: set[str], present: set[str]) -> set[str]:
        """Return the agents that have had no presence entry for long enough."""
        now = asyncio.get_running_loop().time()
        since = max(now, self._trusted)
        self._absent = {agent: self._absent.get(agent, since) for agent in agents - present}
        early = self.settings.tick_seconds / 4  # otherwise the random part of a tick would decide about a whole one
        limit = now - self.settings.offline_after_seconds + early
        return {agent for agent, since in self._absent.items() if since <= limit}

    # -- agents that are gone -----------------------------------------------------------------------------------

    async def _look_at(self, shard: int, agent: str, stream: _Shard) -> None:
        """Go through what an agent owes, from where the last tick stopped."""
        try:
            state = await self._log.consumer(shard, contract.agent_consumer_name(agent))
        except BrokerError as error:
            _log.warning("cannot see what an agent owes", agent=agent, error=str(error))
            return
        if state is None or not state.outstanding:
            self._debts.pop((shard, agent), None)
            return
        mark = (state.created, state.delivered, state.floor)
        debt = self._debts.get((shard, agent))
        if debt is None or debt.mark != mark:
            debt = _Debt(mark, dict.fromkeys(input_filters(shard, agent), state.floor))
            self._debts[shard, agent] = debt
        told = 0
        for subject in debt.cursors:
            told += await self._pursue(shard, agent, debt, subject, stream)
        if told:
            _log.warning("agent is offline", agent=agent, outstanding=state.outstanding, sessions_told=told)

    async def _pursue(self, shard: int, agent: str, debt: _Debt, subject: str, stream: _Shard) -> int:
        """Go through one filter of an agent's inputs; return how many sessions were told."""
        told, more = 0, True
        while more and self._left > 0:
            limit = min(self._left, _PAGE)
            messages, more = await self._log.page(shard, subject, after=debt.cursors[subject], limit=limit)
            self._left -= len(messages)
            owed = self._owed(messages)
            before = self.published
            settled = await self._settle(agent, owed, GONE, stream.now)
            told += self.published - before
            if not settled:
                return told
            debt.cursors[subject] = messages[-1].sequence if more else _passed(debt.cursors[subject], messages, stream)
        if more and not debt.warned:
            debt.warned = True
            _log.warning("an offline agent owes more than one tick looks at, going on in the next", agent=agent)
        return told

    def _owed(self, messages: Iterable[Message]) -> list[_Owed]:
        """Return the inputs that are to be worked on at all."""
        found = []
        for message in messages:
            where = parse(message.subject)
            if where is None or not message.payload or where.shard != self._log.shard(where.session):
                continue  # an agent skips them, too
            if not _is_aside(message.payload):
                found.append(_Owed(where, message.sequence, message.time))
        return found

    async def _settle(self, agent: str, owed: Iterable[_Owed], reason: str, now: str) -> bool:
        """Say in every session of these inputs that they wait in vain; return whether all is said."""
        sessions: dict[str, list[_Owed]] = defaultdict(list)
        for one in owed:
            sessions[one.where.session].append(one)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def tell(session: str) -> bool:
            async with gate:
                return await self._try_to_tell(session, agent, sessions[session], reason, now)

        order = random.sample(list(sessions), len(sessions))  # so that several monitors share the work
        return all(await asyncio.gather(*(tell(session) for session in order)))

    async def _try_to_tell(self, session: str, agent: str, owed: Sequence[_Owed], reason: str, now: str) -> bool:
        try:
            return await self._tell(session, agent, owed, reason, now)
        except BrokerError as error:
            _log.warning("cannot say that an agent is offline", agent=agent, session=session, error=str(error))
            return False

    async def _tell(self, session: str, agent: str, owed: Sequence[_Owed], reason: str, now: str) -> bool:
        """Publish `agent.offline` if it says something new; return False if that is to be looked at again."""
        shard = self._log.shard(session)
        everything = f"{ROOT}.{shard}.{session}.{agent}.>"
        last = await self._log.last(shard, everything)
        kind = _kind(last)
        if last is not None and kind == "run" and seconds_between(last.time, now) < self.settings.offline_after_seconds:
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

    async def _still_owed(self, session: str, agent: str, owed: Sequence[_Owed]) -> list[_Owed]:
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

    # -- names that nobody serves -------------------------------------------------------------------------------

    async def _look_for_strangers(self, shard: int, known: Collection[str], stream: _Shard) -> None:
        """Find inputs to names for which no agent has ever connected, once they are old enough."""
        await self._read_arrivals(shard, stream, known)
        age = self.settings.unknown_after_seconds
        due = [key for key, owed in stream.waiting.items() if seconds_between(owed[0].time, stream.now) >= age]
        if not due:
            return
        people = {watcher.member for watcher in watchers_of(await self._log.present("watch"))}
        before = self.published
        for session, target in due[: self.settings.inputs_per_tick]:
            if await self._tell_strangers(session, target, {*known, *people}, stream):
                del stream.waiting[session, target]
        if self.published > before:
            names = sorted({target for _, target in due})[:10]
            _log.warning("inputs wait for agents that never connected", to=names, told=self.published - before)

    async def _read_arrivals(self, shard: int, stream: _Shard, known: Collection[str]) -> None:
        """Note what came since the last tick, and a page of what was there before this monitor started."""
        subject = f"{ROOT}.{shard}.*.*.in.*.*"
        room = _ARRIVALS - sum(map(len, stream.waiting.values()))
        more = stream.tail < stream.end
        while more and room > 0:
            messages, more = await self._log.page(shard, subject, after=stream.tail, limit=min(_PAGE, room))
            room -= len(messages)
            stream.tail = messages[-1].sequence if more else _passed(stream.tail, messages, stream)
            self._note(stream, messages, known)
        if room > 0 and stream.past < stream.start:
            messages, more = await self._log.page(shard, subject, after=stream.past, limit=min(_PAST_PAGE, room))
            stream.past = messages[-1].sequence if more else stream.start
            self._note(stream, [message for message in messages if message.sequence <= stream.start], known)

    def _note(self, stream: _Shard, messages: Iterable[Message], known: Collection[str]) -> None:
        for one in self._owed(messages):
            if one.where.target not in known:
                stream.waiting.setdefault((one.where.session, one.where.target), []).append(one)

    async def _tell_strangers(self, session: str, target: str, known: Collection[str], stream: _Shard) -> bool:
        """Say of everybody an input is for and whom nobody knows that there is no such agent; True if it is said."""
        names = (await self._broker.session(session).meta())["agents"] if target == ALL else [target]
        settled = True
        for name in names:
            if name not in known:
                settled &= await self._try_to_tell(session, name, stream.waiting[session, target], NEVER, stream.now)
        return settled


def _passed(cursor: int, messages: Sequence[Message], stream: _Shard) -> int:
    """Return where to go on after the last page: behind what it held, and what surely held nothing."""
    return max(cursor, stream.before, messages[-1].sequence if messages else 0)


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
