"""The roles: what each kind of user may publish and receive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free.contract.consumers import agent_consumer_name, control_consumer_name, service_consumer_name
from orchestrator_free.contract.durable import DURABLE_ROOT, DURABLE_STREAM
from orchestrator_free.contract.streams import (
    ACCESS_BUCKET,
    AUDIT,
    OBJECT_BUCKET,
    PRESENCE_BUCKET,
    TIMERS,
    TOMBSTONE_ROOT,
    stream_name,
)
from orchestrator_free.errors import InvalidInput, InvalidName
from orchestrator_free.subjects import AT, AUDIT_ROOT, LIVE, ROOT, STEWARD, check_name

#: how replies come to callers of the Synadia Agent Protocol; their libraries let nobody change it
CALLERS_INBOX: Final = "_INBOX.agents.>"
_CALLERS: Final = CALLERS_INBOX.split(".")[1]
#: what such callers ask, prompts aside
DISCOVERY: Final = tuple(f"$SRV.{verb}{whom}" for verb in ("PING", "INFO") for whom in ("", ".agents", ".agents.*"))
#: what callers say to the front door; where they answer its questions; what they hear of it
PROMPTED: Final = (*DISCOVERY, "agents.prompt.*.*.*", "agents.status.*.*.*")
ANSWERED: Final = "agents.answer.*"
HEARTBEATS: Final = "agents.hb.*.*.*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one kind of user may do; `{member}` stands for its name, `{stream}` for each shard's stream in turn.

    `{session}` stands for each session that it may join, or for any.

    Attributes:
        about: who it is for, in a sentence.
        publish: subjects it may publish to, requests included.
        subscribe: subjects it may receive.
    """

    about: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


_PRESENCE_STREAM: Final = f"KV_{PRESENCE_BUCKET}"
_OBJECT_STREAM: Final = f"OBJ_{OBJECT_BUCKET}"
#: who this user is and what it may: for `doctor`, and for whoever signs prompts
ABOUT_SELF: Final = "$SYS.REQ.USER.INFO"
#: requests that are answered with many messages, and those that are answered with one
STREAMED: Final = ("$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{_PRESENCE_STREAM}")
#: reading the log, the presence and the objects, without making anything at the broker
LOOK_UP: Final = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.{stream}",
    "$JS.API.STREAM.MSG.GET.{stream}",
    f"$JS.API.STREAM.INFO.{_PRESENCE_STREAM}",
    f"$JS.API.STREAM.INFO.{TIMERS}",
    f"$JS.API.STREAM.MSG.GET.{TIMERS}",
    f"$JS.API.STREAM.INFO.{_OBJECT_STREAM}",
    f"$JS.API.STREAM.MSG.GET.{_OBJECT_STREAM}",
    *STREAMED,
)
_READ: Final = (
    *LOOK_UP,
    ABOUT_SELF,
    "$JS.API.STREAM.NAMES",
    "$JS.API.DIRECT.GET.{stream}.>",
    f"$JS.API.DIRECT.GET.{_OBJECT_STREAM}.>",
    # The clients of NATS read the chunks of an object through a consumer of a random name.
    f"$JS.API.CONSUMER.CREATE.{_OBJECT_STREAM}",
    f"$JS.API.CONSUMER.CREATE.{_OBJECT_STREAM}.>",
    f"$JS.API.CONSUMER.DELETE.{_OBJECT_STREAM}.*",
    f"$JS.FC.{_OBJECT_STREAM}.>",
)


#: says that a shard has another leader; what the one before had not republished is only in the log
LEADER_ELECTED: Final = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{stream}"
_HEAR: Final = ("_INBOX.{member}.>", f"{LIVE}{ROOT}.>", f"$KV.{PRESENCE_BUCKET}.>")
#: who looks at a session speaks for itself only: readers take the member from the key
_LOOK: Final = f"$KV.{PRESENCE_BUCKET}.watch.{{session}}.{{member}}.*"


def _pull(name: str) -> tuple[str, ...]:
    """Return what a member needs for a durable consumer that is there: the literal name keeps others away from it."""
    return (
        f"$JS.API.CONSUMER.CREATE.{{stream}}.{name}",
        f"$JS.API.CONSUMER.INFO.{{stream}}.{name}",
        f"$JS.API.CONSUMER.MSG.NEXT.{{stream}}.{name}",
        f"$JS.ACK.{{stream}}.{name}.>",
        f"$JS.ACK.*.*.{{stream}}.{name}.>",
    )


_DURABLE_CALLS: Final = ("STREAM.INFO", "STREAM.CREATE", "STREAM.MSG.GET", "STREAM.PURGE", "DIRECT.GET")


def _consumer(name: str) -> tuple[str, ...]:
    """Return what a member needs for a durable consumer of its own."""
    return (
        *_pull(name),
        f"$JS.API.CONSUMER.CREATE.{{stream}}.{name}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{{stream}}.{name}",
    )


