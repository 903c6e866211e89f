"""Shared state: a JSON value per key, changed by anybody, in the same order as everything else in the session.

The last event of a key counts, whoever wrote it. A revision is the sequence of the event that set a value. A write
that expects one is refused by the broker if somebody else was first: no change is lost, and no process has to decide.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator_free.errors import (
    BrokerTimeout,
    Conflict,
    InvalidInput,
    InvalidPatch,
    PatchFailed,
    PositionLost,
    SessionNotFound,
    TooLarge,
)
from orchestrator_free.events import Body, Event, decode, encode, nests
from orchestrator_free.jetstream import Message
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session.patches import check_patch, merged, patched
from orchestrator_free.subjects import ROOT, check_name, parse

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: bytes of a value as JSON: all values of a session stand in every snapshot of it
STATE_BYTES: Final = 256 * 1024
#: below the broker's limit for a message, for its headers
_HEADROOM: Final = 8 * 1024
#: how long `update` tries while others are faster
PATIENCE_SECONDS: Final = 30.0
#: between two tries, at random up to this; doubled up to the second
_PAUSES: Final = (0.004, 0.25)
#: writes over what is no value and came after the one expected
_ROUNDS: Final = 10
_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Value:
    """A version of a key.

    Attributes:
        value: any JSON.
        revision: the sequence of its event; expect it to replace just this version.
        by: the member who wrote it.
        time: when the broker stored it; None in what a write returns, whose answer does not tell.
        deleted: this version says that the key is gone; only in a history and while watching.
    """

    key: str
    value: Any
    revision: int
    by: str
    time: str | None = None
    deleted: bool = False


class State:
    """The state of one session, as its member may read and change it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- reading ------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Value | None:
        """Return the present value from the leader, so never a stale one; None if there is none."""
        return (await self._read(key))[1]

    async def all(self) -> dict[str, Value]:
        """Return the present value of every key."""
        log, shard = self._session.log, self._session.shard
        everything = f"{ROOT}.{shard}.{self._session.id}.*.state.*"
        last, messages = await asyncio.gather(log.last(shard, everything), log.table(shard, everything))
        newest = messages[-1].sequence if messages else 0
        if last is not None and last.sequence > newest:  # a replica lagged
            messages += await log.read(shard, everything, after=newest, reach=last.sequence)
        found: dict[str, Value | None] = {}
        doubtful = set()
        for message in messages:
            value, where = _version(message), parse(message.subject)
            if value is not None:
                found[value.key] = value
            elif where is not None:
                doubtful.add(where.id)
        found |= {key: await self.get(key) for key in doubtful}
        return {key: value for key, value in sorted(found.items()) if value is not None and not value.deleted}

    async def history(self, key: str, *, after: int = 0, limit: int | None = None) -> list[Value]:
        """Return every version of a key in order, deletions included.

        Args:
            key: which.
            after: only versions after this revision.
            limit: at most so many.
        """
        found: list[Value] = []
        async for value in self._versions(key, after):
            found.append(value)
            if len(found) == limit:
                break
        return found

    async def watch(self, key: str | None = None) -> AsyncIterator[Value]:
        """Yield the present value, or those of every key, and then each change as it comes.

        After a gap that cannot be filled (the session was deleted and begun anew) it goes on from what is there.
        """
        if key is not None:
            check_name("key", key)
        known: dict[str, int] = {}
        while True:
            try:
                async for value in self._changes(key, known):
                    known.pop(value.key, None)
                    if not value.deleted:
                        known[value.key] = value.revision
                    yield value
            except PositionLost:
                continue

    async def _changes(self, key: str | None, known: dict[str, int]) -> AsyncIterator[Value]:
        """Yield what differs from what is known, by key the revision, and then what comes."""
        position, state = None, {}
        try:
            view = await self._session.view(whole=False)
        except SessionNotFound:
            pass  # its first event comes, too
        else:
            position, state = view["position"], view["state"]
        for gone in known.keys() - state.keys():
            yield Value(gone, None, 0, "", deleted=True)
        for name, entry in state.items():
            if key in (None, name) and known.get(name) != entry["revision"]:
                yield Value(name, entry["value"], entry["revision"], entry["by"], entry["time"])
        async for event in self._session.follow(position, kinds=["state", "meta"]):
            if event.type == "session.deleted":
                for gone in list(known):
                    yield Value(gone, None, event.sequence, event.member, event.time, deleted=True)
            value = _value(event)
            if value is not None and key in (None, value.key):
                yield value

    async def _read(self, key: str) -> tuple[int, Value | None]:
        """Return the last sequence of a key over all members, 0 for none, and the value that counts."""
        last = await self._session.log.last(self._session.shard, self._everyone(key))
        if last is None:
            return 0, None
        value = _version(last)
        if value is None:  # nothing that anybody understands: what stood before it counts
            async for older in self._versions(key):
                value = older
        return last.sequence, None if value is None or value.deleted else value

    async def _versions(self, key: str, after: int = 0) -> AsyncIterator[Value]:
        log, shard, everyone = self._session.log, self._session.shard, self._everyone(key)
        last = await log.last(shard, everyone)
        reach = last.sequence if last is not None else 0
        while after < reach:
            messages, _ = await log.page(shard, everyone, after=after, limit=_PAGE)
            if not messages:  # a replica lags, or they are gone
                messages = await log.read(shard, everyone, after=after, reach=reach)
            if not messages:
                return
            for message in messages:
                value = _version(message)
                if value is not None:
                    yield value
            after = messages[-1].sequence

    def _everyone(self, key: str) -> str:
        return f"{ROOT}.{self._session.shard}.{self._session.id}.*.state.{check_name('key', key)}"

    # -- writing ------------------------------------------------------------------------------------------------

    async def set(self, key: str, value: Any, *, expect: int | None = None) -> Value:
        """Write a value.

        Args:
            key: 1 to 64 of `A-Z a-z 0-9 _ -`.
            value: any JSON.
            expect: only over this revision; 0: only if there is none; None: whatever stands there, the last write wins.

        Raises:
            Conflict: somebody else was first, says who; nothing was written.
            TooLarge: beyond `STATE_BYTES`, or the broker's limit.
            InvalidInput: no name, or not JSON.
        """
        body = self._body(key, value)
        return Value(key, body["value"], await self._write(key, body, expect), self._session.member)

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Remove a key; False if there was none. The next value may expect 0 again.

        Raises:
            Conflict: `expect` is given and it is not the present revision.
        """
        if not expect:
            present = await self.get(key)
            if present is None:
                return False
            if expect == 0:
                raise _conflict(key, present, expect)
        await self._write(key, {"type": "state.deleted"}, expect)
        return True

    async def update(
        self,
        key: str,
        change: Callable[[Any], Any],
        *,
        default: Any = None,
        expect: int | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Value:
        """Replace a value by what a function makes of it; while others are faster, it is called again.

        Args:
            key: which.
            change: gets the present value, a copy of its own, and returns the next; pure, it may be called often.
            default: what it gets if there is no value.
            expect: only this revision (0: none yet), tried once.
            patience_seconds: how long to try.

        Raises:
            Conflict: others were faster all the time, or the value is not of the revision expected.
        """
        return await self._change(
            key, lambda value: change(deepcopy(default) if value is None else value.value), expect, patience_seconds
        )

    async def merge(
        self, key: str, patch: Any, *, expect: int | None = None, patience_seconds: float = PATIENCE_SECONDS
    ) -> Value:
        """Apply a JSON Merge Patch (RFC 7396): objects are merged, null removes a member.

        Without a value it begins one. For the arguments and errors see `update`.

        Raises:
            InvalidPatch: not JSON, or nested too deep.
        """
        if not nests(patch, 1):
            raise InvalidPatch("a merge patch is JSON, nested no deeper than an event may be")
        return await self.update(
            key, lambda value: merged(value, patch), expect=expect, patience_seconds=patience_seconds
        )

    async def patch(
        self, key: str, operations: Any, *, expect: int | None = None, patience_seconds: float = PATIENCE_SECONDS
    ) -> Value:
        """Apply a JSON Patch (RFC 6902): all of its operations, or none.

        Raises:
            InvalidPatch: not a JSON Patch.
            PatchFailed: an operation does not apply, a `test` does not hold, or there is no value.
            Conflict: as for `update`.
        """
        check_patch(operations)

        def change(value: Value | None) -> Any:
            if value is None:
                raise PatchFailed(f"state {key!r} has no value that could be patched; set it first")
            return patched(value.value, operations, limit=self._limit)

        return await self._change(key, change, expect, patience_seconds)

    async def _change(
        self, key: str, change: Callable[[Value | None], Any], expect: int | None, patience_seconds: float
    ) -> Value:
        loop = asyncio.get_running_loop()
        end = loop.time() + patience_seconds
        pause, longest = _PAUSES
        _check_revision(expect)
        while True:
            try:
                last, present = await self._read(key)
            except BrokerTimeout:  # an election, perhaps; nothing has been written
                if loop.time() >= end:
                    raise
                continue
            if expect is not None and expect != (present.revision if present else 0):
                raise _conflict(key, present, expect)
            body = self._body(key, change(present))
            try:
                sequence = await self._session.append("state", body, id=key, expect=last, shared=True)
            except Conflict as conflict:
                if loop.time() >= end:
                    text = (
                        f"others changed state {key!r} faster than this for {patience_seconds:g} s; nothing was written"
                    )
                    raise Conflict(text, actual=conflict.actual) from conflict
            else:
                return Value(key, body["value"], sequence, self._session.member)
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, longest)

    async def _write(self, key: str, body: Body, expect: int | None) -> int:
        """Append an event of a key; return its sequence."""
        _check_revision(expect)
        check_name("key", key)
        if expect is None:
            return await self._session.append("state", body, id=key)
        over, rounds = expect, _ROUNDS
        while True:
            try:
                return await self._session.append("state", body, id=key, expect=over, shared=True)
            except Conflict as conflict:
                rounds -= 1
                over, present = await self._read(key)
                if expect != (present.revision if present else 0) or not rounds:
                    raise _conflict(key, present, expect) from conflict
                # What has come after it is no value: a deletion where none is expected, or nothing that counts.

    @property
    def _limit(self) -> int:
        return min(STATE_BYTES, self._session.log.wire.max_payload - _HEADROOM)

    def _body(self, key: str, value: Any) -> Body:
        """Return the payload that sets a value, sharing nothing with what was passed."""
        check_name("key", key)
        payload = encode({"type": "state.set", "value": value})
        size = len(payload) - len(b'{"type":"state.set","value":}')
        if size > self._limit:
            what = f"the value of {key!r} has {size} bytes as JSON, the limit is {self._limit}"
            raise TooLarge(f"{what}; keep large things in a file, and its name here")
        return decode(payload)


def _check_revision(expect: Any) -> None:
    if expect is not None and (type(expect) is not int or expect < 0):
        raise InvalidInput(f"expect={expect!r}: a revision, 0 for no value, or None for any")


def _conflict(key: str, present: Value | None, expect: int) -> Conflict:
    """Return the error that says who was first."""
    found = "it has none" if present is None else f"{present.by} set revision {present.revision} at {present.time}"
    wanted = f"revision {expect}" if expect else "no value"
    text = f"state {key!r} was expected to have {wanted}, but {found}; read it and decide anew, nothing was written"
    return Conflict(text, actual=present.revision if present else 0)


def _version(message: Message) -> Value | None:
    event = to_event(message)
    return None if event is None else _value(event)


def _value(event: Event) -> Value | None:
    """Return the version that an event makes; None if it makes none."""
    match event.kind, event.type:
        case "state", "state.set":
            return Value(event.id, event.body.get("value"), event.sequence, event.member, event.time)
        case "state", "state.deleted":
            return Value(event.id, None, event.sequence, event.member, event.time, deleted=True)
    return None
