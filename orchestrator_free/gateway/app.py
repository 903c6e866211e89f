"""The gateway as an ASGI application: routes, and what lives as long as it runs. It holds no truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput, NotAllowed, SessionNotFound
from orchestrator_free.gateway.access.allowance import networks
from orchestrator_free.gateway.access.caller import caller, enter, new_session, speaker
from orchestrator_free.gateway.access.guard import Gate, Guard
from orchestrator_free.gateway.access.origins import Origins
from orchestrator_free.gateway.access.trail import Leavings, Trail
from orchestrator_free.gateway.bodies import (
    NewInput,
    NewSession,
    json_answer,
    number,
    read_body,
    refuse_others,
    repeat_id,
)
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.channels.lens import seen
from orchestrator_free.gateway.connections.counts import GuardCounts
from orchestrator_free.gateway.openapi import DOCS_PAGE, DOCS_POLICY, openapi
from orchestrator_free.gateway.problems import HANDLERS
from orchestrator_free.gateway.protocols.agui import AgUi
from orchestrator_free.gateway.protocols.chat import Chat
from orchestrator_free.gateway.protocols.durable_streams.routes import DurableStreamRoutes
from orchestrator_free.gateway.resources.access import AccessRoutes
from orchestrator_free.gateway.resources.asks import AskRoutes
from orchestrator_free.gateway.resources.branches import Branches, send_placed
from orchestrator_free.gateway.resources.controls import Controls
from orchestrator_free.gateway.resources.feed import open_feed
from orchestrator_free.gateway.resources.floor import Floors
from orchestrator_free.gateway.resources.notices import Notices
from orchestrator_free.gateway.resources.operating import Operating
from orchestrator_free.gateway.resources.presence import PresenceRoutes
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.gateway.resources.state import StateRoutes
from orchestrator_free.gateway.resources.tools import Tools
from orchestrator_free.gateway.resources.web import Web
from orchestrator_free.gateway.resources.websocket import follow_socket
from orchestrator_free.gateway.schemes import secured
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.gateway.traced import Traced
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.jetstream import AccessBucket
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.operations.audit import Recorder
from orchestrator_free.session import Session
from orchestrator_free.session.completion import object_names
from orchestrator_free.subjects import check_name

#: what a session has beside inputs and events; each describes itself
_RESOURCES: Final[tuple[type[Resource], ...]] = (
    Controls,
    AskRoutes,
    Floors,
    Branches,
    Chat,
    PresenceRoutes,
    StateRoutes,
    Tools,
    Notices,
    Operating,
    AgUi,
    DurableStreamRoutes,
    Web,
)


class Gateway:
    """One gateway over a connection to the broker.

    Attributes:
        app: the ASGI application; serve it with `gateway.serving` or any ASGI server.
        registry: what `/metrics` shows.
        gate: who may come in.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        registry: CollectorRegistry | None = None,
        settings: GatewaySettings | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        self.broker = broker
        self.registry = registry or CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)
        settings = settings or GatewaySettings()
        self.hub = Hub(broker, self.metrics, settings)
        self.resources = [make(broker, self.hub) for make in _RESOURCES]
        self.draining = False
        self.durability = "unknown"
        self.gate = Gate(AccessBucket(broker.log), verifier, settings, GuardCounts(self.registry))
        self.resources.append(AccessRoutes(broker, self.hub, self.gate))
        routes = self._routes()
        self.recorder = None if settings.audit == "off" else Recorder(broker.log.wire)
        middleware = [
            *self._trail(settings),
            Middleware(Origins, allowed=settings.allow_origins, hosts=settings.hosts),
            Middleware(Guard, gate=self.gate, routes=routes),
            Middleware(Traced),  # behind the guard: who is refused makes no spans
        ]
        self.app = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=self._lifespan, middleware=middleware)

    def _trail(self, settings: GatewaySettings) -> list[Middleware]:
        """Return what writes down who does what, if that is wanted."""
        if self.recorder is None:
            return []
        self.gate.watch.ended = Leavings(self.recorder).ended
        trusted = networks(settings.trusted_proxies)
        return [Middleware(Trail, recorder=self.recorder, mode=settings.audit, trusted=trusted)]

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/sessions/{session}/events", self.follow_session, methods=["GET"]),
            WebSocketRoute("/sessions/{session}/events", self.follow_socket),
            Route("/sessions", self.create_session, methods=["POST"]),
            Route("/sessions", self.list_sessions, methods=["GET"]),
            Route("/sessions/{session}", self.show_session, methods=["GET"]),
            Route("/sessions/{session}", self.delete_session, methods=["DELETE"]),
            Route("/sessions/{session}/inputs", self.send_input, methods=["POST"]),
            Route("/sessions/{session}/objects/{name}", self.get_object, methods=["GET"]),
            *(route for resource in self.resources for route in resource.routes()),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.show_openapi),
            Route("/docs", self.show_docs),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.gate.open()
        if self.recorder is not None:
            await self.recorder.open()
        keepers = [asyncio.create_task(one.run(), name=type(one).__name__) for one in (self.hub, self.gate)]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            self.hub.close()
            for resource in self.resources:
                resource.close()
            if self.recorder is not None:
                await self.recorder.close()

    async def drain(self) -> None:
        """Say that no new work should come, and to feeds that they end; called when the server begins to stop."""
        self.draining = True
        self.hub.say("cut", {"reason": "drain"})

    # -- sessions -----------------------------------------------------------------------------------------------

    def _session(self, request: Request, claimed: str | None = None) -> Session:
        name = enter(request, request.path_params["session"])
        return self.broker.as_member(speaker(request, claimed)).session(name)

    async def create_session(self, request: Request) -> Response:
        """Begin a session."""
        body = await read_body(request, NewSession)
        name = new_session(request, body.session)
        session = self.broker.as_member(caller(request).member).session(name)
        position = await session.create(title=body.title, agents=body.agents, compaction=body.compaction)
        return json_answer({"session": name, "position": str(position)}, 201, location=f"/sessions/{name}")

    async def list_sessions(self, request: Request) -> Response:
        """List the sessions."""
        limit = number(request, "limit", 100, 1, 1000)
        after, accept = request.query_params.get("after", ""), caller(request).enters
        found = await self.broker.sessions(after=after, limit=limit, accept=accept)
        lines = [{"session": s.session, "title": s.title, "agents": s.agents, "created": s.created} for s in found]
        return json_answer({"sessions": lines, "next": found[-1].session if len(found) == limit else None})

    async def show_session(self, request: Request) -> Response:
        """Return the folded view."""
        channel = await self.hub.channel(enter(request, request.path_params["session"]))
        position, view = await (await seen(channel, caller(request).sees)).snapshot()
        return Response(view, 200, {"etag": f'"{position}"', "cache-control": "no-cache"}, "application/json")

    async def delete_session(self, request: Request) -> Response:
        """Delete a session with everything in it."""
        await self._session(request).delete()
        return Response(status_code=204)

    async def send_input(self, request: Request) -> Response:
        """Append an input."""
        body = await read_body(request, NewInput)
        session = self._session(request, body.sender)
        targets = [body.to] if isinstance(body.to, str) else body.to or []
        for target in targets:
            check_name("to", target)  # all of them before any is sent
        placed = body.edits or body.again or body.after
        if placed and not caller(request).hears(placed.sender):
            raise NotAllowed(f"this token does not read what {placed.sender!r} says")
        if body.to is None and not placed:
            raise InvalidInput("to: Field required; /docs shows the fields")
        if self.hub.hot(session.id) is None and not await session.exists():
            raise SessionNotFound(session.id)
        key = repeat_id(request.headers.get("idempotency-key"), body.id)
        if key is not None and body.id is None and targets:
            await refuse_others(session, key, targets)
        if placed:
            sent = await send_placed(session, body, key)
        else:
            more = {"data": body.data, "id": key, "whisper": body.whisper, "note": body.note, "overlap": body.overlap}
            sent = await session.send(body.text, to=body.to or (), **more)
        self.metrics.inputs.inc()
        answer = {"input": sent.input, "run": sent.run, "position": str(sent.position)}
        return json_answer(answer, 200 if sent.repeated else 202)

    async def follow_session(self, request: Request) -> Any:
        """Stream the events."""
        return await open_feed(request, self.hub)

    async def follow_socket(self, websocket: WebSocket) -> None:
        """Stream the events over a WebSocket."""
        await follow_socket(websocket, self.hub)

    async def get_object(self, request: Request) -> Response:
        """Return a file, or the parts of a large finished run."""
        name = check_name("object", request.path_params["name"])
        try:
            session = self._session(request)
            sees = caller(request).sees
            data = await session.object(name) if sees is None or await self._shown(request, name) else None
        except SessionNotFound:
            data = None  # that is not the caller's; of one that is not there the store knows no object, either
        if data is None:
            raise HTTPException(404, "this session has no object of that name")
        safe = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        return Response(data, 200, safe, "application/octet-stream")

    async def _shown(self, request: Request, name: str) -> bool:
        """Whether an object is of what the caller may see."""
        channel = await self.hub.channel(request.path_params["session"])
        _, view = await (await seen(channel, caller(request).sees)).snapshot()
        return name in object_names(orjson.loads(view))

    # -- operations ---------------------------------------------------------------------------------------------

    async def healthz(self, request: Request) -> Response:
        """Say that the process lives."""
        return json_answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Say whether this gateway can serve."""
        connected = self.broker.log.wire.connected.is_set()
        ready = connected and not self.draining
        state = {
            "status": "ready" if ready else "not ready",
            "broker": "connected" if connected else "disconnected",
            "draining": self.draining,
            "durability": self.durability,
            "identity": "open" if self.gate.verifier is None else "tokens",
        }
        return json_answer(state, 200 if ready else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Return the metrics in the format that Prometheus asks for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), 200, {"content-type": content_type})

    async def show_openapi(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return json_answer(secured(openapi(NewSession, NewInput, self.resources)))

    async def show_docs(self, request: Request) -> Response:
        """Return a page that shows it."""
        return HTMLResponse(DOCS_PAGE, headers={"content-security-policy": DOCS_POLICY})
