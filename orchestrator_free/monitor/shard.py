"""A stream at a tick, and how far it has been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator_free.jetstream import Message
from orchestrator_free.monitor.telling import Owed


@dataclass(slots=True)
class Shard:
    """What a monitor knows of a stream, and how far it has looked for inputs to names that nobody serves.

    Attributes:
        now: the broker's clock at this tick. end: the last sequence then. before: that of the tick before: a replica
            may be behind, so what a read did not find is passed over only up to there.
        start: the end when the monitor began: up to there is the past, read slowly; from there on the tail.
    """

    created: str
    start: int
    tail: int
    now: str = ""
    end: int = 0
    before: int = 0
    past: int = 0
    waiting: dict[tuple[str, str], list[Owed]] = field(default_factory=dict)

    def passed(self, cursor: int, messages: Sequence[Message]) -> int:
        """Return where to go on after the last page: behind what it held, and what surely held nothing."""
        return max(cursor, self.before, messages[-1].sequence if messages else 0)
