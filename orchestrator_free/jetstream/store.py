"""One JetStream stream as a log and a table: its leader is asked, any replica read; writes have conditions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from orchestrator_free.errors import BrokerError, BrokerTimeout, ConfigMismatch
from orchestrator_free.jetstream.batch import Write, write
from orchestrator_free.jetstream.direct import DirectGet
from orchestrator_free.jetstream.messages import Message, field_of, live_message, stored_message
from orchestrator_free.jetstream.replies import NO_MESSAGE
from orchestrator_free.jetstream.wire import Wire
from orchestrator_free.subjects import LIVE

_NO_STREAM: Final = 10059
_NOTHING: Final = frozenset({NO_MESSAGE, _NO_STREAM})
#: of the 50 that the broker takes for one stream, from all who write
_BATCHES: Final = 12
_END_OF_BATCH: Final = 204
#: a replica that is behind its leader for longer than this is given up
_LAG_SECONDS: Final = 20.0


class Store:
    """A stream by its name, over one connection. What is asked of a stream that is not there finds nothing."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self._direct = DirectGet(wire)
        self._batches = asyncio.Semaphore(_BATCHES)

    async def ensure(self, config: dict[str, Any], differences: Callable[[dict[str, Any]], list[str]]) -> None:
        """Create the stream if it is missing; `differences` says what is wrong with one that is there.

        Raises:
            ConfigMismatch: it is there with another structure; nothing is overwritten.
        """
        found = await self.info()
        if found is None:
            with contextlib.suppress(BrokerError):  # somebody else was first: the next look tells, or why not
                found = await self.wire.api(f"STREAM.CREATE.{self.name}", config)
            found = found or await self.wire.api(f"STREAM.INFO.{self.name}")
        lines = differences(found["config"])
        if lines:
            raise ConfigMismatch(f"stream {self.name}", lines)

    async def info(self) -> dict[str, Any] | None:
        """Return STREAM.INFO; None if there is no stream."""
        return await self._api("STREAM.INFO")

    async def last(self, subject: str) -> Message | None:
        """Return the last message of a subject or filter, from the leader; None if there is none."""
        found = await self._api("STREAM.MSG.GET", {"last_by_subj": subject})
        return None if found is None else stored_message(found["message"])

    async def get(self, sequence: int) -> Message | None:
        """Return the message of a sequence, from the leader; None if there is none."""
        found = await self._api("STREAM.MSG.GET", {"seq": sequence})
        return None if found is None else stored_message(found["message"])

    async def page(self, subject: str, *, after: int, reach: int, size: int) -> tuple[list[Message], bool]:
        """Return about `size` bytes of a subject or filter after a sequence, and whether there is more.

        Args:
            subject: a subject or filter.
            after: only what is after this sequence.
            reach: a sequence of it that is known to be stored: a replica that does not get there is asked again.
            size: a message larger than this still comes, alone.

        Raises:
            BrokerTimeout: no replica gets that far.
        """
        if after >= reach:
            return [], False
        end = asyncio.get_running_loop().time() + _LAG_SECONDS
        body = {"seq": after + 1, "batch": 4096, "max_bytes": size, "next_by_subj": subject}
        while True:
            found, status, header = await self._direct(self.name, body)
            more = status == _END_OF_BATCH and field_of(header, b"Nats-Num-Pending") not in ("", "0")
            if more or (found and found[-1].sequence >= reach):
                return found, more
            if asyncio.get_running_loop().time() > end:
                raise BrokerTimeout(f"a replica of {self.name} stays behind the leader's {reach}")
            await asyncio.sleep(0.02)
            last = await self.last(subject)
            reach = min(reach, last.sequence if last else 0)  # what stood there may have been purged meanwhile
            if after >= reach:
                return [], False

    async def write(self, writes: Sequence[Write]) -> int:
        """Store messages, all or none; see `batch.write`."""
        if len(writes) == 1:
            return await write(self.wire, writes)
        async with self._batches:
            return await write(self.wire, writes)

    async def purge(self, subject: str, *, before: int = 0) -> None:
        """Drop the messages of a subject or filter, all or those before a sequence."""
        await self._api("STREAM.PURGE", {"filter": subject} | ({"seq": before} if before else {}))

    def hear(self, subject: str, handler: Callable[[Message], None]) -> Callable[[], None]:
        """Call `handler` with each message of a subject or filter as the broker republishes it; return what ends it."""

        def take(subject: str, reply: str, payload: bytes, header: bytes) -> None:
            message = live_message(subject, payload, header)
            if message is not None and not message.copied:
                handler(message)

        return self.wire.subscribe(f"{LIVE}{subject}", take)

    async def _api(self, call: str, body: Any = None) -> dict[str, Any] | None:
        try:
            return await self.wire.api(f"{call}.{self.name}", body)
        except BrokerError as error:
            if getattr(error, "code", 0) in _NOTHING:
                return None
            raise
