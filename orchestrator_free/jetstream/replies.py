"""What the broker answers: acknowledgements, errors and reports, translated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from orchestrator_free.errors import BrokerError, Conflict, StorageFull

#: JetStream error codes (nats-server server/errors.json)
WRONG_LAST_SEQUENCE: Final = 10071
NO_MESSAGE: Final = 10037
#: says of a message that it replaces all before on its subject: the broker drops them, or a steward does where the
#: stream takes no roll-ups
ROLLUP: Final = "Nats-Rollup"
MARK: Final = "Session-Rollup"
#: how long what was said is kept for shards that have not taken it yet
_DUE_KEPT: Final = "24h"
_FULL: Final = frozenset({10023, 10028, 10047, 10077, 10122})
#: 10164 says that a write to this subject waits for its majority: ours, perhaps, sent again too early
TRY_AGAIN: Final = frozenset({10008, 10009, 10158, 10164, 10039, 10167})


def publish_header(
    expect: int | None,
    expect_filter: str,
    *,
    rollup: str = "",
    message_id: str = "",
    schedule: tuple[str, str] | None = None,
    ttl: str = "",
    trace: str = "",
) -> bytes:
    """Return the header that says under which conditions a message is stored; empty for none.

    `rollup` is the name of the field that says that it replaces what is before it on its subject. `schedule` is the
    time, RFC 3339, and the subject on which the broker says the payload then.
    """
    lines = ""
    if schedule is not None:
        at, target = schedule
        lines += f"Nats-Schedule: @at {at}\r\nNats-Schedule-Target: {target}\r\nNats-Schedule-TTL: {_DUE_KEPT}\r\n"
    if expect is not None:
        lines += f"Nats-Expected-Last-Subject-Sequence: {expect}\r\n"
        if expect_filter:
            lines += f"Nats-Expected-Last-Subject-Sequence-Subject: {expect_filter}\r\n"
    if rollup:
        lines += f"{rollup}: sub\r\n"
    if message_id:
        lines += f"Nats-Msg-Id: {message_id}\r\n"
    if ttl:
        lines += f"Nats-TTL: {ttl}\r\n"
    if trace:
        lines += f"traceparent: {trace}\r\n"
    return f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""


def read_ack(answer: bytes) -> tuple[int, dict[str, Any] | None]:
    """Return the sequence of a publish acknowledgement, or the error in it.

    Raises:
        BrokerError: it is neither.
    """
    try:
        found = orjson.loads(answer)
        return (0, found["error"]) if "error" in found else (int(found["seq"]), None)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BrokerError(f"not a publish acknowledgement: {answer[:100]!r}") from error


def api_error(where: str, error: dict[str, Any]) -> BrokerError:
    """Translate an error of the JetStream API."""
    code = error.get("err_code", 0)
    text = f"{where}: {error.get('description', 'unknown error')} (JetStream {code})"
    if code == WRONG_LAST_SEQUENCE:
        digits = "".join(filter(str.isdigit, str(error.get("description", "")).rpartition(":")[2]))
        return Conflict(text, actual=int(digits or 0))
    if code in _FULL:
        return StorageFull(f"{text}; free space or raise the limit, nothing was stored")
    found = BrokerError(text)
    found.code = code  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """A durable consumer, as the broker reports it.

    Attributes:
        time: the broker's clock when it answered, RFC 3339.
        pending: messages not delivered yet. unacknowledged: delivered, not acknowledged. redelivered: of those, again.
        delivered: deliveries so far, repeated ones included; any delivery moves it.
        floor: everything up to this sequence of the stream is acknowledged.
        reached: what matches up to this sequence of the stream was delivered at least once.
        paused: it delivers nothing, until an operator says otherwise.
    """

    name: str
    created: str
    filters: tuple[str, ...]
    time: str
    pending: int
    unacknowledged: int
    redelivered: int
    delivered: int
    floor: int
    reached: int
    paused: bool

    @property
    def outstanding(self) -> int:
        """Messages it still owes."""
        return self.pending + self.unacknowledged

    @classmethod
    def read(cls, info: dict[str, Any]) -> ConsumerState:
        """Read ConsumerInfo."""
        config = info["config"]
        filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        return cls(
            info["name"], info["created"], tuple(filters), info["ts"], info["num_pending"], info["num_ack_pending"],
            info["num_redelivered"], info["delivered"]["consumer_seq"], info["ack_floor"]["stream_seq"],
            info["delivered"]["stream_seq"], bool(info.get("paused")),
        )  # fmt: skip
