"""Asking members for a word: approvals, questions, tools that a client runs, votes, bids, barriers. One mechanism.

An ask, its answers and its stages are facts in the log; what they add up to is decided by folding them in log order
(`orchestrator_free.fold.asks`), so that every reader decides alike and no process has to.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from orchestrator_free.vocabulary.base import Payload, RunRef


class Escalation(BaseModel):
    """Who may answer, too, when nobody has answered in time."""

    to: list[str]
    after_seconds: float = Field(gt=0, description="since the ask")


class Ask(Payload):
    """Members are asked for a word (kind `ask`)."""

    type: Literal["ask"] = "ask"
    about: str = Field("question", description="approval, question, tool, vote, bids, barrier, or a word of yours")
    text: str = Field("", description="for people")
    data: Any = Field(None, description="anything beside the text, e.g. the tool and its input")
    to: list[str] = Field(
        [], description="whose answers count; empty: everybody but the one who asks; `all`: that one, too"
    )
    options: list[str] | None = Field(None, description="the values that can be answered; null: any JSON")
    rule: Literal["quorum", "count", "highest", "lowest"] = Field(
        "quorum",
        description="quorum: the value that so many gave; count: done when so many have answered; highest, lowest: the "
        "best number when it expires, of equal ones the first",
    )
    quorum: int = Field(1, ge=1)
    veto: str | None = Field(None, description="a value that decides when given once")
    run: RunRef | None = Field(None, description="the run that waits for it")
    seconds: float | None = Field(None, gt=0, description="then the broker says that it has expired")
    escalations: list[Escalation] = Field([])


class Answer(Payload):
    """A member's word on an ask; the first one counts (kind `answer`)."""

    type: Literal["answer"] = "answer"
    value: Any = None
    comment: str = ""


class AskEscalated(Payload):
    """More members may answer; the broker says it at its time (kind `stage`)."""

    type: Literal["ask.escalated"] = "ask.escalated"
    to: list[str]


class AskExpired(Payload):
    """Time is up; the broker says it (kind `stage`)."""

    type: Literal["ask.expired"] = "ask.expired"


class AskWithdrawn(Payload):
    """The one who asked needs no answer any more (kind `stage`)."""

    type: Literal["ask.withdrawn"] = "ask.withdrawn"
    reason: str = ""
