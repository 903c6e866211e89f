"""`/sessions/{session}/floor`, who answers the person now; `/sessions/{session}/brief`, for whoever takes over."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.gateway.access.trail import audited
from orchestrator_free.gateway.bodies import json_answer, read_body
from orchestrator_free.gateway.openapi import body, operation, path
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.session.floor import FloorState, Step
from orchestrator_free.views.brief import markdown

_MARKDOWN: Final = "text/markdown"


class NewFloorStep(BaseModel):
    """Body of `POST /sessions/{session}/floor`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    step: Step
    to: str | None = Field(None, description="request: who is asked; `desk` for whoever is at the desk")
    reason: str = Field("", max_length=2000, description="for people")
    cancel: bool = Field(True, description="take: end what the others are about to answer")
    sender: str | None = Field(None, alias="from", description="the member who takes the step")


class Floors(Resource):
    """The floor of a session, and its brief."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/sessions/{session}/floor", self.show, methods=["GET"]),
            Route("/sessions/{session}/floor", self.step, methods=["POST"]),
            Route("/sessions/{session}/brief", self.brief, methods=["GET"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        show = operation("Who answers the person now, and every step that led there", {"200": "floor and history"})
        step = operation(
            "Take over, ask for a hand-off, accept or decline it, give the floor back; of two at once one stands",
            {"200": "the floor after the step", "403": "somebody else's step", "409": "it does not stand so"},
            requestBody=body(NewFloorStep),
        )
        brief = operation(
            "What somebody who takes over has to know: asked, tried, open, decided; Markdown by Accept: text/markdown",
            {"200": "the brief"},
            f"application/json {_MARKDOWN}",
        )
        return path("/sessions/{session}/floor", get=show, post=step) | path("/sessions/{session}/brief", get=brief)

    async def show(self, request: Request) -> Response:
        """Return how the floor stands."""
        session = await self.session(request)
        history = [state.json() for state in await session.floor.history()]
        return json_answer((history[-1] if history else FloorState().json()) | {"history": history})

    async def step(self, request: Request) -> Response:
        """Take a step."""
        said = await read_body(request, NewFloorStep)
        session = await self.session(request, said.sender)
        audited(request, what=said.step, to=said.to)
        state = await session.floor.step(said.step, to=said.to, reason=said.reason, cancel=said.cancel)
        return json_answer({**state.json(), "position": str(session.position(state.revision))})

    async def brief(self, request: Request) -> Response:
        """Return the brief."""
        session = await self.session(request)
        about = await session.brief()
        if _MARKDOWN in request.headers.get("accept", ""):
            return Response(markdown(about), 200, {"vary": "accept"}, f"{_MARKDOWN}; charset=utf-8")
        response = json_answer(about)
        response.headers["vary"] = "accept"
        return response
