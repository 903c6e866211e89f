"""Barriers, votes and calls for bids: asks that any contender may open, and that everybody reads alike.

All who take part call the same function with the same words: the first one asks, the others meet what it has asked.
Nobody counts: what answers add up to is decided by folding them in log order, and the broker says when time is up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from orchestrator_free.errors import AskClosed, AskNotFound, Conflict, InvalidInput
from orchestrator_free.fold import View
from orchestrator_free.session.asks import Decision
from orchestrator_free.subjects import ALL, address
from orchestrator_free.vocabulary.asking import stages

if TYPE_CHECKING:
    from orchestrator_free.session import Session

#: what must agree between those who open the same thing
_SAME: Final = ("about", "text", "to", "options", "rule", "quorum", "veto", "seconds")


async def barrier(
    session: Session,
    name: str,
    count: int | None = None,
    *,
    members: Iterable[str] = (),
    value: Any = None,
    seconds: float | None = None,
) -> Decision:
    """Arrive, and wait until so many members have; return who brought what.

    Args:
        session: where.
        name: of the barrier; each is passed once.
        count: how many members must arrive; default: all of `members`.
        members: who counts; nobody named: everybody.
        value: what this member brings, anything JSON.
        seconds: after which it is given up.

    Returns:
        Its `value` has what each member brought, by member; its `status` is `expired` if too few came in time.

    Raises:
        Conflict: a barrier of this name is there with other words.
    """
    named = list(members)
    if count is None and not named:
        raise InvalidInput("a barrier needs a count, or members")
    quorum = len(named) if count is None else count
    await _open(session, name, about="barrier", to=named or [ALL], rule="count", quorum=quorum, seconds=seconds)
    return await _say(session, name, value)


async def vote(
    session: Session,
    name: str,
    question: str,
    options: Sequence[str],
    choice: str | None,
    *,
    quorum: int,
    seconds: float | None = None,
    voters: Iterable[str] = (),
    veto: str | None = None,
) -> Decision:
    """Vote, and wait until an option has its quorum.

    Args:
        session: where.
        name: of the vote.
        question: for people.
        options: what can be voted for.
        choice: this member's vote, the first one counts; None: it only watches.
        quorum: how many votes decide.
        seconds: after which it expires undecided.
        voters: whose votes count; nobody named: everybody's.
        veto: an option that decides when given once.

    Raises:
        Conflict: a vote of this name is there with other words.
        NotAsked, InvalidAnswer: this member has no vote; no such option.
    """
    await _open(
        session, name, about="vote", text=question, to=list(voters) or [ALL], options=list(options), quorum=quorum,
        rule="quorum", seconds=seconds, veto=veto,
    )  # fmt: skip
    return await (session.asks.decision(name) if choice is None else _say(session, name, choice))


async def bids(
    session: Session,
    name: str,
    what: str,
    bid: float | None,
    *,
    seconds: float,
    best: str = "lowest",
    bidders: Iterable[str] = (),
) -> Decision:
    """Call for bids, or bid, and wait for the deadline, which the broker holds; everybody sees the same winner.

    Args:
        session: where.
        name: of the call.
        what: for people and agents: what is to be done.
        bid: this member's; None: it only calls, or watches.
        seconds: until the deadline, from the first call on.
        best: `lowest` or `highest`; of equal ones the first.
        bidders: whose bids count; nobody named: everybody's.

    Returns:
        `by` is the winner alone, `value` its bid; expired without a bid, it is False.

    Raises:
        Conflict: a call of this name is there with other words.
    """
    if best not in ("lowest", "highest"):
        raise InvalidInput(f"best: expected 'lowest' or 'highest', not {best!r}")
    await _open(session, name, about="bids", text=what, to=list(bidders) or [ALL], rule=best, seconds=seconds)
    return await (session.asks.decision(name) if bid is None else _say(session, name, bid))


async def _open(session: Session, name: str, **words: Any) -> None:
    """Ask, or meet what another one has asked with the same words."""
    with contextlib.suppress(AskNotFound):
        return _compare(name, await session.asks.get(name), words)
    with contextlib.suppress(Conflict):
        await session.asks.ask(id=name, **words)
        return None
    ask = await session.asks.get(name)
    if ask["from"] != (member := session.member):
        for stage, _, _ in stages(ask):  # of the ask that was not to be
            subject = address(session.shard, session.id, member, "stage", target=name, id=stage)
            await session.log.forget_later(str(subject))
    return _compare(name, ask, words)


def _compare(name: str, ask: View, words: dict[str, Any]) -> None:
    for field in _SAME:
        wanted = words.get(field, {"text": "", "quorum": 1}.get(field))
        if ask[field] != wanted:
            text = f"{words['about']} {name!r} is there already with another {field}: {ask[field]!r}, not {wanted!r}"
            raise Conflict(text, actual=ask["sequence"])


async def _say(session: Session, name: str, value: Any) -> Decision:
    """Answer, if it still counts, and wait for the decision."""
    with contextlib.suppress(AskClosed):  # decided without us, or said before
        await session.asks.answer(name, value)
    return await session.asks.decision(name)
