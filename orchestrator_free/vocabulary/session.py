"""What is said of the session and its members: its making, its state, who is there, who answers."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from orchestrator_free.vocabulary.base import InputRef, Payload

_NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"


class ForkedFrom(BaseModel):
    """The session that another one began as a copy of."""

    session: str
    position: str = Field(description="up to which its history was taken over")


class SessionCreated(Payload):
    """The session begins (kind `meta`)."""

    type: Literal["session.created"] = "session.created"
    title: str = ""
    agents: list[str] = Field([], description="who answers inputs to `all`; empty: every agent")
    compaction: Literal["on", "off"] = Field("on", description="`off` keeps every delta of finished runs")
    forked_from: ForkedFrom | None = Field(None, description="`{session, position}` that its history was copied from")


class SessionUpdated(Payload):
    """Title or agents change; absent fields stay (kind `meta`)."""

    type: Literal["session.updated"] = "session.updated"
    title: str | None = None
    agents: list[str] | None = None


class SessionDeleted(Payload):
    """The session is about to be purged (kind `meta`)."""

    type: Literal["session.deleted"] = "session.deleted"


class AgentOffline(Payload):
    """No replica of the agent is alive while it owes work here (kind `presence`)."""

    type: Literal["agent.offline"] = "agent.offline"
    reason: str = ""
    back: str | None = Field(None, description="RFC 3339: when it expects to be back, if it had said so")


class StateSet(Payload):
    """The new value of a shared key (kind `state`)."""

    type: Literal["state.set"] = "state.set"
    value: Any = None


class StateDeleted(Payload):
    """A shared key is gone (kind `state`)."""

    type: Literal["state.deleted"] = "state.deleted"


class PresenceSet(Payload):
    """What a member says of itself until it says something else (kind `presence`)."""

    type: Literal["presence.set"] = "presence.set"
    status: Literal["available", "away", "offline"]
    reason: str = ""
    back: str | None = Field(None, description="RFC 3339: when it expects to be back")


class FloorRequest(BaseModel):
    """Somebody is asked to take the floor."""

    sender: str = Field(alias="from")
    to: str
    reason: str = ""


class Floor(Payload):
    """The whole state of the floor after this step; published only over the step before it (kind `floor`)."""

    type: Literal["floor"] = "floor"
    step: Literal["take", "request", "accept", "decline", "withdraw", "return", "release"]
    holder: str | None = Field(description="who answers the person now; null: as if there were no floor")
    previous: str | None = Field(None, description="who had it before the holder; `return` gives it back")
    request: FloorRequest | None = Field(None, description="open until it is accepted, declined or withdrawn")
    reason: str = ""


class BranchSelected(Payload):
    """People look at the branch that ends with this input, or with what came after it (kind `meta`)."""

    type: Literal["branch.selected"] = "branch.selected"
    input: InputRef


class LeaseTaken(Payload):
    """The sender holds a lease; published only over the last word on it, so that one of many has it (kind `lease`)."""

    type: Literal["lease.taken"] = "lease.taken"
    term: int = Field(ge=1, description="one more than the last one; what is said of an earlier term does not count")
    hold: str = Field(pattern=_NAME, description="random, of this taking: replicas of one name differ in it")
    seconds: float | None = Field(None, description="it lapses unless renewed in this time; null: held until released")
    data: Any = None


class LeaseReleased(Payload):
    """The holder gives a lease up; published only over its taking (kind `lease`)."""

    type: Literal["lease.released"] = "lease.released"
    term: int
    hold: str = Field(pattern=_NAME)
    done: bool = Field(False, description="what it stood for is done: nobody takes it again")
    data: Any = None


class LeaseLapsed(Payload):
    """A lease was not renewed; the broker says it of the hold in the subject, in the holder's name (kind `stage`)."""

    type: Literal["lease.lapsed"] = "lease.lapsed"
    term: int
