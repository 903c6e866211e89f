"""Server processes under test: started, waited for, and certainly stopped."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.feed.measure import descendants
from benchmarks.feed.workers import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).resolve().parents[2]
_PORTS = range(20_000, 32_000)
_START_SECONDS = 20.0
_STOP_SECONDS = 8.0


def free_port() -> int:
    """Return a port nobody listens on, below the range the kernel gives to clients."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


class Server:
    """One server process; what it prints goes to `<folder>/<name>.log`."""

    def __init__(self, name: str, command: Sequence[str], port: int, folder: Path) -> None:
        self.name = name
        self.port = port
        self._command = list(command)
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def pids(self) -> dict[int, str]:
        """Return {pid: command name} of it and its children."""
        return descendants(self.pid)

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                process_group=0,  # Ctrl-C is ours to handle
                preexec_fn=die_with_parent,  # noqa: PLW1509 - we start processes from one thread only
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process and self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        tail = self._log.read_text(errors="replace")[-1500:]
        raise RuntimeError(f"{self.name} does not listen on port {self.port}: {' '.join(self._command)}\n{tail}")

    def __exit__(self, *error: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        below = [pid for pid in descendants(process.pid) if pid != process.pid]
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            if Path(f"/proc/{pid}").exists() and pid not in (0, 1, os.getpid()):
                _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
