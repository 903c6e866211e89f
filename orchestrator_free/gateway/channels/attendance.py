"""Who looks at which session through this gateway; and telling it: one entry per session, however many look.

Nothing here happens per event. A client that comes or leaves costs a few dictionary operations; entries are written
four times a second if something changed and every two seconds if not; those who want to know who is there are told
twice a second at most, from one picture per session.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from orchestrator_free import logs
from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.channels.client import Client, Visit
from orchestrator_free.gateway.channels.frames import Format, control
from orchestrator_free.jetstream import Log
from orchestrator_free.session.presence import RENEW_SECONDS, Tracker, now_text
from orchestrator_free.subjects import check_name
from orchestrator_free.views.members import Member, Picture, changes, picture, replicas_of, watchers_of

if TYPE_CHECKING:
    from orchestrator_free.gateway.channels.channel import Channel

_log = logs.logger("orchestrator_free.gateway")

_TICK_SECONDS: Final = 0.25
#: of a session's devices at this gateway its entry names so many; all of them are counted
ENTRY_DEVICES: Final = 256


def visit_of(query: Mapping[str, str], member: str) -> Visit:
    """Read with what somebody looks from a feed's query: `device`, `presence` (`0` hides, `follow` tells of others).

    Raises:
        InvalidInput: a name that cannot be one, an unknown word.
    """
    words = set(filter(None, query.get("presence", "").split(",")))
    if unknown := sorted(words - {"0", "follow"}):
        raise InvalidInput(
            f"presence={unknown[0][:40]!r} is unknown; there are 0 (hide) and follow (tell me of others)"
        )
    device = check_name("device", query["device"]) if "device" in query else f"{getrandbits(32):08x}"
    return Visit(member, device, "0" not in words, "follow" in words)


def visit_by(member: str) -> Visit:
    """Return a visit of a member whose client names no device."""
    return Visit(member, f"{getrandbits(32):08x}")


class Looker(Protocol):
    """What is served to somebody."""

    @property
    def visit(self) -> Visit:
        """Who that is."""


@dataclass(slots=True)
class _Guest:
    """A device at this gateway; `feeds` counts its connections."""

    since: str
    status: str = "active"
    feeds: int = 0


class _Room:
    """The clients of one session at this gateway."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.clients = 0
        self.guests: dict[str, dict[str, _Guest]] = {}
        self.announced = False
        self.followers: set[Client] = set()
        self.tracker: Tracker | None = None
        self.opening: asyncio.Task[None] | None = None
        self.shown: Picture = {}
        self.mark: object = None

    def entry(self) -> bytes:
        """Return the entry: one device of everybody first, then the others, as far as there is room."""
        first = ((member, *next(iter(devices.items()))) for member, devices in self.guests.items())
        clients = [
            {"member": member, "device": device, "since": guest.since, "status": guest.status}
            for member, device, guest in islice(_chain(first, self._others()), ENTRY_DEVICES)
        ]
        return orjson.dumps({"count": sum(map(len, self.guests.values())), "clients": clients})

    def _others(self) -> Iterator[tuple[str, str, _Guest]]:
        for member, devices in self.guests.items():
            for device, guest in islice(devices.items(), 1, None):
                yield member, device, guest

    def close(self) -> None:
        """Hear nothing more."""
        if self.opening is not None:
            self.opening.cancel()
        if self.tracker is not None:
            self.tracker.close()
        self.opening = self.tracker = self.mark = None
        self.shown = {}


def _chain(*parts: Iterator[tuple[str, str, _Guest]]) -> Iterator[tuple[str, str, _Guest]]:
    for part in parts:
        yield from part


