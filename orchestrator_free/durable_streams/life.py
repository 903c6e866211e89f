"""How long streams live: sliding (`Stream-TTL`) or to a moment (`Stream-Expires-At`); milliseconds since 1970."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from orchestrator_free.durable_streams.records import Record
from orchestrator_free.durable_streams.requests import moment_of

#: a renewal is written ahead by this part of the TTL, and the next one not before it is used up
_SLACK: Final = 0.1
#: a stream that has expired is taken away so much later, lest somebody just renews it
GRACE_MS: Final = 2000


def milliseconds(moment: datetime) -> int:
    """Return a time as this module counts it."""
    return int(moment.timestamp() * 1000)


def due(record: Record, now: int) -> int:
    """Return when a stream expires that is used now, or never: 0. With a TTL it is a little later than promised."""
    if record.ttl is not None:
        return now + int(record.ttl * 1000 * (1 + _SLACK))
    return milliseconds(moment_of(record.expires)) if record.expires is not None else 0


def must_renew(record: Record, written: int, now: int) -> bool:
    """Whether a use of a stream has to be written down, given when it expires as far as that is written."""
    return record.ttl is not None and now + record.ttl * 1000 > written
