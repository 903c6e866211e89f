"""What of the stored messages is an event, and whether one says all of its entity."""

from __future__ import annotations

from typing import Final

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event, decode
from orchestrator_free.jetstream import Message
from orchestrator_free.subjects import ROOT, parse

#: types of the broker's own answers, which can be aimed at a session's subject
_ANSWERS: Final = "io.nats."
#: kinds of which the first message counts, and a later one may not hide it; many small entities, read together
_MANY: Final = frozenset({"ask", "answer", "stage"})


class Entry:
    """A stored message that is a valid event.

    Attributes:
        message: as stored, with the untouched payload.
        event: as parsed.
    """

    __slots__ = ("event", "message")

    def __init__(self, message: Message, event: Event) -> None:
        self.message = message
        self.event = event


def to_event(message: Message) -> Event | None:
    """Parse a stored message; None if its subject or payload is not ours, or nobody published it there."""
    address = parse(message.subject)
    if address is None or message.copied:
        return None
    try:
        body = decode(message.payload)
    except InvalidEvent:
        return None
    if body["type"].startswith(_ANSWERS):
        return None
    return Event(message.sequence, message.time, address, body)


def is_whole(message: Message) -> bool:
    """Whether the last message of a subject says all that is to be known about its entity."""
    if message.copied:
        return False  # nobody has said it: what stood there before counts
    if message.rollup:
        return True
    address = parse(message.subject)
    if address is None:
        return True
    if address.kind not in ("run", "meta", "floor", *_MANY):
        return to_event(message) is not None
    return address.kind == "meta" and b'"session.created"' in message.payload


def read_under(message: Message) -> str:
    """Return the subject, or filter, that gives all messages of an entity whose last one is no whole."""
    address = parse(message.subject)
    if address is None or address.kind not in _MANY:
        return message.subject
    return f"{ROOT}.{address.shard}.{address.session}.*.{address.kind}.>"
