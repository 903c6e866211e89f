"""Durable pull consumers: work items and named subscriptions, delivered again until they are acknowledged.

A standing pull waits at the broker (p50 0.3 ms from input to agent); it asks for as many messages as there are free
places, so a process never holds more than it works on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError, BrokerTimeout
from orchestrator_free.jetstream.messages import Message, is_copy, replaces
from orchestrator_free.jetstream.wire import Wire

_log = logs.logger("orchestrator_free.jetstream")
_EXPIRES_SECONDS: Final = 20.0
_HEARTBEAT_SECONDS: Final = 3.0
_SECOND: Final = 1_000_000_000
_NO_CONSUMER: Final = 10014
#: a closed consumer gives back for so long what the broker had sent to it
_LINGER_SECONDS: Final = 2.0


class Delivery:
    """One delivery of a message; unless acknowledged in time it is delivered again, here or at another replica.

    Attributes:
        message: the stored message.
        attempt: how often it was delivered, this time included.
        pending: messages that match the consumer and wait behind this one.
    """

    __slots__ = ("_reply", "_wire", "attempt", "message", "pending")

    def __init__(self, wire: Wire, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>; the second form has
        # <domain>.<account hash> before the stream and a token at the end (nats-server ADR-15).
        tokens = reply.split(".")
        base = 2 if len(tokens) == 9 else 4
        delivered, sequence, _, stamp, pending = tokens[base + 2 : base + 7]
        copied = is_copy(subject, header, 0)
        time, rollup = _rfc3339(int(stamp)), replaces(header)
        self.message = Message(subject, int(sequence), time, payload, rollup, copied=copied, header=header)
        self.attempt = int(delivered)
        self.pending = int(pending)
        self._reply = reply
        self._wire = wire

    async def ack(self) -> None:
        """Done. Returns when the broker has noted it; one that is killed right then may deliver it once more.

        Raises:
            BrokerTimeout: the broker did not confirm; it may be delivered again.
        """
        await self._wire.patiently(self._reply, b"+ACK", b"", 10.0)

    def ack_soon(self) -> None:
        """Done, without waiting for the broker to note it: for what may well come once more."""
        self._wire.send(self._reply, b"+ACK")

    def in_progress(self) -> None:
        """Still at work: restart the time in which it must be acknowledged."""
        self._wire.send(self._reply, b"+WPI")

    def again(self, *, delay_seconds: float = 0.0) -> None:
        """Give it back, to be delivered again after a delay."""
        self._wire.send(self._reply, b"-NAK " + orjson.dumps({"delay": int(delay_seconds * _SECOND)}))


def _alike(found: Any, wanted: Any) -> bool:
    """Compare a setting; the broker adds keys of its own to metadata."""
    if isinstance(wanted, dict):
        return all((found or {}).get(name) == value for name, value in wanted.items())
    return bool(found == wanted)


def _rfc3339(nanoseconds: int) -> str:
    """Return a time as the broker's headers write it."""
    whole = datetime.fromtimestamp(nanoseconds // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{nanoseconds % _SECOND:09d}".rstrip("0")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


class PullConsumer:
    """A durable consumer of one stream, created if it is missing; iterate over it for deliveries.

    Iterate with `async for delivery in consumer`; `places` bounds how many deliveries are waiting or asked for here,
    and nothing is asked for before the iteration goes on. `created` is when the consumer was first made, RFC 3339.
    """

    def __init__(self, wire: Wire, stream: str, config: dict[str, Any], *, places: int) -> None:
        self._wire = wire
        self._stream = stream
        self._config = config
        self._name: str = config["durable_name"]
        self._ready: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._asked = 0
        self._heard = 0.0
        self._closed = False
        self._missing = False
        self.places = places
        self.created = ""
        # A subscription of its own: deliveries come under their stored subject, not under the reply subject.
        self._inbox = wire.own_inbox()
        self._release = wire.subscribe(self._inbox, self._take, linger_seconds=_LINGER_SECONDS)
        # A pull that waited in a connection which is gone is asked again.
        wire.on_reconnect.append(self._forget_pull)

    async def open(self) -> None:
        """Create the consumer if it is missing.

        Raises:
            BrokerError: it exists with a configuration that cannot be changed to this one.
        """
        try:
            found = await self._info() or await self._create()
            self.created = str(found["config"].get("metadata", {}).get(contract.CREATED, found["created"]))
        except BrokerError as error:
            if isinstance(error, BrokerTimeout):
                raise
            raise BrokerError(f"consumer {self._name!r} on {self._stream}: {error}") from error

    async def _info(self) -> dict[str, Any] | None:
        """Return the consumer if it is there as wanted: where it begins counts for a new one only."""
        try:
            found = await self._wire.api(f"CONSUMER.INFO.{self._stream}.{self._name}")
        except BrokerError as error:
            if getattr(error, "code", 0) == _NO_CONSUMER:
                return None
            raise
        start = ("deliver_policy", "opt_start_seq", "opt_start_time")
        same = all(_alike(found["config"].get(name), want) for name, want in self._config.items() if name not in start)
        self._config |= {name: found["config"][name] for name in start if name in found["config"]}
        if since := found["config"].get("metadata", {}).get(contract.CREATED):
            self._config["metadata"] = self._config.get("metadata", {}) | {contract.CREATED: since}
        return found if same else None

    async def _create(self) -> dict[str, Any]:
        body = {"stream_name": self._stream, "config": self._config, "action": ""}
        return await self._wire.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)

    def in_progress(self) -> None:
        """Restart the time of everything that waits here."""
        for delivery in self._ready:
            delivery.in_progress()

    def close(self) -> None:
        """Stop pulling; what waits here unacknowledged is delivered again elsewhere. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._release()
            self._wire.on_reconnect.remove(self._forget_pull)
            for delivery in self._ready:
                delivery.again()
            self._wake.set()

    def _forget_pull(self) -> None:
        self._asked = 0
        self._wake.set()

    def _take(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        if header[:9] == b"NATS/1.0 " and not reply.startswith("$JS.ACK."):
            self._status(header)
            return
        self._asked = max(0, self._asked - 1)
        delivery = Delivery(self._wire, subject, reply, payload, header)
        if self._closed:
            delivery.again()  # it was under way
            return
        self._ready.append(delivery)
        self._wake.set()

    def _status(self, header: bytes) -> None:
        """100 is a heartbeat; all others end the standing pull."""
        if header[9:12] == b"100":
            return
        if header[9:12] in (b"503", b"404") or b"Consumer Deleted" in header:
            self._missing = True
        self._asked = 0
        self._wake.set()

    def _pull(self) -> None:
        wanted = self.places - len(self._ready) - self._asked
        if wanted <= 0 or (self._asked and wanted * 2 < self.places):
            return
        body = {"batch": wanted, "expires": int(_EXPIRES_SECONDS * _SECOND)}
        if self._asked == 0:
            body["idle_heartbeat"] = int(_HEARTBEAT_SECONDS * _SECOND)
        self._asked += wanted
        self._heard = asyncio.get_running_loop().time()
        self._wire.send(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", orjson.dumps(body), reply=self._inbox)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """Yield deliveries until closed."""
        while not self._closed:
            if self._ready:
                yield self._ready.popleft()
                continue
            if not self._wire.connected.is_set():
                await self._wire.connected.wait()
                continue
            if self._missing:
                await self._create_again()
            self._pull()
            self._wake.clear()
            if not self._ready and not self._closed:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_HEARTBEAT_SECONDS * 2.5):
                await self._wake.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() - self._heard > _HEARTBEAT_SECONDS * 2:
                self._asked = 0  # no heartbeat: the pull is gone

    async def _create_again(self) -> None:
        """Somebody deleted the consumer, or its leader is away: make sure it exists."""
        self._missing = False
        try:
            await self.open()
        except BrokerError as error:
            _log.warning("consumer is not available, trying again", consumer=self._name, error=str(error))
            self._missing = True
            await asyncio.sleep(0.5)
