"""Sessions out of a log and into a log: `export_session` writes an archive, `import_session` reads one back.

The lines are those of `archive_lines`. An import checks the whole file before it writes, and removes what it has
written when it fails; only the process's own death can leave a part of a session behind.
"""

from __future__ import annotations

import base64
import tempfile
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from orchestrator_free.errors import BrokerError, Conflict, InvalidInput, SessionExists, SessionNotFound, TooLarge
from orchestrator_free.events import Event, encode
from orchestrator_free.jetstream.bulk import BulkPublisher
from orchestrator_free.jetstream.tombstones import is_buried
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.session.archive_lines import Checker, Item, Writer, longest, objects_of, read, read_event
from orchestrator_free.subjects import Address, Position, address

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker
    from orchestrator_free.session import Session

#: an archive up to this size is checked in memory, a larger one in a temporary file
_IN_MEMORY: Final = 16 * 1024 * 1024
_Spool = tempfile.SpooledTemporaryFile[bytes]


# -- export -----------------------------------------------------------------------------------------------------


async def export_session(session: Session) -> AsyncIterator[bytes]:
    """Yield the lines of a session's archive: the log as it is now, compacted; what comes meanwhile is not in it.

    Raises:
        SessionNotFound: the log holds nothing of it, or it was deleted meanwhile; the file has no last line then.
    """
    entries, reader = await read_log(session)
    lines = Writer(session.id, str(reader.position))
    lines.skipped = reader.skipped
    yield lines.header()
    stored = [Stored(entry.event, entry.message.payload, entry.message.rollup) for entry in entries]
    async for line in write_lines(session, lines, stored):
        yield line


class Stored(NamedTuple):
    """An event as an archive has it."""

    event: Event
    payload: bytes
    rollup: bool


async def write_lines(
    session: Session, lines: Writer, events: Iterable[Stored], made: Mapping[str, bytes] | None = None
) -> AsyncIterator[bytes]:
    """Yield the lines of events, the objects that they name, and the end; `made` are objects that nobody has stored."""
    names: dict[str, bool] = {}
    for stored in events:
        names |= objects_of(stored.event.body)
        yield lines.event(stored.event, stored.payload, rollup=stored.rollup)
    waiting = deque(names)
    while waiting:
        name = waiting.popleft()
        data = (made or {}).get(name) or await session.object(name)
        if data is None:
            lines.missing.append(name)
            continue
        inside = objects_of(orjson.loads(data)) if names[name] else {}
        waiting.extend(inner for inner in inside if inner not in names)
        names = inside | names
        for line in lines.object(name, data):
            yield line
    if not await session.exists():
        raise SessionNotFound(session.id)
    yield lines.end()


async def read_log(session: Session) -> tuple[list[Entry], Reader]:
    """Return what the log holds, and who read it.

    Raises:
        SessionNotFound: nothing, or it was deleted.
    """
    entries: list[Entry] = []
    reader = Reader(session.log, session.id, entries.extend, lambda lost: None)
    await reader.open(compact=False)
    reader.close()
    if not entries or any(entry.event.type == "session.deleted" for entry in entries if entry.event.kind == "meta"):
        raise SessionNotFound(session.id)
    # A run that ended while it was read is here twice: its deltas, and what has replaced them.
    replaced = {entry.message.subject: entry.event.sequence for entry in entries if entry.message.rollup}
    return [entry for entry in entries if entry.event.sequence >= replaced.get(entry.message.subject, 0)], reader


# -- import -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import has written.

    Attributes:
        session: its id.
        events: how many events. objects: how many files and large runs.
        position: where the session's log ended.
    """

    session: str
    events: int
    objects: int
    position: Position


async def import_session(
    broker: Broker,
    lines: AsyncIterable[bytes] | Iterable[bytes],
    session_id: str | None = None,
    *,
    deadline: float = PUBLISH_DEADLINE_SECONDS,
) -> ImportResult:
    """Write an archive into the log as a new session.

    Its view equals the original's, with these exceptions:

    - Events get new sequences, so positions and state revisions are others; `first` of finished runs follows.
    - `time` is that of the import: the broker stamps it. The archive keeps the original one; what payloads say about
      times, such as `started` of a finished run, stays.
    - Inputs get `"replayed": true`, so that no agent works on them again. Runs that were open stay open.
    - Members keep their names: this connection needs permission to publish `session.<shard>.<session>.>`.

    Args:
        broker: a connection.
        lines: the archive, a file for instance; it may be cut into pieces anywhere.
        session_id: another id than the one it was exported from.
        deadline: seconds in which each event must be stored, retries and reconnects included, 100 at most.

    Raises:
        SessionExists: the log holds something of it.
        InvalidEvent, TooLarge: the file is cut off, changed, of another version, or holds no events; with the line.
        BrokerError: it could not be written, nothing of it is left. If that failed too, a note says so.
    """
    largest = broker.log.wire.max_payload
    checker = Checker(largest)
    with _Spool(_IN_MEMORY) as events, _Spool(_IN_MEMORY) as pieces:
        async for line in _split(lines, longest(largest)):
            match checker.take(line):
                case "header":
                    session = broker.session(session_id or checker.session)
                    if await session.exists():
                        raise SessionExists(session.id)
                    await _refuse_erased(broker, "session", session.id)
                case "event":
                    events.write(line)
                case "object":
                    pieces.write(line)
        checker.close()
        events.seek(0)
        pieces.seek(0)
        return await _Import(broker, session, checker, pieces, deadline).run(events)


async def _chunks(source: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
    else:
        for chunk in source:
            yield chunk


async def _split(source: AsyncIterable[bytes] | Iterable[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield the lines of a byte stream, with their line breaks."""
    rest, number = b"", 1
    async for chunk in _chunks(source):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        number += len(whole)
        if len(rest) > limit:
            raise TooLarge(f"line {number} has more than the {limit} bytes that this broker's messages allow")
    if rest:
        yield rest


