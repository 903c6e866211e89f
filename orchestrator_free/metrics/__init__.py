"""Metrics for Prometheus: what a gateway counts, and what the broker says of streams, consumers and agents.

A scrape never asks the broker: it is asked in the background, and the time of its last answer is a metric, too. No
label is a session's; names of agents and subscriptions are bounded, what is beyond the bound counts as `other`.
"""

from orchestrator_free.metrics.gateway import GatewayMetrics
from orchestrator_free.metrics.poll import Metrics
from orchestrator_free.metrics.serving import serve_lag

__all__ = ("GatewayMetrics", "Metrics", "serve_lag")
