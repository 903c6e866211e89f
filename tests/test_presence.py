"""Presence through the library: who looks, what agents do or wait for, who is away, and that the dead vanish."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest

from orchestrator_free import Broker, Fold, connect
from orchestrator_free.errors import InvalidEvent, InvalidName, SessionNotFound
from orchestrator_free.events import Event
from orchestrator_free.monitor import Monitor, MonitorSettings
from orchestrator_free.session.presence import Tracker
from orchestrator_free.subjects import address
from orchestrator_free.views.members import ABSENT, DEVICES_SHOWN, Watcher, changes, excuse_of, picture, watchers_of
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Run, Session
    from orchestrator_free.embedded.server import EmbeddedServer

#: what the issue allows for a killed process to be gone
GONE_SECONDS = 15.0
LOOK = """
import asyncio, sys
from orchestrator_free import connect

async def main():
    async with connect(sys.argv[1], member="carl") as broker:
        async with broker.session(sys.argv[2]).presence.join(device="cell"):
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


async def member(session: Session, name: str) -> Any:
    """Return a member as `now` shows it, None if it is not there."""
    return next((one for one in await session.presence.now() if one.member == name), None)


def devices(watchers: list[Watcher]) -> list[tuple[str, str]]:
    return sorted((one.member, one.device) for one in watchers)


# -- who looks ----------------------------------------------------------------------------------------------------------


async def test_an_agent_sees_two_devices_of_one_member_and_a_second_person(
    broker_url: str, ann: Broker, session: Session, name: str
) -> None:
    """A handler asks who looks; nobody is an empty answer; whoever leaves is gone at once."""
    seen: list[list[Watcher]] = []

    async def handler(run: Run) -> None:
        seen.append(await run.session.watchers())

    bob = Broker(ann.log, "bob").session(session.id)
    async with serving(broker_url, name, handler):
        async with session.presence.join(device="phone"), session.presence.join(device="laptop"):
            async with bob.presence.join() as seat:
                await session.result(name, (await session.send("1", to=name)).run, timeout=30)
        await session.result(name, (await session.send("2", to=name)).run, timeout=30)

    assert devices(seen[0]) == sorted([("ann", "phone"), ("ann", "laptop"), ("bob", seat.device)])
    assert {(one.status, one.kind) for one in seen[0]} == {("active", "person")}
    assert all(one.since and datetime.fromisoformat(one.since).tzinfo for one in seen[0])
    assert seen[1] == []


async def test_who_looks_is_told_whole_however_many_entries_there_are(session: Session) -> None:
    """Beyond what the broker answers at once, too."""
    for number in range(1100):
        session._log.renew(f"watch.{session.id}.ann.{number}", orjson.dumps({"device": f"d{number}"}))
    await session._log.announce(f"watch.{session.id}.ann.last", orjson.dumps({"device": "last"}))
    assert len(await session.watchers()) == 1101


async def test_an_answer_that_is_young_enough_is_not_asked_for_again(session: Session) -> None:
    """A handler may ask at every step; the default is the present state."""
    async with session.presence.join(device="phone"):
        first = await session.watchers()
    assert await session.watchers(within_seconds=60) == first
    assert await session.watchers() == []


async def test_a_device_may_be_idle(session: Session) -> None:
    """Whoever is there only with idle devices is idle; one active device and they are there."""
    async with session.presence.join(device="phone") as phone:
        await phone.say("idle")
        idle = await member(session, "ann")
        async with session.presence.join(device="laptop"):
            both = await member(session, "ann")
        with pytest.raises(InvalidEvent, match="active and idle"):
            await phone.say("asleep")  # type: ignore[arg-type]
    assert (idle.kind, idle.status, [one.status for one in idle.devices]) == ("person", "idle", ["idle"])
    assert (both.status, both.device_count) == ("joined", 2)


