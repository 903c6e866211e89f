"""`/v1/stream/…`: the Durable Streams protocol over a JetStream stream of its own; sessions are read alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orchestrator_free.broker import Broker
from orchestrator_free.durable_streams.head import Accepted
from orchestrator_free.durable_streams.offsets import offset_of
from orchestrator_free.durable_streams.refusals import Refusal
from orchestrator_free.durable_streams.registry import DurableStreams
from orchestrator_free.durable_streams.requests import DEFAULT_TYPE, ROOT, append_of, creation_of, path_of
from orchestrator_free.durable_streams.stream import Stream, StreamLost
from orchestrator_free.errors import TooLarge
from orchestrator_free.gateway.access.caller import caller
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.protocols.durable_streams.answering import answered
from orchestrator_free.gateway.protocols.durable_streams.describing import PATHS
from orchestrator_free.gateway.protocols.durable_streams.live import Live
from orchestrator_free.gateway.protocols.durable_streams.many import follow_many
from orchestrator_free.gateway.protocols.durable_streams.metrics import DurableStreamMetrics
from orchestrator_free.gateway.protocols.durable_streams.reading import answer
from orchestrator_free.gateway.protocols.durable_streams.sessions import SessionSource
from orchestrator_free.gateway.protocols.durable_streams.source import StreamSource
from orchestrator_free.gateway.resources.resource import Resource

_METHODS: Final = ["GET", "HEAD", "PUT", "POST", "DELETE"]
#: the protocol's own paths, for subscriptions, which are not served
_RESERVED: Final = "__ds"

Handler = Callable[[Request, str], Awaitable[Any]]


class DurableStreamRoutes(Resource):
    """Streams that anybody makes."""

    def __init__(self, broker: Broker, hub: Hub) -> None:
        super().__init__(broker, hub)
        settings = hub.settings
        self.streams = DurableStreams(
            broker.log, tail_bytes=settings.stream_tail_bytes, memory_bytes=settings.memory_bytes,
            keep_seconds=settings.keep_seconds,
        )  # fmt: skip
        self.live = Live(DurableStreamMetrics(hub.metrics.registry))
        self._keeper: asyncio.Task[None] | None = None
        self._handlers: dict[str, Handler] = {
            "GET": self.read, "HEAD": self.head, "PUT": self.create, "POST": self.append, "DELETE": self.delete,
        }  # fmt: skip

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes."""
        return [
            Route(ROOT.rstrip("/"), self.serve_many, methods=["GET", "POST"]),
            Route(ROOT + "{path:path}", self.serve, methods=_METHODS),
            Route("/sessions/{session}/stream", self.serve_session, methods=["GET", "HEAD"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        return PATHS

    def close(self) -> None:
        """Let go of all streams."""
        if self._keeper is not None:
            self._keeper.cancel()
        self.streams.close()

    async def serve(self, request: Request) -> Any:
        """Answer a request, in the words and with the headers of the protocol."""
        self._begin()
        return await answered(request, self.live, self._served)

    async def _served(self, request: Request) -> Any:
        path = path_of(request.path_params["path"])
        if path.split("/", 1)[0] == _RESERVED:
            raise Refusal(501, "Not implemented", "subscriptions (__ds) are not served here")
        return await self._handlers[request.method](request, path)

    async def serve_many(self, request: Request) -> Any:
        """Follow several streams."""
        self._begin()
        return await answered(request, self.live, lambda request: follow_many(request, self.streams, self.live))

    async def serve_session(self, request: Request) -> Any:
        """Read a session."""
        self._begin()
        return await answered(request, self.live, self._read_session)

    async def _read_session(self, request: Request) -> Any:
        source = SessionSource(self.broker.log, await self.caught_up(request, request.path_params["session"]))
        if request.method == "HEAD":
            headers = {"content-type": source.content_type, "stream-next-offset": source.offset(source.tail)}
            return Response(None, 200, headers | {"cache-control": "no-store"})
        return await answer(request, source, self.live, self.hub.settings.long_poll_seconds)

    def _begin(self) -> None:
        """Begin to keep house; nobody pays for it before."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="durable streams")

    async def _keep(self) -> None:
        keeping = asyncio.create_task(self.streams.run(), name="durable streams")
        try:
            while not keeping.done():
                await asyncio.sleep(self.hub.settings.sweep_seconds)
                self.live.beat()
        finally:
            keeping.cancel()

    # -- one method each --------------------------------------------------------------------------------------------

    async def create(self, request: Request, path: str) -> Response:
        """Create a stream, or a fork of one."""
        wanted = creation_of(request.headers)
        if wanted.source is not None:
            caller(request).need("read")
            caller(request).reach(wanted.source)
        stream, new = await self.streams.create(path, wanted, await self._body(request))
        headers = _about(stream)
        if new:
            where = quote(request.url.path, safe="/:@!$&'()*+,;=")
            headers["location"] = str(request.url.replace(path=where, query="", fragment=""))
        return Response(None, 201 if new else 200, headers)

    async def append(self, request: Request, path: str) -> Response:
        """Append, close, or both."""
        body = await self._body(request)
        wanted = append_of(request.headers, body)
        with self.live.metrics.append_seconds.time():
            found = await self._append(path, wanted)
        if found.stored:
            self.live.metrics.appended.inc(len(body))
        headers = {"stream-next-offset": offset_of(found.tail), "etag": f'"{offset_of(found.tail)}"'}
        if found.closed:
            headers["stream-closed"] = "true"
        if found.producer is not None:
            headers |= {"producer-epoch": str(found.producer.epoch), "producer-seq": str(found.producer.seq)}
        told = found.stored and found.producer is not None and bool(body)
        return Response(None, 200 if told else 204, headers)

    async def _append(self, path: str, wanted: Any) -> Accepted:
        while True:
            stream = await self.streams.near(path)
            try:
                return await stream.append(wanted)
            except StreamLost:
                continue  # opening it again says what became of it

    async def read(self, request: Request, path: str) -> Any:
        """Read."""
        stream = await self.streams.open(path)
        return await answer(request, StreamSource(stream), self.live, self.hub.settings.long_poll_seconds)

    async def head(self, request: Request, path: str) -> Response:
        """Say what it is and where it ends."""
        stream = await self.streams.open(path, use=False)
        return Response(None, 200, _about(stream) | {"cache-control": "no-store"})

    async def delete(self, request: Request, path: str) -> Response:
        """Delete."""
        await self.streams.delete(path)
        return Response(status_code=204)

    async def _body(self, request: Request) -> bytes:
        limit = self.hub.settings.append_bytes
        if int(request.headers.get("content-length", "0")) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes; append it in pieces")
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise TooLarge(f"the body is larger than {limit} bytes; append it in pieces")
        return b"".join(pieces)


def _about(stream: Stream) -> dict[str, str]:
    """Return the headers that say what a stream is and where it ends."""
    record, head = stream.record, stream.head
    tail = offset_of(head.tail)
    headers = {
        "content-type": record.content_type or DEFAULT_TYPE,
        "stream-next-offset": tail,
        "etag": f'"{tail}"',
    }
    if head.closed:
        headers["stream-closed"] = "true"
    if record.ttl is not None:
        headers["stream-ttl"] = str(record.ttl)
    if record.expires is not None:
        headers["stream-expires-at"] = record.expires
    return headers
