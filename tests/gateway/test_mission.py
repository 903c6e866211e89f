"""The failures that this project exists for, one scenario each: real broker, agents as processes, gateways, clients."""

from __future__ import annotations

import asyncio
import signal
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.subjects import Position, address

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from orchestrator_free import Broker

ANSWER = """
for number in range(300):
    await run.text(f"w{number} ")
    await asyncio.sleep(0.01)
"""
WHOLE = "".join(f"w{number} " for number in range(300))
#: goes on writing whatever it is told
STUBBORN = """
try:
    await asyncio.sleep(0)
    for number in range(1000000):
        await asyncio.shield(run.text(f"w{number} "))
        await asyncio.sleep(0.002)
except asyncio.CancelledError:
    for number in range(200):
        await run.text(f"late{number} ")
        await asyncio.sleep(0.002)
"""


def folded(session: str, feeds: list[Any]) -> Fold:
    """What a browser shows that got these feeds one after the other."""
    fold = Fold(session)
    for feed in feeds:
        for frame in feed.events:
            told = frame.envelope
            where = address(
                0, session, told["member"], told["kind"], target=told.get("target", ""), id=told.get("id", "")
            )
            fold.apply(Event(Position.parse(told["position"]).sequence, told["time"], where, told["event"]))
    return fold


def text_of(fold: Fold) -> str:
    """The text of the only run."""
    return "".join(part["text"] for run in fold.runs.values() for part in run.part_views() if part["type"] == "text")


