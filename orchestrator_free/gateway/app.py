"""The gateway as an ASGI application: routes, and what lives as long as it runs. It holds no truth."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidEvent, InvalidInput, SessionNotFound, TooLarge
from orchestrator_free.gateway.feed import open_feed
from orchestrator_free.gateway.hub import Hub
from orchestrator_free.gateway.openapi import DOCS_PAGE, openapi
from orchestrator_free.gateway.problems import HANDLERS
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.session import Broker, Session
from orchestrator_free.subjects import TOKEN, check_name

BODY_BYTES: Final = 1024 * 1024

_Model = TypeVar("_Model", bound=BaseModel)


class NewSession(BaseModel):
    """Body of `POST /sessions`."""

    model_config = ConfigDict(extra="forbid")

    session: str | None = Field(None, description="its id; made up if absent")
    title: str = Field("", max_length=500, description="for people")
    agents: list[str] = Field([], max_length=200, description="who answers inputs to `all`; empty for every agent")
    compaction: Literal["on", "off"] = Field("on", description="off: the log keeps every delta of finished runs")


class NewInput(BaseModel):
    """Body of `POST /sessions/{session}/inputs`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    text: str = Field("", description="what to do")
    to: str | Annotated[list[str], Field(max_length=200)] = Field(description="an agent, several, or `all`")
    data: Any = Field(None, description="any JSON beside the text")
    id: str | None = Field(None, description="the same id and content is sent once")
    sender: str = Field("user", alias="from", description="the member who says it")


