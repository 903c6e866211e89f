"""`/sessions/{session}/presence`: who is there; and what a member says of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.caller import caller
from orchestrator_free.gateway.bodies import json_answer, read_body
from orchestrator_free.gateway.openapi import body, operation, path
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.session import Session
from orchestrator_free.subjects import check_name

_PATH = "/sessions/{session}/presence"


class NewPresence(BaseModel):
    """Body of `POST /sessions/{session}/presence`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    status: Literal["available", "away", "offline", "idle", "active"] = Field(
        description="of the member, for everybody to see from now on; or idle, active: of one device that looks"
    )
    reason: str = Field("", max_length=500, description="for people")
    back: str | None = Field(None, description="RFC 3339 with a zone: when it expects to be back")
    device: str | None = Field(None, description="which device is idle or active, as its feed named it")
    sender: str | None = Field(None, alias="from", description="the member who says it")


class PresenceRoutes(Resource):
    """Presence in a session."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(_PATH, self.show, methods=["GET"]), Route(_PATH, self.say, methods=["POST"])]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        show = operation(
            "Who is there: agents and what they do or wait for, people and their devices", {"200": "members"}
        )
        say = operation(
            "Say that a member is available, away or offline, until it says something else; or a device idle or active",
            {"202": "position", "200": "the device's status"},
            requestBody=body(NewPresence),
        )
        return path(_PATH, get=show, post=say)

    async def show(self, request: Request) -> Response:
        """Return every member."""
        channel = await self.channel(request)
        members = await self.hub.attendance.members(channel)
        hears = caller(request).hears
        shown = [member.as_dict() for member in members if hears(member.member)]
        return json_answer({"session": channel.session, "position": str(channel.position), "members": shown})

    async def say(self, request: Request) -> Response:
        """Append what a member says of itself, or note what a device says."""
        said = await read_body(request, NewPresence)
        session = await self.session(request, said.sender)
        if said.status in ("idle", "active"):
            return await self._say_of_device(session, said)
        if said.device is not None:
            raise InvalidInput("device: only idle and active are said of a device; away is said of the member")
        position = await session.presence.set(said.status, reason=said.reason, back=said.back)
        return json_answer({"position": str(position)}, 202)

    async def _say_of_device(self, session: Session, said: NewPresence) -> Response:
        if said.device is None or said.reason or said.back:
            raise InvalidInput(f"{said.status} is said of a device: name it in `device`, without `reason` and `back`")
        device = check_name("device", said.device)
        attendance = self.hub.attendance
        member = session.member
        if not attendance.set_status(session.id, member, device, said.status):
            if not await self._is_elsewhere(session, device):
                raise HTTPException(404, f"no device {device!r} of {member!r} looks at this session")
            attendance.tell_device(session.id, member, device, said.status)
        return json_answer({"member": member, "device": device, "status": said.status})

    async def _is_elsewhere(self, session: Session, device: str) -> bool:
        watchers = await session.watchers()
        return any((one.member, one.device) == (session.member, device) for one in watchers)
