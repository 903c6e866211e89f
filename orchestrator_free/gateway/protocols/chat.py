"""`/api/chat`: what an unmodified Vercel AI SDK client asks for. A chat is a session, a stream is one answer.

Facts about requests and headers: npm `ai` 5.0.0 to 7, `@ai-sdk/workflow` 2.0. A client that goes away cancels nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, get_args

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput, OrchestratorFreeError, SessionNotFound
from orchestrator_free.fold import Fold
from orchestrator_free.gateway.access.caller import caller, speaker
from orchestrator_free.gateway.bodies import json_answer, number, read_body
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.openapi import body, operation, query
from orchestrator_free.gateway.problems import on_error
from orchestrator_free.gateway.protocols.chat_socket import ChatSocket
from orchestrator_free.gateway.protocols.chunks import Chunks
from orchestrator_free.gateway.protocols.teller import answered, frame
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.projections.aisdk import KEY, MessageStream, Profile, ui_messages
from orchestrator_free.projections.answer import Answer, answers, shown
from orchestrator_free.session import Session
from orchestrator_free.subjects import ALL, TOKEN, check_name

_HEADERS: Final = (
    ("x-vercel-ai-ui-message-stream", "v1"),
    ("access-control-expose-headers", "x-workflow-run-id, x-stream-url"),
)
_RUN_MARK: Final = "~"
_NOT_NEW: Final = "messages: the last one has to be the user's, or answer an approval; nothing was sent"


class ChatBody(BaseModel):
    """Body of `POST /api/chat`, as the SDK's transports send it; more fields may stand there."""

    model_config = ConfigDict(extra="allow")

    id: str | None = Field(None, description="the chat, which is the session; begun if it is new")
    messages: list[dict[str, Any]] = Field(
        min_length=1, max_length=10_000, description="UI messages; the last one counts"
    )
    trigger: str = Field("submit-message", description="submit-message or regenerate-message")
    message: str | None = Field(None, alias="messageId", description="regenerate: which answer")
    to: str | list[str] = Field(ALL, description="an agent, several, or all")


