"""What the doctor concludes from the facts: each check is a judgement, says what it means and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.lag import agent_of
from orchestrator_free.operations.facts import Check, Facts, Status

OLDEST: Final = (2, 14, 0)
RECOMMENDED: Final = (2, 15, 1)
_CLOCK_SECONDS: Final = 2.0
_CLOCK_PROBLEM_SECONDS: Final = 30.0
_FULL: Final = 0.8
_BRIMFUL: Final = 0.95
_BEHIND_SECONDS: Final = 60.0
_PAYLOAD: Final = 256 * 1024
_MANY: Final = 5


def conclude(facts: Facts) -> list[Check]:
    """Return every conclusion, in the order in which an operator would ask."""
    found = [check for judge in _JUDGES for check in judge(facts)]
    known = {check.name for check in found}
    return found + [
        Check(name, "warning", f"could not be looked at: {why}")
        for name, why in facts.errors.items()
        if name not in known
    ]


# -- the broker -------------------------------------------------------------------------------------------------


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as `2.15.1-beta.2`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("-")[0])[:3])


def _broker(facts: Facts) -> Iterable[Check]:
    found = numbers(facts.version)
    names = [".".join(map(str, one)) for one in (OLDEST, RECOMMENDED)]
    if found < OLDEST:
        says = f"nats-server {facts.version} is older than {names[0]}, the oldest that has what the wire needs"
        yield Check("broker", "problem", says, "upgrade the broker; docs/operations.md has the rolling order")
    elif found < RECOMMENDED:
        says = f"nats-server {facts.version} works; {names[1]} and later are what is tested"
        yield Check("broker", "warning", says, f"upgrade to {names[1]} or later at the next occasion")
    else:
        yield Check("broker", "ok", f"nats-server {facts.version}")


def _jetstream(facts: Facts) -> Iterable[Check]:
    if "jetstream" in facts.errors:
        advice = "enable JetStream in the broker, and for the account of this user"
        yield Check("jetstream", "problem", f"JetStream does not answer: {facts.errors['jetstream']}", advice)
    elif facts.account:
        used = facts.account.get("streams", 0), facts.account.get("consumers", 0)
        yield Check("jetstream", "ok", f"JetStream is on: {used[0]} streams, {used[1]} consumers in this account")


def _settings(facts: Facts) -> Iterable[Check]:
    if facts.varz is not None and (size := int(facts.varz.get("max_payload", _PAYLOAD))) < _PAYLOAD:
        yield Check("settings", "problem", f"max_payload is {size} bytes, state values need {_PAYLOAD}", "raise it")
    for stream, info in facts.streams.items():
        limit = info["config"].get("max_consumers", -1) if info is not None else -1
        have = info["state"].get("consumer_count", 0) if info is not None else 0
        if limit > 0 and have > limit * _FULL:
            says = f"{stream} has {have} of at most {limit} consumers"
            yield Check("settings", "warning", says, "delete those of agents and services that no longer exist")


def _durability(facts: Facts) -> Iterable[Check]:
    found = _in_force(facts)
    if not found:
        says = facts.errors.get(
            "monitor", "unknown: the broker's HTTP monitor tells it, or a gateway beside its broker"
        )
        advice = "pass --monitor-url, as http://127.0.0.1:8222, or --gateway, as http://127.0.0.1:8080"
        yield Check("durability", "warning", says, advice)
    elif found == {"fsync"}:
        yield Check("durability", "ok", "fsync: an acknowledged event survives a power cut")
    else:
        says = "interval: safe against a killed process, up to a second and young streams at risk in a power cut"
        yield Check(
            "durability", "warning", says, "set jetstream { sync_interval: always }, as broker/nats-server.conf"
        )


def _in_force(facts: Facts) -> set[str]:
    """Return the durability that is in force: as the broker's monitor says, or else as gateways know it."""
    config = (facts.jsz or {}).get("config")
    if config is not None:
        return {"fsync" if config.get("sync_always") else "interval"}
    return {str(said.get("durability")) for _, _, said in facts.gateways} & {"fsync", "interval"}


