"""Streams as files: the broker's own snapshots, taken and read back piece by piece, never whole in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from orchestrator_free.errors import BrokerError, BrokerTimeout
from orchestrator_free.jetstream.replies import api_error
from orchestrator_free.jetstream.wire import Wire

#: of a snapshot; the broker waits after some 8 MiB for us to have them written
_CHUNK: Final = 256 * 1024
#: pieces of a restore that are under way at once
_WINDOW: Final = 16
_SILENCE_SECONDS: Final = 30.0
_API_SECONDS: Final = 60.0


async def take_snapshot(wire: Wire, stream: str, write: Callable[[bytes], object]) -> dict[str, Any]:
    """Hand a snapshot of a stream with its consumers to `write`, in order; return its `config` and `state`.

    The broker sends on only as fast as pieces are written.

    Raises:
        BrokerTimeout: it stopped sending, as when the stream's leader changes; what was written is no snapshot.
        BrokerError: as the broker reports it.
    """
    pieces: asyncio.Queue[tuple[str, bytes, bytes]] = asyncio.Queue()
    inbox, release = wire.inbox(lambda _, reply, payload, header: pieces.put_nowait((reply, payload, header)))
    try:
        body = {"deliver_subject": inbox, "chunk_size": min(_CHUNK, wire.max_payload // 2), "no_consumers": False}
        about = await _call(wire, f"STREAM.SNAPSHOT.{stream}", body)
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    reply, payload, header = await pieces.get()
            except TimeoutError:
                raise BrokerTimeout(
                    f"the snapshot of {stream} stopped after {_SILENCE_SECONDS:g} s of silence"
                ) from None
            if not payload:
                _check_end(stream, header)
                return {"config": about["config"], "state": about["state"]}
            write(payload)
            if reply:  # the last piece waits for nobody
                wire.send(reply)
    finally:
        release()


def _check_end(stream: str, header: bytes) -> None:
    """A snapshot that broke off ends with a status."""
    if header[:9] == b"NATS/1.0 " and header[9:12] not in (b"204", b"100"):
        raise BrokerError(f"the snapshot of {stream} broke off: {header.splitlines()[0].decode(errors='replace')}")


async def restore_snapshot(
    wire: Wire, config: dict[str, Any], state: dict[str, Any], pieces: Iterable[bytes]
) -> dict[str, Any]:
    """Make a stream with its consumers from a snapshot; return what STREAM.INFO says of it then.

    Args:
        wire: a connection that may restore.
        config: of the stream that is made; the name must be that of the snapshot.
        state: as the snapshot has it.
        pieces: the snapshot, cut anywhere, each piece within the broker's limit of a message.

    Raises:
        BrokerError: as the broker reports it; a stream of this name exists, for instance.
    """
    name = config["name"]
    body = {"config": config, "state": state}
    target = (await _call(wire, f"STREAM.RESTORE.{name}", body))["deliver_subject"]
    under_way: deque[asyncio.Task[None]] = deque()
    try:
        for piece in pieces:
            if len(under_way) >= _WINDOW:
                await under_way.popleft()
            under_way.append(asyncio.create_task(_send(wire, name, target, piece)))
            await asyncio.sleep(0)  # pieces leave in their order
        while under_way:
            await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
    answer, _ = await wire.exchange(target, b"", seconds=10 * _API_SECONDS)
    found: dict[str, Any] = orjson.loads(answer)
    if "error" in found:
        raise api_error(f"STREAM.RESTORE.{name}", found["error"])
    return found


async def _call(wire: Wire, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask once: asked again because the answer is late, the broker would begin a second time."""
    try:
        answer, _ = await wire.exchange(f"$JS.API.{name}", orjson.dumps(body), seconds=_API_SECONDS)
    except TimeoutError:
        raise BrokerTimeout(f"no answer to {name} within {_API_SECONDS:g} s") from None
    found: dict[str, Any] = orjson.loads(answer)
    if "error" in found:
        raise api_error(name, found["error"])
    return found


async def _send(wire: Wire, stream: str, target: str, piece: bytes) -> None:
    try:
        answer, _ = await wire.exchange(target, piece, seconds=_API_SECONDS)
    except TimeoutError:
        raise BrokerTimeout(f"the restore of {stream} got no answer; the broker discards what it has of it") from None
    if answer:
        found = orjson.loads(answer)
        raise api_error(f"STREAM.RESTORE.{stream}", found.get("error") or {"description": answer[:200].decode()})
