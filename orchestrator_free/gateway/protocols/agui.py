"""What unmodified AG-UI, CopilotKit and TanStack AI clients ask for. A thread is a session, a run is one answer.

Facts about requests: npm `@ag-ui/client` 1.0.0 and 0.0.59, `@copilotkit/core` 1.75, `@tanstack/ai-client` 0.33.
A client that goes away cancels nothing; what is asked again under the same run id is answered from the same run.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import AskClosed, InvalidInput, SessionNotFound
from orchestrator_free.fold import Fold, View
from orchestrator_free.gateway.access.caller import caller, speaker
from orchestrator_free.gateway.bodies import json_answer, read_body, repeat_id
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.openapi import body, operation, query
from orchestrator_free.gateway.protocols.teller import answered, frame
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.projections.agui import EventStream, messages, ui_messages
from orchestrator_free.projections.answer import Answer, answers, shown
from orchestrator_free.subjects import ALL, check_name

_EXPOSED: Final = ("access-control-expose-headers", "x-stream-url")
_AGUI: Final = "/api/agui"
_COPILOT: Final = "/api/copilotkit"
_DEFAULT: Final = "default"


class Resumed(BaseModel):
    """What a person says to an interrupt."""

    model_config = ConfigDict(extra="allow")

    interrupt: str = Field(alias="interruptId", description="its id, as the run that it ended told it")
    status: Literal["resolved", "cancelled"] = Field(description="cancelled: deny, where that is an option")
    payload: Any = Field(None, description="the answer; of an approval also true, false or {approved, comment}")


class RunBody(BaseModel):
    """Body of a run, as AG-UI clients send it; more fields may stand there."""

    model_config = ConfigDict(extra="allow")

    thread: str = Field(alias="threadId", description="the session; begun if it is new")
    run: str = Field(alias="runId", description="the input's id")
    messages: list[dict[str, Any]] = Field([], max_length=10_000)
    version: str | None = Field(None, alias="protocolVersion", description="absent: a client of 0.0.x")
    resume: list[Resumed] = Field([], max_length=200, description="answers to the interrupts that a run ended with")
    forwarded: dict[str, Any] = Field({}, alias="forwardedProps", description='`{"to": agent}` chooses whom to ask')


class AgUi(Resource):
    """The routes of AG-UI and its relatives."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_AGUI, self.run, methods=["POST"]),
            Route(_AGUI, self.join, methods=["GET"]),
            Route(f"{_AGUI}/connect", self.connect, methods=["POST"]),
            Route(f"{_COPILOT}/info", self.info, methods=["GET"]),
            Route(f"{_COPILOT}/agent/{{agent}}/run", self.run, methods=["POST"]),
            Route(f"{_COPILOT}/agent/{{agent}}/connect", self.connect, methods=["POST"]),
            Route(f"{_COPILOT}/agent/{{agent}}/stop/{{session}}", self.stop, methods=["POST"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        media, feed = "text/event-stream", {"200": "AG-UI events"}
        run = operation("Say something and stream the answer (AG-UI)", feed, media, requestBody=body(RunBody))
        connect = operation("Replay a thread and follow what is being answered", feed, media, requestBody=body(RunBody))
        join = operation(
            "TanStack AI: a thread's messages, or with runId the stream of a run",
            {"200": "messages and activeRun, or AG-UI events", "204": "no such run"},
            parameters=[query("threadId", "the session"), query("runId", "the run"), query("offset", "ignored")],
        )
        agent = {"parameters": [{"name": "agent", "in": "path", "required": True, "schema": {"type": "string"}}]}
        stop = operation("CopilotKit: cancel what is being answered", {"200": "stopped"})
        return {
            _AGUI: {"post": run, "get": join},
            f"{_AGUI}/connect": {"post": connect},
            f"{_COPILOT}/info": {"get": operation("CopilotKit: what there is", {"200": "agents"})},
            f"{_COPILOT}/agent/{{agent}}/run": {**agent, "post": run},
            f"{_COPILOT}/agent/{{agent}}/connect": {**agent, "post": connect},
            f"{_COPILOT}/agent/{{agent}}/stop/{{session}}": {
                "parameters": [
                    *agent["parameters"],
                    {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}},
                ],
                "post": stop,
            },
        }

    # -- a run --------------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Any:
        """Append what the person said and stream its answer."""
        said = await read_body(request, RunBody)
        member = speaker(request, request.query_params.get("member"), "member")
        check_name("threadId", said.thread)
        if said.resume:
            return await self._resume(request, said, member)
        to = request.path_params.get("agent", _DEFAULT)
        chosen = said.forwarded.get("to", ALL) if to == _DEFAULT else to
        if not isinstance(chosen, (str, list)):
            raise InvalidInput("forwardedProps.to: expected an agent's name, or a list of names")
        input, text = _token(said.run), _text(said.messages)
        Answer(member, input, request.headers.get("last-event-id", ""))
        session = await self.begun(request, said.thread, member)  # now: what is wrong begins nothing
        await session.send(text, to=chosen, id=input)
        stream = self._told(request, session.id, member, input, modern=said.version is not None)
        return await self._stream(request, stream)

    def _told(
        self, request: Request, session: str, sender: str, input: str, *, modern: bool, resumed: str = ""
    ) -> EventStream:
        """Return the telling of an answer to who asks, from where they stand."""
        cursor = request.headers.get("last-event-id", "")
        return EventStream(
            session, sender, input, modern=modern, cursor=cursor, viewer=_viewer(request), resumed=resumed
        )

    async def _resume(self, request: Request, said: RunBody, member: str) -> Any:
        """Take what a person says to the interrupts of a run, and stream the answer on from there."""
        caller(request).need("approve")
        channel = await self.caught_up(request, said.thread, "threadId")
        seen = await self.seen(request, channel)
        session = self.broker.as_member(member).session(said.thread)
        found = [_answer(seen.fold, one) for one in said.resume]  # what is wrong answers nothing
        (sender, input), behind = _interrupted(seen.fold, said.resume[0].interrupt)
        cursor = request.headers.get("last-event-id", "")
        stream = EventStream(
            said.thread, sender, input, modern=said.version is not None, cursor=cursor, viewer=member,
            resumed=said.run, behind=behind,
        )  # fmt: skip
        for ask, value, comment in found:
            with contextlib.suppress(AskClosed):  # somebody else was first: the answer goes on with their word
                await session.asks.answer(ask, value, comment)
        return await self._stream(request, stream)

    async def _stream(self, request: Request, stream: EventStream) -> FeedResponse:
        session, sender, input = stream.session, stream.answer.sender, stream.answer.input
        channel = await self.caught_up(request, session)
        seen = await self.seen(request, channel)

        finished = await self.whole(seen) if stream.answer.complete(seen.fold) else None

        def tell() -> tuple[bytes, bool]:
            events = stream.advance(finished or seen.fold)
            return b"".join(frame(place, event) for place, event in events), stream.ended

        version, prefix = "1.0" if stream.modern else "0", request.scope.get("root_path", "")
        address = f"{prefix}{_AGUI}?threadId={session}&runId={input}&protocolVersion={version}"
        if stream.run != input:
            address += f"&resumed={quote(stream.run, safe='')}"
        return answered(channel, tell, sender, (_EXPOSED, ("x-stream-url", address)))

    async def join(self, request: Request) -> Any:
        """Return a thread's messages; with `runId`, stream that run."""
        asked = request.query_params
        session = check_name("threadId", asked.get("threadId") or asked.get("runId", "").partition("~")[0])
        run = asked.get("runId", "").rpartition("~")[2]
        try:
            channel = await self.caught_up(request, session)
            seen = await self.seen(request, channel)
        except SessionNotFound:
            return json_answer({"messages": [], "activeRun": None, "interrupts": []})
        if run:
            named = [one for one in answers(seen.fold) if one[1] == _token(run)]
            if not named:
                raise HTTPException(404, "this thread has no such run")
            modern = asked.get("protocolVersion", "0") != "0"
            resumed = asked.get("resumed", "")
            stream = self._told(request, session, *named[0], modern=modern, resumed=resumed)
            return await self._stream(request, stream)
        found = shown(seen.fold)
        active = found[-1][1] if found and not Answer(*found[-1]).complete(seen.fold) else None
        told = {"messages": ui_messages(await self.whole(seen), found), "interrupts": []}
        return json_answer(told | {"activeRun": {"runId": f"{session}~{active}"} if active else None})

    # -- a thread -----------------------------------------------------------------------------------------------

    async def connect(self, request: Request) -> Any:
        """Replay the whole thread, what people said included, and follow what is being answered."""
        said = await read_body(request, RunBody)
        channel = await self.caught_up(request, said.thread, "threadId")
        seen = await self.seen(request, channel)
        member = speaker(request, request.query_params.get("member"), "member")
        modern = said.version is not None
        thread = _Thread(seen.fold, await self.whole(seen), said.thread, _viewer(request), modern=modern)
        return answered(channel, thread.tell, member, (_EXPOSED,))

    async def info(self, request: Request) -> Response:
        """Say what there is."""
        about = {"name": _DEFAULT, "description": "every agent of the session", "className": "HttpAgent"}
        flags = {"audioFileTranscriptionEnabled": False, "a2uiEnabled": False, "telemetryDisabled": True}
        return json_answer({"version": "1.75.0", "agents": {_DEFAULT: about}, "mode": "sse", **flags})

    async def stop(self, request: Request) -> Response:
        """Cancel the answers in the making."""
        session = await self.session(request, request.query_params.get("member"))
        agent = request.path_params["agent"]
        sent = await session.control.cancel(to=ALL if agent == _DEFAULT else agent)
        return json_answer({"stopped": True, "control": sent.control})


class _Thread:
    """A thread for a client that joins: its messages so far in one event, then what is being answered.

    Runs of the protocol do not overlap, so answers in the making come one after the other.
    """

    def __init__(self, fold: Fold, history: Fold, session: str, viewer: str, *, modern: bool) -> None:
        self._fold = fold
        self._history = history  # the same, with everything of large runs
        self._session = session
        self._viewer = viewer
        self._modern = modern
        self._done: set[tuple[str, str]] = set()
        self._begun = False
        self._stream: EventStream | None = None

    def tell(self) -> tuple[bytes, bool]:
        """Return the frames that are new, and whether nothing is being answered any more."""
        frames = b""
        if not self._begun:
            self._begun = True
            frames += self._so_far()
        while True:
            if self._stream is None:
                asked = next((one for one in shown(self._fold) if one not in self._done), None)
                if asked is None:
                    return frames, True
                self._done.add(asked)
                self._stream = EventStream(self._session, *asked, modern=self._modern, asked=True, viewer=self._viewer)
            frames += b"".join(frame("", event) for _, event in self._stream.advance(self._fold))
            if not self._stream.ended:
                return frames, False
            self._stream = None

    def _so_far(self) -> bytes:
        """Return a run that says what was said and answered completely, in place of what the client had."""
        fold = self._history
        complete = [one for one in shown(fold) if Answer(*one).complete(fold)]
        self._done.update(complete)
        run = {"threadId": self._session, "runId": complete[-1][1] if complete else "history"}
        snapshot: dict[str, Any] = {
            "type": "MESSAGES_SNAPSHOT",
            "messages": messages(fold, complete, modern=self._modern),
        }
        events: list[dict[str, Any]] = [{"type": "RUN_STARTED", **run}, snapshot, {"type": "RUN_FINISHED", **run}]
        return b"".join(frame("", event) for event in events)


def _token(run: str) -> str:
    """Return the input's id: the run's, so that asking again asks once."""
    return str(repeat_id(run, None))


def _viewer(request: Request) -> str:
    """Return who reads, if they may answer; else nobody, whom no answer is interrupted for."""
    member = speaker(request, request.query_params.get("member"), "member")
    return member if "approve" in caller(request).capabilities else ""


def _interrupted(fold: Fold, interrupt: str) -> tuple[tuple[str, str], str]:
    """Return whose input the interrupted answer is to, and the cursor behind which it goes on."""
    name, _, cursor = interrupt.partition("~")
    about = fold.asks.found[name]["run"] or {}
    for found in answers(fold):
        if any((run.agent, run.run) == (about.get("agent"), about.get("run")) for run in Answer(*found).members(fold)):
            return found, cursor
    raise InvalidInput(f"resume: no answer of this thread waits for {interrupt[:80]!r}")


def _answer(fold: Fold, said: Resumed) -> tuple[str, Any, str]:
    """Return which ask a person answers, what with, and what they say beside it."""
    name = said.interrupt.partition("~")[0]
    ask = fold.asks.found.get(name)
    if ask is None:
        raise InvalidInput(f"resume: this thread has no interrupt {said.interrupt[:80]!r}")
    options, payload = ask["options"] or (), said.payload
    if said.status == "cancelled":
        if "deny" not in options:
            raise InvalidInput(f"resume: {name} cannot be cancelled; answer it with {_expected(ask)}")
        return name, "deny", ""
    comment = ""
    if isinstance(payload, dict) and "approve" in options:
        comment = str(payload.get("comment") or payload.get("reason") or "")
        payload = payload.get("approved", payload.get("value"))
    if isinstance(payload, bool) and "approve" in options:
        payload = "approve" if payload else "deny"
    if options and payload not in options:
        raise InvalidInput(f"resume: the payload for {name} is to be {_expected(ask)}")
    return name, payload, comment


def _expected(ask: View) -> str:
    return f"one of {', '.join(ask['options'])}" if ask["options"] is not None else "any JSON"


def _text(messages: list[dict[str, Any]]) -> str:
    """Return what the person said last."""
    last = messages[-1] if messages else {}
    if last.get("role") != "user":
        raise InvalidInput("messages: the last one has to be the user's; nothing was sent")
    content = last.get("content", "")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise InvalidInput("messages: the last one has no text")
    return content
