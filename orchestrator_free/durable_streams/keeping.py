"""How streams come to be and end in the log: each step is one write, all of it or nothing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Final

import orjson

from orchestrator_free import contract
from orchestrator_free.durable_streams.forks import expiry_of, inherited
from orchestrator_free.durable_streams.head import payload_of
from orchestrator_free.durable_streams.json_mode import is_json, prefix
from orchestrator_free.durable_streams.life import due, milliseconds
from orchestrator_free.durable_streams.offsets import offset_of
from orchestrator_free.durable_streams.records import FIELD, Mark, Record, Segment
from orchestrator_free.durable_streams.refusals import conflict, malformed
from orchestrator_free.durable_streams.requests import DEFAULT_TYPE, Creation, bare_type
from orchestrator_free.durable_streams.stream import Stream
from orchestrator_free.durable_streams.writer import pieces, room
from orchestrator_free.errors import Conflict, TooLarge
from orchestrator_free.jetstream import Log
from orchestrator_free.jetstream.batch import BATCH_MESSAGES, Write
from orchestrator_free.jetstream.store import Store

#: a path can be used again at once; the record of the one before is kept for those who just look
_DELETED_TTL: Final = "60s"
#: what tells other gateways that a stream is gone outlasts whatever they have in mind of it
_GONE_TTL: Final = "1h"
_PAGE_BYTES: Final = 256 * 1024


class Keeper:
    """Records, expiry and removal of streams."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store = store
        self._log = log
        self._ensured = False

    # -- looking up -------------------------------------------------------------------------------------------------

    async def find(self, path: str) -> tuple[Record | None, int]:
        """Return the record of a path and its sequence, from the leader; None and 0 if there is none."""
        last = await self._store.last(contract.record_subject(path))
        return (None, 0) if last is None else (Record.decode(last.payload), last.sequence)

    async def due(self, record: Record) -> int:
        """Return when a stream expires, in milliseconds since 1970, from the leader; 0 for never."""
        if record.ttl is None and record.expires is None:
            return 0
        last = await self._store.last(contract.expiry_subject(record.id))
        return 0 if last is None else int(orjson.loads(last.payload)["due"])

    async def write_due(self, record: Record, moment: int) -> None:
        """Write down when a stream expires."""
        await self._store.write([_expiry(record, moment)])

    async def expiring(self) -> AsyncIterator[tuple[str, str, int]]:
        """Yield path, id and moment of every stream that expires, and of those that were not taken away to the end."""
        last = await self._store.last(contract.expiry_filter())
        after, end = 0, last.sequence if last else 0
        while after < end:
            page, _ = await self._store.page(contract.expiry_filter(), after=after, reach=end, size=_PAGE_BYTES)
            for message in page:
                found = orjson.loads(message.payload)
                yield found["path"], message.subject.rpartition(".")[2], int(found["due"])
            after = page[-1].sequence if page else end

    # -- creating ---------------------------------------------------------------------------------------------------

    async def create(self, path: str, wanted: Creation, body: bytes, source: Stream | None, sequence: int) -> bool:
        """Store a new stream with its first bytes; False if somebody else was first.

        Args:
            path: of the stream.
            wanted: what the client asks for.
            body: the first bytes.
            source: the stream to fork, at its present tail.
            sequence: of the record of one that was deleted, 0 if there is none.

        Raises:
            Refusal: as the protocol has it.
            TooLarge: the first bytes are too many for one write.
        """
        await self._ensure()
        record, payloads = await self._plan(path, wanted, source)
        payload = payload_of(body, record.content_type, creating=True)
        payloads += [payload] if payload else []
        writes = [_record(record, sequence)]
        if source is not None:
            parent, at = await self.find(source.record.path)
            if parent is None or parent.id != source.record.id or parent.status != "live":
                return False
            writes.append(_record(parent.become(forks=parent.forks + 1), at))
        moment = due(record, milliseconds(await self._log.clock()))
        writes += [_expiry(record, moment)] if moment else []
        writes += self._data(record, payloads, closed=wanted.closed)
        if len(writes) > BATCH_MESSAGES:
            raise TooLarge(f"{len(body)} bytes are too many for one write; create the stream, then append in pieces")
        try:
            await self._store.write(writes)
        except Conflict:
            return False
        return True

    async def _plan(self, path: str, wanted: Creation, source: Stream | None) -> tuple[Record, list[bytes]]:
        """Return the record, and what a fork inherits as a copy."""
        id = secrets.token_hex(12)
        if source is None:
            kind = wanted.content_type or DEFAULT_TYPE
            return Record(path=path, id=id, content_type=kind, ttl=wanted.ttl, expires=wanted.expires), []
        parent = source.record
        if wanted.content_type and bare_type(wanted.content_type) != bare_type(parent.content_type):
            raise conflict("Content-Type mismatch", f"the source holds {parent.content_type!r}")
        at, segments = inherited(parent, source.head.tail, wanted.at)
        await self._check_place(segments, at)
        ttl, expires = expiry_of(parent, wanted.ttl, wanted.expires)
        record = Record(
            path=path, id=id, content_type=wanted.content_type or parent.content_type, ttl=ttl, expires=expires,
            source=parent.path, source_id=parent.id, at=at, sub=wanted.sub, segments=segments,
        )  # fmt: skip
        return record, [await self._partial(source, at, wanted.sub)] if wanted.sub else []

    async def _check_place(self, segments: tuple[Segment, ...], at: int) -> None:
        """Check that an append ends at a place: a fork in the middle of one would not be what was there."""
        if not segments:
            return
        found = await self._store.get(at)
        mark = Mark.find(found.header) if found is not None else None
        prefix = contract.data_filter(segments[-1].id).removesuffix(">")
        if found is None or not found.subject.startswith(prefix) or mark is None or mark.more:
            raise malformed(f"Stream-Fork-Offset {offset_of(at)} is no place in the source; use a Stream-Next-Offset")

    async def _partial(self, source: Stream, at: int, sub: int) -> bytes:
        """Return the first bytes or values behind a place of the source."""
        chunk = await source.read(at, 1)
        payload = chunk.payloads[0] if chunk.payloads else b""
        if is_json(source.record.content_type):
            part = prefix(payload, sub)
        else:
            part = payload[:sub] if sub <= len(payload) else None
        if part is None:
            raise malformed(f"Stream-Fork-Sub-Offset {sub} is beyond what was appended at {offset_of(at)}")
        return part

    def _data(self, record: Record, payloads: list[bytes], *, closed: bool) -> list[Write]:
        """Return the first messages of a stream."""
        parts: list[tuple[bytes, bool]] = []
        for payload in payloads:
            cut = pieces(payload, room(self._store.wire.max_payload))
            parts += [(part, number < len(cut)) for number, part in enumerate(cut, 1)]
        writes = []
        for number, (part, more) in enumerate(parts):
            final = closed and number == len(parts) - 1
            writes.append(_data(record, part, Mark(after=None if number else 0, more=more, closed=final)))
        if closed and not parts:
            writes.append(_data(record, b"", Mark(after=0, bare=True, tail=record.base, closed=True)))
        return writes

    async def _ensure(self) -> None:
        if not self._ensured:
            replicas = (await self._log.info(0))["config"]["num_replicas"]
            await self._store.ensure(contract.durable_stream(replicas), contract.durable_differences)
            self._ensured = True

    # -- taking away ------------------------------------------------------------------------------------------------

    async def remove(self, record: Record, sequence: int) -> bool:
        """Delete a stream, or keep it for its forks; False if it was changed meanwhile.

        With the last fork of a stream that was kept for it, that one goes, too.

        Args:
            record: as it stands.
            sequence: of the record.
        """
        deleted, writes = await self._ending(record, sequence)
        marks = {id: len(writes) + number + 1 for number, id in enumerate(deleted)}
        gone = Mark(after=None, bare=True, gone=True)
        ends = deleted or [record.id]
        writes += [
            Write(subject=contract.data_subject(id, None), fields={FIELD: gone.encode()}, ttl=_GONE_TTL) for id in ends
        ]
        try:
            last = await self._store.write(writes)
        except Conflict:
            return False
        for id, number in marks.items():
            await self.reclaim(id, before=last - len(writes) + number)
        return True

    async def _ending(self, record: Record, sequence: int) -> tuple[list[str], list[Write]]:
        """Return the ids of the streams that go with one, and the writes that say so."""
        if record.forks:
            return [], [_record(record.become(status="kept"), sequence)]
        deleted: list[str] = []
        writes: list[Write] = []
        while True:
            writes.append(_record(record.become(status="deleted", segments=()), sequence, ttl=_DELETED_TTL))
            deleted.append(record.id)
            parent, at = await self.find(record.source) if record.source else (None, 0)
            if parent is None or parent.id != record.source_id:
                break
            record, sequence = parent.become(forks=parent.forks - 1), at
            if record.forks or record.status == "live":
                writes.append(_record(record, sequence))
                break
        # Whoever crashes before all is purged leaves this behind, and the next sweep finds it.
        writes += [_expiry(record.become(id=id), 1) for id in deleted]
        return deleted, writes

    async def reclaim(self, id: str, *, before: int = 0) -> None:
        """Drop what a deleted stream held; what says that it is gone stays a while."""
        await self._store.purge(contract.data_filter(id), before=before)
        await self._store.purge(contract.expiry_subject(id))


def _record(record: Record, sequence: int, ttl: str = "") -> Write:
    return Write(
        subject=contract.record_subject(record.path), payload=record.encode(), expect=sequence, rollup=True, ttl=ttl
    )


def _expiry(record: Record, moment: int) -> Write:
    payload = orjson.dumps({"path": record.path, "due": moment})
    return Write(subject=contract.expiry_subject(record.id), payload=payload, rollup=True)


def _data(record: Record, payload: bytes, mark: Mark) -> Write:
    return Write(subject=contract.data_subject(record.id, None), payload=payload, fields={FIELD: mark.encode()})
