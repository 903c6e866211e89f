"""What every answer to a request about a durable stream has in common: its headers, and how it says no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orchestrator_free.durable_streams.refusals import Refusal
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.gateway.problems import on_error, on_gone, problem
from orchestrator_free.gateway.protocols.durable_streams.live import Live

#: of every answer
SAFE: Final = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "cross-origin"}


async def answered(request: Request, live: Live, handler: Callable[[Request], Awaitable[Any]]) -> Any:
    """Answer a request; what is refused with the status and headers that the protocol demands."""
    try:
        response = await handler(request)
    except Refusal as refusal:
        response = problem(refusal.status, refusal.title, str(refusal))
        response.headers.update(refusal.headers)
    except OrchestratorFreeError as error:
        response = await on_error(request, error)
    except ClientDisconnect as error:
        response = await on_gone(request, error)
    if isinstance(response, Response):
        response.headers.update(SAFE)
    status = response.status_code if isinstance(response, Response) else 200
    live.metrics.requests.labels(request.method, str(status)).inc()
    return response
