"""Presence as a member sees and says it: who is there, who looks, what they do; away, and back when."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError, InvalidEvent, PositionLost, SessionNotFound
from orchestrator_free.fold import Fold
from orchestrator_free.jetstream import Log
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.subjects import Position, check_name
from orchestrator_free.views.members import Member, Picture, Watcher, picture, replicas_of, watchers_of

if TYPE_CHECKING:
    from orchestrator_free.session import Session

__all__ = ["RENEW_SECONDS", "Member", "Presence", "Seat", "Tracker", "Watcher"]

_log = logs.logger("orchestrator_free.session.presence")

#: entries are written again this often
RENEW_SECONDS: Final = contract.PRESENCE_TTL_SECONDS / 3
#: changes that come close together make one picture
_TOGETHER_SECONDS: Final = 0.2
#: what vanishes without a word is noticed this late at most
_LOOK_SECONDS: Final = 0.5
STATUSES: Final = ("available", "away", "offline")


class Tracker:
    """The presence entries below a prefix as they come and vanish: read once, then heard; nothing is asked again.

    Attributes:
        opened: what was there at the beginning has been read.
        version: grows with every change.
    """

    def __init__(
        self, log: Log, prefix: str, *, keys_only: bool = False, on_change: Callable[[], None] | None = None
    ) -> None:
        self.opened = False
        self.version = 0
        self._log = log
        self._prefix = prefix
        self._keys_only = keys_only
        self._on_change = on_change or (lambda: None)
        self._entries: dict[str, tuple[bytes, float]] = {}
        self._close: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Hear what comes, and read what is there; if that cannot be read, it comes within two seconds anyway."""
        self._close = self._log.hear_presence(self._prefix, self._take)
        try:
            for key, payload in await self._log.present(self._prefix):
                if key not in self._entries:
                    self._take(key, payload)
        except BrokerError as error:
            _log.debug("presence could not be read, hearing it instead", prefix=self._prefix, error=str(error))
        self.opened = True
        self._on_change()

    def close(self) -> None:
        """Hear nothing more."""
        self._close()

    def _take(self, key: str, payload: bytes) -> None:
        kept = payload and b"{}" if self._keys_only else payload
        known = self._entries.pop(key, (b"", 0.0))[0]
        self._entries[key] = (kept, asyncio.get_running_loop().time())  # the latest stands last
        if known != kept:
            self._changed()

    def expire(self) -> None:
        """Forget what was not written again in time."""
        limit = asyncio.get_running_loop().time() - contract.PRESENCE_TTL_SECONDS
        gone = []
        for key, (_, seen) in self._entries.items():
            if seen > limit:
                break
            gone.append(key)
        for key in gone:
            if self._entries.pop(key)[0]:
                self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._on_change()

    @property
    def entries(self) -> list[tuple[str, bytes]]:
        """(key, payload) of what is there."""
        return [(key, payload) for key, (payload, _) in self._entries.items() if payload]


class Seat:
    """A device of this connection's member that looks at a session; announced while it lasts.

    Attributes:
        device: its name.
    """

    def __init__(self, log: Log, session: str, member: str, device: str, kind: str) -> None:
        self.device = device
        self._log = log
        self._key = f"watch.{session}.{member}.{secrets.token_hex(6)}"
        self._about = {"device": device, "since": now_text(), "status": "active", "kind": kind}

    async def say(self, status: Literal["active", "idle"]) -> None:
        """Tell whether somebody sits at the device."""
        if status not in ("active", "idle"):
            raise InvalidEvent(f"{status!r} is no status of a device; there are active and idle")
        self._about["status"] = status
        await self._log.announce(self._key, orjson.dumps(self._about))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            self._log.renew(self._key, orjson.dumps(self._about))

    async def _leave(self) -> None:
        with suppress(BrokerError):
            await self._log.withdraw(self._key)


