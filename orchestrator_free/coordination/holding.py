"""Claims and leases: of many who want something one has it, and everybody sees who.

A lease is taken by a word that the broker stores only over the last word on it. Before that word the taker lets the
broker say later that the lease has lapsed; each renewal moves that on. So a process that dies at any point leaves
nothing that is held for ever, and nobody's clock but the broker's is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator_free.coordination.words import Board, Standing, check_seconds, lapse_of, standing, words_on
from orchestrator_free.errors import BrokerError, Conflict, InvalidInput, LeaseHeld, LeaseLost, TooLarge
from orchestrator_free.events import Body, encode
from orchestrator_free.fold import View
from orchestrator_free.subjects import Position, check_name
from orchestrator_free.vocabulary import validate
from orchestrator_free.vocabulary.asking import LONGEST_SECONDS

if TYPE_CHECKING:
    from orchestrator_free.session import Session

Held = TypeVar("Held", bound="Lease")

#: the broker looks four times a second what is due; a lease must outlast that, and its renewals
SHORTEST_SECONDS: Final = 1.0
#: what goes with a claim, a lease or a task stands in every view
DATA_BYTES: Final = 64 * 1024
#: contenders who hear at the same moment that a lease is free do not all try for it
_SPREAD_SECONDS: Final = 0.02
#: for giving up a lease where its block has failed: the broker will say that it has lapsed
_GIVE_UP_SECONDS: Final = 3.0
#: between two tries to renew a lease
_AGAIN_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has claimed something, for ever. True for the one who has it.

    Attributes:
        won: whether it is the caller.
        by: the member who has it.
        data: what that one has said with it.
        position: where the claim stands.
    """

    name: str
    won: bool
    by: str
    data: Any
    position: Position

    def __bool__(self) -> bool:
        """Whether the caller has it."""
        return self.won


async def holder(session: Session, name: str) -> View | None:
    """Return a claim or lease as the view shows it, from the leader; None if it was never taken."""
    return (await standing(session, check_name("lease", name))).lease


async def claim(session: Session, name: str, *, data: Any = None, key: str = "") -> Claim:
    """Claim something for ever; of all who try, in any process and at any time, one wins.

    Args:
        session: where.
        name: of the claim; claims and leases share their names.
        data: for everybody to read.
        key: makes claiming again harmless: the same member with the same key has what it has claimed before. The id
            of a run, for example: its next attempt goes on where a crash has ended this one.
    """
    member = session.member
    hold = hashlib.sha256(f"{member}.{key}".encode()).hexdigest()[:24] if key else secrets.token_hex(12)
    body = {"type": "lease.taken", "term": 1, "hold": hold, "data": data}
    check_data(data)
    with contextlib.suppress(Conflict):
        sequence = await session.append("lease", body, id=name, expect=0, shared=True)
        return Claim(name, True, member, data, session.position(sequence))
    found = await standing(session, name)
    lease = found.lease or {"hold": "", "by": "", "data": None}
    won = (lease["hold"], lease["by"]) == (hold, member)
    return Claim(name, won, lease["by"], lease["data"], session.position(found.sequence))


@asynccontextmanager
async def lease(
    session: Session, name: str, seconds: float = 10.0, *, wait: float | None = None, data: Any = None
) -> AsyncIterator[Lease]:
    """Hold a lease for the time of the block; it is renewed meanwhile, and given up at the end.

    If the process dies, or hangs for so long that it cannot renew, the lease lapses and the next one has it. A holder
    that finds out that it has lost its lease has its block cancelled, and LeaseLost raised. What must never be written
    by one that has not found out yet is written with `Lease.append`.

    Args:
        session: where.
        name: of the lease.
        seconds: how long it outlives its holder. On a cluster more than the 4 to 9 s that a new leader may take.
        wait: how long to wait for it while somebody else has it; None for as long as it takes.
        data: for everybody to read.

    Raises:
        LeaseHeld: somebody else has it, and kept it for `wait` seconds; or what it stands for is done.
        LeaseLost: it lapsed under the block.
    """
    held = await acquire(session, name, seconds, wait=wait, data=data)
    async with held:
        yield held


