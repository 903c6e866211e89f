"""Commands as real processes, each in a folder of its own; none of them outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = "import sys\nfrom orchestrator_free.cli import main\nsys.argv[0] = 'orchestrator-free'\nmain()\n"


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """Its standard output as lines of JSON."""
        return [orjson.loads(line) for line in self.out.split("\n") if line]


class Commands:
    """Runs `orchestrator-free …`, to the end or in the background."""

    def __init__(self, folder: Path, programs: Any, url: str) -> None:
        self.folder = folder
        self.url = url
        self._programs = programs
        self.script = folder / "command.py"
        self.script.write_text(SCRIPT)

    def __call__(self, *arguments: str, stdin: str = "", seconds: float = 40, **environment: str) -> Done:
        """Run a command to its end."""
        environment = {**os.environ, "ORCHESTRATOR_FREE_URL": self.url, "COLUMNS": "100", **environment}
        found = subprocess.run(
            [sys.executable, str(self.script), *arguments],
            input=stdin.encode(), capture_output=True, timeout=seconds, cwd=self.folder, env=environment,
        )  # fmt: skip
        return Done(found.returncode, found.stdout.decode(errors="replace"), found.stderr.decode(errors="replace"))

    def start(self, *arguments: str, **environment: str) -> Any:
        """Start a command in the background: a `Program`."""
        return self._programs.start(self.script, *arguments, **environment)


@pytest.fixture
def command(tmp_path: Path, programs: Any, broker_url: str) -> Iterator[Commands]:
    """`command("send", "s1", "hello")` over the module's broker."""
    yield Commands(tmp_path, programs, broker_url)


@pytest.fixture
def processes() -> Callable[[str], list[int]]:
    """Return the pids of processes with a text in their command line or environment, ours excluded."""

    def found(text: str) -> list[int]:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        return [pid for pid in pids if pid != os.getpid() and text in _about(pid)]

    return found


def _about(pid: int) -> str:
    try:
        files = [Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ")]
    except OSError:
        return ""
    return " ".join(files).replace("\0", " ")
