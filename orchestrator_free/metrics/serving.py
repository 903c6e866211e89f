"""Serving the lag alone: `/metrics` and `/healthz`, without a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput
from orchestrator_free.metrics.poll import Metrics


class _Server(uvicorn.Server):
    """Leaves the signals to the program around it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_lag(
    broker: Broker,
    *,
    host: str,
    port: int,
    monitor_url: str | None = None,
    poll_seconds: float = 5.0,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve `/metrics` and `/healthz` until cancelled.

    Args:
        broker: the connection to ask over.
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        monitor_url: the broker's HTTP monitor, which tells the durability.
        poll_seconds: how often the broker is asked.
        ready: called with the URL once it is served.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    shown = f"[{host}]" if ":" in host else host
    async with Metrics(broker, monitor_url=monitor_url, poll_seconds=poll_seconds) as metrics:
        server = _Server(uvicorn.Config(_lag_app(metrics), access_log=False, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            ready(f"http://{shown}:{listener.getsockname()[1]}")
            await asyncio.shield(serving)
        finally:
            server.should_exit = server.force_exit = True
            await serving


def _lag_app(metrics: Metrics) -> Starlette:
    async def show_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def healthz(request: Request) -> Response:
        connected = metrics._wire.connected.is_set()
        return JSONResponse({
            "status": "ok", "broker": "connected" if connected else "disconnected",
            "last_success": metrics.last_success or None,
        })  # fmt: skip

    return Starlette(routes=[Route("/metrics", show_metrics), Route("/healthz", healthz)])
