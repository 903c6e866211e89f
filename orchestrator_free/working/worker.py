"""What an agent process does: takes inputs, does attempts, keeps the broker informed, ends runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs, tracing
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidEvent
from orchestrator_free.events import Body, Event, decode
from orchestrator_free.jetstream import Delivery, PullConsumer
from orchestrator_free.session import Session
from orchestrator_free.subjects import ALL, parse, run_id
from orchestrator_free.views.members import PAUSED
from orchestrator_free.vocabulary import validate
from orchestrator_free.working.attempts import AgentSettings, Attempts, Handler
from orchestrator_free.working.obedience import ActiveRun, Obedience
from orchestrator_free.working.overlap import GO, Overlap, Place, Ruling
from orchestrator_free.working.turns import Turn, turn

_log = logs.logger("orchestrator_free.agent")

_PRESENCE_SECONDS: Final = contract.PRESENCE_TTL_SECONDS / 3
#: after a process stood still: what had been sent to it meanwhile comes within this time
_STALE_SECONDS: Final = 0.5
_BACK_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Hold:
    """The delivery that a run has to acknowledge; a redelivery takes its place.

    Attributes:
        begun: whether its run was begun here.
        lost: whether this process was stopped for so long that another has it.
    """

    delivery: Delivery
    begun: bool = False
    lost: bool = False


class Worker:
    """One process's share of an agent's work."""

    def __init__(self, name: str, settings: AgentSettings, handler: Handler, broker: Broker) -> None:
        self._name = name
        self._settings = settings
        self._broker = broker
        self._wire = broker.log.wire
        self._runs: set[asyncio.Task[None]] = set()
        self._active: dict[tuple[str, str], _Hold] = {}
        # Every shard's pull holds a place while it waits.
        self._free = asyncio.Semaphore(max(settings.concurrency, broker.log.shards))
        self._instance = secrets.token_hex(6)
        self._since: dict[int, str] = {}
        self._draining = asyncio.Event()
        self._pulse = monotonic()
        self.obedience = Obedience(broker, name)
        self.attempts = Attempts(name, settings, handler, broker, self.obedience, self._instance)
        policy, override = settings.overlap, settings.overlap_override
        self.overlap = Overlap(broker, name, self.obedience, self._counts, policy=policy, override=override)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Work until cancelled; `ready` is called when inputs are taken."""
        consumers = [self._consumer(shard) for shard in range(self._broker.log.shards)]
        controls = self.obedience.consumers()
        self.obedience.listen()
        for consumer in (*consumers, *controls):
            await consumer.open()
        self._since = {shard: consumer.created for shard, consumer in enumerate(consumers)}
        await self._announce()
        ready()
        present = asyncio.create_task(self._keep_present())
        self._pulse = monotonic()
        hush = self._broker.log.hear_presence(f"{contract.DRAIN}.{self._name}", self._on_drain)
        tasks = [self._feel_pulse(), self.attempts.watch(), *(self.obedience.settle(one) for one in controls)]
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(task) for task in tasks]
                takers = [group.create_task(self._take(consumer)) for consumer in consumers]
                await self._draining.wait()
                for taker in takers:
                    taker.cancel()
                for consumer in consumers:
                    consumer.close()
                self.overlap.close()
                while self._runs:
                    await asyncio.wait(self._runs)
                for helper in helpers:
                    helper.cancel()
            _log.info("drained", agent=self._name)
        finally:
            hush()
            for consumer in (*consumers, *controls):
                consumer.close()
            await self._stop()
            self.obedience.close()
            present.cancel()

    def _on_drain(self, key: str, payload: bytes) -> None:
        """An operator wants this process to take nothing new, finish, and end; or all of this agent."""
        if payload and key.rpartition(".")[2] in ("all", self._instance) and not self._draining.is_set():
            _log.info("draining: nothing new is taken, what runs is finished", agent=self._name, runs=len(self._runs))
            self._draining.set()

    def _consumer(self, shard: int) -> PullConsumer:
        settings = self._settings
        config = contract.agent_consumer(shard, self._name, ack_wait_seconds=settings.ack_wait_seconds)
        return PullConsumer(self._wire, contract.stream_name(shard), config, places=1)

    async def _take(self, consumer: PullConsumer) -> None:
        """Take inputs as long as there are free places; none is taken to wait here while another replica is idle."""
        deliveries = aiter(consumer)
        while True:
            await self._free.acquire()
            task = asyncio.create_task(self._guarded(await anext(deliveries), Place(self._free)))
            self._runs.add(task)
            task.add_done_callback(self._runs.discard)

    async def _guarded(self, delivery: Delivery, place: Place) -> None:
        try:
            if not self._was_stopped():
                await self._work(_Hold(delivery), place)
        except BrokerError as error:
            # Not acknowledged: it is delivered again, and the next attempt sees what this one left in the log.
            _log.warning("run interrupted", agent=self._name, error=str(error))
        except Exception:
            _log.exception("run interrupted by a fault of the runtime", agent=self._name)
        finally:
            place.release()

    async def _feel_pulse(self) -> None:
        """Notice when this process was stopped."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_seconds / 8)
            self._was_stopped()
            self._pulse = max(self._pulse, monotonic())

    def _was_stopped(self) -> bool:
        """Whether this process stood still for so long that others have what it was given and had not begun.

        What waited in its connection meanwhile is left alone for a moment: begun here, it would be taken from those who
        are at work on it. Not acknowledged, it comes again if nobody is.
        """
        now = monotonic()
        if now - self._pulse > self._settings.ack_wait_seconds:
            _log.warning("this process stood still", agent=self._name, seconds=round(now - self._pulse, 1))
            self._pulse = now + _STALE_SECONDS
            for hold in self._active.values():
                hold.lost = not hold.begun
            self.overlap.lose()
        return now < self._pulse

    async def _stop(self) -> None:
        """Let runs end; give back what does not end in time, so that another replica takes it at once."""
        self.overlap.close()
        if self._runs:
            await asyncio.wait(self._runs, timeout=self._settings.grace_seconds)
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        with contextlib.suppress(BrokerError):
            await self._broker.log.withdraw(self._presence_key)

    # -- presence -----------------------------------------------------------------------------------------------

    @property
    def _presence_key(self) -> str:
        return f"agent.{self._name}.{self._instance}"

    async def _announce(self) -> None:
        about = {
            "agent": self._name, "instance": self._instance, "host": socket.gethostname(), "pid": os.getpid(),
            "runs": len(self._runs), "places": self._settings.concurrency, "stats": self.attempts.told(),
        }  # fmt: skip
        await self._broker.log.announce(self._presence_key, orjson.dumps(about))
        if await self._is_paused():
            # A key of its own: who only looks at keys sees it, too. It vanishes when nobody renews it.
            await self._broker.log.announce(f"agent.{self._name}.{PAUSED}", b"{}")

    async def _is_paused(self) -> bool:
        """Whether an operator lets the broker hand out no new inputs of this agent."""
        state = await self._broker.log.consumer(0, contract.agent_consumer_name(self._name))
        return state is not None and state.paused

    async def _keep_present(self) -> None:
        while True:
            await asyncio.sleep(_PRESENCE_SECONDS)
            try:
                await self._announce()
            except BrokerError as error:
                _log.debug("presence not written", agent=self._name, error=str(error))

    # -- one input ----------------------------------------------------------------------------------------------

    async def _work(self, hold: _Hold, place: Place) -> None:
        message = hold.delivery.message
        where = parse(message.subject)
        foreign = message.copied or not message.payload
        if where is None or foreign or where.shard != self._broker.log.shard(where.session):
            # Outside the grammar, the broker's own doing, or in a shard where nobody would read the answer.
            await hold.delivery.ack()
            return
        body, problem = _read_input(message.payload)
        event = Event(message.sequence, message.time, where, body)
        mine = Turn(mine=False) if body.get("replayed") else await self._turn(event)
        if not mine.mine and not mine.refusal:
            await hold.delivery.ack()
            return
        key = (where.session, run_id(where.member, where.id))
        if key in self._active:
            self._active[key].delivery = hold.delivery  # the broker was away for long: this process is still at it
            return
        self._active[key] = hold
        beat = asyncio.create_task(self._beat(hold))
        active = self.obedience.enter(*key, message.sequence)
        try:
            if await self._deal(hold, event, mine, problem, active, place):
                self.overlap.ended(*key)
                await hold.delivery.ack()
        except asyncio.CancelledError:
            hold.delivery.again()
            raise
        finally:
            beat.cancel()
            del self._active[key]
            await self.obedience.leave(active)

    async def _deal(
        self, hold: _Hold, event: Event, mine: Turn, problem: str, active: ActiveRun, place: Place
    ) -> bool:  # fmt: skip
        """Do with an input what the floor and the rules of overlap say; return whether it is dealt with."""
        if mine.refusal:
            ruling = Ruling("rejected", mine.refusal)
        else:
            ruling = GO if problem else await self.overlap.rule(event, active, place)
            if ruling.waited and active.stop is None and await self._is_paused():
                ruling = Ruling(back=_BACK_SECONDS)  # its turn comes after the pause
        if ruling.lost or hold.lost:
            return False
        if ruling.back is not None:
            hold.delivery.again(delay_seconds=ruling.back)
            return False
        hold.begun = True
        fresh = hold.delivery.attempt == 1 if ruling.fresh is None else ruling.fresh
        trace = hold.delivery.message.trace if tracing.tracer is not None else ""
        more: Any = {"trace": trace, "problem": problem, "fresh": fresh}
        return await self.attempts.attempt(event.address, event.body, active, ruling, **more)

    async def _turn(self, event: Event) -> Turn:
        """Return whether an input is for this agent: as the floor stood when it came, and else as it is addressed."""
        where = event.address
        session = self._broker.session(where.session)
        found = await turn(session, self._name, where, event.body, event.sequence, shy=self._settings.shy)
        if found.mine is not None:
            return found
        return Turn(mine=where.target != ALL or await self._is_meant(session, event))

    async def _is_meant(self, session: Session, event: Event) -> bool:
        """Whether an input to everybody is for this agent too: it is named, or nobody is and it was there already."""
        agents = (await session.meta())["agents"]
        if agents:
            return self._name in agents
        since = self._since[event.address.shard]
        return datetime.fromisoformat(event.time) >= datetime.fromisoformat(since)

    async def _counts(self, event: Event) -> bool:
        """Whether an input to everybody is one that this agent does a run for."""
        return bool((await self._turn(event)).mine)

    async def _beat(self, hold: _Hold) -> None:
        """Tell the broker that the run lives."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_seconds / 4)
            hold.delivery.in_progress()


def _read_input(payload: bytes) -> tuple[Body, str]:
    """Return the input's payload and what is wrong with it, if anything."""
    try:
        body = decode(payload)
        if body.get("replayed"):
            return body, ""
        validate("in", body)
    except InvalidEvent as error:
        return {}, str(error)
    return body, "" if body["type"] == "input" else f"its type is {body['type']!r}, expected 'input'"
