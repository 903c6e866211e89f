"""Headers of the protocol as values: what a request wants, or why it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from orchestrator_free.durable_streams.offsets import BEGINNING, sequence_of
from orchestrator_free.durable_streams.refusals import Refusal, malformed

ROOT: Final = "/v1/stream/"
DEFAULT_TYPE: Final = "application/octet-stream"
#: numbers of producers and sub-offsets stay exact in JavaScript
_LARGEST: Final = 2**53 - 1
_WHOLE: Final = re.compile("0|[1-9][0-9]*")
_DIGITS: Final = re.compile("[0-9]+")
_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+*-]+.*", re.DOTALL)
_PATH_BYTES: Final = 1024
_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"|([^",\s]+)')
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
#: what bytes of a path that are no UTF-8 come as: two such paths would be one stream
_NOT_UTF8: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class Producer:
    """Who writes, and which of its writes this is."""

    id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What a PUT wants.

    Attributes:
        content_type: empty where it was not said.
        ttl: seconds of sliding life. expires: RFC 3339 as it was written.
        source: path of the stream to fork, as `path_of` returns it. at: sequence to fork at, None for the tail.
        sub: bytes or JSON values to inherit beyond that.
    """

    content_type: str
    closed: bool
    ttl: int | None
    expires: str | None
    source: str | None
    at: int | None
    sub: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """What a POST wants.

    Attributes:
        body: as it came. close: the stream ends with it. seq: of the writer, compared as text; empty for none.
        expect: the tail that the writer has seen, None for any (an extension: `If-Match`).
    """

    body: bytes
    content_type: str = ""
    close: bool = False
    seq: str = ""
    producer: Producer | None = None
    expect: int | None = None


def path_of(text: str) -> str:
    """Return the path of a stream below the root, checked.

    Raises:
        Refusal: 400, it cannot be one.
    """
    if not text or len(text.encode()) > _PATH_BYTES or not text.isprintable() or _NOT_UTF8 in text:
        raise malformed(
            f"{text[:80]!r} is no path of a stream: 1 to {_PATH_BYTES} bytes of UTF-8, no control characters"
        )
    return text


def is_true(value: str | None) -> bool:
    """Whether a header that is `true` or nothing says so."""
    return value is not None and value.strip().lower() == "true"


def creation_of(headers: Mapping[str, str]) -> Creation:
    """Read the headers of a PUT; names are lower case.

    Raises:
        Refusal: 400, one of them cannot be read, or they do not go together.
    """
    ttl, expires = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires is not None:
        raise malformed("Stream-TTL and Stream-Expires-At do not go together; send one of them")
    if expires is not None:
        moment_of(expires)
    source, at, sub = (headers.get(f"stream-{name}") for name in ("forked-from", "fork-offset", "fork-sub-offset"))
    if source is None and (sub is not None or at is not None):
        raise malformed("Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From")
    if at == BEGINNING:
        raise malformed("Stream-Fork-Offset takes what Stream-Next-Offset said, not -1")
    content_type = headers.get("content-type", "").strip()
    return Creation(
        content_type=content_type if _TYPE.fullmatch(content_type) else "",
        closed=is_true(headers.get("stream-closed")),
        ttl=None if ttl is None else _whole("Stream-TTL", ttl, _WHOLE),
        expires=expires,
        source=None if source is None else source_of(source),
        at=None if at is None else sequence_of(at, "Stream-Fork-Offset"),
        sub=0 if sub is None else _whole("Stream-Fork-Sub-Offset", sub, _WHOLE),
    )


def source_of(header: str) -> str:
    """Return the path of the stream that a fork names by its URL path."""
    text = unquote(header.strip())
    if not text.startswith(ROOT):
        raise malformed(f"Stream-Forked-From: {header[:80]!r} is no stream of this server; it begins with {ROOT}")
    try:
        return path_of(text.removeprefix(ROOT))
    except Refusal as refusal:
        raise malformed(f"Stream-Forked-From: {refusal}") from None


def append_of(headers: Mapping[str, str], body: bytes) -> Append:
    """Read the headers of a POST; names are lower case.

    Raises:
        Refusal: 400, one of them cannot be read, or there is nothing to do.
    """
    close = is_true(headers.get("stream-closed"))
    content_type = headers.get("content-type", "").strip()
    producer = _producer_of(headers)
    if not body and not close:
        raise malformed("the body is empty; append something, or close the stream with Stream-Closed: true")
    if body and not content_type:
        raise malformed("Content-Type is missing; it is the stream's")
    return Append(
        body=body,
        content_type=content_type,
        close=close,
        seq=headers.get("stream-seq", ""),
        producer=producer,
        expect=_expected(headers.get("if-match")),
    )


def _producer_of(headers: Mapping[str, str]) -> Producer | None:
    names = ("producer-id", "producer-epoch", "producer-seq")
    values = [headers.get(name) for name in names]
    if all(value is None for value in values):
        return None
    id, epoch, seq = values
    if id is None or epoch is None or seq is None:
        raise malformed("Producer-Id, Producer-Epoch and Producer-Seq come together")
    if not id:
        raise malformed("Producer-Id is empty")
    return Producer(id, _whole("Producer-Epoch", epoch, _DIGITS), _whole("Producer-Seq", seq, _DIGITS))


def _expected(header: str | None) -> int | None:
    """Read `If-Match`: the offset of the tail that the writer knows; `*` for any stream that is there."""
    if header is None or header.strip() == "*":
        return None
    found = _TAG.fullmatch(header.strip())
    if found is None:
        raise malformed(f"If-Match: {header[:80]!r}: write one offset in quotes, as Stream-Next-Offset said it")
    return sequence_of(found[1] or found[2] or "", "If-Match")


def _whole(name: str, text: str, shape: re.Pattern[str]) -> int:
    if not shape.fullmatch(text) or len(text) > 16 or int(text) > _LARGEST:
        raise malformed(f"{name}: {text[:60]!r} is no whole number from 0 to {_LARGEST}, in plain digits")
    return int(text)


def moment_of(text: str) -> datetime:
    """Read a time as RFC 3339 writes it.

    Raises:
        Refusal: 400, it is none.
    """
    try:
        if _MOMENT.fullmatch(text.strip()) is None:
            raise ValueError(text)
        return datetime.fromisoformat(text.strip().upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise malformed(f"Stream-Expires-At: {text[:60]!r} is no time; write 2030-01-01T00:00:00Z") from None


def bare_type(content_type: str) -> str:
    """Return a content type as it is compared: without parameters, lower case."""
    return content_type.partition(";")[0].strip().lower()
