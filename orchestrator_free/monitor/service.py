"""The monitor: looks after all agents, tick by tick.

Runs in every gateway, any number side by side, and they agree on nothing; see `telling` for why one of them writes.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError
from orchestrator_free.lag import agent_of, living_replicas
from orchestrator_free.loop import Background
from orchestrator_free.metrics import Metrics
from orchestrator_free.monitor.gone import Gone
from orchestrator_free.monitor.shard import Shard
from orchestrator_free.monitor.strangers import Strangers
from orchestrator_free.monitor.telling import Teller

_log = logs.logger("orchestrator_free.monitor")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """How closely to look.

    Attributes:
        tick_seconds: between two looks; a tenth of it is random.
        offline_after_seconds: how long an agent has no presence entry (they live for 6 s) before it is offline.
        unknown_after_seconds: how long an input waits for an agent that has never connected; it may just be starting.
        inputs_per_tick: owed inputs that are looked at in one tick, so that work stays bounded; then the next ones.
    """

    tick_seconds: float = 2.0
    offline_after_seconds: float = 4.0
    unknown_after_seconds: float = 10.0
    inputs_per_tick: int = 256


class Monitor:
    """Looks after the agents until cancelled: `async with Monitor(broker):`, or `await monitor.run()`."""

    def __init__(
        self,
        broker: Broker,
        *,
        registry: CollectorRegistry | None = None,
        monitor_url: str | None = None,
        settings: MonitorSettings | None = None,
    ) -> None:
        """Prepare.

        Args:
            broker: a connection that may publish for every member.
            registry: where lag metrics go, too; None for no metrics.
            monitor_url: the broker's HTTP monitor, which tells the durability; only for metrics.
            settings: how closely to look.
        """
        self.settings = settings or MonitorSettings()
        self._log = broker.log
        self._metrics = None if registry is None else Metrics(broker, registry=registry, monitor_url=monitor_url)
        self._absent: dict[str, float] = {}
        self._trusted = 0.0
        self._shards: dict[int, Shard] = {}
        look = self.settings
        self._teller = Teller(broker, look.offline_after_seconds)
        self._gone = Gone(broker.log, self._teller, look.inputs_per_tick)
        self._strangers = Strangers(
            broker, self._teller, age_seconds=look.unknown_after_seconds, per_tick=look.inputs_per_tick
        )
        self._background = Background()

    @property
    def published(self) -> int:
        """Events this monitor wrote; what another one wrote first does not count."""
        return self._teller.published

    async def __aenter__(self) -> Self:
        self._background.begin(self.run(), "monitor")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._background.end()

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        reconnected = self._log.wire.on_reconnect
        reconnected.append(self._distrust)
        self._distrust()
        try:
            async with AsyncExitStack() as stack:
                if self._metrics is not None:
                    await stack.enter_async_context(self._metrics)
                while True:
                    await self._tick_safely()
                    await asyncio.sleep(self.settings.tick_seconds * random.uniform(0.95, 1.05))
        finally:
            reconnected.remove(self._distrust)

    def _distrust(self) -> None:
        """Presence lives in the broker's memory: when that may have been lost, absence says nothing for a while."""
        self._absent.clear()
        self._trusted = asyncio.get_running_loop().time() + contract.PRESENCE_TTL_SECONDS

    async def _tick_safely(self) -> None:
        try:
            await self.tick()
        except BrokerError as error:
            self._distrust()
            _log.warning("cannot look after the agents, trying again", error=str(error))
        except Exception:
            _log.exception("looking after the agents failed, trying again")

    async def tick(self) -> None:
        """Look once."""
        present = {replica.agent for replica in await living_replicas(self._log)}
        names = {shard: await self._agents(shard) for shard in range(self._log.shards)}
        overdue = self._overdue(set().union(*names.values()), present)
        self._gone.begin(overdue)
        for shard, agents in names.items():
            stream = await self._look_at_stream(shard)
            gone = sorted(agents & overdue)
            for agent in random.sample(gone, len(gone)):
                await self._gone.look_at(shard, agent, stream)
            await self._strangers.look(shard, agents | present, stream)

    async def _look_at_stream(self, shard: int) -> Shard:
        info = await self._log.info(shard)
        stream, end = self._shards.get(shard), info["state"]["last_seq"]
        if stream is None or stream.created != info["created"]:
            stream = self._shards[shard] = Shard(info["created"], end, end)
        stream.now, stream.before, stream.end = info["ts"], stream.end, end
        return stream

    async def _agents(self, shard: int) -> set[str]:
        return {agent for name in await self._log.consumer_names(shard) if (agent := agent_of(name))}

    def _overdue(self, agents: set[str], present: set[str]) -> set[str]:
        """Return the agents that have had no presence entry for long enough."""
        now = asyncio.get_running_loop().time()
        since = max(now, self._trusted)
        self._absent = {agent: self._absent.get(agent, since) for agent in agents - present}
        early = self.settings.tick_seconds / 4  # otherwise the random part of a tick would decide about a whole one
        limit = now - self.settings.offline_after_seconds + early
        return {agent for agent, since in self._absent.items() if since <= limit}
