"""Let an agent take nothing new: paused by name until it is resumed, or drained, process by process, for good.

The pause is the broker's own, on the consumer that hands out the agent's inputs: it holds for every replica in every
language, also for those that start later, survives restarts of all, and costs nothing. An event asks to be obeyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Event
from orchestrator_free.jetstream import ConsumerState
from orchestrator_free.lag import Replica, living_replicas
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ROOT, check_name, input_filters, run_id

#: the broker wants a time; people resume
_FOREVER: Final = "2100-01-01T00:00:00Z"
_RENEW_SECONDS: Final = 1.0
_PAGE: Final = 256


@dataclass(frozen=True, slots=True)
class Standing:
    """How an agent stands.

    Attributes:
        waiting: inputs that no replica was given yet. in_work: given to one, not done. replicas: living processes.
    """

    agent: str
    paused: bool
    waiting: int
    in_work: int
    replicas: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


async def standing(broker: Broker, agent: str) -> Standing:
    """Return how an agent stands.

    Raises:
        InvalidInput: no agent of this name has ever connected.
    """
    states = await _states(broker, agent)
    replicas = sum(replica.agent == agent for replica in await living_replicas(broker.log))
    waiting, in_work = sum(one.pending for one in states), sum(one.unacknowledged for one in states)
    return Standing(agent, all(one.paused for one in states), waiting, in_work, replicas)


async def _states(broker: Broker, agent: str) -> list[ConsumerState]:
    name = contract.agent_consumer_name(check_name("agent", agent))
    found = [state for n in range(broker.log.shards) if (state := await broker.log.consumer(n, name)) is not None]
    if not found:
        raise InvalidInput(f"no agent {agent!r} has ever connected here, so there is nothing to pause, resume or drain")
    return found


async def pause(broker: Broker, agent: str, *, hold_runs: bool = False) -> Standing:
    """Let an agent take no new inputs; they wait in the log. What it has taken goes on, unless it is held.

    Args:
        broker: a connection of an operator.
        agent: its name.
        hold_runs: also give each of its open runs the control `pause`; `resume` takes these back.

    Raises:
        InvalidInput: no agent of this name has ever connected.
    """
    await _set(broker, agent, {"pause_until": _FOREVER})
    if hold_runs:
        async for event in open_inputs(broker, agent):
            await broker.session(event.session).control.pause(to=agent, run=run_id(event.member, event.id))
    return await standing(broker, agent)


async def resume(broker: Broker, agent: str) -> Standing:
    """Let an agent take inputs again, and go on with runs that are held."""
    await _set(broker, agent, {})
    async for event in open_inputs(broker, agent):
        session, run = broker.session(event.session), run_id(event.member, event.id)
        if any(one["run"] == run and one["type"] == "pause" for one in (await session.view(whole=False))["controls"]):
            await session.control.resume(to=agent, run=run)
    return await standing(broker, agent)


async def _set(broker: Broker, agent: str, body: dict[str, Any]) -> None:
    await _states(broker, agent)
    name = contract.agent_consumer_name(agent)
    for shard in range(broker.log.shards):
        if await broker.log.consumer(shard, name) is not None:
            await broker.log.wire.api(f"CONSUMER.PAUSE.{contract.stream_name(shard)}.{name}", body)


async def open_inputs(broker: Broker, agent: str) -> AsyncIterator[Event]:
    """Yield the inputs that replicas of an agent were given and have begun a run for that has not ended."""
    log = broker.log
    for shard in range(log.shards):
        state = await log.consumer(shard, contract.agent_consumer_name(agent))
        for subject in input_filters(shard, agent) if state is not None and state.unacknowledged else ():
            after, more = state.floor if state is not None else 0, True
            while more and state is not None and after < state.reached:
                messages, more = await log.page(shard, subject, after=after, limit=_PAGE)
                for message in messages:
                    after = message.sequence
                    event = to_event(message) if message.sequence <= state.reached else None
                    if event is not None and await _is_open(broker, agent, event):
                        yield event


async def _is_open(broker: Broker, agent: str, event: Event) -> bool:
    run = run_id(event.member, event.id)
    shard = event.address.shard
    last = await broker.log.last(shard, f"{ROOT}.{shard}.{event.session}.{agent}.run.{run}")
    found = to_event(last) if last is not None else None
    return found is not None and found.type != "run.finished"


async def drain(broker: Broker, agent: str, *, replica: str | None = None) -> AsyncIterator[list[Replica]]:
    """Let the processes of an agent, or one of them, take nothing new, finish, and end.

    Yields those that still live, until none does; those that start meanwhile drain as well. Ended early, the processes
    that have heard of it drain all the same.

    Args:
        broker: a connection of an operator.
        agent: its name.
        replica: the process's instance, as its presence says; None for all of them.

    Raises:
        InvalidInput: there is no such process.
    """
    key = f"{contract.DRAIN}.{check_name('agent', agent)}.{check_name('replica', replica or 'all')}"
    first = True
    while True:
        living = [
            one for one in await living_replicas(broker.log)
            if one.agent == agent and replica in (None, one.key.rpartition(".")[2])
        ]  # fmt: skip
        if first and not living:
            raise InvalidInput(f"no process of agent {agent!r} is alive" + (f" as {replica!r}" if replica else ""))
        first = False
        yield living
        if not living:
            return
        await broker.log.announce(key, orjson.dumps({"by": broker.member}))
        await asyncio.sleep(_RENEW_SECONDS)
