"""The durable consumers: of agents, their controls, subscriptions, services and notifiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orchestrator_free.subjects import ALL, KINDS, ROOT, check_name, input_filters

#: a run's input is delivered again when its process was silent for this long
ACK_WAIT_SECONDS: Final = 8
#: an event is delivered to a service again when it was not acknowledged for this long
SERVICE_ACK_WAIT_SECONDS: Final = 30
#: metadata of a consumer that was restored from a backup: when it was first made, RFC 3339
CREATED: Final = "orchestrator_free.created"
_SECOND: Final = 1_000_000_000


def agent_consumer_name(agent: str) -> str:
    """Return the name of the durable consumer that all replicas of an agent share, in each shard."""
    return f"agent-{agent}"


def agent_consumer(
    shard: int, agent: str, *, ack_wait_seconds: float = ACK_WAIT_SECONDS, sessions: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the consumer that delivers inputs to the replicas of an agent, of all sessions or of some."""
    return {
        "durable_name": agent_consumer_name(agent),
        "description": f"inputs for agent {agent}",
        "filter_subjects": [
            narrow for wide in input_filters(shard, agent) for narrow in _narrowed(wide, shard, sessions)
        ],
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_seconds * _SECOND),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 65536,
        "metadata": {"orchestrator_free.agent": agent},
    }


def control_consumer_name(agent: str) -> str:
    """Return the name of the durable consumer of an agent's controls, in each shard."""
    return f"control-{agent}"


def control_consumer(shard: int, agent: str, *, sessions: Iterable[str] = ()) -> dict[str, Any]:
    """Return the consumer that brings controls to the replicas of an agent until they have an outcome."""
    return {
        "durable_name": control_consumer_name(agent),
        "description": f"controls for agent {agent}",
        "filter_subjects": [
            narrow
            for target in (check_name("agent", agent), ALL)
            for narrow in _narrowed(f"{ROOT}.{shard}.*.*.ctl.{target}.*", shard, sessions)
        ],
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "new",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 4096,
        "metadata": {"orchestrator_free.controls": agent},
    }


def _narrowed(filter: str, shard: int, sessions: Iterable[str]) -> list[str]:
    """Return a filter of all sessions, or one for each of some."""
    wide = f"{ROOT}.{shard}.*."
    names = [check_name("session", session) for session in sessions] or ["*"]
    return [f"{ROOT}.{shard}.{name}.{filter.removeprefix(wide)}" for name in names]


def session_consumer_name(session: str, durable: str) -> str:
    """Return the name of a durable subscription to one session; `=` stands in no token, so no two can meet."""
    return f"session={session}={durable}"


def service_consumer_name(member: str) -> str:
    """Return the name of the durable consumer with which a service follows all sessions, in each shard."""
    return f"service-{member}"


def service_consumer(shard: int, member: str) -> dict[str, Any]:
    """Return the consumer with which a service follows every session of a shard from the beginning."""
    return {
        "durable_name": service_consumer_name(check_name("member", member)),
        "description": f"service {member}",
        "filter_subject": f"{ROOT}.{shard}.>",
        "ack_policy": "explicit",
        "ack_wait": SERVICE_ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 10_000,
    }


def notifier_consumer(shard: int, member: str, kinds: Iterable[str], start: str) -> dict[str, Any]:
    """Return the consumer with which a notifier hears of what it may have to tell people.

    Args:
        shard: which stream.
        member: the notifier's name; all its instances share the consumer.
        kinds: of entities.
        start: RFC 3339: where a new one begins.
    """
    own = f"{ROOT}.{shard}.*.{member}.notice.*"
    entities = (f"{ROOT}.{shard}.*.*.{'.'.join([kind, *('*' for _ in KINDS[kind])])}" for kind in sorted(set(kinds)))
    return {
        "durable_name": service_consumer_name(check_name("member", member)),
        "description": f"notifications of {member}",
        "filter_subjects": [*entities, own],
        "ack_policy": "explicit",
        "ack_wait": SERVICE_ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "by_start_time",
        "opt_start_time": start,
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 10_000,
    }
