"""How much one member and one address may ask for: token buckets, bounded in number."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers

from orchestrator_free.errors import InvalidInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST: Final = 100_000
_FORWARDED: Final = ("x-forwarded-for", "forwarded", "via", "x-real-ip")


class Buckets:
    """A bucket per key: `burst` at once, refilled by `rate` per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; return 0, or the seconds until there is one again."""
        now = time.monotonic()
        left, since = self._left.get(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        taken = left >= 1
        self._left[key] = (left - taken, now)
        self._left.move_to_end(key)
        self._forget(now)
        return 0.0 if taken else (1 - left) / self._rate

    def _forget(self, now: float) -> None:
        """Drop what is full again, and what is oldest where there are too many."""
        for _ in range(2):
            key, (left, since) = next(iter(self._left.items()))
            if len(self._left) <= _MOST and left + (now - since) * self._rate < self._burst:
                return
            if len(self._left) == 1:
                return
            del self._left[key]


def networks(names: Iterable[str]) -> list[Network]:
    """Return addresses and networks, as `10.0.0.0/8`.

    Raises:
        InvalidInput: one is neither.
    """
    try:
        return [ipaddress.ip_network(name.strip()) for name in names]
    except ValueError as error:
        raise InvalidInput(f"{error}; name the proxies as 10.0.0.7 or 10.0.0.0/8") from error


def address_of(scope: Mapping[str, Any], headers: Headers, trusted: list[Network]) -> str:
    """Return a client's address: what trusted proxies say, from the last one on; never what it says itself."""
    found = str((scope.get("client") or ("", 0))[0])
    if not trusted:
        return found
    hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
    while hops and _within(found, trusted):
        hop = hops.pop()
        if _parsed(hop) is None:
            return found
        found = hop
    return found


def is_local(scope: Mapping[str, Any], headers: Headers, trusted: list[Network]) -> bool:
    """Whether a request comes from this host, with nobody in between who might speak for others."""
    found = _parsed(address_of(scope, headers, trusted))
    return found is not None and found.is_loopback and not any(name in headers for name in _FORWARDED)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


def _within(text: str, trusted: list[Network]) -> bool:
    found = _parsed(text)
    return found is not None and any(found in network for network in trusted)
