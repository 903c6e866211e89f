"""Who a token says somebody is, and what it lets them do. Pure: claims in, a `Principal` or an error out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from orchestrator_free.errors import InvalidName, NotAllowed, NotAuthenticated
from orchestrator_free.subjects import check_name

Capability = Literal["read", "write", "control", "presence", "state", "approve", "handoff", "speak", "admin", "operate"]

#: every capability, and what it stands for
CAPABILITIES: Final[dict[Capability, str]] = {
    "read": "follow sessions, and read what is in them",
    "write": "begin sessions, say something in them, ask, choose a branch",
    "control": "cancel, steer, redirect, pause, resume",
    "presence": "say that one is away, or back",
    "state": "change shared values",
    "approve": "answer what is asked",
    "handoff": "take the floor, and pass it on",
    "speak": "speak in another member's name: for services that know who that is",
    "admin": "delete sessions, look into them, see to dead letters",
    "operate": "read the gateway's metrics",
}
#: what a person in an application needs
DEFAULT_CAPABILITIES: Final[tuple[Capability, ...]] = (
    "read", "write", "control", "presence", "state", "approve", "handoff",
)  # fmt: skip
#: a name, the beginning of names, or any
_GRANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}|[A-Za-z0-9_-]{0,63}\*")
#: the same for paths of streams
_PATH: Final = re.compile(r"[A-Za-z0-9_.~/-]{0,512}\*?")
#: made-up names need so much room behind a prefix
_PREFIX_LENGTH: Final = 32
_MOST: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody with a token, or everybody where no identity is asked for (`OPEN`).

    Attributes:
        member: who publishes; the token's subject.
        capabilities: what it may do.
        sessions: names it may enter; with `*` at the end, all that begin so.
        agents: whose words it may read beside its own; None for everybody's.
        streams: paths of Durable Streams it may use, as `sessions`; None: those that are named as its sessions.
        token: the token's id; empty without one.
        issued: when it was made, in seconds since 1970.
        expires: when it ends; None for never.
    """

    member: str
    capabilities: frozenset[Capability]
    sessions: tuple[str, ...]
    agents: frozenset[str] | None = None
    streams: tuple[str, ...] | None = None
    token: str = ""
    issued: float = 0.0
    expires: float | None = None

    def need(self, *capabilities: Capability) -> None:
        """Check that it may do something.

        Raises:
            NotAllowed: a capability is missing.
        """
        if missing := [one for one in capabilities if one not in self.capabilities]:
            about = "; ".join(f"{one!r} ({CAPABILITIES[one]})" for one in missing)
            raise NotAllowed(f"the token of {self.member!r} does not have the capability {about}")

    def speaks_as(self, claimed: str | None) -> str:
        """Return the member in whose name it speaks: its own, or with `speak` the one that is claimed.

        Raises:
            NotAllowed: another member's name.
            InvalidName: what is claimed can be no name.
        """
        if claimed is None or claimed == self.member:
            return self.member
        check_name("from", claimed)
        if "speak" not in self.capabilities:
            raise NotAllowed(
                f"this token is {self.member!r}'s and does not speak for {claimed!r}; leave the member out, or let a "
                "service with the capability 'speak' say it"
            )
        return claimed

    def enters(self, session: str) -> bool:
        """Whether it may enter a session; one that it may not looks to it as if there were none."""
        return any(_covers(grant, session) for grant in self.sessions)

    def new_session(self, made_up: str) -> str:
        """Return a name for a session that nobody has named, one that it may enter.

        Raises:
            NotAllowed: every session that it may enter is named.
        """
        for grant in self.sessions:
            if grant.endswith("*") and len(grant) <= _PREFIX_LENGTH:
                return grant[:-1] + made_up
        raise NotAllowed(f"the token of {self.member!r} is for named sessions only; name the one that is to begin")

    @property
    def sees(self) -> frozenset[str] | None:
        """Whose words it may read; None for everybody's."""
        return None if self.agents is None else self.agents | {self.member}

    def hears(self, member: str) -> bool:
        """Whether it may read a member's words."""
        return self.agents is None or member == self.member or member in self.agents

    def reach(self, path: str) -> None:
        """Check that it may use a stream of the Durable Streams protocol, by its path.

        Raises:
            NotAllowed: it may not, whether or not there is one.
        """
        if self.streams is not None:
            granted = any(_covers(grant, path) for grant in self.streams)
        else:
            granted = "*" in self.sessions or self.enters(path.removeprefix("sessions/"))
        if not granted:
            raise NotAllowed(f"this token is not for the stream {path[:200]!r}")


#: everybody, where no identity is asked for
OPEN: Final = Principal(member="user", capabilities=frozenset(CAPABILITIES), sessions=("*",))


def _covers(grant: str, name: str) -> bool:
    return name.startswith(grant[:-1]) if grant.endswith("*") else name == grant


def principal_of(claims: Mapping[str, Any]) -> Principal:
    """Read the claims of a verified token.

    Raises:
        NotAuthenticated: a claim is missing or cannot be read; says which.
    """
    agents = _list(claims, "agents", None)
    try:
        member = check_name("sub", claims.get("sub"))
        visible = None if agents is None else frozenset(check_name("agents", name) for name in agents)
    except InvalidName as error:
        raise NotAuthenticated(f"the token's claim {error}") from error
    streams = _list(claims, "streams", None)
    return Principal(
        member=member,
        capabilities=check_capabilities(_list(claims, "cap", ())),
        sessions=check_grants(_list(claims, "sessions", ())),
        agents=visible,
        streams=None if streams is None else check_paths(streams),
        token=_text(claims, "jti"),
        issued=_time(claims, "iat"),
        expires=_time(claims, "exp"),
    )


def check_capabilities(names: Iterable[str]) -> frozenset[Capability]:
    """Return capabilities by name.

    Raises:
        NotAuthenticated: one is unknown: a token that says more than is understood is refused, not narrowed.
    """
    found = list(names)
    if unknown := sorted(set(found) - set(get_args(Capability))):
        raise NotAuthenticated(f"cap: {unknown[0][:40]!r} is no capability; there are {', '.join(CAPABILITIES)}")
    return frozenset(capability for capability in get_args(Capability) if capability in found)


def check_grants(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of sessions, and beginnings of names, as they are given.

    Raises:
        NotAuthenticated: one can be neither.
    """
    found = tuple(names)
    for name in found:
        if not _GRANT.fullmatch(name):
            raise NotAuthenticated(
                f"sessions: {name[:80]!r} is no session's id, and no beginning of ids with * behind it"
            )
    return found


def check_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Return paths of streams, and beginnings of paths, as they are given.

    Raises:
        NotAuthenticated: one can be neither.
    """
    found = tuple(paths)
    for path in found:
        if not _PATH.fullmatch(path) or path.startswith("/"):
            raise NotAuthenticated(
                f"streams: {path[:80]!r} is no path below /v1/stream/, nor the beginning of one with *"
            )
    return found


def _list(claims: Mapping[str, Any], name: str, absent: Any) -> Any:
    found = claims.get(name, absent)
    if found is absent:
        return absent
    if not isinstance(found, list) or len(found) > _MOST or not all(isinstance(one, str) for one in found):
        raise NotAuthenticated(f"the token's claim {name} is no list of at most {_MOST} texts")
    return found


def _text(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= 200:
        raise NotAuthenticated(f"the token's claim {name} is no text of 1 to 200 characters")
    return found


def _time(claims: Mapping[str, Any], name: str) -> float:
    found = claims.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise NotAuthenticated(f"the token's claim {name} is no time in seconds since 1970")
    return float(found)
