"""The audit log: who did what, when, with which outcome; written once, never changed, without contents or secrets.

An entry stands on `audit.<kind>.<member>.<session>`; its time is the broker's. What cannot be written because the
broker is away waits, bounded; what had to be dropped is counted, and said by an entry of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError, InvalidInput
from orchestrator_free.jetstream import Message, Wire
from orchestrator_free.jetstream.direct import DirectGet
from orchestrator_free.operations.backup import stream_info
from orchestrator_free.subjects import AUDIT_ROOT, TOKEN

_log = logs.logger("orchestrator_free.audit")

#: stands for nobody, or for no session, in the subject; no name of either, since a name may be it
NONE: Final = "="
#: entries that may wait to be written
_WAITING: Final = 4096
_AT_ONCE: Final = 64
_PAGE: Final = 512
_TEXT: Final = 200
_PAUSE_SECONDS: Final = 1.0
_FOLLOW_SECONDS: Final = 0.5
_STRICT_SECONDS: Final = 10.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was done, or tried.

    Attributes:
        kind: `request` at a gateway, `feed` that was opened or closed, `operation` on the command line.
        facts: what of it is known: method, route, outcome, address, …; texts are cut, contents do not belong here.
    """

    kind: str
    member: str
    session: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Where it stands."""
        return f"{AUDIT_ROOT}.{self.kind}.{_token(self.member)}.{_token(self.session)}"

    def encode(self) -> bytes:
        """Return its payload; the member and the session stand in the subject."""
        return orjson.dumps({name: _short(value) for name, value in self.facts.items() if value not in (None, "")})


def _token(name: str) -> str:
    return name if TOKEN.fullmatch(name) else NONE


def _short(value: Any) -> Any:
    return value[:_TEXT] if isinstance(value, str) else value


async def make_stream(wire: Wire) -> None:
    """Make the audit log, if there is none, with as many copies as the log has."""
    first = await wire.api(f"STREAM.INFO.{contract.stream_name(0)}")
    settings = contract.StreamSettings(replicas=first["config"].get("num_replicas", 1))
    with contextlib.suppress(BrokerError):  # it is there, perhaps with other limits; a write will tell
        await wire.api(f"STREAM.CREATE.{contract.AUDIT}", contract.audit_stream(settings))


class Recorder:
    """Writes entries in the background: `record` costs a queue, `written` waits for the broker.

    Attributes:
        dropped: entries that were lost because too many waited.
        stored: entries that the broker has.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue: asyncio.Queue[Entry] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._told = 0
        self.dropped = 0
        self.stored = 0

    async def open(self) -> None:
        """Begin."""
        await make_stream(self._wire)
        self._task = asyncio.create_task(self._run(), name="audit")

    async def close(self, *, seconds: float = 3.0) -> None:
        """Write what waits, as far as that can be done in time."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._queue.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if left := self._queue.qsize():
            _log.error("audit entries were not written", count=left)

    def record(self, entry: Entry) -> None:
        """Have an entry written soon."""
        try:
            self._queue.put_nowait(entry)
        except asyncio.QueueFull:
            self.dropped += 1

    async def written(self, entry: Entry) -> None:
        """Write an entry now.

        Raises:
            BrokerError: it is not in the audit log.
        """
        await self._wire.publish(
            entry.subject, entry.encode(), message_id=secrets.token_hex(16), deadline=_STRICT_SECONDS
        )
        self.stored += 1

    async def _run(self) -> None:
        while True:
            entries = [await self._queue.get()]
            while len(entries) < _AT_ONCE and not self._queue.empty():
                entries.append(self._queue.get_nowait())
            await asyncio.gather(*(self._insist(entry) for entry in entries))
            for _ in entries:
                self._queue.task_done()
            if count := self.dropped - self._told:
                self._told = self.dropped
                _log.error("audit entries were dropped: more came than the broker took", count=count)
                await self._insist(Entry("operation", "", "", {"what": "audit.gap", "dropped": count}))

    async def _insist(self, entry: Entry) -> None:
        """Write an entry, however long the broker is away."""
        while True:
            try:
                await self.written(entry)
                return
            except BrokerError as error:
                _log.warning("an audit entry cannot be written yet", error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)


async def note(wire: Wire, what: str, *, member: str, session: str = "", **facts: Any) -> None:
    """Write down what an operator did on the command line; made the audit log if there was none.

    Raises:
        BrokerError: it could not be written.
    """
    await make_stream(wire)
    await Recorder(wire).written(Entry("operation", member, session, {"what": what, **facts}))


# -- reading ----------------------------------------------------------------------------------------------------


async def read_audit(
    wire: Wire, *, member: str = "", session: str = "", since: datetime | None = None, follow: bool = False
) -> AsyncIterator[dict[str, Any]]:
    """Yield entries in their order: `{"sequence", "time", "kind", "member", "session", …}`; none if there is no log.

    Args:
        wire: a connection of an operator.
        member: only of this one. session: only about this one.
        session: only about this one.
        since: only from this time on.
        follow: go on with what comes.
    """
    subject = f"{AUDIT_ROOT}.*.{member or '*'}.{session or '*'}"
    direct, after = DirectGet(wire), 0
    while await stream_info(wire, contract.AUDIT) is None:
        if not follow:
            return
        await asyncio.sleep(_FOLLOW_SECONDS)
    while True:
        body: dict[str, Any] = {"batch": _PAGE, "next_by_subj": subject}
        if after or since is None:
            body["seq"] = after + 1
        else:
            body["start_time"] = since.astimezone(UTC).isoformat()
        messages, _, _ = await direct(contract.AUDIT, body)
        for message in messages:
            after = message.sequence
            if not message.copied and not message.subject.startswith(f"{contract.TOMBSTONE_ROOT}."):
                yield _shown(message)
        if len(messages) < _PAGE:
            if not follow:
                return
            await asyncio.sleep(_FOLLOW_SECONDS)


def _shown(message: Message) -> dict[str, Any]:
    _, kind, member, session = message.subject.split(".")
    names = {"member": member, "session": session}
    about = {name: None if value == NONE else value for name, value in names.items()}
    try:
        facts = orjson.loads(message.payload)
    except orjson.JSONDecodeError:
        facts = {"unreadable": True}
    return {**facts, "sequence": message.sequence, "time": message.time, "kind": kind, **about}


def time_of(text: str) -> datetime:
    """Return the time that `2h`, `3d` ago was, or that RFC 3339 says.

    Raises:
        InvalidInput: it is neither.
    """
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text[:60]!r} is no time: pass 30m, 2h, 7d, or 2026-11-28T12:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
