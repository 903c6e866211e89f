"""`GET /sessions/{id}/events`: from a request to an attached client."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from orchestrator_free.errors import InvalidInput, PositionLost
from orchestrator_free.gateway.channel import Channel, Client
from orchestrator_free.gateway.fallback import FeedResponse
from orchestrator_free.gateway.frames import Format, Frame, Selection, control
from orchestrator_free.gateway.hub import Hub
from orchestrator_free.gateway.transport import Feed, Head
from orchestrator_free.reader import Entry, to_event
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
    query = request.query_params
    accepts = request.headers.get("accept", "")
    form: Format = "ndjson" if "application/x-ndjson" in accepts else "sse"
    selection = Selection.parse(query.get("agents", ""), query.get("kinds", ""), form)
    after = _after(request)
    until_idle = _flag("until", query.get("until"), "idle")
    snapshot = _flag("snapshot", query.get("snapshot"), "1")
    channel = await hub.channel(request.path_params["session"])
    start, begin = await _beginning(channel, after, selection, hub, snapshot=snapshot)
    client = Client(channel, selection, until_idle=until_idle)

    def opened(feed: Feed) -> None:
        feed.send((_RETRY if form == "sse" else b"") + begin)
        channel.attach(client, feed, start)

    return FeedResponse(_HEADS[form], client, opened)


def _after(request: Request) -> Position | None:
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    return Position.parse(text) if text else None


def _flag(name: str, value: str | None, expected: str) -> bool:
    if value not in (None, "", "0", expected):
        raise InvalidInput(f"{name}={value[:40]!r} is unknown; leave it out or use {name}={expected}")
    return value == expected


async def _beginning(
    channel: Channel, after: Position | None, selection: Selection, hub: Hub, *, snapshot: bool
) -> tuple[int, bytes]:
    """Return the sequence from which the channel serves the client, and the bytes that bring it there."""
    if after is None and not snapshot:
        return await _from_log(channel, 0, selection, hub, how="start")
    if after is not None:
        try:
            await _reach(channel, after)
            channel.check(after)
        except PositionLost as lost:
            hub.metrics.resumes.labels("reset").inc()
            start, view = await _with_snapshot(channel, selection)
            body = {"reason": lost.reason, "detail": str(lost)}
            return start, control("reset", body, form=selection.form) + view
        return await _from_log(channel, after.sequence, selection, hub, how="hot")
    hub.metrics.resumes.labels("snapshot").inc()
    return await _with_snapshot(channel, selection)


async def _reach(channel: Channel, after: Position) -> None:
    """The client may have seen more at another gateway: look at the log before calling it ahead."""
    if after.epoch == channel.reader.epoch and after.sequence > channel.reader.sequence:
        await channel.reader.catch_up()


async def _with_snapshot(channel: Channel, selection: Selection) -> tuple[int, bytes]:
    position, view = await channel.snapshot()
    if selection.form == "ndjson":
        data = b'{"control":"snapshot","position":"%b","data":%b}\n' % (str(position).encode(), view)
    else:
        data = b"id: %b\nevent: snapshot\ndata: %b\n\n" % (str(position).encode(), view)
    return position.sequence, data


async def _from_log(channel: Channel, after: int, selection: Selection, hub: Hub, *, how: str) -> tuple[int, bytes]:
    """Read what is older than the channel's memory from the log."""
    if channel.holds(after):
        hub.metrics.resumes.labels(how).inc()
        return after, b""
    hub.metrics.resumes.labels("log").inc()
    log = hub.broker.log
    shard = log.shard(channel.session)
    messages = await log.read(shard, hub.broker.session(channel.session).filter, after=after)
    known = [message for message in messages if message.sequence <= channel.reader.sequence]
    entries = [Entry(message, event) for message in known if (event := to_event(message)) is not None]
    frames = [Frame(channel.reader.epoch, entry) for entry in entries]
    hub.metrics.catch_up_events.observe(len(frames))
    return known[-1].sequence if known else after, selection.bytes_of(frames)
