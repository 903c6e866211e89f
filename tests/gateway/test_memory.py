"""What a gateway keeps: nothing of what is over, one copy of what many are sent, little for those who do not read."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector: only what nothing refers to any more goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_a_session_that_is_dropped_is_gone_at_once(serve: Any, pen: Any, eventually: Any) -> None:
    """Reader, fold and frames; a collector that runs every few minutes would let megabytes of them pile up."""
    async with serve(settings=GatewaySettings(keep_seconds=0.1, sweep_seconds=0.05)) as gateway:
        async with gateway.feed(pen.session) as feed, gateway.feed(pen.session, snapshot="1"):
            await pen.story("ada", deltas=20)
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            channel = gateway.hub.hot(pen.session)
            kept = [weakref.ref(one) for one in (channel, channel.fold, channel.reader, channel.tail)]
            del channel
        await eventually(lambda: gateway.hub.hot(pen.session) is None)
        await eventually(lambda: [type(one()).__name__ for one in kept if one() is not None] == [])


async def _unread(gateway: Any, pen: Any, count: int, stack: AsyncExitStack, **query: str) -> list[Any]:
    """Let clients come that ask for a session and read nothing of it; return them as their channel has them."""
    for _ in range(count):
        feed = await stack.enter_async_context(gateway.feed(pen.session, buffer=4096, **query))
        feed.reading.clear()
    found: list[Any] = gateway.hub.hot(pen.session)._clients
    return list(found)


async def test_clients_that_read_nothing_share_what_they_were_sent(serve: Any, pen: Any, eventually: Any) -> None:
    """Of a session of megabytes each holds one piece at most, and it is the same object for all of them."""
    pen_bytes = 40 * len(WORD)
    await pen.create("ada")
    await pen.start("ada")
    for number in range(40):
        await pen.say("ada", f"{number} {WORD}")
    async with serve(limits=TIGHT) as gateway, gateway.feed(pen.session) as good, AsyncExitStack() as stack:
        await eventually(lambda: len(good.events) == len(pen.sequences))
        gc.collect()