def _clock(facts: Facts) -> Iterable[Check]:
    if "clock" in facts.errors or not facts.version:
        return
    off = abs(facts.clock_ahead)
    where = f"this machine's clock is {off:.3f} s {'behind' if facts.clock_ahead > 0 else 'ahead of'} the broker's"
    if off - facts.clock_error <= _CLOCK_SECONDS:
        yield Check("clock", "ok", f"{where} (±{facts.clock_error:.3f} s)")
        return
    status: Status = "problem" if off > _CLOCK_PROBLEM_SECONDS else "warning"
    advice = "let both follow NTP: tokens are checked by this clock, timers run by the broker's"
    yield Check("clock", status, where, advice)


def _storage(facts: Facts) -> Iterable[Check]:
    for what, used, limit in _stores(facts):
        share = used / limit
        says = f"{what}: {used / 1e6:.0f} of {limit / 1e6:.0f} MB ({share:.0%})"
        advice = "free space with `orchestrator-free retain`, or raise the limit: a full store refuses inputs"
        if share >= _FULL:
            yield Check("storage", "problem" if share >= _BRIMFUL else "warning", says, advice)
        else:
            yield Check("storage", "ok", says)


def _stores(facts: Facts) -> Iterator[tuple[str, int, int]]:
    limit = int(facts.account.get("limits", {}).get("max_storage", -1))
    if limit > 0:
        yield "store of the account", int(facts.account.get("storage", 0)), limit
    config = (facts.jsz or {}).get("config", {})
    if config.get("max_storage", 0) > 0:
        yield "store of the broker", int((facts.jsz or {}).get("storage", 0)), int(config["max_storage"])
    for name, info in facts.streams.items():
        size = int(info["config"].get("max_bytes", -1)) if info is not None else -1
        if info is not None and size > 0 and info["config"].get("discard") == "new":
            yield f"stream {name}", int(info["state"]["bytes"]), size


# -- the installation -------------------------------------------------------------------------------------------

#: settings that an operator chooses, so that they differ from nothing
_CHOSEN: Final = frozenset({"num_replicas", "max_age", "max_bytes", "duplicate_window", "description", "sources"})


def _streams(facts: Facts) -> Iterable[Check]:
    missing = [name for name, info in facts.streams.items() if info is None and name not in contract.OPTIONAL]
    if missing:
        says = f"missing: {', '.join(missing)}"
        yield Check("streams", "problem", says, "orchestrator-free doctor --fix creates them, as every gateway does")
    drifted = False
    for name, wanted in _wanted_streams(facts):
        info = facts.streams.get(name)
        if info is None:
            continue
        fields = tuple(key for key in wanted if key not in _CHOSEN and key != "metadata")
        lines = contract.differences(wanted, info["config"], fields)
        drifted |= bool(lines)
        if lines:
            hard = [line for line in lines if line.partition(":")[0] in contract.STRUCTURE]
            advice = "change the stream to what broker/streams/ says (nats stream edit); nothing is changed by itself"
            yield Check("streams", "problem" if hard else "warning", f"{name} differs: {'; '.join(lines)}", advice)
    if not missing and not drifted:
        yield Check("streams", "ok", f"{facts.shards} shard(s) and what belongs to them are as the contract says")


def _wanted_streams(facts: Facts) -> Iterator[tuple[str, dict[str, Any]]]:
    shards = max(facts.shards, 1)
    first = facts.streams.get(contract.stream_name(0))
    isolated = first is not None and not first["config"].get("allow_rollup_hdrs")
    settings = contract.StreamSettings(shards=shards, isolated=isolated)
    yield from contract.installation(settings).items()


def _log(facts: Facts) -> Iterable[Check]:
    present = facts.streams.get(contract.stream_name(0)) is not None
    if facts.logs > 1:
        says = f"{facts.logs} logs hear what is said here: each keeps all of it, in an order of its own"
        advice = (
            "stop everything, delete the log that was made by mistake, and keep JetStream out of the edge (deploy/leaf)"
        )
        yield Check("log", "problem", says, advice)
    elif facts.logs and not present:
        says = "the JetStream that answers here has no log, one elsewhere hears what is said here"
        yield Check("log", "problem", says, "keep JetStream out of the server at the edge; deploy/leaf says how")
    elif facts.logs:
        yield Check("log", "ok", "one log hears what is said here")


