"""`POST /sessions/{session}/controls`: cancel, steer, redirect, pause, resume."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.gateway.access.caller import caller
from orchestrator_free.gateway.access.trail import audited
from orchestrator_free.gateway.bodies import json_answer, number, read_body, repeat_id
from orchestrator_free.gateway.openapi import IDEMPOTENCY_KEY, body, operation, path, query
from orchestrator_free.gateway.resources.resource import Resource


class NewControl(BaseModel):
    """Body of `POST /sessions/{session}/controls`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["cancel", "steer", "redirect", "pause", "resume"]
    to: str = Field("all", description="an agent, or `all`")
    run: str | None = Field(None, description="which run; absent: all that are open or waiting")
    text: str | None = Field(None, description="what a steer or a redirect says")
    data: Any = Field(None, description="any JSON beside the text")
    children: bool | None = Field(None, description="cancel: also what the run delegated; true if absent")
    reason: str | None = Field(None, description="for people")
    within_seconds: float | None = Field(None, ge=0, le=86400, description="not accepted by then, it expires")
    id: str | None = Field(None, description="the same id and content is said once")
    sender: str | None = Field(None, alias="from", description="the member who says it")


class Controls(Resource):
    """Controls of a session."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/sessions/{session}/controls", self.give, methods=["POST"])]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        give = operation(
            "Cancel, steer, redirect, pause or resume; from its position on, a cancel counts for everybody",
            {"202": "control and position", "200": "also the outcome"},
            parameters=[IDEMPOTENCY_KEY, query("wait", "seconds to wait for the outcome, up to 60")],
            requestBody=body(NewControl),
        )
        return path("/sessions/{session}/controls", post=give)

    async def give(self, request: Request) -> Response:
        """Append a control; with `?wait=` seconds, answer when it has an outcome."""
        said = await read_body(request, NewControl)
        session = await self.session(request, said.sender)
        audited(request, what=said.type, to=said.to, run=said.run)
        wait = number(request, "wait", 0, 0, 60)
        control = said.model_dump(include={"type", "text", "data", "children", "reason"}, exclude_none=True)
        key = repeat_id(request.headers.get("idempotency-key"), said.id)
        sent = await session.control.give(control, to=said.to, run=said.run, within_seconds=said.within_seconds, id=key)
        answer: dict[str, Any] = {"control": sent.control, "position": str(sent.position), "outcome": None}
        if wait:
            with contextlib.suppress(TimeoutError):
                outcome = await sent.outcome(timeout=wait)
                answer["outcome"] = asdict(outcome) if caller(request).hears(outcome.agent) else None
        return json_answer(answer, 200 if answer["outcome"] else 202)