async def test_a_follower_stays_as_long_as_it_lasts_and_is_a_service_if_it_says_so(
    session: Session, eventually: Any
) -> None:
    """Entries are renewed before they vanish."""
    async with session.presence.join(device="export", kind="service"):
        begun = time.monotonic()
        shown = await eventually(lambda: member(session, "ann"))
        await eventually(lambda: time.monotonic() > begun + 8, 20)
        assert devices(await session.watchers()) == [("ann", "export")]
    assert (shown.kind, shown.status) == ("service", "joined")
    assert (await member(session, "ann")).status == "offline"  # it began the session, so it is known


async def test_a_killed_follower_is_gone(
    session: Session, broker_url: str, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Nobody withdraws its entry; it vanishes within 15 s."""
    script = tmp_path / "look.py"
    script.write_text(LOOK)
    program = programs.start(script, broker_url, session.id)

    async def there() -> bool:
        return devices(await session.watchers()) == [("carl", "cell")]

    async def gone() -> bool:
        return not await session.watchers()

    await eventually(there, 40)
    program.send(signal.SIGKILL)
    begun = time.monotonic()
    await eventually(gone, GONE_SECONDS)
    print(f"a killed follower was gone after {time.monotonic() - begun:.1f} s")


# -- what agents do -----------------------------------------------------------------------------------------------------


async def test_what_an_agent_does_is_seen_as_it_does_it(
    broker_url: str, session: Session, name: str, eventually: Any
) -> None:
    """Idle, thinking, streaming, waiting for an approval, streaming again, idle; live and by asking."""
    steps = {step: asyncio.Event() for step in ("write", "ask", "go on", "end")}

    async def handler(run: Run) -> None:
        await steps["write"].wait()
        await run.text("Well, ")
        await steps["ask"].wait()
        await run.emit({"type": "run.waiting", "reason": "approval", "ask": "a1", "until": "2030-01-01T00:00:00Z"})
        await steps["go on"].wait()
        await run.emit({"type": "run.working"})
        await run.text("yes.")
        await steps["end"].wait()

    seen: list[str] = []

    async def follow() -> None:
        async for members in session.presence.watch():
            status = next(one.status for one in members if one.member == name)
            if status != seen[-1:]:
                seen.append(status)

    async def now(status: str) -> Any:
        async def found() -> Any:
            one = await member(session, name)
            return one if one.status == status and seen[-1:] == [status] else None

        return await eventually(found, 30)

    async with serving(broker_url, name, handler):
        watching = asyncio.create_task(follow())
        try:
            idle = await now("idle")
            sent = await session.send("go", to=name)
            thinking = await now("thinking")
            steps["write"].set()
            await now("streaming")
            steps["ask"].set()
            waiting = await now("waiting")
            steps["go on"].set()
            await now("streaming")
            steps["end"].set()
            await now("idle")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    assert (idle.kind, idle.detail, idle.device_count) == ("agent", None, 1)
    assert thinking.detail["run"] == sent.run
    assert waiting.detail == {
        "run": sent.run, "reason": "approval", "ask": "a1", "until": "2030-01-01T00:00:00Z", "seconds": None,
    }  # fmt: skip
    assert waiting.since is not None
    assert [one for one, before in zip(seen, ["", *seen], strict=False) if one != before] == [
        "idle", "thinking", "streaming", "waiting", "streaming", "idle",
    ]  # fmt: skip


async def test_a_killed_agent_is_offline_with_what_it_had_said_of_its_return(
    ann: Broker, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """Gone within 15 s; the monitor flags its runs in the log, with the agent's own reason and time."""
    [program] = programs.agent(name, 'await run.text("a")\nawait asyncio.sleep(600)')
    sent = await session.send("go", to=name)

    async def streaming() -> bool:
        return (await member(session, name)).status == "streaming"

    async def offline() -> Any:
        one = await member(session, name)
        return one if one.status == "offline" else None

    await eventually(streaming, 40)
    itself = Broker(ann.log, name).session(session.id)
    await itself.presence.set("away", reason="maintenance", back="2030-01-01T00:00:00+00:00")
    program.send(signal.SIGKILL)
    begun = time.monotonic()
    gone = await eventually(offline, GONE_SECONDS)
    print(f"a killed agent was offline after {time.monotonic() - begun:.1f} s")

    async def flagged() -> Any:
        agents = (await session.view())["agents"]
        return agents[0] if agents[0]["status"] == "offline" else None

    async with Monitor(ann, settings=MonitorSettings(tick_seconds=0.2, offline_after_seconds=0.5)):
        shown = await eventually(flagged, 30)
    after = await member(session, name)

    assert (gone.reason, gone.back, gone.devices) == ("maintenance", "2030-01-01T00:00:00+00:00", [])
    assert (shown["reason"], shown["back"]) == ("maintenance", "2030-01-01T00:00:00+00:00")
    assert [(run["run"], run["status"]) for run in shown["runs"]] == [(sent.run, "lost")]
    assert (after.status, after.reason, after.back) == ("offline", "maintenance", "2030-01-01T00:00:00+00:00")
    assert after.detail["reason"] == "another attempt"


async def test_a_person_who_has_said_something_of_itself_is_no_missing_agent(ann: Broker, session: Session) -> None:
    """An input to somebody who is away waits; nobody calls them an agent that never connected."""
    bob = Broker(ann.log, "bob").session(session.id)
    await bob.presence.set("away", reason="lunch")
    await session.send("a question", to="bob")
    monitor = Monitor(ann, settings=MonitorSettings(offline_after_seconds=0, unknown_after_seconds=0))
    await monitor.tick()
    await monitor.tick()
    assert (await session.view())["presence"]["bob"]["status"] == "away"


# -- what members say of themselves -------------------------------------------------------------------------------------


async def test_away_and_back_when_is_seen_by_all_and_survives_a_restart(
    broker: EmbeddedServer, broker_url: str, session: Session, eventually: Any
) -> None:
    """It stands in the log, also while the member's device is there; available ends it."""
    back = datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1)
    async with session.presence.join(device="phone"):
        await session.presence.set("away", reason="lunch", back=back)
        away = await member(session, "ann")
    await broker.restart(kill=True)
    async with connect(broker_url, member="bob") as other:
        seen = other.session(session.id)
        after = await member(seen, "ann")
        await eventually(session.exists, 30)
        await session.presence.set("available")
        available = await member(seen, "ann")
        async with session.presence.join(device="phone"):
            joined = await member(seen, "ann")

    assert (away.status, away.reason, away.device_count) == ("away", "lunch", 1)
    assert datetime.fromisoformat(away.back) == back
    assert (after.status, after.reason, after.back) == ("away", "lunch", away.back)
    assert (available.status, available.back) == ("offline", None)
    assert joined.status == "joined"


