"""The contract with the broker as data: streams, buckets, consumers and permissions. `broker/` is written from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_free.subjects import ALL, AT, DUE, KINDS, LIVE, ROOT, check_name, input_filters

#: what must agree between every process and the broker; the rest of a stream's settings is the operator's
STRUCTURE: Final = (
    "subjects", "retention", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_atomic",
    "sources", "republish",
    "deny_purge", "deny_delete", "metadata.orchestrator_free.shards", "metadata.orchestrator_free.wire",
)  # fmt: skip
#: version of broker/PROTOCOL.md; a client refuses streams of another one
WIRE: Final = "1"
#: name of the stream of what the broker is to say later
TIMERS: Final = "SESSIONS_TIMERS"
PRESENCE_BUCKET: Final = "orchestrator_free_presence"
OBJECT_BUCKET: Final = "orchestrator_free_objects"
PRESENCE_TTL_SECONDS: Final = 6
#: a run's input is delivered again when its process was silent for this long
ACK_WAIT_SECONDS: Final = 8
#: an event is delivered to a service again when it was not acknowledged for this long
SERVICE_ACK_WAIT_SECONDS: Final = 30
_DUPLICATES_SECONDS: Final = 120
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What an operator chooses when the streams are created.

    Attributes:
        shards: number of streams the sessions are spread over; cannot change later.
        replicas: 1, or 3 in a cluster.
        max_age_seconds: events older than this are dropped, 0 keeps them.
        max_bytes: size of one shard's stream; beyond it publishing is refused, -1 for no limit.
    """

    shards: int = 1
    replicas: int = 1
    max_age_seconds: int = 0
    max_bytes: int = -1


def stream_name(shard: int) -> str:
    """Return the name of a shard's stream."""
    return f"SESSIONS_{shard}"


def stream_config(shard: int, settings: StreamSettings) -> dict[str, Any]:
    """Return the stream definition of a shard, as `nats stream add --config` takes it."""
    return {
        "name": stream_name(shard),
        "description": "orchestrator-free: the log of sessions",
        "subjects": [f"{ROOT}.{shard}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_age": settings.max_age_seconds * _SECOND,
        "max_bytes": settings.max_bytes,
        "max_msgs": -1,
        # A number: for -1 a broker as it comes takes 1,000, and that cannot be changed later.
        "max_consumers": 100_000,
        # The broker refuses a window that is longer than the age.
        "duplicate_window": min(_DUPLICATES_SECONDS, settings.max_age_seconds or _DUPLICATES_SECONDS) * _SECOND,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        # What is due carries a TTL for the stream it comes from; here nothing may vanish that was said.
        "allow_msg_ttl": False,
        "allow_atomic": True,
        # Schedules do not go with `discard: new`: they have a stream of their own, whose due messages come in here.
        "sources": [
            {"name": TIMERS, "subject_transforms": [{"src": f"{DUE}{ROOT}.{shard}.>", "dest": f"{ROOT}.{shard}.>"}]}
        ],
        "deny_purge": False,
        "deny_delete": False,
        # No subject_delete_marker_ttl: markers of expired inputs would come to agents as inputs.
        "republish": {"src": f"{ROOT}.{shard}.>", "dest": f"{LIVE}{ROOT}.{shard}.>"},
        "metadata": {"orchestrator_free.shards": str(settings.shards), "orchestrator_free.wire": WIRE},
    }


def agent_consumer_name(agent: str) -> str:
    """Return the name of the durable consumer that all replicas of an agent share, in each shard."""
    return f"agent-{agent}"


def agent_consumer(shard: int, agent: str, *, ack_wait_seconds: float = ACK_WAIT_SECONDS) -> dict[str, Any]:
    """Return the consumer that delivers inputs to the replicas of an agent."""
    return {
        "durable_name": agent_consumer_name(agent),
        "description": f"inputs for agent {agent}",
        "filter_subjects": input_filters(shard, agent),
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_seconds * _SECOND),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 65536,
        "metadata": {"orchestrator_free.agent": agent},
    }


def control_consumer_name(agent: str) -> str:
    """Return the name of the durable consumer of an agent's controls, in each shard."""
    return f"control-{agent}"


