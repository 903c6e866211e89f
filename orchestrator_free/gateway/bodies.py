"""What clients send: the bodies of requests as models, read and checked; and how they are answered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_free.errors import Conflict, InvalidEvent, InvalidInput, TooLarge
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Session
from orchestrator_free.subjects import TOKEN, session_filter
from orchestrator_free.vocabulary import InputRef
from orchestrator_free.vocabulary.messages import Overlap

BODY_BYTES: Final = 1024 * 1024

_Model = TypeVar("_Model", bound=BaseModel)


class NewSession(BaseModel):
    """Body of `POST /sessions`."""

    model_config = ConfigDict(extra="forbid")

    session: str | None = Field(None, description="its id; made up if absent")
    title: str = Field("", max_length=500, description="for people")
    agents: list[str] = Field([], max_length=200, description="who answers inputs to `all`; empty for every agent")
    compaction: Literal["on", "off"] = Field("on", description="off: the log keeps every delta of finished runs")


#: somebody has to be named, by name or by another input
_ADDRESSED: Final[dict[str, Any]] = {
    "anyOf": [
        {"required": ["to"], "properties": {"to": {"not": {"type": "null"}}}},
        *({"required": [name], "properties": {name: {"type": "object"}}} for name in ("edits", "again", "after")),
    ]
}


class NewInput(BaseModel):
    """Body of `POST /sessions/{session}/inputs`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, json_schema_extra=_ADDRESSED)

    text: str = Field("", description="what to do")
    to: str | Annotated[list[str], Field(max_length=200)] | None = Field(
        None, description="an agent, several, or `all`; only with edits, again or after it may be absent: as that input"
    )
    data: Any = Field(None, description="any JSON beside the text")
    id: str | None = Field(None, description="the same id and content is sent once")
    edits: InputRef | None = Field(None, description="the input that it is shown instead of")
    again: InputRef | None = Field(None, description="the input that is to be answered once more; without a text")
    after: InputRef | None = Field(None, description="the input that it goes on from; absent: the selected branch")
    cancel: bool | None = Field(None, description="first cancel what still answers that input; by default if it edits")
    whisper: bool = Field(False, description="not for the person who is served; answered whoever has the floor")
    note: bool = Field(False, description="to be read, not worked on")
    overlap: Overlap | None = Field(
        None, description="what becomes of it if the agent is at work; counts if the agent allows that"
    )
    sender: str | None = Field(None, alias="from", description="the member who says it")


def json_answer(value: Any, status: int = 200, **headers: str) -> Response:
    """Answer with JSON."""
    return Response(orjson.dumps(value), status, headers, "application/json")


async def read_json(request: Request) -> Any:
    """Read a JSON body."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > BODY_BYTES:
            raise TooLarge(f"the body is larger than {BODY_BYTES} bytes; put large documents into a file")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"the body is not JSON ({error}); send it as /docs shows it") from error


async def read_body(request: Request, model: type[_Model]) -> _Model:
    """Read and check a JSON body."""
    try:
        return model.model_validate(await read_json(request))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(place) for place in first["loc"]) or "body"
        raise InvalidInput(f"{where}: {first['msg']}; /docs shows the fields") from error


def repeat_id(header: str | None, given: str | None) -> str | None:
    """Return the input's id: as given, or derived from the idempotency key."""
    if header is None or given is not None:
        return given
    return header if TOKEN.fullmatch(header) else hashlib.sha256(header.encode()).hexdigest()[:32]


async def refuse_others(session: Session, id: str, targets: Collection[str]) -> None:
    """Refuse an input that was sent before to somebody else: one key is for one request.

    Raises:
        Conflict: it was.
    """
    prefix = f"{session_filter(session.shard, session.id).removesuffix('.>')}.{session.member}.in"
    for message in await session.log.table(session.shard, f"{prefix}.*.{id}"):
        event = to_event(message)
        if event is not None and event.address.target not in targets:
            raise Conflict(
                f"input {id!r} was sent before to {event.address.target!r}; use a new id", actual=event.sequence
            )


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number of the query.

    Raises:
        InvalidInput: it is none, or out of bounds.
    """
    text = request.query_params.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InvalidInput(f"{name}={text[:40]!r}: expected a number from {least} to {most}")
    return int(text)
