"""Durable subscriptions: the broker keeps their position, what is not acknowledged is delivered again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Any, Literal

from orchestrator_free import contract
from orchestrator_free.events import Event
from orchestrator_free.jetstream import Delivery as RawDelivery
from orchestrator_free.jetstream import PullConsumer
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ROOT, Position, check_name

Start = Literal["beginning", "new"] | Position | datetime


class Delivery:
    """An event of a durable subscription.

    Attributes:
        event: the event.
        attempt: how often it was delivered, this time included.
        pending: events that wait behind it.
    """

    __slots__ = ("_raw", "attempt", "event", "pending")

    def __init__(self, raw: RawDelivery, event: Event) -> None:
        self._raw = raw
        self.event = event
        self.attempt = raw.attempt
        self.pending = raw.pending

    async def ack(self) -> None:
        """Done: the subscription's position moves on.

        After a broker that was killed it may come once more all the same: handle events by their sequence.
        """
        await self._raw.ack()

    def again(self, *, delay_seconds: float = 0.0) -> None:
        """Give it back, to be delivered again."""
        self._raw.again(delay_seconds=delay_seconds)


async def deliveries(consumer: PullConsumer) -> AsyncIterator[Delivery]:
    """Yield what a consumer delivers, as events."""
    async for raw in consumer:
        event = to_event(raw.message)
        if event is None:
            await raw.ack()  # not one of ours: nobody could handle it
        else:
            yield Delivery(raw, event)


def durable_config(
    shard: int,
    session: str,
    durable: str,
    start: Start,
    *,
    agents: Collection[str] | None,
    kinds: Collection[str] | None,
    ack_wait_seconds: float,
) -> dict[str, Any]:
    """Return the consumer of a session's durable subscription.

    Raises:
        InvalidName: the name of the subscription or of a filter.
    """
    check_name("durable", durable)
    for name in (*(agents or ()), *(kinds or ())):
        check_name("filter", name)
    filters = [
        f"{ROOT}.{shard}.{session}.{member}.{kind}"
        for member in (agents or ["*"])
        for kind in ([f"{kind}.>" for kind in kinds] + list(kinds) if kinds else [">"])
    ]
    config: dict[str, Any] = {
        "durable_name": contract.session_consumer_name(session, durable),
        "filter_subjects": filters,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_seconds * 1e9),
        "replay_policy": "instant",
        "max_ack_pending": 10_000,
    }
    match start:
        case "beginning":
            config["deliver_policy"] = "all"
        case "new":
            config["deliver_policy"] = "new"
        case Position():
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start.sequence + 1}
        case datetime():
            config |= {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone(UTC).isoformat()}
    return config
