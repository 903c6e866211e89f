"""What a steward is asked for, one function each; they raise what the one who asks is told."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.errors import BrokerError, Conflict, InvalidEvent, InvalidInput
from orchestrator_free.events import decode
from orchestrator_free.jetstream import Log, Message, Objects
from orchestrator_free.jetstream.messages import field_of
from orchestrator_free.jetstream.objects import object_name
from orchestrator_free.subjects import AT, DUE, ROOT, TOKEN, parse

_NO_CONSUMER: Final = 10014
_TIMED: Final = frozenset(kind.partition(".")[0] for kind in contract.TIMED_KINDS)
_STREAM: Final = re.compile(r"SESSIONS_(\d+)")
_CONSUMER: Final = re.compile(r"(agent|control)-(.+)")
_OBJECT: Final = re.compile(r"([A-Za-z0-9_-]{1,64})/((?:run|file)-[0-9a-f]{16})")
_MOST_CHUNKS: Final = 4096
_SECOND: Final = 1_000_000_000
#: seconds in which an input must be acknowledged, as an agent may wish it
_ACK_WAIT: Final = (0.5, 300.0)
#: kinds that say of themselves that they replace what was before
_REPLACING: Final = ("run.*", "presence", "notice.*")


async def time(log: Log, subject: str, payload: bytes, header: bytes) -> dict[str, Any]:
    """Set what the broker is to say on a subject later, or take it back with an empty payload.

    Raises:
        InvalidInput: not something to be said later, no time, or another subject than its own.
    """
    where = parse(subject)
    if where is None or where.kind not in _TIMED or where.shard != log.shard(where.session):
        raise InvalidInput(f"{subject!r} is nothing that is said later")
    if payload:
        at, target = field_of(header, b"Nats-Schedule"), field_of(header, b"Nats-Schedule-Target")
        if target != DUE + subject:
            raise InvalidInput(f"a timer on {AT + subject!r} speaks on {DUE + subject!r} only, not on {target!r}")
        if not at.startswith("@at ") or datetime.fromisoformat(at[4:]).tzinfo is None:
            raise InvalidInput(f"{at!r} is no time: send '@at ' and RFC 3339 as Nats-Schedule")
        await log.later(subject, payload, at[4:])
    else:
        await log.forget_later(subject)
    return {"stream": contract.TIMERS, "seq": 0}


async def describe(objects: Objects, encoded: str, payload: bytes) -> dict[str, Any]:
    """Let an object be known under its name, once: if its chunks are there, and the name is that of their content.

    Raises:
        InvalidInput: it is not.
        Conflict: it is known already.
    """
    try:
        named = _OBJECT.fullmatch(base64.urlsafe_b64decode(encoded).decode())
        info = orjson.loads(payload)
        nuid, chunks, size = info["nuid"], info["chunks"], info["options"]["max_chunk_size"]
    except (binascii.Error, ValueError, LookupError, TypeError) as error:
        raise InvalidInput("not the description of an object") from error
    member, _, id = nuid.partition(".") if isinstance(nuid, str) else ("", "", "")
    sizes = isinstance(chunks, int) and isinstance(size, int) and 0 <= chunks <= _MOST_CHUNKS
    if named is None or not (TOKEN.fullmatch(member) and TOKEN.fullmatch(id) and sizes):
        raise InvalidInput("an object is <session>/run-<digest> or <session>/file-<digest>, with chunks of its member")
    session, name = named.groups()
    last, known = await objects.info(session, name)
    if known is not None:
        raise Conflict(f"object {name!r} is known", actual=last)
    data = await objects.content(session, name, info)
    if object_name(data, name.partition("-")[0]) != name:
        raise InvalidInput(f"{name!r} is not the name of this content")
    return {"stream": objects.stream, "seq": await objects.describe(session, name, nuid, data, size, expect=last)}


async def consumer(log: Log, stream: str, name: str, payload: bytes) -> dict[str, Any]:
    """Return the consumer of an agent's inputs or controls; made from the contract if it is missing, never changed.

    Raises:
        InvalidInput: no consumer of an agent.
    """
    place, named = _STREAM.fullmatch(stream), _CONSUMER.fullmatch(name)
    if place is None or named is None or int(place[1]) >= log.shards or not TOKEN.fullmatch(named[2]):
        raise InvalidInput(f"{name!r} on {stream!r} is no consumer of an agent")
    try:
        return await log.wire.api(f"CONSUMER.INFO.{stream}.{name}")
    except BrokerError as error:
        if getattr(error, "code", 0) != _NO_CONSUMER:
            raise
    shard, agent = int(place[1]), named[2]
    config = contract.control_consumer(shard, agent)
    if named[1] == "agent":
        config = contract.agent_consumer(shard, agent, ack_wait_seconds=_wished(payload))
    return await log.wire.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})


def _wished(payload: bytes) -> float:
    try:
        seconds = orjson.loads(payload)["config"]["ack_wait"] / _SECOND
        return float(min(max(seconds, _ACK_WAIT[0]), _ACK_WAIT[1]))
    except (ValueError, LookupError, TypeError):
        return contract.ACK_WAIT_SECONDS


async def compact(log: Log, subject: str) -> int:
    """Drop what a run wrote before the end that replaces it; return how many events. The leader says what is last."""
    where = parse(subject)
    if where is None or where.kind != "run":
        raise InvalidInput(f"{subject!r} is no run")
    last = await log.last(where.shard, subject)
    if last is None or not _replaces(last):
        return 0
    return await log.purge(where.shard, subject, before=last.sequence)


async def sweep(log: Log, shard: int) -> int:
    """Drop what was replaced in a shard while no steward was there; return how many events."""
    dropped = 0
    for kind in _REPLACING:
        info = await log.info(shard, subjects=f"{ROOT}.{shard}.*.*.{kind}")
        many = [subject for subject, count in info["state"]["subjects"].items() if count > 1]
        for last in _replacing(await log.last_of(shard, many)):
            dropped += await log.purge(shard, last.subject, before=last.sequence)
    return dropped


def _replacing(messages: Iterable[Message]) -> list[Message]:
    return [message for message in messages if _replaces(message)]


def _replaces(message: Message) -> bool:
    """Whether a message stands for all that was said before it on its subject."""
    where = parse(message.subject)
    if where is None or message.copied or not message.rollup:
        return False
    try:
        return where.kind != "run" or decode(message.payload)["type"] == "run.finished"
    except InvalidEvent:
        return False