async def test_what_makes_no_sense_is_refused(ann: Broker, session: Session) -> None:
    """An unknown status, times nobody elsewhere could read, names that cannot be, a session that is none."""
    with pytest.raises(InvalidEvent, match="available, away, offline"):
        await session.presence.set("busy")
    for back in ("tomorrow", "2030-01-01T00:00:00", datetime(2030, 1, 1), 5):  # noqa: DTZ001
        with pytest.raises(InvalidEvent, match="a time with a zone"):
            await session.presence.set("away", back=back)  # type: ignore[arg-type]
    with pytest.raises(InvalidName, match="device"):
        async with session.presence.join(device="a.b"):
            pass
    with pytest.raises(SessionNotFound):
        await ann.session("nowhere").presence.now()
    with pytest.raises(SessionNotFound):
        async for _ in ann.session("nowhere").presence.watch():
            pass
    assert await ann.session("nowhere").watchers() == []


# -- the entries --------------------------------------------------------------------------------------------------------


def entry(*clients: Any) -> bytes:
    return orjson.dumps({"clients": clients})


def test_entries_are_read_as_far_as_they_make_sense() -> None:
    """Whatever stands in the bucket, the rest is told; in its own entry a member speaks only for itself."""
    good = {"member": "ann", "device": "d1", "since": "2026-01-01T00:00:00Z", "status": "idle"}
    found = watchers_of([
        ("watch.s.g1", entry(good, {"member": "a.b", "device": "d"}, {"member": "x"}, 5, None)),
        ("watch.s.g2", b"not JSON"),
        ("watch.s.g3", b"[1]"),
        ("watch.s.g4", b'{"clients": {"a": 1}}'),
        ("watch.s.eve.1", orjson.dumps({"member": "ann", "device": "d9", "kind": "service", "since": 5})),
        ("watch.s.eve.1.2", orjson.dumps({"device": "d9"})),
        ("watch.s.bob.1", orjson.dumps({"device": ""})),
    ])  # fmt: skip
    assert found == [
        Watcher("eve", "d9", None, "active", "service"),
        Watcher("ann", "d1", "2026-01-01T00:00:00Z", "idle", "person"),
    ]


