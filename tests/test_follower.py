"""A slow consumer of a session: the log waits for it, memory does not grow, nothing is left out."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.reading import follower as follower_module
from orchestrator_free.reading.follower import Follower

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

SIZE = 100_000
EVENTS = 120


@pytest.mark.parametrize("live", [False, True])
async def test_large_events_are_buffered_up_to_a_number_of_bytes(
    live: bool, ann: Broker, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """Whether they were there before or come while the consumer does nothing."""
    limit = 2 * 1024 * 1024
    monkeypatch.setattr(follower_module, "_BUFFER_BYTES", limit)
    session = ann.session(fresh("s"))
    await session.create()

    async def write() -> None:
        for number in range(EVENTS):
            await session.append("state", {"type": "state.set", "value": f"{number} {'x' * SIZE}"}, id=f"k{number}")

    if not live:
        await write()
    async with Follower(ann.log, session.id, None, compact=False) as follower:
        reading = aiter(follower)
        found = [await anext(reading)]
        if live:
            await write()
        await eventually(lambda: follower._bytes > limit)
        most = follower._bytes
        async with asyncio.timeout(60):
            while len(found) < EVENTS + 1:
                found.append(await anext(reading))
                most = max(most, follower._bytes)

    assert most < limit + 2 * 1024 * 1024
    assert [entry.event.body.get("value", "")[:4].split()[:1] for entry in found[1:]] == [
        [str(n)] for n in range(EVENTS)
    ]
    assert all(one.event.sequence < other.event.sequence for one, other in pairwise(found))
    assert follower._bytes == 0
