"""`/sessions/{session}/asks`: approvals, questions and tools that clients run; asked, answered, withdrawn."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.trail import audited
from orchestrator_free.gateway.bodies import json_answer, number, read_body, repeat_id
from orchestrator_free.gateway.openapi import IDEMPOTENCY_KEY, body, operation, path, query
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.session import Session
from orchestrator_free.session.asks import Rule
from orchestrator_free.vocabulary.asks import Escalation

_STATES: Final = ("open", "decided", "expired", "withdrawn")
_ASK: Final = {"name": "ask", "in": "path", "required": True, "schema": {"type": "string"}}
_ROOT: Final = "/sessions/{session}/asks"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    sender: str | None = Field(None, alias="from", description="the member who says it")


class NewAsk(_Body):
    """Body of `POST /sessions/{session}/asks`."""

    text: str = Field("", description="for people")
    about: str = Field("question", max_length=64, description="approval, question, tool, vote, or a word of yours")
    data: Any = Field(None, description="any JSON beside the text")
    to: list[str] = Field([], max_length=200, description="whose answers count; empty: everybody but the sender")
    options: list[str] | None = Field(None, max_length=200, description="the values that can be answered")
    rule: Rule = "quorum"
    quorum: int = Field(1, ge=1, description="how many decide, with the rules quorum and count")
    veto: str | None = Field(None, description="a value that decides when given once")
    seconds: float | None = Field(None, gt=0, description="then it expires, whoever is alive")
    escalations: list[Escalation] = Field([], max_length=8, description="who may answer, too, and when")
    id: str | None = Field(None, description="the same id and content is asked once")


class NewAnswer(_Body):
    """Body of `POST /sessions/{session}/asks/{ask}/answer`."""

    value: Any = Field(description="one of the options, or any JSON")
    comment: str = Field("", max_length=4000, description="for people")


class Withdrawal(_Body):
    """Body of `POST /sessions/{session}/asks/{ask}/withdraw`."""

    reason: str = Field("", max_length=2000, description="for people")


class AskRoutes(Resource):
    """The asks of a session."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_ROOT, self.list, methods=["GET"]),
            Route(_ROOT, self.ask, methods=["POST"]),
            Route(f"{_ROOT}/{{ask}}", self.show, methods=["GET"]),
            Route(f"{_ROOT}/{{ask}}/answer", self.answer, methods=["POST"]),
            Route(f"{_ROOT}/{{ask}}/withdraw", self.withdraw, methods=["POST"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        found = operation(
            "What members are asked", {"200": "asks, as in the view"},
            parameters=[query("status", "only these", enum=list(_STATES))],
        )  # fmt: skip
        ask = operation(
            "Ask members for a word; expiry and escalation are kept by the broker",
            {"201": "the ask, its position and when it expires", "200": "it was asked before"},
            parameters=[IDEMPOTENCY_KEY], requestBody=body(NewAsk),
        )  # fmt: skip
        wait = query("wait", "seconds to wait until it is not open any more, up to 60")
        show = operation("An ask, its answers, and what was decided", {"200": "the ask"}, parameters=[wait])
        refused = {"403": "not asked", "404": "unknown", "409": "decided already, with what", "422": "not an option"}
        answer = operation("Answer an ask", {"200": "the ask after it", **refused}, requestBody=body(NewAnswer))
        withdraw = operation(
            "Withdraw an ask; only the member who asked", {"200": "the ask"}, requestBody=body(Withdrawal)
        )
        return (
            path(_ROOT, get=found, post=ask)
            | path(f"{_ROOT}/{{ask}}", _ASK, get=show)
            | path(f"{_ROOT}/{{ask}}/answer", _ASK, post=answer)
            | path(f"{_ROOT}/{{ask}}/withdraw", _ASK, post=withdraw)
        )

    async def list(self, request: Request) -> Response:
        """Return the asks, in log order."""
        status = request.query_params.get("status")
        if status is not None and status not in _STATES:
            raise InvalidInput(f"status={status[:40]!r}: expected one of {', '.join(_STATES)}")
        asks = await (await self.session(request)).asks.all()
        return json_answer({"asks": [ask for ask in asks if status in (None, ask["status"])]})

    async def ask(self, request: Request) -> Response:
        """Ask."""
        said = await read_body(request, NewAsk)
        session = await self.session(request, said.sender)
        asked = await session.asks.ask(
            **said.model_dump(exclude={"sender", "id", "escalations"}),
            escalations=[(step.after_seconds, step.to) for step in said.escalations],
            id=repeat_id(request.headers.get("idempotency-key"), said.id),
        )
        found = {
            "ask": asked.ask,
            "position": str(asked.position),
            "until": asked.until,
            "status": asked.view["status"],
        }
        return json_answer(found, 200 if asked.repeated else 201)

    async def show(self, request: Request) -> Response:
        """Return an ask; with `?wait=` seconds, when it is not open any more."""
        wait = number(request, "wait", 0, 0, 60)
        session = await self.session(request)
        if wait:
            with contextlib.suppress(TimeoutError):
                await session.asks.decision(request.path_params["ask"], timeout=wait)
        return json_answer(await session.asks.get(request.path_params["ask"]))

    async def answer(self, request: Request) -> Response:
        """Answer an ask."""
        said = await read_body(request, NewAnswer)
        session = await self.session(request, said.sender)
        ask = await session.asks.answer(request.path_params["ask"], said.value, said.comment)
        chosen = said.value if said.value in (ask["options"] or ()) else None  # a free answer is content
        audited(request, what="answer", about=ask["about"], value=chosen)
        return await self._closed(session, ask)

    async def withdraw(self, request: Request) -> Response:
        """Withdraw an ask."""
        said = await read_body(request, Withdrawal)
        session = await self.session(request, said.sender)
        return json_answer(await session.asks.withdraw(request.path_params["ask"], said.reason))

    async def _closed(self, session: Session, ask: dict[str, Any]) -> Response:
        """Return an ask; the broker need not say anything more of one that is decided, and nobody may wait for it."""
        if ask["status"] != "open":
            await session.asks.forget_timers(ask)
        return json_answer(ask)
