"""`/sessions/{session}/branches`, `/branch`, `/conversation`, `/fork`: what was said where, and going on from there."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidInput
from orchestrator_free.fold import View
from orchestrator_free.gateway.access.caller import new_session
from orchestrator_free.gateway.bodies import NewInput, json_answer, read_body
from orchestrator_free.gateway.openapi import body, operation, path, query
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.session import Sent, Session
from orchestrator_free.session.branches import UNCHANGED, tree_of
from orchestrator_free.session.fork import fork_session
from orchestrator_free.views.conversation import conversation


class ChosenBranch(BaseModel):
    """Body of `POST /sessions/{session}/branch`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    input: str = Field(description="`<sender>/<id>` of an input, or its id alone if that is clear")
    sender: str | None = Field(None, alias="from", description="the member who chooses")


class NewFork(BaseModel):
    """Body of `POST /sessions/{session}/fork`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    session: str | None = Field(None, description="id of the new session; made up if absent")
    at: str | None = Field(None, description="the position up to which its history is taken over; absent: all")
    title: str | None = Field(None, max_length=500, description="for people; the old one if absent")
    sender: str | None = Field(None, alias="from", description="the member who begins it")


class Branches(Resource):
    """The branches of a session, and its forks."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/sessions/{session}/branches", self.show, methods=["GET"]),
            Route("/sessions/{session}/branch", self.select, methods=["POST"]),
            Route("/sessions/{session}/conversation", self.conversation, methods=["GET"]),
            Route("/sessions/{session}/fork", self.fork, methods=["POST"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        show = operation("The inputs as a tree, and which branch is selected", {"200": "the tree"})
        select = operation(
            "Choose the branch that everybody looks at", {"200": "its position"}, requestBody=body(ChosenBranch)
        )
        said = operation(
            "What was said and answered on a branch, oldest first",
            {"200": "the turns"},
            parameters=[query("branch", "`<sender>/<id>` of one of its inputs; the selected branch if absent")],
        )
        fork = operation(
            "Begin a new session with this one's history up to a position",
            {"201": "session, position and what it is forked from"},
            requestBody=body(NewFork),
        )
        return (
            path("/sessions/{session}/branches", get=show)
            | path("/sessions/{session}/branch", post=select)
            | path("/sessions/{session}/conversation", get=said)
            | path("/sessions/{session}/fork", post=fork)
        )

    async def _view(self, request: Request) -> tuple[str, View]:
        channel = await self.channel(request)
        position, view = await (await self.seen(request, channel)).snapshot()
        return str(position), orjson.loads(view)

    async def show(self, request: Request) -> Response:
        """Return the tree."""
        _, view = await self._view(request)
        return json_answer(tree_of(view))

    async def select(self, request: Request) -> Response:
        """Choose a branch."""
        chosen = await read_body(request, ChosenBranch)
        session = await self.session(request, chosen.sender)
        position = await session.branches.select(chosen.input)
        return json_answer({"position": str(position)})

    async def conversation(self, request: Request) -> Response:
        """Return the turns of a branch, for the person who is served."""
        position, view = await self._view(request)
        turns = conversation(view, branch=request.query_params.get("branch"))
        return json_answer({"position": position, "turns": turns})

    async def fork(self, request: Request) -> Response:
        """Begin a new session."""
        wanted = await read_body(request, NewFork)
        session = await self.session(request, wanted.sender)
        broker = self.broker.as_member(session.member)
        name = new_session(request, wanted.session)
        made = await fork_session(broker, session, name, at=wanted.at, title=wanted.title)
        meta = await broker.session(made.session).meta()
        answer = {"session": made.session, "position": str(made.position), "forked_from": meta["forked_from"]}
        return json_answer(answer, 201, location=f"/sessions/{made.session}")


async def send_placed(session: Session, said: NewInput, id: str | None) -> Sent:
    """Send an input that says where it stands.

    Raises:
        InvalidInput: it says several places, or there is no such input.
    """
    places = {"edits": said.edits, "again": said.again, "after": said.after}
    given = [(name, about) for name, about in places.items() if about is not None]
    if len(given) != 1:
        raise InvalidInput("an input has one place: pass one of edits, again and after")
    if said.note or said.whisper:
        raise InvalidInput(f"{given[0][0]}: a note or a whisper has no place among the branches")
    name, about = given[0]
    place: Literal["edits", "again", "after"] = name  # type: ignore[assignment]
    keeps = place != "after" and "data" not in said.model_fields_set
    return await session.branches.send(
        (said.text or None) if place == "again" else said.text,
        place=place,
        about=f"{about.sender}/{about.input}",
        data=UNCHANGED if keeps else said.data,
        to=said.to,
        id=id,
        cancel=(place == "edits") if said.cancel is None else said.cancel,
        overlap=said.overlap,
    )