def _wire(facts: Facts) -> Iterable[Check]:
    first = facts.streams.get(contract.stream_name(0))
    if first is None:
        return
    found = first["config"].get("metadata", {}).get("orchestrator_free.wire", "none")
    if found == contract.WIRE:
        yield Check("wire", "ok", f"wire version {found}, as this program speaks")
    else:
        says = f"the streams were made for wire version {found}, this program speaks {contract.WIRE}"
        yield Check("wire", "problem", says, "use a program of that version, or follow the upgrade notes")


def _replicas(facts: Facts) -> Iterable[Check]:
    groups = [(name, info.get("cluster")) for name, info in facts.streams.items() if info is not None]
    groups += [(f"{stream}/{info['name']}", info.get("cluster")) for stream, info in facts.consumer_names()]
    clustered = [
        (name, group) for name, group in groups if group and (group.get("replicas") or not group.get("leader"))
    ]
    bad = 0
    for name, group in clustered:
        if not group.get("leader"):
            bad += 1
            says = f"{name} has no leader: nothing can be stored or delivered there"
            yield Check("replicas", "problem", says, "bring back a majority of its nodes")
        late = [one["name"] for one in group.get("replicas") or [] if one.get("offline") or not one.get("current")]
        if late:
            bad += 1
            says = f"{name}: not current on {', '.join(late)}"
            yield Check("replicas", "warning", says, "wait; take no other node down before they are current")
    if clustered and not bad:
        yield Check("replicas", "ok", f"{len(clustered)} groups have a leader and followers that are current")


def _consumers(facts: Facts) -> Iterable[Check]:
    wrong = 0
    for stream, info in facts.consumer_names():
        shard = int(stream.rpartition("_")[2])
        wanted = _wanted_consumer(shard, info["name"])
        if wanted is None:
            continue
        fields = tuple(
            key for key in wanted if key in ("filter_subjects", "ack_policy", "max_deliver", "deliver_policy")
        )
        if lines := contract.differences(wanted, info["config"], fields):
            wrong += 1
            advice = "delete it when its agent is at rest; the agent makes it anew, where its work stands in the log"
            yield Check("consumers", "problem", f"{stream}/{info['name']} differs: {'; '.join(lines)}", advice)
    orphans = _orphans(facts)
    if orphans:
        says = f"nobody lives that could use them, and they owe nothing: {_some(orphans)}"
        yield Check("consumers", "warning", says, "if these agents are gone for good: `nats consumer rm STREAM NAME`")
    if not wrong and not orphans:
        yield Check("consumers", "ok", f"{sum(map(len, facts.consumers.values()))} durable consumers are in order")


def _wanted_consumer(shard: int, name: str) -> dict[str, Any] | None:
    if agent := agent_of(name):
        return contract.agent_consumer(shard, agent)
    if name.startswith(contract.control_consumer_name("")):
        return contract.control_consumer(shard, name.removeprefix(contract.control_consumer_name("")))
    return None


def _orphans(facts: Facts) -> list[str]:
    found = []
    for stream, info in facts.consumer_names():
        owes = info["num_pending"] + info["num_ack_pending"]
        agent = agent_of(info["name"])
        if agent and not facts.replicas.get(agent) and not owes and not info.get("paused"):
            found.append(f"{stream}/{info['name']}")
    return found


def _agents(facts: Facts) -> Iterable[Check]:
    owed: dict[str, int] = {}
    paused: set[str] = set()
    for _, info in facts.consumer_names():
        if agent := agent_of(info["name"]):
            owed[agent] = owed.get(agent, 0) + info["num_pending"] + info["num_ack_pending"]
            paused |= {agent} if info.get("paused") else set()
    gone = [f"{agent} ({count})" for agent, count in owed.items() if count and not facts.replicas.get(agent)]
    if gone:
        says = f"owe answers, and no process of them runs: {_some(gone)}"
        yield Check("agents", "problem", says, "start them; the sessions say `agent.offline` meanwhile")
    if paused:
        waiting = ", ".join(f"{agent} ({owed[agent]} waiting)" for agent in sorted(paused))
        yield Check("agents", "warning", f"paused: {waiting}", "orchestrator-free resume-agent NAME")
    if not gone and not paused:
        living = sum(facts.replicas.values())
        yield Check(
            "agents", "ok", f"{living} process(es) of {len(facts.replicas)} agent(s), none owes work and is gone"
        )