class Presence:
    """Who is there in one session, and what this connection's member says of itself."""

    def __init__(self, session: Session, log: Log, member: str) -> None:
        self._session = session
        self._log = log
        self._member = member
        self._watchers: tuple[float, list[Watcher]] | None = None

    async def watchers(self, *, within_seconds: float = 0.0) -> list[Watcher]:
        """Return the devices that look at the session now, longest there first; who hides is not among them.

        Args:
            within_seconds: an answer that was had so long ago will do, so that a busy handler may ask at every step.

        Raises:
            BrokerError: the bucket cannot be read.
        """
        now = asyncio.get_running_loop().time()
        if self._watchers is None or now - self._watchers[0] >= within_seconds:
            self._watchers = (now, watchers_of(await self._log.present(f"watch.{self._session.id}")))
        return list(self._watchers[1])

    async def now(self) -> list[Member]:
        """Return every member of the session: agents, then people and services, by name.

        Raises:
            SessionNotFound: the log holds nothing of it.
        """
        view, found, agents = await asyncio.gather(
            self._session.view(whole=False), self.watchers(), self._log.present("agent")
        )
        return list(picture(Fold.load(view), found, replicas_of(key for key, _ in agents)).values())

    async def set(self, status: str, *, reason: str = "", back: datetime | str | None = None) -> Position:
        """Say of this member, until it says something else: available, away or offline.

        Args:
            status: `available`, `away` or `offline`.
            reason: for people.
            back: when it expects to be back; with a time zone.

        Raises:
            InvalidEvent: an unknown status, or a time without a zone.
        """
        if status not in STATUSES:
            raise InvalidEvent(f"{status!r} is no status; there are {', '.join(STATUSES)}")
        body = {"type": "presence.set", "status": status, "reason": reason, "back": _time_text(back)}
        return self._session.position(await self._session.append("presence", body))

    @asynccontextmanager
    async def join(
        self, *, device: str | None = None, kind: Literal["person", "service"] = "person"
    ) -> AsyncIterator[Seat]:
        """Be seen to look at the session, as one of this member's devices, while the block runs.

        Args:
            device: its name; made up if absent.
            kind: what the member is.

        Raises:
            InvalidName: the device's name cannot be one.
            BrokerError: it could not be announced.
        """
        name = check_name("device", secrets.token_hex(4) if device is None else device)
        seat = Seat(self._log, self._session.id, check_name("member", self._member), name, kind)
        await seat.say("active")
        renewal = asyncio.create_task(seat._renew(), name=f"presence {self._session.id}")
        try:
            yield seat
        finally:
            renewal.cancel()
            await seat._leave()

    async def watch(self) -> AsyncIterator[list[Member]]:
        """Yield the picture as `now` gives it, and again each time it has changed; at most five times a second.

        Raises:
            SessionNotFound: the log holds nothing of it.
            PositionLost: the session cannot be followed any further; begin again.
        """
        watch = _Watch(self._log, self._session.id)
        try:
            await watch.open()
            shown: Picture | None = None
            while True:
                found = watch.look()
                if found != shown:
                    shown = found
                    yield list(found.values())
                await watch.wait()
        finally:
            watch.close()


class _Watch:
    """Follows a session and the bucket, for `Presence.watch`."""

    def __init__(self, log: Log, session: str) -> None:
        self._wake = asyncio.Event()
        self._lost: PositionLost | None = None
        self._fold = Fold(session)
        self._reader = Reader(log, session, self._take, self._on_reset)
        self._devices = Tracker(log, f"watch.{session}", on_change=self._wake.set)
        self._agents = Tracker(log, "agent", keys_only=True, on_change=self._wake.set)

    async def open(self) -> None:
        await asyncio.gather(self._reader.open(), self._devices.open(), self._agents.open())
        if self._reader.sequence == 0:
            raise SessionNotFound(self._fold.session)

    def close(self) -> None:
        for part in (self._reader, self._devices, self._agents):
            part.close()

    def _take(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._fold.apply(entry.event)
        self._wake.set()

    def _on_reset(self, lost: PositionLost) -> None:
        self._lost = lost
        self._wake.set()

    def look(self) -> Picture:
        if self._lost is not None:
            raise self._lost
        for tracker in (self._devices, self._agents):
            tracker.expire()
        self._wake.clear()
        replicas = replicas_of(key for key, _ in self._agents.entries)
        return picture(self._fold, watchers_of(self._devices.entries), replicas)

    async def wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wake.wait()
                await asyncio.sleep(_TOGETHER_SECONDS)


def now_text() -> str:
    """Return the time of this host as RFC 3339, to the second."""
    return _second_text(int(time()))


@lru_cache(maxsize=1)
def _second_text(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"  # a thousand come in a second, now and then


def _time_text(value: Any) -> str | None:
    """Return a time as RFC 3339.

    Raises:
        InvalidEvent: it is none, or has no zone, so that nobody elsewhere could read it.
    """
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidEvent(f"back={str(value)[:60]!r}: expected a time with a zone, as 2026-11-22T14:00:00Z")
    return moment.isoformat()
