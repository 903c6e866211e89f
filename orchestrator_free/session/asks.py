"""Asking members for a word, as a member sees it: ask, answer, withdraw, wait for what is decided.

What an ask, its answers and its stages add up to is decided by folding them in log order, so nothing here decides: it
refuses early what would not count, and reads back what has become of it. Expiry and escalation are said by the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from orchestrator_free.errors import AskClosed, Conflict, InvalidAnswer, NotAsked
from orchestrator_free.events import Body, Event, decode, encode
from orchestrator_free.fold import View
from orchestrator_free.fold.asks import Asks as AsksFold
from orchestrator_free.fold.asks import refusal, same
from orchestrator_free.session.asklog import AskLog, due, written
from orchestrator_free.subjects import Position, address, check_name
from orchestrator_free.vocabulary import validate
from orchestrator_free.vocabulary.asking import ask_body

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: rounds with other answers that come in between; each round somebody's word has counted, or not
_ROUNDS: Final = 50

Rule = Literal["quorum", "count", "highest", "lowest"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of an ask. True if there is a decision and it is no veto, so `if await run.approve(…):` is safe.

    Attributes:
        status: decided, expired or withdrawn.
        value: what was decided; for the rule `count` the values by member; None unless decided.
        by: whose answers decided it.
        answers: all of them as in the view, those that do not count included.
        vetoed: decided by the veto value.
    """

    status: str
    value: Any
    by: list[str]
    answers: list[View]
    vetoed: bool = False

    def __bool__(self) -> bool:
        """Whether it was decided, and not by the veto."""
        return self.status == "decided" and not self.vetoed

    @classmethod
    def of(cls, ask: View) -> Decision:
        """Read it from an ask of the view that is not open any more."""
        vetoed = ask["veto"] is not None and ask["status"] == "decided" and ask["value"] == ask["veto"]
        return cls(ask["status"], ask["value"], list(ask["by"]), list(ask["answers"]), vetoed)


@dataclass(frozen=True, slots=True)
class Asked:
    """An ask that stands in the log.

    Attributes:
        ask: its id.
        position: where it stands.
        view: the ask as in the view, as it stood when this was made.
        repeated: it was asked before, with the same content.
    """

    session: Session
    ask: str
    position: Position
    view: View
    repeated: bool = False

    @property
    def until(self) -> str | None:
        """When it expires, RFC 3339; None if it does not."""
        seconds = self.view["seconds"]
        return None if seconds is None else written(due(self.view, seconds))

    async def decision(self, *, timeout: float | None = None) -> Decision:
        """Wait until it is decided, has expired or was withdrawn.

        Raises:
            TimeoutError: nothing of that in time (seconds); it stands all the same.
        """
        return await self.session.asks.decision(self.ask, timeout=timeout)


class AskOptions(TypedDict, total=False):
    """The options of `Asks.ask`, for those who pass them on."""

    about: str
    data: Any
    to: Iterable[str]
    options: Sequence[str] | None
    rule: Rule
    quorum: int
    veto: str | None
    seconds: float | None
    escalations: Iterable[tuple[float, Iterable[str]]]
    id: str | None


