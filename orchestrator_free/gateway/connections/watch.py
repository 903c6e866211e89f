"""Feeds that are open, looked at once a second: those whose token counts no more are cut, and told so.

A feed costs an entry in a dictionary here, and nothing per event.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol

from orchestrator_free import logs
from orchestrator_free.errors import NotAuthenticated, TokenExpired, TooManyRequests
from orchestrator_free.gateway.connections.counts import GuardCounts
from orchestrator_free.identity.principal import Principal

_log = logs.logger("orchestrator_free.gateway")

#: where the guard leaves the `Stay` of a request in the scope
STAY: Final = "orchestrator_free.stay"
_LOOK_SECONDS: Final = 1.0
#: why a feed was cut, as its client is told
EXPIRED: Final = "token_expired"
REVOKED: Final = "token_revoked"


class Open(Protocol):
    """A connection that stays."""

    @property
    def closed(self) -> bool:
        """It has ended."""

    def expire(self, reason: str) -> None:
        """Cut it, and tell its client why."""


@dataclass(slots=True, eq=False)
class Stay:
    """A request from its beginning until its answer, perhaps a feed, has ended."""

    watch: Watch
    principal: Principal
    address: str
    ends: float = math.inf
    counted: bool = False
    kept: bool = False
    session: str = ""
    since: float = field(default_factory=monotonic)

    def keep(self, connection: Open) -> None:
        """Look after the connection that answers the request, from now on."""
        if self.counted:
            self.kept = True
            self.watch.keep(connection, self)

    def begins(self) -> None:
        """Note that a session is begun.

        Raises:
            TooManyRequests: one more than its member may begin.
        """
        self.watch.born(self.principal)

    def answered(self) -> None:
        """The application has returned; what it handed on stays."""
        if not self.kept:
            self.watch.end(self)


class Watch:
    """The open feeds of a gateway."""

    def __init__(
        self,
        check: Callable[[Principal], None],
        ends: Callable[[Principal], float],
        counts: GuardCounts,
        *,
        born: Callable[[Principal], None] = lambda _: None,
        member_feeds: int = 0,
        address_feeds: int = 0,
    ) -> None:
        """Prepare.

        Args:
            check: raises `NotAuthenticated` when a principal counts no more.
            ends: says when it will not for sure, in seconds since 1970.
            counts: what is counted.
            born: raises `TooManyRequests` when a principal has begun too many sessions.
            member_feeds: one member may have so many at a time; 0 for any number.
            address_feeds: the same for one address.
        """
        self._check = check
        self._ends = ends
        self._doubtful = False
        self.born = born
        self.ended: Callable[[Stay], None] = lambda _: None
        self._told = counts
        self._most = (member_feeds, address_feeds)
        self._open: dict[Open, Stay] = {}
        self._counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def begin(self, principal: Principal, address: str) -> Stay:
        """Count a request that may become a feed.

        Raises:
            TooManyRequests: its member, or its address, has as many feeds as it may.
        """
        keys = (principal.member, address)
        for name, most, count, key in zip(("member", "address"), self._most, self._counts, keys, strict=True):
            if most and count[key] >= most and not (name == "member" and "speak" in principal.capabilities):
                self._told.refused.labels(f"{name}_feeds").inc()
                raise TooManyRequests(f"this {name} has {most} open feeds; close one, or wait", seconds=2)
        for count, key in zip(self._counts, keys, strict=True):
            count[key] += 1
        return Stay(self, principal, address, self._ends(principal), counted=True)

    def end(self, stay: Stay) -> None:
        """Forget a request, or a feed."""
        if not stay.counted:
            return
        for count, key in zip(self._counts, (stay.principal.member, stay.address), strict=True):
            count[key] -= 1
            if count[key] <= 0:
                del count[key]

    def keep(self, connection: Open, stay: Stay) -> None:
        """Look after a connection."""
        self._open[connection] = stay

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self.look()
            except Exception:
                _log.exception("looking after the open feeds failed")

    def doubt(self) -> None:
        """Check everybody at the next look: something was revoked."""
        self._doubtful = True

    def look(self) -> None:
        """Forget what has ended, cut what counts no more; of the others no more than a time is compared."""
        now, doubtful = time.time(), self._doubtful
        self._doubtful = False
        for connection in [one for one, stay in self._open.items() if doubtful or stay.ends <= now or one.closed]:
            stay = self._open[connection]
            if connection.closed or self._cut(connection, stay):
                del self._open[connection]
                self.end(stay)
                self.ended(stay)

    def _cut(self, connection: Open, stay: Stay) -> bool:
        """Cut a connection whose token counts no more, and return whether that was so."""
        try:
            self._check(stay.principal)
        except NotAuthenticated as error:
            reason = EXPIRED if isinstance(error, TokenExpired) else REVOKED
            self._told.ended.labels(reason).inc()
            connection.expire(reason)
            return True
        return False