async def test_plain_nats_says_and_hears_who_looks(broker_url: str, session: Session, eventually: Any) -> None:
    """As §13 of the protocol says, with nothing of ours: an entry, a read, a subscription, away in the log."""
    plain = await nats.connect(broker_url)
    try:
        below = f"$KV.orchestrator_free_presence.watch.{session.id}."
        heard = await plain.subscribe(f"{below}>")
        await plain.publish(f"{below}zoe.1", b'{"device":"shell"}')
        mine = await heard.next_msg(timeout=20)
        assert devices(await session.watchers()) == [("zoe", "shell")]
        async with session.presence.join(device="phone"):
            ours = await heard.next_msg(timeout=20)
            inbox = await plain.subscribe("_INBOX.zoe.1")
            request = orjson.dumps({"multi_last": [f"{below}>"], "batch": 1024})
            await plain.publish("$JS.API.DIRECT.GET.KV_orchestrator_free_presence", request, reply="_INBOX.zoe.1")
            read = [await inbox.next_msg(timeout=20) for _ in range(2)]
        left = await heard.next_msg(timeout=20)
        said = b'{"type":"presence.set","status":"away","reason":"lunch","back":"2030-01-01T00:00:00Z"}'
        await plain.jetstream().publish(f"session.{session.shard}.{session.id}.zoe.presence", said)
        zoe = await eventually(lambda: member(session, "zoe"))
    finally:
        await plain.close()
    assert (mine.subject, mine.data) == (f"{below}zoe.1", b'{"device":"shell"}')
    assert {one.headers["Nats-Subject"] for one in read} == {mine.subject, ours.subject}
    assert ours.subject.startswith(f"{below}ann.") and orjson.loads(ours.data)["device"] == "phone"
    assert (left.subject, left.data) == (ours.subject, b"")
    assert (zoe.status, zoe.reason, zoe.back, zoe.device_count) == ("away", "lunch", "2030-01-01T00:00:00Z", 1)


def test_a_device_that_two_gateways_name_counts_once() -> None:
    """It has just moved, or one of them is dead: where it is active counts."""
    idle, active = ({"member": "ann", "device": "d", "since": "2026", "status": one} for one in ("idle", "active"))
    for order in ((idle, active), (active, idle)):
        found = watchers_of([("watch.s.g1", entry(order[0])), ("watch.s.g2", entry(order[1]))])
        assert found == [Watcher("ann", "d", "2026", "active", "person")]


