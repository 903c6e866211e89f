"""Tickets: what a browser shows where it can set no header, an EventSource or a WebSocket. For 30 seconds, and once.

A ticket is worth the token that it was fetched with, for one session and for pages of one origin. The token lies in
the bucket that all gateways share, sealed with the ticket: whoever reads the broker has neither, and what somebody else
writes there opens to nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator_free.errors import NotAuthenticated
from orchestrator_free.jetstream import AccessBucket

TICKET_SECONDS: Final = 30
#: by which logs recognize it, to leave it out
PREFIX: Final = "tkt_"
_NONCE_BYTES: Final = 12
_LONGEST: Final = 100


class Tickets:
    """The tickets of all gateways."""

    def __init__(self, bucket: AccessBucket) -> None:
        self._bucket = bucket

    async def issue(self, token: str, *, session: str | None, page: str) -> str:
        """Return a ticket for a token.

        Args:
            token: the token that was shown.
            session: which session's feed it opens; None: the socket of chats.
            page: the origin of the page that fetched it; empty for the gateway's own, and for no page.

        Raises:
            BrokerError: it cannot be kept.
        """
        ticket = PREFIX + secrets.token_urlsafe(24)
        place, key = _of(ticket)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        said = orjson.dumps({"token": token, "session": session, "page": page})
        await self._bucket.put(place, nonce + AESGCM(key).encrypt(nonce, said, None), ttl=f"{TICKET_SECONDS}s")
        return ticket

    async def redeem(self, ticket: str, *, session: str | None, page: str) -> str:
        """Return the token behind a ticket; nobody gets it a second time.

        Raises:
            NotAuthenticated: it is used, over, or for something else.
            BrokerError: it cannot be looked up.
        """
        refused = NotAuthenticated("the ticket does not count: used before, over, or not one; fetch another")
        if not ticket.startswith(PREFIX) or len(ticket) > _LONGEST:
            raise refused
        place, key = _of(ticket)
        sealed = await self._bucket.take(place)
        if sealed is None:
            raise refused
        try:
            said: dict[str, Any] = orjson.loads(AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))
        except (InvalidTag, ValueError):
            raise refused from None
        if said["session"] != session or said["page"] != page:
            raise NotAuthenticated("the ticket is for another session, or for a page of another origin; fetch another")
        return str(said["token"])


def _of(ticket: str) -> tuple[str, bytes]:
    """Return where a ticket's token lies, and the key that opens it; neither tells the other."""
    return (
        f"ticket.{hashlib.sha256(b'place ' + ticket.encode()).hexdigest()[:32]}",
        hashlib.sha256(b"key " + ticket.encode()).digest(),
    )