async def _refuse_erased(broker: Broker, kind: str, name: str) -> None:
    if await is_buried(broker.log.wire, kind, name):
        raise InvalidInput(f"{kind} {name!r} was erased here, on request; what the file has of it is not brought back")


class _Import:
    """Writes one checked archive."""

    def __init__(self, broker: Broker, session: Session, checker: Checker, pieces: _Spool, deadline: float) -> None:
        self._broker = broker
        self._wire = broker.log.wire
        self._session = session
        self._checker = checker
        self._pieces = pieces
        self._deadline = deadline
        self._bulk = BulkPublisher(self._wire, deadline=deadline)
        self._claim = 0
        self._members: set[str] = set()
        self._started: dict[Address, int] = {}
        self._objects: list[str] = []

    async def run(self, events: _Spool) -> ImportResult:
        """Write; on failure remove what was written."""
        try:
            async with self._bulk:
                await self._write_all(events)
            if not self._bulk.in_order:
                raise BrokerError("events were stored out of order, as when the broker's leader changes: import again")
        except BaseException as error:
            await self._remove(error)
            raise
        position = self._session.position([self._claim, *self._bulk.sequences][-1])
        return ImportResult(self._session.id, self._checker.events, self._checker.objects, position)

    async def _write_all(self, events: _Spool) -> None:
        """Publish every event, and where a finished run's first event was an opening, which the run's end replaces.

        The opening's sequence remains as `first` of the run. So the order of runs stays, even of those that one input
        has started at the same time.
        """
        openings = deque(sorted(self._checker.openings, key=lambda opening: opening[0]))
        for line in events:
            item = read_event(line, read(line), self._session.shard, self._session.id)
            while openings and openings[0][0] < item.sequence:
                _, run, payload = openings.popleft()
                await self._write(replace(run, shard=self._session.shard, session=self._session.id), payload)
            await self._write(item.address, await self._payload(item), rollup=item.rollup)

    async def _payload(self, item: Item) -> bytes:
        """Return the payload to write: inputs are marked, ends of runs get the new sequence of their first event."""
        if item.address.kind == "in":
            return encode(item.body | {"replayed": True})
        if item.first is None:
            return item.payload
        started = self._started.get(item.address)
        return encode(item.body | {"first": None if started is None else await self._sequence(started)})

    async def _write(self, where: Address, payload: bytes, *, rollup: bool = False) -> None:
        if not self._claim:
            number = -1
            self._claim = await self._claim_session(str(where), payload, rollup=rollup)
            await self._put_objects()
        else:
            number = await self._bulk.publish(str(where), payload, rollup=rollup)
        if where.kind == "run":
            self._started.setdefault(where, number)
        if where.member not in self._members:
            await _refuse_erased(self._broker, "member", where.member)
            self._members.add(where.member)
            await self._bulk.drain()  # a member that this connection must not write for is found out at its first event

    async def _sequence(self, number: int) -> int:
        return self._claim if number < 0 else await self._bulk.stored(number)

    async def _claim_session(self, subject: str, payload: bytes, *, rollup: bool) -> int:
        """Publish the first event, provided that the session has none."""
        try:
            return await self._wire.publish(
                subject, payload, expect=0, expect_filter=self._session.filter, rollup=rollup, deadline=self._deadline
            )
        except Conflict as conflict:
            raise SessionExists(self._session.id) from conflict

    async def _put_objects(self) -> None:
        """Store the objects, before any event that refers to one but after the session is ours."""
        data = bytearray()
        for line in self._pieces:
            fields = read(line)
            data += base64.b64decode(fields["data"])
            if fields["last"]:
                self._objects.append(fields["object"])
                await self._broker.objects.put(self._session.id, fields["object"], bytes(data))
                data.clear()

    async def _remove(self, error: BaseException) -> None:
        """Remove what was written; those who have opened the session meanwhile are told first."""
        if not self._claim:
            return
        meta = address(self._session.shard, self._session.id, self._broker.member, "meta")
        try:
            with suppress(BrokerError):
                await self._wire.publish(str(meta), encode({"type": "session.deleted"}), deadline=10.0)
            for name in self._objects:
                await self._broker.objects.delete(self._session.id, name)
            await self._broker.log.purge(self._session.shard, self._session.filter)
        except BrokerError as failure:
            error.add_note(f"part of session {self._session.id!r} was left in the log ({failure}): delete it")