async def test_what_comes_and_vanishes_is_tracked_without_asking_again(
    ann: Broker, fresh: Callable[[str], str], eventually: Any
) -> None:
    """What was there, what is written, what is withdrawn; the broker's answers to others are no entries."""
    name = fresh("s")
    await ann.log.announce(f"watch.{name}.a", b"1")
    changed = []
    tracker = Tracker(ann.log, f"watch.{name}", on_change=lambda: changed.append(1))
    await tracker.open()
    assert tracker.entries == [(f"watch.{name}.a", b"1")]
    ann.log.renew(f"watch.{name}.b", b"2")
    await eventually(lambda: len(tracker.entries) == 2)
    await ann.log.withdraw(f"watch.{name}.a")
    await eventually(lambda: tracker.entries == [(f"watch.{name}.b", b"2")])
    version = tracker.version
    ann.log.renew(f"watch.{name}.b", b"2")
    ann.log.wire.send(
        f"$KV.orchestrator_free_presence.watch.{name}.c", b"3", header=b"NATS/1.0\r\nNats-Subject: x\r\n\r\n"
    )

    async def expired() -> bool:
        tracker.expire()
        return not tracker.entries

    await eventually(expired, 15)
    tracker.close()
    assert tracker.version == version + 1
    assert changed


# -- the picture --------------------------------------------------------------------------------------------------------


class Log:
    """Writes a fold."""

    def __init__(self) -> None:
        self.fold = Fold("s")

    def put(self, member: str, kind: str, body: dict[str, Any], **where: str) -> None:
        sequence = self.fold.sequence + 1
        time = f"2026-01-01T00:00:{sequence:02}Z"
        self.fold.apply(Event(sequence, time, address(0, "s", member, kind, **where), body))
        assert self.fold.skipped == 0

    def run(self, member: str, run: str, *bodies: dict[str, Any]) -> None:
        self.put(member, "run", {"type": "run.started", "attempt": 1, "input": "ann/i"}, id=run)
        for body in bodies:
            self.put(member, "run", body, id=run)


TEXT = {"type": "text.delta", "part": "1", "text": "a"}
STATES: dict[str, tuple[list[list[dict[str, Any]]], str]] = {
    "nothing open": ([[{"type": "run.finished", "status": "done"}]], "idle"),
    "begun": ([[]], "thinking"),
    "reasons": ([[{"type": "reasoning.delta", "part": "1", "text": "a"}]], "thinking"),
    "writes": ([[TEXT]], "streaming"),
    "has written": ([[TEXT, {"type": "text.end", "part": "1"}]], "thinking"),
    "uses a tool": ([[TEXT, {"type": "tool.input", "call": "c", "tool": "t", "input": 1}]], "thinking"),
    "waits": ([[TEXT, {"type": "run.waiting", "reason": "rate limit"}]], "waiting"),
    "waits no more": ([[{"type": "run.waiting", "reason": "budget"}, {"type": "run.working"}]], "thinking"),
    "is silent": ([[TEXT, {"type": "run.stalled", "seconds": 30.0}]], "stalled"),
    "one of two writes": ([[{"type": "run.waiting", "reason": "turn"}], [TEXT]], "streaming"),
    "one of two thinks": ([[{"type": "run.stalled", "seconds": 30.0}], []], "thinking"),
}


@pytest.mark.parametrize("case", STATES)
def test_an_agent_is_what_the_most_telling_of_its_runs_does(case: str) -> None:
    """And while no process of it lives it is offline, whatever its runs do."""
    runs, status = STATES[case]
    log = Log()
    for number, bodies in enumerate(runs):
        log.run("ada", f"r{number}", *bodies)
    here = picture(log.fold, [], {"ada": ["x"]})["ada"]
    gone = picture(log.fold, [], {})["ada"]
    assert (here.status, here.kind) == (status, "agent")
    assert (here.detail is None) is (status == "idle")
    assert (gone.status, gone.reason) == ("offline", ABSENT)


