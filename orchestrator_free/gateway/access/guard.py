"""In front of every route: who calls, whether that is allowed, and whether it is too much. Plain ASGI, as `Origins` is.

Without a verifier everybody may do everything; that is for one host, and said at every place where somebody looks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.websockets import WebSocket

from orchestrator_free.errors import (
    NotAllowed,
    NotAuthenticated,
    OrchestratorFreeError,
    TokenExpired,
    TooManyRequests,
)
from orchestrator_free.gateway.access.allowance import Buckets, address_of, is_local, networks
from orchestrator_free.gateway.access.caller import NOTES, PRINCIPAL, Notes
from orchestrator_free.gateway.access.origins import page_of
from orchestrator_free.gateway.access.permits import PUBLIC, SOCKET, STREAMS, Permit, permit_of
from orchestrator_free.gateway.access.revocations import Revocations
from orchestrator_free.gateway.access.tickets import Tickets
from orchestrator_free.gateway.connections.counts import GuardCounts
from orchestrator_free.gateway.connections.fallback import Receive, Scope, Send
from orchestrator_free.gateway.connections.watch import STAY, Stay, Watch
from orchestrator_free.gateway.problems import on_error
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.identity.principal import OPEN, Principal
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.jetstream import AccessBucket

_HOUR: Final = 3600.0
_NONE: Final = (
    "this gateway asks for a token: send it in the header Authorization, behind the word Bearer; where no header can "
    "be set, fetch a ticket (POST /tickets) and pass it as ?ticket="
)


class Gate:
    """What a gateway knows of those who come.

    Attributes:
        verifier: says who a token is; None: nobody is asked.
        watch: the feeds that are open.
        tickets: None where nobody is asked, as `revocations`.
    """

    def __init__(
        self, bucket: AccessBucket, verifier: Verifier | None, settings: GatewaySettings, counts: GuardCounts
    ) -> None:
        self.verifier = verifier
        self.counts = counts
        self.settings = settings
        self.tickets = None if verifier is None else Tickets(bucket)
        self.revocations = None if verifier is None else Revocations(bucket)
        self.watch = Watch(
            self.check,
            self._ends,
            counts,
            born=self.spend_session,
            member_feeds=settings.member_feeds,
            address_feeds=settings.address_feeds,
        )
        self._trusted = networks(settings.trusted_proxies)
        self._members = _buckets(settings.member_requests_per_second)
        self._addresses = _buckets(settings.address_requests_per_second)
        hourly = settings.member_sessions_per_hour
        self._births = Buckets(hourly / _HOUR, hourly) if hourly else None
        counted = settings.member_feeds > 0 or settings.address_feeds > 0
        self._watches = verifier is not None or counted or settings.audit != "off"
        counts.open.set(verifier is None)

    def _ends(self, principal: Principal) -> float:
        return math.inf if self.verifier is None else self.verifier.ends(principal)

    async def open(self) -> None:
        """Read the keys and what is revoked.

        Raises:
            InvalidInput: the keys cannot be had.
            BrokerError: what is revoked cannot be read.
        """
        if self.verifier is not None and self.revocations is not None:
            await self.verifier.keys.load()
            await self.revocations.bucket.open()
            self.revocations.on_change = self.watch.doubt
            await self.revocations.load()

    async def run(self) -> None:
        """Look after open feeds, and for what is revoked; until cancelled."""
        await asyncio.gather(self.watch.run(), *([self.revocations.run()] if self.revocations is not None else []))

    def check(self, principal: Principal) -> None:
        """Check that somebody who came in still counts.

        Raises:
            NotAuthenticated: not any more.
        """
        if self.verifier is not None and self.revocations is not None:
            self.verifier.check_time(principal)
            self.revocations.check(principal)

    # -- coming in ----------------------------------------------------------------------------------------------

    async def admit(self, scope: Scope, route: str, params: dict[str, Any], permit: Permit) -> Stay | None:
        """Return the stay of somebody who may do this; None where nobody is asked for.

        Raises:
            OrchestratorFreeError: what is in the way; the request gets no further.
        """
        headers = Headers(scope=scope)
        address = address_of(scope, headers, self._trusted)
        self._spend(self._addresses, address, "address")
        if permit.public or (permit.local and self._is_near(scope, headers)):
            return None
        principal = await self._principal(scope, headers, params, permit)
        if "speak" not in principal.capabilities:
            self._spend(self._members, principal.member, "member")
        principal.need(*permit.needs)
        if principal.agents is not None and not permit.narrow:
            raise NotAllowed("this token reads the words of some members only, and this route cannot tell them apart")
        if route.startswith(STREAMS):
            principal.reach(params["path"])
        if permit.stays and self._watches:
            return self.watch.begin(principal, address)
        return Stay(self.watch, principal, address)

    def _is_near(self, scope: Scope, headers: Headers) -> bool:
        metrics = self.settings.metrics
        return metrics == "open" or (metrics == "loopback" and is_local(scope, headers, self._trusted))

    def _spend(self, buckets: Buckets | None, key: str, name: str) -> None:
        seconds = buckets.take(key) if buckets is not None else 0.0
        if seconds:
            self.counts.refused.labels(f"{name}_rate").inc()
            raise TooManyRequests(f"too many requests of one {name}; come again in {seconds:.1f} s", seconds=seconds)

    def spend_session(self, principal: Principal) -> None:
        """Count a session that somebody begins.

        Raises:
            TooManyRequests: it has begun as many as it may.
        """
        if "speak" not in principal.capabilities:
            self._spend(self._births, principal.member, "member_sessions")

    # -- who ----------------------------------------------------------------------------------------------------

    async def _principal(self, scope: Scope, headers: Headers, params: dict[str, Any], permit: Permit) -> Principal:
        if self.verifier is None:
            return OPEN
        query = QueryParams(scope["query_string"])
        if "access_token" in query or "token" in query:
            raise NotAuthenticated("a token in an address ends up in logs and histories; nothing was done. " + _NONE)
        if "ticket" in query:
            token = await self._redeem(query["ticket"], headers, params, permit)
        else:
            token = bearer(headers)
        principal = await self.verifier.verify(token)
        self.check(principal)
        return principal

    async def _redeem(self, ticket: str, headers: Headers, params: dict[str, Any], permit: Permit) -> str:
        if not permit.ticket or self.tickets is None:
            raise NotAuthenticated("a ticket opens a feed, nothing else; send the token itself")
        return await self.tickets.redeem(ticket, session=params.get("session"), page=page_of(headers))


def bearer(headers: Headers) -> str:
    """Return the token of a request.

    Raises:
        NotAuthenticated: there is none.
    """
    found = headers.getlist("authorization")
    scheme, _, token = (found[0] if len(found) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated(_NONE)
    return token.strip()


def _buckets(rate: float) -> Buckets | None:
    return Buckets(rate, 5 * rate) if rate else None


class Guard:
    """The middleware over a `Gate`."""

    def __init__(self, app: Callable[..., Any], gate: Gate, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, or answer why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            route, params = self._route(scope)
            notes = scope.setdefault(NOTES, Notes())
            notes.route, notes.params = route, params
            stay = await self._gate.admit(scope, route, params, self._permit(scope, route))
        except OrchestratorFreeError as error:
            await self._refuse(scope, receive, send, error)
            return
        scope[PRINCIPAL] = stay.principal if stay is not None else None
        if stay is not None:
            notes.principal = stay.principal
            stay.session = str(params.get("session", ""))
        scope[STAY] = stay
        try:
            await self._app(scope, receive, send)
        finally:
            if stay is not None:
                stay.answered()

    def _route(self, scope: Scope) -> tuple[str, dict[str, Any]]:
        """Return the route that will answer, and the parameters in its path; empty if none will."""
        partly: tuple[str, dict[str, Any]] = ("", {})
        for route in self._routes:
            match, child = route.matches(scope)
            found = (str(getattr(route, "path", "")), dict(child.get("path_params", {})))
            if match is Match.FULL:
                return found
            if match is Match.PARTIAL and not partly[0]:
                partly = found
        return partly

    def _permit(self, scope: Scope, route: str) -> Permit:
        """Return what is asked for.

        Raises:
            NotAllowed: nobody has written that down.
        """
        method = SOCKET if scope["type"] == "websocket" else scope["method"]
        found = permit_of(route, method)
        if found is not None:
            return found
        served = any(match is Match.FULL for match, _ in (one.matches(scope) for one in self._routes))
        if served:
            raise NotAllowed(f"{method} {route} is in no table of permits; this is a fault of the gateway")
        return PUBLIC if self._gate.verifier is None else Permit()  # the router says that there is nothing

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: OrchestratorFreeError) -> None:
        reason = {TokenExpired: "expired", NotAuthenticated: "unauthenticated", NotAllowed: "forbidden"}.get(
            type(error)
        )
        if reason is not None:
            self._gate.counts.refused.labels(reason).inc()
        response = await on_error(HTTPConnection(scope), error)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)
