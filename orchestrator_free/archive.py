"""A session as one file of JSON lines: written from the log as it is now, read back into a log anywhere.

    {"format": "orchestrator-free session", "version": 1, "session": "s1", "position": "ab12cd34-57"}
    {"sequence": 12, "time": "…", "member": "ann", "kind": "in", "target": "critic", "id": "…", "rollup": false,
     "payload": {…}}                                                  one for every stored event, in log order
    {"object": "file-1f2e…", "last": true, "data": "<base64>"}        the files and large runs, in pieces
    {"end": {"events": 1, "objects": 1, "missing": [], "skipped": 0, "sha256": "…"}}    over every byte before

Nothing is written before the whole file was checked; what a failed import has written is removed again.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from orchestrator_free.errors import (
    InvalidEvent,
    InvalidName,
    SessionNotFound,
)
from orchestrator_free.events import Body
from orchestrator_free.reader import Entry, Reader
from orchestrator_free.session import Session
from orchestrator_free.subjects import Address, Position

FORMAT: Final = "orchestrator-free session"
VERSION: Final = 1
#: bytes of an object in one line, before base64
_PIECE: Final = 384 * 1024
#: what a message or a line needs beside its payload
_HEADROOM: Final = 1024
#: an archive up to this size is checked in memory, a larger one in a temporary file
_IN_MEMORY: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import has written.

    Attributes:
        session: its id.
        events: how many events. objects: how many files and large runs.
        position: where the session's log ends now.
    """

    session: str
    events: int
    objects: int
    position: Position


# -- export -----------------------------------------------------------------------------------------------------


async def export_session(session: Session) -> AsyncIterator[bytes]:
    """Yield the lines of a session's archive, as the session is now; what comes meanwhile is not in it.

    Payloads are copied byte for byte (a line break between two JSON tokens becomes a space).

    Raises:
        SessionNotFound: the log holds nothing of it, or it was deleted meanwhile; the file has no end then.
    """
    digest = hashlib.sha256()
    end: dict[str, Any] = {}
    async for fields in _lines(session, end):
        line = orjson.dumps(fields) + b"\n"
        digest.update(line)
        yield line
    if not await session.exists():
        raise SessionNotFound(session.id)
    yield orjson.dumps({"end": {**end, "sha256": digest.hexdigest()}}) + b"\n"


async def _lines(session: Session, end: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield every line but the last, and count into it."""
    entries, position, skipped = await _entries(session)
    end |= {"events": len(entries), "objects": 0, "missing": [], "skipped": skipped}
    yield {"format": FORMAT, "version": VERSION, "session": session.id, "position": str(position)}
    names: dict[str, bool] = {}
    for entry in entries:
        names |= _objects_of(entry.event.body)
        yield _event_fields(entry)
    queue = deque(names)
    while queue:
        name = queue.popleft()
        data = await session.object(name)
        if data is None:
            end["missing"].append(name)
            continue
        end["objects"] += 1
        inside = _objects_of(orjson.loads(data)) if names[name] else {}
        queue.extend(inner for inner in inside if inner not in names)
        names = inside | names
        for start in range(0, len(data) or 1, _PIECE):
            piece = base64.b64encode(data[start : start + _PIECE]).decode()
            yield {"object": name, "last": start + _PIECE >= len(data), "data": piece}


async def _entries(session: Session) -> tuple[list[Entry], Position, int]:
    """Return what the log holds, where it ends, and how many stored messages are no events."""
    entries: list[Entry] = []
    reader = Reader(session._log, session.id, entries.extend, lambda _: None)
    await reader.open(compact=False)
    reader.close()
    if not entries or any(entry.event.type == "session.deleted" for entry in entries if entry.event.kind == "meta"):
        raise SessionNotFound(session.id)
    replaced = {entry.message.subject: entry.message.sequence for entry in entries if entry.message.rollup}
    kept = [entry for entry in entries if entry.message.sequence >= replaced.get(entry.message.subject, 0)]
    return kept, reader.position, reader.skipped


def _event_fields(entry: Entry) -> dict[str, Any]:
    event = entry.event
    payload = entry.message.payload.replace(b"\n", b" ").replace(b"\r", b" ")
    fields: dict[str, Any] = {"sequence": event.sequence, "time": event.time, "member": event.member}
    fields |= {"kind": event.kind} | ({"target": event.address.target} if event.address.target else {})
    return fields | {"id": event.id, "rollup": entry.message.rollup, "payload": orjson.Fragment(payload)}


def _objects_of(body: Body) -> dict[str, bool]:
    """Return the names of the objects that a payload refers to, each with whether it is a large run."""
    parts = [body, *_dicts(body.get("parts"))]
    for attempt in _dicts(body.get("attempts")):
        parts += _dicts(attempt.get("parts"))
    named = [part for part in parts if part.get("type") in ("file", "run.finished")]
    return {part["object"]: part["type"] != "file" for part in named if type(part.get("object")) is str}


def _dicts(value: Any) -> list[Any]:
    return [item for item in value if type(item) is dict] if type(value) is list else []


# -- check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Item:
    """An event of an archive."""

    sequence: int
    address: Address
    rollup: bool
    payload: bytes
    body: Body


class _Archive:
    """Checks an archive line by line.

    Attributes:
        session: the id it was exported from, empty before the header.
        ended: whether its last line was there.
        openings: (old sequence, subject, payload) of the first events of finished runs, which the log has no more.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest - _HEADROOM
        self._digest = hashlib.sha256()
        self._sequence = 0
        self._object = ""
        self._runs: set[str] = set()
        self._line = 0
        self.session = ""
        self.events = 0
        self.objects = 0
        self.ended = False
        self.openings: list[tuple[int, str, bytes]] = []

    def take(self, line: bytes) -> None:
        """Check the next line.

        Raises:
            InvalidEvent, TooLarge: name the line.
        """
        self._line += 1
        try:
            fields = read_line(line)
            if self.ended:
                refuse("nothing may follow the end")
            if not self.session:
                self.session = _header(fields)
            elif "end" in fields:
                self._end(fields["end"])
            elif "object" in fields:
                self._piece(fields)
            else:
                self._event(_item(line, fields, Address(0, self.session, "", "")))
        except (InvalidEvent, InvalidName) as error:
            raise InvalidEvent(f"line {self._line}: {error}") from error
        self._digest.update(line)
