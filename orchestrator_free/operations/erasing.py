"""The right to be forgotten: a session, or a member in all sessions, and a search afterwards that shows what is left.

JetStream cannot change what is stored, so a session in which others stay is written anew: read, rewritten without the
member, kept in a file until it is stored, purged, imported under its id. Clients get a reset, as after a restore.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidInput, OrchestratorFreeError, SessionNotFound
from orchestrator_free.fold import Fold
from orchestrator_free.jetstream import Message
from orchestrator_free.jetstream.direct import DirectGet
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.jetstream.tombstones import bury
from orchestrator_free.operations.audit import make_stream
from orchestrator_free.operations.backup import list_consumers, stream_info
from orchestrator_free.operations.rewriting import Rewriting, mention
from orchestrator_free.reading.entries import Entry
from orchestrator_free.session import Session
from orchestrator_free.session.archive import Stored, import_session, read_log, write_lines
from orchestrator_free.session.archive_lines import Writer
from orchestrator_free.subjects import check_name, session_filter

_log = logs.logger("orchestrator_free.operations")

_PAGE: Final = 1024
#: places that a report names
_SHOWN: Final = 100
_TRIES: Final = 3
_OBJECTS: Final = f"OBJ_{contract.OBJECT_BUCKET}"
_PRESENCE: Final = f"KV_{contract.PRESENCE_BUCKET}"
#: names that everybody shares who has said none
_SHARED: Final = frozenset({"user", "all"})
BACKUPS: Final = "backups and exports made before still hold it: delete them, or let them grow old"


@dataclass(slots=True)
class Report:
    """What an erasure did, and what a search of all streams found afterwards.

    Attributes:
        deleted: sessions that are gone whole. rewritten: sessions that were written anew.
        refused: session and reason; nothing was changed there.
        left: `stream subject sequence` of what still has the name, at most 100; left_count counts all.
        audit: entries of the audit log that name it; they stay by design, without contents, until they are old.
        searched: messages that were looked at.
    """

    what: str
    name: str
    deleted: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    left_count: int = 0
    audit: int = 0
    searched: int = 0
    remains: str = BACKUPS

    @property
    def clean(self) -> bool:
        """Whether nothing is left."""
        return not self.left_count and not self.refused

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"clean": self.clean}

    def counts(self) -> dict[str, Any]:
        """Return what may be written down of it: how much it was, no name."""
        return {
            "erased": self.what, "deleted": len(self.deleted), "rewritten": len(self.rewritten),
            "refused": len(self.refused), "left": self.left_count,
        }  # fmt: skip


# -- searching --------------------------------------------------------------------------------------------------


async def places(broker: Broker, name: str) -> AsyncIterator[tuple[str, Message, bool]]:
    """Yield (stream, message, whether it has the name) of everything that the installation stores, page by page."""
    direct, word = DirectGet(broker.log.wire), mention(name)
    for stream in contract.installation(contract.StreamSettings(shards=broker.log.shards)):
        if await stream_info(broker.log.wire, stream) is None:
            continue
        after = 0
        while True:
            body = {"seq": after + 1, "batch": _PAGE, "max_bytes": 1 << 20, "next_by_subj": ">"}
            messages, _, _ = await direct(stream, body)
            if not messages:
                break
            for message in messages:
                after = message.sequence
                yield stream, message, _names(message, name) or word.search(message.payload) is not None


def _names(message: Message, name: str) -> bool:
    tokens = message.subject.split(".")
    if tokens[:1] == ["$O"] and tokens[2:3] == ["M"]:  # the name of an object: <session>/<name>
        return name in base64.urlsafe_b64decode(tokens[3]).decode(errors="replace").split("/")
    return name in tokens


async def search(broker: Broker, name: str, report: Report) -> None:
    """Note in a report where a name still stands."""
    report.left, report.left_count, report.audit, report.searched = [], 0, 0, 0
    async for stream, message, found in places(broker, name):
        report.searched += 1
        if not found:
            continue
        if stream == contract.AUDIT:
            report.audit += 1
            continue
        report.left_count += 1
        if len(report.left) < _SHOWN:
            report.left.append(f"{stream} {message.subject} {message.sequence}")


# -- a session --------------------------------------------------------------------------------------------------


async def erase_session(broker: Broker, session: str) -> Report:
    """Delete a session with its objects, timers, subscriptions and presence, and search for what is left.

    Whoever says something in it later begins another session of that name; imports of it are refused.
    """
    check_name("session", session)
    report = Report("session", session)
    await _remove(broker, session)
    await _drop_consumers(broker, f"session={session}=")
    await _bury(broker, "session", session)
    report.deleted.append(session)
    await search(broker, session, report)
    return report


async def _remove(broker: Broker, session: str, *, up_to: int = 0) -> None:
    """Purge a session, up to a sequence if one is given; what follows it hears that it is deleted."""
    log, wire = broker.log, broker.log.wire
    shard = log.shard(session)
    everything = session_filter(shard, session)
    if not up_to and await log.last(shard, everything) is not None:
        await broker.session(session).append("meta", {"type": "session.deleted"})
    for name in await _objects(broker, session):
        await broker.objects.delete(session, name)
    await log.purge_later(everything)
    limit = {"seq": up_to + 1} if up_to else {}
    await wire.api(f"STREAM.PURGE.{contract.stream_name(shard)}", {"filter": everything, **limit})
    await wire.api(f"STREAM.PURGE.{_PRESENCE}", {"filter": f"$KV.{contract.PRESENCE_BUCKET}.watch.{session}.>"})


async def _objects(broker: Broker, session: str) -> list[str]:
    """Return the names of all objects of a session, also of those that no event names any more."""
    prefix, found, offset = f"{session}/", list[str](), 0
    while True:
        body = {"subjects_filter": f"$O.{contract.OBJECT_BUCKET}.M.*", "offset": offset}
        info = await broker.log.wire.api(f"STREAM.INFO.{_OBJECTS}", body)
        subjects = list(info["state"].get("subjects") or {})
        offset += len(subjects)
        names = (base64.urlsafe_b64decode(one.split(".")[3]).decode(errors="replace") for one in subjects)
        found += [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if not subjects or offset >= info.get("total", 0):
            return found


async def _drop_consumers(broker: Broker, prefix: str) -> None:
    for shard in range(broker.log.shards):
        stream = contract.stream_name(shard)
        for info in await list_consumers(broker.log.wire, stream):
            if info["name"].startswith(prefix):
                await broker.log.wire.api(f"CONSUMER.DELETE.{stream}.{info['name']}")


async def _bury(broker: Broker, kind: str, name: str) -> None:
    """Leave a sign, without the name, that it is not to come back."""
    await make_stream(broker.log.wire)
    await bury(broker.log.wire, kind, name)


# -- a member ---------------------------------------------------------------------------------------------------


async def erase_member(broker: Broker, member: str, folder: Path, *, dry_run: bool = False) -> Report:
    """Erase a member from all sessions: theirs alone are deleted, in others they become somebody without a name.

    Args:
        broker: a connection of an operator.
        member: whose name it is; of a person or a service, not of an agent.
        folder: where a session that is written anew is kept meanwhile; it should be on a disk that is encrypted.
        dry_run: say what would be done.

    Raises:
        InvalidInput: an agent's name, or one that many share.
    """
    await _check(broker, member)
    report = Report("member", member)
    alias = f"erased-{secrets.token_hex(4)}"
    for session in await _sessions(broker, member):
        try:
            if await _out_of(broker, broker.session(session), member, alias, folder, dry_run=dry_run):
                report.deleted.append(session)
            else:
                report.rewritten.append(session)
        except (InvalidInput, SessionNotFound) as error:
            report.refused[session] = str(error)
    if not dry_run:
        await _purge_member(broker, member)
        await _bury(broker, "member", member)
    await search(broker, member, report)
    return report


async def _check(broker: Broker, member: str) -> None:
    check_name("member", member)
    if member in _SHARED:
        raise InvalidInput(f"{member!r} is everybody who has said no name; erase the sessions instead")
    names = {name for shard in range(broker.log.shards) for name in await broker.log.consumer_names(shard)}
    if contract.agent_consumer_name(member) in names:
        raise InvalidInput(f"{member!r} is an agent; stop it and delete its consumers first, if that is meant")


async def _sessions(broker: Broker, member: str) -> list[str]:
    """Return the sessions in which a name stands anywhere."""
    found: dict[str, None] = {}
    async for stream, message, named in places(broker, member):
        tokens = message.subject.split(".")
        if named and stream.startswith("SESSIONS_") and tokens[0] == "session" and len(tokens) > 2:
            found[tokens[2]] = None
        elif named and stream == _OBJECTS and tokens[2:3] == ["M"]:
            found[base64.urlsafe_b64decode(tokens[3]).decode(errors="replace").partition("/")[0]] = None
    return list(found)


async def _out_of(
    broker: Broker, session: Session, member: str, alias: str, folder: Path, *, dry_run: bool
) -> bool:  # fmt: skip
    """Take a member out of a session; return whether it was theirs alone, and is gone.

    Raises:
        InvalidInput: something is open there, or it does not come to rest; nothing was changed.
    """
    for _ in range(_TRIES):
        entries, reader = await read_log(session)
        people = _people(entries)
        if people <= {member}:
            if not dry_run:
                await _remove(broker, session.id)
            return True
        if dry_run:
            return False
        file = await _write_anew(broker, session, entries, member, alias, folder)
        last = await broker.log.last(session.shard, session.filter)
        if last is not None and last.sequence == reader.sequence:
            await _replace(broker, session, file, last.sequence)
            return False
        file.unlink()
    raise InvalidInput("it does not come to rest: pause its agents, then erase again")


def _people(entries: list[Entry]) -> set[str]:
    """Return who has said something that was not delegated; raise if a run is open.

    Raises:
        InvalidInput: a run is open, which would be lost.
    """
    fold, people = Fold(""), set[str]()
    for entry in entries:
        fold.apply(entry.event)
        if entry.event.kind == "in" and not entry.event.body.get("parent"):
            people.add(entry.event.member)
    if any(run.open for run in fold.runs.values()):
        raise InvalidInput("a run is open there: cancel it or let it finish, then erase again")
    return people


async def _write_anew(
    broker: Broker, session: Session, entries: list[Entry], member: str, alias: str, folder: Path
) -> Path:
    """Write the session as it will be into a file."""
    rewriting, made = Rewriting(member, alias), dict[str, bytes]()
    events = rewriting.rewrite(Stored(one.event, one.message.payload, one.message.rollup) for one in entries)
    changed = [await _with_object(session, one, rewriting, made) for one in events]
    path = folder / f"{session.id}.erasing.jsonl"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        lines = Writer(session.id, str(session.position(0)))
        file.write(lines.header())
        async for line in write_lines(session, lines, changed, made):
            file.write(line)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return path


async def _with_object(session: Session, stored: Stored, rewriting: Rewriting, made: dict[str, bytes]) -> Stored:
    """Return an event whose large parts, kept beside the log, do not have the name either."""
    name = stored.event.body.get("object")
    data = await session.object(name) if isinstance(name, str) else None
    if data is None or mention(rewriting.member).search(data) is None:
        return stored
    clean = orjson.dumps(rewriting.without_name(orjson.loads(data)))
    made[object_name(clean, "run")] = clean
    body = stored.event.body | {"object": object_name(clean, "run")}
    return Stored(stored.event._replace(body=body), orjson.dumps(body), stored.rollup)


async def _replace(broker: Broker, session: Session, file: Path, last: int) -> None:
    await _remove(broker, session.id, up_to=last)
    try:
        with file.open("rb") as lines:
            await import_session(broker, lines, session.id)
    except OrchestratorFreeError as error:
        raise BrokerError(
            f"session {session.id!r} was purged and could not be written anew ({error}); it is in {file}: "
            f"`orchestrator-free import {file}`"
        ) from error
    file.unlink()


async def _purge_member(broker: Broker, member: str) -> None:
    """Drop what stands under a member's name outside of the sessions' logs."""
    await broker.log.purge_later(f"session.*.*.{member}.>")
    for key in (f"watch.*.{member}.*", f"agent.{member}.*"):
        await broker.log.wire.api(f"STREAM.PURGE.{_PRESENCE}", {"filter": f"$KV.{contract.PRESENCE_BUCKET}.{key}"})
    await _drop_consumers(broker, contract.service_consumer_name(member))