#: the chunks of an object carry who wrote them; its description, by name, does not
_WRITE_OBJECTS: Final = (f"$O.{OBJECT_BUCKET}.C.{{member}}.*", f"$O.{OBJECT_BUCKET}.M.*")
#: what a member may say that does work; not `meta` (which renames and deletes sessions)
WORKING_KINDS: Final = (
    "run.*", "in.*.*", "ctl.*.*", "outcome.*", "state.*", "ask.*", "answer.*", "stage.*.*", "lease.*", "floor",
    "presence",
)  # fmt: skip
#: of these, what it may let the broker say later
TIMED_KINDS: Final = ("stage.*.*", "ctl.*.*")
#: what an agent says, each under its own name
_WORK: Final = (
    *(f"{ROOT}.*.{{session}}.{{member}}.{kind}" for kind in WORKING_KINDS),
    *(f"{AT}{ROOT}.*.{{session}}.{{member}}.{kind}" for kind in TIMED_KINDS),
    f"{STEWARD}compact.{ROOT}.*.{{session}}.{{member}}.run.*",
    f"$KV.{PRESENCE_BUCKET}.agent.{{member}}.*",
    _LOOK,
    *_WRITE_OBJECTS,
)

#: what speaks for others: all of the log, and what was done in it
_CORE: Final = (
    f"{ROOT}.>",
    f"{AT}{ROOT}.>",
    f"{DURABLE_ROOT}.>",
    f"$KV.{PRESENCE_BUCKET}.>",
    *_READ,
    *(f"$JS.API.{call}.{DURABLE_STREAM}" for call in _DURABLE_CALLS),
    f"$O.{OBJECT_BUCKET}.C.>",
    f"$O.{OBJECT_BUCKET}.M.*",
    # The steward answers whoever asks it from another account.
    "_R_.>",
    f"$JS.API.STREAM.PURGE.{_OBJECT_STREAM}",
    f"$JS.API.STREAM.CREATE.{_PRESENCE_STREAM}",
    f"$JS.API.STREAM.CREATE.{_OBJECT_STREAM}",
    f"$JS.API.STREAM.CREATE.{TIMERS}",
    f"$JS.API.STREAM.PURGE.{TIMERS}",
    "$JS.API.STREAM.CREATE.{stream}",
    "$JS.API.STREAM.UPDATE.{stream}",
    "$JS.API.STREAM.PURGE.{stream}",
    "$JS.API.CONSUMER.*.{stream}",
    "$JS.API.CONSUMER.*.{stream}.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>",
    "$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
    "$JS.ACK.{stream}.>",
    "$JS.ACK.*.*.{stream}.>",
    # Tickets, and what is revoked: nobody else may read or write them.
    f"$KV.{ACCESS_BUCKET}.>",
    f"$JS.API.STREAM.INFO.KV_{ACCESS_BUCKET}",
    f"$JS.API.STREAM.CREATE.KV_{ACCESS_BUCKET}",
    f"$JS.API.STREAM.MSG.GET.KV_{ACCESS_BUCKET}",
    f"$JS.API.DIRECT.GET.KV_{ACCESS_BUCKET}",
    # It writes what was done, and whether something was erased; it reads nothing of the rest.
    f"{AUDIT_ROOT}.>",
    f"$JS.API.STREAM.CREATE.{AUDIT}",
    f"$JS.API.DIRECT.GET.{AUDIT}.{TOMBSTONE_ROOT}.>",
)

#: roles that can be narrowed to some sessions
NARROW: Final = ("agent", "isolated")

#: roles that make the streams where they are missing, and so have to know how
MAKERS: Final = ("core", "operator")

