"""A session as one file of JSON lines: written from the log as it is now, read back into a log anywhere.

    {"format": "orchestrator-free session", "version": 1, "session": "s1", "position": "ab12cd34-57"}
    {"sequence": 12, "time": "…", "member": "ann", "kind": "in", "target": "critic", "id": "…", "rollup": false,
     "payload": {…}}                                                       one for every stored event, in log order
    {"object": "file-1f2e…", "part": 1, "parts": 1, "data": "<base64>"}    the files and large runs, in pieces
    {"end": {"events": 1, "objects": 1, "missing": [], "skipped": 0, "sha256": "…"}}   over every byte before

Nothing is written before the whole file was checked; what a failed import has written is removed again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from orchestrator_free.errors import (
    BrokerError,
    Conflict,
    InvalidEvent,
    InvalidName,
    OrchestratorFreeError,
    SessionExists,
    SessionNotFound,
    TooLarge,
)
from orchestrator_free.events import Body, decode, encode, validate
from orchestrator_free.jetstream.bulk import BulkPublisher
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS
from orchestrator_free.reader import Entry, Reader
from orchestrator_free.session import Broker, Session
from orchestrator_free.subjects import KINDS, Address, Position, address

FORMAT: Final = "orchestrator-free session"
VERSION: Final = 1
#: bytes of an object in one line, before base64
_PIECE: Final = 384 * 1024
#: what a line may have beyond the broker's largest message, and what a message needs beside its payload
_HEADROOM: Final = 1024
_IN_MEMORY: Final = 16 * 1024 * 1024

Spool = tempfile.SpooledTemporaryFile[bytes]


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

    Payloads are copied byte for byte (line breaks between JSON tokens become spaces).

    Raises:
        SessionNotFound: the log holds nothing of it, or it was deleted meanwhile: the file has no end then.
    """
    digest = hashlib.sha256()
    end: dict[str, Any] = {}
    async for line in _lines(session, end):
        digest.update(line)
        yield line
    if not await session.exists():
        raise SessionNotFound(session.id)
    yield orjson.dumps({"end": {**end, "sha256": digest.hexdigest()}}) + b"\n"


async def _lines(session: Session, end: dict[str, Any]) -> AsyncIterator[bytes]:
    entries: list[Entry] = []
    reader = Reader(session._log, session.id, entries.extend, lambda _: None)
    await reader.open(compact=False)
    reader.close()
    if not entries or any(e.event.kind == "meta" and e.event.type == "session.deleted" for e in entries):
        raise SessionNotFound(session.id)
    replaced = {e.message.subject: e.message.sequence for e in entries if e.message.rollup}
    entries = [e for e in entries if e.message.sequence >= replaced.get(e.message.subject, 0)]
    end |= {"events": len(entries), "objects": 0, "missing": [], "skipped": reader.skipped}
    header = {"format": FORMAT, "version": VERSION, "session": session.id, "position": str(reader.position)}
    yield orjson.dumps(header) + b"\n"
    names: dict[str, bool] = {}
    for entry in entries:
        names.update(_objects_of(entry.event.body))
        yield _event_line(entry)
    queue = deque(names)
    while queue:
        name = queue.popleft()
        data = await session.object(name)
        if data is None:
            end["missing"].append(name)
            continue
        end["objects"] += 1
        if names[name]:
            inside = {inner: False for inner in _objects_of(orjson.loads(data)) if inner not in names}
            names |= inside
            queue.extend(inside)
        for line in _object_lines(name, data):
            yield line


def _event_line(entry: Entry) -> bytes:
    event = entry.event
    fields: dict[str, Any] = {
        "sequence": event.sequence, "time": event.time, "member": event.member, "kind": event.kind,
        **({"target": event.address.target} if event.address.target else {}),
        "id": event.id, "rollup": entry.message.rollup,
        "payload": orjson.Fragment(entry.message.payload.replace(b"\n", b" ").replace(b"\r", b" ")),
    }  # fmt: skip
    return orjson.dumps(fields) + b"\n"


