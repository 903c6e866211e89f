"""The head of a stream: all that decides what becomes of the next append. A fold over its messages; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator_free.durable_streams.json_mode import flatten, is_json
from orchestrator_free.durable_streams.offsets import offset_of
from orchestrator_free.durable_streams.records import Mark
from orchestrator_free.durable_streams.refusals import Refusal, conflict, malformed
from orchestrator_free.durable_streams.requests import Append, Producer, bare_type


@dataclass(slots=True)
class Head:
    """What is known of a stream up to its last message.

    Attributes:
        last: sequence of its last message, 0 for none of its own: what the next write expects.
        tail: where the next bytes go: the last sequence that carries some, inherited ones included.
        seq: the writer's sequence so far.
        closed: nothing can be appended. closed_by: which producer's write did it, if one did.
        gone: it was deleted.
        producers: of those that are known: their last write, None for one that has written nothing.
    """

    tail: int
    last: int = 0
    seq: str = ""
    closed: bool = False
    closed_by: Producer | None = None
    gone: bool = False
    producers: dict[str, Producer | None] = field(default_factory=dict)

    def follows(self, sequence: int, mark: Mark) -> bool:
        """Whether a message is the next one, with nothing between."""
        return sequence == self.last + 1 if mark.after is None else mark.after == self.last

    def apply(self, sequence: int, mark: Mark) -> None:
        """Take the next message."""
        self.last = sequence
        if not mark.more:
            self.tail = mark.tail if mark.bare else sequence
        self.seq = mark.seq
        self.gone = mark.gone
        if mark.closed:
            self.closed, self.closed_by = True, mark.producer
        if mark.producer is not None:
            self.producers[mark.producer.id] = mark.producer

    def copy(self, producers: Iterable[str]) -> Head:
        """Return one that can go its own way, with what is known of some producers."""
        known = {id: self.producers[id] for id in producers if id in self.producers}
        return Head(self.tail, self.last, self.seq, self.closed, self.closed_by, self.gone, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of an append.

    Attributes:
        tail: of the stream, after it. closed: whether the stream is closed now.
        stored: False where it was there already.
        producer: the last write of its producer, as the answer tells it.
    """

    tail: int
    closed: bool
    stored: bool
    producer: Producer | None = None


def decide(head: Head, append: Append, content_type: str) -> Accepted | None:
    """Decide on an append: None to store it, else what it came to without being stored.

    Its producer must be known to the head.

    Raises:
        Refusal: as the protocol has it; of several reasons the first of: stale epoch, closed, content type, producer,
            If-Match, seq.
    """
    known = head.producers.get(append.producer.id) if append.producer else None
    if append.producer and known and append.producer.epoch < known.epoch:
        raise Refusal(
            403, "Stale producer epoch",
            f"producer {known.id[:60]!r} is in epoch {known.epoch} now; what writes in an older one must stop",
            {"producer-epoch": str(known.epoch)},
        )  # fmt: skip
    if head.closed:
        return _of_closed(head, append)
    if append.body and bare_type(append.content_type) != bare_type(content_type):
        raise conflict("Content-Type mismatch", f"the stream holds {content_type!r}, not {append.content_type[:80]!r}")
    if append.producer and (found := _of_producer(head, append.producer, known)):
        return found
    if append.expect is not None and append.expect != head.tail:
        tail = offset_of(head.tail)
        raise Refusal(
            412, "Tail moved", f"the stream ends at {tail}, not at {offset_of(append.expect)}; read on and decide anew",
            {"stream-next-offset": tail, "etag": f'"{tail}"'},
        )  # fmt: skip
    if append.seq and append.seq <= head.seq:
        raise conflict(
            "Sequence conflict", f"Stream-Seq {append.seq[:60]!r} does not come after sequence {head.seq[:60]!r}"
        )
    return None


def _of_closed(head: Head, append: Append) -> Accepted:
    repeated = append.producer is not None and append.producer == head.closed_by
    if repeated or (append.producer is None and not append.body):
        return Accepted(tail=head.tail, closed=True, stored=False, producer=append.producer)
    raise conflict(
        "Stream closed", "the stream is closed: nothing is appended to it any more",
        stream_closed="true", stream_next_offset=offset_of(head.tail),
    )  # fmt: skip


def _of_producer(head: Head, wanted: Producer, known: Producer | None) -> Accepted | None:
    if known is not None and wanted.epoch > known.epoch:
        if wanted.seq:
            raise malformed(f"a new epoch begins with Producer-Seq 0, not {wanted.seq}")
        return None
    expected = known.seq + 1 if known else 0
    if wanted.seq > expected:
        raise conflict(
            "Producer sequence gap", f"the next sequence of {wanted.id[:60]!r} is {expected}, not {wanted.seq}",
            producer_expected_seq=str(expected), producer_received_seq=str(wanted.seq),
        )  # fmt: skip
    if known is not None and wanted.seq < expected:
        return Accepted(tail=head.tail, closed=False, stored=False, producer=known)
    return None


def payload_of(body: bytes, content_type: str, *, creating: bool = False) -> bytes:
    """Return what is stored for a body: in JSON mode its values.

    Raises:
        Refusal: 400, it is not JSON, or an empty array, which only a new stream may begin with.
    """
    if not body or not is_json(content_type):
        return body
    values = flatten(body)
    if not values and not creating:
        raise malformed("an empty array appends nothing; send at least one value")
    return values
