"""Requests that change something, as spans: the gateway goes on with the trace of a browser or a backend."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator_free import tracing

#: feeds last for hours, reads lead to nothing
_UNTRACED: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Traced:
    """Middleware behind the guard: requests that were let in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request inside of a span."""
        tracer = tracing.tracer
        if tracer is None or scope["type"] != "http" or scope["method"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracer.request(scope["method"], headers):
            try:
                await self._app(scope, receive, sending)
            finally:
                tracer.answered(_route(scope), status)


def _route(scope: Scope) -> str:
    """Return the path with the names of its parameters in place of their values."""
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(part, part) for part in scope["path"].split("/")) if names else str(scope["path"])