def _lag(facts: Facts) -> Iterable[Check]:
    behind = [lag for lag in facts.lags if lag.seconds_behind > _BEHIND_SECONDS]
    if not behind:
        waiting = sum(lag.waiting for lag in facts.lags)
        yield Check("lag", "ok", f"{waiting} waiting, nobody is more than {_BEHIND_SECONDS:g} s behind")
    for lag in sorted(behind, key=lambda lag: -lag.seconds_behind)[:_MANY]:
        says = f"{lag.consumer}: {lag.waiting} waiting, {lag.in_work} in work, {lag.seconds_behind:.0f} s behind"
        yield Check("lag", "warning", says, "start more replicas, or look what it waits for with `inspect`")


def _asks(facts: Facts) -> Iterable[Check]:
    if facts.overdue:
        says = f"open though their time is up: {_some(f'{session}/{ask}' for session, ask in facts.overdue)}"
        advice = "the broker's timers are late or lost: look at SESSIONS_TIMERS and its leader; withdraw or answer them"
        yield Check("asks", "problem", says, advice)
    if facts.old:
        says = f"open for more than a day, without an end: {_some(f'{session}/{ask}' for session, ask in facts.old)}"
        yield Check("asks", "warning", says, "answer or withdraw them: orchestrator-free asks SESSION")
    if not facts.overdue and not facts.old:
        yield Check("asks", "ok", "no ask is stuck")


def _letters(facts: Facts) -> Iterable[Check]:
    if total := sum(facts.letters.values()):
        says = ", ".join(f"{count} {kind}" for kind, count in sorted(facts.letters.items()) if count)
        yield Check("dead letters", "warning", f"{total} dead letters: {says}", "orchestrator-free deadletters")
    elif "dead letters" not in facts.errors:
        yield Check("dead letters", "ok", "none")


def _gateways(facts: Facts) -> Iterable[Check]:
    for url, status, said in facts.gateways:
        if status == 200:
            yield Check("gateway", "ok", f"{url} is ready, durability {said.get('durability', 'unknown')}")
        else:
            why = said.get("error") or f"status {said.get('status', status)}, broker {said.get('broker', 'unknown')}"
            yield Check("gateway", "problem", f"{url} is not ready: {why}", "look at its log")


# -- permissions ------------------------------------------------------------------------------------------------


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject pattern allows everything that another pattern stands for."""
    have, want = pattern.split("."), subject.split(".")
    for place, part in enumerate(have):
        if part == ">":
            return len(want) > place
        if place >= len(want) or want[place] == ">" or part not in ("*", want[place]):
            return False
    return len(have) == len(want)


def _permissions(facts: Facts) -> Iterable[Check]:
    if facts.user is None:
        why = facts.errors.get("permissions", "the broker does not tell")
        yield Check("permissions", "warning", f"cannot be compared with the role {facts.role}: {why}")
        return
    granted = facts.user.get("permissions") or {}
    if not granted:
        says = "these credentials may do everything"
        advice = 'include "permissions.conf" before anybody you do not trust can reach the broker'
        yield Check("permissions", "warning", says, advice)
        return
    wanted = contract.permissions(facts.role, facts.member, shards=max(facts.shards, 1))
    lacking = [
        f"{action} {subject}"
        for action in ("publish", "subscribe")
        for subject in wanted[action]["allow"]
        if not _may(granted.get(action) or {}, subject)
    ]
    if lacking:
        advice = f"give user {facts.member} what broker/permissions.conf has for {facts.role}"
        yield Check("permissions", "problem", f"the role {facts.role} needs, and is refused: {_some(lacking)}", advice)
    else:
        yield Check("permissions", "ok", f"as {facts.member} may do all that the role {facts.role} needs")


def _may(granted: Mapping[str, Any], subject: str) -> bool:
    allowed: Sequence[str] = granted.get("allow") or [">"]
    denied: Sequence[str] = granted.get("deny") or []
    return any(covers(one, subject) for one in allowed) and not any(covers(one, subject) for one in denied)


def _some(items: Iterable[str]) -> str:
    names = list(items)
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


_JUDGES: Final[tuple[Callable[[Facts], Iterable[Check]], ...]] = (
    _broker, _jetstream, _settings, _durability, _clock, _storage, _log, _streams, _wire, _replicas, _permissions,
    _consumers, _agents, _lag, _asks, _letters, _gateways,
)  # fmt: skip
