"""The vocabulary: what payloads say, as pydantic models; checked at the edges, not per token. Unknown types pass."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Body

Count = Annotated[float, Field(allow_inf_nan=False)]


class _Payload(BaseModel):
    model_config = ConfigDict(extra="allow")


class RunRef(BaseModel):
    """Points to a run of another agent."""

    agent: str
    run: str


class Input(_Payload):
    """A message addressed to a member; the work item (kind `in`)."""

    type: Literal["input"] = "input"
    text: str = ""
    data: Any = None
    parent: RunRef | None = Field(None, description="the run that delegated it")
    redirects: RunRef | None = Field(None, description="the run that was ended for it")
    depth: int = Field(0, ge=0, description="how many delegations lie between a person and this")
    replayed: bool = Field(False, description="imported history: shown, never worked on")


class RunStarted(_Payload):
    """An attempt begins; output of earlier attempts of this run no longer counts (kind `run`)."""

    type: Literal["run.started"] = "run.started"
    attempt: int = Field(ge=1)
    input: str = Field(description="`<sender>/<input id>`")
    replica: str = Field("", description="which process of the agent; unique, so that no two begin alike")
    parent: RunRef | None = None


class RunFinished(_Payload):
    """The run's end; self-contained, published with `Nats-Rollup: sub`, so that it replaces the run's deltas."""

    type: Literal["run.finished"] = "run.finished"
    status: Literal["done", "error", "cancelled", "failed"]
    attempt: int = 1
    input: str = ""
    parent: RunRef | None = None
    error: str | None = None
    usage: dict[str, Count] = {}
    parts: list[dict[str, Any]] | None = Field(None, description="the folded parts; absent: the log's deltas stand")
    attempts: list[dict[str, Any]] = []
    object: str | None = Field(None, description="name of the object that holds parts and attempts, if too large")
    first: int | None = Field(None, description="sequence of the run's first event")
    started: str | None = None


class TextDelta(_Payload):
    """A piece of a text part; the first one opens the part."""

    type: Literal["text.delta"] = "text.delta"
    part: str
    text: str


class TextEnd(_Payload):
    """A text part is complete."""

    type: Literal["text.end"] = "text.end"
    part: str


class ReasoningDelta(_Payload):
    """A piece of a reasoning part; the first one opens the part."""

    type: Literal["reasoning.delta"] = "reasoning.delta"
    part: str
    text: str


class ReasoningEnd(_Payload):
    """A reasoning part is complete."""

    type: Literal["reasoning.end"] = "reasoning.end"
    part: str


class ToolInputDelta(_Payload):
    """A piece of a tool call's input, as the model writes it; the first one opens the call."""

    type: Literal["tool.input.delta"] = "tool.input.delta"
    call: str
    tool: str
    text: str


class ToolInput(_Payload):
    """A tool is called with its whole input."""

    type: Literal["tool.input"] = "tool.input"
    call: str
    tool: str
    input: Any = None


class ToolOutput(_Payload):
    """What a tool gave; `preliminary` ones are replaced by the next."""

    type: Literal["tool.output"] = "tool.output"
    call: str
    output: Any = None
    preliminary: bool = False


class ToolError(_Payload):
    """A tool failed."""

    type: Literal["tool.error"] = "tool.error"
    call: str
    error: str


class Source(_Payload):
    """Something the answer rests on."""

    type: Literal["source"] = "source"
    id: str
    url: str | None = None
    title: str | None = None


class File(_Payload):
    """A file the run made: its address, or its name in the session's objects."""

    type: Literal["file"] = "file"
    name: str
    media_type: str = "application/octet-stream"
    url: str | None = None
    object: str | None = None
    size: int | None = Field(None, description="bytes")


class Data(_Payload):
    """Structured output; the same name and id replaces, transient ones are not kept."""

    type: Literal["data"] = "data"
    name: str
    id: str | None = None
    data: Any = None
    transient: bool = False


class Usage(_Payload):
    """What the run has used; values of one name add up."""

    type: Literal["usage"] = "usage"
    usage: dict[str, Count]


class RunNotice(_Payload):
    """Something went wrong that does not end the run."""

    type: Literal["error"] = "error"
    message: str


