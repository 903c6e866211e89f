"""What the log says of leases, from the leader, and hints that it says something new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from orchestrator_free.errors import BrokerTimeout, InvalidEvent, PermissionDenied
from orchestrator_free.fold import View
from orchestrator_free.fold.leases import Leases
from orchestrator_free.jetstream import Message
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import LIVE, ROOT

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: hints can be lost: whoever waits looks into the log this often all the same
CHECK_SECONDS: Final = 5.0
_TAKEN_AGAIN: Final = frozenset({"released", "lapsed"})


@dataclass(frozen=True, slots=True)
class Standing:
    """How a lease stands.

    Attributes:
        lease: as in the view; None if it was never taken.
        sequence: of the last word on it, over all members; who takes it expects this.
    """

    lease: View | None
    sequence: int

    @property
    def free(self) -> bool:
        """Whether it can be taken."""
        return self.lease is None or self.lease["status"] in _TAKEN_AGAIN

    @property
    def term(self) -> int:
        """The last term, 0 for none."""
        return 0 if self.lease is None else int(self.lease["term"])


def words_on(session: Session, name: str) -> str:
    """Return the filter of what all members say of a lease; `*` for all leases."""
    return f"{ROOT}.{session.shard}.{session.id}.*.lease.{name}"


def lapse_of(session: Session, name: str, hold: str = "*", member: str = "*") -> str:
    """Return the subject, or the filter, of what the broker says of a lease at its time."""
    return f"{ROOT}.{session.shard}.{session.id}.{member}.stage.{name}.{hold}"


async def standing(session: Session, name: str, *, impatient: bool = False) -> Standing:
    """Read how a lease stands, from the leader: the last word on it, and whether that hold has lapsed.

    Args:
        session: where.
        name: of the lease.
        impatient: believe a lapse that the broker has said and that has not reached the session's log yet.
    """
    log = session.log
    word = await _last(session, words_on(session, name))
    if word is None:
        return Standing(None, 0)
    said = [word]
    lease = folded(said).found.get(name)
    if lease is None:  # somebody wrote what makes no sense: the words before it stand
        said = await log.read_all(session.shard, words_on(session, name))
        lease = folded(said).found.get(name)
    if lease is not None and lease["status"] == "held" and lease["seconds"] is not None:
        subject = lapse_of(session, name, lease["hold"], lease["holder"])
        lapse = await _last(session, subject)
        if lapse is not None:
            lease = folded([*said, lapse]).found[name]
        elif impatient and await _fell_due(session, subject):
            lease = lease | {"holder": None, "status": "lapsed"}
    return Standing(lease, word.sequence)


async def _last(session: Session, subject: str) -> Message | None:
    """Read the last message of a filter from the leader, as patiently as what is written waits for a new one."""
    end = time.monotonic() + PUBLISH_DEADLINE_SECONDS
    while True:
        try:
            return await session.log.last(session.shard, subject)
        except BrokerTimeout:
            if time.monotonic() > end:
                raise


async def _fell_due(session: Session, subject: str) -> bool:
    try:
        return await session.log.fell_due(subject)
    except (BrokerTimeout, PermissionDenied):
        return False  # then it is believed when it has come


def folded(messages: Iterable[Message]) -> Leases:
    """Fold stored messages about leases; what makes no sense is skipped."""
    leases = Leases()
    for message in sorted(messages, key=lambda message: message.sequence):
        event = to_event(message)
        if event is not None and event.kind in ("lease", "stage"):
            try:
                leases.apply(event)
            except InvalidEvent:
                continue
    return leases


def check_seconds(seconds: float | None) -> float:
    """Return how often whoever waits for a lease looks into the log though nothing was heard."""
    return CHECK_SECONDS if seconds is None else min(CHECK_SECONDS, max(1.0, seconds / 2))


class Board:
    """Hears what is said of one lease, or of all leases of a session, while the block lasts.

    What it hears are hints: a copy can be lost on its way. `leases()` is good enough to choose by, the log decides.
    """

    def __init__(self, session: Session, name: str = "*") -> None:
        self._session = session
        self._filters = (words_on(session, name), lapse_of(session, name))
        self._last: dict[str, Message] = {}
        self._leases: Leases | None = None
        self._heard = asyncio.Event()
        self._ends: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        subscribe = self._session.log.wire.subscribe
        self._ends = [subscribe(LIVE + subject, self._on_live) for subject in self._filters]
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end()

    def _on_live(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        message = live_message(subject, payload, header)
        if message is not None:
            self._take(message)
            self._heard.set()

    def _take(self, message: Message) -> None:
        known = self._last.get(message.subject)
        if known is None or known.sequence < message.sequence:
            self._last[message.subject] = message
            self._leases = None

    async def read(self) -> None:
        """Read what the log has now."""
        log, shard = self._session.log, self._session.shard
        for table in await asyncio.gather(*(log.table(shard, subject) for subject in self._filters)):
            for message in table:
                self._take(message)

    def leases(self) -> dict[str, View]:
        """Return the leases by name, as far as is known here."""
        if self._leases is None:
            self._leases = folded(self._last.values())
        return self._leases.found

    async def heard(self, seconds: float) -> bool:
        """Wait until something was said since the last call, at most so long; whether it was."""
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            return False
        self._heard.clear()
        return True
