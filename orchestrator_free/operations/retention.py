"""Retention: sessions in which nothing has happened for long are deleted whole, a few at a time.

An age of the streams would cut sessions in the middle, and purging blocks publishing: so whole sessions go, slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.errors import SessionNotFound
from orchestrator_free.subjects import ROOT, session_filter

#: how runs end
_ENDED: Final = frozenset({"done", "error", "cancelled", "failed", "rejected"})


@dataclass(frozen=True, slots=True)
class Old:
    """A session in which nothing has happened for long.

    Attributes:
        last: time of its last event, RFC 3339. at_rest: nothing is open or waiting in it.
        deleted: it is gone now.
    """

    session: str
    last: str
    at_rest: bool
    deleted: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


async def retain(
    broker: Broker, older_than: timedelta, *, closed: bool = False, dry_run: bool = False, per_second: float = 5.0
) -> AsyncIterator[Old]:
    """Delete sessions whose last event is older; yield each, also what is left alone because something is open there.

    Args:
        broker: a connection of an operator.
        older_than: by the broker's clock.
        closed: only those at rest: no run is open, no input waits, no ask is open.
        dry_run: delete nothing.
        per_second: so many deletions at most.
    """
    limit = await broker.log.clock() - older_than
    for shard in range(broker.log.shards):
        for session in await session_names(broker, shard):
            last = await broker.log.last(shard, session_filter(shard, session))
            if last is None or datetime.fromisoformat(last.time) >= limit:
                continue
            at_rest = await _is_at_rest(broker, session)
            gone = not dry_run and (at_rest or not closed)
            if gone:
                await _delete(broker, session)
            yield Old(session, last.time, at_rest, gone)
            if gone:
                await asyncio.sleep(1 / per_second)


async def session_names(broker: Broker, shard: int) -> list[str]:
    """Return the sessions of which a shard holds anything, by name."""
    info = await broker.log.info(shard, subjects=f"{ROOT}.{shard}.>")
    return sorted({subject.split(".")[2] for subject in info["state"]["subjects"]})


async def _is_at_rest(broker: Broker, session: str) -> bool:
    try:
        view = await broker.session(session).view(whole=False)
    except SessionNotFound:
        return True
    runs = (run for agent in view["agents"] for run in agent["runs"])
    open_runs = any(run["status"] not in _ENDED for run in runs)
    return not (open_runs or view["queue"] or any(ask["status"] == "open" for ask in view["asks"]))


async def _delete(broker: Broker, session: str) -> None:
    try:
        await broker.session(session).delete()
    except SessionNotFound:
        shard = broker.log.shard(session)
        await broker.log.purge(shard, session_filter(shard, session))  # what stands there is no event


async def set_limits(broker: Broker, *, age_seconds: int | None = None, bytes_: int | None = None) -> dict[str, Any]:
    """Set how old and how large the log may become: the last line of defence; 0 age and -1 bytes for no limit.

    Beyond the age events go, in the middle of sessions; beyond the bytes (of each shard) inputs are refused.
    """
    changes: dict[str, Any] = {}
    if age_seconds is not None:
        changes |= {"max_age": age_seconds * 1_000_000_000}
    if bytes_ is not None:
        changes |= {"max_bytes": bytes_}
    for shard in range(broker.log.shards):
        config = (await broker.log.info(shard))["config"] | changes
        window = contract.stream_config(shard, contract.StreamSettings(max_age_seconds=age_seconds or 0))
        config |= {"duplicate_window": window["duplicate_window"]}
        await broker.log.wire.api(f"STREAM.UPDATE.{contract.stream_name(shard)}", config)
    return changes
