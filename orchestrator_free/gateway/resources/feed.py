"""`GET /sessions/{id}/events`: from a request to an attached client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import HTTPConnection, Request

from orchestrator_free.errors import InvalidInput, PositionLost
from orchestrator_free.gateway.access.caller import caller, enter, speaker
from orchestrator_free.gateway.channels.attendance import visit_of
from orchestrator_free.gateway.channels.channel import Channel
from orchestrator_free.gateway.channels.client import Client
from orchestrator_free.gateway.channels.frames import Format, Selection, control
from orchestrator_free.gateway.channels.hub import Hub
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.connections.transport import Feed, Head
from orchestrator_free.subjects import Position

_COMMON: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"), ("x-content-type-options", "nosniff"))
_HEADS: Final[dict[Format, Head]] = {
    "sse": Head((("content-type", "text/event-stream; charset=utf-8"), *_COMMON)),
    "ndjson": Head((("content-type", "application/x-ndjson"), *_COMMON)),
}
_RETRY: Final = b"retry: 1000\n\n"


async def open_feed(request: Request, hub: Hub) -> FeedResponse:
    """Answer with a feed that begins where the client stands.

    Raises:
        OrchestratorFreeError: the request is wrong or the session unknown; nothing was sent yet.
    """
    accepts = request.headers.get("accept", "")
    form: Format = "ndjson" if "application/x-ndjson" in accepts else "sse"
    client, opened = await prepare(request, hub, form)
    return FeedResponse(_HEADS[form], client, opened)


async def prepare(request: HTTPConnection, hub: Hub, form: Format) -> tuple[Client, Callable[[Feed], None]]:
    """Return the client that a request asks for, and what begins to feed it once there is a connection to do so.

    Raises:
        OrchestratorFreeError: the request is wrong or the session unknown.
    """
    query = request.query_params
    sees = caller(request).sees
    selection = Selection.parse(query.get("agents", ""), query.get("kinds", ""), form, sees)
    after = _after(request)
    until_idle = _flag("until", query.get("until"), "idle")
    snapshot = _flag("snapshot", query.get("snapshot"), "1")
    session = enter(request, request.path_params["session"])
    visit = visit_of(query, speaker(request, query.get("member"), "member"))
    visit.sees = sees
    channel = await hub.channel(session)
    if until_idle and hub.broker.log.wire.connected.is_set():
        await channel.reach()  # an input that was just sent elsewhere is no rest
    start, reset, begin = await _beginning(channel, after, selection, hub, snapshot=snapshot)
    client = Client(channel, selection, visit, until_idle=until_idle)

    def opened(feed: Feed) -> None:
        feed.send((_RETRY if form == "sse" else b"") + reset)
        feed.send_framed(begin)
        channel.attach(client, feed, start)

    return client, opened


def _after(request: HTTPConnection) -> Position | None:
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    return Position.parse(text) if text else None


def _flag(name: str, value: str | None, expected: str) -> bool:
    if value not in (None, "", "0", expected):
        raise InvalidInput(f"{name}={value[:40]!r} is unknown; leave it out or use {name}={expected}")
    return value == expected


async def _beginning(
    channel: Channel, after: Position | None, selection: Selection, hub: Hub, *, snapshot: bool
) -> tuple[int, bytes, bytes]:
    """Return the sequence from which the channel serves the client, and what brings it there: reset, snapshot."""
    reset = b""
    if after is not None:
        try:
            if after.epoch == channel.reader.epoch:
                await channel.reach(after.sequence)
            channel.check(after)
        except PositionLost as lost:
            hub.metrics.resumes.labels("reset").inc()
            reset = control("reset", {"reason": lost.reason, "detail": str(lost)}, form=selection.form)
    elif snapshot:
        hub.metrics.resumes.labels("snapshot").inc()
    if reset or (snapshot and after is None):
        position, begin = await channel.beginning(selection)
        return position.sequence, reset, begin
    start = after.sequence if after is not None else 0
    hub.metrics.resumes.labels("hot" if channel.tail.holds(start) else "log").inc()
    return start, b"", b""
