"""Controls as their sender sees them: cancel, steer, redirect, pause, resume; and what becomes of each."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Body
from orchestrator_free.reading.follower import until_deleted
from orchestrator_free.subjects import ALL, Position
from orchestrator_free.vocabulary import validate

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: outcomes after which no other comes
FINAL_OUTCOMES: Final = frozenset({"applied", "rejected", "too_late", "expired"})
CONTROLS: Final = frozenset({"cancel", "steer", "redirect", "pause", "resume"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a control at one agent.

    Attributes:
        state: accepted, applied, rejected, too_late or expired.
        runs: the runs it reached.
    """

    agent: str
    state: str
    reason: str
    runs: list[str]


@dataclass(frozen=True, slots=True)
class SentControl:
    """A control that stands in the log.

    Attributes:
        control: its id.
        position: where it stands; a cancel counts for every reader from there on.
    """

    session: Session
    control: str
    position: Position

    async def outcome(self, *, timeout: float | None = None) -> Outcome:
        """Wait for the final outcome; of a control to `all`, for the first one.

        Raises:
            TimeoutError: nobody has dealt with it in time (seconds); it stands all the same.
            SessionNotFound: the session was deleted meanwhile.
        """
        async with asyncio.timeout(timeout):
            async for event in until_deleted(self.session.follow(kinds=["outcome", "meta"])):
                if event.kind == "outcome" and event.id == self.control and event.body.get("state") in FINAL_OUTCOMES:
                    body = event.body
                    return Outcome(event.member, body["state"], body.get("reason", ""), list(body.get("runs", [])))
        raise AssertionError("a feed does not end")


class Controls:
    """The controls of one session, as its member may give them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def cancel(
        self,
        run: str | None = None,
        *,
        to: str = ALL,
        children: bool = True,
        reason: str = "",
        within_seconds: float | None = None,
        id: str | None = None,
    ) -> SentControl:
        """Stop a run, or all runs of an agent, or of everybody; also runs that have not begun.

        Nobody sees output of them from this control's position on, whenever their agents stop.

        Args:
            run: which run; None for all that are open or waiting.
            to: whose: an agent, or `all`.
            children: also the runs that they delegated.
            reason: for people.
            within_seconds: not accepted in this time, it expires.
            id: makes sending again harmless.
        """
        body = {"type": "cancel", "children": children, "reason": reason}
        return await self.give(body, to=to, run=run, within_seconds=within_seconds, id=id)

    async def steer(
        self, text: str, *, to: str, run: str | None = None, data: Any = None, within_seconds: float | None = None
    ) -> SentControl:
        """Give a running agent something to take into account; `too_late` if it ends without having looked."""
        body = {"type": "steer", "text": text, "data": data}
        return await self.give(body, to=to, run=run, within_seconds=within_seconds)

    async def redirect(
        self, text: str, *, to: str, run: str | None = None, data: Any = None, within_seconds: float | None = None
    ) -> SentControl:
        """End the present answer and begin another, which knows what was written so far."""
        body = {"type": "redirect", "text": text, "data": data}
        return await self.give(body, to=to, run=run, within_seconds=within_seconds)

    async def pause(self, *, to: str, run: str | None = None) -> SentControl:
        """Let runs write nothing more until `resume`."""
        return await self.give({"type": "pause"}, to=to, run=run)

    async def resume(self, *, to: str, run: str | None = None) -> SentControl:
        """Let paused runs go on."""
        return await self.give({"type": "resume"}, to=to, run=run)

    async def give(
        self,
        body: Body,
        *,
        to: str,
        run: str | None = None,
        within_seconds: float | None = None,
        id: str | None = None,
    ) -> SentControl:
        """Give a control as it stands in the vocabulary; the other methods are this one with names.

        Raises:
            InvalidEvent: not a control, or a wrong field.
            Conflict: a control of this id exists with other content.
        """
        if body.get("type") not in CONTROLS:
            raise InvalidEvent(f"{body.get('type')!r} is no control; there are {', '.join(sorted(CONTROLS))}")
        chosen = secrets.token_hex(16) if id is None else id
        body = {name: value for name, value in body.items() if value is not None}
        if run is not None:
            body["run"] = run
        if within_seconds is not None:
            body["deadline"] = (datetime.now(UTC) + timedelta(seconds=within_seconds)).isoformat()
        validate("ctl", body)
        # Given again, it has another deadline; the first one stands.
        besides = {"deadline"} if within_seconds is not None else set()
        sequence, _ = await self._session.append_once("ctl", to, chosen, body, besides=besides)
        return SentControl(self._session, chosen, self._session.position(sequence))
