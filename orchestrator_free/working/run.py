"""A run as its agent's handler sees it: what to do, what to write, whom to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Unpack

from orchestrator_free import tracing
from orchestrator_free.errors import InvalidEvent, OrchestratorFreeError, TooLarge
from orchestrator_free.events import Body, Event, decode, encode, nests
from orchestrator_free.fold import View
from orchestrator_free.jetstream import Objects
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.session import Session
from orchestrator_free.session.asks import AskOptions, Decision
from orchestrator_free.session.floor import DESK, FloorState
from orchestrator_free.views.conversation import conversation
from orchestrator_free.vocabulary import validate
from orchestrator_free.working.delegation import (
    MAX_CHILDREN,
    MAX_DEPTH,
    Child,
    asked_before,
    ended,
    gather,
    hold_deadline,
)
from orchestrator_free.working.obedience import ActiveRun
from orchestrator_free.working.runasks import RunAsks
from orchestrator_free.working.runwriter import DELTAS, MERGE_CHARACTERS, RunWriter

_OURS: Final = frozenset({"run.started", "run.finished"})
#: levels that a finished run puts around an event, beyond those that every event has to leave
_SPARE_LEVELS: Final = 64


@dataclass(frozen=True, slots=True)
class RunInput:
    """What the run is to do.

    Attributes:
        id: the input's id. sender: the member who sent it.
        text: the message. data: what came with it. parent: the run that delegated it, if any.
        redirects: the run that was ended for this one, if any. depth: delegations since a person asked.
        whisper: the answer is not for the person who is served.
    """

    id: str
    sender: str
    text: str
    data: Any
    parent: Any
    redirects: Any = None
    depth: int = 0
    whisper: bool = False


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
        self.asks = RunAsks(session, self.agent, self.id, self.emit)

    @property
    def stopped(self) -> bool:
        """Whether a cancel or a redirect has ended it; a handler that is cancelled without has to go elsewhere."""
        return self._active.stop is not None

    async def emit(self, body: Mapping[str, Any]) -> None:
        """Write an event of the vocabulary (`orchestrator_free.vocabulary`) as it is; unknown types pass through.

        Raises:
            InvalidEvent: a known type with a wrong field.
            TooLarge: beyond what the broker takes in one message; use `file()`.
        """
        payload = encode(dict(body))
        event = decode(payload)  # a copy: what the caller changes afterwards was not said
        if event["type"] in _OURS:
            raise InvalidEvent(
                f"{event['type']} is written when the handler returns; raise RunError to end with an error"
            )
        if not nests(event, _SPARE_LEVELS):
            raise InvalidEvent(f"{event['type']}: nested too deep")
        await self._active.going.wait()
        if event["type"] in DELTAS:
            validate("run", event)
            await self._write_text(event)
            return
        if len(payload) > self._writer.limit:
            what = f"{event['type']} has {len(payload)} bytes, the limit is {self._writer.limit}"
            raise TooLarge(f"{what}: write it with run.file()")
        await self._writer.write(event)
        if tracing.tracer is not None:
            tracing.tracer.said(event)

    async def _write_text(self, event: Body) -> None:
        """Write a delta, in pieces if it is long."""
        text = event["text"]
        for start in range(0, len(text), MERGE_CHARACTERS):
            await self._writer.write({**event, "text": text[start : start + MERGE_CHARACTERS]})

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
            self._open = (kind, await self.part())
        event = {"type": f"{kind}.delta", "part": self._open[1], "text": text}
        if not text.isascii():
            encode(event)  # half a surrogate pair is refused here, not when it is too late
        await self._active.going.wait()
        await self._write_text(event)

    async def part(self) -> str:
        """Close what `text` or `reasoning` have open; return a name for a part to `emit` that no other one has."""
        await self._close_part()
        return self._next()

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
        more = ({} if id is None else {"id": id}) | ({"transient": True} if transient else {})
        await self.emit({"type": "data", "name": name, "data": data, **more})

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

    # -- waiting for people -------------------------------------------------------------------------------------

    async def ask(self, text: str, **options: Unpack[AskOptions]) -> Decision:
        """Ask members something and wait for what is decided; options as of `session.asks.ask`.

        A later attempt that asks the same meets the same ask, so the answer is there though this process has died.
        """
        return await self.asks.ask(text, **options)

    async def approve(
        self,
        text: str,
        *,
        data: Any = None,
        to: Sequence[str] = (),
        quorum: int = 1,
        seconds: float | None = None,
        escalations: Sequence[tuple[float, Sequence[str]]] = (),
        id: str | None = None,
    ) -> Decision:
        """Ask for approval: `if await run.approve("Refund 40 €?", to=["ann"], seconds=600): …`; one `deny` decides."""
        more = {"data": data, "to": to, "quorum": quorum, "seconds": seconds, "escalations": escalations}
        return await self.asks.approve(text, id=id, **more)

    async def client_tool(
        self, tool: str, input: Any = None, *,
        to: Sequence[str] = (), seconds: float | None = None, id: str | None = None,
    ) -> Any:  # fmt: skip
        """Have a client run a tool; return the first answer's value.

        Raises:
            NotAnswered: nobody ran it in time.
            ToolFailed: the answer was `{"error": text}`.
        """
        await self._close_part()
        return await self.asks.tool(tool, input, id=id, to=to, seconds=seconds)

    def waiting(self, reason: str, *, until: datetime | str | None = None) -> AbstractAsyncContextManager[None]:
        """Show what the run waits for while the block lasts: `async with run.waiting("rate limit", until=…):`."""
        return self.asks.waiting(reason, until=until)

    # -- with others --------------------------------------------------------------------------------------------

    async def steers(self) -> list[Steer]:
        """Return what people have said to this run since the last call; call it between the steps of the work.

        Each is `applied` in the log by being returned here; those never looked at become `too_late`.
        """
        await self._active.going.wait()
        taken = await self._active.take_steers()
        return [Steer(self._who_says(event), event.body["text"], event.body.get("data")) for event in taken]

    def _who_says(self, steer: Event) -> str:
        """Return who said a steer: of an input that was given to this run, who sent it."""
        given = steer.body.get("input") if steer.member == self.agent else None
        return str(given["from"]) if given else steer.member

    async def history(self) -> list[View]:
        """Return the conversation before this run's input, on its own branch; see `conversation`."""
        source = f"{self.input.sender}/{self.input.id}"
        return conversation(await self.session.view(), before=source, whispers=True)

    async def redirected(self) -> View | None:
        """Return the run that a redirect ended for this one, with what it had written; None if there is none."""
        about = self.input.redirects
        return None if about is None else await self.session.result(about["agent"], about["run"])

    async def hand_off(self, to: str = DESK, reason: str = "") -> FloorState:
        """Ask a member, or whoever is at the desk, to answer the person from now on; see `session.floor.answer`."""
        return await self.session.floor.request(to, reason=reason)

    async def delegate(
        self,
        agent: str,
        text: str = "",
        *,
        data: Any = None,
        id: str | None = None,
        within_seconds: float | None = None,
    ) -> Child:
        """Let another agent do something for this run; it answers in the session, nothing is relayed.

        Args:
            agent: who; it may start later.
            text: what to do.
            data: anything JSON beside it.
            id: a later attempt that delegates the same id meets the same child; by default its number in the run.
            within_seconds: then the broker cancels the child, whoever is alive.

        Raises:
            RunError: the depth or the number of delegations is beyond the limit, or it would go round in a circle: the
                same agent is at work on the same words for this run.
        """
        self._children += 1
        refused = f"{self.agent} may not delegate to {agent}"
        if self.input.depth >= MAX_DEPTH:
            raise RunError(f"{refused}: {MAX_DEPTH} delegations deep already")
        if self._children > MAX_CHILDREN:
            raise RunError(f"{refused}: {MAX_CHILDREN} delegations in one run already")
        if await self._is_circle(agent, text, data):
            raise RunError(f"{refused}: {agent} is at work on the same already, a circle")
        chosen = id or f"{self.id[:16]}-{self._children}"
        parent = {"agent": self.agent, "run": self.id}
        sent = await self.session.send(
            text, to=agent, data=data, id=chosen, parent=parent, depth=self.input.depth + 1, whisper=self.input.whisper
        )
        if within_seconds is None:
            return Child(self.session, agent, sent.run)
        return Child(self.session, agent, sent.run, await hold_deadline(self.session, agent, sent, within_seconds))

    async def _is_circle(self, agent: str, text: str, data: Any) -> bool:
        same = (agent, text, data) == (self.agent, self.input.text, self.input.data)
        return same or await asked_before(self.session, agent, text, data, self.input.parent)

    async def gather(self, children: Sequence[Child], *, timeout: float | None = None) -> list[View]:
        """Wait until all children are finished; return their runs as in the view, in order, failed ones among them.

        Raises:
            TimeoutError: not all of them in time (seconds); they go on all the same.
        """
        return await gather(children, timeout=timeout)

    async def first(self, children: Sequence[Child], *, cancel_rest: bool = True, timeout: float | None = None) -> View:
        """Wait for the first child that is `done`; return its run as in the view.

        Args:
            children: what was delegated.
            cancel_rest: cancel the others then.
            timeout: in seconds.

        Raises:
            RunError: none of them is done; says how each of them ended.
            TimeoutError: none of them in time; they go on all the same.
        """
        others: dict[tuple[str, str], View] = {}
        async with asyncio.timeout(timeout):
            async for child, view in ended(self.session, children):
                others[child.agent, child.run] = view
                if view["status"] == "done":
                    rest = [one for one in children if (one.agent, one.run) not in others]
                    if cancel_rest:
                        await asyncio.gather(*(one.cancel(f"{child.agent} was first") for one in rest))
                    return view
        ends = [f"{view['agent']} {view['status']}{_reason(view)}" for view in others.values()]
        raise RunError(f"none of {len(children)} delegations is done: {'; '.join(ends)}")


@dataclass(frozen=True, slots=True)
class Steer:
    """Something a person, or another agent, wants a run to take into account."""

    sender: str
    text: str
    data: Any


class RunError(OrchestratorFreeError):
    """Raise it in a handler to end the run as `error` with a message that people may see."""


def safe_message(error: BaseException) -> str:
    """Return what people may see of an exception: the message only where somebody meant it to be seen."""
    if isinstance(error, OrchestratorFreeError):
        return str(error)
    return f"{type(error).__name__}: the agent failed; its log says more"


def _reason(run: View) -> str:
    return f" ({run['error']})" if run["error"] else ""
