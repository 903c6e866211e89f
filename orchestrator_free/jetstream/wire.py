"""Requests over a connection: acknowledged publish with exact retries, the JetStream API, one inbox for all replies."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from orchestrator_free import logs
from orchestrator_free.errors import BrokerError, BrokerTimeout, BrokerUnreachable, Conflict, PermissionDenied, TooLarge
from orchestrator_free.jetstream.connection import Connection
from orchestrator_free.jetstream.options import WireOptions
from orchestrator_free.jetstream.parser import Handler
from orchestrator_free.jetstream.replies import MARK, ROLLUP, TRY_AGAIN, api_error, publish_header, read_ack
from orchestrator_free.subjects import ROOT

__all__ = ["PUBLISH_DEADLINE_SECONDS", "Disconnected", "Wire", "WireOptions"]

_log = logs.logger("orchestrator_free.jetstream")

#: a leader that is killed stalls an R3 stream for 4-9 s, so the deadline must be well above
PUBLISH_DEADLINE_SECONDS: Final = 25.0
#: what was asked of a leader that is gone is answered by nobody: asked again soon, then less often
_FIRST_ATTEMPT_SECONDS: Final = 1.0
_ATTEMPT_SECONDS: Final = 2.0
_FIRST_PAUSE: Final = 0.05
#: between two tries that the broker has answered with "not now"
_PAUSES: Final = (0.02, 0.5)
_API_PAUSE: Final = 0.25


class Disconnected(Exception):  # noqa: N818 - never leaves this package
    """The connection ended before the answer came."""


@dataclass(slots=True)
class _Pending:
    """A request whose answer is awaited; `subject` lets a permission error find it."""

    subject: str
    future: asyncio.Future[Any]


class Wire(Connection):
    """A connection. Create it with `await Wire.connect(options)`, end it with `await wire.close()`.

    Attributes:
        rollups: whether the log takes roll-ups; if not, a steward drops what a message replaces.
        denied: subjects of subscriptions that the broker refused.
    """

    rollups: bool
    denied: set[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._inbox = f"{self.options.inbox_prefix}.{secrets.token_hex(8)}"
        self.rollups = True
        self.denied = set()
        self._pending: dict[str, _Pending] = {}
        self._streams: dict[str, Handler] = {}
        self._counter = 0

    def _begin(self) -> None:
        self.subscribe(f"{self._inbox}.*", self._on_reply)

    def _denied(self, text: str) -> None:
        """Fail the requests a permission error is about; the subject in it is lower-cased."""
        _log.warning("the broker refused a subject", reason=text.removeprefix("nats: "))
        quoted = text.split('"')
        subject = quoted[1] if len(quoted) > 2 else ""
        if "for subscription" in text:
            self.denied.update(one for one, _ in self._subjects.values() if one.lower() == subject)
            return
        for pending in list(self._pending.values()):
            if pending.subject.lower() == subject and not pending.future.done():
                pending.future.set_exception(PermissionDenied(f"the broker refused {pending.subject!r}: {text}"))

    def _lost(self) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(Disconnected())

    def ask_again(self, stream: str) -> None:
        """Repeat now what was asked of a stream's leader that is gone, and that nobody will answer."""
        for pending in self._pending.values():
            concerned = pending.subject.startswith("$JS.API.") and stream in pending.subject.split(".")
            if concerned and not pending.future.done():
                pending.future.set_exception(Disconnected())

    # -- requests -----------------------------------------------------------------------------------------------

    def _token(self) -> str:
        self._counter += 1
        return format(self._counter, "x")

    def _on_reply(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        token = subject.rpartition(".")[2]
        pending = self._pending.get(token)
        if pending is not None:
            if not pending.future.done():
                pending.future.set_result((payload, header))
            return
        stream = self._streams.get(token)
        if stream is not None:
            stream(subject, reply, payload, header)

    def inbox(
        self, handler: Handler, asked: tuple[str, asyncio.Future[Any]] | None = None
    ) -> tuple[str, Callable[[], None]]:
        """Return a fresh reply subject whose messages go to `handler`, and what releases it.

        Of `asked`, the future fails at once if the broker refuses the subject, or the connection ends.
        """
        token = self._token()
        self._streams[token] = handler
        if asked is not None:
            self._pending[f"{token} "] = _Pending(*asked)  # no token of a reply

        def release() -> None:
            self._streams.pop(token, None)
            self._pending.pop(f"{token} ", None)

        return f"{self._inbox}.{token}", release

    def rollup_field(self, subject: str) -> str:
        """Return the header field which says that a message on this subject replaces all before it."""
        return MARK if subject.startswith(f"{ROOT}.") and not self.rollups else ROLLUP

    def own_inbox(self) -> str:
        """Return a subject below this connection's inbox for a subscription of its own."""
        return f"{self._inbox}.own.{self._token()}"

    async def exchange(
        self, subject: str, payload: bytes, *, header: bytes = b"", seconds: float
    ) -> tuple[bytes, bytes]:
        """Send one request; return (payload, header) of the answer.

        Raises:
            TimeoutError: no answer in time.
            Disconnected: the connection ended meanwhile.
            PermissionDenied: the broker refused the subject.
        """
        token = self._token()
        future: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[token] = _Pending(subject, future)
        try:
            self.send(subject, payload, reply=f"{self._inbox}.{token}", header=header)
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._pending[token]

    async def patiently(
        self, subject: str, payload: bytes, header: bytes, deadline: float
    ) -> tuple[bytes, bytes, bool]:
        """Send a request again and again until it is answered; return (payload, header, sent_before).

        `sent_before` says that an earlier try may have taken effect too.

        Raises:
            BrokerTimeout: no answer within `deadline` seconds, reconnects included.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        sent = nobody = False
        pause = _FIRST_PAUSE
        patience = _FIRST_ATTEMPT_SECONDS
        while (left := end - loop.time()) > 0:
            if self._closing:
                raise BrokerUnreachable("the connection is closed")
            try:
                if not self.connected.is_set():
                    async with asyncio.timeout(left):
                        await self.connected.wait()
                        continue
                answer, head = await self.exchange(subject, payload, header=header, seconds=min(patience, left))
            except TimeoutError:
                sent = True
                patience = min(patience * 2, _ATTEMPT_SECONDS)
            except Disconnected:
                sent, pause = True, _FIRST_PAUSE
            else:
                nobody = head.startswith(b"NATS/1.0 503")
                if not nobody:
                    return answer, head, sent
            await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
            pause = min(pause * 2, 0.5)
        state = "; nobody serves it (for an isolated agent the steward of a gateway does)" if nobody else ""
        if not self.connected.is_set():
            state = f"; not connected to {self.options.address}"
        raise BrokerTimeout(f"no answer to {subject!r} within {deadline:g} s{state}")

    async def api(self, name: str, body: Any = None, *, deadline: float = 10.0) -> dict[str, Any]:
        """Call the JetStream API, e.g. `api("STREAM.INFO.S")`.

        Raises:
            BrokerError: as the API reports it.
        """
        payload = orjson.dumps(body) if body is not None else b""
        end = asyncio.get_running_loop().time() + deadline
        while True:
            left = end - asyncio.get_running_loop().time()
            answer, _, _ = await self.patiently(f"$JS.API.{name}", payload, b"", left)
            found: dict[str, Any] = orjson.loads(answer)
            if "error" not in found:
                return found
            error = found["error"]
            if error.get("err_code") not in TRY_AGAIN or end - asyncio.get_running_loop().time() < _API_PAUSE:
                raise api_error(name, error)
            await asyncio.sleep(_API_PAUSE)

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        expect: int | None = None,
        expect_filter: str = "",
        rollup: bool = False,
        message_id: str = "",
        schedule: tuple[str, str] | None = None,
        ttl: str = "",
        trace: str = "",
        deadline: float = PUBLISH_DEADLINE_SECONDS,
    ) -> int:
        """Publish and wait until it is stored; return its sequence.

        Args:
            subject: where to.
            payload: what.
            expect: refuse unless this is the last sequence of the subject (0: none yet). Makes retries exact: a try
                whose answer was lost is found in the log instead of being stored again.
            expect_filter: count the last sequence over this filter instead of the subject.
            rollup: replace everything before on this subject.
            message_id: for publishes that do not expect a sequence: dedupes retries within the broker's window.
            schedule: (time as RFC 3339, subject): the broker says the payload there and then. One schedule stands on a
                subject; the next message on it takes its place.
            ttl: the broker drops it after this time, e.g. `60s`.
            trace: the context of a trace, as W3C writes it.
            deadline: seconds, retries and reconnects included.

        Raises:
            Conflict: somebody else wrote first.
            TooLarge, StorageFull, PermissionDenied, BrokerTimeout: as they say; nothing is retried by the caller.
        """
        says = self.rollup_field(subject) if rollup else ""
        header = publish_header(
            expect, expect_filter, rollup=says, message_id=message_id, schedule=schedule, ttl=ttl, trace=trace
        )
        if len(header) + len(payload) > self.max_payload:
            raise TooLarge(f"{len(payload)} bytes are more than the broker takes in one message ({self.max_payload})")
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        unsure = False
        pause, longest = _PAUSES
        while True:
            answer, _, sent = await self.patiently(subject, payload, header, max(0.0, end - loop.time()))
            unsure = unsure or sent
            sequence, error = read_ack(answer)
            if error is None:
                return sequence
            if error.get("err_code") in TRY_AGAIN and loop.time() < end:
                unsure = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            failure = api_error(subject, error)
            if unsure and isinstance(failure, Conflict):
                stream = orjson.loads(answer)["stream"]
                if await self._is_ours(stream, subject, header + payload, failure.actual):
                    return failure.actual
            raise failure

    async def _is_ours(self, stream: str, subject: str, sent: bytes, sequence: int) -> bool:
        """Whether the message at `sequence` is what we sent: an earlier try was stored, only its answer was lost.

        Raises:
            BrokerTimeout: the broker does not tell; then it is neither ours nor somebody else's.
        """
        if not sequence:
            return False
        try:
            message = (await self.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence}))["message"]
        except BrokerTimeout:
            raise
        except BrokerError:
            return False
        stored = base64.b64decode(message.get("hdrs", "")) + base64.b64decode(message.get("data", ""))
        return bool(message["subject"] == subject and stored == sent)