async def test_a_connection_that_drops_in_the_middle_of_an_answer_loses_nothing_of_it(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """The agent does not notice; the browser goes on behind the last event it has, without a gap or a repeat."""
    agent, name = fresh("agent"), fresh("s")
    programs.agent(agent, ANSWER)
    session = ann.session(name)
    await session.create(agents=[agent])
    feeds: list[Any] = []
    async with gateway.feed(name) as first:
        sent = await session.send("go", to=agent)
        await eventually(lambda: len(first.events) > 50)
        feeds.append(first)
    await eventually(lambda: _is_ahead(session, agent, first))
    async with gateway.feed(name, headers={"last-event-id": first.positions[-1]}) as second:
        await eventually(lambda: second.events and second.events[-1].envelope["event"]["type"] == "run.finished", 30)
        feeds.append(second)

    run = (await session.result(agent, sent.run, timeout=20))["attempt"], text_of(folded(name, feeds))
    positions = [position for feed in feeds for position in feed.positions]
    assert run == (1, WHOLE)
    assert positions == sorted(set(positions), key=lambda position: Position.parse(position).sequence)


async def _is_ahead(session: Any, agent: str, feed: Any) -> bool:
    """Whether the agent has gone on while the client was away."""
    view = await session.view()
    return any(run["last"] > Position.parse(feed.positions[-1]).sequence + 20 for run in view["agents"][0]["runs"])


async def test_a_second_device_sees_what_the_first_one_does_though_it_comes_in_the_middle_of_an_answer(
    serve: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """At another gateway, from the beginning or from a snapshot: the same view, the open answer included."""
    agent, name = fresh("agent"), fresh("s")
    programs.agent(agent, ANSWER)
    session = ann.session(name)
    await session.create(agents=[agent])
    async with serve() as one, serve() as two, one.feed(name) as phone:
        await session.send("go", to=agent)
        await eventually(lambda: len(phone.events) > 100)
        async with two.feed(name) as laptop, two.feed(name, snapshot="1") as late:
            done = lambda feed: feed.events and feed.events[-1].envelope["event"]["type"] == "run.finished"  # noqa: E731
            await eventually(lambda: done(phone) and done(laptop) and done(late), 30)
            shown = Fold.load(late.controls[0].envelope)
            begun = text_of(shown)
            for event in _events(late):
                shown.apply(event)
            position = late.positions[-1]
            views = [fold.view(position) for fold in (folded(name, [phone]), folded(name, [laptop]), shown)]

    assert begun
    assert WHOLE.startswith(begun)
    assert views[0] == views[1] == views[2]
    assert text_of(shown) == WHOLE


def _events(feed: Any) -> list[Event]:
    found = []
    for frame in feed.events:
        told = frame.envelope
        where = address(0, "s", told["member"], told["kind"], target=told.get("target", ""), id=told.get("id", ""))
        found.append(Event(Position.parse(told["position"]).sequence, told["time"], where, told["event"]))
    return found


class Viewer:
    """A browser that shows an answer as it comes, and notes when it stops."""

    def __init__(self, feed: Any, run: str) -> None:
        self._feed = feed
        self._run = run

    def stopped(self) -> float:
        """When the cancel came, after which it shows nothing; 0 if it has not."""
        for frame, moment in zip(self._feed.events, self._feed.arrived, strict=False):
            if frame.envelope["event"]["type"] == "cancel":
                return float(moment)
        return 0.0


async def test_a_trapped_user_stops_a_stubborn_agent_from_any_client_for_every_viewer_at_once(
    serve: Any,
    ann: Broker,
    programs: Any,
    fresh: Callable[[str], str],
    eventually: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the click to the last viewer's last token in less than 250 ms; what the agent still says is shown to nobody."""
    agent = fresh("agent")
    programs.agent(agent, STUBBORN)
    took = []
    async with serve() as one, serve() as two:
        for _ in range(10):
            session = ann.session(fresh("s"))
            await session.create(agents=[agent])
            async with one.feed(session.id) as phone, two.feed(session.id) as laptop, two.feed(session.id) as guest:
                sent = await session.send("go", to=agent)
                viewers = [Viewer(feed, sent.run) for feed in (phone, laptop, guest)]
                await eventually(lambda: all(len(feed.events) > 30 for feed in (phone, laptop, guest)))
                clicked = asyncio.get_running_loop().time()
                answer = await one.http.post(
                    f"/sessions/{session.id}/controls", json={"type": "cancel", "run": sent.run}
                )
                await eventually(lambda: all(viewer.stopped() for viewer in viewers), every=0.002)
                took.append(max(viewer.stopped() for viewer in viewers) - clicked)
                run = await session.result(agent, sent.run, timeout=30)
                shown = folded(session.id, [phone])
                await eventually(lambda: phone.events[-1].envelope["event"]["type"] in ("outcome", "run.finished"))
            assert answer.status_code == 202
            assert run["status"] == "cancelled"
            assert "late" not in str(run["parts"]) + text_of(shown)

    with capsys.disabled():
        print(
            f"\ncancel, until every viewer has stopped: median {median(took) * 1000:.0f} ms, worst {max(took) * 1000:.0f} ms"
        )
    assert max(took) < 0.25


async def test_an_agent_that_raises_ends_its_run_as_error_with_what_it_had_written(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """No spinner for ever: the view says that it failed, and keeps the text."""
    agent, name = fresh("agent"), fresh("s")
    programs.agent(agent, 'await run.text("so far ")\nraise KeyError("secret")')
    session = ann.session(name)
    await session.create(agents=[agent])
    sent = await session.send("go", to=agent)
    await session.result(agent, sent.run, timeout=20)

    run = (await gateway.http.get(f"/sessions/{name}")).json()["agents"][0]["runs"][0]

    assert (run["status"], run["parts"][0]["text"]) == ("error", "so far ")
    assert run["error"].startswith("KeyError")
    assert "secret" not in run["error"]


async def test_an_agent_that_is_killed_is_taken_over_and_nobody_sees_a_torn_answer(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """SIGKILL in the middle of an answer: the replica begins again, every viewer shows one whole answer."""
    agent, name = fresh("agent"), fresh("s")
    replicas = programs.agent(agent, 'await run.text(f"{os.getpid()} ")\n' + ANSWER, replicas=2, ack_wait_seconds=2)
    session = ann.session(name)
    await session.create(agents=[agent])
    async with gateway.feed(name) as feed:
        sent = await session.send("go", to=agent)
        await eventually(lambda: len(feed.events) > 50)
        pid = int(text_of(folded(name, [feed])).partition(" ")[0])
        next(one for one in replicas if one.pid == pid).send(signal.SIGKILL)
        run = await session.result(agent, sent.run, timeout=60)
        await eventually(lambda: feed.events[-1].envelope["event"]["type"] == "run.finished")
        shown = text_of(folded(name, [feed]))

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert shown.partition(" ")[2] == WHOLE
    assert int(shown.partition(" ")[0]) != pid
