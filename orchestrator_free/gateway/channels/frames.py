"""Frames: stored messages as the bytes that clients get, encoded once per gateway; and which client gets which."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal

import orjson

from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Event
from orchestrator_free.gateway.channels.lens import ABOUT
from orchestrator_free.reading.entries import Entry
from orchestrator_free.subjects import KINDS, Position, check_name, parse

Format = Literal["sse", "ndjson"]

#: JSON holds line breaks only between its tokens, where a space says the same
_ONE_LINE: Final = bytes.maketrans(b"\n\r", b"  ")
HEARTBEAT: Final[dict[Format, bytes]] = {"sse": b": heartbeat\n\n", "ndjson": b"\n"}


@lru_cache(maxsize=65536)
def _prefix(subject: str) -> bytes:
    """Return the part of an envelope that is the same for every event of an entity."""
    address = parse(subject)
    assert address is not None  # noqa: S101 - a reader hands on nothing else
    names = {"session": address.session, "member": address.member, "kind": address.kind}
    names |= {part: getattr(address, part) for part in KINDS[address.kind]}
    return orjson.dumps(names)[:-1]


class Frame:
    """One event as bytes.

    Attributes:
        sequence: of the event. subject: of its entity; address: the same, parsed.
        sse: `id:` and `data:` lines, LF framing, one line of JSON.
    """

    __slots__ = ("_start", "address", "sequence", "sse", "subject")

    def __init__(self, epoch: str, entry: Entry) -> None:
        message = entry.message
        payload = message.payload
        if b"\n" in payload or b"\r" in payload:
            payload = payload.translate(_ONE_LINE)
        position = b"%b-%d" % (epoch.encode(), message.sequence)
        self.sequence = message.sequence
        self.subject = message.subject
        self.address = entry.event.address
        self._start = len(position) + 11
        self.sse = b'id: %b\ndata: %b,"position":"%b","time":"%b","event":%b}\n\n' % (
            position, _prefix(message.subject), position, message.time.encode(), payload,
        )  # fmt: skip

    @property
    def ndjson(self) -> bytes:
        """The envelope as a line of JSON."""
        return self.sse[self._start : -1]

    def age(self) -> float:
        """Return the seconds since its event was stored, by this host's clock; never below zero."""
        start = self.sse.index(b'"time":"') + 8
        stamp = self.sse[start : self.sse.index(b'"', start)].decode()
        return max(0.0, time.time() - datetime.fromisoformat(stamp).timestamp())


def control(name: str, body: object, *, position: str = "", form: Format = "sse") -> bytes:
    """Return a frame that is no event of the log: `snapshot`, `reset`, `cut`, `deleted` or `idle`."""
    if form == "ndjson":
        return orjson.dumps({"control": name, "position": position or None, "data": body}) + b"\n"
    head = f"id: {position}\n" if position else ""
    return f"{head}event: {name}\ndata: ".encode() + orjson.dumps(body) + b"\n\n"


def snapshot_frame(position: Position, view: bytes, *, form: Format) -> bytes:
    """Return the control frame `snapshot` with a view that is JSON already."""
    at = str(position).encode()
    if form == "ndjson":
        return b'{"control":"snapshot","position":"%b","data":%b}\n' % (at, view)
    return b"id: %b\nevent: snapshot\ndata: %b\n\n" % (at, view)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a client gets, and in which form; clients of equal selections share their bytes.

    Attributes:
        agents: only what these members published; None for all.
        kinds: only these kinds of entity; None for all.
        sees: whose words the client may read, whatever it selects; None for everybody's.
        form: `sse` or `ndjson`.
    """

    agents: frozenset[str] | None = None
    kinds: frozenset[str] | None = None
    form: Format = "sse"
    sees: frozenset[str] | None = None

    @classmethod
    def parse(cls, agents: str, kinds: str, form: Format, sees: frozenset[str] | None = None) -> Selection:
        """Parse comma-separated query values; empty for all.

        Raises:
            InvalidInput: a name that cannot be one, an unknown kind.
        """
        names = frozenset(check_name("agents", name) for name in agents.split(",") if agents)
        chosen = frozenset(kind for kind in kinds.split(",") if kinds)
        unknown = sorted(chosen - KINDS.keys())
        if unknown:
            raise InvalidInput(f"kinds: {unknown[0][:40]!r} is no kind; there are {', '.join(KINDS)}")
        return cls(names or None, chosen or None, form, sees)

    def takes(self, event: Event) -> bool:
        """Whether an event is selected."""
        return (self.agents is None or event.member in self.agents) and (self.kinds is None or event.kind in self.kinds)

    def choose(self, frames: list[Frame]) -> list[Frame]:
        """Return those frames that are selected."""
        if (sees := self.sees) is not None:
            frames = [frame for frame in frames if frame.address.member in sees or frame.address.kind in ABOUT]
        if self.agents is not None:
            frames = [frame for frame in frames if frame.address.member in self.agents]
        if self.kinds is not None:
            frames = [frame for frame in frames if frame.address.kind in self.kinds]
        return frames

    def encode(self, frames: list[Frame]) -> bytes:
        """Return frames as bytes in the selected form."""
        if self.form == "ndjson":
            return b"".join([frame.ndjson for frame in frames])
        return b"".join([frame.sse for frame in frames])
