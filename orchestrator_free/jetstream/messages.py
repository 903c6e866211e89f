"""Stored messages, however the broker hands them over: republished, read, delivered."""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free.jetstream.replies import MARK, ROLLUP
from orchestrator_free.subjects import AT, LIVE

_STAMP: Final = b"\r\nNats-Sequence: "
#: what the broker appends to the header of a message that it reads for us; the last of its kind is the broker's
_STORED: Final = re.compile(
    rb".*\r\nNats-Subject: ([^\r]+)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r]+)\r\n", re.DOTALL
)


#: what the broker appends to the header of a copy that it republishes
_REPUBLISHED: Final = re.compile(
    rb"\r\nNats-Subject: ([^\r]+)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r]+)"
    rb"\r\nNats-Last-Sequence: (\d+)\r\n\r\n\Z"
)
_TRACE: Final = re.compile(rb"\r\ntraceparent: (00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})\r\n")
_REPLACES: Final = tuple(f"\r\n{name}: sub\r\n".encode() for name in (ROLLUP, MARK))


@dataclass(slots=True)
class Message:
    """A stored message.

    Attributes:
        previous: sequence of the message before it on the same subject; 0 for the first, -1 where unknown.
        rollup: it replaced everything before it on its subject.
        copied: the broker put it here for somebody else: a forgery, no event of the member whose subject it is on.
        header: as it came.
    """

    subject: str
    sequence: int
    time: str
    payload: bytes
    rollup: bool
    previous: int = -1
    copied: bool = False
    header: bytes = b""

    @property
    def trace(self) -> str:
        """The context of a trace that came with it, empty for none; anybody may write one."""
        found = _TRACE.search(self.header)
        return found[1].decode() if found else ""


def field_of(header: bytes, name: bytes) -> str:
    """Return the last value of a header field: the broker appends its own after the publisher's."""
    start = header.rfind(b"\r\n" + name + b": ")
    if start < 0:
        return ""
    start += len(name) + 4
    return header[start : header.index(b"\r\n", start)].decode(errors="replace")  # a publisher may write any bytes


def is_copy(subject: str, header: bytes, stamps: int) -> bool:
    """Whether the broker put a message on a subject for somebody who may not publish there.

    Either its header was stamped before it was stored (an answer to a read), or a schedule was aimed here that did not
    stand on this subject's own place.

    Args:
        subject: where it is stored.
        header: as it came.
        stamps: how many stamps the broker has added on this way to us.
    """
    if header.count(_STAMP) > stamps:
        return True
    scheduler = field_of(header, b"Nats-Scheduler")
    return bool(scheduler) and scheduler != AT + subject


def replaces(header: bytes) -> bool:
    """Whether a message says that it replaces all before it on its subject."""
    return any(name in header for name in _REPLACES)


def live_message(subject: str, payload: bytes, header: bytes) -> Message | None:
    """Read a republished copy; None if the broker did not make it as one.

    What it appends to a copy ends the header. An answer to a read, which anybody may aim here, has other fields there.
    """
    stamp = _REPUBLISHED.search(header)
    if stamp is None:
        return None
    stored, sequence, time, previous = (part.decode() for part in stamp.groups())
    if subject != LIVE + stored:
        return None
    copied = is_copy(stored, header, 1)
    return Message(stored, int(sequence), time, payload, replaces(header), int(previous), copied, header)


class Batch:
    """Collects the answers of one Direct Get request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def take(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        """Take one answer; the handler of a reply inbox."""
        if header[:9] == b"NATS/1.0 ":
            if not self.done.done():
                self.done.set_result((int(header[9:12]), header))
            return
        found = _STORED.search(header)
        if found is None:
            return  # not an answer to a read: somebody sent it to our inbox
        stored, sequence, time = found.groups()
        subject = stored.decode()
        copied = is_copy(subject, header, 1)
        rollup = replaces(header)
        self.messages.append(Message(subject, int(sequence), time.decode(), payload, rollup, -1, copied, header))


def stored_message(found: dict[str, Any]) -> Message:
    """Read a message as `STREAM.MSG.GET` answers it."""
    header = base64.b64decode(found.get("hdrs", ""))
    payload = base64.b64decode(found.get("data", ""))
    copied = is_copy(found["subject"], header, 0)
    rollup = replaces(header)
    return Message(found["subject"], found["seq"], _trim(found["time"]), payload, rollup, copied=copied, header=header)


def _trim(time: str) -> str:
    """Return an RFC 3339 time as the broker's headers write it: without zeros at the end of the fraction."""
    whole, dot, fraction = time.removesuffix("Z").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}{dot}{fraction}Z" if fraction else f"{whole}Z"
