"""Overlap: what becomes of an input that comes while its agent is at work in the session.

Nothing is locked and nobody decides for others: who does what follows from the order of the inputs in the log, which is
the same for every replica, and from the runs that have ended. That a run begins once is the broker's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from orchestrator_free.broker import Broker
from orchestrator_free.errors import Conflict, InvalidInput
from orchestrator_free.events import Body, Event
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Session
from orchestrator_free.session.control import FINAL_OUTCOMES
from orchestrator_free.subjects import LIVE, address
from orchestrator_free.vocabulary.messages import Overlap as Policy
from orchestrator_free.working.line import CHECK_SECONDS, Entry, Line
from orchestrator_free.working.obedience import ActiveRun, Obedience, derived

POLICIES: Final[tuple[str, ...]] = get_args(Policy)
#: sessions whose lines a process remembers
_LINES: Final = 256
#: inputs that wait in one process; beyond it they wait at the broker, the latest first
MOST_WAITING: Final = 512
_BACK_SECONDS: Final = 1.0
#: what an input with `latest` makes way for; one that would be rejected or given to a run would answer nobody
_SUPERSEDING: Final = frozenset({"queue", "latest", "interrupt"})


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to become of an input.

    Attributes:
        status: how its run ends without the handler being called; None: the handler is called.
        reason: why. into: the run that took it as a steer.
        back: seconds after which the broker is to deliver it again, to whoever has a free place; None: not at all.
        lost: another process has it by now; nothing is to be done here.
        fresh: whether nobody had begun its run when it came here; None: not looked at.
        waited: it waited here for its turn, which has come now.
    """

    status: Literal["done", "cancelled", "rejected"] | None = None
    reason: str | None = None
    into: dict[str, Any] | None = None
    back: float | None = None
    lost: bool = False
    fresh: bool | None = None
    waited: bool = False


GO: Final = Ruling()


