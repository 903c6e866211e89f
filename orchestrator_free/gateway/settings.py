"""What sessions and their clients may cost one gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The defaults suit one process on a small machine.

    Attributes:
        tail_bytes: frames a session may keep in memory; what is older is read from the log.
        memory_bytes: frames of all sessions; beyond it those without clients go first.
        keep_seconds: a session without clients is kept warm for so long, for the tab that reloads.
        heartbeat_seconds: between two comments to every client that keeps up.
        stuck_seconds: a client that takes nothing for so long is cut.
        sweep_seconds: between two looks at all that.
        append_bytes: what one request may append to a durable stream.
        stream_tail_bytes: newest bytes of a durable stream that are kept in memory.
        long_poll_seconds: how long a long-poll of a durable stream waits.
        allow_origins: web pages that may use it beside its own, as http://localhost:3000; no wildcard.
        hosts: names under which it may be reached; empty for any. A page that renames itself cannot use one of a few.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` is believed.
        metrics: who may read /metrics without a token that may `operate`: this host, everybody, or nobody.
        member_requests_per_second: of one member, five times as many at once; 0 for any number, as with the others.
        address_requests_per_second: of one address.
        member_feeds: open feeds of one member.
        address_feeds: open feeds of one address.
        member_sessions_per_hour: sessions that one member begins.
        audit: whether who does what is written down; strict: no answer before it is.
    """

    tail_bytes: int = 16 * _MIB
    memory_bytes: int = 512 * _MIB
    keep_seconds: float = 30.0
    heartbeat_seconds: float = 15.0
    stuck_seconds: float = 30.0
    sweep_seconds: float = 2.5
    append_bytes: int = 32 * _MIB
    stream_tail_bytes: int = 2 * _MIB
    long_poll_seconds: float = 30.0
    allow_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    metrics: Literal["loopback", "open", "token"] = "open"
    member_requests_per_second: float = 0.0
    address_requests_per_second: float = 0.0
    member_feeds: int = 0
    address_feeds: int = 0
    member_sessions_per_hour: int = 0
    audit: Literal["off", "on", "strict"] = "off"
