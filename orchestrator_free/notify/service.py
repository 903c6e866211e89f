"""The notifier: a durable consumer per shard over all sessions, and a webhook for what people should hear of.

Any number of instances share the consumer by name. What was not told is delivered again, by the broker: after a pause
when a try failed, after `ack_wait` when an instance died. So an event is told at least once, under one id.

It reads late, by `settle_seconds`. The output of a run has the subject of its end, so a consumer cannot leave it out;
but the end replaces the output in the log, and who reads late finds only the end (docs/decisions.md has the figures).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.deadletters import message_id, write_notice
from orchestrator_free.errors import BrokerError, InvalidEvent, InvalidInput
from orchestrator_free.events import Body, encode
from orchestrator_free.jetstream import Delivery, Message, PullConsumer
from orchestrator_free.notify.facts import Facts
from orchestrator_free.notify.rules import (
    DEFAULT_EVENTS,
    EVENTS,
    check_events,
    may_matter,
    pause_before,
    told_of,
)
from orchestrator_free.notify.webhook import Answer, Webhook, WebhookGone
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import Position, parse
from orchestrator_free.vocabulary import validate

_log = logs.logger("orchestrator_free.notify")
#: deliveries that wait here, asked for before they are old enough: what the broker hands out early
_PLACES: Final = 64
_RENEW_SECONDS: Final = contract.SERVICE_ACK_WAIT_SECONDS / 3
_LONGEST_SETTLE: Final = contract.SERVICE_ACK_WAIT_SECONDS * 2 / 3
#: events that wait here for a free place; the broker keeps the others
_BACKLOG: Final = 256
#: for webhooks that are under way when the notifier is stopped
_GRACE_SECONDS: Final = 5.0
#: after the broker could not be asked; longer each time
_BROKER_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class NotifierSettings:
    """What is told, and how hard it is tried.

    Attributes:
        events: which of `EVENTS`.
        always: also while somebody is watching.
        settle_seconds: events are looked at when they are so old: until then a run's end may replace its output, a
            person may come back, an ask may be answered. At most 20.
        tries: after so many an event is given up and stands in its session as a notice.
        first_pause_seconds: after the first try; four times longer each time, up to an hour.
        link: an address for people, in which `{session}` is replaced.
        at_once: webhooks under way at the same time.
    """

    events: frozenset[str] = frozenset(DEFAULT_EVENTS)
    always: bool = False
    settle_seconds: float = 10.0
    tries: int = 8
    first_pause_seconds: float = 5.0
    link: str | None = None
    at_once: int = 8

    def __post_init__(self) -> None:
        check_events(self.events)
        if not 0 <= self.settle_seconds <= _LONGEST_SETTLE:
            raise InvalidInput(f"settle_seconds must be 0 to {_LONGEST_SETTLE:g}, not {self.settle_seconds:g}")
        if self.tries < 1 or self.at_once < 1 or self.first_pause_seconds <= 0:
            raise InvalidInput("tries and at_once must be at least 1, first_pause_seconds above 0")


class NotifyMetrics:
    """What a notifier counts; the names in Prometheus begin with `orchestrator_free_notify_`.

    Attributes:
        sent: webhooks taken by the receiver, by event.
        unsent: events not told, by reason: `watched` or `over`.
        failures: tries that failed.
        dead_letters: events given up.
        read: events looked at, the output of runs included.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "orchestrator_free_notify_"
        self.sent = Counter(f"{name}sent", "Webhooks taken by the receiver.", ["event"], registry=registry)
        self.unsent = Counter(
            f"{name}unsent", "Events not told: somebody was watching, or it was over.", ["reason"], registry=registry
        )
        self.failures = Counter(f"{name}failures", "Tries that failed.", registry=registry)
        self.dead_letters = Counter(f"{name}dead_letters", "Events given up.", registry=registry)
        self.read = Counter(f"{name}events_read", "Events read, output of runs included.", registry=registry)


