"""Many clients, slow clients, idle sessions: what a gateway keeps, and what one client costs the others."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.gateway.connections.transport import Limits
from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.embedded.server import EmbeddedServer

#: a kernel holds little for these clients, so that a slow one is seen early
TIGHT = Limits(buffer_bytes=32 * 1024, kernel_bytes=4096)
WORD = "x" * 4000


async def live_subscriptions(broker: EmbeddedServer, session: str) -> int:
    """Count the live subscriptions of a session, as the broker has them."""
    found = await broker.monitor("/connz?subs=1&limit=1000")
    subjects = [subject for one in found["connections"] for subject in one.get("subscriptions_list", [])]
    return sum(session in subject for subject in subjects)


async def test_two_hundred_clients_open_a_session_once(
    gateway: Any, broker: EmbeddedServer, pen: Any, eventually: Any, got: Any
) -> None:
    """All at the same moment: one reader, one subscription; each of them has everything, and what comes then."""
    await pen.story("ada", deltas=20)
    async with AsyncExitStack() as stack:
        feeds = await asyncio.gather(*(stack.enter_async_context(gateway.feed(pen.session)) for _ in range(200)))
        await eventually(lambda: all(len(feed.events) == len(pen.sequences) for feed in feeds), 30)
        assert await live_subscriptions(broker, pen.session) == 1
        assert gateway.count("catch_up_events_count") == 1
        assert gateway.count("clients") == 200
        await pen.write("ada", "state", {"type": "state.set", "value": 1}, id="k")
        await eventually(lambda: all(len(feed.events) == len(pen.sequences) for feed in feeds))
    await eventually(lambda: gateway.count("clients") == 0)
    assert got(feeds[0].events) == await pen.log()
    assert len({bytes(feed.body) for feed in feeds}) == 1


async def test_a_session_is_dropped_when_nobody_has_looked_for_a_while(
    serve: Any, broker: EmbeddedServer, pen: Any, eventually: Any
) -> None:
    """Its memory, its live subscription; kept while somebody looks or asks; then opened again as if for the first time."""
    await pen.story("ada")
    settings = GatewaySettings(keep_seconds=0.4, sweep_seconds=0.05)
    async with serve(settings=settings) as gateway:
        async with gateway.feed(pen.session) as feed:
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            await asyncio.sleep(0.6)  # longer than it is kept for nobody
            assert gateway.hub.hot(pen.session) is not None
        await eventually(lambda: gateway.hub.hot(pen.session) is None)
        await eventually(lambda: _none(broker, pen.session))
        for _ in range(10):
            assert (await gateway.http.get(f"/sessions/{pen.session}")).status_code == 200
            kept = gateway.hub.hot(pen.session)
            await asyncio.sleep(0.1)
            assert gateway.hub.hot(pen.session) is kept
        again = await gateway.read(pen.session, until="idle")
        assert again.events == feed.events


async def _none(broker: EmbeddedServer, session: str) -> bool:
    return await live_subscriptions(broker, session) == 0


async def test_sessions_without_clients_go_first_when_memory_is_short(
    serve: Any, pen: Any, pen_for: Callable[[str], Any], fresh: Callable[[str], str], eventually: Any
) -> None:
    """Long before they are idle enough; the one with a client stays."""
    settings = GatewaySettings(memory_bytes=10_000, sweep_seconds=0.05)
    other = pen_for(fresh("other"))
    async with serve(settings=settings) as gateway:
        await pen.create("ada")
        await pen.start("ada")
        await other.create()
        async with gateway.feed(pen.session) as feed:
            assert (await gateway.http.get(f"/sessions/{other.session}")).status_code == 200
            for _ in range(4):
                await pen.say("ada", WORD)
            await eventually(lambda: gateway.hub.hot(other.session) is None)
            await pen.say("ada", "still here")
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            assert feed.end is None


@pytest.mark.slow
async def test_a_client_that_reads_nothing_is_paused_and_caught_up_and_delays_nobody(
    serve: Any, pen: Any, eventually: Any, got: Any
) -> None:
    """It costs its buffer, no queue; twenty others have each event within moments; when it reads, it gets all of it."""
    async with serve(limits=TIGHT) as gateway, AsyncExitStack() as stack:
        await pen.create("ada")
        await pen.start("ada")
        slow = await stack.enter_async_context(gateway.feed(pen.session, buffer=4096))
        good = [await stack.enter_async_context(gateway.feed(pen.session)) for _ in range(20)]
        await eventually(lambda: all(len(feed.events) == 2 for feed in [slow, *good]))
        slow.reading.clear()
        loop, written = asyncio.get_running_loop(), []
        for number in range(400):
            await pen.say("ada", f"{number} {WORD}")
            written.append(loop.time())
        await eventually(lambda: all(len(feed.events) == len(pen.sequences) for feed in good))
        late = sorted(there - then for feed in good for there, then in zip(feed.arrived[2:], written, strict=True))
        channel = gateway.hub.hot(pen.session)
        [behind] = channel._behind
        assert behind.feed.paused
        assert behind.feed.buffered < 2 * TIGHT.buffer_bytes + 10_000
        assert len(slow.events) < 100
        assert late[int(len(late) * 0.99)] < 0.5
        slow.reading.set()
        await eventually(lambda: len(slow.events) == len(pen.sequences))
        await eventually(lambda: not channel._behind)
        assert slow.events == good[0].events
        await pen.say("ada", "end")
        await eventually(lambda: len(slow.events) == len(pen.sequences))
    assert got(slow.events) == await pen.log()


async def test_a_client_that_is_slower_than_the_memory_is_caught_up_from_the_log(
    serve: Any, pen: Any, eventually: Any, got: Any
) -> None:
    """What it has not read is forgotten meanwhile: nothing is skipped, nothing is kept for it."""
    settings = GatewaySettings(tail_bytes=20_000)
    await pen.create("ada")
    await pen.start("ada")
    async with serve(limits=TIGHT, settings=settings) as gateway, gateway.feed(pen.session, buffer=4096) as slow:
        await eventually(lambda: len(slow.events) == 2)
        slow.reading.clear()
        for number in range(300):
            await pen.say("ada", f"{number} {WORD}")
        channel = gateway.hub.hot(pen.session)
        await eventually(lambda: channel.tail.floor > pen.sequences[200])
        [behind] = channel._behind
        assert behind.cursor < channel.tail.floor
        slow.reading.set()
        await eventually(lambda: len(slow.events) == len(pen.sequences))
        await pen.say("ada", "end")
        await eventually(lambda: len(slow.events) == len(pen.sequences))
    assert got(slow.events) == await pen.log()


@pytest.mark.parametrize("quiet", [False, True])
async def test_a_client_that_takes_nothing_for_too_long_is_cut_and_told_why(
    serve: Any, pen: Any, eventually: Any, got: Any, quiet: bool
) -> None:
    """Also when nothing new comes; with Last-Event-ID it has the rest; the others notice nothing."""
    settings = GatewaySettings(stuck_seconds=0.3, sweep_seconds=0.05, heartbeat_seconds=0.1 if quiet else 60)
    await pen.create("ada")
    await pen.start("ada")
    async with (
        serve(settings=settings, limits=TIGHT) as gateway,
        gateway.feed(pen.session, buffer=4096) as slow,
        gateway.feed(pen.session) as good,
    ):
        await eventually(lambda: len(slow.events) == 2)
        slow.reading.clear()
        channel = gateway.hub.hot(pen.session)
        while not any(client.feed.paused for client in channel._clients):
            await pen.say("ada", WORD)
            await asyncio.sleep(0.001)
        if not quiet:
            await pen.say("ada", WORD)
        await eventually(lambda: gateway.count("cuts_total", reason="slow") == 1)
        slow.reading.set()
        await eventually(lambda: slow.end)
        await eventually(lambda: len(good.events) == len(pen.sequences))
        assert (slow.end, slow.names) == ("truncated", ["cut"])
        assert json.loads(slow.controls[0].data) == {"reason": "slow"}
        assert good.end is None
        await pen.finish("ada")
        rest = await gateway.read(pen.session, until="idle", after=slow.positions[-1])
        assert gateway.count("cuts_total", reason="slow") == 1
    assert got(slow.events + rest.events) == await pen.log()


async def test_clients_that_come_and_go_leave_nothing_behind(
    gateway: Any, broker: EmbeddedServer, pen: Any, eventually: Any
) -> None:
    """Three hundred of them, some in the middle of catching up."""
    await pen.story("ada", deltas=50)
    for number in range(300):
        async with gateway.feed(pen.session, **({"agents": f"a{number}"} if number % 2 else {})) as feed:
            if number % 3:
                await eventually(lambda: feed.body or feed.end)
    channel = gateway.hub.hot(pen.session)
    await eventually(lambda: not channel._clients)
    await eventually(lambda: gateway.server.connections <= 1)
    assert channel._groups == {}
    assert channel._behind == set()
    assert gateway.count("clients") == 0
    assert channel.idle_since is not None
    assert await live_subscriptions(broker, pen.session) == 1


async def test_an_answer_does_not_wait_for_an_acknowledgement(gateway: Any) -> None:
    """Head and body are two writes: without TCP_NODELAY each answer would take the 40 ms of a delayed one."""
    await gateway.http.get("/healthz")
    loop = asyncio.get_running_loop()
    took = []
    for _ in range(20):
        start = loop.time()
        await gateway.http.get("/healthz")
        took.append(loop.time() - start)
    assert sorted(took)[5] < 0.03