class Asks:
    """The asks of one session, as its member may use them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._member = session._broker.member
        self._log = AskLog(session._log, session.id)
        self._runs: set[str] = set()

    # -- asking -------------------------------------------------------------------------------------------------

    async def ask(
        self,
        text: str = "",
        *,
        about: str = "question",
        data: Any = None,
        to: Iterable[str] = (),
        options: Sequence[str] | None = None,
        rule: Rule = "quorum",
        quorum: int = 1,
        veto: str | None = None,
        seconds: float | None = None,
        escalations: Iterable[tuple[float, Iterable[str]]] = (),
        run: View | None = None,
        id: str | None = None,
    ) -> Asked:
        """Ask members for a word.

        Args:
            text: for people.
            about: approval, question, tool, vote, bids, barrier, or a word of yours.
            data: anything JSON beside the text.
            to: whose answers count; nobody named: everybody but this member.
            options: the values that can be answered; None for any JSON.
            rule: `quorum`: the value that so many gave; `count`: decided when so many have answered; `highest` and
                `lowest`: the best number when it expires, of equal ones the first.
            quorum: how many.
            veto: a value that decides when given once.
            seconds: then it expires, by the broker's clock, whoever is alive.
            escalations: (seconds since the ask, members who may then answer, too).
            run: the run that waits for it, `{"agent", "run"}`.
            id: makes asking again harmless: what was asked once is met again, with its decision and its deadline.

        Raises:
            InvalidInput: it could never be decided, or a field is wrong.
            Conflict: an ask of this id exists with other content, or of another member.
        """
        body = ask_body(
            text, about=about, data=data, to=list(to), options=options, rule=rule, quorum=quorum, veto=veto,
            seconds=seconds, escalations=[(after, list(members)) for after, members in escalations], run=run,
        )  # fmt: skip
        if run is not None:
            self._runs.add(run["run"])
        chosen = check_name("ask", secrets.token_hex(16) if id is None else id)
        # Before the look into the log: a process that is stopped in between must not push the deadline later.
        now = await self._log.now()
        while True:
            before = await self._log.last("ask", chosen)
            # What stands there may be no ask, but something that the broker was made to store; it blocks nobody.
            if before and (found := await self._met(chosen, body)) is not None:
                return found
            # Timers first: one for an ask that never comes is skipped, an ask without its timers would stand for ever.
            await self._log.set_timers(self._member, chosen, body, now)
            with contextlib.suppress(Conflict):
                sequence = await self._session.append("ask", body, id=chosen, expect=before, shared=True)
                break
        fold = AsksFold()
        where = address(self._session.shard, self._session.id, self._member, "ask", id=chosen)
        fold.apply(Event(sequence, written(now), where, decode(encode(body))))
        return Asked(self._session, chosen, self._session.position(sequence), fold.found[chosen])

    async def _met(self, id: str, body: Body) -> Asked | None:
        """Return the ask of an id, if it was asked before with the same content; None if it never was."""
        first = next((event for event in await self._log.events(id) if event.kind == "ask"), None)
        if first is None:
            return None
        if first.member != self._member:
            raise Conflict(f"ask {id!r} was asked by {first.member}; use a new id", actual=first.sequence)
        if first.body != decode(encode(body)):
            raise Conflict(f"ask {id!r} was asked before with other content; use a new id", actual=first.sequence)
        return Asked(self._session, id, self._session.position(first.sequence), await self.get(id), repeated=True)

    async def withdraw(self, id: str, reason: str = "") -> View:
        """Say that no answer is needed any more; return the ask. Only the one who asked may; twice is harmless.

        Raises:
            AskNotFound: there is no such ask.
            NotAsked: somebody else has asked it.
            AskClosed: it was decided first, or has expired.
        """
        ask = await self.get(id)
        if ask["from"] != self._member:
            raise NotAsked(f"{self._member} cannot withdraw ask {id!r}: {ask['from']} has asked it")
        if ask["status"] == "open":
            body = {"type": "ask.withdrawn", "reason": reason}
            await self._session.append("stage", body, target=id, id="withdrawn")
            ask = await self.get(id)
        if ask["status"] != "withdrawn":
            raise AskClosed(id, ask)
        await self._log.forget_timers(ask)
        return ask

    async def end_run(self, run: str, *, sure: bool = False) -> list[str]:
        """Withdraw what a run of this member has asked and nobody has decided; return the ids.

        Args:
            run: which; it has ended.
            sure: look into the log; else only if something was asked for it here, as a first attempt knows.
        """
        if not sure and run not in self._runs:
            return []
        waiting = [
            ask["ask"]
            for ask in await self.open()
            if ask["from"] == self._member and ask["run"] == {"agent": self._member, "run": run}
        ]
        for id in waiting:
            with contextlib.suppress(AskClosed):
                await self.withdraw(id, "the run has ended")
        return waiting

    # -- answering ----------------------------------------------------------------------------------------------

    async def answer(self, id: str, value: Any, comment: str = "") -> View:
        """Answer an ask; return it as it stood right after the answer. The same value again is harmless.

        What would not count is refused before anything is sent; where one answer decides, the broker itself refuses
        all but one.

        Raises:
            AskNotFound: there is no such ask.
            NotAsked: this member is not asked.
            AskClosed: it is decided, has expired or was withdrawn, or this member has answered otherwise.
            InvalidAnswer: not one of the options, or no number where the best number wins.
        """
        body = decode(encode({"type": "answer", "value": value, "comment": comment}))  # as everybody will read it
        validate("answer", body)
        for _ in range(_ROUNDS):
            mine, everybodys = [await self._log.last("answer", id, member) for member in (self._member, "*")]
            ask = self._log.folded(await self._log.events(id), id)
            if self._said(ask, body["value"]):
                return ask
            self._refuse(ask, body["value"])
            try:
                # Over all answers where one decides, so that the broker refuses the others; else over one's own.
                single = ask["rule"] == "quorum" and ask["quorum"] == 1
                expect = everybodys if single else mine
                sequence = await self._session.append("answer", body, id=id, expect=expect, shared=single)
            except Conflict:
                continue  # somebody else's word came first: look again
            ask = self._log.folded(await self._log.events(id, up_to=sequence), id)
            if not any(answer["member"] == self._member and answer["counts"] for answer in ask["answers"]):
                raise AskClosed(id, ask)
            if ask["status"] != "open" and ask["from"] == self._member:
                await self._log.forget_timers(ask)
            return ask
        raise Conflict(f"ask {id!r} is answered by so many at once that nobody gets through; try again", actual=0)

    def _said(self, ask: View, value: Any) -> bool:
        """Whether this member has given that answer before, and it counted."""
        return any(
            answer["member"] == self._member and answer["counts"] and same(answer["value"], value)
            for answer in ask["answers"]
        )

    def _refuse(self, ask: View, value: Any) -> None:
        """Raise what an answer would run into."""
        found = refusal(ask, self._member, value)
        match found and found.why:
            case "closed":
                raise AskClosed(ask["ask"], ask)
            case "answered":
                raise AskClosed(ask["ask"], ask, f"{self._member} has answered ask {ask['ask']!r} already")
            case "not asked":
                raise NotAsked(f"ask {ask['ask']!r}: {found}")
            case "value":
                raise InvalidAnswer(f"ask {ask['ask']!r} does not take {str(value)[:80]!r}: {found}")

    # -- reading ------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> View:
        """Return an ask as it stands now, as in the view.

        Raises:
            AskNotFound: there is no such ask.
        """
        return self._log.folded(await self._log.events(id), id)

    async def all(self) -> list[View]:
        """Return the asks of the session in log order."""
        fold = AsksFold()
        for event in await self._log.events("*"):
            fold.take(event)
        return fold.view()

    async def open(self) -> list[View]:
        """Return the asks that wait for answers."""
        return [ask for ask in await self.all() if ask["status"] == "open"]

    async def decision(self, id: str, *, timeout: float | None = None) -> Decision:
        """Wait until an ask is decided, has expired or was withdrawn.

        Raises:
            AskNotFound: there is no such ask.
            TimeoutError: nothing of that in time (seconds); it stands all the same.
        """
        async with asyncio.timeout(timeout):
            ask = await self._log.decided(id)
        if ask["from"] == self._member:
            await self._log.forget_timers(ask)
        return Decision.of(ask)

    async def forget_timers(self, ask: View) -> None:
        """Let the broker say nothing more of an ask that is not open any more; whoever may do so may."""
        await self._log.forget_timers(ask)
