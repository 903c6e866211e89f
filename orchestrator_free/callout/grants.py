"""What a token lets somebody do at the broker. Pure: claims in, a grant or an error out, and back.

Tokens for the broker have an audience of their own: one for the gateway opens nothing here, and the other way round.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from orchestrator_free import contract
from orchestrator_free.brokerdir.plan import Plan, check_tenant, check_user
from orchestrator_free.errors import InvalidInput, NotAuthenticated, TokenExpired
from orchestrator_free.identity.keys import Key
from orchestrator_free.identity.tokens import ISSUER

AUDIENCE: Final = "orchestrator-free-broker"
REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub", "jti", "tenant", "role")
#: a process reads a fresh token from its file at each connect
TTL_SECONDS: Final = 3600
_MOST_SESSIONS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who somebody is at the broker.

    Attributes:
        member: the name it publishes under.
        sessions: those it may take part in; none: all.
        issued: when its token was made; expires: until when it counts; seconds since 1970, 0 for a key.
    """

    tenant: str
    member: str
    role: str
    sessions: tuple[str, ...]
    issued: int
    expires: int

    @property
    def name(self) -> str:
        """How logs and the broker's lists call it."""
        return f"{self.tenant}/{self.member}"


def mint(
    key: Key,
    member: str,
    role: str,
    *,
    tenant: str,
    sessions: Iterable[str] = (),
    seconds: float = TTL_SECONDS,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
    now: float | None = None,
) -> str:
    """Make a token.

    Raises:
        InvalidInput: a name or a role that cannot be one, or a key that makes no tokens.
    """
    if key.signing is None:
        raise InvalidInput("a public key makes no tokens; use the private key file")
    bound = tuple(sessions)
    check_tenant(tenant)
    check_user(member, role, bound)
    now = time.time() if now is None else now
    claims: dict[str, Any] = {
        "iss": issuer, "aud": audience, "sub": member, "jti": secrets.token_hex(12), "iat": int(now),
        "exp": int(now + seconds), "tenant": tenant, "role": role,
    }  # fmt: skip
    claims |= {"sessions": list(bound)} if bound else {}
    return jwt.encode(claims, key.signing, algorithm=key.algorithm, headers={"kid": key.id})


def grant_of(claims: Mapping[str, Any], plan: Plan, *, now: float) -> Grant:
    """Read the claims of a verified token.

    Raises:
        TokenExpired: its time is over.
        NotAuthenticated: a claim cannot be read, the tenant is none of this broker's, or what it lets in was revoked.
    """
    sessions = claims.get("sessions", [])
    if not isinstance(sessions, list) or len(sessions) > _MOST_SESSIONS:
        raise NotAuthenticated(f"the claim sessions is no list of at most {_MOST_SESSIONS}")
    try:
        grant = Grant(
            tenant=str(claims["tenant"]), member=str(claims["sub"]), role=str(claims["role"]),
            sessions=tuple(map(str, sessions)), issued=int(claims["iat"]), expires=int(claims["exp"]),
        )  # fmt: skip
        check_user(grant.member, grant.role, grant.sessions)
    except (InvalidInput, KeyError, TypeError, ValueError) as error:
        raise NotAuthenticated(f"the token's claims cannot be: {error}") from error
    if grant.tenant not in plan.tenants:
        raise NotAuthenticated(f"no tenant {grant.tenant[:64]!r} at this broker")
    if grant.role == "isolated" and not plan.isolated:
        raise NotAuthenticated("this broker has no account for isolated agents")
    if grant.role == "caller" and grant.member not in plan.tenants[grant.tenant].callers:
        raise NotAuthenticated(f"no account for the caller {grant.name}; `broker caller` makes one")
    if grant.expires <= now:
        raise TokenExpired(f"the token of {grant.name} has expired {now - grant.expires:.0f} s ago")
    if grant.issued <= plan.revoked.get(grant.name, 0):
        raise NotAuthenticated(f"tokens of {grant.name} were revoked; a new one counts")
    return grant


def user_claims(grant: Grant, user: str, *, shards: int) -> dict[str, Any]:
    """Return the claims with which the broker lets somebody in: account, permissions, until when.

    Args:
        grant: what the token says.
        user: the key that the broker made for this connection.
        shards: how many the tenant's log has.
    """
    allowed = contract.permissions(grant.role, grant.member, shards=shards, sessions=grant.sessions)
    permissions = {"pub": allowed["publish"], "sub": allowed["subscribe"]}
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    return {
        "sub": user,
        "aud": contract.account_of(grant.role, grant.tenant, grant.member),
        "name": grant.name,
        "nats": {**permissions, **unlimited, "type": "user", "version": 2},
        **({"exp": grant.expires} if grant.expires else {}),
    }