def test_a_run_that_was_lost_waits_for_another_attempt_once_a_process_is_back() -> None:
    """Until then its agent is offline, as the log says."""
    log = Log()
    log.run("ada", "r", TEXT)
    log.put("ada", "presence", {"type": "agent.offline", "reason": "power cut", "back": "2030-01-01T00:00:00Z"})
    gone, back = (picture(log.fold, [], there)["ada"] for there in ({}, {"ada": ["x"]}))
    assert (gone.status, gone.reason, gone.back) == ("offline", "power cut", "2030-01-01T00:00:00Z")
    assert (back.status, back.detail and back.detail["reason"]) == ("waiting", "another attempt")


def test_a_cancelled_run_is_nobodys_work() -> None:
    """However long its agent takes to stop."""
    log = Log()
    log.put("ann", "in", {"type": "input", "text": ""}, target="ada", id="i")
    log.run("ada", "r", TEXT)
    log.put("ann", "ctl", {"type": "cancel", "run": "r"}, target="ada", id="c")
    assert picture(log.fold, [], {"ada": ["x"]})["ada"].status == "idle"


def test_everybody_who_is_there_or_has_been_is_a_member() -> None:
    """Agents by name or by deed, then people; who only looks is one, too; agents of other sessions are not."""
    log = Log()
    log.put("ann", "meta", {"type": "session.created", "agents": ["ada"]})
    log.put("bob", "in", {"type": "input", "text": ""}, target="eve", id="i")
    log.put("dan", "presence", {"type": "presence.set", "status": "offline", "reason": "holiday", "back": "2030"})
    log.put("ghost", "presence", {"type": "agent.offline", "reason": "never seen"})
    found = picture(log.fold, [Watcher("joe", "d", "2026", "active")], {"eve": ["x"], "stranger": ["y"]})
    shown = {(name, one.kind, one.status, one.reason) for name, one in found.items()}
    assert shown == {
        ("ada", "agent", "offline", ABSENT), ("eve", "agent", "idle", ""), ("ghost", "agent", "offline", "never seen"),
        ("ann", "person", "offline", ""), ("bob", "person", "offline", ""), ("joe", "person", "joined", ""),
        ("dan", "person", "offline", "holiday"),
    }  # fmt: skip
    assert orjson.dumps([one.as_dict() for one in found.values()])


def test_a_picture_names_some_devices_and_counts_all() -> None:
    """So a crowd under one name costs a line, not a page."""
    log = Log()
    crowd = [Watcher("user", f"d{number}", "2026", "active") for number in range(500)]
    user = picture(log.fold, crowd, {})["user"]
    assert (len(user.devices), user.device_count) == (DEVICES_SHOWN, 500)


def test_what_changed_between_two_pictures() -> None:
    """New ones, other ones, and the names of those that went."""
    log = Log()
    one, two = (
        picture(log.fold, [Watcher(name, "d", "2026", "active") for name in names], {}) for names in ("ab", "bc")
    )
    assert changes(one, two) == ([two["c"]], ["a"])
    assert changes({}, one) == (list(one.values()), [])
    assert changes(one, one) == ([], [])


def test_what_an_agent_said_of_its_return_is_kept_by_who_replaces_it() -> None:
    """Its own word, and that word in an earlier flag; not what the monitor had said itself, not `available`."""
    assert excuse_of(b'{"type":"presence.set","status":"away","reason":"x","back":"y"}') == {"reason": "x", "back": "y"}
    assert excuse_of(b'{"type":"agent.offline","reason":"x","back":"y"}') == {"reason": "x", "back": "y"}
    for nothing in (b"", b"{}", b'{"type":"agent.offline","reason":"x"}', b'{"type":"presence.set","status":5}'):
        assert excuse_of(nothing) == {}
    assert excuse_of(b'{"type":"presence.set","status":"available","reason":"x"}') == {}


def test_times_are_told_in_utc() -> None:
    """Seconds are enough for who came when."""
    from orchestrator_free.session.presence import now_text

    assert abs(datetime.fromisoformat(now_text()) - datetime.now(UTC)) < timedelta(seconds=30)
