"""Reads the facts that the doctor judges; it changes nothing, and what cannot be read is a fact as well."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from orchestrator_free import contract
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidInput, SessionNotFound
from orchestrator_free.jetstream import Log, Wire
from orchestrator_free.jetstream.neighbours import logs_that_hear
from orchestrator_free.lag import living_replicas, survey
from orchestrator_free.operations.backup import list_consumers, stream_info
from orchestrator_free.operations.checks import conclude
from orchestrator_free.operations.facts import Check, Facts
from orchestrator_free.operations.letters import letters
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ROOT

#: sessions whose asks are looked at closely
_SESSIONS: Final = 50
_LATE: Final = timedelta(minutes=2)
_OLD: Final = timedelta(days=1)
_HTTP_SECONDS: Final = 5.0
_HTTP_BYTES: Final = 16 * 1024 * 1024


async def examine(
    wire: Wire, *, role: str, member: str, monitor_url: str | None = None, gateways: Sequence[str] = ()
) -> list[Check]:
    """Look at an installation and say what is in order and what is not.

    Args:
        wire: a connection; it needs nothing but to read.
        role: that the user of the connection should have.
        member: its name.
        monitor_url: the broker's HTTP monitor, as http://127.0.0.1:8222.
        gateways: their addresses, as http://127.0.0.1:8080.
    """
    return conclude(await read_facts(wire, role=role, member=member, monitor_url=monitor_url, gateways=gateways))


async def read_facts(
    wire: Wire, *, role: str, member: str, monitor_url: str | None = None, gateways: Sequence[str] = ()
) -> Facts:
    """Read everything; see `examine`."""
    facts = Facts(version=wire.server_version, role=role, member=member)
    await asyncio.gather(
        _account(wire, facts), _user(wire, facts), _logs(wire, facts), _monitor(monitor_url, facts),
        _ask(gateways, facts),
    )  # fmt: skip
    if "jetstream" in facts.errors:
        return facts
    await _streams(wire, facts)
    if not facts.shards or not all(facts.streams.get(contract.stream_name(n)) for n in range(facts.shards)):
        return facts
    log = Log(wire)
    log.shards = facts.shards
    async with _noting(facts, "epochs"):
        await log.refresh()
    await _work(Broker(log, member), facts)
    return facts


@asynccontextmanager
async def _noting(facts: Facts, name: str) -> AsyncIterator[None]:
    """Let what cannot be read be a fact."""
    try:
        yield
    except (BrokerError, TimeoutError) as error:
        facts.errors[name] = str(error) or type(error).__name__


async def _account(wire: Wire, facts: Facts) -> None:
    async with _noting(facts, "jetstream"):
        facts.account = await wire.api("INFO", deadline=4.0)


async def _logs(wire: Wire, facts: Facts) -> None:
    facts.logs = await logs_that_hear(wire)


async def _user(wire: Wire, facts: Facts) -> None:
    """Ask the broker what this user may; a broker that does not say so is asked once."""
    async with _noting(facts, "permissions"):
        answer, _ = await wire.exchange("$SYS.REQ.USER.INFO", b"", seconds=3.0)
        said = orjson.loads(answer or b"{}")
        facts.user = said.get("data")
        if facts.user is None:
            facts.errors["permissions"] = str(said.get("error", "no answer"))


async def _monitor(url: str | None, facts: Facts) -> None:
    if url is None:
        return
    try:
        facts.varz = (await _fetch(f"{url.rstrip('/')}/varz"))[1]
        facts.jsz = (await _fetch(f"{url.rstrip('/')}/jsz"))[1]
    except (OSError, ValueError) as error:
        facts.errors["monitor"] = f"the broker's monitor at {url} does not answer ({error})"


async def _ask(gateways: Sequence[str], facts: Facts) -> None:
    for url in gateways:
        try:
            facts.gateways.append((url, *await _fetch(f"{url.rstrip('/')}/readyz")))
        except (OSError, ValueError) as error:
            facts.gateways.append((url, 0, {"error": str(error)}))


async def _fetch(url: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of an answer, whatever its status."""
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url[:200]!r} is no address; pass one such as http://127.0.0.1:8222")

    def get() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(url, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 - http(s) was checked
                return answer.status, orjson.loads(answer.read(_HTTP_BYTES))
        except urllib.error.HTTPError as error:
            return error.code, orjson.loads(error.read(_HTTP_BYTES))

    return await asyncio.to_thread(get)


async def _streams(wire: Wire, facts: Facts) -> None:
    """Read the streams, their consumers and the clock."""
    names = [contract.stream_name(0)]
    while names:
        for name in names:
            async with _noting(facts, "streams"):
                asked = datetime.now(UTC)
                facts.streams[name] = info = await stream_info(wire, name)
                if info is not None:
                    answered = datetime.now(UTC)
                    middle = asked + (answered - asked) / 2
                    facts.clock_ahead = (datetime.fromisoformat(info["ts"]) - middle).total_seconds()
                    facts.clock_error = (answered - asked).total_seconds() / 2
        all_names = contract.installation(contract.StreamSettings(shards=max(facts.shards, 1)))
        names = [name for name in all_names if name not in facts.streams and "streams" not in facts.errors]
    for shard in range(facts.shards):
        stream = contract.stream_name(shard)
        if facts.streams.get(stream) is not None:
            async with _noting(facts, "consumers"):
                facts.consumers[stream] = await list_consumers(wire, stream)


async def _work(broker: Broker, facts: Facts) -> None:
    """Read who lives, who is behind, and what is stuck."""
    async with _noting(facts, "agents"):
        facts.replicas = Counter(replica.agent for replica in await living_replicas(broker.log))
    async with _noting(facts, "lag"):
        facts.lags = await survey(broker.log)
    async with _noting(facts, "dead letters"):
        facts.letters = Counter(letter.kind for letter in await letters(broker))
    async with _noting(facts, "asks"):
        await _stuck(broker, facts)


async def _stuck(broker: Broker, facts: Facts) -> None:
    """Find asks that should have ended, or never will; what looks like it is looked at in its session."""
    now = await broker.log.clock()
    suspects: dict[str, dict[str, bool]] = {}
    for shard in range(facts.shards):
        for message in await broker.log.table(shard, f"{ROOT}.{shard}.*.*.ask.*"):
            event = to_event(message)
            if event is None or event.type != "ask":
                continue
            since, seconds = datetime.fromisoformat(event.time), event.body.get("seconds")
            late = seconds is not None and now > since + timedelta(seconds=seconds) + _LATE
            if late or (seconds is None and now > since + _OLD):
                suspects.setdefault(event.session, {})[event.id] = late
    for session in list(suspects)[:_SESSIONS]:
        try:
            view = await broker.session(session).view(whole=False)
        except SessionNotFound:
            continue
        open_asks = {ask["ask"] for ask in view["asks"] if ask["status"] == "open"}
        for ask, late in suspects[session].items():
            if ask in open_asks:
                (facts.overdue if late else facts.old).append((session, ask))


async def repair(wire: Wire) -> list[str]:
    """Do what is safe: create streams that are missing; return what was done, a line for each.

    Raises:
        ConfigMismatch: a stream exists with another structure; nothing was changed.
    """
    before = await _names(wire)
    await Log(wire).ensure()
    return [f"created stream {name}" for name in sorted(await _names(wire) - before)]


async def _names(wire: Wire) -> set[str]:
    info = await stream_info(wire, contract.stream_name(0))
    shards = int(((info or {}).get("config", {}).get("metadata") or {}).get("orchestrator_free.shards", "1"))
    wanted = contract.installation(contract.StreamSettings(shards=shards))
    return {name for name in wanted if await stream_info(wire, name) is not None}
