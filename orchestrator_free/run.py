"""A run as its agent's handler sees it, and the writer that puts it into the log.

The writer is ack-clocked: one publish is in flight, what the handler writes meanwhile is merged into the next. On a
near broker every token is an event of its own; on a far or busy one events get fewer and larger by themselves. Every
write expects the last sequence of the run, so order, retries and the fencing of a dead attempt are one mechanism.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog

from orchestrator_free.control import SentControl
from orchestrator_free.errors import Conflict, OrchestratorFreeError, RunFenced, RunFinished, TooLarge
from orchestrator_free.events import Body, encode, validate
from orchestrator_free.fold import RunFold, View
from orchestrator_free.jetstream import Objects, Wire
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.obedience import ActiveRun
from orchestrator_free.session import Session

_log = structlog.get_logger("orchestrator_free.agent")

#: bytes of merged text in one event
_MERGE: Final = 32 * 1024
#: bytes a handler may be ahead of the broker before its writes wait
_AHEAD: Final = 512 * 1024
#: a finished run above this goes to the object store
INLINE_LIMIT: Final = 256 * 1024
_HEADROOM: Final = 8 * 1024
#: delegations between a person and a run, and of one run: beyond them something goes round in circles
MAX_DEPTH: Final = 8
MAX_CHILDREN: Final = 64


def now() -> str:
    """Return the time as the broker writes it: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class RunWriter:
    """Publishes one attempt of a run.

    Attributes:
        fold: what was written so far, folded.
        first_write: loop time of the attempt's first output, None before.
    """

    def __init__(self, wire: Wire, subject: str, fold: RunFold, *, last: int) -> None:
        self._wire = wire
        self._subject = subject
        self._last = last
        self._pending: deque[Body] = deque()
        self._merge: dict[tuple[str, str], Body] = {}
        self._ahead = 0
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._ended = False
        self.fold = fold
        self.first_write: float | None = None

    async def start(self, attempt: int, source: str, parent: Any, replica: str) -> None:
        """Begin an attempt: from its position on, earlier attempts' output no longer counts.

        Raises:
            Conflict: another replica began one first.
        """
        body: Body = {"type": "run.started", "attempt": attempt, "input": source, "replica": replica}
        if parent is not None:
            body["parent"] = parent
        self._last = await self._wire.publish(self._subject, encode(body), expect=self._last)
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
        if not self.fold.apply(body, self.fold.last, now()):
            validate("run", body)
            raise RunFinished(f"part {body.get('part')!r} of run {self.fold.run} is closed")
        if self.first_write is None:
            self.first_write = asyncio.get_running_loop().time()
        self._append(body)
        if self._ahead > _AHEAD:
            self._room.clear()
            await self._room.wait()
        else:
            await asyncio.sleep(0)  # let what is ready to leave, leave: a handler need not await anything else

    def _append(self, body: Body) -> None:
        """Queue an event, merged into a waiting delta of the same part."""
        text = body.get("text")
        key = (body["type"], body.get("part") or body.get("call") or "")
        mergeable = body["type"].endswith(".delta")
        waiting = self._merge.get(key) if mergeable else None
        self._ahead += len(text) if isinstance(text, str) else 256
        if waiting is not None and len(waiting["text"]) + len(body["text"]) <= _MERGE:
            waiting["text"] += body["text"]
            return
        if mergeable:
            body = dict(body)
            self._merge[key] = body
        self._pending.append(body)
        if self._task is None:
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Publish what waits, one at a time, each expecting the one before."""
        try:
            while self._pending:
                body = self._pending.popleft()
                self._merge.pop((body["type"], body.get("part") or body.get("call") or ""), None)
                payload = encode(body)
                self._last = await self._wire.publish(self._subject, payload, expect=self._last)
                self._ahead = max(0, self._ahead - max(256, len(body.get("text", "")))) if self._pending else 0
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
    def fenced(self) -> bool:
        """Whether another attempt owns the run."""
        return isinstance(self._error, RunFenced)

    async def finish(self, status: str, error: str | None, objects: Objects, session: str, *, compact: bool) -> None:
        """End the run with one self-contained event that replaces its deltas.

        Raises:
            RunFenced: another attempt owns the run.
        """
        self._ended = True
        await self.drained()
        body = finished(self.fold, status, error)
        payload = encode(body)
        if len(payload) > min(INLINE_LIMIT, self._wire.max_payload - _HEADROOM):
            payload = encode(await outsource(body, session, objects))
        try:
            self._last = await self._wire.publish(self._subject, payload, expect=self._last, rollup=compact)
        except Conflict as conflict:
            self._error = RunFenced(f"another attempt owns run {self.fold.run} of {self.fold.agent}: {conflict}")
            raise self._error from conflict


def finished(fold: RunFold, status: str, error: str | None) -> Body:
    """Return the self-contained end of a run; tool calls still open end as errors."""
    for part in list(fold.parts.values()):
        if part.get("type") == "tool" and part.get("status") == "running":
            fold.apply({"type": "tool.error", "call": part["call"], "error": "the run ended first"}, fold.last, now())
    parts = [{name: value for name, value in part.items() if name != "open"} for part in fold.part_views()]
    body: Body = {
        "type": "run.finished", "status": status, "attempt": fold.attempt, "input": fold.input, "usage": fold.usage,
        "parts": parts, "attempts": fold.attempts, "first": fold.first, "started": fold.started,
    }  # fmt: skip
    return body | {name: value for name, value in (("error", error), ("parent", fold.parent)) if value is not None}


async def outsource(body: Body, session: str, objects: Objects) -> Body:
    """Move the parts of a large finished run to the object store; return the event that points there."""
    stored = orjson.dumps({"parts": body["parts"], "attempts": body["attempts"]})
    name = object_name(stored, "run")
    await objects.put(session, name, stored)
    return {key: value for key, value in body.items() if key not in ("parts", "attempts")} | {"object": name}


@dataclass(frozen=True, slots=True)
class RunInput:
    """What the run is to do.

    Attributes:
        id: the input's id. sender: the member who sent it.
        text: the message. data: what came with it. parent: the run that delegated it, if any.
        redirects: the run that was ended for this one, if any. depth: delegations since a person asked.
    """

    id: str
    sender: str
    text: str
    data: Any
    parent: Any
    redirects: Any = None
    depth: int = 0


class ToolCall:
    """A tool call in progress; set `output` before the block ends.

    Attributes:
        call: its id within the run.
        output: what the tool gave, anything JSON.
    """

    __slots__ = ("_run", "call", "output")

    def __init__(self, run: Run, call: str) -> None:
        self._run = run
        self.call = call
        self.output: Any = None

    async def progress(self, output: Any) -> None:
        """Show an output that the next one replaces."""
        await self._run.emit({"type": "tool.output", "call": self.call, "output": output, "preliminary": True})


class Run:
    """One attempt of a run, as the handler sees it. Writes may be called from several tasks at once.

    Attributes:
        id: the run's id. agent: the agent's name. attempt: 1, or more after a crash.
        input: what to do. session: the session, for reading and sending.
        earlier: what lost attempts had written, as in the view's `attempts`.
    """

    def __init__(
        self, session: Session, writer: RunWriter, source: RunInput, objects: Objects, active: ActiveRun
    ) -> None:
        self._writer = writer
        self._active = active
        self._children = 0
        self._objects = objects
        self._open: tuple[str, str] | None = None
        self._counter = 0
        self.id = writer.fold.run
        self.agent = writer.fold.agent
        self.attempt = writer.fold.attempt
        self.earlier: list[View] = writer.fold.attempts
        self.input = source
        self.session = session

    async def emit(self, body: Mapping[str, Any]) -> None:
        """Write an event of the vocabulary (`orchestrator_free.events`) as it is; unknown types pass through.

        Raises:
            InvalidEvent: a known type with a wrong field.
            TooLarge: beyond what the broker takes in one message; use `file()`.
        """
        event = dict(body)
        if not str(event.get("type", "")).endswith(".delta"):
            size, limit = len(encode(event)), self._writer._wire.max_payload - _HEADROOM
            if size > limit:
                raise TooLarge(f"{event.get('type')} has {size} bytes, the limit is {limit}: write it with run.file()")
        await self._active.going.wait()
        await self._writer.write(event)

    def _next(self) -> str:
        self._counter += 1
        return str(self._counter)

    async def text(self, text: str) -> None:
        """Append to the answer; text after anything else opens a new part."""
        await self._stream("text", text)

    async def reasoning(self, text: str) -> None:
        """Append to the reasoning."""
        await self._stream("reasoning", text)

    async def _stream(self, kind: str, text: str) -> None:
        if self._open is None or self._open[0] != kind:
            await self._close_part()
            self._open = (kind, self._next())
        part = self._open[1]
        await self._active.going.wait()
        for start in range(0, len(text), _MERGE):
            piece = text[start : start + _MERGE]
            await self._writer.write({"type": f"{kind}.delta", "part": part, "text": piece})

    async def _close_part(self) -> None:
        if self._open is not None:
            (kind, part), self._open = self._open, None
            await self._writer.write({"type": f"{kind}.end", "part": part})

    @asynccontextmanager
    async def tool(self, tool: str, input: Any = None, *, call: str | None = None) -> AsyncIterator[ToolCall]:
        """Show a tool call; its duration is that of the block, an exception becomes `tool.error` and goes on."""
        await self._close_part()
        current = ToolCall(self, call or f"call-{self._next()}")
        await self.emit({"type": "tool.input", "call": current.call, "tool": tool, "input": input})
        try:
            yield current
        except Exception as error:
            await self.emit({"type": "tool.error", "call": current.call, "error": safe_message(error)})
            raise
        await self.emit({"type": "tool.output", "call": current.call, "output": current.output})

    async def source(self, url: str, *, title: str | None = None, id: str | None = None) -> None:
        """Name something the answer rests on."""
        await self._close_part()
        await self.emit({"type": "source", "id": id or f"source-{self._next()}", "url": url, "title": title})

    async def data(self, name: str, data: Any, *, id: str | None = None, transient: bool = False) -> None:
        """Write structured output; the same name and id replaces, transient output is shown but not kept."""
        await self._close_part()
        body = {"type": "data", "name": name, "data": data}
        if id is not None:
            body["id"] = id
        if transient:
            body["transient"] = True
        await self.emit(body)

    async def file(self, name: str, content: bytes, *, media_type: str = "application/octet-stream") -> None:
        """Store a file with the session and show it."""
        await self._close_part()
        stored = object_name(content, "file")
        await self._objects.put(self.session.id, stored, content)
        await self.emit(
            {"type": "file", "name": name, "media_type": media_type, "object": stored, "size": len(content)}
        )

    async def usage(self, **usage: float) -> None:
        """Add to what the run has used, e.g. `input_tokens=10`."""
        await self.emit({"type": "usage", "usage": usage})

    async def notice(self, message: str) -> None:
        """Tell that something went wrong that does not end the run."""
        await self.emit({"type": "error", "message": message})

    async def result_of(self, agent: str, run: str | None = None, *, timeout: float | None = None) -> View:
        """Wait until another agent's run is finished: by default its run for this same input.

        Returns:
            The run as in the view: `status`, `parts`, `usage`, …

        Raises:
            TimeoutError: not finished in time (seconds).
        """
        return await self.session.result(agent, run or self.id, timeout=timeout)

    # -- with others --------------------------------------------------------------------------------------------

    async def steers(self) -> list[Steer]:
        """Return what people have said to this run since the last call; call it between the steps of the work.

        Each is `applied` in the log by being returned here; those never looked at become `too_late`.
        """
        await self._active.going.wait()
        return [
            Steer(event.member, event.body["text"], event.body.get("data"))
            for event in await self._active.take_steers()
        ]

    async def redirected(self) -> View | None:
        """Return the run that a redirect ended for this one, with what it had written; None if there is none."""
        about = self.input.redirects
        return None if about is None else await self.session.result(about["agent"], about["run"])

    async def delegate(self, agent: str, text: str = "", *, data: Any = None, id: str | None = None) -> Child:
        """Let another agent do something for this run; it answers in the session, nothing is relayed.

        Args:
            agent: who; it may start later.
            text: what to do.
            data: anything JSON beside it.
            id: a later attempt that delegates the same id meets the same child; by default its number in the run.

        Raises:
            RunError: the depth or the number of delegations is beyond the limit, or it would go round in a circle.
        """
        self._children += 1
        if self.input.depth >= MAX_DEPTH:
            raise RunError(f"{self.agent} may not delegate to {agent}: {MAX_DEPTH} delegations deep already")
        if self._children > MAX_CHILDREN:
            raise RunError(f"{self.agent} may not delegate to {agent}: {MAX_CHILDREN} delegations in one run already")
        chosen = id or f"{self.id[:16]}-{self._children}"
        parent = {"agent": self.agent, "run": self.id}
        sent = await self.session.send(text, to=agent, data=data, id=chosen, parent=parent, depth=self.input.depth + 1)
        return Child(self.session, agent, sent.run)


@dataclass(frozen=True, slots=True)
class Steer:
    """Something a person, or another agent, wants a run to take into account."""

    sender: str
    text: str
    data: Any


@dataclass(frozen=True, slots=True)
class Child:
    """A run that another run has asked for."""

    session: Session
    agent: str
    run: str

    async def result(self, *, timeout: float | None = None) -> View:
        """Wait until it is finished; its `status` says how.

        Raises:
            TimeoutError: not finished in time (seconds); it goes on all the same.
        """
        return await self.session.result(self.agent, self.run, timeout=timeout)

    async def cancel(self, reason: str = "") -> SentControl:
        """Cancel it, with what it delegated itself."""
        return await self.session.control.cancel(self.run, to=self.agent, reason=reason)


class RunError(OrchestratorFreeError):
    """Raise it in a handler to end the run as `error` with a message that people may see."""


def safe_message(error: BaseException) -> str:
    """Return what people may see of an exception: the message only where somebody meant it to be seen."""
    if isinstance(error, OrchestratorFreeError):
        return str(error)
    return f"{type(error).__name__}: the agent failed; its log says more"
