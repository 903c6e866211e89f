"""Answers to clients of other protocols: each is told what it has not been told, as fast as it reads.

A client costs its socket and what it was told; a slow one is simply told more at once, later. Nothing is queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson

from orchestrator_free import logs
from orchestrator_free.gateway.channels.attendance import visit_by
from orchestrator_free.gateway.channels.channel import Channel
from orchestrator_free.gateway.connections.fallback import FeedResponse
from orchestrator_free.gateway.connections.transport import Feed, Head

HEARTBEAT: Final = b": heartbeat\n\n"
_HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)
_log = logs.logger(__name__)

#: returns the bytes that are new, and whether they were the last
Tell = Callable[[], tuple[bytes, bool]]


def frame(place: str, message: dict[str, Any]) -> bytes:
    """Return a message as a frame of SSE; lines end with LF alone, other ends break clients."""
    head = b"id: %b\n" % place.encode() if place else b""
    return head + b"data: %b\n\n" % orjson.dumps(message)


def answered(channel: Channel, tell: Tell, member: str, headers: tuple[tuple[str, str], ...] = ()) -> FeedResponse:
    """Return the answer to a client that is told of a channel over SSE."""
    teller = Teller(channel, tell, member)
    return FeedResponse(Head(_HEADERS + headers), teller, lambda feed: teller.begin(feed, b": stream-open\n\n"))


class Teller:
    """Tells one client of a channel, through `tell`, until that says that it was the end.

    Handles its connection's callbacks.

    Attributes:
        visit: who looks, for others to see.
    """

    def __init__(self, channel: Channel, tell: Tell, member: str, *, beat_seconds: float = 15.0) -> None:
        """Prepare.

        Args:
            channel: the session.
            tell: returns the bytes that are new, and whether they were the last.
            member: who looks.
            beat_seconds: between two comments while there is nothing to tell.
        """
        self.visit = visit_by(member)
        self._channel = channel
        self._tell = tell
        self._beat_seconds = beat_seconds
        self._feed: Feed | None = None
        self._leave: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._stuck = 0

    def begin(self, feed: Feed, greeting: bytes = b"") -> None:
        """Start telling."""
        self._feed = feed
        if greeting:
            feed.send(greeting)
        self._deafen = self._channel.listen(self.go_on)
        self._channel.attendance.came(self._channel, self)
        self._leave = self._go
        self._beat()
        self.go_on()

    def go_on(self) -> None:
        """Tell what is new, if the client takes it."""
        feed = self._feed
        if feed is None or feed.closed:
            return
        if self._channel.closed:
            feed.cut()  # the client comes back and finds another channel
            return
        if not feed.writable:
            return
        self._stuck = 0
        try:
            data, last = self._tell()
        except Exception:  # others listen to this channel, too
            _log.exception("telling a client failed", session=self._channel.session)
            feed.cut()
            return
        if data:
            feed.send(data)
        if last:
            feed.finish()

    def _beat(self) -> None:
        feed = self._feed
        if feed is None or feed.closed:
            return
        if feed.writable:
            feed.send(HEARTBEAT)
        else:
            self._stuck += 1
            if self._stuck > 2:
                feed.cut()
                return
        self._timer = asyncio.get_running_loop().call_later(self._beat_seconds, self._beat)

    def _go(self) -> None:
        self._deafen()
        self._channel.attendance.left(self._channel.session, self)

    def on_resume(self, conn: Feed) -> None:
        """The buffer has drained."""
        self.go_on()

    def farewell(self, reason: str) -> bytes:
        """A comment: to the clients of other protocols a frame of ours would be an error."""
        return f": {reason}\n\n".encode()

    def on_close(self, conn: Feed) -> None:
        """The client has gone, or was told everything."""
        self._leave()
        if self._timer is not None:
            self._timer.cancel()