class Raw(_Payload):
    """A vendor's event that has no word here."""

    type: Literal["raw"] = "raw"
    data: Any = None


class SessionCreated(_Payload):
    """The session begins (kind `meta`)."""

    type: Literal["session.created"] = "session.created"
    title: str = ""
    agents: list[str] = Field([], description="who answers inputs to `all`; empty: every agent")
    compaction: Literal["on", "off"] = Field("on", description="`off` keeps every delta of finished runs")


class SessionUpdated(_Payload):
    """Title or agents change; absent fields stay (kind `meta`)."""

    type: Literal["session.updated"] = "session.updated"
    title: str | None = None
    agents: list[str] | None = None


class SessionDeleted(_Payload):
    """The session is about to be purged (kind `meta`)."""

    type: Literal["session.deleted"] = "session.deleted"


class AgentOffline(_Payload):
    """No replica of the agent is alive while it owes work here (kind `presence`)."""

    type: Literal["agent.offline"] = "agent.offline"
    reason: str = ""


class _Control(_Payload):
    run: str | None = Field(None, description="which run of the target; absent: all that are open or waiting")
    deadline: str | None = Field(None, description="RFC 3339; not accepted by then, it expires")
    reason: str = ""


class Cancel(_Control):
    """Stop; readers show nothing of the run that comes after this event (kind `ctl`)."""

    type: Literal["cancel"] = "cancel"
    children: bool = Field(True, description="the runs that it delegated, too")


class Steer(_Control):
    """Take this into account; reaches the handler at its next checkpoint (kind `ctl`)."""

    type: Literal["steer"] = "steer"
    text: str
    data: Any = None


class Redirect(_Control):
    """Stop, and do this instead, knowing what was written so far (kind `ctl`)."""

    type: Literal["redirect"] = "redirect"
    text: str
    data: Any = None


class Pause(_Control):
    """Write nothing more until `resume` (kind `ctl`)."""

    type: Literal["pause"] = "pause"


class Resume(_Control):
    """Go on (kind `ctl`)."""

    type: Literal["resume"] = "resume"


class Outcome(_Payload):
    """What became of a control: accepted, then exactly one of the others (kind `outcome`)."""

    type: Literal["outcome"] = "outcome"
    state: Literal["accepted", "applied", "rejected", "too_late", "expired"]
    reason: str = ""
    runs: list[str] = Field([], description="the runs it reached")


class StateSet(_Payload):
    """The new value of a shared key (kind `state`)."""

    type: Literal["state.set"] = "state.set"
    value: Any = None


#: kind -> the payloads that may stand there; other types pass through untouched
VOCABULARY: Final[dict[str, tuple[type[_Payload], ...]]] = {
    "in": (Input,),
    "run": (
        RunStarted, RunFinished, TextDelta, TextEnd, ReasoningDelta, ReasoningEnd, ToolInputDelta, ToolInput,
        ToolOutput, ToolError, Source, File, Data, Usage, RunNotice, Raw,
    ),
    "meta": (SessionCreated, SessionUpdated, SessionDeleted),
    "presence": (AgentOffline,),
    "state": (StateSet,),
    "ctl": (Cancel, Steer, Redirect, Pause, Resume),
    "outcome": (Outcome,),
}  # fmt: skip


def _adapter(models: tuple[type[_Payload], ...]) -> TypeAdapter[Any]:
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    tagged: Any = Annotated[union, Field(discriminator="type")]
    return TypeAdapter(models[0] if len(models) == 1 else tagged)


_ADAPTERS: Final = {kind: _adapter(models) for kind, models in VOCABULARY.items()}
_KNOWN: Final = {kind: {m.model_fields["type"].default for m in models} for kind, models in VOCABULARY.items()}


def validate(kind: str, body: Body) -> None:
    """Check a payload against the vocabulary; unknown types of a kind pass.

    Raises:
        InvalidEvent: says which field is wrong.
    """
    if body.get("type") not in _KNOWN.get(kind, ()):
        return
    try:
        _ADAPTERS[kind].validate_python(body, strict=True)
    except ValidationError as error:
        raise InvalidEvent(f"{body['type']}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return the first thing that is wrong, with its place."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
