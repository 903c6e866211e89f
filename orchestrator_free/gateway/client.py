"""A feed of a session, as its channel knows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator_free.gateway.frames import Selection
from orchestrator_free.gateway.transport import Feed

if TYPE_CHECKING:
    from orchestrator_free.gateway.channel import Channel


class Client:
    """A feed of a session: where it stands and what it wants. Handles its connection's callbacks.

    Attributes:
        cursor: everything up to this sequence was written; -1 for a client of the crowd, which has everything.
        reading: brings what is older than the memory, at most one at a time.
    """

    __slots__ = ("channel", "cursor", "feed", "reading", "selection", "until_idle")

    def __init__(self, channel: Channel, selection: Selection, *, until_idle: bool) -> None:
        self.channel = channel
        self.selection = selection
        self.until_idle = until_idle
        self.cursor = -1
        self.feed: Feed | None = None
        self.reading: asyncio.Task[None] | None = None

    def on_resume(self, conn: Feed) -> None:
        """The buffer has drained: go on from the cursor."""
        if self.cursor >= 0:
            self.channel.pump(self)

    def on_close(self, conn: Feed) -> None:
        """The connection is over."""
        self.channel.leave(self, conn)
