"""Coordination at a broker that enforces the roles of broker/permissions.conf."""

from __future__ import annotations

import pytest

from orchestrator_free.coordination import barrier, claim, lease, share
from orchestrator_free.coordination.holding import acquire
from orchestrator_free.coordination.words import standing
from orchestrator_free.errors import PermissionDenied
from tests.test_permissions import Place, place  # noqa: F401


async def test_an_agent_with_the_permissions_of_an_agent_can_coordinate(place: Place) -> None:  # noqa: F811
    """Nothing here needs more than the role gives; and it lets nobody else's lease lapse."""
    async with place.connect("gateway"), place.connect("outliner") as broker:
        session = broker.session("s1")
        assert await claim(session, "page")
        async with lease(session, "desk", 2) as held:
            await held.append("state", {"type": "state.set", "value": 1}, id="k")
        await acquire(session, "desk", 1)
        async with lease(session, "desk", 5) as held:  # hears that it has lapsed
            assert held.term == 3
            found = await standing(session, "desk", impatient=True)
        async for task in share(session, "pool", ["t1"]):
            async with task:
                pass
        assert (await barrier(session, "gate", 1)).by == ["outliner"]
        with pytest.raises(PermissionDenied):
            await broker.log.later("session.0.s1.ann.stage.desk.h", b"{}", "2030-01-01T00:00:00Z")
    assert (found.term, found.free) == (3, False)
