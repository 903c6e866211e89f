"""All that one installation keeps at the broker: each stream once, in the order in which a backup takes them."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free.contract.durable import DURABLE_STREAM, durable_stream
from orchestrator_free.contract.streams import (
    ACCESS_BUCKET,
    AUDIT,
    PRESENCE_BUCKET,
    StreamSettings,
    access_stream,
    audit_stream,
    object_stream,
    presence_stream,
    stream_config,
    timer_stream,
)

#: streams that are made when somebody needs them first
OPTIONAL: Final = frozenset({AUDIT, DURABLE_STREAM, f"KV_{ACCESS_BUCKET}"})
#: streams that no backup holds, each with why nothing is lost by that
TRANSIENT: Final = {
    f"KV_{PRESENCE_BUCKET}": "in memory; an entry lives for seconds, and who is there writes it again within them"
}


def installation(settings: StreamSettings) -> dict[str, dict[str, Any]]:
    """Return the definition of every stream there can be, by its name.

    An event names objects and timers that were stored before it, so what is taken after the log has all that the log
    refers to.
    """
    log = [stream_config(shard, settings) for shard in range(settings.shards or 1)]
    beside = [durable_stream(settings.replicas or 1), timer_stream(settings), object_stream(settings)]
    found = [*log, *beside, access_stream(settings), audit_stream(settings), presence_stream()]
    return {config["name"]: config for config in found}


def lasting_streams(shards: int) -> list[str]:
    """Return the names of the streams that a backup holds, in the order in which it takes them."""
    return [name for name in installation(StreamSettings(shards=shards)) if name not in TRANSIENT]
