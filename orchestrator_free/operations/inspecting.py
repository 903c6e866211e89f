"""Where is this input, and who has read what up to where: from the log and the broker, whoever is alive.

`stage_of` is the judgement; the rest reads what it needs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput, SessionNotFound
from orchestrator_free.events import Event
from orchestrator_free.jetstream import ConsumerState
from orchestrator_free.lag import living_replicas
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ALL, ROOT, run_id
from orchestrator_free.views.members import watchers_of

#: unknown agent: nobody of this name ever connected; stored: not given to a replica yet; taken: given to one, not yet
#: begun; skipped: acknowledged without a run, since it was not for this agent
Stage = Literal["unknown agent", "stored", "taken", "running", "finished", "skipped"]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """How far one agent is with one input.

    Attributes:
        stage: see `Stage`.
        run: the run's id. attempt, replica, alive: of the attempt at work, or the last one, and whether it lives.
        status: how the run ended.
        behind: inputs of this session that this agent was given before and has not ended.
        ahead_at_broker: inputs of all sessions that wait for this agent.
        paused: it takes no new inputs, since an operator said so.
    """

    agent: str
    stage: Stage
    run: str
    attempt: int
    replica: str
    alive: bool | None
    status: str | None
    time: str | None
    behind: list[str]
    ahead_at_broker: int
    paused: bool


def stage_of(sequence: int, state: ConsumerState | None, run: list[Event]) -> Stage:
    """Judge how far an input is.

    Args:
        sequence: of the input.
        state: of the agent's consumer, None if there is none.
        run: the events of the run that answers it, as far as the log has them.
    """
    if run:
        return "finished" if run[-1].type == "run.finished" else "running"
    if state is None:
        return "unknown agent"
    if sequence <= state.floor:
        return "skipped"
    return "taken" if sequence <= state.reached else "stored"


async def inspect(broker: Broker, session: str, input: str | None = None) -> dict[str, Any]:
    """Return what is known of a session, or of one input in it, and of who reads it.

    `{"session", "position", "messages", "last", "inputs": [{"input", "from", "to", "position", "time", "agents":
    [Whereabouts]}], "readers": {"durables", "services", "devices"}}`; positions say where a reader stands.

    Raises:
        SessionNotFound: the log holds nothing of it, and nobody reads it.
        InvalidInput: there is no such input.
    """
    target = broker.session(session)
    log, shard = broker.log, target.shard
    last = await log.last(shard, target.filter)
    states = await log.consumers(shard)
    readers = await _readers(broker, session, states)
    if last is None and not readers["durables"]:
        raise SessionNotFound(session)
    events = [
        event for one in await log.read_all(shard, f"{ROOT}.{shard}.{session}.*.in.*.*") if (event := to_event(one))
    ]
    chosen = [event for event in events if input is None or input in (event.id, f"{event.member}/{event.id}")]
    if input is not None and not chosen:
        raise InvalidInput(f"session {session!r} has no input {input[:200]!r}")
    look = _Look(broker, session, events, {state.name: state for state in states})
    await look.open()
    info = await log.info(shard, subjects=target.filter)
    return {
        "session": session,
        "position": str(target.position(last.sequence if last else 0)),
        "messages": sum(info["state"]["subjects"].values()),
        "last": last.time if last else None,
        "inputs": [await look.about(event) for event in chosen],
        "readers": readers,
    }


class _Look:
    """What is asked of every input of a session."""

    def __init__(self, broker: Broker, session: str, inputs: list[Event], states: dict[str, ConsumerState]) -> None:
        self._broker = broker
        self._session = broker.session(session)
        self._inputs = inputs
        self._states = states
        self._agents: list[str] = []
        self._alive: set[str] = set()

    async def open(self) -> None:
        named = (await self._session.meta())["agents"]
        self._alive = {one.key.rpartition(".")[2] for one in await living_replicas(self._broker.log)}
        prefix = contract.agent_consumer_name("")
        self._agents = named or [name.removeprefix(prefix) for name in self._states if name.startswith(prefix)]

    async def about(self, event: Event) -> dict[str, Any]:
        target = event.address.target
        agents = self._agents if target == ALL else [target]
        return {
            "input": event.id, "from": event.member, "to": target,
            "position": str(self._session.position(event.sequence)), "time": event.time,
            "aside": bool(event.body.get("note") or event.body.get("replayed")),
            "agents": [asdict(await self._whereabouts(event, agent)) for agent in agents],
        }  # fmt: skip

    async def _run(self, agent: str, event: Event) -> list[Event]:
        shard, session = self._session.shard, self._session.id
        subject = f"{ROOT}.{shard}.{session}.{agent}.run.{run_id(event.member, event.id)}"
        return [found for one in await self._broker.log.read_all(shard, subject) if (found := to_event(one))]

    async def _whereabouts(self, event: Event, agent: str) -> Whereabouts:
        state = self._states.get(contract.agent_consumer_name(agent))
        run = await self._run(agent, event)
        stage = stage_of(event.sequence, state, run)
        begun = next((one for one in reversed(run) if one.type == "run.started"), None)
        end = run[-1] if stage == "finished" else None
        replica = str(begun.body.get("replica", "")) if begun is not None else ""
        return Whereabouts(
            agent, stage, run_id(event.member, event.id),
            int((end or begun).body.get("attempt") or 0) if end or begun else 0,  # type: ignore[union-attr]
            replica, replica in self._alive if replica and stage == "running" else None,
            str(end.body.get("status")) if end else None, end.time if end else begun.time if begun else None,
            await self._behind(event, agent) if stage in ("taken", "stored") else [],
            state.pending if state is not None else 0, state is not None and state.paused,
        )  # fmt: skip

    async def _behind(self, event: Event, agent: str) -> list[str]:
        """Return the inputs before this one that the agent has not ended."""
        found = []
        state = self._states.get(contract.agent_consumer_name(agent))
        for other in self._inputs:
            mine = other.address.target in (agent, ALL) and other.sequence < event.sequence
            if mine and stage_of(other.sequence, state, await self._run(agent, other)) not in ("finished", "skipped"):
                found.append(f"{other.member}/{other.id}")
        return found


async def _readers(broker: Broker, session: str, states: list[ConsumerState]) -> dict[str, Any]:
    target = broker.session(session)
    durable, service = f"session={session}=", contract.service_consumer_name("")

    def shown(state: ConsumerState, prefix: str) -> dict[str, Any]:
        return {
            "name": state.name.removeprefix(prefix), "position": str(target.position(state.floor)),
            "waiting": state.pending, "in_work": state.unacknowledged, "redelivered": state.redelivered,
        }  # fmt: skip

    devices = watchers_of(await broker.log.present(f"watch.{session}"))
    return {
        "durables": [shown(one, durable) for one in states if one.name.startswith(durable)],
        "services": [shown(one, service) for one in states if one.name.startswith(service)],
        "devices": [asdict(device) for device in devices],
    }
