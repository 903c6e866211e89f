"""Commands as real processes, each in a folder of its own; none of them outlives its test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
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


class Zygotes:
    """Processes that have imported everything and fork commands; one for each command that runs at the same time."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []

    def run(self, request: dict[str, Any], seconds: float) -> int:
        """Run a command and return its exit code."""
        zygote = self._idle.pop() if self._idle else self._start()
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(orjson.dumps(request) + b"\n")
        zygote.stdin.flush()
        if not select.select([zygote.stdout], [], [], seconds)[0]:
            os.killpg(zygote.pid, signal.SIGKILL)
            self._end(zygote)
            raise subprocess.TimeoutExpired(request["arguments"], seconds)
        code = int(zygote.stdout.readline())
        self._idle.append(zygote)
        return code

    def close(self) -> None:
        """End them all."""
        while self._idle:
            self._end(self._idle.pop())

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def _end(self, zygote: subprocess.Popen[bytes]) -> None:
        with zygote:
            assert zygote.stdin is not None
            zygote.stdin.close()


class Commands:
    """Runs `orchestrator-free …`, to the end or in the background."""

    def __init__(self, folder: Path, programs: Any, url: str, zygotes: Zygotes) -> None:
        self.folder = folder
        self.url = url
        self._programs = programs
        self._zygotes = zygotes
        self.script = folder / "command.py"
        self.script.write_text(SCRIPT)

    def __call__(self, *arguments: str, stdin: str = "", seconds: float = 40, **environment: str) -> Done:
        """Run a command to its end, in a process of its own."""
        environment = {**os.environ, "ORCHESTRATOR_FREE_URL": self.url, "COLUMNS": "100", **environment}
        with tempfile.TemporaryDirectory() as name:
            files = {kind: Path(name, kind) for kind in ("input", "output", "errors")}
            for file in files.values():
                file.write_text(stdin if file.name == "input" else "")
            request = {"arguments": arguments, "environment": environment, "folder": str(self.folder)}
            code = self._zygotes.run(request | {kind: str(file) for kind, file in files.items()}, seconds)
            out, err = (files[kind].read_bytes().decode(errors="replace") for kind in ("output", "errors"))
        return Done(code, out, err)

    def start(self, *arguments: str, **environment: str) -> Any:
        """Start a command in the background: a `Program`."""
        return self._programs.start(self.script, *arguments, **environment)


@pytest.fixture(scope="session")
def zygotes() -> Iterator[Zygotes]:
    """What commands are forked from."""
    found = Zygotes()
    yield found
    found.close()


@pytest.fixture
def command(tmp_path: Path, programs: Any, broker_url: str, zygotes: Zygotes) -> Iterator[Commands]:
    """`command("send", "s1", "hello")` over the module's broker."""
    yield Commands(tmp_path, programs, broker_url, zygotes)


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
