"""The event loop of our own programs: uvloop where it is installed, asyncio's elsewhere; and a task beside it all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a program to its end."""
    with runner() as started:
        return started.run(main)


def runner() -> asyncio.Runner:
    """Return a runner with the fastest loop there is.

    What was imported until now stays for good: a collection does not look through it again, which takes 50 ms or more
    and lets everybody wait.
    """
    gc.freeze()
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


class Background:
    """A task that works beside its owner, from when that begins to when it ends."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start it."""
        self._task = asyncio.create_task(work, name=name)

    async def end(self) -> bool:
        """Cancel it, and wait until it has ended; return whether there was one."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True
