"""Large values beside the log, in a standard NATS Object Store bucket, named `<session>/<name>`.

Written and read here rather than by nats-py, whose calls know no retries: the wire's outlast a change of the leader.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.errors import BrokerError, Conflict
from orchestrator_free.jetstream.messages import Message, stored_message
from orchestrator_free.jetstream.replies import NO_MESSAGE
from orchestrator_free.jetstream.wire import Wire

_ROOT: Final = f"$O.{contract.OBJECT_BUCKET}"
_STREAM: Final = f"OBJ_{contract.OBJECT_BUCKET}"
_CHUNK: Final = 128 * 1024
#: a chunk with its header must fit into one message
_HEADROOM: Final = 4096


class Objects:
    """The bucket; `Log.ensure` has created it. What is written carries the member that wrote it, for the broker."""

    stream: Final = _STREAM

    def __init__(self, wire: Wire, member: str) -> None:
        self._wire = wire
        self._member = member

    async def put(self, session: str, name: str, data: bytes) -> None:
        """Store an object; names come from the content, so one that is there is left as it is.

        Raises:
            StorageFull, BrokerError: it could not be stored; nothing of it is left, if the broker lets us.
        """
        last, info = await self.info(session, name)
        if info is not None:
            return
        chunks = f"{_ROOT}.C.{self._member}.{secrets.token_hex(11)}"
        size = min(_CHUNK, self._wire.max_payload - _HEADROOM)
        try:
            for start in range(0, len(data), size):
                await self._wire.publish(chunks, data[start : start + size], message_id=secrets.token_hex(16))
            await self.describe(session, name, chunks.removeprefix(f"{_ROOT}.C."), data, size, expect=last)
        except BaseException as error:
            with contextlib.suppress(BrokerError):
                await self._purge(chunks)
            if not isinstance(error, Conflict):  # otherwise somebody else has just stored the same
                raise

    async def describe(self, session: str, name: str, nuid: str, data: bytes, size: int, *, expect: int) -> int:
        """Say what an object is, once its chunks are stored below `nuid`, each of at most `size` bytes.

        Raises:
            Conflict: it has been said since the description at `expect`, 0 for none.
        """
        body = _describe(f"{session}/{name}", nuid, data, size)
        return await self._wire.publish(_meta_subject(session, name), orjson.dumps(body), expect=expect)

    async def get(self, session: str, name: str) -> bytes | None:
        """Return an object, None if there is none."""
        _, info = await self.info(session, name)
        return None if info is None else await self.content(session, name, info)

    async def content(self, session: str, name: str, info: dict[str, Any]) -> bytes:
        """Return what a description describes.

        Raises:
            BrokerError: the chunks are not what it says.
        """
        chunks, after, data = f"{_ROOT}.C.{info['nuid']}", 0, bytearray()
        for _ in range(info.get("chunks") or 0):
            piece = await self._read({"seq": after + 1, "next_by_subj": chunks})
            if piece is None:
                break
            after = piece.sequence
            data += piece.payload
        if info.get("digest") != _digest(data):
            raise BrokerError(f"object {name!r} of session {session!r} is damaged: its content has another digest")
        return bytes(data)

    async def delete(self, session: str, name: str) -> None:
        """Remove an object, without writing, so that it works when the store is full; none of that name is no error."""
        _, info = await self.info(session, name)
        await self._purge(_meta_subject(session, name))
        if info is not None:
            await self._purge(f"{_ROOT}.C.{info['nuid']}")

    async def info(self, session: str, name: str) -> tuple[int, dict[str, Any] | None]:
        """Return the sequence of the description of an object, 0 if there is none; and what it says, unless deleted."""
        found = await self._read({"last_by_subj": _meta_subject(session, name)})
        if found is None:
            return 0, None
        info: dict[str, Any] = orjson.loads(found.payload)
        return found.sequence, None if info.get("deleted") else info

    async def _read(self, which: dict[str, Any]) -> Message | None:
        try:
            found = await self._wire.api(f"STREAM.MSG.GET.{_STREAM}", which)
        except BrokerError as error:
            if getattr(error, "code", 0) == NO_MESSAGE:
                return None
            raise
        return stored_message(found["message"])

    async def _purge(self, subject: str) -> None:
        await self._wire.api(f"STREAM.PURGE.{_STREAM}", {"filter": subject})


def _meta_subject(session: str, name: str) -> str:
    return f"{_ROOT}.M.{base64.urlsafe_b64encode(f'{session}/{name}'.encode()).decode()}"


def _digest(data: bytes | bytearray) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()}"


def _describe(name: str, nuid: str, data: bytes, size: int) -> dict[str, Any]:
    """Return what the clients of NATS expect to know of an object."""
    return {
        "name": name, "bucket": contract.OBJECT_BUCKET, "nuid": nuid, "size": len(data),
        "chunks": -(-len(data) // size), "digest": _digest(data), "mtime": datetime.now(UTC).isoformat(),
        "options": {"max_chunk_size": size},
    }  # fmt: skip


def object_name(data: bytes, label: str) -> str:
    """Return a name for content: a label and 16 hex digits of its SHA-256, so that retries write the same object."""
    return f"{label}-{hashlib.sha256(data).hexdigest()[:16]}"
