"""The bucket of the gateways' identity: tickets that are used once, and what is revoked; gateways share it.

A member can aim the broker's answer, with bytes of its choice, at a foreign subject: what the broker has put here for
somebody else is no entry.
"""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.errors import BrokerError, Conflict
from orchestrator_free.jetstream.direct import DirectGet
from orchestrator_free.jetstream.log import Log
from orchestrator_free.jetstream.messages import stored_message
from orchestrator_free.jetstream.replies import NO_MESSAGE

_STREAM: Final = f"KV_{contract.ACCESS_BUCKET}"
_PREFIX: Final = f"$KV.{contract.ACCESS_BUCKET}."
_MOST: Final = 100_000
#: a used entry is remembered for longer than it could have been used
_USED_TTL: Final = "120s"
_DEADLINE_SECONDS: Final = 6.0


class AccessBucket:
    """The bucket over one connection."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._direct = DirectGet(log.wire)

    async def open(self) -> None:
        """Make the bucket if it is missing.

        Raises:
            ConfigMismatch: it is there with another structure.
        """
        await self._log.streams.ensure_access()

    async def put(self, key: str, payload: bytes, *, ttl: str = "") -> None:
        """Write an entry; with a `ttl` as `30s` it vanishes then."""
        await self._log.wire.publish(_PREFIX + key, payload, ttl=ttl, deadline=_DEADLINE_SECONDS)

    async def take(self, key: str) -> bytes | None:
        """Use an entry: return it to the first who asks, and None to everybody else, at whichever gateway."""
        try:
            answer = await self._log.wire.api(f"STREAM.MSG.GET.{_STREAM}", {"last_by_subj": _PREFIX + key})
        except BrokerError as error:
            if getattr(error, "code", 0) == NO_MESSAGE:
                return None
            raise
        found = stored_message(answer["message"])
        if found.copied or not found.payload:
            return None
        try:
            used: dict[str, Any] = {"expect": found.sequence, "ttl": _USED_TTL, "deadline": _DEADLINE_SECONDS}
            await self._log.wire.publish(found.subject, b"", **used)
        except Conflict:
            return None
        return found.payload

    async def below(self, prefix: str) -> dict[str, bytes]:
        """Return the entries whose keys begin with a prefix and a dot, by what follows."""
        start = f"{_PREFIX}{prefix}."
        body = {"seq": 1, "batch": _MOST, "next_by_subj": f"{start}>"}
        messages, _, _ = await self._direct(_STREAM, body)
        return {one.subject.removeprefix(start): one.payload for one in messages if one.payload and not one.copied}
