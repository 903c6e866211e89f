"""`GET /sessions/{session}/tools`: the ledger of tool calls."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.caller import caller
from orchestrator_free.gateway.bodies import json_answer, number
from orchestrator_free.gateway.openapi import operation, path, query
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.views.ledger import STATUSES, tool_calls


class Tools(Resource):
    """The tool calls of a session."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/sessions/{session}/tools", self.show, methods=["GET"])]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        filters = [
            query("tool", "only this one"),
            query("agent", "only what this one called"),
            query("run", "only calls of this run"),
            query("status", "only these", enum=list(STATUSES)),
            query("min_seconds", "only calls that took, or have run, so long at least", type="number", minimum=0),
            query("limit", "1 to 10000", type="integer", minimum=1, maximum=10_000, default=1000),
            query("offset", "how many to leave out first", type="integer", minimum=0, default=0),
        ]
        show = operation(
            "Every tool call, by start, lost attempts included",
            {"200": "calls, and how many there are"},
            parameters=filters,
        )
        return path("/sessions/{session}/tools", get=show)

    async def show(self, request: Request) -> Response:
        """Return the calls that the query chooses."""
        limit, offset = number(request, "limit", 1000, 1, 10_000), number(request, "offset", 0, 0, 999_999_999)
        session = await self.session(request)
        named = {name: request.query_params.get(name) for name in ("tool", "agent", "run", "status")}
        if caller(request).sees is None:
            calls = await session.tools(**named, min_seconds=_seconds(request))
        else:
            _, view = await (await self.seen(request, await self.channel(request))).snapshot()
            now = (await self.broker.log.clock()).isoformat()
            calls = tool_calls(orjson.loads(view), now=now, **named, min_seconds=_seconds(request))
        return json_answer({"calls": calls[offset : offset + limit], "total": len(calls)})


def _seconds(request: Request) -> float:
    text = request.query_params.get("min_seconds", "0")
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInput(f"min_seconds={text[:40]!r}: expected a number of seconds") from error