def control_consumer(shard: int, agent: str) -> dict[str, Any]:
    """Return the consumer that brings controls to the replicas of an agent until they have an outcome."""
    return {
        "durable_name": control_consumer_name(agent),
        "description": f"controls for agent {agent}",
        "filter_subjects": [f"{ROOT}.{shard}.*.*.ctl.{target}.*" for target in (check_name("agent", agent), ALL)],
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "new",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 4096,
        "metadata": {"orchestrator_free.controls": agent},
    }


def session_consumer_name(session: str, durable: str) -> str:
    """Return the name of a durable subscription to one session; `=` stands in no token, so no two can meet."""
    return f"session={session}={durable}"


def service_consumer_name(member: str) -> str:
    """Return the name of the durable consumer with which a service follows all sessions, in each shard."""
    return f"service-{member}"


def service_consumer(shard: int, member: str) -> dict[str, Any]:
    """Return the consumer with which a service follows every session of a shard from the beginning."""
    return {
        "durable_name": service_consumer_name(check_name("member", member)),
        "description": f"service {member}",
        "filter_subject": f"{ROOT}.{shard}.>",
        "ack_policy": "explicit",
        "ack_wait": SERVICE_ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 10_000,
    }


def notifier_consumer(shard: int, member: str, kinds: Iterable[str], start: str) -> dict[str, Any]:
    """Return the consumer with which a notifier hears of what it may have to tell people.

    Args:
        shard: which stream.
        member: the notifier's name; all its instances share the consumer.
        kinds: of entities.
        start: RFC 3339: where a new one begins.
    """
    own = f"{ROOT}.{shard}.*.{member}.notice.*"
    entities = (f"{ROOT}.{shard}.*.*.{'.'.join([kind, *('*' for _ in KINDS[kind])])}" for kind in sorted(set(kinds)))
    return {
        "durable_name": service_consumer_name(check_name("member", member)),
        "description": f"notifications of {member}",
        "filter_subjects": [*entities, own],
        "ack_policy": "explicit",
        "ack_wait": SERVICE_ACK_WAIT_SECONDS * _SECOND,
        "deliver_policy": "by_start_time",
        "opt_start_time": start,
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 10_000,
    }


def presence_stream() -> dict[str, Any]:
    """Return the stream behind the presence bucket: in memory, entries live for a few seconds."""
    return {
        "name": f"KV_{PRESENCE_BUCKET}",
        "description": "orchestrator-free: who is there",
        "subjects": [f"$KV.{PRESENCE_BUCKET}.>"],
        "max_msgs_per_subject": 1,
        "max_age": PRESENCE_TTL_SECONDS * _SECOND,
        "storage": "memory",
        "num_replicas": 1,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
        "duplicate_window": PRESENCE_TTL_SECONDS * _SECOND,
    }


def timer_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream of what the broker is to say later: lapses, expiries, escalations."""
    return {
        "name": TIMERS,
        "description": "orchestrator-free: what the broker is to say later",
        "subjects": [f"{AT}{ROOT}.>", f"{DUE}{ROOT}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
    }


def object_stream(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream behind the object bucket, as the clients of NATS lay it out."""
    return {
        "name": f"OBJ_{OBJECT_BUCKET}",
        "description": "orchestrator-free: files and large runs",
        "subjects": [f"$O.{OBJECT_BUCKET}.C.>", f"$O.{OBJECT_BUCKET}.M.>"],
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_age": settings.max_age_seconds * _SECOND,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
    }