@dataclass(slots=True)
class _Task:
    """One event that is to be told.

    Attributes:
        message: the event.
        position: where it stands.
        told: as what.
        before: tries before this delivery: of a notice, those that had failed. again: somebody asked for it.
    """

    message: Message
    position: Position
    told: str
    before: int = 0
    again: bool = False

    @property
    def id(self) -> str:
        """The id under which the receiver hears of it."""
        return message_id(self.position)

    @property
    def session(self) -> str:
        """Where it is."""
        return self.message.subject.split(".")[2]


class Notifier:
    """Tells one webhook of all sessions: `await Notifier(broker, webhook).run()`, until cancelled."""

    def __init__(
        self,
        broker: Broker,
        webhook: Webhook,
        settings: NotifierSettings | None = None,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Prepare.

        Args:
            broker: a connection as the notifier's own name, which instances share; needs the role `notifier`.
            webhook: where to.
            settings: what, and how hard.
            registry: where to count.
        """
        self.settings = settings or NotifierSettings()
        self.metrics = NotifyMetrics(registry or CollectorRegistry())
        self._broker = broker
        self._log = broker.log
        self._webhook = webhook
        self._facts = Facts(broker, link=self.settings.link)
        self._places = asyncio.Semaphore(self.settings.at_once)
        self._backlog = asyncio.Semaphore(_BACKLOG)
        self._at_work: set[Delivery] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: asyncio.Future[None]
        self._stopping = False

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Tell, until cancelled.

        Args:
            ready: called once what happens from now on will be told.

        Raises:
            WebhookGone: the receiver wants nothing any more; what it was not told waits for the next start.
        """
        self._gone = asyncio.get_running_loop().create_future()
        consumers = [await self._consumer(shard) for shard in range(self._log.shards)]
        try:
            for consumer in consumers:
                await consumer.open()
            ready()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(consumers))
                group.create_task(_raise(self._gone))
                for consumer in consumers:
                    group.create_task(self._pump(consumer))
        except BaseExceptionGroup as found:
            raise found.exceptions[0] from None
        finally:
            for consumer in consumers:
                consumer.close()
            await self._finish()

    async def _finish(self) -> None:
        """Let what is being told be told, for a moment; give back the rest."""
        self._stopping = True
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_GRACE_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            for delivery in self._at_work:
                delivery.again()

    async def _keep(self, consumers: list[PullConsumer]) -> None:
        """Tell the broker of everything that is here that it is being dealt with."""
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            for consumer in consumers:
                consumer.in_progress()
            for delivery in self._at_work:
                delivery.in_progress()

    async def _consumer(self, shard: int) -> PullConsumer:
        start = (await self._log.info(shard))["ts"]  # the broker's own clock: a new consumer begins exactly now
        kinds = {EVENTS[name] for name in self.settings.events}
        config = contract.notifier_consumer(shard, self._broker.member, kinds, start)
        return PullConsumer(self._log.wire, contract.stream_name(shard), config, places=_PLACES)

    async def _pump(self, consumer: PullConsumer) -> None:
        """Take deliveries in order, each when it is old enough; what is to be told is told beside each other."""
        async for delivery in consumer:
            self._at_work.add(delivery)
            await self._settle(delivery)
            self.metrics.read.inc()
            task = self._task_of(delivery.message)
            if task is None:
                delivery.ack_soon()
                self._at_work.discard(delivery)
                continue
            await self._backlog.acquire()
            handling = asyncio.create_task(self._handle(delivery, task))
            self._tasks.add(handling)
            handling.add_done_callback(self._tasks.discard)

    async def _settle(self, delivery: Delivery) -> None:
        """Wait until an event is old enough; one that comes again has been."""
        if delivery.attempt > 1 or not self.settings.settle_seconds:
            return
        stored = datetime.fromisoformat(delivery.message.time)
        try:
            age = (await self._log.clock() - stored).total_seconds()
        except BrokerError:
            age = 0.0
        if age < self.settings.settle_seconds:
            await asyncio.sleep(min(self.settings.settle_seconds - age, self.settings.settle_seconds))

    def _task_of(self, message: Message) -> _Task | None:
        """Return what is to be told of a message, None for nothing."""
        where = parse(message.subject)
        if (
            where is None
            or where.shard != self._log.shard(where.session)
            or not may_matter(where.kind, message.payload)
        ):
            return None
        event = to_event(message)
        try:
            if event is None:
                return None
            validate(event.kind, event.body)
        except InvalidEvent:
            return None
        if event.kind == "notice":
            return self._retry_of(message, event.body) if event.type == "notification.retry" else None
        told = told_of(event)
        if told is None or told not in self.settings.events:
            return None
        return _Task(message, Position(self._log.epoch(where.shard), message.sequence), told)

    @staticmethod
    def _retry_of(message: Message, body: Body) -> _Task | None:
        """Return the task that a notice asks for."""
        try:
            position = Position.parse(body["position"])
        except InvalidInput:
            return None
        return _Task(message, position, body["about"], body["tries"], again=True)

    # -- one event ----------------------------------------------------------------------------------------------

    async def _handle(self, delivery: Delivery, task: _Task) -> None:
        """Deal with one delivery; whatever goes wrong with the broker, it comes again."""
        pause = pause_before(delivery.attempt, first_seconds=_BROKER_PAUSE_SECONDS)
        try:
            async with self._places:
                if self._stopping:
                    return  # given back
                await self._tell(delivery, task)
        except WebhookGone as gone:
            if not self._gone.done():
                self._gone.set_exception(gone)
            return  # given back
        except BrokerError as error:
            _log.warning("cannot ask the broker, trying again", session=task.session, error=str(error))
            delivery.again(delay_seconds=pause)
        except Exception:
            _log.exception("an event cannot be told", session=task.session, position=str(task.position))
            delivery.again(delay_seconds=pause)
        self._at_work.discard(delivery)
        self._backlog.release()

    async def _tell(self, delivery: Delivery, task: _Task) -> None:
        source = task.message if not task.again else await self._facts.original(task.message, task.position)
        if source is None:
            await self._give_up(delivery, task, task.before, "the event is not in the log any more")
            return
        if not task.again and (reason := await self._why_not(source, task.told)):
            self.metrics.unsent.labels(reason).inc()
            await delivery.ack()
            return
        body = await self._facts.body(source, task.told, task.position)
        if body is None:
            await delivery.ack()
            return
        answer = await self._webhook.send(task.id, encode(body))
        await self._settled(delivery, task, answer)

    async def _why_not(self, message: Message, told: str) -> str:
        """Return why an event need not be told, or not any more; empty if it has to be."""
        if not await self._facts.still_so(message, told):
            return "over"
        where = parse(message.subject)
        if where is not None and not self.settings.always and await self._facts.is_watched(where.session):
            return "watched"
        return ""

    async def _settled(self, delivery: Delivery, task: _Task, answer: Answer) -> None:
        """Do what the answer to a try demands: done, again after a pause, or given up."""
        if answer.ok:
            self.metrics.sent.labels(task.told).inc()
            if task.again:
                tries = task.before + delivery.attempt
                await write_notice(self._broker, task.message, "delivered", task.told, task.position, tries)
            await delivery.ack()
            _log.info("told", about=task.told, session=task.session, id=task.id)
            return
        self.metrics.failures.inc()
        if answer.final or delivery.attempt >= self.settings.tries:
            await self._give_up(delivery, task, task.before + delivery.attempt, answer.error)
            return
        pause = pause_before(
            delivery.attempt, first_seconds=self.settings.first_pause_seconds, retry_after=answer.retry_after
        )
        _log.warning(
            "not told, trying again", about=task.told, session=task.session, id=task.id, tries=delivery.attempt,
            seconds=round(pause, 1), error=answer.error,
        )  # fmt: skip
        delivery.again(delay_seconds=pause)

    async def _give_up(self, delivery: Delivery, task: _Task, tries: int, error: str) -> None:
        """Write down that an event was not told, where everybody sees it."""
        await write_notice(self._broker, task.message, "failed", task.told, task.position, max(1, tries), error)
        self.metrics.dead_letters.inc()
        await delivery.ack()
        _log.error("given up", about=task.told, session=task.session, id=task.id, tries=tries, error=error)


async def _raise(trouble: asyncio.Future[None]) -> None:
    """Wait for trouble, which ends everything."""
    await trouble
