"""`/client/…` and `/console/…`: the TypeScript client and the console, as files of this package. No build is needed."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator_free.gateway.openapi import operation
from orchestrator_free.gateway.resources.resource import Resource

_WEB: Final = Path(__file__).parents[2] / "web"
_ROOTS: Final = {"client": _WEB / "client/dist", "console": _WEB / "console"}
#: a file that may be served: plain names, none of them hidden, and an ending that is known
_PATH: Final = re.compile(r"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(\.[a-z0-9]+)")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".ts": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
#: pages load nothing from elsewhere, run no script that is written into them, and stand in nobody's frame
_POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Web(Resource):
    """The files that a browser needs."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/client/{path:path}", self.client, methods=["GET"]),
            Route("/console", self.enter, methods=["GET"]),
            Route("/console/{path:path}", self.console, methods=["GET"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        name = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
        script = operation("The TypeScript client as modules: index.js", {"200": "the file"}, "text/javascript")
        page = operation("The console, a page: index.html", {"200": "the file"}, "text/html")
        return {
            "/client/{path}": {"parameters": [name], "get": script},
            "/console": {"get": operation("Lead to the console", {"307": "to /console/"})},
            "/console/{path}": {"parameters": [name], "get": page},
        }

    async def client(self, request: Request) -> Response:
        """Return a file of the client."""
        return _file(request, "client")

    async def console(self, request: Request) -> Response:
        """Return a file of the console."""
        return _file(request, "console")

    async def enter(self, request: Request) -> Response:
        """Lead to the console."""
        where = "console/" + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(where, 307)


def _file(request: Request, root: str) -> Response:
    """Answer with a file; with 304 if it is the one that the browser has."""
    name = request.path_params["path"] or "index.html"
    known = _PATH.fullmatch(name)
    path = _ROOTS[root] / name
    if known is None or known[1] not in _TYPES or not path.is_file():
        raise HTTPException(404, f"/{root}/ has no such file")
    data, tag = _read(path, path.stat().st_mtime_ns)
    headers = {"etag": tag, "cache-control": "no-cache", "x-content-type-options": "nosniff"}
    if known[1] == ".html":
        headers |= {"content-security-policy": _POLICY, "referrer-policy": "same-origin"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, 200, headers, _TYPES[known[1]])


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> tuple[bytes, str]:
    """Return a file and its entity tag; read once as long as it has not changed."""
    data = path.read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:24]}"'
