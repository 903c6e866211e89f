"""What a gateway counts of Durable Streams; the names in Prometheus begin with `orchestrator_free_durable_streams_`."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orchestrator_free.metrics.families import PREFIX

_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)


class DurableStreamMetrics:
    """The counts of one gateway.

    Attributes:
        requests: by method and status. appended: bytes of bodies that were stored.
        append_seconds: from a whole body to its answer.
        readers: SSE connections now. waiting: long-polls now.
        delivered: bytes written to readers, by any way.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        name = f"{PREFIX}_durable_streams_"
        self.requests = Counter(
            f"{name}requests", "Requests, by method and status.", ["method", "status"], registry=registry
        )
        self.appended = Counter(f"{name}appended_bytes", "Bytes of bodies that were stored.", registry=registry)
        self.append_seconds = Histogram(
            f"{name}append_seconds", "From a whole body to its answer.", buckets=_BUCKETS, registry=registry
        )
        self.readers = Gauge(f"{name}readers", "SSE connections now.", registry=registry)
        self.waiting = Gauge(f"{name}waiting", "Long-polls now.", registry=registry)
        self.delivered = Counter(f"{name}delivered_bytes", "Bytes written to readers.", registry=registry)
