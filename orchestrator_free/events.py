"""Events, the entries of the log: what a reader gets, and the vocabulary of payloads.

A payload is a JSON object with a `type`. Session, member and entity come from the subject, sequence and time from the
broker; payloads do not repeat them. Unknown types pass through to every reader.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.subjects import Address

Body = dict[str, Any]


class Event(NamedTuple):
    """One entry of the log.

    Attributes:
        sequence: place in the log; grows, with gaps, within a session.
        time: when the broker stored it, RFC 3339, UTC.
        address: who wrote which entity.
        body: the payload.
    """

    sequence: int
    time: str
    address: Address
    body: Body

    @property
    def type(self) -> str:
        """The payload's type, e.g. `text.delta`."""
        return str(self.body["type"])

    @property
    def session(self) -> str:
        """The session it belongs to."""
        return self.address.session

    @property
    def member(self) -> str:
        """Who published it, as the broker enforced it."""
        return self.address.member

    @property
    def kind(self) -> str:
        """The kind of entity, e.g. `in` or `run`."""
        return self.address.kind

    @property
    def id(self) -> str:
        """The id of the entity, empty for `floor`, `meta` and `presence`."""
        return self.address.id


#: levels of nesting that a payload leaves to what is built around it: views, finished runs, archives
_SPARE_LEVELS: Final = 32
_BRACKETS: Final = 200


def encode(body: Body) -> bytes:
    """Encode a payload as one line of JSON.

    Raises:
        InvalidEvent: the value holds something that JSON cannot say.
    """
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise InvalidEvent(f"cannot be written as JSON: {error}") from error


def decode(payload: bytes) -> Body:
    """Decode a payload.

    Raises:
        InvalidEvent: not a JSON object with a `type`.
    """
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}") from error
    if type(body) is not dict or type(body.get("type")) is not str:
        raise InvalidEvent('not an event: expected a JSON object with a "type"')
    if payload.count(b"[") + payload.count(b"{") > _BRACKETS and not nests(body, _SPARE_LEVELS):
        raise InvalidEvent("not an event: nested too deep")
    return body


def nests(value: Any, levels: int) -> bool:
    """Whether a value can be written with so many levels around it: 254 are the limit, although 1,024 can be read."""
    for _ in range(levels):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