class Place:
    """One of a process's places for runs; an input that waits for its turn gives it up."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._held = True

    def release(self) -> None:
        """Give it up; safe to call twice."""
        if self._held:
            self._held = False
            self._free.release()

    async def take(self) -> bool:
        """Take one if one is free now."""
        if not self._held and not self._free.locked():
            await self._free.acquire()
            self._held = True
        return self._held


def check_policy(policy: object) -> None:
    """Refuse what is no policy.

    Raises:
        InvalidInput: says which there are.
    """
    if policy not in POLICIES:
        raise InvalidInput(f"overlap {str(policy)[:60]!r} is none of {', '.join(POLICIES)}")


class Overlap:
    """The rules of one agent, as one process applies them."""

    def __init__(
        self,
        broker: Broker,
        agent: str,
        obedience: Obedience,
        meant: Callable[[Event], Awaitable[bool]],
        *,
        policy: str,
        override: bool,
    ) -> None:
        """Prepare.

        Args:
            broker: the connection.
            agent: whose inputs.
            obedience: its side of controls.
            meant: whether an input to everybody is for this agent.
            policy: what the agent declares.
            override: whether an input may say otherwise.
        """
        self._broker = broker
        self._log = broker.log
        self._agent = agent
        self._obedience = obedience
        self._meant = meant
        self._own = policy
        self._override = override
        self._lines: dict[str, Line] = {}
        self._closed = False

    def policy(self, body: Body) -> str:
        """Return which rule an input falls under."""
        said = body.get("overlap") if self._override else None
        return str(said or self._own)

    async def rule(self, event: Event, active: ActiveRun, place: Place) -> Ruling:
        """Say what is to become of an input; this may take as long as all runs before it.

        Args:
            event: the input.
            active: its run, as controls know it.
            place: given up while it waits.
        """
        policy = self.policy(event.body)
        if policy == "concurrent":
            return GO
        session = self._broker.session(event.session)
        begun = await self._last_of_run(session, active.run)
        if begun is not None and begun.type == "run.finished":
            return GO  # and it is found so
        ruling = await self._rule(session, event, policy, active, place, begun=begun is not None)
        return replace(ruling, fresh=begun is None)

    async def _rule(
        self, session: Session, event: Event, policy: str, active: ActiveRun, place: Place, *, begun: bool
    ) -> Ruling:
        line = self._line(session)
        mine = await line.reach(event)
        if policy == "reject":
            busy = await line.at_work(mine)
            return GO if busy is None else Ruling("rejected", f"agent {self._agent} is at work on run {busy.run}")
        if policy == "interrupt":
            for entry in line.ahead(mine):
                await self._interrupt(session, mine, entry)
        if policy == "steer":
            into = await self._steered(session, line, mine, event.body, active, place, begun=begun)
            if into is not None:
                return Ruling("done", into=into)
        return await self._turn(session, line, mine, active, place, policy)

    async def _turn(
        self, session: Session, line: Line, mine: Entry, active: ActiveRun, place: Place, policy: str
    ) -> Ruling:
        """Wait for an input's turn."""
        waited = bool(line.ahead(mine))
        if waited:
            place.release()
            stop = await self._obedience.standing(session, mine.run, mine.sequence)
            if stop is not None:
                active.end(stop)
            if not self._has_room(line, mine):
                return Ruling(back=0 if self._closed else _BACK_SECONDS)
            match await line.wait(mine, active.on_end):
                case "back":
                    return Ruling(back=0 if self._closed else _BACK_SECONDS)
                case "lost":
                    return Ruling(lost=True)
        if active.stop is not None:
            return GO  # and it is ended
        if policy == "latest":
            later = await self._later(session, line, mine)
            if later is not None:
                return Ruling("cancelled", f"superseded by input {later.sender}/{later.input}")
        return Ruling(waited=waited) if await place.take() else Ruling(back=0)

    async def _last_of_run(self, session: Session, run: str) -> Event | None:
        subject = address(session.shard, session.id, self._agent, "run", id=run)
        last = await self._log.last(session.shard, str(subject))
        return to_event(last) if last is not None else None

    # -- the rules ----------------------------------------------------------------------------------------------

    async def _interrupt(self, session: Session, mine: Entry, entry: Entry) -> None:
        """Cancel a run for an input that came after its own; twice is once."""
        reason = f"interrupted by input {mine.sender}/{mine.input}"
        body = {"type": "cancel", "run": entry.run, "children": True, "reason": reason}
        with contextlib.suppress(Conflict):
            await session.append_once("ctl", self._agent, derived(f"interrupt.{mine.run}", entry.run), body)

    async def _later(self, session: Session, line: Line, mine: Entry) -> Entry | None:
        """Return the latest input that one with `latest` makes way for."""
        await line.refresh()
        found = [entry for entry in line.entries.values() if entry.turn > mine.turn and entry.policy in _SUPERSEDING]
        for entry in sorted(found, key=lambda entry: -entry.sequence):
            last = await self._last_of_run(session, entry.run)
            ended = last is not None and last.type == "run.finished"
            if not ended and await self._obedience.standing(session, entry.run, entry.sequence) is None:
                return entry
        return None

    async def _steered(
        self, session: Session, line: Line, mine: Entry, body: Body, active: ActiveRun, place: Place, *, begun: bool
    ) -> dict[str, Any] | None:
        """Give an input to the run at work; return that run if it has taken it, None if the input's turn will come."""
        control = derived("steer", mine.run)
        subject = str(address(session.shard, session.id, self._agent, "ctl", target=self._agent, id=control))
        given = await self._log.last(session.shard, subject)
        if given is None:
            ahead = line.ahead(mine)
            if begun or not ahead:
                return None
            said = {
                "type": "steer", "run": ahead[0].run, "text": body.get("text", ""), "data": body.get("data"),
                "input": {"from": mine.sender, "input": mine.input},
            }  # fmt: skip
            with contextlib.suppress(Conflict):  # another replica has given it, perhaps to another run
                await session.append_once("ctl", self._agent, control, said)
            given = await self._log.last(session.shard, subject)
        event = to_event(given) if given is not None else None
        if event is None:
            return None
        place.release()
        state = await self._outcome(session, control, active)
        return {"agent": self._agent, "run": str(event.body.get("run"))} if state == "applied" else None

    async def _outcome(self, session: Session, control: str, active: ActiveRun) -> str:
        """Wait for the final outcome of a control of this agent, or until the input is cancelled."""
        subject = str(address(session.shard, session.id, self._agent, "outcome", id=control))
        heard = asyncio.Event()
        unsubscribe = self._log.wire.subscribe(LIVE + subject, lambda *_: heard.set())
        active.on_end(heard.set)
        try:
            while active.stop is None:
                heard.clear()
                last = await self._log.last(session.shard, subject)
                event = to_event(last) if last is not None else None
                if event is not None and event.body.get("state") in FINAL_OUTCOMES:
                    return str(event.body["state"])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await heard.wait()
        finally:
            active.on_end(None)
            unsubscribe()
        return ""

    # -- the lines of this process ------------------------------------------------------------------------------

    def _line(self, session: Session) -> Line:
        line = self._lines.pop(session.id, None)
        if line is None:
            line = Line(self._log, self._agent, session, self.policy, self._meant)
        self._lines[session.id] = line
        if len(self._lines) > _LINES:
            idle = next((name for name, one in self._lines.items() if not one.waiters), None)
            if idle is not None:
                self._lines.pop(idle).close()
        return line

    def _has_room(self, line: Line, mine: Entry) -> bool:
        """Make room for an input to wait here: one that comes later in its line goes back to the broker."""
        if self._closed:
            return False
        if sum(len(one.waiters) for one in self._lines.values()) < MOST_WAITING:
            return True
        latest = max(line.waiters.values(), key=lambda waiter: waiter.turn, default=None)
        if latest is None or latest.turn <= mine.turn:
            return False
        latest.say("back")
        return True

    def ended(self, session: str, run: str) -> None:
        """Note that an input was dealt with here."""
        line = self._lines.get(session)
        if line is not None:
            line.ended(run)

    def lose(self) -> None:
        """Forget what waits here: this process was stopped for so long that others have it."""
        for line in self._lines.values():
            for waiter in line.waiters.values():
                waiter.say("lost")

    def close(self) -> None:
        """Give back what waits here, and let nothing wait any more."""
        self._closed = True
        for line in self._lines.values():
            line.close()
            for waiter in line.waiters.values():
                waiter.say("back")
