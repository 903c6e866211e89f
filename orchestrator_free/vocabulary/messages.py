"""What members say to members: inputs, controls, and what becomes of controls."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator_free.vocabulary.base import InputRef, Payload, RunRef

#: what becomes of an input that comes while its agent is at work in the session
Overlap = Literal["concurrent", "queue", "latest", "interrupt", "steer", "reject"]


class Input(Payload):
    """A message addressed to a member; the work item (kind `in`)."""

    type: Literal["input"] = "input"
    text: str = ""
    data: Any = None
    parent: RunRef | None = Field(None, description="the run that delegated it")
    redirects: RunRef | None = Field(None, description="the run that was ended for it")
    depth: int = Field(0, ge=0, description="how many delegations lie between a person and this")
    replayed: bool = Field(False, description="imported history: shown, never worked on")
    overlap: Overlap | None = Field(None, description="instead of what the agent declares, if it allows that")
    note: bool = Field(False, description="to be read, not worked on: how one member tells another something")
    whisper: bool = Field(False, description="not for the person who is served: shown to those who serve, floor or not")
    edits: InputRef | None = Field(
        None, description="the input that it stands for; what came after that one is a branch"
    )
    again: InputRef | None = Field(
        None, description="the input that is to be answered once more; like `edits`, with its words"
    )
    after: InputRef | None = Field(
        None, description="the input that it goes on from; absent: the end of the selected branch"
    )


class _Control(Payload):
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
    input: InputRef | None = Field(None, description="the input that is given to the run in this way")


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


class Outcome(Payload):
    """What became of a control: accepted, then exactly one of the others (kind `outcome`)."""

    type: Literal["outcome"] = "outcome"
    state: Literal["accepted", "applied", "rejected", "too_late", "expired"]
    reason: str = ""
    runs: list[str] = Field([], description="the runs it reached")