async def acquire(session: Session, name: str, seconds: float, *, wait: float | None = None, data: Any = None) -> Lease:
    """Take a lease; it is not renewed before its block is entered."""
    check_name("lease", name)
    check_lasting(seconds)
    check_data(data)
    end = math.inf if wait is None else time.monotonic() + wait
    impatient = False
    with Board(session, name) as board:
        while True:
            found = await standing(session, name, impatient=impatient)
            if found.free:
                held = await attempt(session, name, seconds, found, data, Lease)
                if held is not None:
                    return held
                continue
            left = end - time.monotonic()
            if found.lease is None or found.lease["status"] == "done" or left <= 0:
                raise LeaseHeld(name, found.lease or {})
            impatient = not await board.heard(min(left, check_seconds(found.lease["seconds"])))
            if not impatient:
                await asyncio.sleep(random.random() * _SPREAD_SECONDS)


def check_lasting(seconds: float) -> None:
    """Refuse a time that no lease can last."""
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        most = f"at least {SHORTEST_SECONDS:g} s and at most {LONGEST_SECONDS:g} s"
        raise InvalidInput(f"seconds: a lease lasts {most}, not {seconds:g}")


def check_data(data: Any) -> None:
    """Refuse what is no JSON, or too large to stand in every view of the session."""
    if data is not None and (size := len(encode({"data": data}))) > DATA_BYTES:
        raise TooLarge(f"data: {size} bytes are more than the {DATA_BYTES} that go with a lease; use state or a file")


async def attempt(
    session: Session, name: str, seconds: float, found: Standing, data: Any, make: type[Held]
) -> Held | None:
    """Try once to take a lease that was free; None if somebody else was faster."""
    hold, term = secrets.token_hex(12), found.term + 1
    began = time.monotonic()
    # First the lapse, then the word: one that dies in between leaves a lapse of nothing.
    await session.append_later("stage", {"type": "lease.lapsed", "term": term}, seconds, target=name, id=hold)
    body = {"type": "lease.taken", "term": term, "hold": hold, "seconds": float(seconds), "data": data}
    try:
        sequence = await session.append("lease", body, id=name, expect=found.sequence, shared=True)
    except Conflict:
        await _forget_lapse(session, name, hold)
        return None
    held = make(session, name, term, hold, float(seconds), sequence, began)
    if time.monotonic() - began < seconds / 2:
        return held
    with contextlib.suppress(LeaseLost):  # so slow that the lapse may have come before the word
        await held.release()
    return None


async def _forget_lapse(session: Session, name: str, hold: str) -> None:
    with contextlib.suppress(BrokerError):  # a lapse of what is not held changes nothing
        await session.log.forget_later(lapse_of(session, name, hold, session.member))


