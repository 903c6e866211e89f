"""Errors as problem documents (RFC 9457): what was wrong, and what to do."""

from __future__ import annotations

import math
import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from orchestrator_free import errors, logs
from orchestrator_free.logs import scrub

_log = logs.logger("orchestrator_free.gateway")

_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (errors.TooLarge, 413),
    (errors.InvalidAnswer, 422),
    (errors.InvalidInput, 400),
    (errors.SessionNotFound, 404),
    (errors.SessionExists, 409),
    (errors.PatchFailed, 409),
    (errors.FloorForbidden, 403),
    (errors.FloorRefused, 409),
    (errors.AskNotFound, 404),
    (errors.NoticeNotFound, 404),
    (errors.LetterNotFound, 404),
    (errors.NotAuthenticated, 401),
    (errors.NotAllowed, 403),
    (errors.TooManyRequests, 429),
    (errors.NotAsked, 403),
    (errors.AskClosed, 409),
    (errors.PositionLost, 410),
    (errors.Conflict, 409),
    (errors.PermissionDenied, 403),
    (errors.StorageFull, 507),
    (errors.BrokerTimeout, 504),
    (errors.BrokerUnreachable, 503),
    (errors.BrokerError, 502),
)


#: instead of the error's own words: they name the broker's address, perhaps with a password
_AWAY: Final = (
    "the broker does not answer; try again in a moment. What was sent may be stored: sent again with the same "
    "Idempotency-Key, it is stored once"
)


def problem(status: int, title: str, detail: str, *, type_: str = "about:blank") -> Response:
    """Return a problem document."""
    body = {"type": type_, "title": scrub(title), "status": status, "detail": scrub(detail)}
    headers = {"retry-after": "1"} if status in (503, 504) else None
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def _more(error: Exception) -> dict[str, str]:
    """Return the headers that say to a program what the error says to people."""
    if isinstance(error, errors.TooManyRequests):
        return {"retry-after": str(max(1, math.ceil(error.seconds)))}
    if isinstance(error, errors.NotAuthenticated):
        return {"www-authenticate": 'Bearer realm="orchestrator-free", error="invalid_token"'}
    return {}


def _words(error: BaseException) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__)


async def on_error(request: HTTPConnection, error: Exception) -> Response:
    """Translate an error of the library."""
    title = _words(error)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            urn = f"urn:orchestrator-free:problem:{title.lower().replace(' ', '-')}"
            if status in (503, 504):
                _log.warning("the broker does not answer", path=request.url.path, error=str(error))
            response = problem(status, title, _AWAY if status in (503, 504) else str(error), type_=urn)
            response.headers.update(_more(error))
            return response
    _log.error("request failed", path=request.url.path, exc_info=error)
    return problem(500, "Internal error", "the gateway failed; its log says more")


async def on_http_error(request: Request, error: Exception) -> Response:
    """Translate an error of the router."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = f"{request.method} {request.url.path}: {getattr(error, 'detail', error)}; /docs lists what there is"
    response = problem(status, str(getattr(error, "detail", "Error")), detail)
    response.headers.update(getattr(error, "headers", None) or {})
    if status == 405:
        response.headers["allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """Return the methods of a path; Starlette itself names those of its first route only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for methods in found for method in methods})


async def on_gone(request: Request, error: Exception) -> Response:
    """Answer a client that left in the middle of its own request: nobody reads it."""
    return problem(400, "Client disconnected", "the request ended before its body; send it again")


#: for Starlette
HANDLERS: Final = {
    errors.OrchestratorFreeError: on_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_gone,
    Exception: on_error,
}
