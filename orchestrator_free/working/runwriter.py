"""The writer that puts a run into the log.

The writer is ack-clocked: one publish is in flight, what the handler writes meanwhile is merged into the next. On a
near broker every token is an event of its own; on a far or busy one events get fewer and larger by themselves. Every
write expects the last sequence of the run, so order, retries and the fencing of a dead attempt are one mechanism.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final

import orjson

from orchestrator_free import tracing
from orchestrator_free.errors import Conflict, OrchestratorFreeError, RunFenced, RunFinished
from orchestrator_free.events import Body, encode
from orchestrator_free.fold import RunFold
from orchestrator_free.fold.run import ENDING_BYTES, ending
from orchestrator_free.jetstream import Objects, Wire
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.subjects import STEWARD
from orchestrator_free.vocabulary import validate

#: characters of merged text in one event; in JSON a character takes 6 bytes at most
MERGE_CHARACTERS: Final = 32 * 1024
#: events whose text is merged while they wait, by their fields; one that carries more stays as it is
DELTAS: Final = {
    "text.delta": {"type", "part", "text"},
    "reasoning.delta": {"type", "part", "text"},
    "tool.input.delta": {"type", "call", "tool", "text"},
}
#: bytes a handler may be ahead of the broker before its writes wait
_AHEAD: Final = 512 * 1024
#: a finished run above this goes to the object store
INLINE_LIMIT: Final = ENDING_BYTES
_HEADROOM: Final = 8 * 1024


def now() -> str:
    """Return the time as the broker writes it: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Waiting:
    """An event behind the one in flight: a plain delta may still grow, all else is encoded already."""

    __slots__ = ("body", "key", "payload", "size")

    def __init__(self, body: Body) -> None:
        self.body = body
        self.key: tuple[str, str] | None = None
        self.payload = b""
        if body.keys() == DELTAS.get(body["type"]):
            self.body = dict(body)
            self.key = (body["type"], body.get("part") or body.get("call") or "")
            self.size = len(body["text"])
        else:
            self.payload = encode(body)
            self.size = len(self.payload)

    def grow(self, text: str) -> None:
        """Append to the delta."""
        self.body["text"] += text
        self.size += len(text)


