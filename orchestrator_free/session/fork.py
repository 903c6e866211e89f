"""Forks: a session up to a position becomes the history of a new one, which goes on by itself.

It is an export that ends earlier, read back under another id (see `archive`). What is history is copied:
inputs (never worked on again), runs, branches, state, asks that are settled, files. What is about now is not: leases,
the floor, presence, controls, asks that are open.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import orjson

from orchestrator_free.errors import InvalidInput, PositionLost
from orchestrator_free.events import Body, Event, encode
from orchestrator_free.fold import FINAL, Fold
from orchestrator_free.fold.run import ENDING_BYTES, ending
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.reading.entries import Entry
from orchestrator_free.session.archive import ImportResult, Stored, import_session, read_log, write_lines
from orchestrator_free.session.archive_lines import HEADROOM, Writer
from orchestrator_free.subjects import Address, Position, address, check_name
from orchestrator_free.vocabulary import validate

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker
    from orchestrator_free.reading.reader import Reader
    from orchestrator_free.session import Session

_OPEN: Final = "the session was forked while this was being written"
_GONE: Final = "the session was forked at a moment of this run of which the log keeps only the end"


async def fork_session(
    broker: Broker,
    session: Session,
    new_id: str | None = None,
    *,
    at: Position | str | None = None,
    title: str | None = None,
) -> ImportResult:
    """Begin a new session with the history of another one; that one is only read.

    Args:
        broker: who begins it; it publishes in the name of all members, as an import does.
        session: which one.
        new_id: of the new session; made up if absent.
        at: up to where, this event included; everything if absent. Of a run that was open there remains what it had
            written, ended as `cancelled`; nothing, if the log has only the end of it any more.
        title: of the new session; by default the old one's at that position.

    Raises:
        SessionNotFound: the log holds nothing of it.
        SessionExists: the new id is taken.
        PositionLost: the position is of another log, beyond the session's end, or before its first event.
        BrokerError: it could not be written, nothing of it is left.
    """
    chosen = check_name("session", secrets.token_hex(12) if new_id is None else new_id)
    if chosen == session.id:
        raise InvalidInput(f"a fork of {session.id!r} needs another id")
    position = Position.parse(at) if isinstance(at, str) else at
    return await import_session(broker, _lines(broker, session, position, title), chosen)


async def _lines(broker: Broker, session: Session, at: Position | None, title: str | None) -> AsyncIterator[bytes]:
    """Yield an archive of the session as it was at a position."""
    entries, reader = await read_log(session)
    cut = _check(session, entries, reader, at)
    past = [entry for entry in entries if entry.event.sequence <= cut.sequence]
    history = _History(session, past, broker.log.wire.max_payload - 2 * HEADROOM)
    created: Body = {"type": "session.created"} | {
        name: history.fold.meta[name] for name in ("title", "agents", "compaction")
    }
    created |= {"forked_from": {"session": session.id, "position": str(cut)}}
    created |= {"title": title} if title is not None else {}
    where = address(session.shard, session.id, broker.member, "meta")
    events = [Stored(Event(0, past[0].event.time, where, created), encode(created), False)]
    validate("meta", created)
    events += history.events()
    places = {stored.event.sequence for stored in events}
    for entry in entries:
        if _spans(entry, cut.sequence, history.begun) and entry.event.body["first"] not in places:
            events.append(_cut_off(entry))
            places.add(events[-1].event.sequence)
    events.sort(key=lambda stored: stored.event.sequence)
    lines = Writer(session.id, str(cut))
    yield lines.header()
    async for line in write_lines(session, lines, events, history.made):
        yield line


def _check(session: Session, entries: list[Entry], reader: Reader, at: Position | None) -> Position:
    """Return the position to fork at.

    Raises:
        PositionLost: there is no such position in the session.
    """
    if at is None:
        return reader.position
    if at.epoch != reader.position.epoch:
        raise PositionLost("recreated", f"{at} is of another log than {session.id!r} has now")
    if at.sequence > reader.sequence:
        raise PositionLost("ahead", f"{at} is beyond {reader.position}, the end of session {session.id!r}")
    if at.sequence < entries[0].event.sequence:
        raise PositionLost("too_old", f"{at} is before the first event that the log has of session {session.id!r}")
    return at


class _History:
    """What a session was at a position, as events that are history.

    Attributes:
        fold: the session as it was.
        begun: the runs that had begun.
        made: the objects of runs that are too large for one event.
    """

    def __init__(self, session: Session, past: list[Entry], largest: int) -> None:
        self._past = past
        self._largest = largest
        self.fold = Fold(session.id)
        self.made: dict[str, bytes] = {}
        self._last: dict[Address, int] = {}
        for entry in past:
            self.fold.apply(entry.event)
            self._last[entry.event.address] = entry.event.sequence
        self.begun = {where for where in self._last if where.kind == "run"}

    def events(self) -> list[Stored]:
        """Return what is copied, in log order."""
        found = (self._event(entry) for entry in self._past)
        return [stored for stored in found if stored is not None]

    def _event(self, entry: Entry) -> Stored | None:
        event = entry.event
        match event.kind:
            case "in" | "state":
                copied = True
            case "meta":
                copied = event.type == "branch.selected"
            case "ask" | "answer" | "stage":
                ask = self.fold.asks.found.get(event.address.target if event.kind == "stage" else event.id)
                copied = ask is not None and ask["status"] != "open" and not event.type.startswith("lease.")
            case "run":
                return self._run(entry) if self._last[event.address] == event.sequence else None
            case _:
                copied = False
        return Stored(event, entry.message.payload, entry.message.rollup) if copied else None

    def _run(self, entry: Entry) -> Stored | None:
        """Return the end of a run, at its last event."""
        event = entry.event
        if event.type == "run.finished" and entry.message.rollup:
            return Stored(event, entry.message.payload, True)
        run = self.fold.run(event.member, event.id)
        if run is None:
            return None
        cancelled, run.cancelled = run.cancelled, 0  # what it hides was not folded
        if run.status in FINAL:
            body = ending(run, run.status, run.error, event.time)
        else:
            body = ending(run, "cancelled", "cancelled" if cancelled else _OPEN, event.time)
        if run.into is not None:
            body["into"] = run.into
        if run.object is not None:
            body = {name: value for name, value in body.items() if name not in ("parts", "attempts")}
            body["object"] = run.object
        payload = encode(body)
        if len(payload) > min(ENDING_BYTES, self._largest):
            body = self._outsourced(body)
            payload = encode(body)
        return Stored(event._replace(body=body), payload, True)

    def _outsourced(self, body: Body) -> Body:
        data = orjson.dumps({"parts": body["parts"], "attempts": body["attempts"]})
        name = object_name(data, "run")
        self.made[name] = data
        return {key: value for key, value in body.items() if key not in ("parts", "attempts")} | {"object": name}


def _spans(entry: Entry, cut: int, begun: set[Address]) -> bool:
    """Whether an event is the end of a run that had begun at the cut, and all that the log has of it."""
    event = entry.event
    if event.sequence <= cut or not entry.message.rollup or event.type != "run.finished":
        return False
    first = event.body.get("first")
    return type(first) is int and 0 < first <= cut and event.address not in begun


def _cut_off(entry: Entry) -> Stored:
    """Return what is known at the cut of a run that ended after it: that it had begun."""
    event = entry.event
    said = {name: event.body[name] for name in ("attempt", "input", "parent", "started") if name in event.body}
    body: Body = {"type": "run.finished", "status": "cancelled", "error": _GONE, "parts": [], "attempts": []} | said
    return Stored(event._replace(sequence=event.body["first"], body=body), encode(body), True)
