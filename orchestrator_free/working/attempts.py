"""Attempts: one replica begins a run, calls the handler, and ends the run; the broker refuses all others meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, TypedDict

from orchestrator_free import contract, logs, tracing
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, Conflict, InvalidInput, OrchestratorFreeError, RunFenced
from orchestrator_free.events import Body, Event
from orchestrator_free.fold import RunFold
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Session
from orchestrator_free.subjects import Address, address, run_id
from orchestrator_free.vocabulary.messages import Overlap
from orchestrator_free.working.obedience import ActiveRun, Obedience
from orchestrator_free.working.overlap import GO, Ruling
from orchestrator_free.working.run import Run, RunError, RunInput, safe_message
from orchestrator_free.working.runwriter import RunWriter
from orchestrator_free.working.stats import AgentStats

_log = logs.logger("orchestrator_free.agent")

_LEAST: Final = {"concurrency": 1, "max_attempts": 1, "ack_wait_seconds": 1, "grace_seconds": 0, "stall_seconds": 0}

#: what depends on where a process runs rather than on what the agent does: who deploys it may say otherwise
DEPLOYED: Final = {
    "concurrency": "ORCHESTRATOR_FREE_CONCURRENCY",
    "grace_seconds": "ORCHESTRATOR_FREE_GRACE_SECONDS",
}

Handler = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """How an agent works.

    Attributes:
        concurrency: runs at once in one process, at least one per shard.
        max_attempts: after so many attempts that ended without a result the run is `failed`.
        ack_wait_seconds: a replica silent for this long loses its run to another.
        grace_seconds: on SIGTERM, how long runs may go on before they are given to another replica.
        stall_seconds: a run that writes nothing for so long is shown as stalled; 0 for never.
        overlap: what becomes of an input that comes while the agent is at work in its session.
        overlap_override: whether an input may say otherwise; if not, what it says is ignored.
        shy: inputs to everybody are for it only while it has the floor: for people at a desk.
    """

    concurrency: int = 16
    max_attempts: int = 3
    ack_wait_seconds: float = contract.ACK_WAIT_SECONDS
    grace_seconds: float = 10.0
    stall_seconds: float = 30.0
    overlap: Overlap = "concurrent"
    overlap_override: bool = False
    shy: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise InvalidInput(f"{name}={value}: expected {least} or more")


def deployed(settings: AgentSettings, environment: Mapping[str, str] = os.environ) -> AgentSettings:
    """Return an agent's settings as the environment of its process has them (`DEPLOYED`).

    Raises:
        InvalidInput: a variable is no number, or too small.
    """
    said: dict[str, Any] = {}
    for name, variable in DEPLOYED.items():
        if not (text := environment.get(variable)):
            continue
        try:
            said[name] = int(text) if name == "concurrency" else float(text)
        except ValueError as error:
            raise InvalidInput(f"{variable}={text[:20]!r}: expected a number") from error
        if not _LEAST[name] <= said[name] < math.inf:
            raise InvalidInput(f"{variable}={text[:20]!r}: expected {_LEAST[name]} or more")
    return replace(settings, **said)


class AgentOptions(TypedDict, total=False):
    """`AgentSettings` as keyword arguments of `Agent`."""

    concurrency: int
    max_attempts: int
    ack_wait_seconds: float
    grace_seconds: float
    stall_seconds: float
    overlap: Overlap
    overlap_override: bool
    shy: bool


class Attempts:
    """The attempts that one process does."""

    def __init__(
        self, name: str, settings: AgentSettings, handler: Handler, broker: Broker, obedience: Obedience, instance: str
    ) -> None:
        self._name = name
        self._settings = settings
        self._handler = handler
        self._broker = broker
        self._wire = broker.log.wire
        self._instance = instance
        self._open: dict[str, tuple[RunWriter, ActiveRun]] = {}
        self.stats = AgentStats()
        self.obedience = obedience

    async def attempt(
        self, where: Address, body: Body, active: ActiveRun, ruling: Ruling = GO, *, trace: str = "", **how: Any
    ) -> bool:
        """Do one attempt, in the trace that came with its input; see `_attempt` for the rest."""
        if tracing.tracer is None:
            return await self._attempt(where, body, active, ruling, **how)
        with tracing.tracer.attempt(trace, where.session, self._name, run_id(where.member, where.id)):
            return await self._attempt(where, body, active, ruling, **how)

    async def _attempt(
        self, where: Address, body: Body, active: ActiveRun, ruling: Ruling, *, problem: str = "", fresh: bool
    ) -> bool:
        """Do one attempt; return whether the input is dealt with.

        Args:
            where: the input's address.
            body: its payload.
            active: its run, as controls know it.
            ruling: what the rules of overlap say.
            problem: why it cannot be read, empty if it can.
            fresh: whether nobody can have begun it.
        """
        source = _source(where, body)
        begun = await self._begin(where, source, fresh=fresh)
        if begun is False:
            return False
        if begun is True:  # the replica that ended it may have died before it could withdraw what the run had asked
            await self._broker.session(where.session).asks.end_run(run_id(where.member, where.id), sure=True)
            return True
        begun_at = perf_counter()
        writer, spent = begun
        self.stats.attempts += 1
        if tracing.tracer is not None:
            tracing.tracer.begun(writer.fold.attempt)
        session = self._broker.session(where.session)
        compact = (await session.meta())["compaction"] != "off"
        stop = await self.obedience.standing(session, writer.fold.run, active.since)
        status: str
        error: str | None
        if stop is not None:
            active.end(stop)
            ruling = Ruling("cancelled")
        if ruling.status is not None:
            status, error = ruling.status, ruling.reason
        elif problem:
            status, error = "failed", f"the input cannot be read: {problem}"
        elif spent:
            attempts = self._settings.max_attempts
            status, error = "failed", f"gave up after {attempts} attempts without a result"
        else:
            run = Run(session, writer, source, self._broker.objects, active)
            status, error = await self._handle(run, writer, active)
        ended = await self._end(writer, status, error, session, active, into=ruling.into, compact=compact)
        if ended:
            self.stats.finished(status, perf_counter() - begun_at)
            if tracing.tracer is not None:
                tracing.tracer.ended(status)
        return ended

    async def _end(
        self, writer: RunWriter, status: str, error: str | None, session: Session, active: ActiveRun, *,
        into: Any, compact: bool,
    ) -> bool:  # fmt: skip
        """Write the run's end; return whether it is there."""
        if writer.fenced:
            return False
        run = writer.fold.run
        if active.stop is not None and status == "cancelled":
            await writer.drained()
            await self._forget_after(writer, session, active.stop)
            error = active.stop.body.get("reason") or None
        try:
            await writer.finish(status, error, self._broker.objects, session.id, into=into, compact=compact)
        except RunFenced as fenced:
            _log.warning("run taken over", agent=self._name, run=run, reason=str(fenced))
            return False
        await session.asks.end_run(run, sure=writer.fold.attempt > 1)
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
        kept.whisper = whole.whisper
        kept.first, kept.started = kept.first or whole.first, kept.started or whole.started
        writer.fold = kept

    async def _begin(self, where: Address, source: RunInput, *, fresh: bool) -> tuple[RunWriter, bool] | bool:
        """Begin the next attempt.

        Returns:
            The writer, and whether the attempts are used up. Else whether the run is finished: if not, another replica
            has just begun it, or is writing, so it is left to that one; should it die, the broker delivers again.
        """
        run = run_id(where.member, where.id)
        subject = str(address(where.shard, where.session, self._name, "run", id=run))
        fold, last = RunFold(self._name, run), 0
        if not fresh:
            fold, last = await self._earlier(where.shard, subject, run)
            if not fold.open:
                return True
        writer = RunWriter(self._wire, subject, fold, last=last)
        attempt = fold.attempt + 1
        asked = perf_counter()
        try:
            about = f"{where.member}/{where.id}"
            await writer.start(attempt, about, source.parent, self._instance, whisper=source.whisper)
        except Conflict:
            fold, _ = await self._earlier(where.shard, subject, run)
            return not fold.open
        if perf_counter() - asked > self._settings.ack_wait_seconds / 2:
            # So late an answer may be older than another replica's attempt: a handler is not called in vain.
            newest = await self._broker.log.last(where.shard, subject)
            if newest is None or newest.sequence != writer.last:
                return False
        if attempt > 1:
            _log.warning("run taken over", agent=self._name, run=run, attempt=attempt)
        return writer, attempt > self._settings.max_attempts

    async def _earlier(self, shard: int, subject: str, run: str, *, before: int = 0) -> tuple[RunFold, int]:
        """Return what the log has of the run (before a sequence), and its last sequence."""
        fold, last = RunFold(self._name, run), 0
        for message in await self._broker.log.read_all(shard, subject):
            last = message.sequence
            event = to_event(message)
            if event is not None and (not before or event.sequence < before):
                fold.apply(event.body, event.sequence, event.time)
                if tracing.tracer is not None and not before and event.type == "run.started":
                    tracing.tracer.earlier(message.trace)
        return fold, last

    async def _handle(self, run: Run, writer: RunWriter, active: ActiveRun) -> tuple[str, str | None]:
        """Call the handler in a task of its own, which a control can cancel; return status and error."""
        if active.stop is not None:
            return "cancelled", None
        writer.begin()
        self.stats.active += 1
        active.task = asyncio.create_task(self._call(run), name=f"run {run.id}")
        self._open[run.id] = (writer, active)
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
            self._open.pop(run.id, None)
            if writer.first_write is not None and writer.begun is not None:
                self.stats.first_token.observe(writer.first_write - writer.begun)
        # A handler that swallowed its cancellation is stopped all the same: nobody was shown what it said after it.
        return ("cancelled" if active.stop is not None else "done"), None

    async def _call(self, run: Run) -> None:
        handling = self._handler(run)
        if not inspect.isawaitable(handling):
            raise RunError("the agent's handler is no coroutine: define it with `async def`")
        await handling

    def told(self) -> dict[str, Any]:
        """Return what the process tells of itself: its counters, and how the runs at work stand now."""
        writers = [writer for writer, _ in self._open.values()]
        asking = [waits["since"] for writer in writers if (waits := writer.fold.waiting) is not None and waits["ask"]]
        seconds = (datetime.now(UTC) - datetime.fromisoformat(min(asking))).total_seconds() if asking else 0.0
        return {
            **self.stats.snapshot(),
            "stalled_now": sum(writer.stalled for writer in writers),
            "asking": {"runs": len(asking), "seconds": round(max(0.0, seconds), 3)},
        }

    async def watch(self) -> None:
        """Say of runs that write nothing for long that they are stalled; runs until cancelled."""
        limit = self._settings.stall_seconds
        while limit > 0:
            await asyncio.sleep(min(1.0, limit / 4))
            for writer, active in list(self._open.values()):
                quiet = perf_counter() - writer.last_write
                if quiet < limit or writer.stalled or writer.fold.waiting is not None or not active.going.is_set():
                    continue
                with contextlib.suppress(OrchestratorFreeError):
                    await writer.stall(round(quiet, 3))
                    self.stats.stalled += 1
                    _log.warning("run writes nothing", agent=self._name, run=active.run, seconds=round(quiet, 1))


def _source(where: Address, body: Body) -> RunInput:
    """Return what a run is to do."""
    return RunInput(
        where.id, where.member, body.get("text", ""), body.get("data"), body.get("parent"),
        body.get("redirects"), body.get("depth", 0), body.get("whisper", False),
    )  # fmt: skip
