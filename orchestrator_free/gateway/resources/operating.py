"""What an operator asks from afar: where an input is, and what was given up."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.gateway.access.caller import caller, enter
from orchestrator_free.gateway.access.trail import audited
from orchestrator_free.gateway.bodies import json_answer, read_body
from orchestrator_free.gateway.openapi import body, operation, path, query
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.operations import letters
from orchestrator_free.operations.inspecting import inspect

_INSPECT: Final = "/sessions/{session}/inspect"
_LETTERS: Final = "/deadletters"


class ChosenLetter(BaseModel):
    """Body of `POST /deadletters/retry` and `/deadletters/dismiss`."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="as the list has it")
    reason: str = Field("", max_length=1000, description="why it is dismissed")


class Operating(Resource):
    """Looking into a session, and dead letters."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_INSPECT, self.look, methods=["GET"]),
            Route(_LETTERS, self.list, methods=["GET"]),
            Route(f"{_LETTERS}/retry", self.retry, methods=["POST"]),
            Route(f"{_LETTERS}/dismiss", self.dismiss, methods=["POST"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        look = operation(
            "Where the session's inputs are, and who reads it up to where",
            {"200": "inputs with each agent's stage, durable subscriptions, services, devices"},
            parameters=[query("input", "only this one: its id, or <sender>/<id>")],
        )
        listed = operation(
            "What was given up: runs, controls that expired, notifications",
            {"200": "deadletters, the oldest first"},
            parameters=[query("session", "only of this one"), query("agent", "only of this one")],
        )
        again = operation(
            "Have it done after all, under a new id beside what stands", {"202": "what was sent"},
            requestBody=body(ChosenLetter),
        )  # fmt: skip
        away = operation("Take it off the list", {"204": "it is"}, requestBody=body(ChosenLetter))
        return path(_INSPECT, get=look) | {
            _LETTERS: {"get": listed},
            f"{_LETTERS}/retry": {"post": again},
            f"{_LETTERS}/dismiss": {"post": away},
        }

    async def look(self, request: Request) -> Response:
        """Return where inputs are and who reads."""
        session = enter(request, request.path_params["session"])
        return json_answer(await inspect(self.broker, session, request.query_params.get("input")))

    async def list(self, request: Request) -> Response:
        """Return the dead letters of the sessions that the caller may enter."""
        wanted = {name: request.query_params.get(name, "*") for name in ("session", "agent")}
        found = await letters.letters(self.broker, **wanted)
        return json_answer({"deadletters": [one.as_dict() for one in found if caller(request).enters(one.session)]})

    async def retry(self, request: Request) -> Response:
        """Have one tried again, in the caller's name."""
        letter, _ = await self._chosen(request)
        return json_answer(await letters.retry(self.broker.as_member(caller(request).member), letter), 202)

    async def dismiss(self, request: Request) -> Response:
        """Dismiss one."""
        letter, reason = await self._chosen(request)
        await letters.dismiss(self.broker.as_member(caller(request).member), letter, reason)
        return Response(status_code=204)

    async def _chosen(self, request: Request) -> tuple[letters.Letter, str]:
        said = await read_body(request, ChosenLetter)
        letter = await letters.find(self.broker, said.id)
        enter(request, letter.session)
        audited(request, letter=letter.id)
        return letter, said.reason
