"""The steward: hears what is asked, one of all stewards each, and answers as the broker would."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, Final, Self

import orjson

from orchestrator_free import logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, Conflict, OrchestratorFreeError
from orchestrator_free.jetstream.replies import WRONG_LAST_SEQUENCE
from orchestrator_free.loop import Background
from orchestrator_free.steward import duties
from orchestrator_free.subjects import AT, STEWARD

_log = logs.logger("orchestrator_free.steward")

_QUEUE: Final = "steward"
#: under way at once; who asks beyond it is told to ask again
_AT_ONCE: Final = 256
_TRY_AGAIN: Final = 10008
_SWEEP_SECONDS: Final = 600.0
_DO: Final = "set allow_rollup_hdrs to false on the shards and the object store, then start everything again"


class Steward:
    """Serves a tenant while the block runs: `async with Steward(broker):`.

    Attributes:
        done: requests that were met. refused: those that were not. dropped: events that compaction has dropped.
    """

    def __init__(self, broker: Broker, *, sweep_seconds: float = _SWEEP_SECONDS) -> None:
        """Prepare.

        Args:
            broker: a connection in the core role.
            sweep_seconds: between two looks for what nobody has asked to compact; the first comes within a tenth of it.
        """
        self._broker = broker
        self._log = broker.log
        self._sweep_seconds = sweep_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper = Background()
        self._warned = False
        self.done = 0
        self.refused = 0
        self.dropped = 0

    async def __aenter__(self) -> Self:
        self._release = self._log.wire.subscribe(f"{STEWARD}>", self._on_request, queue=_QUEUE)
        self._sweeper.begin(self._sweep(), "steward")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release()
        await self._sweeper.end()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _on_request(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        if len(self._tasks) >= _AT_ONCE:
            self._answer(reply, {"error": _error(_TRY_AGAIN, "the steward is busy")})
            return
        task = asyncio.create_task(self._serve(subject.removeprefix(STEWARD), reply, payload, header))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, what: str, reply: str, payload: bytes, header: bytes) -> None:
        try:
            answer = await self._do(what, payload, header)
            self.done += 1
        except Conflict as conflict:
            answer = {"error": _error(WRONG_LAST_SEQUENCE, f"wrong last sequence: {conflict.actual}")}
        except (OrchestratorFreeError, ValueError) as error:
            self.refused += 1
            answer = {"error": _error(getattr(error, "code", 0), str(error))}
            _log.warning("a request was refused", subject=STEWARD + what, reason=str(error))
        self._answer(reply, answer)

    async def _do(self, what: str, payload: bytes, header: bytes) -> dict[str, Any]:
        duty, _, rest = what.partition(".")
        if self._log.wire.rollups and duty != "compact" and not self._warned:
            self._warned = True
            _log.error(
                "agents of an isolated account are here, and the log takes roll-ups: any of them can wipe it", do=_DO
            )
        if duty == "object":
            return await duties.describe(self._broker.objects, rest, payload)
        if duty == "consumer":
            stream, _, name = rest.partition(".")
            return await duties.consumer(self._log, stream, name, payload)
        if duty == "compact":
            dropped = await duties.compact(self._log, rest)
            self.dropped += dropped
            return {"dropped": dropped}
        if f"{duty}." == AT:
            return await duties.time(self._log, rest, payload, header)
        raise BrokerError(f"a steward knows no {duty!r}")

    def _answer(self, reply: str, answer: dict[str, Any]) -> None:
        if reply:
            self._log.wire.send(reply, orjson.dumps(answer))

    async def _sweep(self) -> None:
        """Compact what nobody has asked for: a process died first, or no steward was there."""
        await asyncio.sleep(self._sweep_seconds / 10 * random.random())
        while True:
            for shard in range(0 if self._log.wire.rollups else self._log.shards):
                try:
                    self.dropped += await duties.sweep(self._log, shard)
                except BrokerError as error:
                    _log.warning("cannot compact, trying again later", shard=shard, error=str(error))
            await asyncio.sleep(self._sweep_seconds * random.uniform(0.9, 1.1))


def _error(code: int, description: str) -> dict[str, Any]:
    return {"code": 503 if code == _TRY_AGAIN else 400, "err_code": code, "description": description}
