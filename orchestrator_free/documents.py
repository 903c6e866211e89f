"""The documents of the HTTP edge as models: the envelope of an event, the folded view, a problem.

They describe, they do not produce: the gateway writes these bytes on a path that validates nothing, and tests hold its
output against the schemas made from here.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator_free.vocabulary import Data, File, InputRef, Raw, RunNotice, RunRef, Source


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow")


class Envelope(_Document):
    """One event as the gateway hands it to a client, around the untouched payload."""

    position: str = Field(description="where the reader stands after it", pattern=r"^[0-9a-f]{8}-(0|[1-9][0-9]*)$")
    session: str
    member: str = Field(description="who published it, as the broker enforced it")
    kind: str = Field(description="kind of entity: in, run, meta, presence, state, …")
    target: str | None = Field(None, description="whom it is for, where the kind has a target")
    id: str | None = Field(None, description="id of the entity, where the kind has one")
    time: str = Field(description="when the broker stored it, RFC 3339, UTC")
    event: dict[str, Any] = Field(description="the payload, a JSON object with a `type`")


class Problem(_Document):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class Part(_Document):
    """A part of a run; unknown types pass."""

    type: str
    by: str | None = Field(None, description="the sub-agent inside the run that wrote it: id of a `subagent` part")


class TextPart(_Document):
    """Text or reasoning, the deltas joined."""

    type: Literal["text"]
    part: str
    text: str
    open: bool = Field(False, description="more may come")
    by: str | None = None


class ReasoningPart(TextPart):
    """Reasoning, the deltas joined."""

    type: Literal["reasoning"]  # type: ignore[assignment]


class ToolPart(_Document):
    """A tool call."""

    type: Literal["tool"]
    call: str
    tool: str
    status: Literal["running", "done", "error"]
    input: Any = None
    output: Any = None
    error: str | None = None
    started: str | None = None
    seconds: float | None = None
    text: str | None = Field(None, description="its input as far as the model has written it")
    by: str | None = None


class OtherPart(_Document):
    """An event of a type that the fold does not know, as it was."""

    type: Literal["other"]
    event: dict[str, Any]


class Attempt(_Document):
    """What an attempt that was lost had written."""

    attempt: int
    parts: list[Part]


class WaitingView(_Document):
    """What a run waits for."""

    reason: str = Field(description="approval, answer, rate limit, budget, turn, …")
    ask: str | None
    until: str | None
    since: str


class RunView(_Document):
    """One agent's work on one input."""

    run: str
    agent: str
    input: str = Field(description="`<sender>/<input id>`")
    parent: RunRef | None
    whisper: bool = Field(description="it answers a whisper: not for the person who is served")
    into: RunRef | None = Field(description="the run that took this one's input as a steer")
    waiting: WaitingView | None = Field(description="what it waits for, if it does")
    stalled: float | None = Field(description="seconds without an event though its process lives; null: it writes")
    status: Literal["running", "lost", "done", "error", "cancelled", "failed", "rejected"]
    cancelled: int | None = Field(description="sequence of the control that ended it; nothing after it is shown")
    attempt: int
    attempts: list[Attempt]
    started: str | None
    finished: str | None
    usage: dict[str, float]
    error: str | None
    object: str | None = Field(description="name of the object that holds parts and attempts, if too large")
    parts: list[Part]
    first: int = Field(description="sequence of its first event")
    last: int = Field(description="sequence of its last event")


class AgentView(_Document):
    """A group: one agent and its runs."""

    agent: str
    status: Literal["idle", "working", "offline"]
    reason: str | None = Field(description="why it is offline")
    back: str | None = Field(description="RFC 3339: when it expects to be back")
    runs: list[RunView]


