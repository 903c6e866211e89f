"""The lines of a session's archive: written, parsed, and checked as a whole.

    {"format": "orchestrator-free session", "version": 1, "session": "s1", "position": "ab12cd34-57"}
    {"sequence": 12, "time": "…", "member": "ann", "kind": "in", "target": "critic", "id": "…", "rollup": false,
     "payload": {…}}                                                  one for every stored event, in log order
    {"object": "file-1f2e…", "last": true, "data": "<base64>"}        the files and large runs, in pieces
    {"end": {"events": 1, "objects": 1, "missing": [], "skipped": 0, "sha256": "…"}}    over every byte before

Pure: no I/O and no clock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from orchestrator_free.errors import InvalidEvent, InvalidName, TooLarge
from orchestrator_free.events import Body, Event, decode, encode
from orchestrator_free.subjects import KINDS, Address, address, check_name
from orchestrator_free.vocabulary import validate

FORMAT: Final = "orchestrator-free session"
VERSION: Final = 1
#: what a line or a message needs beside its payload, generously
HEADROOM: Final = 1024
#: bytes of an object in one line, before base64
_PIECE: Final = 384 * 1024
_OBJECT_NAME: Final = 256

Kind = Literal["header", "event", "object", "end"]


def longest(max_payload: int) -> int:
    """Return how long a line may be, where the broker takes messages up to `max_payload`."""
    return max(max_payload, 2 * _PIECE) + HEADROOM


# -- writing ----------------------------------------------------------------------------------------------------


class Writer:
    """Makes lines and counts them.

    Attributes:
        missing: names of objects that the log refers to and nobody has.
        skipped: stored messages that were no events.
    """

    def __init__(self, session: str, position: str) -> None:
        self._digest = hashlib.sha256()
        self._header = {"format": FORMAT, "version": VERSION, "session": session, "position": position}
        self._events = 0
        self._objects = 0
        self.missing: list[str] = []
        self.skipped = 0

    def _line(self, fields: dict[str, Any]) -> bytes:
        line = orjson.dumps(fields) + b"\n"
        self._digest.update(line)
        return line

    def header(self) -> bytes:
        """Return the first line."""
        return self._line(self._header)

    def event(self, event: Event, payload: bytes, *, rollup: bool) -> bytes:
        """Return an event's line; the payload stays as it is, only line breaks between its tokens become spaces."""
        self._events += 1
        where = event.address
        fields: dict[str, Any] = {"sequence": event.sequence, "time": event.time, "member": where.member}
        fields |= {"kind": where.kind} | ({"target": where.target} if where.target else {})
        raw = orjson.Fragment(payload.replace(b"\n", b" ").replace(b"\r", b" "))
        return self._line(fields | {"id": where.id, "rollup": rollup, "payload": raw})

    def object(self, name: str, data: bytes) -> Iterator[bytes]:
        """Yield an object's lines."""
        self._objects += 1
        for start in range(0, len(data) or 1, _PIECE):
            piece = base64.b64encode(data[start : start + _PIECE]).decode()
            yield self._line({"object": name, "last": start + _PIECE >= len(data), "data": piece})

    def end(self) -> bytes:
        """Return the last line."""
        end = {"events": self._events, "objects": self._objects, "missing": self.missing, "skipped": self.skipped}
        return self._line({"end": end | {"sha256": self._digest.hexdigest()}})


def objects_of(body: Body) -> dict[str, bool]:
    """Return the names of the objects that a payload refers to, each with whether it is a large run."""
    parts = [body, *_dicts(body.get("parts"))]
    for attempt in _dicts(body.get("attempts")):
        parts += _dicts(attempt.get("parts"))
    named = [part for part in parts if part.get("type") in ("file", "run.finished")]
    return {part["object"]: part["type"] != "file" for part in named if type(part.get("object")) is str}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []


# -- parsing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """An event of an archive, addressed to the session it goes to."""

    sequence: int
    address: Address
    rollup: bool
    payload: bytes
    body: Body

    @property
    def first(self) -> int | None:
        """The sequence of the run's first event, if this is the end of a run that says it."""
        first = self.body.get("first")
        finished = self.address.kind == "run" and self.body["type"] == "run.finished"
        return first if finished and type(first) is int else None


