"""Publishing many messages fast: a window of acknowledgements in flight instead of one, stored in order, each once.

nats-server drops what it cannot store without a word, so never more than the window is unacknowledged. Every message
carries a random id, kept across retries: what a broker stored before it died is found by the id and not stored again.
After any doubt (a reconnect, an acknowledgement that does not come, no leader) sending stops, the oldest message in
flight goes the patient way of `Wire.publish`, which waits for the broker and knows every reason to give up, and then
the rest is sent again in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from array import array
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Final, Self

from orchestrator_free.errors import BrokerError, BrokerTimeout, TooLarge
from orchestrator_free.jetstream.replies import TRY_AGAIN, api_error, publish_header, read_ack
from orchestrator_free.jetstream.wire import PUBLISH_DEADLINE_SECONDS, Wire

#: messages in flight; more brings nothing, the broker's own queue takes 100,000
WINDOW: Final = 1000
#: bytes in flight; the broker's own queue takes 128 MiB
_WINDOW_BYTES: Final = 8 * 1024 * 1024
#: silence of the broker that raises doubt, while acknowledgements are missing
_QUIET_SECONDS: Final = 1.0
#: age of one missing acknowledgement that raises doubt, while others come
_OVERDUE_SECONDS: Final = 5.0
#: the streams remember ids for 120 s: a retry must not come later
_LATEST_RETRY_SECONDS: Final = 100.0
_TOO_MANY_REQUESTS: Final = 10167
_TRANSIENT: Final = TRY_AGAIN | {_TOO_MANY_REQUESTS}


class _Flight:
    """A message that is not acknowledged yet."""

    __slots__ = ("header", "id", "payload", "rollup", "sent", "subject")

    def __init__(self, subject: str, payload: bytes, *, rollup: str, sent: float) -> None:
        self.id = secrets.token_hex(16)
        self.subject = subject
        self.payload = payload
        self.rollup = bool(rollup)
        self.sent = sent
        self.header = publish_header(None, "", rollup=rollup, message_id=self.id)

    @property
    def size(self) -> int:
        return len(self.header) + len(self.payload)


class BulkPublisher:
    """Publishes in order, with back-pressure. Use `async with`: the end of the block waits until all is stored.

    What one publisher sends to one stream is stored in its order. In a cluster a change of the leader can reorder the
    messages in flight; `in_order` tells.

    Attributes:
        sequences: the stored sequence of every message by its number, 0 while it is not acknowledged.
        retries: how often there was doubt about what was in flight.
    """

    def __init__(self, wire: Wire, *, window: int = WINDOW, deadline: float = PUBLISH_DEADLINE_SECONDS) -> None:
        """Prepare a publisher.

        Args:
            wire: the connection.
            window: messages in flight at most.
            deadline: seconds in which each message must be stored, retries and reconnects included, 100 at most.
        """
        if not 0 < deadline <= _LATEST_RETRY_SECONDS or window < 1:
            raise ValueError(f"window {window}, deadline {deadline:g}: use at least 1, and 0 to 100 seconds")
        self._wire = wire
        self._window = window
        self._deadline = deadline
        self._flights: dict[int, _Flight] = {}
        self._bytes = 0
        self._failure: Exception | None = None
        self._recovering = False
        self._tried = 0.0
        self._heard = 0.0
        self._doubt = asyncio.Event()
        self._changed = asyncio.Event()
        self._inbox = wire.own_inbox()
        self._cut = len(self._inbox) + 1
        self._release: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self.sequences: array[int] = array("Q")
        self.retries = 0

    async def __aenter__(self) -> Self:
        """Subscribe to the acknowledgements."""
        self._release = self._wire.subscribe(f"{self._inbox}.*", self._on_answer)
        self._wire.on_reconnect.append(self._on_reconnect)
        self._task = asyncio.create_task(self._watch(), name="bulk publisher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is stored; after an error only until what is in flight is answered."""
        try:
            if kind is None:
                await self.drain()
        finally:
            await self._settle()
            if self._task is not None:
                self._task.cancel()
            self._wire.on_reconnect.remove(self._on_reconnect)
            self._release()

    # -- for the producer ---------------------------------------------------------------------------------------

    async def publish(self, subject: str, payload: bytes, *, rollup: bool = False) -> int:
        """Send a message, waiting while the window is full; return its number, the index into `sequences`.

        Raises:
            TooLarge: the broker does not take it; the publisher goes on.
            BrokerError: an earlier message could not be stored; the publisher is at its end.
        """
        says = self._wire.rollup_field(subject) if rollup else ""
        flight = _Flight(subject, payload, rollup=says, sent=asyncio.get_running_loop().time())
        if flight.size > self._wire.max_payload:
            raise TooLarge(
                f"{flight.size} bytes are more than the broker takes in a message ({self._wire.max_payload})"
            )
        if self._is_full():
            await self._room()
            flight.sent = asyncio.get_running_loop().time()
        if self._failure is not None:
            raise self._failure
        number = len(self.sequences)
        self.sequences.append(0)
        self._flights[number] = flight
        self._bytes += flight.size
        self._send(number, flight)
        return number

    async def stored(self, number: int) -> int:
        """Wait until a message is stored; return its sequence.

        Raises:
            BrokerError: it was not.
        """
        while not self.sequences[number]:
            await self._change()
        return self.sequences[number]

    async def drain(self) -> None:
        """Wait until everything sent so far is stored.

        Raises:
            BrokerError: something was not.
        """
        while self._flights or self._failure is not None:
            await self._change()

    @property
    def in_order(self) -> bool:
        """Whether everything acknowledged so far was stored in the order in which it was sent."""
        stored = [sequence for sequence in self.sequences if sequence]
        return all(before < after for before, after in pairwise(stored))

    def _is_full(self) -> bool:
        return (
            len(self._flights) >= self._window
            or self._bytes >= _WINDOW_BYTES
            or self._recovering
            or not self._wire.connected.is_set()
        )

    async def _room(self) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                while self._is_full():
                    await self._change()
        except TimeoutError:
            raise self._late() from None

    async def _change(self) -> None:
        """Wait for the next answer, or the end of a recovery."""
        if self._failure is not None:
            raise self._failure
        self._changed.clear()
        await self._changed.wait()

    # -- on the wire --------------------------------------------------------------------------------------------

    def _send(self, number: int, flight: _Flight) -> None:
        self._wire.send(flight.subject, flight.payload, reply=f"{self._inbox}.{number}", header=flight.header)

    def _on_answer(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        number = int(subject[self._cut :])
        flight = self._flights.get(number)
        if flight is None:
            return  # answered before: an earlier try was stored too, under the same id
        if header.startswith(b"NATS/1.0 503"):
            self._doubt.set()
            return
        try:
            sequence, error = read_ack(payload)
        except BrokerError as strange:
            self._fail(strange)
            return
        if error is None:
            self._take(number, sequence)
        elif error.get("err_code") in _TRANSIENT:
            self._doubt.set()
        else:
            self._take(number, 0)
            self._fail(api_error(flight.subject, error))

    def _take(self, number: int, sequence: int) -> None:
        """Note an answer; sequence 0 says that the message was refused."""
        flight = self._flights.pop(number, None)
        if flight is not None:
            self._bytes -= flight.size
            self.sequences[number] = sequence
            self._heard = asyncio.get_running_loop().time()
            self._changed.set()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._changed.set()

    def _on_reconnect(self) -> None:
        self._recovering = True  # nothing may overtake what the old connection lost
        self._doubt.set()

    # -- after doubt --------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look after messages whose acknowledgement does not come."""
        while self._failure is None:
            try:
                async with asyncio.timeout(self._patience()):
                    await self._doubt.wait()
            except TimeoutError:
                if self._patience() > 0:
                    continue
            self._recovering = True
            try:
                await self._recover()
            except Exception as error:
                self._fail(error)
            finally:
                self._recovering = False
                self._changed.set()

    def _patience(self) -> float:
        """Return in how many seconds doubt is due, if no answer comes until then."""
        oldest = next(iter(self._flights.values()), None)
        if oldest is None:
            return _QUIET_SECONDS
        tried = max(oldest.sent, self._tried)
        doubt_at = min(max(tried, self._heard) + _QUIET_SECONDS, tried + _OVERDUE_SECONDS)
        return doubt_at - asyncio.get_running_loop().time()

    async def _recover(self) -> None:
        """Make sure of the oldest message in flight, then send the others again."""
        if self._flights:
            number, oldest = next(iter(self._flights.items()))
            left = oldest.sent + self._deadline - asyncio.get_running_loop().time()
            try:
                sequence = await self._wire.publish(
                    oldest.subject, oldest.payload, rollup=oldest.rollup, message_id=oldest.id, deadline=max(left, 0.0)
                )
            except BrokerTimeout as error:
                raise self._late() from error
            self._take(number, sequence)
            self.retries += 1
        self._doubt.clear()
        self._tried = asyncio.get_running_loop().time()
        for number, flight in self._flights.items():
            self._send(number, flight)

    def _late(self) -> BrokerTimeout:
        state = "" if self._wire.connected.is_set() else f"; not connected to {self._wire.options.address}"
        sent, waiting = len(self.sequences), len(self._flights)
        return BrokerTimeout(f"{waiting} of {sent} messages were not stored within {self._deadline:g} s{state}")

    async def _settle(self) -> None:
        """Wait until the broker has answered what is in flight, so that nothing is stored behind our back."""
        with contextlib.suppress(TimeoutError):
            while self._flights and self._wire.connected.is_set():
                self._changed.clear()
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._changed.wait()
