"""Tokens: JSON Web Tokens that are made with a key of a file, and verified against a key set.

The algorithm comes from the key, the key from the set by its id; a token that brings or names a key of its own is
refused. Every claim that counts is required.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from orchestrator_free.errors import InvalidInput, NotAuthenticated, TokenExpired
from orchestrator_free.identity.claims import Reading, token_id
from orchestrator_free.identity.keys import Key
from orchestrator_free.identity.keysets import KeySet
from orchestrator_free.identity.principal import (
    DEFAULT_CAPABILITIES,
    Principal,
    check_capabilities,
    check_grants,
    check_paths,
    principal_of,
)
from orchestrator_free.subjects import check_name

ISSUER: Final = "orchestrator-free"
AUDIENCE: Final = "orchestrator-free"
#: a browser's token: a new one is fetched often
TTL_SECONDS: Final = 600
LEEWAY_SECONDS: Final = 30.0
_REQUIRED: Final = ["exp", "iat", "iss", "aud", "sub", "jti", "cap", "sessions"]
_REQUIRED_OF_OTHERS: Final = ("exp", "iat", "iss", "aud")
_FOREIGN_KEYS: Final = ("jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit")
_LONGEST: Final = 8192
_KEPT: Final = 10_000
#: clocks differ: what is revoked is remembered for longer than it could count
_MARGIN_SECONDS: Final = 300.0


def mint(
    key: Key,
    member: str,
    *,
    sessions: Iterable[str],
    capabilities: Iterable[str] = DEFAULT_CAPABILITIES,
    agents: Iterable[str] | None = None,
    streams: Iterable[str] | None = None,
    seconds: float = TTL_SECONDS,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
    now: float | None = None,
) -> str:
    """Make a token.

    Args:
        key: what signs it.
        member: whose it is.
        sessions: ids it is for; `support-*` for all that begin so, `*` for all.
        capabilities: what it allows.
        agents: whose words it may read beside its own; None for everybody's.
        streams: paths below `/v1/stream/`, written as sessions are; None: those named as its sessions.
        seconds: how long it counts.
        issuer: who made it.
        audience: for whom.
        now: seconds since 1970.

    Raises:
        InvalidInput: a name, a capability or a time that cannot be one.
    """
    if key.signing is None:
        raise InvalidInput("a public key makes no tokens; use the private key file")
    now = time.time() if now is None else now
    claims: dict[str, Any] = {
        "iss": issuer, "aud": audience, "sub": check_name("member", member), "jti": secrets.token_hex(12),
        "iat": int(now), "exp": int(now + seconds),
    }  # fmt: skip
    try:
        claims |= {"sessions": list(check_grants(sessions)), "cap": sorted(check_capabilities(capabilities))}
        claims |= {} if streams is None else {"streams": list(check_paths(streams))}
    except NotAuthenticated as error:
        raise InvalidInput(str(error)) from error
    if agents is not None:
        claims["agents"] = [check_name("agents", name) for name in agents]
    return jwt.encode(claims, key.signing, algorithm=key.algorithm, headers={"kid": key.id})


@dataclass(slots=True)
class _Known:
    """A token that was verified, with which key of which version of the keys; who it is, once somebody has asked."""

    version: int
    key: str
    claims: dict[str, Any]
    principal: Principal | None = None


class Verifier:
    """Says who a token is, as often as it is shown."""

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str = ISSUER,
        audience: str = AUDIENCE,
        leeway: float = LEEWAY_SECONDS,
        required: Sequence[str] = _REQUIRED,
        reading: Reading | None = None,
    ) -> None:
        """Prepare.

        Args:
            keys: what verifies.
            issuer: who has to have made a token.
            audience: for whom it has to be.
            leeway: seconds that clocks may differ by.
            required: claims that a token has to have.
            reading: what the claims of somebody else's tokens mean here; None: they are ours.
        """
        self.keys = keys
        self._required = list(required if reading is None else _REQUIRED_OF_OTHERS)
        self._reading = reading
        self.leeway = leeway
        self._issuer = issuer
        self._audience = audience
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Return who a token is.

        Raises:
            TokenExpired: its time is over.
            NotAuthenticated: it does not count; says why.
        """
        known = await self._verified(token)
        if known.principal is None:
            known.principal = principal_of(known.claims)
        self.check_time(known.principal)
        return known.principal

    def ends(self, principal: Principal) -> float:
        """Return when a token counts no more, in seconds since 1970."""
        return float("inf") if principal.expires is None else principal.expires + self.leeway

    async def claims(self, token: str) -> dict[str, Any]:
        """Return what a token says, for who reads other claims than a `Principal` has.

        Raises:
            TokenExpired: its time is over.
            NotAuthenticated: it does not count; says why.
        """
        known = await self._verified(token)
        self._check_end(float(known.claims["exp"]) + self.leeway)
        return known.claims

    def check_time(self, principal: Principal) -> None:
        """Check that the time of a token is not over.

        Raises:
            TokenExpired: it is.
        """
        self._check_end(self.ends(principal))

    def _check_end(self, end: float) -> None:
        if (over := time.time() - end) >= 0:
            raise TokenExpired(f"the token has expired {over + self.leeway:.0f} s ago; fetch a new one")

    async def _verified(self, token: str) -> _Known:
        """Return what a token says; one that was shown before is verified again only if the keys are others."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        key = await self._key(_kid(token) if known is None else known.key)  # first: it may read the keys again
        if known is None or known.version != self.keys.version:
            claims = self._claims(token, key)
            if self._reading is not None:
                claims = self._reading.read(claims, token)
            known = self._known[digest] = _Known(self.keys.version, key.id, claims)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known

    async def _key(self, id: str) -> Key:
        key = await self.keys.find(id)
        if key is None and not id:
            raise NotAuthenticated("the token's header names no key (kid)")
        if key is None:
            raise NotAuthenticated(f"the token is signed with key {id[:40]!r}, which this gateway does not know")
        return key

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        try:
            found: dict[str, Any] = jwt.decode(
                token, key.verifying, algorithms=[key.algorithm], issuer=self._issuer, audience=self._audience,
                leeway=self.leeway, options={"require": self._required},
            )  # fmt: skip
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired("the token has expired; fetch a new one") from error
        except jwt.InvalidTokenError as error:
            raise NotAuthenticated(f"the token does not count: {error}") from error
        return found


def id_of(token: str, *, now: float | None = None) -> tuple[str, float]:
    """Return the id of a token, and for how many seconds it may still count; its signature is not checked.

    Raises:
        InvalidInput: it is no token, or has none.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        left = float(claims["exp"]) + LEEWAY_SECONDS - (time.time() if now is None else now)
        return str(claims.get("jti") or token_id(token)), max(1.0, left + _MARGIN_SECONDS)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput("this is no token with an end (exp)") from error


def _kid(token: str) -> str:
    """Return the id of the key that a token names; empty if it names none.

    Raises:
        NotAuthenticated: it is no token, or brings a key of its own.
    """
    if len(token) > _LONGEST:
        raise NotAuthenticated(f"a token is no longer than {_LONGEST} characters")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise NotAuthenticated("this is no JSON Web Token") from error
    if foreign := [name for name in _FOREIGN_KEYS if name in header]:
        raise NotAuthenticated(f"the token's header has {foreign[0]!r}; keys are those of this gateway alone")
    id = header.get("kid", "")
    if not isinstance(id, str):
        raise NotAuthenticated("the token's header names no key (kid)")
    return id
