"""Temporal: an activity does a run. Temporal hands out the work, the session keeps what people see.

    @activity.defn
    async def answer(session: str, input: str) -> dict[str, Any]:
        return await temporal.work(broker, handle, session, input)

`broker` is the worker's connection, as the agent that answers; `handle` is written like any agent's handler. Whoever
sends the input starts the workflow, with `<sender>/<input>` as `input`. No `Agent` of that name may serve: it would
take the same inputs.

Temporal's attempt is the run's: when a worker dies its heartbeats end, Temporal gives the activity to another one, and
that one's attempt replaces in the session what the dead one had written; should it live after all, the broker refuses
its writes. A cancel in the session ends the activity's run; one in Temporal is a cancel in the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.adapters.translation import require
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidInput, RunFenced
from orchestrator_free.events import Event
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import address, run_id
from orchestrator_free.working.attempts import AgentSettings, Attempts, Handler
from orchestrator_free.working.obedience import Obedience

__all__ = ["work"]

EXTRA = "temporal"
#: Temporal's retry policy says how often; this only has to be more
_MAX_ATTEMPTS: Final = 1_000_000
_BEAT_SECONDS: Final = contract.PRESENCE_TTL_SECONDS / 3


async def work(broker: Broker, handler: Handler, session: str, input: str) -> dict[str, Any]:
    """Do one attempt of a run inside an activity; call it from nowhere else.

    Args:
        broker: connected as the agent that answers.
        handler: what to do, as of an `Agent`.
        session: whose.
        input: `<sender>/<input id>`, addressed to that agent.

    Returns:
        How the run ended: `{"run", "status", "attempt", "error"}`; an attempt of a run that has ended does nothing.

    Raises:
        InvalidInput: the session has no such input for this agent.
        RunFenced: another attempt owns the run.
        BrokerError: the broker failed; Temporal tries again.
    """
    activity = require("temporalio.activity", EXTRA)
    event = await _input(broker, session, input)
    run = run_id(event.member, event.id)
    obedience = Obedience(broker, broker.member)
    instance = f"{activity.info().workflow_id}-{secrets.token_hex(6)}"
    settings = AgentSettings(max_attempts=_MAX_ATTEMPTS)
    attempts = Attempts(broker.member, settings, handler, broker, obedience, instance)
    active = obedience.enter(session, run, event.sequence)
    try:
        async with _alive(broker, obedience, activity, {"session": session, "run": run}):
            task = asyncio.create_task(attempts.attempt(event.address, event.body, active, fresh=False))
            dealt = await _ended(broker, session, run, task, activity)
    finally:
        await obedience.leave(active)
    if not dealt:
        raise RunFenced(f"another attempt owns run {run} of {broker.member}")
    found = await broker.session(session).result(broker.member, run)
    return {name: found[name] for name in ("run", "status", "attempt", "error")}


async def _input(broker: Broker, session: str, input: str) -> Event:
    sender, _, id = input.partition("/")
    shard = broker.session(session).shard
    where = address(shard, session, sender, "in", target=broker.member, id=id)
    message = await broker.log.last(shard, str(where))
    event = to_event(message) if message is not None else None
    if event is None:
        raise InvalidInput(f"session {session!r} has no input {input!r} for {broker.member}; pass <sender>/<input id>")
    return event


async def _ended(broker: Broker, session: str, run: str, task: asyncio.Task[bool], activity: Any) -> bool:
    """Wait for an attempt; a cancel of the activity cancels the run, the end of its worker leaves it to another one."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.done():
            raise
        if activity.is_worker_shutdown():
            task.cancel()
        else:
            await broker.session(session).control.cancel(run, to=broker.member, reason="cancelled in Temporal")
        await asyncio.gather(task, return_exceptions=True)
        raise


@asynccontextmanager
async def _alive(broker: Broker, obedience: Obedience, activity: Any, about: dict[str, str]) -> AsyncIterator[None]:
    """Hear controls, and tell Temporal and the session's monitors that the run lives, as long as the block lasts."""
    key = f"agent.{broker.member}.{secrets.token_hex(6)}"
    told = {"agent": broker.member, "host": socket.gethostname(), "pid": os.getpid(), "runs": 1, "places": 1}
    timeout = activity.info().heartbeat_timeout
    every = min(_BEAT_SECONDS, timeout.total_seconds() / 3) if timeout else _BEAT_SECONDS

    async def beat() -> None:
        while True:
            activity.heartbeat(about)
            with contextlib.suppress(BrokerError):
                await broker.log.announce(key, orjson.dumps(told | {"instance": key.rpartition(".")[2]}))
            await asyncio.sleep(every)

    consumers = obedience.consumers()
    for consumer in consumers:
        await consumer.open()
    obedience.listen()
    tasks = [asyncio.create_task(beat()), *(asyncio.create_task(obedience.settle(one)) for one in consumers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for consumer in consumers:
            consumer.close()
        obedience.close()
        with contextlib.suppress(BrokerError):
            await broker.log.withdraw(key)
