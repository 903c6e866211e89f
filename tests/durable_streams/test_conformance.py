"""The public conformance suite of the Durable Streams protocol against one gateway on one server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_the_public_suite_passes_whole(process: Callable[[], Any], suite: Any, eventually: Any) -> None:
    """332 of 332; only its tests of subscriptions, which are optional, are not run."""
    gateway = process()
    await gateway.start(eventually)

    outcome = await suite(gateway.url)

    assert outcome.failures == []
    assert (outcome.passed, outcome.failed) == (332, 0)
    assert outcome.skipped == {"Reserved subscription APIs"}
