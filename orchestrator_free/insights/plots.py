"""The report as a picture, by matplotlib (extra `insights`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator_free.errors import InvalidInput
from orchestrator_free.insights.page import seconds

_BAR: Final = "#3867d6"
_ENDS: Final = {
    "done": "#1e8e5a", "running": "#3867d6", "cancelled": "#b8620e", "rejected": "#e0a458", "lost": "#8a5fbf",
    "error": "#c0392b", "failed": "#7f1d1d",
}  # fmt: skip
#: agents in a picture; the busiest
_AGENTS: Final = 15


def write_png(report: dict[str, Any], file: Path) -> None:
    """Draw session lengths, waiting for the first output, and how the runs of each agent ended.

    Raises:
        InvalidInput: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("pictures need matplotlib: pip install 'orchestrator-free[insights]'") from error
    busiest = sorted(report["agents"].items(), key=lambda item: -item[1]["runs"])[:_AGENTS]
    figure = Figure(figsize=(13, 4.2 + 0.28 * len(busiest)), layout="constrained")
    lengths, firsts, ends, waits = figure.subplots(2, 2).flatten()
    _bars(lengths, report["lengths"]["bars"], "Sessions by length")
    _bars(firsts, report["first_output"]["bars"], "Runs by wait for the first output, in the log")
    _ends(ends, busiest)
    _waits(waits, busiest)
    try:
        figure.savefig(file, dpi=120, format="png")
    except OSError as error:
        raise InvalidInput(f"cannot write {str(file)!r}: {error.strerror}") from error


def _bars(axes: Any, bars: Sequence[dict[str, Any]], title: str) -> None:
    labels = [f"≤ {seconds(bar['up_to'])}" if bar["up_to"] else "more" for bar in bars]
    shown = axes.bar(labels, [bar["count"] for bar in bars], color=_BAR)
    axes.bar_label(shown, labels=[str(bar["count"]) if bar["count"] else "" for bar in bars], fontsize=8)
    _plain(axes, title)
    axes.tick_params(axis="x", labelrotation=45)


def _ends(axes: Any, agents: Sequence[tuple[str, Any]]) -> None:
    names = [name for name, _ in agents]
    left = [0] * len(names)
    for status, color in _ENDS.items():
        counts = [agent["statuses"].get(status, 0) for _, agent in agents]
        if any(counts):
            axes.barh(names, counts, left=left, color=color, label=status)
            left = [one + other for one, other in zip(left, counts, strict=True)]
    if names:
        axes.invert_yaxis()
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    _plain(axes, "How runs end")


def _waits(axes: Any, agents: Sequence[tuple[str, Any]]) -> None:
    names = [name for name, _ in agents]
    for shift, quantile, color in ((-0.2, "p50", _BAR), (0.2, "p95", "#a9c1ff")):
        values = [agent["first_output"][quantile] or 0 for _, agent in agents]
        axes.barh([place + shift for place in range(len(names))], values, height=0.38, color=color, label=quantile)
    axes.set_yticks(range(len(names)), names)
    if names:
        axes.invert_yaxis()
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    _plain(axes, "Seconds to the first output")


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
