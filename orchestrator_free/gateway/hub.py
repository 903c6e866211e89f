"""The sessions this gateway serves at the moment: opened once however many ask, dropped when nobody looks."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from orchestrator_free.gateway.channel import Channel
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.session import Broker

_log = structlog.get_logger("orchestrator_free.gateway")

#: a session without clients is kept warm for so long, for the tab that reloads
KEEP_SECONDS: Final = 30.0
#: bytes of frames of all sessions; beyond it those without clients go first
MEMORY_BYTES: Final = 512 * 1024 * 1024
HEARTBEAT_SECONDS: Final = 15.0
_SWEEP_SECONDS: Final = 2.5


class Hub:
    """The channels of a gateway."""

    def __init__(self, broker: Broker, metrics: GatewayMetrics) -> None:
        self.broker = broker
        self.metrics = metrics
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Task[Channel]] = {}

    async def channel(self, session: str) -> Channel:
        """Return the channel of a session, opened if it is not.

        Raises:
            SessionNotFound: the log holds nothing of it.
            BrokerError: it cannot be read now.
        """
        found = self._channels.get(session)
        if found is not None and not found.closed:
            return found
        task = self._opening.get(session)
        if task is None:
            task = self._opening[session] = asyncio.create_task(self._open(session), name=f"open {session}")
            task.add_done_callback(lambda _: self._opening.pop(session, None))
        return await asyncio.shield(task)

    async def _open(self, session: str) -> Channel:
        channel = Channel(self.broker.log, self.broker.objects, session, self.metrics)
        await channel.open()
        self.metrics.catch_up_events.observe(len(channel))
        self._channels[session] = channel
        return channel

    def hot(self, session: str) -> Channel | None:
        """Return the channel of a session if it is being served."""
        found = self._channels.get(session)
        return None if found is None or found.closed else found

    async def run(self) -> None:
        """Keep house until cancelled: heartbeats, stuck clients, sessions nobody looks at."""
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                beat = loop.time() >= next_beat
                if beat:
                    next_beat = loop.time() + HEARTBEAT_SECONDS
                self._sweep(beat=beat)
            except Exception:
                _log.exception("sweep failed")

    def _sweep(self, *, beat: bool) -> None:
        now = asyncio.get_running_loop().time()
        full = sum(channel.size for channel in self._channels.values()) > MEMORY_BYTES
        for session, channel in list(self._channels.items()):
            idle = channel.idle_since
            if channel.closed or (idle is not None and (full or now - idle > KEEP_SECONDS)):
                channel.close()
                del self._channels[session]
                continue
            channel.cut_stuck()
            if beat:
                channel.heartbeat()

    def close(self) -> None:
        """Cut every feed."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
