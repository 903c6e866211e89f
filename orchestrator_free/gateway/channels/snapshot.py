"""The view of a session as JSON, made once per position however many ask for it."""

from __future__ import annotations

import asyncio

import orjson

from orchestrator_free.fold import Fold, View
from orchestrator_free.jetstream import Objects
from orchestrator_free.session.completion import complete
from orchestrator_free.subjects import Position


class Snapshots:
    """The newest snapshot, and those that are being made."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._made: tuple[int, bytes] | None = None
        self._making: dict[int, asyncio.Task[bytes]] = {}

    async def take(self, fold: Fold, position: Position) -> bytes:
        """Return the view as of now, with what large runs keep in the object store.

        Raises:
            BrokerError: that cannot be read now.
        """
        at = position.sequence
        if self._made is not None and self._made[0] == at:
            return self._made[1]
        task = self._making.get(at)
        if task is None:
            view = fold.view(str(position))
            data = orjson.dumps(view)  # now: the fold goes on while the objects are fetched
            if not _is_partial(view):
                self._made = (at, data)
                return data
            task = self._making[at] = asyncio.create_task(self._complete(at, data), name=f"snapshot {fold.session}")
            task.add_done_callback(lambda _: self._making.pop(at, None))
        return await asyncio.shield(task)

    async def _complete(self, at: int, data: bytes) -> bytes:
        whole = orjson.dumps(await complete(orjson.loads(data), self._objects))
        if self._made is None or self._made[0] < at:
            self._made = (at, whole)
        return whole


def _is_partial(view: View) -> bool:
    return any(run["object"] and not run["parts"] for agent in view["agents"] for run in agent["runs"])
