"""Metrics for Prometheus: what a gateway counts, and what the broker says of streams, consumers and agents.

A scrape never asks the broker: it is asked in the background, and the time of its last answer is a metric, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Self

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidInput
from orchestrator_free.fold import FINAL
from orchestrator_free.lag import Lag, Replica, living_replicas, survey
from orchestrator_free.tally import AgentTally, Counts, Names, is_count
from orchestrator_free.working.stats import BUCKETS

_log = structlog.get_logger("orchestrator_free.metrics")

PREFIX: Final = "orchestrator_free"
_POLL_DEADLINE_SECONDS: Final = 30.0
_MONITOR_BYTES: Final = 1024 * 1024

_LATENCY_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_EVENT_BUCKETS: Final = (0, 1, 10, 100, 1_000, 10_000, 100_000)

_STREAM_GAUGES: Final = (
    ("total_messages", "Messages stored."),
    ("total_bytes", "Bytes stored."),
    ("first_seq", "Sequence of the first message that is still there."),
    ("last_seq", "Sequence of the last message."),
    ("consumers", "Consumers, ephemeral ones included."),
)
_CONSUMER_GAUGES: Final = (
    ("num_pending", "Messages not delivered yet."),
    ("num_ack_pending", "Messages delivered and not acknowledged."),
    ("num_redelivered", "Of those, messages delivered more than once."),
    ("ack_floor_stream_seq", "Everything up to this sequence is acknowledged; of several durables the lowest."),
    ("behind_seconds", "Age of the oldest message that is not acknowledged; of several durables the highest."),
    ("durables", "Durables of this name, over all sessions."),
)
_AGENT_GAUGES: Final = (
    ("inputs_waiting", "Inputs that no replica has taken yet."),
    ("inputs_in_work", "Inputs that a replica has taken and not acknowledged."),
    ("runs_active", "Runs at work now, as the replicas tell."),
    ("replicas", "Processes that are alive."),
    ("offline", "1 if inputs wait and no process is alive."),
)
_AGENT_HISTOGRAMS: Final = (
    ("agent_time_to_first_token", "first_token", "From the start of an attempt to its first output."),
    ("agent_run_duration", "duration", "From the start of the attempt that finished a run to its end."),
)


class GatewayMetrics:
    """What one gateway process counts; the names in Prometheus begin with `orchestrator_free_gateway_`.

    Attributes:
        clients: feeds that are open now.
        events_delivered: events handed to clients, each client counted.
        bytes_delivered: bytes of those, as written.
        delivery_latency: seconds from stored in the log to written to the client.
        resumes: feeds opened, by how they were caught up: `hot`, `log`, `snapshot` or `reset`.
        catch_up_events: events read to bring a feed to the present.
        cuts: feeds cut by the gateway, by reason.
        inputs: inputs taken over HTTP.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        name = f"{PREFIX}_gateway_"
        self.clients = Gauge(f"{name}clients", "Feeds that are open now.", registry=registry)
        self.events_delivered = Counter(
            f"{name}events_delivered", "Events handed to clients, each client counted.", registry=registry
        )
        self.bytes_delivered = Counter(f"{name}delivered_bytes", "Bytes written to clients.", registry=registry)
        self.delivery_latency = Histogram(
            f"{name}delivery_latency_seconds", "From stored in the log to written to the client.",
            buckets=_LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.resumes = Counter(
            f"{name}resumes", "Feeds opened, by how they were caught up: hot, log, snapshot or reset.", ["how"],
            registry=registry,
        )  # fmt: skip
        self.catch_up_events = Histogram(
            f"{name}catch_up_events", "Events read to bring a feed to the present.", buckets=_EVENT_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.cuts = Counter(f"{name}cuts", "Feeds cut by the gateway, by reason.", ["reason"], registry=registry)
        self.inputs = Counter(f"{name}inputs", "Inputs taken over HTTP.", registry=registry)


@dataclass(slots=True)
class _AgentNow:
    """What is known of an agent at this moment."""

    waiting: int = 0
    in_work: int = 0
    active: float = 0.0
    replicas: int = 0
    offline: bool = False


def _agents_now(lags: Iterable[Lag], replicas: Sequence[Replica], names: Names) -> dict[str, _AgentNow]:
    alive = {replica.agent for replica in replicas}
    found: dict[str, _AgentNow] = {}
    for lag in lags:
        if lag.agent:
            agent = found.setdefault(names(lag.agent), _AgentNow())
            agent.waiting += lag.waiting
            agent.in_work += lag.in_work
            agent.offline |= lag.agent not in alive and lag.waiting + lag.in_work > 0
    for replica in replicas:
        agent = found.setdefault(names(replica.agent), _AgentNow())
        agent.replicas += 1
        stats = replica.about.get("stats")
        active = stats.get("active") if isinstance(stats, dict) else 0
        agent.active += active if is_count(active) else 0  # type: ignore[operator]
    return found


# -- what Prometheus reads ------------------------------------------------------------------------------------------


Rows = Sequence[tuple[Sequence[str], Sequence[float]]]


def _gauges(prefix: str, labels: Sequence[str], rows: Rows, about: Sequence[tuple[str, str]]) -> Iterator[Metric]:
    """Make one gauge per column; a row is its label values and its numbers."""
    for column, (name, text) in enumerate(about):
        family = GaugeMetricFamily(f"{PREFIX}_{prefix}_{name}", text, labels=labels)
        for values, numbers in rows:
            family.add_metric(values, numbers[column])
        yield family


def _stream_families(streams: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    columns = ("messages", "bytes", "first_seq", "last_seq", "consumer_count")
    rows = [((info["config"]["name"],), [info["state"][column] for column in columns]) for info in streams]
    return _gauges("stream", ["stream_name"], rows, _STREAM_GAUGES)


def _consumer_families(lags: Iterable[Lag], names: Names) -> Iterator[Metric]:
    found: dict[tuple[str, str], Lag] = {}
    for lag in lags:
        key = (lag.stream, names(lag.consumer))
        found[key] = found[key] + lag if key in found else lag
    rows = [
        (key, (lag.waiting, lag.in_work, lag.redelivered, lag.floor, lag.seconds_behind, lag.durables))
        for key, lag in found.items()
    ]
    return _gauges("consumer", ["stream_name", "consumer_name"], rows, _CONSUMER_GAUGES)


def _agent_families(agents: Mapping[str, _AgentNow], totals: Mapping[str, Counts]) -> Iterator[Metric]:
    rows = [
        ((name,), (now.waiting, now.in_work, now.active, now.replicas, float(now.offline)))
        for name, now in agents.items()
    ]
    yield from _gauges("agent", ["agent"], rows, _AGENT_GAUGES)
    text = "Attempts at runs; more than one per run after a crash."
    attempts = CounterMetricFamily(f"{PREFIX}_agent_attempts", text, labels=["agent"])
    stalled = CounterMetricFamily(f"{PREFIX}_agent_runs_stalled", "Times a run fell silent.", labels=["agent"])
    labels = ["agent", "status"]
    finished = CounterMetricFamily(f"{PREFIX}_agent_runs_finished", "Runs finished, by status.", labels=labels)
    for name, counts in totals.items():
        attempts.add_metric([name], counts.get("attempts", 0.0))
        stalled.add_metric([name], counts.get("stalled", 0.0))
        for status in sorted(FINAL):
            finished.add_metric([name, status], counts.get(f"finished {status}", 0.0))
    yield from (attempts, stalled, finished)
    for name, key, about in _AGENT_HISTOGRAMS:
        yield _histogram(name, about, key, totals)


def _histogram(name: str, about: str, key: str, totals: Mapping[str, Counts]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", about, labels=["agent"])
    bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
    for agent, counts in totals.items():
        buckets = accumulate(counts.get(f"{key} {place}", 0.0) for place in range(len(bounds)))
        family.add_metric([agent], list(zip(bounds, buckets, strict=True)), counts.get(f"{key} sum", 0.0))
    return family


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
        self._task: asyncio.Task[None] | None = None
        self.registry.register(self)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
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
        streams = [await log.info(shard) for shard in range(log.shards)]
        lags = await survey(log)
        replicas = await living_replicas(log)
        self._tally.update(replicas, begun, self._agents)
        self._families = [
            *_stream_families(streams),
            *_consumer_families(lags, self._consumers),
            *_agent_families(_agents_now(lags, replicas, self._agents), self._tally.totals),
            *await self._durability(),
        ]
        self._duration = time.monotonic() - begun
        self.last_success = time.time()

    async def _durability(self) -> list[Metric]:
        if self._monitor_url is None:
            return []
        try:
            config = (await asyncio.to_thread(_jsz, self._monitor_url))["config"]
            config["store_dir"]  # without JetStream there is nothing to tell
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the broker's monitor does not tell the durability", url=self._monitor_url, error=str(error))
            return []
        text = "1 if every event is on disk before it is acknowledged, 0 if it is within an interval."
        return [GaugeMetricFamily(f"{PREFIX}_broker_fsync", text, float(bool(config.get("sync_always"))))]

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


# -- serving them alone ---------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """Leaves the signals to the program around it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_lag(
    broker: Broker,
    *,
    host: str,
    port: int,
    monitor_url: str | None = None,
    poll_seconds: float = 5.0,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve `/metrics` and `/healthz` until cancelled.

    Args:
        broker: the connection to ask over.
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        monitor_url: the broker's HTTP monitor, which tells the durability.
        poll_seconds: how often the broker is asked.
        ready: called with the URL once it is served.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    shown = f"[{host}]" if ":" in host else host
    async with Metrics(broker, monitor_url=monitor_url, poll_seconds=poll_seconds) as metrics:
        server = _Server(uvicorn.Config(_lag_app(metrics), access_log=False, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            ready(f"http://{shown}:{listener.getsockname()[1]}")
            await asyncio.shield(serving)
        finally:
            server.should_exit = server.force_exit = True
            await serving


def _lag_app(metrics: Metrics) -> Starlette:
    async def show_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def healthz(request: Request) -> Response:
        connected = metrics._wire.connected.is_set()
        return JSONResponse({
            "status": "ok", "broker": "connected" if connected else "disconnected",
            "last_success": metrics.last_success or None,
        })  # fmt: skip

    return Starlette(routes=[Route("/metrics", show_metrics), Route("/healthz", healthz)])
