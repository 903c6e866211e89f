"""The sessions this gateway serves at the moment: opened once however many ask, dropped when nobody looks."""

from __future__ import annotations

import asyncio

from orchestrator_free import logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import OrchestratorFreeError, PositionLost
from orchestrator_free.gateway.channels.attendance import Attendance
from orchestrator_free.gateway.channels.channel import Channel
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.metrics import GatewayMetrics

_log = logs.logger("orchestrator_free.gateway")


class Hub:
    """The channels of a gateway."""

    def __init__(self, broker: Broker, metrics: GatewayMetrics, settings: GatewaySettings) -> None:
        self.broker = broker
        self.metrics = metrics
        self.settings = settings
        self.attendance = Attendance(broker.log)
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Task[Channel]] = {}
        self._moves: set[asyncio.Task[None]] = set()
        metrics.sessions.set_function(lambda: len(self._channels))

    async def channel(self, session: str) -> Channel:
        """Return the channel of a session, opened if it is not.

        Raises:
            SessionNotFound: the log holds nothing of it.
            BrokerError: it cannot be read now.
        """
        found = self._channels.get(session)
        if found is not None and not found.closed:
            if found.idle_since is not None:
                found.idle_since = asyncio.get_running_loop().time()
            return found
        task = self._opening.get(session)
        if task is None:
            task = self._opening[session] = asyncio.create_task(self._open(session), name=f"open {session}")
            task.add_done_callback(lambda done: self._opened(session, done))
        return await asyncio.shield(task)

    async def _open(self, session: str) -> Channel:
        broker = self.broker
        channel = Channel(
            broker.log, broker.objects, session, self.metrics, self.settings, self._on_lost, self.attendance
        )
        await channel.open()
        self.metrics.catch_up_events.observe(len(channel.tail))
        self._channels[session] = channel
        return channel

    def _opened(self, session: str, done: asyncio.Task[Channel]) -> None:
        self._opening.pop(session, None)
        if not done.cancelled():
            done.exception()  # those who asked have it; they may all have left

    def _on_lost(self, channel: Channel, lost: PositionLost) -> None:
        task = asyncio.create_task(self._move(channel, lost), name=f"reset {channel.session}")
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, old: Channel, lost: PositionLost) -> None:
        """Bring the clients of a channel that lost its place to a new one."""
        try:
            channel = await self.channel(old.session)
        except OrchestratorFreeError as error:
            _log.warning("no new beginning for a session", session=old.session, error=str(error))
            old.say("reset", {"reason": lost.reason, "detail": str(lost)})
            old.close()
            return
        for client in old.release():
            await channel.restart(client, lost)

    def hot(self, session: str) -> Channel | None:
        """Return the channel of a session if it is being served."""
        found = self._channels.get(session)
        return None if found is None or found.closed else found

    async def run(self) -> None:
        """Keep house until cancelled: heartbeats, stuck clients, sessions nobody looks at."""
        loop = asyncio.get_running_loop()
        beaten = loop.time()
        telling = asyncio.create_task(self.attendance.run(), name="attendance")
        try:
            while True:
                await asyncio.sleep(self.settings.sweep_seconds)
                try:
                    beat = loop.time() >= beaten + self.settings.heartbeat_seconds
                    beaten = loop.time() if beat else beaten
                    self._sweep(beat=beat)
                except Exception:
                    _log.exception("sweep failed")
        finally:
            telling.cancel()

    def _sweep(self, *, beat: bool) -> None:
        now = asyncio.get_running_loop().time()
        full = sum(channel.tail.size for channel in self._channels.values()) > self.settings.memory_bytes
        for session, channel in list(self._channels.items()):
            idle = channel.idle_since
            if channel.closed or (idle is not None and (full or now - idle > self.settings.keep_seconds)):
                if not channel.closed:
                    channel.close()
                del self._channels[session]
                continue
            channel.sweep()
            if beat:
                channel.heartbeat()

    def say(self, name: str, body: object) -> None:
        """Write a control frame to every client of every session."""
        for channel in self._channels.values():
            channel.say(name, body)

    def close(self) -> None:
        """Cut every feed."""
        for task in self._moves:
            task.cancel()
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self.attendance.close()
