"""`/v1/stream`: one connection that follows many streams (an extension), each resumed exactly where it stood."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request

from orchestrator_free.durable_streams.offsets import BEGINNING
from orchestrator_free.durable_streams.refusals import Refusal, malformed
from orchestrator_free.durable_streams.registry import DurableStreams
from orchestrator_free.durable_streams.requests import path_of
from orchestrator_free.gateway.access.caller import caller
from orchestrator_free.gateway.bodies import read_json
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.protocols.durable_streams.live import Live, Reader, Seat
from orchestrator_free.gateway.protocols.durable_streams.reading import SSE_HEAD, place_of
from orchestrator_free.gateway.protocols.durable_streams.rendering import gone_event
from orchestrator_free.gateway.protocols.durable_streams.source import StreamSource

#: streams of one connection
MOST: Final = 500


async def follow_many(request: Request, streams: DurableStreams, live: Live) -> FeedResponse:
    """Answer with a feed of several streams.

    Raises:
        NotAllowed: one of them is not the caller's to read.
        Refusal: 400, the request cannot be read; 404, none of the streams is there.
    """
    wanted = await _wanted(request)
    for path in wanted:
        caller(request).reach(path)
    found = await asyncio.gather(*(_seat(streams, path, offset) for path, offset in wanted.items()))
    gone = [(path, status) for path, status in zip(wanted, found, strict=True) if isinstance(status, int)]
    seats = [seat for seat in found if isinstance(seat, Seat)]
    if not seats:
        raise Refusal(404, "Stream not found", f"none of the {len(wanted)} streams is there; create them with PUT")
    reader = Reader(live, seats, first=b"".join(gone_event(path, status) for path, status in gone))
    return FeedResponse(SSE_HEAD, reader, reader.opened)


async def _seat(streams: DurableStreams, path: str, offset: str) -> Seat | int:
    """Return where a connection stands in a stream; the status of a stream that is not there."""
    try:
        source = StreamSource(await streams.open(path))
    except Refusal as refusal:
        if refusal.status not in (404, 410):
            raise
        return refusal.status
    return Seat(source, place_of(source, offset), path)


async def _wanted(request: Request) -> dict[str, str]:
    """Return path and offset of each stream: of a POST from its body, else from `stream=<path>@<offset>`."""
    if request.query_params.get("live") != "sse":
        raise malformed("several streams are followed with live=sse; read them one by one otherwise")
    if request.method == "POST":
        body = await read_json(request)
        pairs = body.get("streams") if isinstance(body, dict) else None
        if not isinstance(pairs, dict) or not all(isinstance(offset, str) for offset in pairs.values()):
            raise malformed('the body is {"streams": {"<path>": "<offset>", …}}')
        wanted: dict[str, str] = pairs
    else:
        wanted = {}
        for text in request.query_params.getlist("stream"):
            path, at, offset = text.rpartition("@")
            wanted[path if at else text] = offset if at else BEGINNING
    if not 0 < len(wanted) <= MOST:
        raise malformed(f"name 1 to {MOST} streams: stream=<path>@<offset>, again for each")
    return {path_of(path): offset for path, offset in wanted.items()}
