"""The floor: who answers the person now, and how that passes from hand to hand.

Each step says the whole state and is published only over the step before it, so of two that are taken at the same
moment exactly one stands. No step expires: an agent that waits too long for an answer withdraws its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from orchestrator_free.errors import Conflict, FloorForbidden, FloorRefused, InvalidEvent, InvalidInput
from orchestrator_free.events import Body, Event
from orchestrator_free.fold import Fold, View
from orchestrator_free.fold.floor import Floor as FloorFold
from orchestrator_free.fold.floor import answers
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ALL, ROOT, check_name, run_id

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: asked for under this name, the floor is for whoever is at the desk: anybody but who asks may accept
DESK: Final = "desk"
Step = Literal["take", "request", "accept", "decline", "withdraw", "return", "release"]
#: what ends a request
_ENDING: Final = frozenset({"accept", "decline", "withdraw", "take"})


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody is asked to take the floor."""

    sender: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class FloorState:
    """How the floor stands after a step.

    Attributes:
        holder: who answers the person; None: as if there were no floor.
        previous: who had it before; gets it at `give_back`.
        request: who is asked to take it, None if nobody is.
        step: take, request, accept, decline, withdraw, return or release; empty if none was ever taken.
        by: who took the step. reason: why. time: when.
        revision: its sequence, 0 if none was ever taken.
    """

    holder: str | None = None
    previous: str | None = None
    request: Request | None = None
    step: str = ""
    by: str = ""
    reason: str = ""
    time: str = ""
    revision: int = 0

    @classmethod
    def of(cls, view: View | None) -> FloorState:
        """Return what a view, or a step of its history, says."""
        if view is None:
            return cls()
        asked = view["request"]
        request = None if asked is None else Request(asked["from"], asked["to"], asked.get("reason", ""))
        rest = {name: view[name] for name in ("holder", "previous", "step", "by", "reason", "time", "revision")}
        return cls(request=request, **rest)

    def json(self) -> dict[str, Any]:
        """Return it as in the view."""
        asked = self.request
        request = None if asked is None else {"from": asked.sender, "to": asked.to, "reason": asked.reason}
        return {
            "holder": self.holder, "previous": self.previous, "request": request, "step": self.step, "by": self.by,
            "reason": self.reason, "time": self.time, "revision": self.revision,
        }  # fmt: skip


