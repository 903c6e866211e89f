"""Starts agent programs as processes, restarts those that crash, and stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator_free import logs
from orchestrator_free.embedded.server import DIE_WITH_PARENT
from orchestrator_free.errors import InvalidInput
from orchestrator_free.working.attempts import AgentSettings, deployed

_log = logs.logger("orchestrator_free.launcher")

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
#: a process that lived this long starts its back-off anew
_STEADY_SECONDS: Final = 30.0
#: beyond what an agent gives its runs
_STOP_SECONDS: Final = 5.0


@dataclass(slots=True)
class Replica:
    """One process of a program.

    Attributes:
        pid: of the running process, None between two.
        starts: how often it was started.
        exit_code: of its last end.
    """

    program: Path
    number: int
    pid: int | None = None
    starts: int = 0
    exit_code: int | None = None


@dataclass(eq=False)
class Launcher:
    """Runs `replicas` processes of each program until stopped; `async with` starts and stops them.

    A process that ends with 0 is done; any other end starts it again, after a pause that grows.

    Attributes:
        environment: what the processes get beside ours.
        output: a file that what they print is appended to; None: it goes where ours goes.
        running: every process there is to be.
    """

    programs: Sequence[Path]
    replicas: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None
    running: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        for program in self.programs:
            if not program.is_file():
                raise InvalidInput(f"{str(program)!r} is no file; pass the path of an agent's program")
        if not 1 <= self.replicas <= 1000:
            raise InvalidInput(f"replicas={self.replicas}: expected 1 to 1000")
        self._stop_seconds = deployed(AgentSettings(), {**os.environ, **self.environment}).grace_seconds + _STOP_SECONDS
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Launcher:
        for program in self.programs:
            for number in range(1, self.replicas + 1):
                replica = Replica(program, number)
                self.running.append(replica)
                self._tasks.append(asyncio.create_task(self._keep(replica), name=f"{program.name} {number}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self) -> None:
        """Wait until every process is done."""
        await asyncio.gather(*self._tasks)

    async def _keep(self, replica: Replica) -> None:
        """Run one process after another until one ends well."""
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            replica.exit_code = await self._run(replica)
            if replica.exit_code == 0:
                return
            if loop.time() - begun > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            _log.warning(
                "agent process ended, starting it again", program=replica.program.name, replica=replica.number,
                exit_code=replica.exit_code, in_seconds=pause,
            )  # fmt: skip
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _run(self, replica: Replica) -> int:
        environment = {**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(replica.program)]
        if sys.platform == "linux":  # nothing is left running when we are killed
            command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
        with contextlib.ExitStack() as stack:
            stream = None if self.output is None else stack.enter_context(self.output.open("ab"))
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, start_new_session=True, stdout=stream, stderr=stream
            )
        replica.pid = process.pid
        replica.starts += 1
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _stop(process, self._stop_seconds)
            raise
        finally:
            replica.pid = None


async def _stop(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Ask, wait, then insist."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
