"""A feed of a session, as its channel knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator_free.gateway.channels.frames import Selection, control
from orchestrator_free.gateway.connections.transport import Feed

if TYPE_CHECKING:
    from orchestrator_free.gateway.channels.channel import Channel


@dataclass(slots=True, eq=False)
class Visit:
    """Who looks at a session through a feed.

    Attributes:
        listed: others may know.
        follows: it is told who is there.
        informed: it has been told all that there was to tell.
        sees: of whom it may be told; None for everybody.
    """

    member: str
    device: str
    listed: bool = True
    follows: bool = False
    informed: bool = False
    sees: frozenset[str] | None = None


class Client:
    """A feed of a session: where it stands and what it wants. Handles its connection's callbacks.

    Attributes:
        cursor: everything up to this sequence was written; -1 for a client of the crowd, which has everything.
        reading: brings what is older than the memory, at most one at a time.
        visit: who looks, and what it wants to know of the others.
    """

    __slots__ = ("channel", "cursor", "feed", "reading", "selection", "until_idle", "visit")

    def __init__(self, channel: Channel, selection: Selection, visit: Visit, *, until_idle: bool) -> None:
        self.channel = channel
        self.selection = selection
        self.visit = visit
        self.until_idle = until_idle
        self.cursor = -1
        self.feed: Feed | None = None
        self.reading: asyncio.Task[None] | None = None

    def on_resume(self, conn: Feed) -> None:
        """The buffer has drained: go on from the cursor."""
        if self.cursor >= 0:
            self.channel.pump(self)

    def farewell(self, reason: str) -> bytes:
        """What it is told when its token counts no more; it comes back with another one, behind its position."""
        return control(reason, {"session": self.channel.session}, form=self.selection.form)

    def on_close(self, conn: Feed) -> None:
        """The connection is over."""
        self.channel.leave(self, conn)
