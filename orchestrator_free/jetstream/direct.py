"""Direct Get: reads that any replica answers, many messages to a request."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from orchestrator_free.errors import BrokerTimeout
from orchestrator_free.jetstream.messages import Batch, Message
from orchestrator_free.jetstream.wire import Disconnected, Wire

#: answers under way at once: the broker cuts a connection for which more than its `max_pending` waits
_READS: Final = 16


class DirectGet:
    """Direct Get requests over one connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reads = asyncio.Semaphore(_READS)

    async def __call__(
        self, stream: str, body: dict[str, Any], deadline: float = 20.0
    ) -> tuple[list[Message], int, bytes]:
        """One request; return (messages, status, status header)."""
        async with self._reads:
            return await self._ask(stream, body, deadline)

    async def _ask(self, stream: str, body: dict[str, Any], deadline: float) -> tuple[list[Message], int, bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        subject, payload = f"$JS.API.DIRECT.GET.{stream}", orjson.dumps(body)
        while True:
            batch = Batch()
            reply, release = self._wire.inbox(batch.take, (subject, batch.done))
            try:
                self._wire.send(subject, payload, reply=reply)
                async with asyncio.timeout(5.0):
                    status, header = await batch.done
                if status != 503:
                    return batch.messages, status, header
            except (TimeoutError, Disconnected):
                pass
            finally:
                release()
            if loop.time() >= end:
                raise BrokerTimeout(f"no answer to a read of {stream} within {deadline:g} s")
            await asyncio.sleep(0.1)
