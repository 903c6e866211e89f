"""GET of anything that can be read as a durable stream: catch-up, long-poll, Server-Sent Events."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from orchestrator_free.durable_streams.offsets import BEGINNING, NOW
from orchestrator_free.durable_streams.refusals import malformed
from orchestrator_free.durable_streams.tail import Chunk
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.connections.transport import Head
from orchestrator_free.gateway.protocols.durable_streams.answering import SAFE
from orchestrator_free.gateway.protocols.durable_streams.live import Live, Reader, Seat, more_than
from orchestrator_free.gateway.protocols.durable_streams.rendering import body_of
from orchestrator_free.gateway.protocols.durable_streams.source import Source

#: of one answer; what is appended together is never cut
PAGE_BYTES: Final = 4 * 1024 * 1024
_BASE64: Final = ("stream-sse-data-encoding", "base64")
SSE_HEAD: Final = Head(
    (("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"), *SAFE.items())
)
_SSE_BASE64_HEAD: Final = Head((*SSE_HEAD.headers, _BASE64))


class Wanted:
    """What a GET asks for, checked.

    Attributes:
        offset: as it was given; the beginning if it was not. live: `long-poll`, `sse` or empty. cursor: as echoed.
    """

    def __init__(self, request: Request) -> None:
        query = request.query_params
        offsets = query.getlist("offset")
        self.live = query.get("live", "")
        self.cursor = query.get("cursor")
        if self.live not in ("", "long-poll", "sse"):
            raise malformed(f"live={self.live[:40]!r} is unknown; use long-poll or sse, or leave it out")
        if len(offsets) > 1:
            raise malformed("offset is given more than once")
        if self.live and not offsets:
            raise malformed(f"live={self.live} needs an offset: -1, now, or what Stream-Next-Offset said")
        self.offset = offsets[0] if offsets else BEGINNING


async def answer(request: Request, source: Source, live: Live, poll_seconds: float) -> Any:
    """Answer a GET.

    Args:
        request: the request.
        source: what to read, with all that was stored before.
        live: the live readers of this gateway.
        poll_seconds: how long a long-poll waits.

    Raises:
        OrchestratorFreeError: the request is wrong, or the source cannot be read; nothing was sent yet.
    """
    wanted = Wanted(request)
    now = wanted.offset == NOW
    after = place_of(source, wanted.offset)
    if wanted.live == "sse":
        reader = Reader(live, [Seat(source, after)], least=live.cursors.least(wanted.cursor, time.time()))
        return FeedResponse(_SSE_BASE64_HEAD if source.form == "base64" else SSE_HEAD, reader, reader.opened)
    if wanted.live == "long-poll":
        return await _long_poll(source, live, after, wanted, poll_seconds)
    if now:
        headers = _headers(source, Chunk(after, after)) | {"cache-control": "no-store"}
        return Response(body_of((), source.form), 200, headers)
    return _shown(request, source, wanted, await source.read(after, PAGE_BYTES), live)


def place_of(source: Source, offset: str) -> int:
    """Return the sequence to read after.

    Raises:
        OrchestratorFreeError: there is no such place in this stream.
    """
    if offset == NOW:
        return source.tail
    after = source.sequence(offset)
    if after > source.tail:
        raise malformed(f"offset={offset} is beyond the end of this stream, {source.offset(source.tail)}")
    return after


async def _long_poll(source: Source, live: Live, after: int, wanted: Wanted, seconds: float) -> Response:
    if after >= source.tail and not source.closed:
        with live.metrics.waiting.track_inprogress():
            await more_than(source, after, seconds)
    chunk = await source.read(after, PAGE_BYTES) if after < source.tail else Chunk(after, after)
    headers = _headers(source, chunk)
    now = time.time()
    if "stream-closed" not in headers:
        headers["stream-cursor"] = str(max(live.cursors.now(now), live.cursors.least(wanted.cursor, now)))
    if not chunk.payloads:
        return Response(None, 204, headers | {"cache-control": "no-store"})
    headers["cache-control"] = "private, max-age=60" if source.cacheable else "no-store"
    body = body_of(chunk.payloads, source.form)
    live.metrics.delivered.inc(len(body))
    return Response(body, 200, headers | {"etag": _tag(source, wanted, chunk)})


def _headers(source: Source, chunk: Chunk) -> dict[str, str]:
    """Return what is said of a chunk: where it ends, and whether anything comes behind."""
    headers = {"content-type": source.content_type, "stream-next-offset": source.offset(chunk.end)}
    if chunk.end >= source.tail:
        headers["stream-up-to-date"] = "true"
        if source.closed:
            headers["stream-closed"] = "true"
    return headers


def _tag(source: Source, wanted: Wanted, chunk: Chunk) -> str:
    closed = ":c" if source.closed and chunk.end >= source.tail else ""
    return f'"{source.incarnation}:{wanted.offset}:{source.offset(chunk.end)}{closed}"'


def _shown(request: Request, source: Source, wanted: Wanted, chunk: Chunk, live: Live) -> Response:
    """Answer a catch-up, or say that the client has it."""
    headers = _headers(source, chunk) | {"etag": _tag(source, wanted, chunk)}
    # What reaches the tail is answered otherwise as soon as there is more; what does not never changes.
    past = source.cacheable and chunk.end < source.tail
    headers["cache-control"] = "private, max-age=60, stale-while-revalidate=300" if past else "no-cache"
    known = request.headers.get("if-none-match", "")
    if headers["etag"] in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        return Response(None, 304, headers)
    body = body_of(chunk.payloads, source.form)
    live.metrics.delivered.inc(len(body))
    return Response(body, 200, headers)
