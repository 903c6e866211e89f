"""The vocabulary: what payloads say, as pydantic models; checked at the edges, not per token. Unknown types pass."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Body
from orchestrator_free.vocabulary.asks import Answer, Ask, AskEscalated, AskExpired, AskWithdrawn
from orchestrator_free.vocabulary.base import InputRef, Payload, RunRef
from orchestrator_free.vocabulary.messages import Cancel, Input, Outcome, Pause, Redirect, Resume, Steer
from orchestrator_free.vocabulary.notices import (
    LetterSettled,
    NotificationDelivered,
    NotificationFailed,
    NotificationRetry,
)
from orchestrator_free.vocabulary.runs import (
    Data,
    File,
    Raw,
    ReasoningDelta,
    ReasoningEnd,
    RunFinished,
    RunNotice,
    RunStarted,
    Source,
    Stalled,
    TextDelta,
    TextEnd,
    ToolError,
    ToolInput,
    ToolInputDelta,
    ToolOutput,
    Usage,
    Waiting,
    Working,
)  # fmt: skip
from orchestrator_free.vocabulary.session import (
    AgentOffline,
    BranchSelected,
    Floor,
    LeaseLapsed,
    LeaseReleased,
    LeaseTaken,
    PresenceSet,
    SessionCreated,
    SessionDeleted,
    SessionUpdated,
    StateDeleted,
    StateSet,
)  # fmt: skip

__all__ = ["VOCABULARY", "Data", "File", "InputRef", "Raw", "RunNotice", "RunRef", "Source", "explain", "validate"]

#: kind -> the payloads that may stand there; other types pass through untouched
VOCABULARY: Final[dict[str, tuple[type[Payload], ...]]] = {
    "in": (Input,),
    "run": (
        RunStarted, RunFinished, TextDelta, TextEnd, ReasoningDelta, ReasoningEnd, ToolInputDelta, ToolInput,
        ToolOutput, ToolError, Source, File, Data, Usage, RunNotice, Waiting, Working,
        Stalled, Raw,
    ),
    "meta": (SessionCreated, SessionUpdated, SessionDeleted, BranchSelected),
    "presence": (AgentOffline, PresenceSet),
    "state": (StateSet, StateDeleted),
    "ctl": (Cancel, Steer, Redirect, Pause, Resume),
    "outcome": (Outcome,),
    "ask": (Ask,),
    "answer": (Answer,),
    "stage": (AskEscalated, AskExpired, AskWithdrawn, LeaseLapsed),
    "floor": (Floor,),
    "lease": (LeaseTaken, LeaseReleased),
    "notice": (NotificationFailed, NotificationRetry, NotificationDelivered, LetterSettled),
}  # fmt: skip


def _adapter(models: tuple[type[Payload], ...]) -> TypeAdapter[Any]:
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