class InputView(_Document):
    """An input as it was sent."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    input: str
    sender: str = Field(alias="from")
    to: str
    text: str
    data: Any
    parent: RunRef | None
    replayed: bool
    note: bool = Field(description="to be read, not worked on")
    whisper: bool = Field(description="not for the person who is served")
    after: InputRef | None = Field(description="the input that it comes after; of a note: was said after")
    siblings: int = Field(description="how many inputs stand in this place, itself included; 0: it is in no branch")
    floor: str | None = Field(description="who had the floor when it came")
    time: str
    sequence: int


class BranchView(_Document):
    """The branch that is shown, and where each branch ends."""

    path: list[InputRef] = Field(description="the inputs of the selected branch, oldest first")
    heads: list[InputRef] = Field(description="the last input of each branch, the latest last")


class Meta(_Document):
    """What is known of the session itself."""

    title: str
    agents: list[str]
    created: str | None
    by: str | None
    compaction: str
    forked_from: dict[str, str] | None = Field(description="`session` and `position` that its history was copied from")


class StateView(_Document):
    """The present value of a shared key."""

    value: Any
    by: str
    revision: int = Field(description="sequence of the event that set it; expect it to change the value")
    time: str


class OutcomeView(_Document):
    """What became of a control at one agent."""

    state: Literal["accepted", "applied", "rejected", "too_late", "expired"]
    reason: str
    runs: list[str] = Field(description="the runs it reached")
    time: str


class ControlView(_Document):
    """What somebody told agents to do."""

    control: str
    type: Literal["cancel", "steer", "redirect", "pause", "resume"]
    sender: str = Field(alias="from")
    to: str = Field(description="an agent or `all`")
    run: str | None = Field(description="which run; null: all that were open or waiting")
    text: str
    reason: str
    time: str
    sequence: int
    outcomes: dict[str, OutcomeView] = Field(description="by agent")


class AnswerView(_Document):
    """A member's word on an ask."""

    member: str
    value: Any
    comment: str
    counts: bool = Field(description="false: it came too late, from somebody not asked, or is no option")
    reason: str = Field(description="why it does not count")
    time: str


class AskView(_Document):
    """What members are asked, and what their answers add up to."""

    ask: str
    sender: str = Field(alias="from")
    about: str
    text: str
    data: Any
    to: list[str] = Field(description="whose answers count now, escalations included; empty: everybody else's")
    options: list[str] | None
    rule: Literal["quorum", "count", "highest", "lowest"]
    quorum: int
    veto: str | None
    run: RunRef | None
    seconds: float | None
    escalations: list[dict[str, Any]] = Field(description="who may answer, too, and how many seconds after the ask")
    status: Literal["open", "decided", "expired", "withdrawn"]
    value: Any = Field(description="what was decided")
    by: list[str] = Field(description="whose answers decided it")
    reason: str
    answers: list[AnswerView]
    time: str
    decided: str | None = Field(description="when")
    sequence: int


class FloorStep(_Document):
    """A step of the floor, and how it stood then."""

    holder: str | None = Field(description="who answers the person; null: as if there were no floor")
    previous: str | None = Field(description="whom `return` gives it back to")
    request: dict[str, Any] | None = Field(description="who is asked to take it: from, to, reason")
    step: Literal["take", "request", "accept", "decline", "withdraw", "return", "release"]
    by: str
    reason: str
    time: str
    revision: int = Field(description="sequence of the step; the next one expects it")


class FloorView(FloorStep):
    """Who answers the person now, by the last step."""

    history: list[FloorStep] = Field(description="the last 50 steps, this one included")


class LeaseView(_Document):
    """Who holds something."""

    holder: str | None = Field(description="null: it was released or has lapsed")
    status: Literal["held", "released", "lapsed", "done"] = Field(description="done: nobody takes it again")
    term: int = Field(description="grows with each taking: a fencing token")
    hold: str = Field(description="which taking")
    by: str = Field(description="whose it is or was")
    data: Any
    seconds: float | None = Field(description="it lapses unless renewed in this time; null: held until released")
    time: str = Field(description="of the last change")
    revision: int = Field(description="sequence of the last word on it; the next taking expects it")


class NoticeView(_Document):
    """A notification that did not arrive, and what became of it."""

    notice: str
    sender: str = Field(alias="from", description="the service")
    about: str = Field(description="what it was to tell")
    position: str = Field(description="the event it is about")
    status: Literal["failed", "retrying", "delivered"]
    tries: int
    error: str
    time: str
    sequence: int


class PresenceView(_Document):
    """What a member says of itself."""

    status: Literal["available", "away", "offline"]
    reason: str
    back: str | None
    time: str


class QueueView(_Document):
    """An input whose run has not begun."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    agent: str
    run: str
    input: str
    sender: str = Field(alias="from")
    place: int = Field(description="among what this agent has not begun in this session, from 1")


class View(_Document):
    """A session folded: what a person reads, grouped by agent and run, as of a position."""

    session: str
    position: str
    meta: Meta
    inputs: list[InputView]
    branch: BranchView
    agents: list[AgentView]
    queue: list[QueueView]
    presence: dict[str, PresenceView] = Field(description="by member")
    floor: FloorView | None
    state: dict[str, StateView]
    asks: list[AskView]
    leases: dict[str, LeaseView] = Field(description="by name")
    notices: list[NoticeView] = Field(description="the last 100")
    controls: list[ControlView]


#: the parts of a run whose fields are known
PARTS: Final[tuple[type[BaseModel], ...]] = (
    TextPart, ReasoningPart, ToolPart, Source, File, Data, RunNotice, Raw, OtherPart,
)  # fmt: skip