ROLES: Final[dict[str, Role]] = {
    "core": Role(
        about="The gateway and the monitor: publishes for people, so it may use every member's name.",
        publish=_CORE,
        subscribe=(*_HEAR, f"{LIVE}{DURABLE_ROOT}.>", f"{STEWARD}>", "$JS.EVENT.ADVISORY.>"),
    ),
    "operator": Role(
        about="Operates an installation: also backup, restore, erasure and reading the audit log.",
        publish=(
            *_CORE,
            "$JS.API.STREAM.INFO.*",
            "$JS.API.STREAM.SNAPSHOT.*",
            "$JS.API.STREAM.RESTORE.*",
            "$JS.SNAPSHOT.ACK.>",
            "$JS.SNAPSHOT.RESTORE.>",
            "$JS.API.CONSUMER.LIST.*",
            "$JS.API.CONSUMER.INFO.*.*",
            "$JS.API.CONSUMER.CREATE.>",
            "$JS.API.CONSUMER.RESET.*.*",
            # To search all that is stored for what was erased.
            "$JS.API.DIRECT.GET.*",
            f"$JS.API.STREAM.MSG.GET.{AUDIT}",
            f"$JS.API.STREAM.PURGE.{_PRESENCE_STREAM}",
        ),
        subscribe=(*_HEAR, f"{LIVE}{DURABLE_ROOT}.>", "$JS.EVENT.ADVISORY.>"),
    ),
    "agent": Role(
        about="An agent with all its replicas: publishes under its own name, takes its own inputs, reads all sessions.",
        publish=(
            *_WORK,
            *_READ,
            *_consumer(agent_consumer_name("{member}")),
            *_consumer(control_consumer_name("{member}")),
        ),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
    "isolated": Role(
        about="An agent whose code is not trusted, in the account of such agents: the same work, makes nothing itself.",
        publish=(
            *_WORK,
            *LOOK_UP,
            ABOUT_SELF,
            *_pull(agent_consumer_name("{member}")),
            *_pull(control_consumer_name("{member}")),
        ),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
    "service": Role(
        about="A service that follows all sessions with a durable consumer of its own; publishes no event.",
        publish=(_LOOK, *_READ, *_consumer(service_consumer_name("{member}"))),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
    "notifier": Role(
        about="Tells people by webhook what happened while nobody was watching; writes down what reached nobody.",
        publish=(f"{ROOT}.*.*.{{member}}.notice.*", *_READ, *_consumer(service_consumer_name("{member}"))),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
    "door": Role(
        about="The front door for callers of the Synadia Agent Protocol: their prompts are inputs under its own name.",
        publish=(
            *(f"{ROOT}.*.*.{{member}}.{kind}" for kind in ("in.*.*", "answer.*", "meta")),
            *_READ,
            *_WRITE_OBJECTS,
            HEARTBEATS,
            # Their replies: in its own account, and through an import in another.
            CALLERS_INBOX,
            "_R_.>",
            # Its echo behind each chunk: the broker has passed on what came before.
            "_INBOX.{member}.>",
        ),
        subscribe=(*_HEAR, LEADER_ELECTED, *PROMPTED, ANSWERED),
    ),
    "guest": Role(
        about="An agent of the Synadia Agent Protocol as a member of sessions: an agent, and a caller in its account.",
        publish=(
            *_WORK,
            *_READ,
            *_consumer(agent_consumer_name("{member}")),
            *_consumer(control_consumer_name("{member}")),
            *PROMPTED,
            CALLERS_INBOX,
        ),
        subscribe=(*_HEAR, LEADER_ELECTED, CALLERS_INBOX, HEARTBEATS),
    ),
    "caller": Role(
        about="A caller of the Synadia Agent Protocol, who knows nothing of sessions; in an account of its own.",
        publish=(*PROMPTED, ANSWERED, ABOUT_SELF),
        subscribe=(CALLERS_INBOX, "_INBOX.{member}.>", HEARTBEATS),
    ),
    "observer": Role(
        about="Reads all sessions, live and from the log; keeps no position at the broker, publishes no event.",
        publish=(_LOOK, *_READ),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
}


def permissions(role: str, member: str, *, shards: int = 1, sessions: Iterable[str] = ()) -> dict[str, Any]:
    """Return the permissions of a member in a role, as nats-server's configuration takes them.

    Args:
        role: one of `ROLES`.
        member: its name.
        shards: how many there are.
        sessions: those that it may join; none for all.

    Raises:
        InvalidName: the name, or that of a session, cannot be one.
        InvalidInput: the role cannot be narrowed to sessions.
    """
    joins = tuple(sessions)
    check_role(role, member, joins)
    found = ROLES[role]
    return {
        "publish": {"allow": expand(found.publish, member, shards, joins)},
        "subscribe": {"allow": expand(found.subscribe, member, shards, joins)},
    }


def check_role(role: str, member: str, sessions: Iterable[str] = ()) -> None:
    """Refuse a member, or sessions, that a role cannot be for.

    Raises:
        InvalidName: the name, or that of a session, cannot be one.
        InvalidInput: the role cannot be narrowed to sessions.
    """
    if check_name("member", member) == _CALLERS:
        raise InvalidName(f"member {member!r} would share its inbox with callers of the Synadia Agent Protocol")
    joins = [check_name("session", session) for session in sessions]
    if joins and role not in NARROW:
        raise InvalidInput(f"{role!r} is for all sessions; only these can be narrowed: {', '.join(NARROW)}")


def expand(templates: Iterable[str], member: str, shards: int, sessions: Iterable[str] = ()) -> list[str]:
    """Return the subjects that templates stand for, each once."""
    subjects: dict[str, None] = {}
    streams, joins = [stream_name(shard) for shard in range(shards)], tuple(sessions) or ("*",)
    for template in templates:
        named = template.replace("{member}", member)
        found = [named.replace("{session}", session) for session in joins] if "{session}" in named else [named]
        for one in found:
            subjects |= dict.fromkeys(
                [one.replace("{stream}", name) for name in streams] if "{stream}" in one else [one]
            )
    return list(subjects)
