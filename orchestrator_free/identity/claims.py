"""What the claims of somebody else's tokens mean here, as a file says. Pure: text in, a reading or an error out.

An identity provider knows its users, and nothing of sessions and capabilities. The file says which claim is the
member's name, what every token allows, and what its roles add. What it does not name grants nothing.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free.errors import InvalidInput, NotAuthenticated
from orchestrator_free.identity.principal import check_capabilities, check_grants

#: a claim's name, or the way to it through objects
Where = tuple[str, ...]

_MEMBER: Final = "{member}"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What is allowed.

    Attributes:
        capabilities: as in a token's `cap`.
        sessions: as in a token's `sessions`; `{member}` stands for the member's name.
    """

    capabilities: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How claims are read.

    Attributes:
        member: the claim that says who somebody is; one that its owner cannot choose.
        escape: characters that a name cannot have become `_` and their code, so that no two names become one.
        everybody: what every token allows.
        sessions: the claim with sessions that a token allows besides, if there is one.
        roles: the claim with roles; what is allowed to each.
    """

    member: Where = ("sub",)
    escape: bool = False
    everybody: Allowed = Allowed()
    sessions: Where | None = None
    role: Where | None = None
    roles: Mapping[str, Allowed]

    def read(self, claims: Mapping[str, Any], token: str) -> dict[str, Any]:
        """Return the claims as a token of ours would have them.

        Raises:
            NotAuthenticated: a claim that is named is not what it has to be.
        """
        member = _find(claims, self.member)
        if not isinstance(member, str) or not member:
            raise NotAuthenticated(f"the token has no text in the claim {'.'.join(self.member)}, the member's name")
        name = _UNSAFE.sub(_escaped, member) if self.escape else member
        allowed = [self.everybody, *(self.roles[one] for one in self._texts(claims, self.role) if one in self.roles)]
        sessions = [one.replace(_MEMBER, name) for some in allowed for one in some.sessions]
        found = {claim: claims[claim] for claim in ("iat", "exp") if claim in claims} | {
            "sub": name,
            "jti": claims.get("jti") or token_id(token),
            "cap": [capability for some in allowed for capability in some.capabilities],
            "sessions": sessions + self._texts(claims, self.sessions),
        }
        if not found["sessions"]:
            raise NotAuthenticated(f"the token allows {name!r} no session; see the sessions and roles of --auth-claims")
        return found

    @staticmethod
    def _texts(claims: Mapping[str, Any], where: Where | None) -> list[str]:
        """Return what a claim lists: texts, or words of one text; nothing if it is not there."""
        found = [] if where is None else _find(claims, where)
        if found is None:
            return []
        if isinstance(found, str):
            return found.split()
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
        raise NotAuthenticated(f"the token's claim {'.'.join(where or ())} is no list of texts")


def token_id(token: str) -> str:
    """Return an id for a token that has none (`jti`)."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"_{byte:02X}" for byte in found[0].encode())


def _find(claims: Any, where: Where) -> Any:
    for step in where:
        claims = claims.get(step) if isinstance(claims, Mapping) else None
    return claims


def parse_reading(text: str) -> Reading:
    """Read the file.

    Raises:
        InvalidInput: it is none; says what is wrong.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"no TOML: {error}") from None
    _known("the file", found, {"member", "escape", "capabilities", "sessions", "claims", "roles"})
    claims, roles = found.get("claims", {}), found.get("roles", {})
    if not isinstance(claims, dict) or not isinstance(roles, dict):
        raise InvalidInput("[claims] names claims, [roles.NAME] says what a role adds: both are tables")
    _known("[claims]", claims, {"sessions", "roles"})
    if bool(roles) != ("roles" in claims):
        raise InvalidInput("roles need both: the claim that has them, roles in [claims], and a [roles.NAME] for each")
    if not isinstance(found.get("escape", False), bool):
        raise InvalidInput("escape is true or false")
    return Reading(
        member=_where("member", found.get("member", "sub")),
        escape=found.get("escape", False),
        everybody=_allowed("the file", {name: found[name] for name in ("capabilities", "sessions") if name in found}),
        sessions=_where("[claims] sessions", claims["sessions"]) if "sessions" in claims else None,
        role=_where("[claims] roles", claims["roles"]) if "roles" in claims else None,
        roles=dict(_roles(roles)),
    )


def _roles(found: Mapping[str, Any]) -> Iterator[tuple[str, Allowed]]:
    for name, about in found.items():
        if not isinstance(about, dict):
            raise InvalidInput(f"roles.{name} is a table, as in: [roles.{name}] and capabilities = ['handoff']")
        _known(f"[roles.{name}]", about, {"capabilities", "sessions"})
        yield name, _allowed(f"[roles.{name}]", about)


def _allowed(where: str, found: Mapping[str, Any]) -> Allowed:
    listed = {name: _list(f"{where}: {name}", value) for name, value in found.items()}
    try:
        check_capabilities(listed.get("capabilities", ()))
        check_grants(one.replace(_MEMBER, "m") for one in listed.get("sessions", ()))
    except NotAuthenticated as error:
        raise InvalidInput(f"{where}: {error}") from None
    return Allowed(**listed)


def _list(what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidInput(f"{what} is a list of texts")
    return tuple(value)


def _where(what: str, value: Any) -> Where:
    found = (value,) if isinstance(value, str) else _list(what, value)
    if not all(found) or not found:
        raise InvalidInput(f"{what} is the name of a claim, or a list: the way to it through objects")
    return found


def _known(where: str, found: Mapping[str, Any], names: set[str]) -> None:
    if unknown := found.keys() - names:
        raise InvalidInput(f"{where} has {min(unknown)!r}; there is {', '.join(sorted(names))}")
