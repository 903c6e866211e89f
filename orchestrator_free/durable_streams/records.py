"""What stands in the log of a durable stream: its record, and the mark on each of its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from orchestrator_free.durable_streams.requests import Producer

#: the header that carries a mark
FIELD: Final = "Durable-Stream"
_FIELD_START: Final = f"\r\n{FIELD}: ".encode()

#: `live`; `kept` for its forks after it was deleted; `deleted`
Status = Literal["live", "kept", "deleted"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of another stream that a fork begins with: its messages up to a sequence."""

    id: str
    upto: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A stream, as its subject holds it.

    Attributes:
        path: below the root. id: of this incarnation; the same path created again has another.
        content_type: as it was given. ttl: seconds of sliding life. expires: RFC 3339, as it was given.
        source, source_id: path and id of the stream that it was forked from, empty for none.
        at, sub: where, as the client said; `at` is a sequence.
        segments: what it inherits, oldest first.
        forks: how many streams were forked from it and are not deleted.
    """

    path: str
    id: str
    content_type: str
    status: Status = "live"
    ttl: int | None = None
    expires: str | None = None
    source: str = ""
    source_id: str = ""
    at: int = 0
    sub: int = 0
    segments: tuple[Segment, ...] = ()
    forks: int = 0

    @property
    def base(self) -> int:
        """The sequence after which its own messages begin: the tail of what it inherits."""
        return self.at

    def encode(self) -> bytes:
        """Return it as JSON."""
        segments = [[segment.id, segment.upto] for segment in self.segments]
        values = {name: getattr(self, name) for name in self.__slots__} | {"segments": segments}
        return orjson.dumps({name: value for name, value in values.items() if value not in (None, "", 0, [])})

    @classmethod
    def decode(cls, payload: bytes) -> Record:
        """Read what `encode` made."""
        values: dict[str, Any] = orjson.loads(payload)
        segments = tuple(Segment(*pair) for pair in values.pop("segments", ()))
        return cls(**values, segments=segments)

    def become(self, **changes: Any) -> Record:
        """Return it with changes."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a message of a stream says beside its bytes.

    Attributes:
        after: sequence of the stream's message before it; None where it follows the one before it in a batch.
        more: the append goes on in the next message.
        bare: it carries no bytes of the stream: it closes it, or says that it is gone.
        tail: of a bare one: the tail, which it does not move.
        closed: nothing comes after it. gone: the stream was deleted.
        seq: the writer's sequence so far, empty for none.
        producer: who wrote it, where an idempotent producer did.
    """

    after: int | None
    more: bool = False
    bare: bool = False
    tail: int = 0
    closed: bool = False
    gone: bool = False
    seq: str = ""
    producer: Producer | None = None

    def encode(self) -> str:
        """Return it as the value of a header: JSON in ASCII."""
        values: dict[str, Any] = {"after": self.after} if self.after is not None else {}
        values |= {name: True for name in ("more", "bare", "closed", "gone") if getattr(self, name)}
        values |= {name: value for name in ("tail", "seq") if (value := getattr(self, name))}
        if self.producer is not None:
            values["producer"] = [self.producer.id, self.producer.epoch, self.producer.seq]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def find(cls, header: bytes) -> Mark | None:
        """Read the mark of a message from its header; None if it has none: it is no message of a stream."""
        start = header.find(_FIELD_START)
        if start < 0:
            return None
        start += len(_FIELD_START)
        try:
            values: dict[str, Any] = orjson.loads(header[start : header.index(b"\r\n", start)])
            producer = values.pop("producer", None)
            return cls(after=values.pop("after", None), producer=producer and Producer(*producer), **values)
        except (ValueError, TypeError):
            return None