class Chat(Resource):
    """The routes of the AI SDK."""

    def __init__(self, broker: Broker, hub: Hub) -> None:
        super().__init__(broker, hub)
        self._chunks = Chunks()

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/api/chat", self.post, methods=["POST"]),
            WebSocketRoute("/api/chat/socket", self.socket),
            Route("/api/chat/{session}/stream", self.stream, methods=["GET"]),
            Route("/api/chat/{session}/stop", self.stop, methods=["POST"]),
            Route("/api/chat/{session}/messages", self.messages, methods=["GET"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        profile = query("ai_sdk", "major version of the client's `ai` package; 5 suits all", enum=["5", "6", "7"])
        chunks = {"200": "UI message chunks", "204": "nothing is being answered"}
        media = "text/event-stream"
        said = operation(
            "Say something and stream the answer", chunks, media, parameters=[profile], requestBody=body(ChatBody)
        )
        return {"/api/chat": {"post": said}} | {
            route: {
                "parameters": [{"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}],
                **what,
            }
            for route, what in {
                "/api/chat/{session}/stream": {
                    "get": operation(
                        "The answer in the making, from its beginning", chunks, media, parameters=[profile]
                    )
                },
                "/api/chat/{session}/stop": {
                    "post": operation("Cancel what is being answered", {"202": "the control"})
                },
                "/api/chat/{session}/messages": {
                    "get": operation("The conversation as UI messages", {"200": "messages"}, parameters=[profile])
                },
            }.items()
        }

    # -- saying -------------------------------------------------------------------------------------------------

    async def post(self, request: Request) -> Any:
        """Append what the person said and stream its answer; asked again with the same message, stream it again."""
        said = await read_body(request, ChatBody)
        member = speaker(request, request.query_params.get("member"), "member")
        name = check_name("id", said.id if said.id is not None else _made_up(said.messages))
        _profile(request)
        session, (cursor, sender, input) = await self.said(request, name, member, said)
        approving = said.messages[-1].get("role") == "assistant"
        return await self._tell(request, session.id, sender, input, cursor, approving=approving)

    async def said(
        self, request: HTTPConnection, name: str, member: str, said: ChatBody
    ) -> tuple[Session, tuple[str, str, str]]:
        """Append what is new to a chat, begun if it is new; return also the cursor from which to tell whose answer."""
        last = said.messages[-1]
        if last.get("role") == "assistant" and said.trigger == "submit-message":
            approvals = _approvals(last)
            caller(request).need("approve")
            session = await self.begun(request, name, member)
            return session, await self._approve(request, session, last, approvals)
        user = next((one for one in reversed(said.messages) if one.get("role") == "user"), None)
        if user is None or (user is not last and said.trigger == "submit-message"):
            raise InvalidInput(_NOT_NEW)
        text, data = _content(user)
        id = _input_id(user)
        session = await self.begun(request, name, member)  # now: what is wrong begins nothing
        if said.trigger == "regenerate-message":
            sent = await session.branches.regenerate(f"{member}/{id}")
        elif said.message is not None and id is not None:
            new = hashlib.sha256(orjson.dumps([id, text])).hexdigest()[:32]
            sent = await session.branches.edit(f"{member}/{id}", text, data=data, id=new)
        else:
            sent = await session.send(text, to=said.to, data=data, id=id)
        return session, ("", member, sent.input)

    async def _approve(
        self,
        request: HTTPConnection,
        session: Session,
        message: dict[str, Any],
        approvals: list[dict[str, Any]],
    ) -> tuple[str, str, str]:
        """Take what a person decided about the approvals in a message; go on where its stream ended."""
        channel = await self.caught_up(request, session.id)
        seen = await self.seen(request, channel)
        for approval in approvals:
            if (ask := seen.fold.asks.found.get(approval["id"])) is not None and ask["status"] == "open":
                value = "approve" if approval["approved"] else "deny"
                await session.asks.answer(approval["id"], value, str(approval.get("reason") or ""))
        run = str(message.get("id", "")).removeprefix("msg-")
        found = self.asked(seen.fold, run)
        if found is None:
            raise HTTPException(404, "this chat has no such answer")
        about = message.get("metadata")
        durable = about.get(KEY) if isinstance(about, dict) else None
        cursor = durable.get("cursor", "") if isinstance(durable, dict) else ""
        return str(cursor), *found

    @staticmethod
    def body(value: Any) -> ChatBody:
        """Return a request's body from JSON, checked.

        Raises:
            ValidationError: a wrong field.
        """
        return ChatBody.model_validate(value)

    # -- streaming ----------------------------------------------------------------------------------------------

    async def stream(self, request: Request) -> Any:
        """Stream the answer in the making; 204 if there is none: also in a chat that has not begun."""
        name, run, mark = _place(request)
        try:
            channel = await self.caught_up(request, name)
            seen = await self.seen(request, channel)
        except SessionNotFound:
            if run:
                raise
            return Response(status_code=204)
        found = self.asked(seen.fold, run)
        if found is None:
            return Response(status_code=204)
        if count := number(request, "startIndex", 0, 0, 10**9):
            return await self._go_on(request, name, found, mark, count)
        cursor = request.headers.get("last-event-id", "")
        answer = Answer(*found, cursor)
        if answer.ended or (not run and not cursor and answer.complete(seen.fold)):
            return Response(status_code=204)
        return await self._tell(request, name, *found, cursor)

    async def _go_on(self, request: Request, name: str, found: tuple[str, str], mark: str, count: int) -> FeedResponse:
        """Stream the rest of an answer to a client that has had so many chunks of it."""
        known = self._chunks.behind(mark, count)
        if known is None:
            text = "this gateway does not know what stood behind so many chunks; pass Last-Event-ID, or start over"
            raise HTTPException(409, text)
        return await self._tell(request, name, *found, known[0], mark=mark, skip=known[1])

    async def _tell(
        self,
        request: Request,
        session: str,
        sender: str,
        input: str,
        cursor: str,
        *,
        approving: bool = False,
        mark: str = "",
        skip: int = 0,
    ) -> FeedResponse:
        channel = await self.caught_up(request, session)
        seen = await self.seen(request, channel)
        profile = _profile(request)
        stream = MessageStream(session, sender, input, profile=profile, cursor=cursor, approving=approving)

        finished = await self.whole(seen) if stream.answer.complete(seen.fold) else None

        mark = mark or self._chunks.begin()

        def tell() -> tuple[bytes, bool]:
            nonlocal skip
            frames = []
            for behind, chunk in stream.advance(finished or seen.fold):
                if skip:
                    skip -= 1  # told, and noted, before
                    continue
                self._chunks.told(mark, behind)
                frames.append(frame(behind, chunk))
            return b"".join(frames) + (b"data: [DONE]\n\n" if stream.ended else b""), stream.ended

        place = f"{session}{_RUN_MARK}{stream.answer.run}{_RUN_MARK}{mark}"
        address = f"{request.scope.get('root_path', '')}/api/chat/{place}/stream"
        return answered(channel, tell, sender, (*_HEADERS, ("x-workflow-run-id", place), ("x-stream-url", address)))

    def asked(self, fold: Fold, run: str) -> tuple[str, str] | None:
        """Return whose input is answered: of the run that is named, or the last one of the branch that is shown."""
        if run:
            named = [one for one in answers(fold) if Answer(*one).run == run]
            if not named:
                raise HTTPException(404, "this chat has no such answer")
            return named[0]
        found = shown(fold)
        return found[-1] if found else None

    async def socket(self, websocket: WebSocket) -> None:
        """Serve a `WebSocketChatTransport`."""
        try:
            client = ChatSocket(self, websocket)
        except OrchestratorFreeError as error:
            await websocket.send_denial_response(await on_error(websocket, error))
            return
        await client.serve()

    # -- stopping and history -----------------------------------------------------------------------------------

    async def stop(self, request: Request) -> Response:
        """Cancel the answers in the making; it counts for every device at once."""
        name, run, _ = _place(request)
        request.path_params["session"] = name
        session = await self.session(request, request.query_params.get("member"))
        sent = await session.control.cancel(run or None, to=ALL)
        return json_answer({"control": sent.control, "position": str(sent.position)}, 202)

    async def messages(self, request: Request) -> Response:
        """Return the conversation, empty if it has not begun; an answer in the making is left to its stream."""
        profile = _profile(request)
        try:
            channel = await self.caught_up(request, request.path_params["session"])
            seen = await self.seen(request, channel)
            found = ui_messages(await self.whole(seen), profile=profile)
        except SessionNotFound:
            found = []
        return json_answer(found, 200, **{"cache-control": "no-cache"})


def _place(request: Request) -> tuple[str, str, str]:
    """Return the chat of a request, and where its path names a stream: which run, and which telling of it."""
    name, _, rest = request.path_params["session"].partition(_RUN_MARK)
    run, _, mark = rest.partition(_RUN_MARK)
    return name, run, mark


def _profile(request: Request) -> Profile:
    text = request.query_params.get("ai_sdk", "5")
    if text not in map(str, get_args(Profile)):
        raise InvalidInput(f"ai_sdk={text[:40]!r}: expected 5, 6 or 7, the major version of the client's `ai` package")
    found: Profile = {"5": 5, "6": 6, "7": 7}[text]  # type: ignore[assignment]
    return found


def _content(message: dict[str, Any]) -> tuple[str, Any]:
    """Return the text of a UI message, and its files."""
    parts = message.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidInput("messages: the last one has no list of parts; send UI messages of `ai` 5 or later")
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput("messages: a text part without text")
    files = [part for part in parts if part.get("type") == "file"]
    return "\n".join(texts), {"files": files} if files else None


def _input_id(message: dict[str, Any]) -> str | None:
    """Return the input's id: the message's, so that sending it again says it once."""
    text = message.get("id")
    if not isinstance(text, str) or not text:
        return None
    return text if TOKEN.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:32]


def _approvals(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a person decided about the approvals of a message: their `id`, and whether `approved`."""
    parts = message.get("parts")
    found = [part.get("approval") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    decided = [
        one
        for one in found
        if isinstance(one, dict) and isinstance(one.get("id"), str) and isinstance(one.get("approved"), bool)
    ]
    if not decided:
        raise InvalidInput(_NOT_NEW)
    return decided


def _made_up(messages: list[dict[str, Any]]) -> str:
    """Return the chat of a transport that names none: it is told by its first message."""
    return "chat-" + hashlib.sha256(orjson.dumps(messages[0])).hexdigest()[:24]
