"""What an agent says while it works (kind `run`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from orchestrator_free.vocabulary.base import Count, Payload, RunRef

#: what a framework runs inside one run is no member: it writes in the run's name, and its parts say so
By = Annotated[str | None, Field(description="the sub-agent inside the run that opens the part: a `subagent`'s id")]


class RunStarted(Payload):
    """An attempt begins; output of earlier attempts of this run no longer counts (kind `run`)."""

    type: Literal["run.started"] = "run.started"
    attempt: int = Field(ge=1)
    input: str = Field(description="`<sender>/<input id>`")
    replica: str = Field("", description="which process of the agent; unique, so that no two begin alike")
    parent: RunRef | None = None
    whisper: bool = Field(False, description="it answers a whisper: not for the person who is served")


class Timing(BaseModel):
    """What the agent measured of the attempt that ended a run; compaction removes it from the log otherwise."""

    first_output_seconds: float | None = Field(None, description="from its beginning to its first output; null: none")
    longest_silence_seconds: float = Field(description="in which it wrote nothing and waited for nobody")


class RunFinished(Payload):
    """The run's end; self-contained, published with `Nats-Rollup: sub`, so that it replaces the run's deltas."""

    type: Literal["run.finished"] = "run.finished"
    status: Literal["done", "error", "cancelled", "failed", "rejected"]
    attempt: int = 1
    input: str = ""
    parent: RunRef | None = None
    whisper: bool = Field(False, description="it answers a whisper: not for the person who is served")
    into: RunRef | None = Field(None, description="the run that took this input as a steer")
    error: str | None = None
    usage: dict[str, Count] = Field({})
    parts: list[dict[str, Any]] | None = Field(None, description="the folded parts; absent: the log's deltas stand")
    attempts: list[dict[str, Any]] = Field([])
    object: str | None = Field(None, description="name of the object that holds parts and attempts, if too large")
    first: int | None = Field(None, description="sequence of the run's first event")
    started: str | None = None
    timing: Timing | None = Field(None, description="how long people waited for it, as the agent measured")


class TextDelta(Payload):
    """A piece of a text part; the first one opens the part."""

    type: Literal["text.delta"] = "text.delta"
    part: str
    text: str
    by: By = None


class TextEnd(Payload):
    """A text part is complete."""

    type: Literal["text.end"] = "text.end"
    part: str


class ReasoningDelta(Payload):
    """A piece of a reasoning part; the first one opens the part."""

    type: Literal["reasoning.delta"] = "reasoning.delta"
    part: str
    text: str
    by: By = None


class ReasoningEnd(Payload):
    """A reasoning part is complete."""

    type: Literal["reasoning.end"] = "reasoning.end"
    part: str


class ToolInputDelta(Payload):
    """A piece of a tool call's input, as the model writes it; the first one opens the call."""

    type: Literal["tool.input.delta"] = "tool.input.delta"
    call: str
    tool: str
    text: str
    by: By = None


class ToolInput(Payload):
    """A tool is called with its whole input."""

    type: Literal["tool.input"] = "tool.input"
    call: str
    tool: str
    input: Any = None
    by: By = None


class ToolOutput(Payload):
    """What a tool gave; `preliminary` ones are replaced by the next."""

    type: Literal["tool.output"] = "tool.output"
    call: str
    output: Any = None
    preliminary: bool = False


class ToolError(Payload):
    """A tool failed."""

    type: Literal["tool.error"] = "tool.error"
    call: str
    error: str


class Source(Payload):
    """Something the answer rests on."""

    type: Literal["source"] = "source"
    id: str
    url: str | None = None
    title: str | None = None
    by: By = None


class File(Payload):
    """A file the run made: its address, or its name in the session's objects."""

    type: Literal["file"] = "file"
    name: str
    media_type: str = "application/octet-stream"
    url: str | None = None
    object: str | None = None
    size: int | None = Field(None, description="bytes")


class Data(Payload):
    """Structured output; the same name and id replaces, transient ones are not kept."""

    type: Literal["data"] = "data"
    name: str
    id: str | None = None
    data: Any = None
    transient: bool = False
    by: By = None


class Usage(Payload):
    """What the run has used; values of one name add up."""

    type: Literal["usage"] = "usage"
    usage: dict[str, Count]


class RunNotice(Payload):
    """Something went wrong that does not end the run."""

    type: Literal["error"] = "error"
    message: str


class Waiting(Payload):
    """The run waits for something that is not its own work."""

    type: Literal["run.waiting"] = "run.waiting"
    reason: str = Field(description="e.g. approval, answer, rate limit, budget, turn")
    ask: str | None = Field(None, description="the ask whose decision it waits for")
    until: str | None = Field(None, description="RFC 3339: when it expects to go on, at the latest")


class Working(Payload):
    """The run goes on after it waited."""

    type: Literal["run.working"] = "run.working"


class Stalled(Payload):
    """The run has written nothing for long though its process lives; ends with its next event."""

    type: Literal["run.stalled"] = "run.stalled"
    seconds: float = Field(description="since its last event")


class Raw(Payload):
    """A vendor's event that has no word here."""

    type: Literal["raw"] = "raw"
    data: Any = None
