"""`POST /sessions/{session}/notices/{notice}/retry`: have a notification that was given up tried again."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.deadletters import retry_dead_letter
from orchestrator_free.gateway.bodies import json_answer
from orchestrator_free.gateway.openapi import operation, path
from orchestrator_free.gateway.resources.resource import Resource

_NOTICE: Final = {"name": "notice", "in": "path", "required": True, "schema": {"type": "string"}}


class Notices(Resource):
    """Notifications that reached nobody; a session's view lists them."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/sessions/{session}/notices/{notice}/retry", self.retry, methods=["POST"])]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        retry = operation(
            "Have a notification that was given up tried again; what becomes of it stands in the session's notices",
            {"202": "the notice as it was"},
        )
        return path("/sessions/{session}/notices/{notice}/retry", _NOTICE, post=retry)

    async def retry(self, request: Request) -> Response:
        """Write `notification.retry` in the notifier's name."""
        session = await self.session(request)
        letter = await retry_dead_letter(self.broker, request.path_params["notice"], session=session.id)
        return json_answer(letter.as_dict(), 202)
