"""What the routes of one thing have in common: the things of a session each have a module with a `Resource`."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from orchestrator_free.broker import Broker
from orchestrator_free.errors import SessionExists, SessionNotFound
from orchestrator_free.fold import Fold
from orchestrator_free.gateway.access.caller import begins, caller, enter, speaker
from orchestrator_free.gateway.channels.lens import Seen, seen
from orchestrator_free.session import Session

if TYPE_CHECKING:
    from orchestrator_free.gateway.channels.channel import Channel
    from orchestrator_free.gateway.channels.hub import Hub


class Resource(ABC):
    """Routes below `/sessions/{session}` and their description."""

    def __init__(self, broker: Broker, hub: Hub) -> None:
        self.broker = broker
        self.hub = hub

    @abstractmethod
    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes."""

    @abstractmethod
    def paths(self) -> dict[str, Any]:
        """Return their description as OpenAPI paths."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what it holds; called when the gateway ends."""

    async def session(self, request: HTTPConnection, claimed: str | None = None) -> Session:
        """Return the session of a request, as who speaks sees it; `claimed` is what the request itself says of that.

        Raises:
            SessionNotFound: it was never begun, or the caller may not enter it.
            NotAllowed: the caller does not speak for that member.
        """
        name = enter(request, request.path_params["session"])
        session = self.broker.as_member(speaker(request, claimed)).session(name)
        if self.hub.hot(session.id) is None and not await session.exists():
            raise SessionNotFound(session.id)
        return session

    async def begun(self, request: HTTPConnection, name: str, member: str) -> Session:
        """Return a session as a member sees it; begun if it is new.

        Raises:
            InvalidName: the id cannot be one.
            SessionNotFound: the caller may not enter it, whether or not there is one.
        """
        session = self.broker.as_member(member).session(enter(request, name))
        if self.hub.hot(session.id) is None and not await session.exists():
            begins(request)
            with contextlib.suppress(SessionExists):  # another device was first
                await session.create()
        return session

    async def channel(self, request: HTTPConnection) -> Channel:
        """Return the channel of a request's session.

        Raises:
            SessionNotFound: there is none, or the caller may not enter it.
        """
        return await self.hub.channel(enter(request, request.path_params["session"]))

    async def caught_up(self, request: HTTPConnection, session: str, what: str = "session") -> Channel:
        """Return the channel of a session, with what was just said at another gateway.

        Raises:
            SessionNotFound: there is none, or the caller may not enter it.
        """
        channel = await self.hub.channel(enter(request, session, what))
        if self.hub.broker.log.wire.connected.is_set():
            await channel.reach()
        return channel

    async def seen(self, request: HTTPConnection, channel: Channel) -> Seen:
        """Return a session as the caller may see it.

        Raises:
            BrokerError: it cannot be read now.
        """
        return await seen(channel, caller(request).sees)

    async def whole(self, seen: Seen) -> Fold:
        """Return the session as it stands, with what its large finished runs keep in the object store.

        Raises:
            BrokerError: that cannot be read now.
        """
        if not any(run.object and not run.parts for run in seen.fold.runs.values()):
            return seen.fold
        _, view = await seen.snapshot()
        return Fold.load(orjson.loads(view))
