"""Writes under a condition, one message or several that are stored together or not at all.

A condition makes retries exact: a try whose answer was lost is found in the log instead of being stored again.
"""

from __future__ import annotations

import asyncio
import base64
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from orchestrator_free.errors import BrokerError, BrokerTimeout, Conflict, TooLarge
from orchestrator_free.jetstream.messages import field_of
from orchestrator_free.jetstream.replies import NO_MESSAGE, ROLLUP, TRY_AGAIN, api_error, publish_header, read_ack
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS, Disconnected, Wire

#: messages of one batch, as the broker has it
BATCH_MESSAGES: Final = 1000
#: how a write is known again, whichever of its tries was stored
_TRY: Final = "Orchestrator-Free-Try"
_TRY_SECONDS: Final = 3.0
#: what a large write may take beside that
_BYTES_PER_SECOND: Final = 8 * 1024 * 1024
_PAUSES: Final = (0.02, 0.5)
#: beside what passes: the broker lost a part of the batch, or has too many of them under way
_AGAIN: Final = TRY_AGAIN | {10176, 10210, 10211}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One message of a write.

    Attributes:
        expect: the last sequence of `over`, or of its subject; None for no condition.
        over: the filter that the condition is about.
        rollup: it replaces everything before on its subject.
        ttl: after which the broker drops it, e.g. `60s`.
        fields: further headers.
    """

    subject: str
    payload: bytes = b""
    expect: int | None = None
    over: str = ""
    rollup: bool = False
    ttl: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def header(self, more: Mapping[str, str]) -> bytes:
        """Return its header."""
        known = publish_header(self.expect, self.over, rollup=ROLLUP if self.rollup else "", ttl=self.ttl)
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**self.fields, **more}.items())
        return (known[:-2] if known else b"NATS/1.0\r\n") + lines.encode() + b"\r\n"


async def write(wire: Wire, writes: Sequence[Write], *, deadline: float = PUBLISH_DEADLINE_SECONDS) -> int:
    """Store messages, all or none, and return the sequence of the last; theirs are consecutive.

    The first one has a condition.

    Raises:
        Conflict: a condition does not hold; nothing was stored.
        TooLarge, StorageFull, PermissionDenied, BrokerTimeout: as they say.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    mark = secrets.token_hex(8)
    pause, longest = _PAUSES
    unsure = False
    while True:
        answer = await _send(wire, writes, mark, end - loop.time())
        if answer is not None:
            sequence, error = read_ack(answer)
            if error is None:
                return sequence
            if error.get("err_code") not in _AGAIN or loop.time() >= end:
                failure = api_error(writes[0].subject, error)
                stored = unsure and isinstance(failure, Conflict) and await _stored(wire, answer, writes, mark)
                if stored:
                    return stored
                raise failure
        unsure = True
        if loop.time() >= end:
            raise BrokerTimeout(f"no answer to a write of {writes[0].subject!r} within {deadline:g} s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest) * random.uniform(0.5, 1.0)


async def _send(wire: Wire, writes: Sequence[Write], mark: str, seconds: float) -> bytes | None:
    """Send once, as a batch of its own; return the answer, None if there was none: then it may be stored or not."""
    batch = secrets.token_hex(12) if len(writes) > 1 else ""
    messages = []
    patience = _TRY_SECONDS + sum(len(one.payload) for one in writes) / _BYTES_PER_SECOND
    for number, one in enumerate(writes, 1):
        header = one.header({_TRY: mark} | (_batch_fields(batch, number, len(writes)) if batch else {}))
        if len(header) + len(one.payload) > wire.max_payload:
            raise TooLarge(f"{len(one.payload)} bytes are more than one message takes ({wire.max_payload})")
        messages.append((one.subject, one.payload, header))
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await wire.connected.wait()
        for subject, payload, header in messages[:-1]:
            wire.send(subject, payload, header=header)
        subject, payload, header = messages[-1]
        answer, head = await wire.exchange(subject, payload, header=header, seconds=min(patience, max(0.0, seconds)))
    except (TimeoutError, Disconnected):
        return None
    return None if head.startswith(b"NATS/1.0 503") else answer


def _batch_fields(batch: str, number: int, count: int) -> dict[str, str]:
    fields = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
    return fields | ({"Nats-Batch-Commit": "1"} if number == count else {})


async def _stored(wire: Wire, answer: bytes, writes: Sequence[Write], mark: str) -> int:
    """Return the last sequence of an earlier try of a write; 0 if none was stored.

    Raises:
        BrokerTimeout: the broker does not tell; then it is neither stored nor not.
    """
    first = writes[0]
    stream = orjson.loads(answer)["stream"]
    where = {"seq": (first.expect or 0) + 1, "next_by_subj": first.over or first.subject}
    try:
        found = (await wire.api(f"STREAM.MSG.GET.{stream}", where))["message"]
    except BrokerTimeout:
        raise
    except BrokerError as error:
        if getattr(error, "code", 0) == NO_MESSAGE:
            return 0
        raise
    ours = field_of(base64.b64decode(found.get("hdrs", "")), _TRY.encode()) == mark
    return int(found["seq"]) + len(writes) - 1 if ours else 0
