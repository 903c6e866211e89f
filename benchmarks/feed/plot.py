"""One picture of everything measured."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from benchmarks.feed.rows import ROWS, Row, middle

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.feed.plan import Record

_COLOURS = {"ceiling": "#bbbbbb", "raw": "#6b7785", "redis": "#c8553d", "product": "#2a7f62"}
_NAMES = {
    "ceiling": "generator's ceiling",
    "raw": "raw NATS",
    "redis": "Redis + Starlette",
    "product": "product",
}
#: title, unit, {short label: (scenario, variant, metric)}
_PANELS: Sequence[tuple[str, str, dict[str, tuple[str, str, str]]]] = (
    (
        "Publish to client, 3,000 tokens/s",
        "ms",
        {
            f"{clients} clients\n{metric}": ("latency", variant, metric)
            for variant, clients in (("x1", 50), ("x5", 250))
            for metric in ("p50", "p99")
        },
    ),
    (
        "Late join, until the history is read",
        "ms",
        {
            "10,000 tokens\nfinished, cold": ("join", "finished cold", "p50"),
            "finished,\nwarm": ("join", "finished warm", "p50"),
            "10,000 tokens\nopen, cold": ("join", "open cold", "p50"),
            "open,\nwarm": ("join", "open warm", "p50"),
            "small, one\nof 30,000": ("join", "small", "p50"),
        },
    ),
    (
        "1,000 clients reconnect at once",
        "ms until all have caught up",
        {"warm": ("storm", "warm", "all_ms"), "gateway restarted": ("storm", "cold", "all_ms")},
    ),
    (
        "Memory of an idle client",
        "KiB",
        {"gateway": ("idle", "client", "gateway_kib"), "with broker": ("idle", "client", "all_kib")},
    ),
    (
        "Bulk publish, one process",
        "acknowledged events/s (more is better)",
        {"in bulk": ("bulk", "publish", "events_per_s"), "by 256 runs": ("bulk", "runs", "events_per_s")},
    ),
)


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(2, 3, figsize=(17, 9), layout="constrained")
    places = list(axes.flat)
    _steps(places[1], records)
    for place, (title, unit, bars) in zip([places[0], *places[2:]], _PANELS, strict=True):
        scale = "linear" if len(bars) <= 2 else "log"
        place.set_yscale(scale)
        _bars(place, records, bars)
        place.set_title(title)
        place.set_ylabel(unit if scale == "linear" else f"{unit} (log scale)")
    handles, labels = places[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row(place: tuple[str, str, str]) -> Row:
    return next(row for row in ROWS if (row.scenario, row.variant, row.metric) == place)


def _bars(axes: Any, records: Sequence[Record], bars: dict[str, tuple[str, str, str]]) -> None:
    targets = ("raw", "redis", "product")
    for number, place in enumerate(bars.values()):
        row = _row(place)
        values = middle(row.cells(records))
        for offset, target in enumerate(targets):
            if target in values:
                x = number + (offset - 1) * 0.27
                axes.bar(x, values[target], 0.25, color=_COLOURS[target])
                axes.annotate(_short(values[target]), (x, values[target]), ha="center", va="bottom", fontsize=8)
        if row.goal is not None and (not row.times_raw or "raw" in values):
            goal = row.goal * (values["raw"] if row.times_raw else 1)
            axes.hlines(goal, number - 0.42, number + 0.42, color="black", linestyle="dashed", linewidth=1)
    axes.set_xticks(range(len(bars)), list(bars), fontsize=8)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    return f"{value / 1000:,.0f}k" if value >= 10_000 else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _steps(axes: Any, records: Sequence[Record]) -> None:
    """Draw p99 over the rate of the fan-out."""
    for target, colour in _COLOURS.items():
        points: dict[int, list[float]] = {}
        for one in records:
            if (one.scenario, one.target) == ("fanout", target) and one.variant.isdigit() and "p99" in one.values:
                points.setdefault(int(one.variant), []).append(one.values["p99"])
        line = sorted((rate, median(values)) for rate, values in points.items())
        axes.plot([x for x, _ in line], [y for _, y in line], "o-", color=colour, label=_NAMES[target])
    axes.axhline(100, color="black", linestyle="dashed", linewidth=1, label="goal")
    axes.axvline(400_000, color="black", linestyle="dotted", linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        title="Fan-out to 500 clients",
        xlabel="delivered events/s",
        ylabel="p99, ms",
    )
    axes.spines[["top", "right"]].set_visible(False)