def _object_lines(name: str, data: bytes) -> Iterator[bytes]:
    parts = max(1, -(-len(data) // _PIECE))
    for part in range(parts):
        piece = base64.b64encode(data[part * _PIECE : (part + 1) * _PIECE]).decode()
        yield orjson.dumps({"object": name, "part": part + 1, "parts": parts, "data": piece}) + b"\n"


def _objects_of(body: Body) -> dict[str, bool]:
    """Return the names of the objects a payload refers to, and whether they are large runs."""
    parts = [body, *_dicts(body.get("parts"))]
    for attempt in _dicts(body.get("attempts")):
        parts += _dicts(attempt.get("parts"))
    named = [part for part in parts if part.get("type") in ("file", "run.finished")]
    return {part["object"]: part["type"] != "file" for part in named if isinstance(part.get("object"), str)}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# -- check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Item:
    """An event of an archive, addressed to the session it goes to."""

    sequence: int
    address: Address
    rollup: bool
    payload: bytes
    body: Body


@dataclass(frozen=True, slots=True, order=True)
class _Opening:
    """A finished run whose first event is gone: something must stand in its place, so that runs keep their order."""

    first: int
    place: int
    subject: str
    payload: bytes


class _Archive:
    """Checks an archive line by line, and remembers what the import needs to know in advance."""

    def __init__(self, shard: int, session: str, largest: int) -> None:
        self._shard = shard
        self._session = session
        self._largest = largest - _HEADROOM
        self._digest = hashlib.sha256()
        self._last = 0
        self._object: tuple[str, int, int] | None = None
        self._runs: set[str] = set()
        self.line = 0
        self.events = 0
        self.objects = 0
        self.ended = False
        self.openings: list[_Opening] = []

    def take(self, line: bytes) -> None:
        """Check the next line, given without its line break.

        Raises:
            InvalidEvent, TooLarge: name the line.
        """
        self.line += 1
        try:
            self._take(line)
        except (InvalidEvent, InvalidName) as error:
            raise InvalidEvent(f"line {self.line}: {error}") from error
        self._digest.update(line + b"\n")

    def _take(self, line: bytes) -> None:
        fields = _json(line)
        _expect(not self.ended, "nothing may follow the end")
        if self.line == 1:
            read_header(fields)
        elif "end" in fields:
            self._end(fields["end"])
        elif "object" in fields:
            self._piece(fields)
        else:
            _expect(self._object is None and not self.objects, "events come before objects")
            self._event(self.item(line, fields))

    def item(self, line: bytes, fields: dict[str, Any]) -> _Item:
        """Parse an event's line."""
        kind, payload = fields.get("kind"), line[line.find(b'"payload":') + 10 : -1]
        _expect(isinstance(kind, str) and kind in KINDS, f"unknown kind {str(kind)[:80]!r}")
        _expect("id" in KINDS[kind] or not fields.get("id"), f"{kind} has no id")
        where = address(
            self._shard, self._session, fields.get("member", ""), kind,
            target=fields.get("target", ""), id=fields.get("id", ""),
        )  # fmt: skip
        sequence, rollup = fields.get("sequence"), fields.get("rollup")
        _expect(type(sequence) is int and type(rollup) is bool, '"sequence" and "rollup" must be a number and a boolean')
        body = decode(payload)
        _expect(body == fields.get("payload"), '"payload" must be the last field')
        return _Item(sequence, where, rollup, payload, body)

    def _event(self, item: _Item) -> None:
        _expect(item.sequence > self._last, f"sequence {item.sequence} after {self._last}: events must be in log order")
        if len(item.payload) > self._largest:
            raise TooLarge(f"line {self.line}: {len(item.payload)} bytes, this broker takes {self._largest}")
        if item.address.kind == "in":
            validate("in", item.body)  # what agents cannot read, they could not see to be replayed
        subject, first = str(item.address), item.body.get("first")
        if _is_finished(item) and item.rollup and subject not in self._runs and 0 < first < item.sequence:
            body = {"type": "run.started", "attempt": item.body.get("attempt"), "input": item.body.get("input")}
            self.openings.append(_Opening(first, len(self.openings), subject, encode(body)))
        if item.address.kind == "run":
            self._runs.add(subject)
        self._last = item.sequence
        self.events += 1

    def _piece(self, fields: dict[str, Any]) -> None:
        name, part, parts, data = (fields.get(field) for field in ("object", "part", "parts", "data"))
        _expect(type(name) is str and 0 < len(name) <= 256 and type(data) is str, "not a piece of an object")
        done = self._object[1] if self._object else 0
        _expect((name, part, parts) == (self._object or (name, 0, parts))[::2][:1] + (done + 1, parts), "x")
        try:
            base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise InvalidEvent(f"object {name!r}: {error}") from error
