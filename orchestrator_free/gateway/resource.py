"""What the routes of one thing have in common: the things of a session each have a module with a `Resource`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route

from orchestrator_free.broker import Broker
from orchestrator_free.errors import SessionNotFound
from orchestrator_free.session import Session
from orchestrator_free.subjects import check_name

if TYPE_CHECKING:
    from orchestrator_free.gateway.hub import Hub


class Resource:
    """Routes below `/sessions/{session}` and their description."""

    def __init__(self, broker: Broker, hub: Hub) -> None:
        self.broker = broker
        self.hub = hub

    def routes(self) -> list[Route]:
        """Return the routes."""
        raise NotImplementedError

    def paths(self) -> dict[str, Any]:
        """Return their description as OpenAPI paths."""
        raise NotImplementedError

    async def session(self, request: Request, member: str = "user") -> Session:
        """Return the session of a request, as a member sees it.

        Raises:
            SessionNotFound: it was never begun.
        """
        session = Broker(self.broker.log, check_name("from", member)).session(request.path_params["session"])
        if self.hub.hot(session.id) is None and not await session.exists():
            raise SessionNotFound(session.id)
        return session
