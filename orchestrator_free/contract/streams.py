"""The streams: the shards of the log, timers, presence, objects; and how two definitions differ."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator_free.subjects import AT, AUDIT_ROOT, DUE, LIVE, ROOT

STRUCTURE: Final = (
    "subjects", "retention", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_atomic",
    "sources", "republish",
    "deny_purge", "deny_delete", "metadata.orchestrator_free.shards", "metadata.orchestrator_free.wire",
)  # fmt: skip
#: version of broker/PROTOCOL.md; a client refuses streams of another one
WIRE: Final = "1"
#: name of the stream of what the broker is to say later
TIMERS: Final = "SESSIONS_TIMERS"
#: name of the stream of who did what: append only, never part of a session
AUDIT: Final = "SESSIONS_AUDIT"
#: what erasure leaves behind: no name, a digest of one
TOMBSTONE_ROOT: Final = f"{AUDIT_ROOT}.tombstone"
PRESENCE_BUCKET: Final = "orchestrator_free_presence"
OBJECT_BUCKET: Final = "orchestrator_free_objects"
ACCESS_BUCKET: Final = "orchestrator_free_access"
PRESENCE_TTL_SECONDS: Final = 6
#: keys below it, written by operators, tell processes of agents to drain
DRAIN: Final = "drain"
_DUPLICATES_SECONDS: Final = 120
_ACCESS_BYTES: Final = 64 * 1024 * 1024
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What an operator chooses when the streams are created.

    Attributes:
        shards: number of streams the sessions are spread over; cannot change later. None: as many as there are, or 1.
        replicas: of every stream, 1, or 3 in a cluster. None: as many as the log has, or 1.
        max_age_seconds: events older than this are dropped, 0 keeps them.
        max_bytes: size of one shard's stream; beyond it publishing is refused, -1 for no limit.
        isolated: for members whose code is not trusted: no roll-ups, with which who may publish one event could drop
            those of all others; a steward compacts instead. None: as the log is, or not.
        audit_age_seconds: how long the audit log remembers; it should be longer than backups are kept.
        audit_bytes: size of the audit log; beyond it the oldest entries go.
        domain: the JetStream domain that they are made in; has to be said where the broker has one.
    """

    shards: int | None = None
    replicas: int | None = None
    max_age_seconds: int = 0
    max_bytes: int = -1
    isolated: bool | None = None
    audit_age_seconds: int = 400 * 86_400
    audit_bytes: int = 1024 * 1024 * 1024
    domain: str | None = None

    def beside(self, found: StreamSettings | None) -> StreamSettings:
        """Return these settings with what they leave open taken from an existing installation."""
        there = found or StreamSettings()
        isolated = there.isolated if self.isolated is None else self.isolated
        shards, replicas = self.shards or there.shards or 1, self.replicas or there.replicas or 1
        return replace(self, shards=shards, replicas=replicas, isolated=bool(isolated))


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
        "num_replicas": settings.replicas or 1,
        "max_age": settings.max_age_seconds * _SECOND,
        "max_bytes": settings.max_bytes,
        "max_msgs": -1,
        # A number: for -1 a broker as it comes takes 1,000, and that cannot be changed later.
        "max_consumers": 100_000,
        # The broker refuses a window that is longer than the age.
        "duplicate_window": min(_DUPLICATES_SECONDS, settings.max_age_seconds or _DUPLICATES_SECONDS) * _SECOND,
        "allow_direct": True,
        "allow_rollup_hdrs": not settings.isolated,
        # What is due carries a TTL for the stream it comes from; here nothing may vanish that was said.
        "allow_msg_ttl": False,
        "allow_atomic": True,
        # Schedules do not go with `discard: new`: they have a stream of their own, whose due messages come in here.
        "sources": [
            {"name": TIMERS, "subject_transforms": [{"src": f"{DUE}{ROOT}.{shard}.>", "dest": f"{ROOT}.{shard}.>"}]}
        ],
        "deny_purge": False,
        "deny_delete": False,
        # No subject_delete_marker_ttl: markers of expired inputs would come to agents as inputs.
        "republish": {"src": f"{ROOT}.{shard}.>", "dest": f"{LIVE}{ROOT}.{shard}.>"},
        "metadata": {"orchestrator_free.shards": str(settings.shards or 1), "orchestrator_free.wire": WIRE},
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
        # Who may write its own entry must not drop the others, or let its own outlive it.
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "allow_msg_ttl": False,
        "duplicate_window": PRESENCE_TTL_SECONDS * _SECOND,
    }


def timer_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream of what the broker is to say later: lapses, expiries, escalations."""
    return {
        "name": TIMERS,
        "description": "orchestrator-free: what the broker is to say later",
        "subjects": [f"{AT}{ROOT}.>", f"{DUE}{ROOT}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "num_replicas": settings.replicas or 1,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
    }


def object_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream behind the object bucket, as the clients of NATS lay it out."""
    return {
        "name": f"OBJ_{OBJECT_BUCKET}",
        "description": "orchestrator-free: files and large runs",
        "subjects": [f"$O.{OBJECT_BUCKET}.C.>", f"$O.{OBJECT_BUCKET}.M.>"],
        "storage": "file",
        "num_replicas": settings.replicas or 1,
        "max_age": settings.max_age_seconds * _SECOND,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": not settings.isolated,
    }


def audit_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream of the audit log; who may write to it cannot take anything back."""
    return {
        "name": AUDIT,
        "description": "orchestrator-free: who did what",
        "subjects": [f"{AUDIT_ROOT}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "num_replicas": settings.replicas or 1,
        "max_age": settings.audit_age_seconds * _SECOND,
        "max_bytes": settings.audit_bytes,
        "max_msg_size": 8192,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "deny_purge": True,
    }


def access_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream behind the bucket of the gateways' identity: tickets, which vanish, and what is revoked."""
    return {
        "name": f"KV_{ACCESS_BUCKET}",
        "description": "orchestrator-free: tickets, and tokens that count no more",
        "subjects": [f"$KV.{ACCESS_BUCKET}.>"],
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": settings.replicas or 1,
        "discard": "new",
        "max_bytes": _ACCESS_BYTES,
        "max_msg_size": 16384,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
    }


def tombstone(kind: str, name: str) -> str:
    """Return the subject that says that a session or a member was erased, without its name."""
    return f"{TOMBSTONE_ROOT}.{kind}.{hashlib.sha256(f'{kind}/{name}'.encode()).hexdigest()}"


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
    if head == "sources":
        return [source["name"] for source in value or []]
    if rest:
        return (value or {}).get(rest)
    return value
