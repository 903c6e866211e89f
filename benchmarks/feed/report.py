"""What was found, for people: a table on the terminal, Markdown and JSON files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.feed.plan import Record
from benchmarks.feed.rows import ROWS, Row, middle, shown
from benchmarks.feed.targets import nats_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_HEAD = ("figure", "raw NATS", "Redis + Starlette", "product", "÷ raw", "÷ Redis", "goal", "")

_STEP_HEAD = ("delivered events/s", "ceiling of the generator", "raw NATS", "Redis + Starlette", "product")
_CONDITION_HEAD = ("scenario", "when (UTC)", "rounds", "cores used by others", "generator late", "a fixed loop")


def _ratio(values: dict[str, float], other: str) -> str:
    if "product" not in values or not values.get(other):
        return ""
    ratio = values["product"] / values[other]
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.2g} x"


def _spread(values: Sequence[float], unit: str) -> str:
    """Write the median, and how far the rounds lie apart."""
    if not values:
        return "-"
    text = shown(median(values), unit)
    low, high = (shown(value, "").removesuffix(" ") for value in (min(values), max(values)))
    return text if low == high else f"{text} ({low} to {high})"


def _line(row: Row, records: Sequence[Record]) -> list[str] | None:
    cells = row.cells(records)
    values = middle(cells)
    if not values:
        return None
    texts = [_spread(cells.get(name, ()), row.unit) for name in ("raw", "redis", "product")]
    met = row.met(values)
    verdict = "" if met is None else "met" if met else "NOT met"
    return [row.label, *texts, _ratio(values, "raw"), _ratio(values, "redis"), row.goal_text(), verdict]


def lines(records: Sequence[Record]) -> list[list[str]]:
    """Return the rows of the table that there are records for."""
    return [line for row in ROWS if (line := _line(row, records))]


def print_table(records: Sequence[Record], console: Console) -> None:
    """Print the table."""
    table = Table(*_HEAD, title="medians of all rounds")
    for line in lines(records):
        table.add_row(*line)
    console.print(table)


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = "|".join(["---", *["---:"] * (len(head) - 1)])
    table = [f"| {' | '.join(line)} |" for line in (head, *body)]
    return "\n".join([table[0], f"|{rule}|", *table[1:], ""])


def _steps(records: Sequence[Record]) -> list[list[str]]:
    """Return the fan-out, step by step."""
    body = []
    rates = sorted({int(one.variant) for one in records if one.scenario == "fanout" and one.variant.isdigit()})
    for rate in rates:
        cells = [f"{rate:,}"]
        for target in ("ceiling", "raw", "redis", "product"):
            some = [one.values for one in records if (one.variant, one.target) == (f"{rate}", target) and one.values]
            cells.append(_step(some))
        body.append(cells)
    return body


def _step(rounds: Sequence[dict[str, float]]) -> str:
    if not rounds:
        return ""
    p50, p99, worst = (median(one[name] for one in rounds) for name in ("p50", "p99", "max"))
    lost = sum(one["short"] for one in rounds)
    return f"{p50:.1f} / {p99:.1f} / {worst:.1f}" + (f" ({lost:.0f} clients short)" if lost else "")


def _conditions(records: Sequence[Record]) -> list[list[str]]:
    """Return what surrounded each scenario: when, how many rounds, and who else used the machine."""
    body = []
    for scenario in dict.fromkeys(one.scenario for one in records):
        some = [one for one in records if one.scenario == scenario]
        foreign = [one.values["foreign"] for one in some if "foreign" in one.values]
        late = [one.values["late_p99"] for one in some if "late_p99" in one.values]
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(one.at for one in some)))
        cells = [scenario, when, str(max(one.turn for one in some) + 1)]
        cells.append(f"{median(foreign):.2f} / {max(foreign):.2f}" if foreign else "")
        cells.append(f"{median(late):.2f} ms" if late else "")
        paces = [one.values["spin_ms"] for one in some if "spin_ms" in one.values]
        cells.append(f"{median(paces):.1f} / {max(paces):.1f} ms" if paces else "")
        body.append(cells)
    return body


def _failures(records: Sequence[Record]) -> str:
    failed = [one for one in records if one.errors]
    text = "".join(f"* {one.scenario} {one.variant}, {one.target}: {one.errors[0][:300]!r}\n" for one in failed[:20])
    return f"\n## What failed\n\n{text}" if text else ""


def machine() -> dict[str, str]:
    """Return what this ran on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    packages = {name: version(name) for name in ("uvloop", "starlette", "uvicorn", "redis", "hiredis")}
    return {
        "machine": f"{os.cpu_count()} cores, {cpu.partition(': ')[2]}, Linux {platform.release()}",
        "python": platform.python_version(),
        "nats-server": _first_line(nats_server(), "-v").replace(":", ""),
        "redis-server": _first_line("redis-server", "--version").partition("v=")[2].partition(" ")[0],
        **packages,
    }


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "not installed"


def load(path: Path) -> list[Record]:
    """Return the records of earlier runs."""
    if not path.exists():
        return []
    return [Record(**one) for one in json.loads(path.read_text())["records"]]


def write(records: Sequence[Record], folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    content = {"machine": about, "records": [asdict(one) for one in records]}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    system = " · ".join(
        value if key in ("machine", "nats-server") else f"{key} {value}" for key, value in about.items()
    )
    quick = "\nA quick run: everything was smaller and shorter than the labels say. Not to be quoted.\n"
    text = f"""# The feed, measured
{quick if name.endswith("quick") else ""}
{system}

Written by `python -m benchmarks.feed`. What each figure means, and how far to trust it, is in
[../README.md](../README.md). Medians of all rounds. Raw NATS and Redis ran in the same run as the product,
in turn, on the same cores.

{_markdown(_HEAD, lines(records))}
![plot]({name}.png)

## Fan-out to 500 clients, step by step: p50 / p99 / worst, ms

{_markdown(_STEP_HEAD, _steps(records))}
## Conditions

"Cores used by others": median and most, of this machine's; "a fixed loop": how long the same piece of work took on
a core, median and most; "generator late": how long after a token was due the generator wrote it, 99th percentile.
All of it is included in the figures.

{_markdown(_CONDITION_HEAD, _conditions(records))}{_failures(records)}"""
    (folder / f"{name}.md").write_text(text)