class RunWriter:
    """Publishes one attempt of a run.

    Attributes:
        fold: what was written so far, folded.
        begun: when the handler was called, None before; of `perf_counter`, as the next two.
        first_write: the attempt's first output, None before.
        last_write: its latest output, or its beginning.
        stalled: whether it was said that it writes nothing.
        silence: the longest time between two outputs in which it waited for nobody.
    """

    def __init__(self, wire: Wire, subject: str, fold: RunFold, *, last: int) -> None:
        self._wire = wire
        self._subject = subject
        self._last = last
        self._pending: deque[_Waiting] = deque()
        self._merge: dict[tuple[str, str], _Waiting] = {}
        self._ahead = 0
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._ended = False
        self.fold = fold
        self.first_write: float | None = None
        self.begun: float | None = None
        self.last_write = perf_counter()
        self.stalled = False
        self.silence = 0.0

    @property
    def last(self) -> int:
        """Sequence of the last event that is stored of this run, as far as this writer knows."""
        return self._last

    async def start(self, attempt: int, source: str, parent: Any, replica: str, *, whisper: bool = False) -> None:
        """Begin an attempt: from its position on, earlier attempts' output no longer counts.

        Raises:
            Conflict: another replica began one first.
        """
        body: Body = {"type": "run.started", "attempt": attempt, "input": source, "replica": replica}
        if parent is not None:
            body["parent"] = parent
        if whisper:
            body["whisper"] = True
        trace = tracing.traceparent("run.started")
        self._last = await self._wire.publish(self._subject, encode(body), expect=self._last, trace=trace)
        self.fold.apply(body, self._last, now())

    async def write(self, body: Body) -> None:
        """Append an event; returns as soon as there is room, not when it is stored.

        Raises:
            RunFinished: the run has ended.
            RunFenced: another attempt owns the run.
            BrokerError: an earlier event could not be stored.
        """
        if self._error is not None:
            raise self._error
        if self._ended:
            raise RunFinished(f"run {self.fold.run} has ended, {body['type']} was not written")
        waited = self.fold.waiting is not None
        if not self.fold.apply(body, self.fold.last, now()):
            validate("run", body)
            raise RunFinished(f"part {body.get('part')!r} of run {self.fold.run} is closed")
        waiting = _Waiting(body)
        self._wrote(waited=waited)
        self._append(waiting)
        if self._ahead > _AHEAD:
            self._room.clear()
            await self._room.wait()
        else:
            await asyncio.sleep(0)  # let what is ready to leave, leave: a handler need not await anything else

    def begin(self) -> None:
        """The handler is called now."""
        self.begun = self.last_write = perf_counter()

    def _wrote(self, *, waited: bool) -> None:
        at = perf_counter()  # uvloop's own clock ticks in milliseconds
        if self.first_write is None:
            self.first_write = at
        if not waited and at - self.last_write > self.silence:
            self.silence = at - self.last_write
        self.last_write = at
        self.stalled = False

    async def stall(self, seconds: float) -> None:
        """Say that the handler writes nothing; nothing is said while something is under way to the broker.

        Raises:
            RunFinished, RunFenced, BrokerError: as `write`.
        """
        if self._task is None:
            first, latest = self.first_write, self.last_write
            await self.write({"type": "run.stalled", "seconds": seconds})
            self.first_write, self.last_write, self.stalled = first, latest, True

    def _append(self, waiting: _Waiting) -> None:
        """Queue an event; a delta is merged into a waiting one of its part, unless something else was written since."""
        self._ahead += waiting.size
        before = self._merge.get(waiting.key) if waiting.key else None
        if before is not None and before.size + waiting.size <= MERGE_CHARACTERS:
            before.grow(waiting.body["text"])
            return
        if waiting.key:
            self._merge[waiting.key] = waiting
        else:
            self._merge.clear()
        self._pending.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Publish what waits, one at a time, each expecting the one before."""
        try:
            while self._pending:
                waiting = self._pending.popleft()
                if waiting.key and self._merge.get(waiting.key) is waiting:
                    del self._merge[waiting.key]
                payload = waiting.payload or encode(waiting.body)
                self._last = await self._wire.publish(self._subject, payload, expect=self._last)
                self._ahead -= waiting.size
                if self._ahead <= _AHEAD:
                    self._room.set()
        except Conflict as conflict:
            self._error = RunFenced(f"another attempt owns run {self.fold.run} of {self.fold.agent}: {conflict}")
        except OrchestratorFreeError as error:
            self._error = error
        finally:
            self._task = None
            self._room.set()

    async def drained(self) -> None:
        """Wait until everything written is stored.

        Raises:
            RunFenced, BrokerError: it will not be.
        """
        while self._task is not None:
            await asyncio.shield(self._task)
        if self._error is not None:
            raise self._error

    @property
    def limit(self) -> int:
        """The largest event that can be written, in bytes."""
        return self._wire.max_payload - _HEADROOM

    @property
    def fenced(self) -> bool:
        """Whether another attempt owns the run."""
        return isinstance(self._error, RunFenced)

    async def finish(
        self, status: str, error: str | None, objects: Objects, session: str, *, into: Any = None, compact: bool
    ) -> None:
        """End the run with one self-contained event that replaces its deltas.

        Args:
            status: how.
            error: why, if that has to be said.
            objects: where a large run goes.
            session: whose it is.
            into: the run that took its input as a steer.
            compact: whether it replaces them.

        Raises:
            RunFenced: another attempt owns the run.
        """
        self._ended = True
        await self.drained()
        body = finished(self.fold, status, error) | ({} if into is None else {"into": into}) | self._timing()
        payload = encode(body)
        if len(payload) > min(INLINE_LIMIT, self.limit):
            payload = encode(await outsource(body, session, objects))
        try:
            self._last = await self._wire.publish(self._subject, payload, expect=self._last, rollup=compact)
            if compact and not self._wire.rollups:  # lost, it is made up for later
                self._wire.send(f"{STEWARD}compact.{self._subject}")
        except Conflict as conflict:
            self._error = RunFenced(f"another attempt owns run {self.fold.run} of {self.fold.agent}: {conflict}")
            raise self._error from conflict

    def _timing(self) -> Body:
        """Return what was measured of this attempt; nothing where its handler was not called."""
        if self.begun is None:
            return {}
        first = None if self.first_write is None else round(self.first_write - self.begun, 3)
        silence = self.silence if self.fold.waiting is not None else max(self.silence, perf_counter() - self.last_write)
        return {"timing": {"first_output_seconds": first, "longest_silence_seconds": round(silence, 3)}}


def finished(fold: RunFold, status: str, error: str | None) -> Body:
    """Return the self-contained end of a run; tool calls still open end as errors."""
    return ending(fold, status, error, now())


async def outsource(body: Body, session: str, objects: Objects) -> Body:
    """Move the parts of a large finished run to the object store; return the event that points there."""
    stored = orjson.dumps({"parts": body["parts"], "attempts": body["attempts"]})
    name = object_name(stored, "run")
    await objects.put(session, name, stored)
    return {key: value for key, value in body.items() if key not in ("parts", "attempts")} | {"object": name}
