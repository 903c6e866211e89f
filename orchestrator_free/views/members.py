"""The picture of who is there: the fold of a session joined with what lives in the presence bucket. Pure.

The log says what agents do and what members say of themselves; the bucket says which processes and devices are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import orjson

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import decode
from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.subjects import TOKEN
from orchestrator_free.vocabulary import validate

Kind = Literal["agent", "person", "service"]
Status = Literal["joined", "idle", "thinking", "streaming", "waiting", "stalled", "away", "offline"]

#: devices of one member that a picture names; all of them are counted
DEVICES_SHOWN: Final = 32
ABSENT: Final = "no process of this agent is running"
#: stands in the place of a process's name while the agent takes no new inputs
PAUSED: Final = "paused"
RESTING: Final = "paused by an operator: it takes no new inputs"
#: of several runs the one that says most about its agent
_RANKS: Final = ("lost", "stalled", "waiting", "thinking", "streaming")


@dataclass(frozen=True, slots=True)
class Watcher:
    """A device that looks at a session.

    Attributes:
        since: when it came, RFC 3339, by the clock of whoever saw it come.
        status: `active`, or `idle` if it says so.
        kind: `person` or `service`.
    """

    member: str
    device: str
    since: str | None
    status: str
    kind: str = "person"


@dataclass(frozen=True, slots=True)
class Device:
    """A member's device, or a process of an agent."""

    device: str
    since: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a session as everybody sees it.

    Attributes:
        status: of people `joined`, `idle`, `away`, `offline`; of agents also `thinking`, `streaming`, `waiting` and
            `stalled`.
        detail: of an agent at work `{"run", "reason", "ask", "until", "seconds"}`: which run, what it waits for, until
            when at the latest, for how many seconds it has been silent; None for the others.
        devices: at most 32 of them; `device_count` counts all.
        reason: why it is away or offline.
        back: when it expects to be back, RFC 3339.
        since: when this status began, where that is known.
    """

    member: str
    kind: Kind
    status: Status
    detail: View | None
    devices: list[Device]
    device_count: int
    reason: str
    back: str | None
    since: str | None

    def as_dict(self) -> View:
        """Return it as JSON values."""
        return asdict(self)


Picture = dict[str, Member]


def changes(before: Picture, after: Picture) -> tuple[list[Member], list[str]]:
    """Return the members that are new or otherwise than before, and the names of those that are not there any more."""
    changed = [member for name, member in after.items() if before.get(name) != member]
    return changed, [name for name in before if name not in after]


# -- what the bucket says ---------------------------------------------------------------------------------------------


def watchers_of(entries: Iterable[tuple[str, bytes]]) -> list[Watcher]:
    """Return who looks, from entries `watch.<session>.<gateway>` and `watch.<session>.<member>.<instance>`.

    A device that several entries name (it has just moved to another gateway) counts once. What makes no sense is
    skipped.
    """
    found: dict[tuple[str, str], Watcher] = {}
    for key, payload in entries:
        for one in _read(key.split("."), payload):
            known = found.get((one.member, one.device))
            if known is None or (known.status, one.since or "") > (one.status, known.since or ""):
                found[one.member, one.device] = one
    return sorted(found.values(), key=lambda one: (one.since or "", one.member, one.device))


def _read(tokens: Sequence[str], payload: bytes) -> Iterable[Watcher]:
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return
    if not isinstance(said, dict) or len(tokens) not in (3, 4):
        return
    if len(tokens) == 4:  # only this member may write there
        clients: Any = [said | {"member": tokens[2]}]
    else:
        clients = said.get("clients")
    for client in clients if isinstance(clients, list) else ():
        if isinstance(client, dict) and _is_name(client.get("member")) and _is_name(client.get("device")):
            since = client.get("since")
            status = "idle" if client.get("status") == "idle" else "active"
            kind = "service" if client.get("kind") == "service" else "person"
            yield Watcher(client["member"], client["device"], since if isinstance(since, str) else None, status, kind)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None


def replicas_of(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the living processes by agent, from keys `agent.<agent>.<instance>`; PAUSED is one of a paused agent."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        tokens = key.split(".")
        if len(tokens) == 3:
            found[tokens[1]].append(tokens[2])
    return found


def excuse_of(payload: bytes) -> dict[str, str]:
    """Return `reason` and `back` as far as a stored presence event gives them; whoever replaces it keeps them."""
    try:
        body = decode(payload)
        validate("presence", body)
    except InvalidEvent:
        return {}
    if body.get("status") == "available" or (body["type"] == "agent.offline" and not body.get("back")):
        return {}
    return {name: body[name] for name in ("reason", "back") if body.get(name)}


# -- the picture ------------------------------------------------------------------------------------------------------


def picture(fold: Fold, watchers: Iterable[Watcher], replicas: Mapping[str, Sequence[str]]) -> Picture:
    """Return every member of a session by name: its agents, who looks, and who has said something in it."""
    looking: dict[str, list[Watcher]] = defaultdict(list)
    for watcher in watchers:
        looking[watcher.member].append(watcher)
    open_runs: dict[str, list[RunFold]] = defaultdict(list)
    agents = dict.fromkeys(fold.meta["agents"])
    for run in fold.runs.values():
        agents[run.agent] = None
        if run.open and not run.cancelled:
            open_runs[run.agent].append(run)
    people = _people(fold, looking)
    agents |= dict.fromkeys(entry["to"] for entry in fold.inputs.values() if entry["to"] in replicas)
    agents |= dict.fromkeys(name for name in fold.offline if name not in people)
    found = {
        name: _agent(name, fold, open_runs[name], replicas.get(name, ()), looking[name]) for name in sorted(agents)
    }
    return found | {name: _person(name, fold, looking[name]) for name in sorted(people) if name not in agents}


def _people(fold: Fold, looking: Mapping[str, object]) -> dict[str, None]:
    """Return the names of those who are there, or have been."""
    people = dict.fromkeys(looking) | dict.fromkeys(fold.presence)
    people |= dict.fromkeys(entry["from"] for entry in fold.inputs.values())
    by = fold.meta["by"]
    return people | ({by: None} if by else {})


def _person(name: str, fold: Fold, looking: Sequence[Watcher]) -> Member:
    said = fold.presence.get(name)
    active = [watcher for watcher in looking if watcher.status == "active"]
    reason, back, since = "", None, looking[0].since if looking else None
    status: Status = "joined" if active else "idle" if looking else "offline"
    if said is not None and (said["status"] != "available" or not looking):
        reason, back, since = said["reason"], said["back"], said["time"]
        status = "offline" if said["status"] == "available" else said["status"]
    services = bool(looking) and all(watcher.kind == "service" for watcher in looking)
    kind: Kind = "service" if services else "person"
    devices = [Device(one.device, one.since, one.status) for one in looking[:DEVICES_SHOWN]]
    return Member(name, kind, status, None, devices, len(looking), reason, back, since)


def _agent(
    name: str, fold: Fold, runs: Sequence[RunFold], instances: Sequence[str], looking: Sequence[Watcher]
) -> Member:
    living = sorted(set(instances) - {PAUSED})
    processes = [Device(instance, None, "active") for instance in living]
    devices = processes + [Device(one.device, one.since, one.status) for one in looking]
    said = fold.presence.get(name) or {"status": "available", "reason": "", "back": None, "time": None}
    state, detail, since = max(map(_work, runs), key=lambda work: _RANKS.index(work[0]), default=("", None, None))
    reason, back, status = "", None, "idle"
    if not living:
        gone = fold.offline.get(name) or {"reason": said["reason"], "back": said["back"]}
        status, reason, back = "offline", gone["reason"] or ABSENT, gone["back"]
        since = since if state != "lost" else None
    elif state:
        status = "waiting" if state == "lost" else state
    elif len(living) < len(instances):
        status, reason, since = "away", RESTING, None
    elif said["status"] != "available":
        status, reason, back, since = said["status"], said["reason"], said["back"], said["time"]
    shown: Any = status
    return Member(name, "agent", shown, detail, devices[:DEVICES_SHOWN], len(devices), reason, back, since)


def _work(run: RunFold) -> tuple[str, View, str | None]:
    """Return what a run does, with its detail, and since when."""
    detail: View = {"run": run.run, "reason": "", "ask": None, "until": None, "seconds": None}
    if run.lost:
        return "lost", detail | {"reason": "another attempt"}, None
    if run.waiting is not None:
        waits = {name: run.waiting.get(name) for name in ("reason", "ask", "until")}
        return "waiting", detail | waits, run.waiting.get("since")
    if run.stalled is not None:
        return "stalled", detail | {"seconds": run.stalled}, None
    last = next(reversed(run.parts.values()), None)
    writes = last is not None and last.get("type") == "text" and bool(last.get("open"))
    return "streaming" if writes else "thinking", detail, run.started
