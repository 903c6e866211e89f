"""Asking the broker every few seconds, so that a scrape asks nobody."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidInput
from orchestrator_free.lag import living_replicas, survey
from orchestrator_free.loop import Background
from orchestrator_free.metrics.families import (
    PREFIX,
    agent_families,
    agents_now,
    consumer_families,
    stream_families,
)
from orchestrator_free.metrics.tally import AgentTally, Names

_log = logs.logger("orchestrator_free.metrics")

_POLL_DEADLINE_SECONDS: Final = 30.0
_STREAM_DEADLINE_SECONDS: Final = 4.0
_MONITOR_BYTES: Final = 1024 * 1024
#: streams beside the log
_BESIDE: Final = (contract.TIMERS, f"OBJ_{contract.OBJECT_BUCKET}", f"KV_{contract.PRESENCE_BUCKET}")


class Metrics:
    """Asks the broker every few seconds and keeps the answers for scrapes: `async with Metrics(broker) as metrics:`.

    Attributes:
        registry: what to serve.
        last_success: Unix time of the last whole answer, 0 before the first.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        registry: CollectorRegistry | None = None,
        monitor_url: str | None = None,
        poll_seconds: float = 5.0,
    ) -> None:
        """Prepare.

        Args:
            broker: the connection to ask over.
            registry: where to register; a new one by default.
            monitor_url: the broker's HTTP monitor, which tells the durability that is in force.
            poll_seconds: between two polls.

        Raises:
            InvalidInput: the monitor's address is no http(s) URL.
        """
        if monitor_url is not None and not monitor_url.startswith(("http://", "https://")):
            raise InvalidInput(f"monitor_url {monitor_url!r} is no address; pass one such as http://127.0.0.1:8222")
        self.registry = registry or CollectorRegistry()
        self.last_success = 0.0
        self._broker = broker
        self._wire = broker.log.wire
        self._monitor_url = monitor_url
        self._poll_seconds = poll_seconds
        self._agents, self._consumers = Names(), Names()
        self._tally = AgentTally()
        self._families: list[Metric] = []
        self._failures = 0
        self._duration = 0.0
        self._background = Background()
        self.registry.register(self)

    async def __aenter__(self) -> Self:
        self._background.begin(self._run(), "metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        if await self._background.end():
            self.registry.unregister(self)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_POLL_DEADLINE_SECONDS):
                    await self.poll()
            except (BrokerError, TimeoutError) as error:
                self._failures += 1
                _log.warning("cannot read the metrics of the broker, trying again", error=str(error))
            except Exception:
                self._failures += 1
                _log.exception("reading the metrics of the broker failed, trying again")
            await asyncio.sleep(self._poll_seconds)

    async def poll(self) -> None:
        """Ask the broker now.

        Raises:
            BrokerError: it does not answer; what was known stays.
        """
        begun = time.monotonic()
        log = self._broker.log
        streams = await self._streams()
        lags = await survey(log, [shard for shard in range(log.shards) if streams[contract.stream_name(shard)]])
        replicas = await living_replicas(log)
        self._tally.update(replicas, begun, self._agents)
        self._families = [
            *stream_families(streams),
            *consumer_families(lags, self._consumers),
            *agent_families(agents_now(lags, replicas, self._agents), self._tally.totals),
            *await self._store(),
        ]
        self._duration = time.monotonic() - begun
        self.last_success = time.time()

    async def _streams(self) -> dict[str, dict[str, Any] | None]:
        """Return STREAM.INFO of every stream; None for one that has no leader.

        Raises:
            BrokerError: none of them has; then it is the broker that is away.
        """
        names = (*(contract.stream_name(shard) for shard in range(self._broker.log.shards)), *_BESIDE)

        async def info(name: str) -> dict[str, Any] | BrokerError:
            try:
                return await self._wire.api(f"STREAM.INFO.{name}", deadline=_STREAM_DEADLINE_SECONDS)
            except BrokerError as error:
                return error

        found = dict(zip(names, await asyncio.gather(*map(info, names)), strict=True))
        failed = [answer for answer in found.values() if isinstance(answer, BrokerError)]
        if len(failed) == len(found):
            raise failed[0]
        return {name: None if isinstance(answer, BrokerError) else answer for name, answer in found.items()}

    async def _store(self) -> list[Metric]:
        """Return what only the broker's monitor tells: the durability in force, and how full the store is."""
        if self._monitor_url is None:
            return []
        try:
            told = await asyncio.to_thread(_jsz, self._monitor_url)
            config = told["config"]
            config["store_dir"]  # without JetStream there is nothing to tell
            used, limit = float(told["storage"]), float(config["max_storage"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the broker's monitor does not tell the durability", url=self._monitor_url, error=str(error))
            return []
        name = f"{PREFIX}_broker_"
        text = "1 if every event is on disk before it is acknowledged, 0 if it is within an interval."
        return [
            GaugeMetricFamily(f"{name}fsync", text, float(bool(config.get("sync_always")))),
            GaugeMetricFamily(f"{name}store_bytes", "Bytes that the broker's streams take on disk.", used),
            GaugeMetricFamily(f"{name}store_limit_bytes", "Bytes that they may take.", limit),
        ]

    def describe(self) -> list[Metric]:
        """Return nothing: names are known when the broker has answered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what the last poll found, and the state of the connection; asks nobody."""
        name = f"{PREFIX}_broker_"
        connected = self._wire.connected.is_set()
        yield GaugeMetricFamily(f"{name}connected", "1 while connected to the broker.", float(connected))
        yield CounterMetricFamily(f"{name}reconnects", "Connections after the first.", self._wire.reconnects)
        if connected:
            info = GaugeMetricFamily(f"{name}info", "Always 1; the broker's version.", labels=["version"])
            info.add_metric([self._wire.server_version], 1.0)
            yield info
        name = f"{PREFIX}_poll_"
        text = "Unix time of the last poll that succeeded; older values are stale."
        yield GaugeMetricFamily(f"{name}last_success_timestamp_seconds", text, self.last_success)
        yield GaugeMetricFamily(f"{name}duration_seconds", "How long that poll took.", self._duration)
        yield CounterMetricFamily(f"{name}failures", "Polls that failed.", self._failures)
        yield from self._families


def _jsz(url: str) -> Any:
    """Return the broker's state of JetStream; its `/varz`, asked too early once, lacks the configuration for ever."""
    with urllib.request.urlopen(f"{url.rstrip('/')}/jsz", timeout=3) as answer:  # noqa: S310 - http(s) was checked
        return json.loads(answer.read(_MONITOR_BYTES))
