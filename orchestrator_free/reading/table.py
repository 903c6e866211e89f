"""A session's present state: the last message of every entity, and the deltas of those that are not whole yet."""

from __future__ import annotations

import asyncio
from typing import Final

from orchestrator_free.jetstream import Log, Message
from orchestrator_free.reading.entries import is_whole, read_under

_AT_ONCE: Final = 8


async def with_deltas(log: Log, shard: int, table: list[Message]) -> list[Message]:
    """Return the messages of a table, and the deltas of what is not whole yet, read a few requests at a time."""
    found = [message for message in table if is_whole(message)]
    partial = {read_under(message): message.sequence for message in table if not is_whole(message)}
    for start in range(0, len(partial), _AT_ONCE):
        some = list(partial.items())[start : start + _AT_ONCE]
        # Another replica may answer than the one that gave the table, and be behind it.
        reads = (log.read(shard, subject, reach=reach) for subject, reach in some)
        for messages in await asyncio.gather(*reads):
            found += messages
    return found
