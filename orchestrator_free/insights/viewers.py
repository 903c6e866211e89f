"""What viewers got, as a gateway has counted it since it started: the part that no log can tell."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from orchestrator_free.errors import InvalidInput

_FIRST: Final = "orchestrator_free_gateway_time_to_first_token_seconds"
_SHOWN: Final = "orchestrator_free_gateway_answers_shown_total"
_CUTS: Final = "orchestrator_free_gateway_cuts_total"
_BYTES: Final = 16 * 1024 * 1024


async def read_viewers(gateway: str) -> dict[str, Any]:
    """Return what a gateway counted: by agent the time to first token and answers shown when they came; feeds cut.

    Raises:
        InvalidInput: the address is none, or no gateway answers there.
    """
    if not gateway.startswith(("http://", "https://")):
        raise InvalidInput(f"--gateway {gateway!r} is no address; pass one such as http://127.0.0.1:8080")
    try:
        text = await asyncio.to_thread(_metrics, f"{gateway.rstrip('/')}/metrics")
        return viewers_of(text) | {"gateway": gateway}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{gateway} does not tell its metrics: {error}") from error


def _metrics(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http(s) was checked
        return str(answer.read(_BYTES).decode())


def viewers_of(text: str) -> dict[str, Any]:
    """Read a gateway's metrics."""
    buckets: dict[str, dict[float, float]] = {}
    shown: dict[str, int] = {}
    cuts = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            agent = sample.labels.get("agent", "")
            if sample.name == f"{_FIRST}_bucket":
                buckets.setdefault(agent, {})[float(sample.labels["le"])] = sample.value
            elif sample.name == _SHOWN:
                shown[agent] = int(sample.value)
            elif sample.name == _CUTS:
                cuts += int(sample.value)
    first = {
        agent: {"count": int(max(counts.values())), "p50": _up_to(counts, 0.5), "p95": _up_to(counts, 0.95)}
        for agent, counts in sorted(buckets.items())
    }
    return {"first_token": first, "answers_shown": dict(sorted(shown.items())), "feeds_cut": cuts}


def _up_to(counts: dict[float, float], share: float) -> float | None:
    """Return the bound of the bucket in which this share lies; None beyond the last one, or where nothing is."""
    total = max(counts.values())
    found = next((bound for bound in sorted(counts) if total and counts[bound] >= share * total), None)
    return None if found == float("inf") else found
