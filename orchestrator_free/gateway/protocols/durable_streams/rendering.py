"""What clients of Durable Streams are sent: bodies, and events of Server-Sent Events."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from orchestrator_free.durable_streams.json_mode import is_json
from orchestrator_free.durable_streams.requests import bare_type

#: how a stream's bytes are written into events
Form = Literal["json", "text", "base64"]


def form_of(content_type: str) -> Form:
    """Return how a stream of this content type is written into events."""
    if is_json(content_type):
        return "json"
    return "text" if bare_type(content_type).startswith("text/") else "base64"


def body_of(payloads: Sequence[bytes], form: Form) -> bytes:
    """Return the body of an answer: in JSON mode an array of all values."""
    return b"[%b]" % b",".join(payloads) if form == "json" else b"".join(payloads)


def data_event(payloads: Sequence[bytes], form: Form) -> bytes:
    """Return the event with these bytes; nothing for none."""
    if not payloads:
        return b""
    body = body_of(payloads, form)
    if form == "base64":
        body = base64.b64encode(body)
    return b"event: data\n" + _lines(body) + b"\n"


def _lines(text: bytes) -> bytes:
    """Return text as lines of an event; a leading space is written twice, because parsers take one away."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join([b"data:%b%b\n" % (b" " if line.startswith(b" ") else b"", line) for line in lines])


def control_event(
    offset: str, cursor: int, *, up_to_date: bool = True, closed: bool = False, stream: str = "", encoded: bool = False
) -> bytes:
    """Return the event after data, or instead of it: where the client stands.

    Args:
        offset: where to go on.
        cursor: to be echoed.
        up_to_date: nothing more is there now.
        closed: nothing will ever come.
        stream: which one, where a connection has several.
        encoded: the data before it is base64; said where a connection has several streams, and no header can.
    """
    values: dict[str, Any] = {"stream": stream} if stream else {}
    values |= {"streamNextOffset": offset} | ({"encoding": "base64"} if encoded else {})
    if closed:
        values |= {"streamClosed": True, "upToDate": True}
    else:
        values["streamCursor"] = str(cursor)
        if up_to_date:
            values["upToDate"] = True
    return b"event: control\ndata:%b\n\n" % orjson.dumps(values)


def gone_event(stream: str, status: int) -> bytes:
    """Return the event that says of one of several streams that it is not there (404), or only for its forks (410)."""
    return b"event: control\ndata:%b\n\n" % orjson.dumps({"stream": stream, "streamGone": True, "status": status})
