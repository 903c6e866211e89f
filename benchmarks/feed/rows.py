"""The rows of the table: which figure of which scenario, and the goal it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.feed.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.feed.plan import Record


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        scenario: of the records it is taken from.
        variant: of the records.
        metric: which of their values.
        label: what a reader sees.
        unit: of the value.
        goal: what the product is to reach, none: nothing was promised.
        times_raw: the goal is a multiple of raw NATS in the same run.
        more: more is better.
        raw_metric: what raw NATS is compared by, if it has no such value.
    """

    scenario: str
    variant: str
    metric: str
    label: str
    unit: str = "ms"
    goal: float | None = None
    times_raw: bool = False
    more: bool = False
    raw_metric: str = ""

    def cells(self, records: Iterable[Record]) -> dict[str, list[float]]:
        """Return the values by target, one for each round that has one."""
        found: dict[str, list[float]] = {name: [] for name in ("ceiling", *TARGETS)}
        for record in records:
            if (record.scenario, record.variant) != (self.scenario, self.variant):
                continue
            metric = self.raw_metric if self.raw_metric and record.target == "raw" else self.metric
            if metric in record.values:
                found[record.target].append(record.values[metric])
        return {name: values for name, values in found.items() if values}

    def goal_text(self) -> str:
        """Return the goal as a reader sees it."""
        if self.goal is None:
            return ""
        sign = "≥" if self.more else "≤"
        return f"{sign} {self.goal:g} x raw" if self.times_raw else f"{sign} {shown(self.goal, self.unit)}"

    def met(self, values: Mapping[str, float]) -> bool | None:
        """Whether the product reaches the goal; None if there is no goal, or nothing to judge it by."""
        if self.goal is None or "product" not in values or (self.times_raw and not values.get("raw")):
            return None
        value = values["product"] / (values["raw"] if self.times_raw else 1)
        return value >= self.goal if self.more else value <= self.goal


ROWS: Sequence[Row] = (
    Row("latency", "x1", "p50", "latency, 3,000 tokens/s, 50 clients, p50", goal=2, times_raw=True),
    Row("latency", "x1", "p99", "… p99"),
    Row("latency", "x5", "p50", "… 250 clients, p50"),
    Row("latency", "x5", "p99", "… 250 clients, p99"),
    Row("latency", "x5", "cores_gateway", "… 250 clients, cores of the gateway", "cores", raw_metric="cores_broker"),
    Row("fanout", "highest", "events_per_s", "fan-out to 500 clients, p99 < 100 ms", "events/s", 400_000, more=True),
    Row("fanout", "400000", "p99", "… at 400,000 events/s, p99", goal=100),
    Row("fanout", "400000", "max", "… at 400,000 events/s, the worst event of the worst client"),
    Row("join", "finished cold", "p50", "join, 10,000 tokens in 100 finished runs, cold", goal=10),
    Row("join", "finished warm", "p50", "… warm", goal=10),
    Row("join", "open warm", "p50", "join, 10,000 tokens in 10 open runs, warm", goal=20),
    Row("join", "open cold", "p50", "… cold", goal=200),
    Row("join", "small", "p50", "join, small session among 30,000", goal=5),
    Row("storm", "warm", "all_ms", "1,000 clients reconnect at once, all caught up, warm", goal=250),
    Row("storm", "cold", "all_ms", "… gateway just restarted", goal=1000),
    Row("idle", "client", "gateway_kib", "idle client, gateway", "KiB", 8, raw_metric="broker_kib"),
    Row("idle", "client", "all_kib", "idle client, gateway and broker", "KiB"),
    Row("idle", "session", "gateway_kib", "idle session with one client, gateway", "KiB"),
    Row("idle", "session", "waiting_cores_gateway", "… 2,000 of them, cores of the gateway", "cores"),
    Row("idle", "session", "waiting_cores_broker", "… cores of the broker", "cores"),
    Row("soak", "quiet", "p99", "1,000 idle and 200 active clients for minutes, p99"),
    Row("soak", "quiet", "gateway_mib_most", "… most memory of the gateway", "MiB"),
    Row("soak", "quiet", "kib_per_minute", "… its growth a minute", "KiB", goal=200),
    Row("soak", "hostile", "p99", "… beside 500 that read nothing and 300 half-sent requests, p99"),
    Row("soak", "hostile", "times_quiet", "… times the p99 without them", "x", goal=2),
    Row("soak", "hostile", "gained_mib", "… memory of the gateway above that without them, at most", "MiB", goal=50),
    Row("soak", "hostile", "kib_per_minute", "… growth of the gateway's memory a minute", "KiB", goal=200),
    Row("bulk", "publish", "events_per_s", "bulk publish, acknowledged, one process", "events/s", 30_000, more=True),
    Row("bulk", "runs", "events_per_s", "… by 256 runs, one publish in flight each", "events/s", more=True),
)


def middle(cells: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each target's rounds."""
    return {name: median(values) for name, values in cells.items()}


def shown(value: float, unit: str) -> str:
    """Write a value with its unit, in as many digits as it deserves."""
    if unit == "events/s":
        return f"{value:,.0f}/s"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:,.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
