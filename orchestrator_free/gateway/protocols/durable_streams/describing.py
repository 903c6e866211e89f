"""The description of `/v1/stream/…` for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free.gateway.openapi import operation, path, query

_PATH: Final = {
    "name": "path", "in": "path", "required": True, "schema": {"type": "string"},
    "description": "any path; slashes are a part of it",
}  # fmt: skip


def _header(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": about}


_READING: Final = [
    query("offset", "-1 for the beginning, now for the end, or what Stream-Next-Offset said"),
    query("live", "wait for more, or follow it as events", enum=["long-poll", "sse"]),
    query("cursor", "the last Stream-Cursor"),
]
_PRODUCER: Final = [
    _header("Producer-Id", "who writes; with the next two it is stored once, however often it is sent"),
    _header("Producer-Epoch", "grows when the producer begins anew; older ones are refused with 403"),
    _header("Producer-Seq", "0, 1, 2, … within an epoch"),
]
_LIFE: Final = [
    _header("Stream-TTL", "seconds after the last use"),
    _header("Stream-Expires-At", "RFC 3339"),
    _header("Stream-Closed", "true: with this body it is complete"),
    _header("Stream-Forked-From", "URL path of a stream to begin with"),
    _header("Stream-Fork-Offset", "up to where; its end if absent"),
    _header("Stream-Fork-Sub-Offset", "bytes or JSON values beyond that"),
]
_ANY: Final = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}

_MANY: Final = {
    "200": "events; `control` says in `stream` which one it and the data before it are about", "404": "none is there",
}  # fmt: skip
_LIVE: Final = query("live", "sse", enum=["sse"])
_SESSION: Final = operation(
    "The log as a durable stream in JSON mode, read only; offsets are positions",
    {"200": "a JSON array, or events", "204": "nothing came", "304": "the same", "410": "read it from -1 again"},
    "application/json text/event-stream",
    parameters=_READING,
)

PATHS: Final[dict[str, Any]] = {
    "/v1/stream": {
        "get": operation(
            "Follow several durable streams over one connection (extension)", _MANY, "text/event-stream",
            parameters=[_LIVE, query("stream", "path, or path@offset; again for each")],
        ),
        "post": operation(
            "The same, for many: {\"streams\": {path: offset}}", _MANY, "text/event-stream", parameters=[_LIVE],
            requestBody={"required": True, "content": {"application/json": {}}},
        ),
    },
    **path("/sessions/{session}/stream", get=_SESSION),
    "/v1/stream/{path}": {
        "parameters": [_PATH],
        "put": operation(
            "Create a durable stream (Durable Streams protocol), or a fork of one",
            {"201": "new", "200": "it was there, the same", "409": "it is there, another"},
            parameters=_LIFE,
            requestBody=_ANY,
        ),
        "post": operation(
            "Append to it, close it, or both",
            {"204": "stored", "200": "stored, of a producer", "403": "stale epoch", "409": "closed, or out of order",
             "412": "it does not end at If-Match any more", "413": "too large"},
            parameters=[
                *_PRODUCER,
                _header("Stream-Seq", "only if it comes after the last one, compared as text"),
                _header("Stream-Closed", "true: nothing comes after this"),
                _header("If-Match", "an offset in quotes: only if the stream ends there (extension)"),
            ],
            requestBody=_ANY,
        ),
        "get": operation(
            "Read it from an offset",
            {"200": "bytes, a JSON array, or events", "204": "nothing came", "304": "the same", "410": "deleted"},
            "application/octet-stream application/json text/event-stream",
            parameters=_READING,
        ),
        "head": operation("What it is, and where it ends", {"200": "headers"}),
        "delete": operation("Delete it", {"204": "gone"}),
    },
}  # fmt: skip
