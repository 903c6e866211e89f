"""`python -m benchmarks.feed [scenario ...] [--quick]`: the feed beside raw NATS and a Redis baseline."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.feed import report
from benchmarks.feed.plan import Plan, Record
from benchmarks.feed.scenarios import ORDINARY, SCENARIOS
from benchmarks.feed.targets import GATEWAY, TARGETS, Product

if TYPE_CHECKING:
    from collections.abc import Iterator

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_AUTOGROUP = Path("/proc/self/autogroup")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="scenario", help=f"all (but soak), or some of {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, not how fast it is")
    parser.add_argument("--rounds", type=int, help="how often the targets take turns (3; quick: 1)")
    parser.add_argument("--minutes", type=float, help="of each half of a soak (10; quick: 1)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated (%(default)s)")
    parser.add_argument("--product", default=GATEWAY, metavar="COMMAND", help="starts the gateway (%(default)s)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where to write (%(default)s)")
    parser.add_argument("--priority", action="store_true", help="run before other work of a shared machine (root)")
    options = parser.parse_args()
    chosen = options.scenarios or ["all"]
    options.scenarios = list(ORDINARY) if "all" in chosen else chosen
    options.targets = tuple(options.targets.split(","))
    for name in {*options.scenarios} - {*SCENARIOS} | {*options.targets} - {*TARGETS}:
        parser.error(f"{name!r} is neither a scenario ({', '.join(SCENARIOS)}) nor a target ({', '.join(TARGETS)})")
    return options


@contextlib.contextmanager
def _priority(wanted: bool) -> Iterator[None]:
    """Raise the scheduling group of this terminal session for a while."""
    if not wanted:
        yield
        return
    before = _AUTOGROUP.read_text().rpartition("nice ")[2].strip()
    _AUTOGROUP.write_text("-15")
    try:
        yield
    finally:
        _AUTOGROUP.write_text(before)


def _measure(options: argparse.Namespace, console: Console) -> Iterator[list[Record]]:
    """Run the scenarios; yield the records of each when it is complete."""
    minutes = options.minutes or (1.0 if options.quick else 10.0)
    for name in options.scenarios:
        found: list[Record] = []
        with tempfile.TemporaryDirectory(prefix="feed-") as folder:
            plan = Plan(
                options.quick, options.rounds or (1 if options.quick else 3), options.targets, Path(folder), minutes
            )
            for record in SCENARIOS[name](plan):
                found.append(record)
                console.print(_progress(record), highlight=False, markup=False, soft_wrap=True)
        there = {record.target for record in found}
        wanted = options.targets if name in ORDINARY else [Product.name]
        yield found + [
            Record(name, "preparation", target, 0, errors=["did not start"]) for target in wanted if target not in there
        ]


def _progress(record: Record) -> str:
    names = ("p50", "p99", "max", "all_ms", "events_per_s", "gateway_kib", "broker_kib", "short", "foreign")
    values = "  ".join(f"{name} {record.values[name]:,.2f}" for name in names if name in record.values)
    head = f"{record.scenario:8} {record.variant:14} {record.target:8} #{record.turn}"
    return f"{head}  {values}" + "".join(f"\n    {error}" for error in record.errors[:1])


def main() -> int:
    """Run, print and write; 0 if everything could be measured."""
    options = _options()
    Product.command = options.product
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    console = Console(width=None if sys.stdout.isatty() else 180)
    name = "feed-quick" if options.quick else "feed"
    measured: list[Record] = []
    try:
        with _priority(options.priority):
            for found in _measure(options, console):
                measured += found
    except KeyboardInterrupt:
        console.print("stopped; what was complete is in the results")
        return 130
    finally:
        _keep(measured, options.results, name, console)
    return int(any(record.errors for record in measured))


def _keep(measured: list[Record], folder: Path, name: str, console: Console) -> None:
    """Show what was measured, and write it in place of what earlier runs of the same scenarios found."""
    if not measured:
        return
    again = {record.scenario for record in measured}
    records = [one for one in report.load(folder / f"{name}.json") if one.scenario not in again] + measured
    report.write(records, folder, name)
    report.print_table(measured, console)
    from benchmarks.feed.plot import draw  # imported late: forks of this process stay small

    draw(records, folder / f"{name}.png")
    console.print(f"written: {folder}/{name}.md, .json, .png")


if __name__ == "__main__":
    sys.exit(main())
