"""`/api/chat/socket`: the wire of the AI SDK's `WebSocketChatTransport` (npm `ai` 7), several answers over one socket.

It is the one stock transport that says when a person stops: its `abort` cancels, its going away does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from orchestrator_free.errors import InvalidInput, OrchestratorFreeError
from orchestrator_free.gateway.access.caller import caller, speaker
from orchestrator_free.gateway.channels.attendance import visit_by
from orchestrator_free.gateway.connections.fallback import keep
from orchestrator_free.gateway.resources.websocket import RESTART, UNAUTHORIZED
from orchestrator_free.projections.aisdk import MessageStream
from orchestrator_free.projections.answer import Answer
from orchestrator_free.subjects import ALL, check_name
from orchestrator_free.vocabulary import explain

if TYPE_CHECKING:
    from orchestrator_free.gateway.protocols.chat import Chat

Frame = dict[str, Any]
#: at once over one socket
_REQUESTS: Final = 100


class ChatSocket:
    """One client's socket."""

    def __init__(self, chat: Chat, websocket: WebSocket) -> None:
        self._chat = chat
        self._websocket = websocket
        self._member = speaker(websocket, websocket.query_params.get("member"), "member")
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, tuple[str, str]] = {}
        self.visit = visit_by(self._member)
        self.closed = False
        self._closing: asyncio.Task[None] | None = None

    def expire(self, reason: str) -> None:
        """Close it: its token counts no more, and the client comes back with another."""
        self.closed = True
        self._closing = asyncio.create_task(self._websocket.close(UNAUTHORIZED, reason), name="expire")

    async def serve(self) -> None:
        """Answer frames until the client goes."""
        await self._websocket.accept()
        keep(self._websocket.scope, self)
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self._take(message.get("text") or message.get("bytes") or "")
        except WebSocketDisconnect:
            return
        finally:
            self.closed = True
            for task in self._requests.values():
                task.cancel()
            await asyncio.gather(*self._requests.values(), return_exceptions=True)

    async def _take(self, text: str | bytes) -> None:
        try:
            frame = orjson.loads(text)
        except orjson.JSONDecodeError:
            frame = None
        request = frame.get("requestId") if isinstance(frame, dict) else None
        if not isinstance(request, str):
            await self._websocket.close(1003, "frames are JSON objects with a requestId")
            return
        if request in self._requests and frame.get("type") != "abort":
            await self._tell(request, "error", errorText="this requestId is being answered; choose a new one")
            return
        if len(self._requests) >= _REQUESTS:
            await self._tell(request, "error", errorText=f"{_REQUESTS} requests are being answered; wait for one")
            return
        name = request if frame.get("type") != "abort" else f"abort {request}"
        task = asyncio.create_task(self._guarded(request, frame), name=f"chat {request[:40]}")
        self._requests[name] = task
        task.add_done_callback(lambda _: self._requests.pop(name, None))

    async def _guarded(self, request: str, frame: Frame) -> None:
        """Do what a frame asks for; what is wrong with it is told under its request."""
        with contextlib.suppress(WebSocketDisconnect):
            try:
                match frame.get("type"):
                    case "send":
                        await self._say(request, frame)
                    case "resume":
                        await self._resume(request, frame)
                    case "abort":
                        await self._abort(request)
                    case other:
                        raise InvalidInput(f"type: {str(other)[:40]!r} is unknown; there are send, resume and abort")
            except OrchestratorFreeError as error:
                await self._tell(request, "error", errorText=str(error))
            except HTTPException as error:
                await self._tell(request, "error", errorText=error.detail)

    async def _say(self, request: str, frame: Frame) -> None:
        body = frame.get("body")
        given = {
            name: frame[name] for name in ("id", "messages", "trigger", "messageId") if frame.get(name) is not None
        }
        try:
            said = self._chat.body((body if isinstance(body, dict) else {}) | given)
        except ValidationError as error:
            raise InvalidInput(explain(error)) from error
        session, (cursor, sender, input) = await self._chat.said(
            self._websocket, check_name("id", said.id), self._member, said
        )
        approving = said.messages[-1].get("role") == "assistant"
        await self._stream(request, session.id, MessageStream(
            session.id, sender, input, profile=7, cursor=cursor, approving=approving
        ))  # fmt: skip

    async def _resume(self, request: str, frame: Frame) -> None:
        session = check_name("id", frame.get("id"))
        channel = await self._chat.caught_up(self._websocket, session)
        seen = await self._chat.seen(self._websocket, channel)
        found = self._chat.asked(seen.fold, "")
        if found is None or Answer(*found).complete(seen.fold):
            await self._tell(request, "no-active")
            return
        await self._tell(request, "start")
        await self._stream(request, session, MessageStream(session, *found, profile=7))

    async def _stream(self, request: str, session: str, stream: MessageStream) -> None:
        self._answers[request] = (session, stream.answer.run)
        channel = await self._chat.caught_up(self._websocket, session)
        seen = await self._chat.seen(self._websocket, channel)
        news = asyncio.Event()
        leave = channel.listen(news.set)
        channel.attendance.came(channel, self)
        sequence = 0
        try:
            while not stream.ended:
                news.clear()
                if channel.closed:
                    await self._websocket.close(RESTART, "resume")
                    return
                for _, chunk in stream.advance(seen.fold):
                    await self._tell(request, "chunk", sequence=sequence, chunk=chunk)
                    sequence += 1
                if not stream.ended:
                    await news.wait()
            await self._tell(request, "end")
        finally:
            leave()
            channel.attendance.left(session, self)
            self._answers.pop(request, None)

    async def _abort(self, request: str) -> None:
        """Cancel what a request is being answered: its person has pressed stop."""
        answer = self._answers.get(request)
        if answer is not None:
            caller(self._websocket).need("control")
            session = self._chat.broker.as_member(self._member).session(answer[0])
            await session.control.cancel(answer[1], to=ALL)

    async def _tell(self, request: str, kind: str, **more: Any) -> None:
        await self._websocket.send_text(orjson.dumps({"type": kind, "requestId": request, **more}).decode())