def differences(wanted: dict[str, Any], found: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    """Compare two definitions field by field; return a line for each that differs."""
    lines = []
    for name in fields:
        want, have = _pick(wanted, name), _pick(found, name)
        if (want or None) != (have or None):
            lines.append(f"{name}: wanted {want!r}, found {have!r}")
    return lines


def _pick(config: dict[str, Any], path: str) -> Any:
    head, _, rest = path.partition(".")
    value = config.get(head)
    if head == "sources":
        return [source["name"] for source in value or []]
    if rest:
        return (value or {}).get(rest)
    return value


# -- permissions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one kind of user may do; `{member}` stands for its name, `{stream}` for each shard's stream in turn.

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
#: reading the log, the presence and the objects
_READ: Final = (
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.{stream}",
    "$JS.API.STREAM.MSG.GET.{stream}",
    "$JS.API.DIRECT.GET.{stream}",
    "$JS.API.DIRECT.GET.{stream}.>",
    f"$JS.API.STREAM.INFO.{_PRESENCE_STREAM}",
    f"$JS.API.DIRECT.GET.{_PRESENCE_STREAM}",
    f"$JS.API.STREAM.INFO.{_OBJECT_STREAM}",
    f"$JS.API.STREAM.INFO.{TIMERS}",
    f"$JS.API.STREAM.MSG.GET.{TIMERS}",
    f"$JS.API.STREAM.MSG.GET.{_OBJECT_STREAM}",
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
_LOOK: Final = f"$KV.{PRESENCE_BUCKET}.watch.*.{{member}}.*"


def _consumer(name: str) -> tuple[str, ...]:
    """Return what a member needs for a durable consumer of its own; the literal name keeps others away from it."""
    return (
        f"$JS.API.CONSUMER.CREATE.{{stream}}.{name}",
        f"$JS.API.CONSUMER.CREATE.{{stream}}.{name}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{{stream}}.{name}",
        f"$JS.API.CONSUMER.INFO.{{stream}}.{name}",
        f"$JS.API.CONSUMER.MSG.NEXT.{{stream}}.{name}",
        f"$JS.ACK.{{stream}}.{name}.>",
        f"$JS.ACK.*.*.{{stream}}.{name}.>",
    )


_WRITE_OBJECTS: Final = (f"$O.{OBJECT_BUCKET}.C.*", f"$O.{OBJECT_BUCKET}.M.*")
#: what a member may say that does work; not `meta` (which renames and deletes sessions)
_WORKING_KINDS: Final = (
    "run.*", "in.*.*", "ctl.*.*", "outcome.*", "state.*", "ask.*", "answer.*", "stage.*.*", "lease.*", "floor",
    "presence",
)  # fmt: skip

ROLES: Final[dict[str, Role]] = {
    "core": Role(
        about="The gateway, the monitor, operators: publishes for people, so it may use every member's name.",
        publish=(
            f"{ROOT}.>",
            f"{AT}{ROOT}.>",
            f"$KV.{PRESENCE_BUCKET}.>",
            *_READ,
            *_WRITE_OBJECTS,
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
        ),
        subscribe=(*_HEAR, "$JS.EVENT.ADVISORY.>"),
    ),
    "agent": Role(
        about="An agent with all its replicas: publishes under its own name, takes its own inputs, reads all sessions.",
        publish=(
            *(f"{ROOT}.*.*.{{member}}.{kind}" for kind in _WORKING_KINDS),
            f"{AT}{ROOT}.*.*.{{member}}.stage.*.*",
            f"{AT}{ROOT}.*.*.{{member}}.ctl.*.*",
            f"$KV.{PRESENCE_BUCKET}.agent.{{member}}.*",
            _LOOK,
            *_READ,
            *_consumer(agent_consumer_name("{member}")),
            *_consumer(control_consumer_name("{member}")),
            *_WRITE_OBJECTS,
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
    "observer": Role(
        about="Reads all sessions, live and from the log; keeps no position at the broker, publishes no event.",
        publish=(_LOOK, *_READ),
        subscribe=(*_HEAR, LEADER_ELECTED),
    ),
}


def permissions(role: str, member: str, *, shards: int = 1) -> dict[str, Any]:
    """Return the permissions of a member in a role, as nats-server's configuration takes them."""
    check_name("member", member)
    found = ROLES[role]
    return {
        "publish": {"allow": _expand(found.publish, member, shards)},
        "subscribe": {"allow": _expand(found.subscribe, member, shards)},
    }


def _expand(templates: tuple[str, ...], member: str, shards: int) -> list[str]:
    subjects: dict[str, None] = {}
    for template in templates:
        for shard in range(shards if "{stream}" in template else 1):
            subjects[template.replace("{member}", member).replace("{stream}", stream_name(shard))] = None
    return list(subjects)