def read(line: bytes) -> dict[str, Any]:
    """Parse a line.

    Raises:
        InvalidEvent: it is no JSON object.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON, the file is cut off or damaged: {error}") from error
    _expect(type(fields) is dict, "not a JSON object")
    return dict(fields)


def read_event(line: bytes, fields: dict[str, Any], shard: int, session: str) -> Item:
    """Parse an event's line, given with its parsed fields.

    Raises:
        InvalidEvent, InvalidName: say what is wrong.
    """
    kind, sequence, rollup = fields.get("kind"), fields.get("sequence"), fields.get("rollup")
    if type(kind) is not str or kind not in KINDS:
        raise InvalidEvent(f"unknown kind {str(kind)[:80]!r}")
    _expect("id" in KINDS[kind] or not fields.get("id"), f"{kind} has no id")
    member, target, id = (fields.get(name, "") for name in ("member", "target", "id"))
    where = address(shard, session, member, kind, target=target, id=id)
    if type(sequence) is not int or type(rollup) is not bool:
        raise InvalidEvent('"sequence" must be a number, "rollup" true or false')
    payload = line[line.find(b'"payload":') + 10 :].rstrip()[:-1]
    body = decode(payload)
    _expect(body == fields.get("payload"), '"payload" must be the last field')
    return Item(sequence, where, rollup, payload, body)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise InvalidEvent(otherwise)


# -- checking ---------------------------------------------------------------------------------------------------


class Checker:
    """Checks an archive line by line, before anything of it is used.

    Attributes:
        session: the id it was exported from, empty before the first line.
        events: how many. objects: how many.
        ended: whether the last line was there.
        openings: for finished runs whose first event the log has no more: (its sequence, the run, a payload).
    """

    def __init__(self, max_payload: int) -> None:
        self._largest = max_payload - HEADROOM
        self._digest = hashlib.sha256()
        self._line = 0
        self._sequence = -1  # 0 is free for what stands before everything
        self._object = ""
        self._runs: set[Address] = set()
        self.session = ""
        self.events = 0
        self.objects = 0
        self.ended = False
        self.openings: list[tuple[int, Address, bytes]] = []

    def take(self, line: bytes) -> Kind:
        """Check the next line; return what it is.

        Raises:
            InvalidEvent, TooLarge: name the line.
        """
        self._line += 1
        try:
            kind = self._take(line, read(line))
        except (InvalidEvent, InvalidName) as error:
            raise InvalidEvent(f"line {self._line}: {error}") from error
        self._digest.update(line)
        return kind

    def close(self) -> None:
        """Check that the last line was there.

        Raises:
            InvalidEvent: the file is cut off.
        """
        _expect(self.ended, f"line {self._line + 1}: the last line is missing, the file is cut off")

    def _take(self, line: bytes, fields: dict[str, Any]) -> Kind:
        _expect(not self.ended, "nothing may follow the end")
        if self._line == 1:
            self._header(fields)
            return "header"
        if "end" in fields:
            self._end(fields["end"])
            return "end"
        if "object" in fields:
            self._piece(fields)
            return "object"
        _expect(not self._object and not self.objects, "events come before objects")
        self._event(line, fields)
        return "event"

    def _header(self, fields: dict[str, Any]) -> None:
        _expect(fields.get("format") == FORMAT, f'not an archive of a session: "format" must be {FORMAT!r}')
        version = str(fields.get("version"))[:20]
        _expect(version == str(VERSION), f"version {version} of the format; this release reads version {VERSION}")
        self.session = check_name("session", fields.get("session"))

    def _event(self, line: bytes, fields: dict[str, Any]) -> None:
        item = read_event(line, fields, 0, self.session)
        _expect(item.sequence > self._sequence, f"sequence {item.sequence} after {self._sequence}: not in log order")
        if len(item.payload) > self._largest:
            raise TooLarge(f"line {self._line}: a payload of {len(item.payload)} bytes, {self._largest} can be stored")
        if item.address.kind == "in":
            validate("in", item.body)  # where agents cannot read an input, they cannot see that it is replayed
        self._sequence = item.sequence
        self.events += 1
        if item.address.kind == "run":
            self._run(item)

    def _run(self, item: Item) -> None:
        first, run = item.first, item.address
        if item.rollup and first is not None and first < item.sequence and run not in self._runs:
            body = {"type": "run.started", "attempt": item.body.get("attempt"), "input": item.body.get("input")}
            self.openings.append((first, run, encode(body)))
        self._runs.add(run)

    def _piece(self, fields: dict[str, Any]) -> None:
        name, last, data = fields["object"], fields.get("last"), fields.get("data")
        _expect(type(name) is str and 0 < len(name) <= _OBJECT_NAME, "no name of an object")
        _expect(type(last) is bool and type(data) is str, "not a piece of an object")
        _expect(self._object in ("", name), f"object {self._object!r} has no last piece")
        try:
            base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidEvent(f"object {name!r}: {error}") from error
        self._object = "" if last else name
        self.objects += bool(last)

    def _end(self, end: Any) -> None:
        _expect(type(end) is dict and not self._object, "not a last line")
        _expect(self.events > 0, "the archive has no event")
        _expect(end.get("events") == self.events, f"{end.get('events')!r} events were written, here are {self.events}")
        _expect(end.get("objects") == self.objects, f"{end.get('objects')!r} objects were written, {self.objects} here")
        _expect(end.get("sha256") == self._digest.hexdigest(), "the SHA-256 differs: the file was changed or damaged")
        self.ended = True
