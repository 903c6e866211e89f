"""`/tickets` and `/revocations`: for who cannot set a header, and for tokens that are to end before their time."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.caller import enter
from orchestrator_free.gateway.access.guard import Gate, bearer
from orchestrator_free.gateway.access.origins import page_of
from orchestrator_free.gateway.access.revocations import revoke_member, revoke_token
from orchestrator_free.gateway.access.tickets import TICKET_SECONDS
from orchestrator_free.gateway.bodies import json_answer, read_body
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.openapi import body, operation
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.subjects import check_name


class NewTicket(BaseModel):
    """Body of `POST /tickets`."""

    model_config = ConfigDict(extra="forbid")

    session: str | None = Field(None, description="whose feed it opens; absent: the socket of chats")


class NewRevocation(BaseModel):
    """Body of `POST /revocations`."""

    model_config = ConfigDict(extra="forbid")

    token: str | None = Field(None, max_length=200, description="a token's id (jti)")
    member: str | None = Field(None, description="every token that was made for this member up to now")


class AccessRoutes(Resource):
    """What concerns tokens themselves."""

    def __init__(self, broker: Broker, hub: Hub, gate: Gate) -> None:
        super().__init__(broker, hub)
        self._gate = gate

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/tickets", self.ticket, methods=["POST"]),
            Route("/revocations", self.revoke, methods=["POST"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        ticket = operation(
            "A ticket that opens one feed, once, within 30 s: for EventSource and WebSocket, as ?ticket=",
            {"201": "ticket and seconds", "409": "this gateway asks for no token"},
            requestBody=body(NewTicket),
        )
        revoke = operation(
            "Let a token, or all that a member has, count no more; open feeds end within seconds",
            {"204": "written down", "409": "this gateway asks for no token"},
            requestBody=body(NewRevocation),
        )
        return {"/tickets": {"post": ticket}, "/revocations": {"post": revoke}}

    async def ticket(self, request: Request) -> Response:
        """Issue a ticket for the token that is shown."""
        wanted = await read_body(request, NewTicket)
        tickets = self._gate.tickets
        if tickets is None:
            raise HTTPException(409, "this gateway asks for no token, so there is nothing to have a ticket for")
        if wanted.session is not None:
            enter(request, wanted.session)
        headers = Headers(scope=request.scope)
        ticket = await tickets.issue(bearer(headers), session=wanted.session, page=page_of(headers))
        return json_answer({"ticket": ticket, "seconds": TICKET_SECONDS}, 201, **{"cache-control": "no-store"})

    async def revoke(self, request: Request) -> Response:
        """Write down what counts no more."""
        wanted = await read_body(request, NewRevocation)
        revocations = self._gate.revocations
        if revocations is None:
            raise HTTPException(409, "this gateway asks for no token, so there is none to revoke")
        if (wanted.token is None) == (wanted.member is None):
            raise InvalidInput("revoke a token by its id, or what a member has: pass token or member")
        if wanted.token is not None:
            await revoke_token(revocations.bucket, wanted.token)
        else:
            await revoke_member(revocations.bucket, check_name("member", wanted.member))
        await revocations.load()
        return Response(status_code=204)
