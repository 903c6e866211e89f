"""Durable Streams: the stream of their own that they stand in, made when the first of them is, and its subjects."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from orchestrator_free.contract.streams import differences
from orchestrator_free.subjects import LIVE

#: `ds.<shard>.record.<path>`, `ds.<shard>.data.<id>.<writer>`, `ds.<shard>.expiry.<id>`
DURABLE_ROOT: Final = "ds"
#: one shard so far; its token stands in every subject, because subjects cannot change later
DURABLE_SHARD: Final = 0
DURABLE_STREAM: Final = f"DURABLE_STREAMS_{DURABLE_SHARD}"
_PREFIX: Final = f"{DURABLE_ROOT}.{DURABLE_SHARD}"
_STRUCTURE: Final = (
    "subjects", "retention", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_atomic", "republish",
    "deny_purge", "deny_delete",
)  # fmt: skip


def durable_stream(replicas: int) -> dict[str, Any]:
    """Return the definition of the stream; its sequences are the offsets of all durable streams in it."""
    return {
        "name": DURABLE_STREAM,
        "description": "orchestrator-free: Durable Streams (HTTP protocol)",
        "subjects": [f"{_PREFIX}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_consumers": 1000,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "deny_purge": False,
        "deny_delete": False,
        "republish": {"src": f"{_PREFIX}.>", "dest": f"{LIVE}{_PREFIX}.>"},
    }


def durable_differences(found: dict[str, Any]) -> list[str]:
    """Compare the stream that is there with its definition; return a line for each field that differs."""
    return differences(durable_stream(1), found, _STRUCTURE)


def _token(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def record_subject(path: str) -> str:
    """Return the subject of a stream's record."""
    return f"{_PREFIX}.record.{_token(path, 32)}"


def data_subject(id: str, producer: str | None) -> str:
    """Return the subject of what a producer, or somebody who is none, appends to a stream."""
    return f"{_PREFIX}.data.{id}.{'_' if producer is None else _token(producer, 24)}"


def data_filter(id: str) -> str:
    """Return the filter of everything that was appended to a stream."""
    return f"{_PREFIX}.data.{id}.>"


def expiry_subject(id: str) -> str:
    """Return the subject that says when a stream expires."""
    return f"{_PREFIX}.expiry.{id}"


def expiry_filter() -> str:
    """Return the filter of all those."""
    return f"{_PREFIX}.expiry.*"
