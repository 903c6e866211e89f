"""What counts no more although its time is not over: a token, or everything a member was given before a moment.

It stands in the bucket that all gateways share; each looks there every two seconds. While the broker is away what was
revoked before still counts as revoked, and nothing new is heard.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Final

import orjson

from orchestrator_free import logs
from orchestrator_free.errors import BrokerError, NotAuthenticated
from orchestrator_free.identity.principal import Principal
from orchestrator_free.jetstream import AccessBucket
from orchestrator_free.subjects import check_name

_log = logs.logger("orchestrator_free.gateway")

_LOOK_SECONDS: Final = 2.0
_TOKENS: Final = "revoked.token"
_MEMBERS: Final = "revoked.member"
_EVERYBODY: Final = "revoked.all"


def _key_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:32]


async def revoke_token(bucket: AccessBucket, token: str, *, seconds: float | None = None) -> None:
    """Let a token count no more.

    Args:
        bucket: where that is written.
        token: its id (`jti`).
        seconds: after which it has expired anyway; None: remember it for ever.
    """
    ttl = "" if seconds is None else f"{max(1, round(seconds))}s"
    await bucket.put(f"{_TOKENS}.{_key_of(token)}", b"{}", ttl=ttl)


async def revoke_member(bucket: AccessBucket, member: str, *, before: float | None = None) -> None:
    """Let no token of a member count that was made up to a moment; now if none is given."""
    said = {"before": time.time() if before is None else before}
    await bucket.put(f"{_MEMBERS}.{check_name('member', member)}", orjson.dumps(said))


async def revoke_all(bucket: AccessBucket) -> None:
    """Let no token count that was made up to now, whoever has it: a key leaked, or a backup was restored."""
    await bucket.put(f"{_EVERYBODY}.before", orjson.dumps({"before": time.time()}))


class Revocations:
    """What is revoked, as this gateway knows it.

    Attributes:
        on_change: called when it is something else.
    """

    def __init__(self, bucket: AccessBucket) -> None:
        self.bucket = bucket
        self._tokens: frozenset[str] = frozenset()
        self._members: dict[str, float] = {}
        self._all = float("-inf")
        self.on_change: Callable[[], object] = lambda: None

    async def load(self) -> None:
        """Read what is revoked.

        Raises:
            BrokerError: it cannot be read.
        """
        before = (self._tokens, self._members, self._all)
        self._tokens = frozenset(await self.bucket.below(_TOKENS))
        self._members = _moments(await self.bucket.below(_MEMBERS))
        self._all = _moments(await self.bucket.below(_EVERYBODY)).get("before", float("-inf"))
        if before != (self._tokens, self._members, self._all):
            self.on_change()

    def check(self, principal: Principal) -> None:
        """Check that a principal's token is not revoked.

        Raises:
            NotAuthenticated: it is.
        """
        if self._tokens and _key_of(principal.token) in self._tokens:
            raise NotAuthenticated("the token is revoked; sign in again")
        if principal.issued <= self._all:
            raise NotAuthenticated("every token up to a moment is revoked; sign in again")
        if principal.issued <= self._members.get(principal.member, float("-inf")):
            raise NotAuthenticated(f"every token of {principal.member!r} up to a moment is revoked; sign in again")

    async def run(self) -> None:
        """Look every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.load()
            except BrokerError as error:
                _log.warning("what is revoked cannot be read; what was known counts", reason=str(error))
            except Exception:
                _log.exception("reading what is revoked failed")


def _moments(found: dict[str, bytes]) -> dict[str, float]:
    return {name: moment for name, text in found.items() if (moment := _moment(text)) is not None}


def _moment(text: bytes) -> float | None:
    try:
        found = orjson.loads(text)["before"]
        return float(found)
    except (ValueError, KeyError, TypeError):
        return None