class NewControl(BaseModel):
    """Body of `POST /sessions/{session}/controls`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["cancel", "steer", "redirect", "pause", "resume"]
    to: str = Field("all", description="an agent, or `all`")
    run: str | None = Field(None, description="which run; absent: all that are open or waiting")
    text: str | None = Field(None, description="what a steer or a redirect says")
    data: Any = Field(None, description="any JSON beside the text")
    children: bool | None = Field(None, description="cancel: also what the run delegated; true if absent")
    reason: str | None = Field(None, description="for people")
    within_seconds: float | None = Field(None, ge=0, le=86400, description="not accepted by then, it expires")
    id: str | None = Field(None, description="the same id and content is said once")
    sender: str = Field("user", alias="from", description="the member who says it")


def _json(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


class Gateway:
    """One gateway over a connection to the broker.

    Attributes:
        app: the ASGI application; serve it with `gateway.serving` or any ASGI server.
        registry: what `/metrics` shows.
    """

    def __init__(
        self, broker: Broker, *, registry: CollectorRegistry | None = None, settings: GatewaySettings | None = None
    ) -> None:
        self.broker = broker
        self.registry = registry or CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)
        self.hub = Hub(broker, self.metrics, settings or GatewaySettings())
        self.draining = False
        self.durability = "unknown"
        self.app = Starlette(routes=self._routes(), exception_handlers=HANDLERS, lifespan=self._lifespan)

    def _routes(self) -> list[Route]:
        return [
            Route("/sessions/{session}/events", self.follow_session, methods=["GET"]),
            Route("/sessions", self.create_session, methods=["POST"]),
            Route("/sessions", self.list_sessions, methods=["GET"]),
            Route("/sessions/{session}", self.show_session, methods=["GET"]),
            Route("/sessions/{session}", self.delete_session, methods=["DELETE"]),
            Route("/sessions/{session}/inputs", self.send_input, methods=["POST"]),
            Route("/sessions/{session}/controls", self.send_control, methods=["POST"]),
            Route("/sessions/{session}/objects/{name}", self.get_object, methods=["GET"]),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.show_openapi),
            Route("/docs", self.show_docs),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        keeper = asyncio.create_task(self.hub.run(), name="hub")
        try:
            yield
        finally:
            keeper.cancel()
            self.hub.close()

    async def drain(self) -> None:
        """Say that no new work should come; called when the server begins to stop."""
        self.draining = True

    # -- sessions -----------------------------------------------------------------------------------------------

    def _session(self, request: Request, member: str = "user") -> Session:
        return Broker(self.broker.log, check_name("from", member)).session(request.path_params["session"])

    async def create_session(self, request: Request) -> Response:
        """Begin a session."""
        body = await _read(request, NewSession)
        name = check_name("session", secrets.token_hex(12) if body.session is None else body.session)
        session = Broker(self.broker.log, "user").session(name)
        position = await session.create(title=body.title, agents=body.agents, compaction=body.compaction)
        return _json({"session": name, "position": str(position)}, 201, location=f"/sessions/{name}")

    async def list_sessions(self, request: Request) -> Response:
        """List the sessions."""
        limit = _number(request, "limit", 100, 1, 1000)
        found = await self.broker.sessions(after=request.query_params.get("after", ""), limit=limit)
        lines = [{"session": s.session, "title": s.title, "agents": s.agents, "created": s.created} for s in found]
        return _json({"sessions": lines, "next": found[-1].session if len(found) == limit else None})

    async def show_session(self, request: Request) -> Response:
        """Return the folded view."""
        channel = await self.hub.channel(check_name("session", request.path_params["session"]))
        position, view = await channel.snapshot()
        return Response(view, 200, {"etag": f'"{position}"', "cache-control": "no-cache"}, "application/json")

    async def delete_session(self, request: Request) -> Response:
        """Delete a session with everything in it."""
        await self._session(request).delete()
        return Response(status_code=204)

    async def send_input(self, request: Request) -> Response:
        """Append an input."""
        body = await _read(request, NewInput)
        session = self._session(request, body.sender)
        for target in [body.to] if isinstance(body.to, str) else body.to:
            check_name("to", target)  # all of them before any is sent
        if self.hub.hot(session.id) is None and not await session.exists():
            raise SessionNotFound(session.id)
        key = _input_id(request.headers.get("idempotency-key"), body.id)
        sent = await session.send(body.text, to=body.to, data=body.data, id=key)
        self.metrics.inputs.inc()
        answer = {"input": sent.input, "run": sent.run, "position": str(sent.position)}
        return _json(answer, 200 if sent.repeated else 202)

    async def send_control(self, request: Request) -> Response:
        """Append a control; with `?wait=` seconds, answer when it has an outcome."""
        body = await _read(request, NewControl)
        session = self._session(request, body.sender)
        if self.hub.hot(session.id) is None and not await session.exists():
            raise SessionNotFound(session.id)
        wait = _number(request, "wait", 0, 0, 60)
        said = body.model_dump(include={"type", "text", "data", "children", "reason"}, exclude_none=True)
        key = _input_id(request.headers.get("idempotency-key"), body.id)
        sent = await session.control.give(said, to=body.to, run=body.run, within_seconds=body.within_seconds, id=key)
        answer: dict[str, Any] = {"control": sent.control, "position": str(sent.position), "outcome": None}
        if wait:
            with contextlib.suppress(TimeoutError):
                answer["outcome"] = asdict(await sent.outcome(timeout=wait))
        return _json(answer, 200 if answer["outcome"] else 202)

    async def follow_session(self, request: Request) -> Any:
        """Stream the events."""
        check_name("session", request.path_params["session"])
        return await open_feed(request, self.hub)

    async def get_object(self, request: Request) -> Response:
        """Return a file, or the parts of a large finished run."""
        name = check_name("object", request.path_params["name"])
        data = await self._session(request).object(name)
        if data is None:
            raise HTTPException(404, "this session has no object of that name")
        safe = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        return Response(data, 200, safe, "application/octet-stream")

    # -- operations ---------------------------------------------------------------------------------------------

    async def healthz(self, request: Request) -> Response:
        """Say that the process lives."""
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Say whether this gateway can serve."""
        connected = self.broker.log.wire.connected.is_set()
        ready = connected and not self.draining
        state = {
            "status": "ready" if ready else "not ready",
            "broker": "connected" if connected else "disconnected",
            "draining": self.draining,
            "durability": self.durability,
        }
        return _json(state, 200 if ready else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Return the metrics in the format that Prometheus asks for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), 200, {"content-type": content_type})

    async def show_openapi(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return _json(openapi(NewSession, NewInput, NewControl))

    async def show_docs(self, request: Request) -> Response:
        """Return a page that shows it."""
        return HTMLResponse(DOCS_PAGE)


async def _read(request: Request, model: type[_Model]) -> _Model:
    """Read and check a JSON body."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > BODY_BYTES:
            raise TooLarge(f"the body is larger than {BODY_BYTES} bytes; put large documents into a file")
    try:
        return model.model_validate(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"the body is not JSON ({error}); send an object as /docs shows it") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(place) for place in first["loc"]) or "body"
        raise InvalidInput(f"{where}: {first['msg']}; /docs shows the fields") from error


def _input_id(header: str | None, given: str | None) -> str | None:
    """Return the input's id: as given, or derived from the idempotency key."""
    if header is None or given is not None:
        return given
    return header if TOKEN.fullmatch(header) else hashlib.sha256(header.encode()).hexdigest()[:32]


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InvalidInput(f"{name}={text[:40]!r}: expected a number from {least} to {most}")
    return int(text)
