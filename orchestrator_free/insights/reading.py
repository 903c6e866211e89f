"""Reading all sessions for a report: one after the other, a few at a time, none kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Final

from orchestrator_free.broker import Broker
from orchestrator_free.events import Event
from orchestrator_free.insights.facts import SessionFacts, facts_of, stamp
from orchestrator_free.insights.report import Report, Settings
from orchestrator_free.jetstream import Log
from orchestrator_free.reading.entries import is_whole, read_under, to_event
from orchestrator_free.subjects import parse, session_filter

#: sessions in memory at once
_AT_ONCE: Final = 8
#: names that are asked for their last word at once
_NAMES: Final = 1000


async def read_report(
    broker: Broker,
    settings: Settings | None = None,
    *,
    since: float = 0.0,
    agents: Collection[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read every session into a report.

    Args:
        broker: the connection; any role that may read.
        settings: what counts as what.
        since: only sessions that began at this time or later, seconds since 1970.
        agents: only sessions in which one of these has a run, and only their runs.
        progress: called with how many sessions were read, and how many there are.

    Raises:
        BrokerError: the log cannot be read.
    """
    report = Report(settings)
    sessions = await _names(broker.log, since)
    places, done = asyncio.Semaphore(_AT_ONCE), 0

    async def take(session: str) -> None:
        nonlocal done
        async with places:
            facts = facts_of(session, await events_of(broker.log, session))
        done += 1
        progress(done, len(sessions))
        if facts is not None and facts.began >= since and (chosen := _of_agents(facts, agents)) is not None:
            report.take(chosen)

    for some in _pieces(sessions, _AT_ONCE * 8):  # not all of them as tasks at once
        await asyncio.gather(*map(take, some))
    return report


async def events_of(log: Log, session: str) -> list[Event]:
    """Return what the log holds of a session, in order: each entity's present state, and all of what is not whole."""
    shard = log.shard(session)
    table = await log.table(shard, session_filter(shard, session))
    messages = [message for message in table if is_whole(message)]
    for subject in dict.fromkeys(read_under(message) for message in table if not is_whole(message)):
        messages += await log.read(shard, subject)
    found = (to_event(message) for message in sorted(messages, key=lambda message: message.sequence))
    return [event for event in found if event is not None]


async def _names(log: Log, since: float) -> list[str]:
    """Return the sessions whose meta was last written since then: those that began before, and not after, are among."""
    found: dict[str, None] = {}
    by_shard: dict[int, list[str]] = {}
    for subject, shard in (await log.names("meta")).items():
        by_shard.setdefault(shard, []).append(subject)
    for shard, subjects in by_shard.items():
        for some in _pieces(subjects, _NAMES):
            for message in await log.last_of(shard, some):
                where = parse(message.subject)
                if where is not None and stamp(message.time) >= since:
                    found[where.session] = None
    return list(found)


def _pieces(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _of_agents(facts: SessionFacts, agents: Collection[str] | None) -> SessionFacts | None:
    """Return the facts with only these agents' runs and controls; None if none of them has a run."""
    if agents is None:
        return facts
    runs = [run for run in facts.runs if run.agent in agents]
    if not runs:
        return None
    controls = [(agent, control) for agent, control in facts.controls if agent in agents]
    return SessionFacts(
        session=facts.session, began=facts.began, seconds=facts.seconds, forked=facts.forked, people=facts.people,
        runs=runs, controls=controls, hand_offs=facts.hand_offs, asks=facts.asks,
    )  # fmt: skip
