"""What an agent process does: takes inputs, does attempts, keeps the broker informed, ends runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Final

import orjson
import structlog

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.entries import to_event
from orchestrator_free.errors import BrokerError, Conflict, InvalidEvent, RunFenced
from orchestrator_free.events import Body, Event, decode
from orchestrator_free.fold import RunFold
from orchestrator_free.jetstream import Delivery, PullConsumer
from orchestrator_free.obedience import ActiveRun, Obedience
from orchestrator_free.run import Run, RunInput, safe_message
from orchestrator_free.runwriter import RunWriter
from orchestrator_free.session import Session
from orchestrator_free.stats import AgentStats
from orchestrator_free.subjects import ALL, Address, address, parse, run_id
from orchestrator_free.vocabulary import validate

_log = structlog.get_logger("orchestrator_free.agent")

Handler = Callable[[Run], Awaitable[None]]
_PRESENCE_SECONDS: Final = contract.PRESENCE_TTL_SECONDS / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """How an agent works.

    Attributes:
        concurrency: runs at once in one process, at least one per shard.
        max_attempts: after so many attempts that ended without a result the run is `failed`.
        ack_wait_seconds: a replica silent for this long loses its run to another.
        grace_seconds: on SIGTERM, how long runs may go on before they are given to another replica.
    """

    concurrency: int = 16
    max_attempts: int = 3
    ack_wait_seconds: float = contract.ACK_WAIT_SECONDS
    grace_seconds: float = 10.0


@dataclass(slots=True)
class _Hold:
    """The delivery that a run has to acknowledge; a redelivery takes its place."""

    delivery: Delivery


class Worker:
    """One process's share of an agent's work."""

    def __init__(self, name: str, settings: AgentSettings, handler: Handler, broker: Broker) -> None:
        self._name = name
        self._settings = settings
        self._handler = handler
        self._broker = broker
        self._wire = broker.log.wire
        self._runs: set[asyncio.Task[None]] = set()
        self._active: dict[tuple[str, str], _Hold] = {}
        # Every shard's pull holds a place while it waits.
        self._free = asyncio.Semaphore(max(settings.concurrency, broker.log.shards))
        self._instance = secrets.token_hex(6)
        self.stats = AgentStats()
        self.obedience = Obedience(broker, name)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Work until cancelled; `ready` is called when inputs are taken."""
        consumers = [self._consumer(shard) for shard in range(self._broker.log.shards)]
        controls = self.obedience.consumers()
        self.obedience.listen()
        for consumer in (*consumers, *controls):
            await consumer.open()
        await self._announce()
        ready()
        present = asyncio.create_task(self._keep_present())
        try:
            async with asyncio.TaskGroup() as group:
                for consumer in consumers:
                    group.create_task(self._take(consumer))
                for consumer in controls:
                    group.create_task(self.obedience.settle(consumer))
        finally:
            for consumer in (*consumers, *controls):
                consumer.close()
            await self._stop()
            self.obedience.close()
            present.cancel()

    def _consumer(self, shard: int) -> PullConsumer:
        settings = self._settings
        config = contract.agent_consumer(shard, self._name, ack_wait_seconds=settings.ack_wait_seconds)
        return PullConsumer(self._wire, contract.stream_name(shard), config, places=1)

    async def _take(self, consumer: PullConsumer) -> None:
        """Take inputs as long as there are free places; none is taken to wait here while another replica is idle."""
        deliveries = aiter(consumer)
        while True:
            await self._free.acquire()
            task = asyncio.create_task(self._guarded(await anext(deliveries), consumer.created))
            self._runs.add(task)
            task.add_done_callback(self._runs.discard)

    async def _guarded(self, delivery: Delivery, since: str) -> None:
        try:
            await self._work(_Hold(delivery), since)
        except BrokerError as error:
            # Not acknowledged: it is delivered again, and the next attempt sees what this one left in the log.
            _log.warning("run interrupted", agent=self._name, error=str(error))
        except Exception:
            _log.exception("run interrupted by a fault of the runtime", agent=self._name)
        finally:
            self._free.release()

    async def _stop(self) -> None:
        """Let runs end; give back what does not end in time, so that another replica takes it at once."""
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
            "runs": len(self._runs), "stats": self.stats.snapshot(),
        }  # fmt: skip
        await self._broker.log.announce(self._presence_key, orjson.dumps(about))

    async def _keep_present(self) -> None:
        while True:
            await asyncio.sleep(_PRESENCE_SECONDS)
            try:
                await self._announce()
            except BrokerError as error:
                _log.debug("presence not written", agent=self._name, error=str(error))

    # -- one input ----------------------------------------------------------------------------------------------

    async def _work(self, hold: _Hold, since: str) -> None:
        message = hold.delivery.message
        where = parse(message.subject)
        foreign = message.copied or not message.payload
        if where is None or foreign or where.shard != self._broker.log.shard(where.session):
            # Outside the grammar, the broker's own doing, or in a shard where nobody would read the answer.
            await hold.delivery.ack()
            return
        body, problem = _read_input(message.payload)
        if body.get("replayed") or (where.target == ALL and not await self._is_meant(where, message.time, since)):
            await hold.delivery.ack()
            return
        key = (where.session, run_id(where.member, where.id))
        if key in self._active:
            self._active[key].delivery = hold.delivery  # the broker was away for long: this process is still at it
            return
        self._active[key] = hold
        beat = asyncio.create_task(self._beat(hold))
        try:
            if await self._attempt(hold.delivery, where, body, problem):
                await hold.delivery.ack()
        except asyncio.CancelledError:
            hold.delivery.again()
            raise
        finally:
            beat.cancel()
            del self._active[key]

    async def _is_meant(self, where: Address, sent: str, since: str) -> bool:
        """Whether an input to everybody is for this agent too: it is named, or nobody is and it was there already."""
        agents = (await self._broker.session(where.session).meta())["agents"]
        if agents:
            return self._name in agents
        return datetime.fromisoformat(sent) >= datetime.fromisoformat(since)

    async def _beat(self, hold: _Hold) -> None:
        """Tell the broker that the run lives."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_seconds / 4)
            hold.delivery.in_progress()

    async def _attempt(self, delivery: Delivery, where: Address, body: Body, problem: str) -> bool:
        """Do one attempt; return whether the input is dealt with."""
        source = _source(where, body)
        begun = await self._begin(where, source, fresh=delivery.attempt == 1)
        if begun is None:
            return True
        begun_at = perf_counter()
        writer, spent = begun
        self.stats.attempts += 1
        session = self._broker.session(where.session)
        active = self.obedience.enter(where.session, writer.fold.run, delivery.message.sequence)
        try:
            compact = (await session.meta())["compaction"] != "off"
            stop = await self.obedience.standing(session, writer.fold.run, delivery.message.sequence)
            run = Run(session, writer, source, self._broker.objects, active)
            error: str | None
            if stop is not None:
                active.end(stop)
                status, error = "cancelled", None
            elif problem:
                status, error = "failed", f"the input cannot be read: {problem}"
            elif spent:
                attempts = self._settings.max_attempts
                status, error = "failed", f"gave up after {attempts} attempts without a result"
            else:
                status, error = await self._handle(run, writer, active)
            ended = await self._end(writer, status, error, session, active, compact=compact)
        finally:
            await self.obedience.leave(active)
        if ended:
            self.stats.finished(status, perf_counter() - begun_at)
        return ended

    async def _end(
        self, writer: RunWriter, status: str, error: str | None, session: Session, active: ActiveRun, *, compact: bool
    ) -> bool:
        """Write the run's end; return whether it is there."""
        if writer.fenced:
            return False
        run = writer.fold.run
        if active.stop is not None and status == "cancelled":
            await writer.drained()
            await self._forget_after(writer, session, active.stop)
            error = active.stop.body.get("reason") or None
        try:
            await writer.finish(status, error, self._broker.objects, session.id, compact=compact)
        except RunFenced as fenced:
            _log.warning("run taken over", agent=self._name, run=run, reason=str(fenced))
            return False
        if active.stop is not None:
            if status == "cancelled":
                await self.obedience.ended(active.stop, run)
            else:
                await self.obedience.say(active.stop, "too_late", "the run had ended", [run])
        return True

    async def _forget_after(self, writer: RunWriter, session: Session, stop: Event) -> None:
        """Keep of a cancelled run what stood in the log before the control: nobody was shown more."""
        subject = str(address(session.shard, session.id, self._name, "run", id=writer.fold.run))
        kept, _ = await self._earlier(session.shard, subject, writer.fold.run, before=stop.sequence)
        whole = writer.fold
        kept.attempt, kept.input, kept.parent = whole.attempt, whole.input, whole.parent
        kept.first, kept.started = kept.first or whole.first, kept.started or whole.started
        writer.fold = kept

    async def _begin(self, where: Address, source: RunInput, *, fresh: bool) -> tuple[RunWriter, bool] | None:
        """Begin the next attempt; None if the run is finished, or another replica has just begun one.

        Returns:
            The writer, and whether the attempts are used up.
        """
        run = run_id(where.member, where.id)
        subject = str(address(where.shard, where.session, self._name, "run", id=run))
        fold, last = RunFold(self._name, run), 0
        for _ in range(3):
            if not fresh:
                fold, last = await self._earlier(where.shard, subject, run)
                if fold.status != "running":
                    return None
            writer = RunWriter(self._wire, subject, fold, last=last)
            attempt = fold.attempt + 1
            try:
                await writer.start(attempt, f"{where.member}/{where.id}", source.parent, self._instance)
            except Conflict:
                fresh = False
                continue
            if attempt > 1:
                _log.warning("run taken over", agent=self._name, run=run, attempt=attempt)
            return writer, attempt > self._settings.max_attempts
        raise BrokerError(f"run {run}: other replicas begin it again and again")

    async def _earlier(self, shard: int, subject: str, run: str, *, before: int = 0) -> tuple[RunFold, int]:
        """Return what the log has of the run (before a sequence), and its last sequence."""
        fold, last = RunFold(self._name, run), 0
        for message in await self._broker.log.read_all(shard, subject):
            last = message.sequence
            event = to_event(message)
            if event is not None and (not before or event.sequence < before):
                fold.apply(event.body, event.sequence, event.time)
        return fold, last

    async def _handle(self, run: Run, writer: RunWriter, active: ActiveRun) -> tuple[str, str | None]:
        """Call the handler in a task of its own, which a control can cancel; return status and error."""
        if active.stop is not None:
            return "cancelled", None
        begun = perf_counter()
        self.stats.active += 1
        active.task = asyncio.create_task(self._call(run), name=f"run {run.id}")
        try:
            await active.task
        except asyncio.CancelledError:
            if active.stop is None:
                active.task.cancel()
                raise
            return "cancelled", None
        except RunFenced as fenced:
            _log.warning("run taken over", agent=self._name, run=run.id, reason=str(fenced))
        except BrokerError:
            raise
        except Exception as error:
            _log.exception("handler failed", agent=self._name, run=run.id, session=run.session.id)
            return ("cancelled", None) if active.stop is not None else ("error", safe_message(error))
        finally:
            self.stats.active -= 1
            if writer.first_write is not None:
                self.stats.first_token.observe(writer.first_write - begun)
        # A handler that swallowed its cancellation is stopped all the same: nobody was shown what it said after it.
        return ("cancelled" if active.stop is not None else "done"), None

    async def _call(self, run: Run) -> None:
        await self._handler(run)


def _source(where: Address, body: Body) -> RunInput:
    """Return what a run is to do."""
    return RunInput(
        where.id, where.member, body.get("text", ""), body.get("data"), body.get("parent"),
        body.get("redirects"), body.get("depth", 0),
    )  # fmt: skip


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
