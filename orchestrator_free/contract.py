"""The contract with the broker as data: streams, buckets, consumers and permissions. `broker/` is written from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free.subjects import LIVE, ROOT, input_filters

#: what must agree between every process and the broker; the rest of a stream's settings is the operator's
STRUCTURE: Final = (
    "subjects", "retention", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_atomic", "republish",
    "deny_purge", "deny_delete", "metadata.orchestrator_free.shards",
)  # fmt: skip
PRESENCE_BUCKET: Final = "orchestrator_free_presence"
OBJECT_BUCKET: Final = "orchestrator_free_objects"
PRESENCE_TTL_SECONDS: Final = 6
#: a run's input is delivered again when its process was silent for this long
ACK_WAIT_SECONDS: Final = 8
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What an operator chooses when the streams are created.

    Attributes:
        shards: number of streams the sessions are spread over; cannot change later.
        replicas: 1, or 3 in a cluster.
        max_age_seconds: events older than this are dropped, 0 keeps them.
        max_bytes: size of one shard's stream; beyond it publishing is refused, -1 for no limit.
    """

    shards: int = 1
    replicas: int = 1
    max_age_seconds: int = 0
    max_bytes: int = -1


def stream_name(shard: int) -> str:
    """Return the name of a shard's stream."""
    return f"SESSIONS_{shard}"


def stream_config(shard: int, settings: StreamSettings) -> dict[str, Any]:
    """Return the stream definition of a shard, as `nats stream add --config` takes it."""
    return {
        "name": stream_name(shard),
        "description": "orchestrator-free: the log of sessions",
        "subjects": [f"{ROOT}.{shard}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_age": settings.max_age_seconds * _SECOND,
        "max_bytes": settings.max_bytes,
        "max_msgs": -1,
        "max_consumers": -1,
        "duplicate_window": 120 * _SECOND,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "deny_purge": False,
        "deny_delete": False,
        "subject_delete_marker_ttl": _SECOND,
        "republish": {"src": f"{ROOT}.{shard}.>", "dest": f"{LIVE}{ROOT}.{shard}.>"},
        "metadata": {"orchestrator_free.shards": str(settings.shards)},
    }


def agent_consumer_name(agent: str) -> str:
    """Return the name of the durable consumer that all replicas of an agent share, in each shard."""
    return f"agent-{agent}"


def agent_consumer(shard: int, agent: str, *, ack_wait_seconds: float = ACK_WAIT_SECONDS) -> dict[str, Any]:
    """Return the consumer that delivers inputs to the replicas of an agent."""
    return {
        "durable_name": agent_consumer_name(agent),
        "description": f"inputs for agent {agent}",
        "filter_subjects": input_filters(shard, agent),
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_seconds * _SECOND),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 65536,
        "metadata": {"orchestrator_free.agent": agent},
    }


def presence_stream() -> dict[str, Any]:
    """Return the stream behind the presence bucket: in memory, entries live for a few seconds."""
    return {
        "name": f"KV_{PRESENCE_BUCKET}",
        "description": "orchestrator-free: who is there",
        "subjects": [f"$KV.{PRESENCE_BUCKET}.>"],
        "max_msgs_per_subject": 1,
        "max_age": PRESENCE_TTL_SECONDS * _SECOND,
        "storage": "memory",
        "num_replicas": 1,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
        "duplicate_window": PRESENCE_TTL_SECONDS * _SECOND,
    }


def differences(wanted: dict[str, Any], found: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    """Compare two definitions field by field; return a line for each that differs."""
    lines = []
    for name in fields:
        want, have = _pick(wanted, name), _pick(found, name)
        if (want or None) != (have or None):
            lines.append(f"{name}: wanted {want!r}, found {have!r}")
    return lines


def _pick(config: dict[str, Any], path: str) -> Any:
    head, _, rest = path.partition(".")
    value = config.get(head)
    if rest:
        return (value or {}).get(rest)
    return value
