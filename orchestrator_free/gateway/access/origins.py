"""Which web pages may use the gateway: an allow-list of origins, CORS for those, no writes from any other page.

A browser says in `Origin` (and `Sec-Fetch-Site`) which page asks; what has neither is no page and stays as it is.
Plain ASGI, because a feed takes its connection (see `FeedResponse`): its head is told here before it is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.websockets import WebSocket

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.connections.fallback import Receive, Scope, Send
from orchestrator_free.gateway.connections.transport import EXTENSION, Feed, Handler, Head
from orchestrator_free.gateway.problems import problem

_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:*,\[\]]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
#: what a page may read of an answer beside its body
EXPOSED: Final = (
    "x-workflow-run-id, x-stream-url, etag, location, retry-after, stream-next-offset, stream-cursor, "
    "stream-up-to-date, stream-closed, stream-ttl, stream-expires-at, stream-sse-data-encoding, producer-epoch, "
    "producer-seq, producer-expected-seq, producer-received-seq"
)
#: how long a browser may keep the answer to a preflight
_PREFLIGHT_SECONDS: Final = "600"
#: on every answer: what it says it is, it is; no other site hears the address of a page
SAFE: Final = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}
_REFUSED: Final = "urn:orchestrator-free:problem:origin-refused"


def check_origin(text: str) -> str:
    """Return an origin as browsers write it: lower case, without a default port.

    Raises:
        InvalidInput: it is none, or a wildcard.
    """
    found = _ORIGIN.fullmatch(text.strip().lower().removesuffix("/"))
    if found is None:
        raise InvalidInput(
            f"{text[:100]!r} is no origin; write scheme, host and port of the page, as http://localhost:3000. "
            "There is no wildcard: each origin is named"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


class Origins:
    """Middleware in front of the routes."""

    def __init__(self, app: Callable[..., Any], allowed: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        """Prepare.

        Args:
            app: what answers.
            allowed: the origins, beside the gateway's own, whose pages may use it.
            hosts: the names under which it may be reached; none for any. A page can give its own name this host's
                address, and is then of the gateway's origin, but not under one of these names.

        Raises:
            InvalidInput: one is no origin.
        """
        self._app = app
        self._allowed = frozenset(check_origin(one) for one in allowed)
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, answer a preflight, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        listed = origin is not None and origin.lower() in self._allowed
        if self._hosts and (host := _name_of(headers)) not in self._hosts:
            await _misnamed(scope, receive, send, host)
        elif not listed and _foreign(origin, headers) and _matters(scope, headers):
            await _refuse(scope, receive, send, origin)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif listed and origin and _is_preflight(scope, headers):
            await Response(status_code=204, headers=_permission(origin, headers))(scope, receive, send)
        else:
            more = _shared(origin) if listed and origin else {"vary": "origin"} if self._allowed else {}
            await self._app(*_with_headers(scope, receive, send, SAFE | more))


def _name_of(headers: Headers) -> str:
    """Return the host that a request names, without its port."""
    name = headers.get("host", "").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


async def _misnamed(scope: Scope, receive: Receive, send: Send, host: str) -> None:
    detail = (
        f"this gateway asks nobody who they are, so it answers to the names of this host's loopback only, not to "
        f"{host[:100]!r}; start it with --auth-keys, or with --open if that is meant"
    )
    await _answer(scope, receive, send, problem(403, "Host refused", detail))


def page_of(headers: Headers) -> str:
    """Return the origin of the page that asks; empty for the gateway's own, and where no page does."""
    origin = headers.get("origin")
    return origin.lower() if origin is not None and _foreign(origin, headers) else ""


def _foreign(origin: str | None, headers: Headers) -> bool:
    """Whether a page of another origin asks. A page cannot forge either header."""
    site = headers.get("sec-fetch-site")
    if site == "same-origin":
        return False
    if origin is None:
        return site in ("cross-site", "same-site")
    scheme, _, where = origin.lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme, "")
    return where.removesuffix(f":{default}") != headers.get("host", "").lower().removesuffix(f":{default}")


def _matters(scope: Scope, headers: Headers) -> bool:
    """Whether it is more than reading, which the browser itself keeps from the page."""
    return scope["type"] == "websocket" or scope["method"] not in _READING or _is_preflight(scope, headers)


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return bool(scope["method"] == "OPTIONS" and "access-control-request-method" in headers)


async def _refuse(scope: Scope, receive: Receive, send: Send, origin: str | None) -> None:
    page = f"a page of {origin[:200]!r}" if origin else "a page of another site"
    detail = (
        f"{page} may not use this gateway; if it is yours, start the gateway with --allow-origin "
        f"{origin[:200] if origin and origin != 'null' else 'https://your.page'}"
    )
    response = problem(403, "Origin refused", detail, type_=_REFUSED)
    response.headers["vary"] = "origin"
    await _answer(scope, receive, send, response)


async def _answer(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


def _shared(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": EXPOSED,
        "vary": "origin",
    }


def _permission(origin: str, headers: Headers) -> dict[str, str]:
    return _shared(origin) | {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", "content-type"),
        "access-control-max-age": _PREFLIGHT_SECONDS,
        "vary": "origin, access-control-request-headers",
    }


def _with_headers(scope: Scope, receive: Receive, send: Send, more: dict[str, str]) -> tuple[Scope, Receive, Send]:
    """Add headers to whatever answers: a response, or a feed that takes the connection."""
    if not more:
        return scope, receive, send

    async def told(message: Any) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(more)
        await send(message)

    extensions = scope.get("extensions") or {}
    take: Callable[[Head, Handler], Feed] | None = extensions.get(EXTENSION)
    if take is not None:

        def taken(head: Head, handler: Handler) -> Feed:
            kept = tuple((name, value) for name, value in head.headers if name not in more)
            return take(Head(kept + tuple(more.items()), head.status), handler)

        scope = {**scope, "extensions": {**extensions, EXTENSION: taken}}
    return scope, receive, told