class Floor:
    """The floor of one session, as its member may deal with it.

    Every step raises `FloorRefused` if the floor does not stand so that it could be taken, `FloorForbidden` if it is
    somebody else's to take, and `Conflict` if somebody was faster.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._filter = f"{ROOT}.{session.shard}.{session.id}.*.floor"

    # -- reading ------------------------------------------------------------------------------------------------

    async def state(self) -> FloorState:
        """Return how the floor stands, as the leader of the log has it."""
        return (await self._now())[0]

    async def history(self) -> list[FloorState]:
        """Return all steps, oldest first."""
        return [state for state, _ in await self._steps()]

    async def at(self, sequence: int) -> FloorState:
        """Return how the floor stood at a place in the log."""
        state, last = await self._now()
        if last < sequence:
            return state
        before = [found for found, _ in await self._steps() if found.revision < sequence]
        return before[-1] if before else FloorState()

    async def _now(self) -> tuple[FloorState, int]:
        """Return the state, and the sequence that the next step has to expect."""
        log, shard = self._session.log, self._session.shard
        message = await log.last(shard, self._filter)
        if message is None:
            return FloorState(), 0
        fold = FloorFold()
        event = to_event(message)
        if event is not None and _applies(fold, event):
            return FloorState.of(fold.state), message.sequence
        found = await self._steps()  # the last word makes no sense: the one before it counts
        return (found[-1][0] if found else FloorState()), message.sequence

    async def _steps(self) -> list[tuple[FloorState, int]]:
        fold, found = FloorFold(), []
        for message in await self._session.log.read_all(self._session.shard, self._filter):
            event = to_event(message)
            if event is not None and _applies(fold, event):
                found.append((FloorState.of(fold.state), message.sequence))
        return found

    async def changes(self) -> AsyncIterator[FloorState]:
        """Yield every step, those that were taken already first; does not end."""
        fold = FloorFold()
        async for event in self._session.follow(kinds=["floor"]):
            if _applies(fold, event):
                yield FloorState.of(fold.state)

    async def wait_for_request(self, *, timeout: float | None = None) -> FloorState:
        """Wait until this member, or the desk, is asked to take the floor.

        Raises:
            TimeoutError: not in time (seconds).
        """
        async with asyncio.timeout(timeout):
            async for state in self.changes():
                asked = state.request
                if asked is not None and self._is_asked(asked) and state.revision == (await self.state()).revision:
                    return state
        raise AssertionError("a feed does not end")

    async def answer(self, request: FloorState, *, timeout: float | None = None) -> FloorState:
        """Wait for what becomes of a request: the step that ends it, e.g. `accept`, `decline` or `take`.

        Raises:
            TimeoutError: nothing yet (seconds); the request stands.
        """
        async with asyncio.timeout(timeout):
            async for state in self.changes():
                if state.revision > request.revision and state.request is None:
                    return state
        raise AssertionError("a feed does not end")

    # -- steps --------------------------------------------------------------------------------------------------

    async def take(self, *, reason: str = "", cancel: bool = True) -> FloorState:
        """Take over; anybody may, as far as the broker lets them publish here.

        Args:
            reason: for people.
            cancel: end what the others are about to answer; nobody sees more of it from that moment on.
        """
        state, last = await self._now()
        if state.holder == self._member:
            raise FloorRefused(f"{self._member} has the floor already")
        taken = await self._publish("take", last, holder=self._member, previous=state.holder, reason=reason)
        if cancel:
            await self._silence(taken, open_too=True)
        return taken

    async def request(self, to: str, *, reason: str = "") -> FloorState:
        """Ask a member, or with `desk` whoever is there, to take the floor; wait with `answer` for what they say."""
        if check_name("to", to) == ALL:
            raise InvalidInput(f"the floor is for one: name a member, or {DESK!r} for whoever is at the desk")
        state, last = await self._now()
        if to == self._member:
            raise FloorRefused(f"{to} need not ask for the floor: take it")
        if to == state.holder:
            raise FloorRefused(f"{to} has the floor already")
        asked = state.request
        if asked is not None and asked.sender != self._member:
            raise FloorRefused(f"{asked.sender} has asked {asked.to} already; that request is open")
        wanted = {"from": self._member, "to": to, "reason": reason}
        return await self._publish(
            "request", last, holder=state.holder, previous=state.previous, request=wanted, reason=reason
        )

    async def accept(self, *, reason: str = "") -> FloorState:
        """Take the floor that one was asked to take; what has not begun to be answered is then this member's."""
        state, last = await self._now()
        asked = self._open(state)
        if not self._is_asked(asked):
            raise FloorForbidden(f"{asked.to} is asked to take the floor, not {self._member}; to take over, take it")
        accepted = await self._publish("accept", last, holder=self._member, previous=state.holder, reason=reason)
        await self._silence(accepted, open_too=False)
        return accepted

    async def decline(self, reason: str = "") -> FloorState:
        """Refuse to take the floor; it stays where it is."""
        state, last = await self._now()
        asked = self._open(state)
        if asked.to == DESK != self._member:
            raise FloorRefused("the whole desk is asked: leave it to the others, nobody declines for them")
        if asked.to != self._member:
            raise FloorForbidden(f"{asked.to} is asked to take the floor, not {self._member}")
        return await self._publish("decline", last, holder=state.holder, previous=state.previous, reason=reason)

    async def withdraw(self, reason: str = "") -> FloorState:
        """Ask no more; for the one who asked, and for the holder."""
        state, last = await self._now()
        asked = self._open(state)
        if self._member not in (asked.sender, state.holder):
            raise FloorForbidden(f"{asked.sender} has asked, not {self._member}")
        return await self._publish("withdraw", last, holder=state.holder, previous=state.previous, reason=reason)

    async def give_back(self, *, reason: str = "") -> FloorState:
        """Return the floor to who had it before; if nobody had, it is as if there were no floor."""
        state, last = await self._held()
        return await self._publish("return", last, holder=state.previous, reason=reason)

    async def release(self, *, reason: str = "") -> FloorState:
        """Leave the floor to nobody: every agent answers again what is meant for it."""
        _, last = await self._held()
        return await self._publish("release", last, holder=None, reason=reason)

    async def step(self, step: Step, *, to: str | None = None, reason: str = "", cancel: bool = True) -> FloorState:
        """Take a step by its name on the wire; the other methods are this one with names.

        Raises:
            InvalidInput: a request that names nobody, or another step that names somebody.
        """
        if (step == "request") != (to is not None):
            raise InvalidInput("to: name who is asked" if step == "request" else f"to: {step} is for nobody else")
        match step:
            case "take":
                return await self.take(reason=reason, cancel=cancel)
            case "request":
                return await self.request(str(to), reason=reason)
            case "accept":
                return await self.accept(reason=reason)
            case "decline":
                return await self.decline(reason)
            case "withdraw":
                return await self.withdraw(reason)
            case "return":
                return await self.give_back(reason=reason)
            case "release":
                return await self.release(reason=reason)
        raise InvalidInput(f"{step!r} is no step of the floor; there are {', '.join(get_args(Step))}")

    @property
    def _member(self) -> str:
        return self._session.member

    async def _held(self) -> tuple[FloorState, int]:
        state, last = await self._now()
        if state.holder is None:
            raise FloorRefused("nobody has the floor")
        if state.holder != self._member:
            raise FloorForbidden(f"{state.holder} has the floor, not {self._member}")
        return state, last

    def _open(self, state: FloorState) -> Request:
        if state.request is None:
            more = f"; {state.by} was faster ({state.step})" if state.step in _ENDING else ""
            raise FloorRefused(f"nobody is asked to take the floor{more}")
        return state.request

    def _is_asked(self, request: Request) -> bool:
        return request.to == self._member or (request.to == DESK and request.sender != self._member)

    async def _publish(
        self,
        step: Step,
        last: int,
        *,
        holder: str | None,
        previous: str | None = None,
        request: Body | None = None,
        reason: str = "",
    ) -> FloorState:
        """Publish a step over the last one.

        Raises:
            Conflict: somebody else took one first; says who.
        """
        body = {
            "type": "floor", "step": step, "holder": holder, "previous": previous, "request": request, "reason": reason,
        }  # fmt: skip
        try:
            sequence = await self._session.append("floor", body, expect=last, shared=True)
        except Conflict as conflict:
            first = await self.state()
            text = f"{first.by} was faster: {first.step}; {first.holder or 'nobody'} has the floor now"
            raise Conflict(text, actual=conflict.actual) from conflict
        asked = None if request is None else Request(request["from"], request["to"], request["reason"])
        return FloorState(holder, previous, asked, step, self._member, reason, "", sequence)

    async def _silence(self, step: FloorState, *, open_too: bool) -> None:
        """End what the others are about to answer, though the floor has passed on.

        Args:
            step: by which it passed.
            open_too: also what they had begun to answer before.
        """
        fold = Fold.load(await self._session.view(whole=False))
        reason = f"{self._member} has the floor"
        for agent, run in _others(fold, step, self._member, open_too=open_too):
            await self._session.control.cancel(run, to=agent, reason=reason)


def _others(fold: Fold, step: FloorState, member: str, *, open_too: bool) -> list[tuple[str, str]]:
    """Return (agent, run) of what others would still answer to inputs before a step."""
    entries = {
        run_id(entry["from"], entry["input"]): entry
        for entry in fold.inputs.values()
        if entry["sequence"] < step.revision and not answers(member, "", entry)
    }
    begun = {key: run for key, run in fold.runs.items() if run.run in entries and not run.cancelled}
    ended = {(run.agent, run.run) for run in begun.values() if run.open and (open_too or run.first > step.revision)}
    ended |= {key for key in fold.queued() if key[1] in entries}
    if not fold.meta["agents"]:  # then every agent is meant, and who has not begun is not known
        known = {run.run for run in begun.values()}
        ended |= {
            (ALL, run)
            for run, entry in entries.items()
            if entry["to"] == ALL and run not in known and not entry["note"]
        }
    return sorted((agent, run) for agent, run in ended if agent != member)


def _applies(fold: FloorFold, event: Event) -> bool:
    try:
        return fold.apply(event)
    except InvalidEvent:
        return False
