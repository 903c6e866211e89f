"""Processes of the load generator: each does one job and is gone, at the latest when the benchmark is."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import signal
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

Pipe = Connection
_PR_SET_PDEATHSIG = 1
_FORK = multiprocessing.get_context("fork")


class WorkerError(RuntimeError):
    """A process of the generator ended with an error, or said nothing in time."""


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _main(work: Callable[[Pipe, Any], object], pipe: Pipe, job: object) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        pipe.send(work(pipe, job))
    except BaseException:
        pipe.send(WorkerError(traceback.format_exc()))


class Worker:
    """Runs `work(pipe, job)` in a process of its own; what it returns arrives as its last message."""

    def __init__(self, work: Callable[[Pipe, Any], object], job: object) -> None:
        self._name = work.__name__
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_main, args=(work, theirs, job), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid or 0

    def tell(self, message: object) -> None:
        """Send it a message."""
        self._pipe.send(message)

    def hear(self, seconds: float = 60.0) -> Any:
        """Return its next message."""
        if not self._pipe.poll(seconds):
            raise WorkerError(f"{self._name} said nothing for {seconds:g} s")
        try:
            message = self._pipe.recv()
        except EOFError as error:
            raise WorkerError(f"{self._name} ended without a word") from error
        if isinstance(message, WorkerError):
            raise message
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join(3)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(3)
        self._pipe.close()


def run(work: Callable[[Pipe, Any], Any], job: object, *, seconds: float = 120.0) -> Any:
    """Do one job in a process of its own and return its result; anything it says before is skipped."""
    end = time.monotonic() + seconds
    with Worker(work, job) as worker:
        while (message := worker.hear(max(0.1, end - time.monotonic()))) == "ready":
            pass
        return message
