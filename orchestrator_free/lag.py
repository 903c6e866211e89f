"""How far agents and durable subscriptions are behind: one survey of the broker, for people and for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.jetstream import ConsumerState, Log
from orchestrator_free.views.members import PAUSED

_AGENT: Final = contract.agent_consumer_name("")
#: messages read per shard to tell ages; consumers beyond it, those furthest ahead, count as 0 seconds behind
_AGES: Final = 200
_AGES_AT_ONCE: Final = 16
_FILTERS: Final = 16


@dataclass(frozen=True, slots=True)
class Lag:
    """What one durable consumer owes; subscriptions of one name to many sessions count as one.

    Attributes:
        stream: the stream it reads.
        consumer: its name; of a subscription to a session the durable's own name, without the session.
        agent: whose inputs it delivers, empty for a subscription.
        durables: how many are counted here.
        waiting: messages not delivered yet.
        in_work: delivered, not acknowledged.
        redelivered: of those, delivered more than once.
        floor: everything up to this sequence is acknowledged; the lowest of those counted here.
        seconds_behind: age of the oldest message that is not acknowledged, 0 if there is none.
        seconds_waiting: of an agent, age of the oldest input that is not delivered yet, 0 if there is none.
        paused: an operator lets the agent take no new inputs.
    """

    stream: str
    consumer: str
    agent: str
    durables: int
    waiting: int
    in_work: int
    redelivered: int
    floor: int
    seconds_behind: float
    seconds_waiting: float = 0.0
    paused: bool = False

    def __add__(self, other: Lag) -> Lag:
        return Lag(
            self.stream, self.consumer, self.agent, self.durables + other.durables, self.waiting + other.waiting,
            self.in_work + other.in_work, self.redelivered + other.redelivered, min(self.floor, other.floor),
            max(self.seconds_behind, other.seconds_behind), max(self.seconds_waiting, other.seconds_waiting),
            self.paused or other.paused,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replica:
    """A living process of an agent, as its presence entry tells.

    Attributes:
        key: tells it from every other process.
        about: what it says of itself; nothing in it is sure to be there.
    """

    agent: str
    key: str
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LagRow:
    """A line of the table that people see: one consumer over all shards.

    Attributes:
        consumer: `agent-<name>` for an agent, the durable's name for a subscription.
        waiting: not delivered yet. in_work: delivered, not acknowledged. redelivered: of those, more than once.
        seconds_behind: age of the oldest that is not acknowledged.
        replicas: living processes of the agent; None for a subscription, whose readers are not known.
        paused: an operator lets the agent take no new inputs.
    """

    consumer: str
    waiting: int
    in_work: int
    redelivered: int
    seconds_behind: float
    replicas: int | None
    paused: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the columns in order, as JSON values."""
        return asdict(self)


async def lag_table(broker: Broker) -> list[LagRow]:
    """Return how far every agent and every subscription is behind, the worst first."""
    replicas = await living_replicas(broker.log)
    found: dict[str, Lag] = {}
    for lag in await survey(broker.log):
        found[lag.consumer] = found[lag.consumer] + lag if lag.consumer in found else lag
    rows = [
        LagRow(
            lag.consumer, lag.waiting, lag.in_work, lag.redelivered, round(lag.seconds_behind, 3),
            sum(replica.agent == lag.agent for replica in replicas) if lag.agent else None, lag.paused,
        )
        for lag in found.values()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row.seconds_behind, row.consumer))


async def living_replicas(log: Log) -> list[Replica]:
    """Return every process of an agent that was heard of within the presence bucket's TTL."""
    found = []
    for key, payload in await log.present("agent"):
        if key.endswith(f".{PAUSED}"):
            continue  # no process, but a word on all of them
        try:
            about = orjson.loads(payload)
        except orjson.JSONDecodeError:
            about = None
        found.append(Replica(key.split(".")[1], key, about if isinstance(about, dict) else {}))
    return found


async def survey(log: Log, shards: Iterable[int] | None = None) -> list[Lag]:
    """Return what every durable consumer owes, one entry per stream and name; of all shards, or of these."""
    found: dict[tuple[str, str], Lag] = {}
    for shard in range(log.shards) if shards is None else shards:
        stream = contract.stream_name(shard)
        states = await log.consumers(shard)
        ages = await _ages(log, shard, states)
        for state in states:
            name = _own_name(state.name)
            lag = Lag(
                stream, name, agent_of(state.name), 1, state.pending, state.unacknowledged, state.redelivered,
                state.floor, *ages.get(state.name, (0.0, 0.0)), state.paused,
            )  # fmt: skip
            found[stream, name] = found[stream, name] + lag if (stream, name) in found else lag
    return list(found.values())


def agent_of(consumer: str) -> str:
    """Return the agent whose inputs a consumer delivers, empty if it is none of an agent."""
    return consumer.removeprefix(_AGENT) if consumer.startswith(_AGENT) else ""


def _own_name(consumer: str) -> str:
    """Return a durable's name without the session it reads."""
    kind, _, rest = consumer.partition("=")
    return rest.partition("=")[2] if kind == "session" and "=" in rest else consumer


async def _ages(log: Log, shard: int, states: Iterable[ConsumerState]) -> dict[str, tuple[float, float]]:
    """Return seconds behind, and of agents seconds waiting, by consumer: agents first, then the lowest floors."""
    owing = sorted((state for state in states if state.outstanding), key=lambda s: (not agent_of(s.name), s.floor))
    gate = asyncio.Semaphore(_AGES_AT_ONCE)

    async def oldest(state: ConsumerState, after: int) -> float:
        reads = (log.page(shard, subject, after=after, limit=1) for subject in state.filters[:_FILTERS])
        times = [messages[0].time for messages, _ in await asyncio.gather(*reads) if messages]
        return max((seconds_between(time, state.time) for time in times), default=0.0)

    async def ages(state: ConsumerState) -> tuple[float, float]:
        async with gate:
            behind = await oldest(state, state.floor)
            if not state.pending or not agent_of(state.name):
                return behind, 0.0
            return behind, behind if state.reached <= state.floor else await oldest(state, state.reached)

    found = await asyncio.gather(*(ages(state) for state in owing[:_AGES]))
    return {state.name: seconds for state, seconds in zip(owing[:_AGES], found, strict=True)}


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds between two times of the broker, at least 0."""
    return max(0.0, (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds())
