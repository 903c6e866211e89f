"""What was erased: signs without names, so that it is not brought back by mistake."""

from __future__ import annotations

import secrets
from typing import Final

from orchestrator_free import contract
from orchestrator_free.errors import BrokerError
from orchestrator_free.jetstream.wire import Wire

_SECONDS: Final = 2.0


async def bury(wire: Wire, kind: str, name: str) -> None:
    """Leave a sign that a session or a member was erased; the audit log must be there."""
    await wire.publish(contract.tombstone(kind, name), b"{}", message_id=secrets.token_hex(16))


async def is_buried(wire: Wire, kind: str, name: str) -> bool:
    """Whether a session or a member was erased; False where that cannot be asked, or nothing ever was."""
    subject = f"$JS.API.DIRECT.GET.{contract.AUDIT}.{contract.tombstone(kind, name)}"
    try:
        _, header = await wire.exchange(subject, b"", seconds=_SECONDS)
    except (BrokerError, TimeoutError):
        return False
    return b"Nats-Sequence" in header
