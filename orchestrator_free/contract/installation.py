"""All that one installation keeps at the broker."""

from __future__ import annotations

from typing import Final

from orchestrator_free.contract.durable import DURABLE_STREAM
from orchestrator_free.contract.streams import ACCESS_BUCKET, AUDIT, OBJECT_BUCKET, TIMERS, stream_name

#: streams that are made when somebody needs them first
OPTIONAL: Final = frozenset({AUDIT, DURABLE_STREAM, f"KV_{ACCESS_BUCKET}"})


def lasting_streams(shards: int) -> list[str]:
    """Return the names of the streams that a backup holds, in the order in which it takes them.

    An event names objects and timers that were stored before it, so what is taken after the log has all that the log
    refers to. Presence is not among them: it lives for seconds.
    """
    log = [stream_name(shard) for shard in range(shards)]
    return [*log, DURABLE_STREAM, TIMERS, f"OBJ_{OBJECT_BUCKET}", f"KV_{ACCESS_BUCKET}", AUDIT]
