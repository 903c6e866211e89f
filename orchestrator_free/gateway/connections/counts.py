"""What the guard counts, for Prometheus; nothing is labelled with what a client says."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from orchestrator_free.metrics.families import PREFIX

_NAME: Final = f"{PREFIX}_gateway_"


class GuardCounts:
    """The counts.

    Attributes:
        refused: requests that got no further than the guard, by reason.
        ended: feeds that were cut because their token counted no more, by reason.
        open: 1 if nobody is asked for a token.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            f"{_NAME}refused", "Requests refused before any route saw them, by reason.", ["reason"], registry=registry
        )
        self.ended = Counter(
            f"{_NAME}tokens_ended", "Feeds cut because their token counts no more.", ["reason"], registry=registry
        )
        self.open = Gauge(
            f"{_NAME}identity_open", "1 if nobody is asked for a token: everybody may do everything.", registry=registry
        )
