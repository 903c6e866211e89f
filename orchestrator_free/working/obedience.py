"""An agent's side of controls: it does what it is told, and says in the log what became of it.

Two ways lead here. A live subscription brings a control at once to the replica that does the run. A durable consumer,
shared by all replicas, brings it again until it has a final outcome, whoever died in between: of controls for runs that
are over, that never were, whose deadline has passed, or whose replica is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, Conflict, InvalidEvent
from orchestrator_free.events import Event, encode
from orchestrator_free.jetstream import Delivery, PullConsumer
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Session
from orchestrator_free.session.control import FINAL_OUTCOMES
from orchestrator_free.subjects import ALL, LIVE, ROOT, address, run_id
from orchestrator_free.vocabulary import validate

_log = logs.logger("orchestrator_free.agent")

#: a control whose run is at work elsewhere is looked at again after this
_AGAIN_SECONDS: Final = 1.0
_ENDING: Final = frozenset({"cancel", "redirect"})


@dataclass(eq=False)
class ActiveRun:
    """A run that this process does.

    Attributes:
        since: sequence of its input; controls before it were for other runs.
        stop: the control that ends it, once there is one.
        going: cleared while it is paused.
        steers: what the handler has not looked at yet.
        heard: steers that have come, so that one that comes again is not taken twice.
    """

    owner: Obedience
    session: str
    run: str
    since: int
    task: asyncio.Task[None] | None = None
    stop: Event | None = None
    going: asyncio.Event = field(default_factory=asyncio.Event)
    steers: deque[Event] = field(default_factory=deque)
    heard: set[str] = field(default_factory=set)
    _on_end: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.going.set()

    async def take_steers(self) -> list[Event]:
        """Hand over what the handler has not looked at yet; that it has looked is said in the log."""
        taken = []
        while self.steers:
            taken.append(self.steers.popleft())
            await self.owner.say(taken[-1], "applied", runs=[self.run])
        return taken

    def steer(self, control: Event) -> None:
        """Keep a steer until the handler looks."""
        key = f"{control.member}/{control.id}"
        if key not in self.heard:
            self.heard.add(key)
            self.steers.append(control)

    def on_end(self, call: Callable[[], None] | None) -> None:
        """Have something called when a control ends the run before it has begun, at once if one has."""
        self._on_end = call
        if call is not None and self.stop is not None:
            call()

    def end(self, control: Event) -> None:
        """Stop the handler; its clean-up runs."""
        if self.stop is None:
            self.stop = control
            self.going.set()
            if self._on_end is not None:
                self._on_end()
            if self.task is not None:
                self.task.cancel()


class Obedience:
    """What one process of an agent owes to controls."""

    def __init__(self, broker: Broker, agent: str) -> None:
        self._broker = broker
        self._agent = agent
        self._log = broker.log
        self._active: dict[tuple[str, str], ActiveRun] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsubscribe: list[Callable[[], None]] = []

    # -- the runs of this process -------------------------------------------------------------------------------

    def enter(self, session: str, run: str, since: int) -> ActiveRun:
        """Note a run that begins here, for the input at a sequence."""
        active = self._active[session, run] = ActiveRun(self, session, run, since)
        return active

    async def leave(self, active: ActiveRun) -> None:
        """Forget a run that has ended, and settle what it did not look at."""
        self._active.pop((active.session, active.run), None)
        while active.steers:
            await self.say(active.steers.popleft(), "too_late", "the run ended first", [active.run])

    async def standing(self, session: Session, run: str, since: int) -> Event | None:
        """Return a control that ended a run before it began: it is in the log after the run's input."""
        for message in await self._log.table(session.shard, f"{ROOT}.{session.shard}.{session.id}.*.ctl.>"):
            event = to_event(message)
            if event is None or event.type not in _ENDING or event.sequence < since:
                continue
            meant = event.address.target in (self._agent, ALL) and event.body.get("run") in (None, run)
            if meant and _is_valid(event) and await self._state(event) not in ("rejected", "too_late", "expired"):
                return event
        return None

    # -- live ---------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear controls at once."""
        for shard in range(self._log.shards):
            for target in (self._agent, ALL):
                subject = f"{LIVE}{ROOT}.{shard}.*.*.ctl.{target}.*"
                self._unsubscribe.append(self._log.wire.subscribe(subject, self._on_live))

    def close(self) -> None:
        """Hear nothing more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for task in self._tasks:
            task.cancel()

    def _on_live(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        message = live_message(subject, payload, header)
        event = to_event(message) if message is not None else None
        if event is not None and _is_valid(event) and self._meant(event):
            task = asyncio.create_task(self._obey_safely(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _meant(self, control: Event) -> list[ActiveRun]:
        """Return the runs of this process that a control is for."""
        run = control.body.get("run")
        return [
            active
            for active in self._active.values()
            if active.session == control.session and run in (None, active.run)
        ]

    async def _obey_safely(self, control: Event) -> None:
        try:
            await self._obey(control)
        except BrokerError as error:
            _log.warning("control not settled here, it will come again", control=control.id, error=str(error))

    async def _obey(self, control: Event) -> None:
        """Do at once what can be done at once; ending a run says `applied` when it has ended."""
        if _is_expired(control):
            await self.say(control, "expired", "the deadline had passed")
            return
        runs = self._meant(control)
        names = [active.run for active in runs]
        if control.type in _ENDING:
            for active in runs:
                active.end(control)
            await self.say(control, "accepted", runs=names)
            return
        await self.say(control, "accepted", runs=names)
        for active in runs:
            match control.type:
                case "steer":
                    active.steer(control)
                case "pause":
                    active.going.clear()
                case "resume":
                    active.going.set()
        if control.type != "steer":
            await self.say(control, "applied", runs=names)

    # -- outcomes -----------------------------------------------------------------------------------------------

    def _outcome_subject(self, control: Event) -> str:
        return str(address(control.address.shard, control.session, self._agent, "outcome", id=control.id))

    async def _state(self, control: Event) -> str | None:
        last = await self._log.last(control.address.shard, self._outcome_subject(control))
        event = to_event(last) if last is not None else None
        return None if event is None else str(event.body.get("state"))

    async def say(self, control: Event, state: str, reason: str = "", runs: list[str] | None = None) -> bool:
        """Write an outcome; False if there is a final one already: the first end counts."""
        subject = self._outcome_subject(control)
        body = encode({"type": "outcome", "state": state, "reason": reason, "runs": runs or []})
        for _ in range(5):
            last = await self._log.last(control.address.shard, subject)
            event = to_event(last) if last is not None else None
            before = None if event is None else event.body.get("state")
            if before in FINAL_OUTCOMES or before == state:
                return False
            try:
                await self._log.wire.publish(subject, body, expect=last.sequence if last else 0)
            except Conflict:
                continue
            return True
        return False

    async def ended(self, control: Event, run: str) -> None:
        """A control has ended a run here: pass it on to the run's children, and say so."""
        session = self._broker.session(control.session)
        if control.type == "cancel" and control.body.get("children", True):
            await self._end_children(control, session, run)
        if control.type == "redirect":
            await self._begin_instead(control, session, run)
        await self.say(control, "applied", runs=[run])

    async def _end_children(self, control: Event, session: Session, run: str) -> None:
        """Cancel what the run delegated; each child's agent does the same for its own."""
        sent = await self._log.table(session.shard, f"{ROOT}.{session.shard}.{session.id}.{self._agent}.in.>")
        for message in sent:
            event = to_event(message)
            parent = None if event is None else event.body.get("parent")
            if event is None or not isinstance(parent, dict) or parent.get("run") != run:
                continue
            child = run_id(self._agent, event.id)
            body = {"type": "cancel", "run": child, "children": True, "reason": f"with run {run}"}
            await session.append_once("ctl", event.address.target, derived(control.id, child), body)

    async def _begin_instead(self, control: Event, session: Session, run: str) -> None:
        body = {"type": "input", "text": control.body["text"], "redirects": {"agent": self._agent, "run": run}}
        if control.body.get("data") is not None:
            body["data"] = control.body["data"]
        await session.append_once("in", self._agent, derived(control.id, run), body)

    # -- whatever was missed ------------------------------------------------------------------------------------

    def consumers(self) -> list[PullConsumer]:
        """Return the durable consumers that bring controls again, one per shard."""
        shards = range(self._log.shards)
        configs = [contract.control_consumer(shard, self._agent) for shard in shards]
        wire = self._log.wire
        return [
            PullConsumer(wire, contract.stream_name(shard), config, places=8)
            for shard, config in zip(shards, configs, strict=True)
        ]

    async def settle(self, consumer: PullConsumer) -> None:
        """See to it that every control gets a final outcome."""
        async for delivery in consumer:
            try:
                if await self._is_settled(delivery):
                    await delivery.ack()
                else:
                    delivery.again(delay_seconds=_AGAIN_SECONDS)
            except BrokerError as error:
                _log.warning("control not settled, it will come again", agent=self._agent, error=str(error))

    async def _is_settled(self, delivery: Delivery) -> bool:
        control = to_event(delivery.message)
        if control is None or not _is_valid(control):
            return True
        state = await self._state(control)
        if state in FINAL_OUTCOMES:
            return True
        if self._meant(control):
            if delivery.attempt > 1:
                await self._obey(control)  # the live copy was lost
            return False
        if state is None and _is_expired(control):
            return await self.say(control, "expired", "the deadline had passed") or True
        return await self._judge(control)

    async def _judge(self, control: Event) -> bool:
        """Settle a control that no run of this process is meant by; False to look again later."""
        session = self._broker.session(control.session)
        owed = await self._owed(session, control)
        if owed is None:
            if control.address.target != ALL:
                await self.say(control, "rejected", f"no run {control.body.get('run')!r} of {self._agent} here")
            elif await self._is_nobodys(session, control):
                await self.say(control, "rejected", f"no run {control.body.get('run')!r} in this session")
            return True
        if owed:
            return False  # at work elsewhere, or about to begin: the one who does it obeys
        if control.address.target != ALL:
            await self.say(control, "too_late", "nothing was running any more")
        return True

    async def _owed(self, session: Session, control: Event) -> bool | None:
        """Whether runs that the control is for are open or waiting; None if there never was one."""
        prefix = f"{ROOT}.{session.shard}.{session.id}"
        ends = {}
        for message in await self._log.table(session.shard, f"{prefix}.{self._agent}.run.*"):
            event = to_event(message)
            if event is not None:
                ends[event.id] = event.type == "run.finished"
        for target in (self._agent, ALL):
            for message in await self._log.table(session.shard, f"{prefix}.*.in.{target}.*"):
                event = to_event(message)
                if event is not None and not event.body.get("replayed") and event.sequence < control.sequence:
                    ends.setdefault(run_id(event.member, event.id), False)
        run = control.body.get("run")
        if run is not None:
            return None if run not in ends else not ends[run]
        return any(not ended for ended in ends.values())

    async def _is_nobodys(self, session: Session, control: Event) -> bool:
        """Whether no agent was ever asked for a run; said by those only who have something to do with the session."""
        prefix = f"{ROOT}.{session.shard}.{session.id}"
        concerned, runs = self._agent in (await session.meta())["agents"], set()
        for message in await self._log.table(session.shard, f"{prefix}.*.in.>"):
            event = to_event(message)
            if event is not None and event.sequence < control.sequence:
                concerned = concerned or event.address.target == self._agent
                runs.add(run_id(event.member, event.id))
        return concerned and control.body.get("run") not in runs


def _is_valid(event: Event) -> bool:
    try:
        validate("ctl", event.body)
    except InvalidEvent:
        return False
    return event.type in ("cancel", "steer", "redirect", "pause", "resume")


def _is_expired(control: Event) -> bool:
    deadline = control.body.get("deadline")
    if deadline is None:
        return False
    try:
        return datetime.fromisoformat(deadline) < datetime.now(UTC)
    except (ValueError, TypeError):
        return True


def derived(control: str, run: str) -> str:
    """Return an id for what follows from a control, so that doing it twice does it once."""
    return hashlib.sha256(f"{control}.{run}".encode()).hexdigest()[:24]
