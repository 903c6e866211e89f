"""Backup and restore of a whole installation, by the broker's own snapshots of its streams and consumers.

Each stream is taken as it is at one moment, one after the other: the log first, then what its events refer to (timers,
objects), so nothing that a restored event names is missing. Of what happened while the backup ran, timers and objects
may know more than the log; what is due in them is said to the log again when that takes up where it stood.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.broker import wired
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerError, BrokerTimeout, InvalidInput
from orchestrator_free.jetstream import Wire
from orchestrator_free.jetstream.snapshots import restore_snapshot, take_snapshot
from orchestrator_free.operations.manifest import (
    MANIFEST,
    ConsumerMark,
    Manifest,
    StreamPart,
    pieces_of,
    problems,
    read_manifest,
)
from orchestrator_free.subjects import epoch_of

_log = logs.logger("orchestrator_free.operations")

#: a stream is taken again from its beginning when its leader changed meanwhile
_TRIES: Final = 3
_NO_STREAM: Final = 10059

Progress = Callable[[str, int], object]


def _quiet(stream: str, count: int) -> None:
    """Nobody watches."""


# -- backup -----------------------------------------------------------------------------------------------------


async def back_up(wire: Wire, folder: Path, progress: Progress = _quiet) -> Manifest:
    """Write a backup of the installation into a folder; agents and gateways go on working.

    Args:
        wire: a connection of an operator.
        folder: new or empty; it holds everything that was ever said, so it is readable for its owner only.
        progress: called with a stream's name and how many bytes were written.

    Raises:
        InvalidInput: the folder is not empty, or cannot be written.
        BrokerError: a stream could not be read; the folder has no manifest then, and is no backup.
    """
    first = await stream_info(wire, contract.stream_name(0))
    if first is None:
        raise BrokerError(f"there is nothing to back up: stream {contract.stream_name(0)} does not exist there")
    shards = int(first["config"].get("metadata", {}).get("orchestrator_free.shards", "1"))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty: a backup needs a folder of its own, name a new one")
        names = contract.lasting_streams(shards)
        parts = [part for name in names if (part := await _take(wire, name, folder, progress))]
        ended = (await wire.api(f"STREAM.INFO.{contract.stream_name(0)}"))["ts"]
        manifest = Manifest(
            began=first["ts"], ended=ended, server=wire.server_version, wire=contract.WIRE, shards=shards, streams=parts
        )
        _write_synced(folder / MANIFEST, orjson.dumps(manifest.model_dump(), option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise InvalidInput(f"cannot write the backup into {folder}: {error.strerror}") from error
    return manifest


async def _take(wire: Wire, stream: str, folder: Path, progress: Progress) -> StreamPart | None:
    """Take one stream; None if the installation has none of this name."""
    for left in range(_TRIES - 1, -1, -1):
        info = await stream_info(wire, stream)
        if info is None:
            return None
        # Before the snapshot: what its consumers acknowledge meanwhile is delivered again rather than missed.
        marks = [_mark(one) for one in await list_consumers(wire, stream)]
        file = folder / f"{stream}.snapshot"
        try:
            digest, size, found = await _write(wire, stream, file, progress)
        except BrokerTimeout as error:
            if not left:
                raise
            _log.warning("taking a stream again from its beginning", stream=stream, reason=str(error))
            continue
        epoch = epoch_of(stream, info["created"]) if info["config"].get("republish") else ""  # only the log has one
        return StreamPart(
            stream=stream, file=file.name, bytes=size, sha256=digest, config=found["config"], state=found["state"],
            epoch=epoch, consumers=marks,
        )  # fmt: skip
    return None


async def _write(wire: Wire, stream: str, file: Path, progress: Progress) -> tuple[str, int, dict[str, Any]]:
    """Write a snapshot into a file; return its SHA-256, its size and what the broker said of the stream."""
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:

        def write(piece: bytes) -> None:
            nonlocal size
            target.write(piece)
            digest.update(piece)
            size += len(piece)
            progress(stream, len(piece))

        found = await take_snapshot(wire, stream, write)
        target.flush()
        await asyncio.to_thread(os.fsync, target.fileno())
    return digest.hexdigest(), size, found


def _write_synced(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


async def stream_info(wire: Wire, stream: str) -> dict[str, Any] | None:
    """Return STREAM.INFO, None if there is no such stream."""
    try:
        return await wire.api(f"STREAM.INFO.{stream}")
    except BrokerError as error:
        if getattr(error, "code", 0) == _NO_STREAM:
            return None
        raise


async def list_consumers(wire: Wire, stream: str) -> list[dict[str, Any]]:
    """Return every durable consumer of a stream, as the broker describes it."""
    found: list[dict[str, Any]] = []
    offset = 0
    while True:
        page = await wire.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        found += page.get("consumers") or []
        offset += page["limit"]
        if offset >= page["total"]:
            return [one for one in found if one["config"].get("durable_name")]


def _mark(info: dict[str, Any]) -> ConsumerMark:
    created = info["config"].get("metadata", {}).get(contract.CREATED, info["created"])
    pending = info["num_pending"] + info["num_ack_pending"]
    return ConsumerMark(name=info["name"], created=created, floor=info["ack_floor"]["stream_seq"], pending=pending)


# -- restore ----------------------------------------------------------------------------------------------------


async def restore(wire: Wire, folder: Path, *, replicas: int | None = None, progress: Progress = _quiet) -> Manifest:
    """Make the installation of a backup anew, on a broker that has none.

    Streams made anew have new epochs: clients that stood in the old log get an explicit reset with a snapshot, also
    where they had read further than the backup goes. Durable consumers go on where they stood in the backup.

    Args:
        wire: a connection of an operator.
        folder: of the backup; checked against its manifest before anything is made.
        replicas: of the streams, if otherwise than they were.
        progress: called with a stream's name and how many bytes were read.

    Raises:
        InvalidInput: the backup is not whole, or the broker has streams of an installation; nothing was changed.
        BrokerError: it broke off; the message says what to delete before the next try.
    """
    manifest = read_manifest(folder)
    if wrong := problems(folder, manifest):
        raise InvalidInput(f"the backup in {folder} is not whole: {'; '.join(wrong)}")
    present = [name for name in contract.lasting_streams(manifest.shards) if await stream_info(wire, name) is not None]
    if present:
        raise InvalidInput(
            f"the broker has an installation already ({', '.join(present)}); nothing is overwritten: restore into an "
            "empty broker, or an account of its own"
        )
    made: list[str] = []
    # The log last: agents that find it there find everything it refers to.
    for part in sorted(manifest.streams, key=lambda part: part.epoch != ""):
        try:
            await _restore(wire, part, folder, replicas, progress)
        except BrokerError as error:
            left = f"; delete {', '.join(made)} before the next try" if made else ""
            raise BrokerError(f"restoring {part.stream} failed ({error}){left}") from error
        made.append(part.stream)
    return manifest


async def _restore(wire: Wire, part: StreamPart, folder: Path, replicas: int | None, progress: Progress) -> None:
    config = part.config | ({"num_replicas": replicas} if replicas else {})

    def pieces() -> Iterator[bytes]:
        for piece in pieces_of(folder / part.file):
            progress(part.stream, len(piece))
            yield piece

    found = await restore_snapshot(wire, config, part.state, pieces())
    # The end, not the number: runs that ended while the snapshot was written were compacted in it.
    wanted, end = int(part.state["last_seq"]), int(found["state"]["last_seq"])
    lasts = not config.get("max_age") and not config.get("allow_msg_ttl")  # others may have grown too old meanwhile
    if lasts and end < wanted:
        raise BrokerError(f"what the broker has ends at {end}, the backup at {wanted}")
    for mark in part.consumers:
        await _settle(wire, part.stream, mark, end)


async def _settle(wire: Wire, stream: str, mark: ConsumerMark, end: int) -> None:
    """Let a restored consumer say when it was first made, and never stand beyond the end of what was restored."""
    info = await wire.api(f"CONSUMER.INFO.{stream}.{mark.name}")
    if info["config"].get("metadata", {}).get(contract.CREATED) != mark.created:
        config = info["config"] | {"metadata": info["config"].get("metadata", {}) | {contract.CREATED: mark.created}}
        await wire.api(f"CONSUMER.CREATE.{stream}.{mark.name}", {"stream_name": stream, "config": config, "action": ""})
    if max(info["delivered"]["stream_seq"], info["ack_floor"]["stream_seq"]) > end:
        await wire.api(f"CONSUMER.RESET.{stream}.{mark.name}", {"seq": mark.floor + 1})


async def rehearse(folder: Path) -> Manifest:
    """Restore a backup into a broker that is started for that and ended again: the proof that it can be read.

    Raises:
        BrokerError, InvalidInput: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrator-free-drill-") as data:
        async with (
            EmbeddedServer(ServerSettings(data=Path(data), port=0)) as server,
            wired(server.url, member="operator") as wire,
        ):
            return await restore(wire, folder, replicas=1)
