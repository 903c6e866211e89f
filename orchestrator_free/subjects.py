"""The grammar of subjects, names and positions: the one place that builds, parses and refuses them.

`session.<shard>.<session>.<member>.<kind>[.<target>][.<id>]`; the broker republishes every stored message below
`live.`. The sender stands in the subject, so the broker's permissions are the identity check.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator_free.errors import InvalidName, InvalidPosition

TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHARD: Final = re.compile(r"0|[1-9][0-9]{0,3}")
ROOT: Final = "session"
LIVE: Final = "live."
#: what the broker is to say later stands on this prefix and the subject it will have; at its time it moves to DUE
AT: Final = "at."
DUE: Final = "due."
#: what members that are not trusted ask of the core's steward, who does it for them or refuses
STEWARD: Final = "steward."
#: who did what, in a stream of its own
AUDIT_ROOT: Final = "audit"
ALL: Final = "all"

#: kind -> what follows it in the subject
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "in": ("target", "id"),
    "run": ("id",),
    "ctl": ("target", "id"),
    "outcome": ("id",),
    "state": ("id",),
    "ask": ("id",),
    "answer": ("id",),
    "stage": ("target", "id"),
    "lease": ("id",),
    "notice": ("id",),
    "floor": (),
    "meta": (),
    "presence": (),
}


def check_name(what: str, value: object) -> str:
    """Return `value` if it can be a subject token.

    Raises:
        InvalidName: names what was wrong, e.g. `session 'a.b' ...`.
    """
    if isinstance(value, str) and TOKEN.fullmatch(value):
        return value
    shown = repr(value)
    shown = shown if len(shown) <= 90 else shown[:90] + "…"
    raise InvalidName(f"{what} {shown} is not a valid name: use 1 to 64 of the characters A-Z a-z 0-9 _ -")


def shard_of(session: str, shards: int) -> int:
    """Return the shard of a session: CRC-32 of its id modulo the number of shards."""
    return 0 if shards == 1 else zlib.crc32(session.encode()) % shards


def run_id(sender: str, input_id: str) -> str:
    """Return the id of the run that answers an input: 24 hex digits of SHA-256 over `sender.input`.

    Derived, so that a redelivered input meets its own earlier attempt, and nobody else's.
    """
    return hashlib.sha256(f"{sender}.{input_id}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed subject: who wrote which entity of which session."""

    shard: int
    session: str
    member: str
    kind: str
    target: str = ""
    id: str = ""

    def __str__(self) -> str:
        """Return the subject."""
        tail = ".".join(getattr(self, part) for part in KINDS[self.kind])
        return f"{ROOT}.{self.shard}.{self.session}.{self.member}.{self.kind}" + (f".{tail}" if tail else "")


def address(shard: int, session: str, member: str, kind: str, *, target: str = "", id: str = "") -> Address:
    """Build an address from untrusted parts; every part is checked."""
    check_name("session", session)
    check_name("member", member)
    for part in KINDS[kind]:
        check_name(f"{kind} {part}", {"target": target, "id": id}[part])
    return Address(shard, session, member, kind, target, id)


@lru_cache(maxsize=65536)
def parse(subject: str) -> Address | None:
    """Parse a stored subject; None if it is not one of ours (a reader counts and skips it)."""
    tokens = subject.split(".")
    if len(tokens) < 5 or tokens[0] != ROOT or not _SHARD.fullmatch(tokens[1]):
        return None
    _, shard, session, member, kind, *rest = tokens
    parts = KINDS.get(kind)
    if parts is None or len(rest) != len(parts):
        return None
    if not all(TOKEN.fullmatch(token) for token in (session, member, *rest)):
        return None
    named = dict(zip(parts, rest, strict=True))
    return Address(int(shard), session, member, kind, named.get("target", ""), named.get("id", ""))


def session_filter(shard: int, session: str) -> str:
    """Return the subject filter of everything in one session."""
    return f"{ROOT}.{shard}.{check_name('session', session)}.>"


def input_filters(shard: int, agent: str) -> list[str]:
    """Return the subject filters of the inputs an agent works on, in all sessions of a shard."""
    check_name("agent", agent)
    return [f"{ROOT}.{shard}.*.*.in.{agent}.*", f"{ROOT}.{shard}.*.*.in.{ALL}.*"]


_POSITION: Final = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a reader stands: the log's epoch and the sequence of the last event it has seen.

    Text form `<8 hex digits>-<sequence>`, opaque to users.
    """

    epoch: str
    sequence: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse the text form.

        Raises:
            InvalidPosition: the text is no position.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidPosition(
                f"{text[:80]!r} is not a position; pass one that an event, a view or an id: line gave"
            )
        return cls(match[1], int(match[2]))


def epoch_of(stream: str, created: str) -> str:
    """Return the epoch of a stream: 8 hex digits over its name and its creation time as the broker reports it."""
    return hashlib.sha256(f"{stream} {created}".encode()).hexdigest()[:8]
