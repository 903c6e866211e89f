"""Shared work: contenders take tasks one at a time; what a dead one had is taken by another."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator_free.coordination.holding import Lease, attempt, check_lasting
from orchestrator_free.coordination.words import Board, Standing, check_seconds, standing
from orchestrator_free.subjects import check_name

if TYPE_CHECKING:
    from orchestrator_free.session import Session


class Task(Lease):
    """A task that this process has taken: `async with task:` does it.

    When the block ends the task is done, and nobody takes it again; if it raises, the task is given back.

    Attributes:
        task: its name in the pool.
        value: what came with the name, None where the tasks are names only.
        result: set it in the block; everybody can read it in the lease's `data`.
    """

    task: str = ""
    value: Any = None
    result: Any = None

    async def _leave(self) -> None:
        await self.release(done=True, data=self.result)


async def share(
    session: Session, pool: str, tasks: Mapping[str, Any] | Iterable[str], *, seconds: float = 10.0
) -> AsyncIterator[Task]:
    """Yield the tasks of a pool that this process is to do, until all are done, by whomever.

        async for task in share(session, "pages", {"p1": url1, "p2": url2}):
            async with task:
                task.result = await read(task.value)

    Whoever passes the same tasks takes part. A task is done once, but may be begun again: its `term` says how often.
    A task of a process that died is begun again after `seconds`.

    Args:
        session: where.
        pool: of tasks that belong together; the lease of a task is `<pool>-<task>`.
        tasks: names, with or without a value each.
        seconds: how long a task outlives its process.
    """
    check_lasting(seconds)
    named = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    leases = {check_name("task", f"{pool}-{task}"): task for task in named}
    with Board(session) as board:
        await board.read()
        impatient = False
        while True:
            known = board.leases()
            left = [name for name in leases if name not in known or known[name]["status"] != "done"]
            if not left:
                return
            task = await _take(session, board, left, seconds, impatient=impatient)
            impatient = False
            if task is not None:
                task.task = leases[task.name]
                task.value = named[task.task]
                yield task
            elif not await board.heard(check_seconds(seconds)):
                await board.read()
                impatient = True


async def _take(session: Session, board: Board, left: list[str], seconds: float, *, impatient: bool) -> Task | None:
    """Take one of these tasks; None if there is none to be had now."""
    for name in random.sample(left, len(left)):
        if not impatient and not Standing(board.leases().get(name), 0).free:
            continue
        found = await standing(session, name, impatient=impatient)
        held = await attempt(session, name, seconds, found, None, Task) if found.free else None
        if held is not None:
            return held
    return None
