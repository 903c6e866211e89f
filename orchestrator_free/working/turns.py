"""Whose turn it is to answer: what the floor means for an agent and an input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator_free.events import Body
from orchestrator_free.fold.floor import answers
from orchestrator_free.subjects import ALL, Address

if TYPE_CHECKING:
    from orchestrator_free.session import Session


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether an agent is to work on an input, as far as the floor is concerned.

    Attributes:
        mine: it is for this agent, whoever the session names; None: as if there were no floor.
        refusal: why it is not, to be said in the log; empty: nothing is said.
    """

    mine: bool | None
    refusal: str = ""


async def turn(session: Session, agent: str, where: Address, body: Body, sequence: int, *, shy: bool = False) -> Turn:
    """Return whether an agent is to work on an input: the floor at the input's place in the log decides.

    Args:
        session: whose floor.
        agent: who asks.
        where: the input's address.
        body: its payload.
        sequence: its place in the log.
        shy: inputs to everybody are for this agent only while it has the floor: for people at a desk.
    """
    if body.get("note"):
        return Turn(mine=False)
    holder = (await session.floor.at(sequence)).holder
    entry = {"from": where.member, "parent": body.get("parent"), "whisper": body.get("whisper")}
    if holder is None:
        return Turn(mine=False if shy and where.target == ALL else None)
    if holder == agent:
        return Turn(mine=True)
    if answers(holder, agent, entry):
        return Turn(mine=False if shy and where.target == ALL else None)
    return Turn(mine=False, refusal="" if where.target == ALL else f"{holder} has the floor")


async def meant(session: Session, agent: str, places: Collection[int]) -> set[int]:
    """Return which inputs to `all`, given by their sequences, are an agent's: as the floor stood, or as it is named."""
    if not places:
        return set()
    named = (await session.meta())["agents"]
    steps = await session.floor.history()
    found = set()
    for place in places:
        holders = [step.holder for step in steps if step.revision < place]
        holder = holders[-1] if holders else None
        if agent == holder if holder is not None else not named or agent in named:
            found.add(place)
    return found