class Attendance:
    """The rooms of a gateway."""

    def __init__(self, log: Log) -> None:
        self.instance = secrets.token_hex(6)
        self._log = log
        self._rooms: dict[str, _Room] = {}
        self._changed: dict[str, None] = {}
        self._sent: OrderedDict[str, float] = OrderedDict()
        self._followed: set[str] = set()
        self._agents: Tracker | None = None
        self._opening: asyncio.Task[None] | None = None

    # -- clients come and leave ---------------------------------------------------------------------------------

    def came(self, channel: Channel, client: Looker) -> None:
        """Note a client that begins to be served."""
        session, visit = channel.session, client.visit
        room = self._rooms.get(session)
        if room is None:
            room = self._rooms[session] = _Room(channel)
        room.channel = channel
        room.clients += 1
        if visit.listed:
            devices = room.guests.setdefault(visit.member, {})
            guest = devices.get(visit.device)
            if guest is None:
                guest = devices[visit.device] = _Guest(now_text())
                self._changed[session] = None
            guest.feeds += 1
        if visit.follows and isinstance(client, Client):
            visit.informed = False
            room.followers.add(client)
            self._follow(session, room)

    def left(self, session: str, client: Looker) -> None:
        """Note a client that is not served any more."""
        room, visit = self._rooms.get(session), client.visit
        if room is None:
            return
        room.clients -= 1
        devices = room.guests.get(visit.member, {})
        guest = devices.get(visit.device) if visit.listed else None
        if guest is not None:
            guest.feeds -= 1
            if not guest.feeds:
                del devices[visit.device]
                self._changed[session] = None
            if not devices:
                del room.guests[visit.member]
        if isinstance(client, Client):
            room.followers.discard(client)
        if not room.followers:
            self._followed.discard(session)
            room.close()
        if not room.clients and not room.announced:
            self._forget(session)

    def set_status(self, session: str, member: str, device: str, status: str) -> bool:
        """Note whether somebody sits at a device; False if it is not at this gateway."""
        room = self._rooms.get(session)
        guest = room.guests.get(member, {}).get(device) if room is not None else None
        if guest is None:
            return False
        if guest.status != status:
            guest.status = status
            self._changed[session] = None
        return True

    def _forget(self, session: str) -> None:
        self._rooms.pop(session, None)
        self._sent.pop(session, None)
        self._changed.pop(session, None)

    # -- telling the broker -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell what changed, renew what did not, inform followers; until cancelled."""
        loop = asyncio.get_running_loop()
        unhear = self._log.hear_presence("device", self._on_device)
        even = False
        try:
            while True:
                await asyncio.sleep(_TICK_SECONDS)
                even = not even
                try:
                    self._tell(loop.time())
                    if even:
                        self._inform()
                except Exception:
                    _log.exception("telling who is there failed")
        finally:
            unhear()

    def _on_device(self, key: str, payload: bytes) -> None:
        """Somebody at another gateway says that a device is idle, or is not any more."""
        tokens = key.split(".")
        if len(tokens) == 4 and tokens[1] in self._rooms and payload in (b'{"status":"idle"}', b'{"status":"active"}'):
            _, session, member, device = tokens
            self.set_status(session, member, device, orjson.loads(payload)["status"])

    def tell_device(self, session: str, member: str, device: str, status: str) -> None:
        """Tell the gateway that has a device whether somebody sits at it."""
        self._log.renew(f"device.{session}.{member}.{device}", orjson.dumps({"status": status}))

    def _tell(self, now: float) -> None:
        changed, self._changed = self._changed, {}
        for session in changed:
            self._write(session, now)
        for _ in range(max(64, len(self._sent) // 6)):  # spread over the ticks: ten thousand at once take 60 ms
            if not self._sent:
                break
            session, sent = self._sent.popitem(last=False)
            if sent > now - RENEW_SECONDS:
                self._sent[session] = sent
                self._sent.move_to_end(session, last=False)
                break
            self._write(session, now)

    def _write(self, session: str, now: float) -> None:
        room = self._rooms.get(session)
        if room is None:
            return
        self._sent.pop(session, None)
        key = f"watch.{session}.{self.instance}"
        if room.guests:
            self._log.renew(key, room.entry())
            room.announced = True
            self._sent[session] = now
        elif room.announced:
            self._log.renew(key, b"")
            room.announced = False
        if not room.clients and not room.announced:
            self._forget(session)

    def close(self) -> None:
        """Withdraw every entry."""
        for session, room in list(self._rooms.items()):
            room.close()
            if room.announced:
                self._log.renew(f"watch.{session}.{self.instance}", b"")
        self._rooms.clear()
        if self._opening is not None:
            self._opening.cancel()
        if self._agents is not None:
            self._agents.close()

    # -- telling clients ----------------------------------------------------------------------------------------

    def _follow(self, session: str, room: _Room) -> None:
        """Begin to hear who is at the other gateways, and which agents live."""
        self._followed.add(session)
        if room.tracker is None:
            room.tracker = Tracker(self._log, f"watch.{session}")
            room.opening = asyncio.create_task(room.tracker.open(), name=f"presence {session}")
        if self._agents is None:
            self._agents = Tracker(self._log, "agent", keys_only=True)
            self._opening = asyncio.create_task(self._agents.open(), name="presence of agents")

    def _inform(self) -> None:
        agents = self._agents
        if agents is None or not agents.opened:
            return
        agents.expire()
        replicas: dict[str, list[str]] | None = None
        for session in list(self._followed):
            room = self._rooms[session]
            if room.tracker is None or not room.tracker.opened:
                continue
            room.tracker.expire()
            mark = (room.channel.fold.sequence, room.tracker.version, agents.version)
            if mark != room.mark:
                if replicas is None:
                    replicas = replicas_of(key for key, _ in agents.entries)
                room.mark = mark
                found = picture(room.channel.fold, watchers_of(room.tracker.entries), replicas)
                changed, gone = changes(room.shown, found)
                room.shown = found
                if changed or gone:
                    _send(room, changed, gone, whole=False)
            if any(not one.visit.informed and one.feed is not None and one.feed.writable for one in room.followers):
                _send(room, list(room.shown.values()), [], whole=True)

    async def members(self, channel: Channel) -> list[Member]:
        """Return the members of a session now.

        Raises:
            BrokerError: the bucket cannot be read.
        """
        watch, agents = await asyncio.gather(self._log.present(f"watch.{channel.session}"), self._log.present("agent"))
        return list(picture(channel.fold, watchers_of(watch), replicas_of(key for key, _ in agents)).values())


def _frames(members: list[Member], gone: list[str], *, whole: bool) -> dict[Format, bytes]:
    """Return a control frame in each form: every member, or those that changed and the names of those that went."""
    body: Any = {"whole": whole, "members": [member.as_dict() for member in members], "gone": gone}
    return {"sse": control("presence", body), "ndjson": control("presence", body, form="ndjson")}


def _send(room: _Room, members: list[Member], gone: list[str], *, whole: bool) -> None:
    """Write all to those followers that are not informed, or a change to those that are; who cannot take it, is not."""
    made: dict[frozenset[str] | None, dict[Format, bytes]] = {}
    for client in list(room.followers):
        if client.visit.informed is whole or client.feed is None:
            continue
        client.visit.informed = client.feed.writable
        if client.feed.writable:
            sees = client.visit.sees
            if sees not in made:
                shown = [one for one in members if sees is None or one.member in sees]
                made[sees] = _frames(shown, [one for one in gone if sees is None or one in sees], whole=whole)
            client.feed.send(made[sees][client.selection.form])