class Lease:
    """A lease that this process has taken; `async with` keeps it.

    Attributes:
        name: of the lease.
        term: grows with each taking, by whomever: a fencing token for what is outside of the session.
        seconds: it lapses when it was not renewed for so long.
        sequence: of the word that took it.
        lost: set when it is known here that somebody else may have it.
    """

    def __init__(
        self, session: Session, name: str, term: int, hold: str, seconds: float, sequence: int, began: float
    ) -> None:
        self.session = session
        self.name = name
        self.term = term
        self.seconds = seconds
        self.sequence = sequence
        self.lost = asyncio.Event()
        self._hold = hold
        self._until = began + seconds
        self._why = ""
        self._given_up = False
        self._one = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._cancelling = 0

    # -- what is written under it -------------------------------------------------------------------------------

    async def append(self, kind: str, body: Body, *, target: str = "", id: str = "") -> int:
        """Append an event of this member as `Session.append` does, unless the lease has moved on: the broker decides.

        One at a time, in the order of the calls: meanwhile a replicated stream refuses any other over the same words.

        Raises:
            LeaseLost: somebody has taken the lease since, or it is known to be lost; nothing was stored.
        """
        validate(kind, body)
        subject = self.session._subject(kind, target=target, id=id)
        fence = words_on(self.session, self.name)
        async with self._one:
            self.check()
            try:
                return await self.session.log.wire.publish(
                    subject, encode(body), expect=self.sequence, expect_filter=fence, message_id=secrets.token_hex(16)
                )
            except Conflict:
                self._lose("somebody else has taken it")
                raise self._error() from None

    def check(self) -> None:
        """Raise LeaseLost if it is known here that the lease is lost."""
        if not self.lost.is_set() and time.monotonic() > self._until:
            self._lose("it was not renewed in time")
        if self.lost.is_set():
            raise self._error()

    async def release(self, *, done: bool = False, data: Any = None) -> None:
        """Give the lease up; the end of the block does it, too.

        Args:
            done: what it stands for is done: nobody takes it again.
            data: for everybody to read.

        Raises:
            LeaseLost: somebody else has it.
        """
        check_data(data)
        await self._rest()
        body: Body = {"type": "lease.released", "term": self.term, "hold": self._hold, "data": data}
        await self.append("lease", body | ({"done": True} if done else {}), id=self.name)
        self._given_up = True
        self._lose("it was given up")
        await _forget_lapse(self.session, self.name, self._hold)

    # -- the block ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Lease:
        self._owner = asyncio.current_task()
        self._cancelling = self._owner.cancelling() if self._owner is not None else 0
        self._keeper = asyncio.create_task(self._keep(), name=f"lease {self.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._rest()
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            kind = asyncio.CancelledError
        if self._cancelled:
            await self._uncancel(kind)
        elif self._given_up:
            pass
        elif kind is None:
            await self._leave()
        else:
            with contextlib.suppress(BrokerError, LeaseLost, TimeoutError):
                async with asyncio.timeout(_GIVE_UP_SECONDS):
                    await self._give_back()

    async def _uncancel(self, kind: type[BaseException] | None) -> None:
        """Turn our own cancellation of the block into LeaseLost; leave everybody else's as it is."""
        self._cancelled = False
        ours = self._owner is not None and self._owner.uncancel() <= self._cancelling
        if ours and kind is None:
            with contextlib.suppress(asyncio.CancelledError):  # not delivered yet
                await asyncio.sleep(0)
        if ours and (kind is None or kind is asyncio.CancelledError):
            raise self._error() from None

    async def _leave(self) -> None:
        """End a block that was done with."""
        await self.release()

    async def _give_back(self) -> None:
        """End a block that has failed."""
        await self.release()

    async def _rest(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    # -- keeping it ---------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the lease until it is lost; then cancel the block."""
        why = "it lapsed, or somebody else has taken it"
        with Board(self.session, self.name) as board:
            due = 0.0  # looks at once: something may have been said before the board could hear it
            while time.monotonic() < self._until:
                await board.heard(max(0.0, due - time.monotonic()))
                due = self._due
                try:
                    async with asyncio.timeout(self._until - time.monotonic()):
                        if not await self._still_ours():
                            break
                        if time.monotonic() >= due:
                            await self._renew()
                            due = self._due
                except (TimeoutError, BrokerError) as error:
                    why = f"it could not be renewed in time: {error or 'no answer from the broker'}"
                    await asyncio.sleep(_AGAIN_SECONDS)
        self._lose(why)
        if self._owner is not None and not self._owner.done():
            self._cancelled = True
            self._owner.cancel()

    @property
    def _due(self) -> float:
        """When it is to be renewed: a third of its time after the last time."""
        return self._until - self.seconds * 2 / 3

    async def _still_ours(self) -> bool:
        found = await standing(self.session, self.name)
        return found.sequence == self.sequence and found.lease is not None and found.lease["status"] == "held"

    async def _renew(self) -> None:
        began = time.monotonic()
        lapse = {"type": "lease.lapsed", "term": self.term}
        await self.session.append_later("stage", lapse, self.seconds, target=self.name, id=self._hold)
        self._until = began + self.seconds

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self._why = why
            self.lost.set()

    def _error(self) -> LeaseLost:
        return LeaseLost(self.name, self._why)
