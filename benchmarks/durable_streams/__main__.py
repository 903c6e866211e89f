"""`python -m benchmarks.durable_streams`: the gateway beside the reference server, round by round, as ratios.

The same load generator drives each server in turn, several rounds; the best round of each counts, since everything else
on the machine only makes it slower. Writes `benchmarks/results/durable_streams.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "tests/durable_streams"
RESULT = HERE.parent / "results/durable_streams.md"
GATEWAY, FILE, MEMORY = "gateway, fsync", "reference 0.3.7, files, fsync", "reference 0.3.7, memory"
PORTS = {GATEWAY: 46310, FILE: 46311, MEMORY: 46312}


@contextmanager
def serving(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it is not needed any more."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/stream/none", timeout=1)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def commands(folder: Path) -> dict[str, list[str]]:
    """How each server is started."""
    cli = [
        sys.executable,
        "-m",
        "orchestrator_free",
        "up",
        "--durability",
        "fsync",
        "--broker-port",
        "0",
        "--data",
        str(folder / "gateway"),
    ]
    reference = ["node", str(HERE / "reference.mjs"), str(PACKAGES)]
    return {
        GATEWAY: [*cli, "--port", str(PORTS[GATEWAY])],
        FILE: [*reference, str(PORTS[FILE]), str(folder / "files")],
        MEMORY: [*reference, str(PORTS[MEMORY])],
    }


def better(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The better value of each measure: more per second, less time."""
    return {name: (max if name in ("per_second", "delivered") else min)(one[name], other[name]) for name in one}


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The best of several rounds, every server in each of them."""
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name, command in commands(Path(folder)).items():
            stack.enter_context(serving(command, PORTS[name]))
        for _ in range(rounds):
            for name, port in PORTS.items():
                load = ["node", str(HERE / "load.mjs"), f"http://127.0.0.1:{port}", str(seconds)]
                found = json.loads(subprocess.run(load, capture_output=True, check=True, text=True, timeout=300).stdout)
                known = best.get(name, found)
                best[name] = {what: better(found[what], known[what]) for what in found}
    return best


def table(best: dict[str, dict[str, Any]]) -> str:
    """The figures, each with its ratio to the reference server on files, which keeps what it acknowledged."""
    lines = ["| | " + " | ".join(PORTS) + " |", "|---|" + "---|" * len(PORTS)]
    for what, figures in best[FILE].items():
        for measure_name, reference in figures.items():
            if measure_name == "delivered":
                continue
            unit = "/s" if measure_name == "per_second" else " ms"
            name = "appends" if measure_name == "per_second" else measure_name
            values = [best[one][what][measure_name] for one in PORTS]
            cells = [f"{value:,.2f}{unit} ({value / reference:.2f} x)" for value in values]
            lines.append(f"| {what}: {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    best = measure(options.rounds, options.seconds)
    command = f"python -m benchmarks.durable_streams --rounds {options.rounds} --seconds {options.seconds:g}"
    about = (
        f"# Durable Streams beside the reference server\n\n`{command}`: events of 250 bytes, "
        f"Python {platform.python_version()}; best of the rounds, in parentheses the ratio to the reference on files. "
        f"Both sync each append. Load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores: compare within a row.\n\n"
    )
    RESULT.write_text(about + table(best) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
