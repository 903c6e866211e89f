"""What one gateway process counts of its clients."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orchestrator_free.metrics.families import PREFIX
from orchestrator_free.metrics.tally import Names
from orchestrator_free.working.stats import BUCKETS

_LATENCY_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_EVENT_BUCKETS: Final = (0, 1, 10, 100, 1_000, 10_000, 100_000)


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
        sessions: sessions that are served now.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        name = f"{PREFIX}_gateway_"
        self.clients = Gauge(f"{name}clients", "Feeds that are open now.", registry=registry)
        self.sessions = Gauge(f"{name}sessions", "Sessions that are served now.", registry=registry)
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
        self._names = Names()
        self._first_token = Histogram(
            f"{name}time_to_first_token_seconds", "From an input stored to the first output written to who looks.",
            ["agent"], buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        self._answers_shown = Counter(
            f"{name}answers_shown", "Ends of runs written to a client when they came.", ["agent"], registry=registry
        )
        self.cuts.labels("slow")
        for how in ("hot", "log", "snapshot", "reset"):
            self.resumes.labels(how)

    def first_token(self, agent: str, seconds: float) -> None:
        """Somebody who looks was given the first output of a run."""
        self._first_token.labels(self._names(agent)).observe(seconds)

    def answer_shown(self, agent: str) -> None:
        """Somebody who looks was given the end of a run when it came."""
        self._answers_shown.labels(self._names(agent)).inc()
