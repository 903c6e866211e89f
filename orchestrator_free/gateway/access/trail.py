"""What goes into the audit log of a gateway: every request that is let in or refused, every feed that opens or ends.

Plain ASGI, before everything else, so that refusals are seen too. Health checks and pages are left out, contents never
get in: only what the route and its handler say of what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from orchestrator_free.errors import BrokerError
from orchestrator_free.gateway.access.allowance import Network, address_of
from orchestrator_free.gateway.access.caller import NOTES, Notes
from orchestrator_free.gateway.access.permits import SOCKET, permit_of
from orchestrator_free.gateway.connections.fallback import Receive, Scope, Send
from orchestrator_free.gateway.connections.watch import Stay
from orchestrator_free.gateway.problems import on_error
from orchestrator_free.operations.audit import Entry, Recorder

Mode = Literal["off", "on", "strict"]


def audited(connection: HTTPConnection, **facts: Any) -> None:
    """Say what a request did, for the audit log: words of ours, names and ids, never what people wrote."""
    notes: Notes = connection.scope.setdefault(NOTES, Notes())
    notes.said.update(facts)


class Trail:
    """The middleware over a `Recorder`."""

    def __init__(self, app: Callable[..., Any], recorder: Recorder, mode: Mode, trusted: list[Network]) -> None:
        self._app = app
        self._recorder = recorder
        self._strict = mode == "strict"
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and write down what was done."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[NOTES] = Notes()
        status, known, refused = 0, False, False

        async def watch(message: Any) -> None:
            nonlocal status, known, refused
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                if self._strict and (entry := self._entry(scope, status)) is not None:
                    known = True
                    refused = not await self._insist(entry, scope, receive, send)
            if not refused:
                await send(message)

        await self._app(scope, receive, watch)
        if not known and (entry := self._entry(scope, status)) is not None:
            self._recorder.record(entry)

    async def _insist(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> bool:
        """Write an entry before its answer leaves; answer with the problem if that cannot be done."""
        try:
            await self._recorder.written(entry)
        except BrokerError as error:
            await (await on_error(HTTPConnection(scope), error))(scope, receive, send)
            return False
        return True

    def _entry(self, scope: Scope, status: int) -> Entry | None:
        """Return what is to be written down, None if nothing is."""
        notes: Notes = scope[NOTES]
        route, params, principal = notes.route, notes.params, notes.principal
        method = SOCKET if scope["type"] == "websocket" else scope["method"]
        permit = permit_of(route, method)
        if (permit is not None and (permit.public or permit.local)) or (not route and status == 404):
            return None
        opened = permit is not None and permit.stays and status in (0, 101, 200)
        facts = {
            "method": method, "route": route or scope["path"], "status": status or 200,
            "outcome": "opened" if opened else _outcome(status),
            "address": address_of(scope, Headers(scope=scope), self._trusted),
            "token": getattr(principal, "token", ""), **_ids(params), **notes.said,
        }  # fmt: skip
        member = principal.member if principal is not None else ""
        return Entry("feed" if opened else "request", member, str(params.get("session", "")), facts)


def _outcome(status: int) -> str:
    if status in (401, 403, 429):
        return "refused"
    return "done" if status < 400 else "failed"


def _ids(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if name not in ("session", "path")}


class Leavings:
    """Feeds that have ended, by what the watch over them sees."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def ended(self, stay: Stay) -> None:
        """Write down that a feed has ended."""
        facts = {
            "outcome": "closed", "address": stay.address, "token": stay.principal.token,
            "seconds": round(monotonic() - stay.since, 1),
        }  # fmt: skip
        self._recorder.record(Entry("feed", stay.principal.member, stay.session, facts))
