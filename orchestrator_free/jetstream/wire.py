"""One connection to the broker: acknowledged publish, requests, and subscriptions that cost a call per message.

nats-py keeps the connection (authentication, TLS, reconnect); sending and receiving on the hot path are ours. All
commands of one loop tick leave in one write, all replies come back through one inbox.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from orchestrator_free.errors import (
    BrokerError,
    BrokerTimeout,
    BrokerUnreachable,
    Conflict,
    PermissionDenied,
    StorageFull,
    TooLarge,
)
from orchestrator_free.jetstream.parser import Handler, Parser

_log = structlog.get_logger("orchestrator_free.jetstream")

#: JetStream error codes (nats-server server/errors.json)
WRONG_LAST_SEQUENCE: Final = 10071
_WRONG_LAST: Final = frozenset({WRONG_LAST_SEQUENCE, 10164})
_FULL: Final = frozenset({10023, 10028, 10047, 10077, 10122})
_TRY_AGAIN: Final = frozenset({10008, 10009, 10158, 10074, 10039})
#: a leader that is killed stalls an R3 stream for 4-9 s, so the deadline must be well above
PUBLISH_DEADLINE_SECONDS: Final = 25.0
_ATTEMPT_SECONDS: Final = 4.0
#: seconds; nats-py annotates an int and sleeps for whatever it gets
_RECONNECT_PAUSE: Final[Any] = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """How to reach the broker.

    Attributes:
        url: `nats://host:port`, several separated by commas; `tls://` and `ws://` too.
        name: shown in the broker's connection list.
        credentials: a `.creds` file. nkey_seed: a file with an nkey seed. token: a shared token.
        ca: a PEM file to verify the broker against; certificate and key: this client's own.
        inbox_prefix: for accounts that scope inboxes per user.
    """

    url: str
    name: str = "orchestrator-free"
    credentials: Path | None = None
    nkey_seed: Path | None = None
    token: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    inbox_prefix: str = "_INBOX"
    connect_seconds: float = 5.0

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for nats-py."""
        found: dict[str, Any] = {"servers": [part.strip() for part in self.url.split(",")], "name": self.name}
        if self.credentials:
            found["user_credentials"] = str(self.credentials)
        if self.nkey_seed:
            found["nkeys_seed"] = str(self.nkey_seed)
        if self.token:
            found["token"] = self.token
        if self.ca or self.certificate:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
            if self.certificate:
                context.load_cert_chain(str(self.certificate), str(self.key) if self.key else None)
            found["tls"] = context
        return found


class _Disconnected(Exception):  # noqa: N818
    """The connection ended before the answer came."""


@dataclass(slots=True)
class _Pending:
    """A request whose answer is awaited; `subject` lets a permission error find it."""

    subject: str
    future: asyncio.Future[tuple[bytes, bytes]]


@dataclass(eq=False)
class Wire:
    """A connection. Create it with `await Wire.connect(options)`, end it with `await wire.close()`.

    Attributes:
        connected: set while the connection stands.
        on_reconnect: called, without arguments, each time the connection stands again.
    """

    options: WireOptions
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    on_reconnect: list[Callable[[], None]] = field(default_factory=list)
    reconnects: int = 0

    def __post_init__(self) -> None:
        self._client = Client()
        self._parser = Parser(self._client)
        self._inbox = f"{self.options.inbox_prefix}.{secrets.token_hex(8)}"
        self._pending: dict[str, _Pending] = {}
        self._streams: dict[str, Handler] = {}
        self._denied: dict[str, str] = {}
        self._counter = 0
        self._out: list[bytes] = []
        self._closing = False
        self._last_error: Exception | None = None
        self._subjects: dict[str, str] = {}
        self._revival: asyncio.Task[None] | None = None

    # -- connection ---------------------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, options: WireOptions) -> Wire:
        """Connect.

        Raises:
            BrokerUnreachable: nobody answers at the address within `connect_seconds`.
            PermissionDenied: the credentials are refused.
        """
        wire = cls(options)
        client = wire._client
        try:
            await wire._open(client)
        except (TimeoutError, OSError, NatsError, ValueError) as error:
            await wire._give_up()
            raise wire._connect_error(error) from error
        wire.connected.set()
        wire.subscribe(f"{wire._inbox}.*", wire._on_reply)
        return wire

    async def _open(self, client: Client) -> None:
        """Connect a client and put our parser in the place of nats-py's."""
        async with asyncio.timeout(self.options.connect_seconds):
            await client.connect(
                **self.options.arguments(),
                connect_timeout=2,
                reconnect_time_wait=_RECONNECT_PAUSE,
                max_reconnect_attempts=-1,
                ping_interval=15,
                max_outstanding_pings=2,
                inbox_prefix=self.options.inbox_prefix.encode(),
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                pending_size=0,
            )
        client._ps = self._parser  # type: ignore[assignment]

    def _connect_error(self, error: Exception) -> BrokerError:
        reason = self._last_error or error
        text = str(reason) or type(reason).__name__
        if "authorization" in text.lower() or "authentication" in text.lower():
            return PermissionDenied(f"the broker at {self.options.url} refused the credentials: {text}")
        return BrokerUnreachable(
            f"no broker answers at {self.options.url} ({text}); start one with `orchestrator-free up`, or pass --url"
        )

    async def _give_up(self) -> None:
        self._closing = True
        try:
            await self._client.close()
        except Exception as error:
            _log.debug("close after a failed connect", error=repr(error))

    async def close(self) -> None:
        """End the connection; what is still awaited fails. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self.connected.clear()
        self._flush()
        self._fail_pending()
        try:
            await self._client.close()
        except Exception as error:
            _log.debug("close while disconnected", error=repr(error))

    @property
    def client(self) -> Client:
        """The nats-py client beneath, for what is not on the hot path; another one after a revival."""
        return self._client

    @property
    def max_payload(self) -> int:
        """The largest message the broker takes, in bytes."""
        return int(self._client.max_payload)

    @property
    def server_version(self) -> str:
        """The version the broker reports."""
        return str(self._client.connected_server_version)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        text = str(error)
        if "permissions violation" in text:
            self._deny(text)
        elif not self._closing:
            _log.debug("connection", error=text)

    def _deny(self, text: str) -> None:
        """Fail the requests a permission error is about; the subject in it is lower-cased."""
        _log.warning("the broker refused a subject", reason=text.removeprefix("nats: "))
        quoted = text.split('"')
        subject = quoted[1] if len(quoted) > 2 else ""
        for pending in list(self._pending.values()):
            if pending.subject.lower() == subject and not pending.future.done():
                pending.future.set_exception(PermissionDenied(f"the broker refused {pending.subject!r}: {text}"))

    async def _on_disconnected(self) -> None:
        self.connected.clear()
        self._fail_pending()
        if not self._closing:
            _log.warning("connection to the broker lost, trying again", url=self.options.url)

    def _fail_pending(self) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(_Disconnected())

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        # Subscriptions made while nats-py was re-subscribing would be missed; the broker ignores the ones it has.
        for sid in self._parser.handlers:
            self._send(f"SUB {self._client._subs[int(sid)].subject} {sid.decode()}\r\n".encode())
        self.connected.set()
        _log.info("connected to the broker again", url=self.options.url)
        for callback in self.on_reconnect:
            callback()

    async def _on_closed(self) -> None:
        """nats-py gives a connection up for good at some errors of the broker; a session must not end with it."""
        if not self._closing and self.connected.is_set() is False and self._revival is None:
            _log.error("the broker closed the connection", url=self.options.url, reason=str(self._last_error))
            self._revival = asyncio.create_task(self._revive(), name="revive connection")

    async def _revive(self) -> None:
        """Connect anew, with every subscription there was."""
        while not self._closing:
            await asyncio.sleep(0.5)
            client = Client()
            self._parser.reset()
            try:
                await self._open(client)
            except (TimeoutError, OSError, NatsError) as error:
                _log.warning("still no connection to the broker", url=self.options.url, reason=str(error))
                continue
            old, self._client = self._client, client
            client._sid = old._sid
            client._subs = {
                int(sid): Subscription(client, int(sid), subject) for sid, subject in self._subjects.items()
            }
            self._parser.client = client
            self._revival = None
            await self._on_reconnected()
            return

    # -- sending ------------------------------------------------------------------------------------------------

    def _send(self, command: bytes) -> None:
        """Queue a command; all of one loop tick leave in one write."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(command)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._client.is_connected and self._client._transport is not None:
            self._client._transport.write(b"".join(out))

    def send(self, subject: str, payload: bytes = b"", *, reply: str = "", header: bytes = b"") -> None:
        """Publish without an acknowledgement: for acks, requests and what may be lost. Dropped while disconnected."""
        if header:
            sizes = f"{len(header)} {len(header) + len(payload)}"
            self._send(b"".join((f"HPUB {subject} {reply} {sizes}\r\n".encode(), header, payload, b"\r\n")))
        else:
            self._send(b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, b"\r\n")))

    def subscribe(self, subject: str, handler: Handler) -> Callable[[], None]:
        """Call `handler(subject, reply, payload, header)` for every message; return what ends the subscription.

        The handler runs inside the read loop: it must be quick and must not await.
        """
        client = self._client
        client._sid += 1
        sid = str(client._sid)
        # Registered with nats-py as well, which subscribes again after a reconnect.
        client._subs[client._sid] = Subscription(client, client._sid, subject)
        self._parser.handlers[sid.encode()] = handler
        self._subjects[sid] = subject
        self._send(f"SUB {subject} {sid}\r\n".encode())

        def unsubscribe() -> None:
            if self._subjects.pop(sid, None) is not None:
                self._client._subs.pop(int(sid), None)
                self._parser.handlers.pop(sid.encode(), None)
                self._send(f"UNSUB {sid}\r\n".encode())

        return unsubscribe

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

    def inbox(self, handler: Handler) -> tuple[str, Callable[[], None]]:
        """Return a fresh reply subject whose messages go to `handler`, and what releases it."""
        token = self._token()
        self._streams[token] = handler

        def release() -> None:
            self._streams.pop(token, None)

        return f"{self._inbox}.{token}", release

    def own_inbox(self) -> str:
        """Return a subject below this connection's inbox for a subscription of its own."""
        return f"{self._inbox}.own.{self._token()}"

    async def exchange(
        self, subject: str, payload: bytes, *, header: bytes = b"", seconds: float
    ) -> tuple[bytes, bytes]:
        """Send one request; return (payload, header) of the answer.

        Raises:
            TimeoutError: no answer in time.
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
        sent = False
        pause = 0.05
        while (left := end - loop.time()) > 0:
            if self._closing:
                raise BrokerUnreachable("the connection is closed")
            try:
                if not self.connected.is_set():
                    async with asyncio.timeout(left):
                        await self.connected.wait()
                        continue
                answer, head = await self.exchange(subject, payload, header=header, seconds=min(_ATTEMPT_SECONDS, left))
            except (TimeoutError, _Disconnected):
                sent = True
            else:
                if not head.startswith(b"NATS/1.0 503"):
                    return answer, head, sent
            await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
            pause = min(pause * 2, 0.5)
        state = "" if self.connected.is_set() else f"; not connected to {self.options.url}"
        raise BrokerTimeout(f"no answer to {subject!r} within {deadline:g} s{state}")

    async def api(self, name: str, body: Any = None, *, deadline: float = 10.0) -> dict[str, Any]:
        """Call the JetStream API, e.g. `api("STREAM.INFO.S")`.

        Raises:
            BrokerError: as the API reports it.
        """
        payload = orjson.dumps(body) if body is not None else b""
        while True:
            answer, _, _ = await self.patiently(f"$JS.API.{name}", payload, b"", deadline)
            found: dict[str, Any] = orjson.loads(answer)
            if "error" not in found:
                return found
            error = found["error"]
            if error.get("err_code") not in _TRY_AGAIN or deadline <= 0:
                raise api_error(name, error)
            await asyncio.sleep(0.25)
            deadline -= 0.25

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        expect: int | None = None,
        expect_filter: str = "",
        rollup: bool = False,
        message_id: str = "",
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
            deadline: seconds, retries and reconnects included.

        Raises:
            Conflict: somebody else wrote first.
            TooLarge, StorageFull, PermissionDenied, BrokerTimeout: as they say; nothing is retried by the caller.
        """
        header = _publish_header(expect, expect_filter, rollup=rollup, message_id=message_id)
        if len(header) + len(payload) > self.max_payload:
            raise TooLarge(f"{len(payload)} bytes are more than the broker takes in one message ({self.max_payload})")
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        unsure = False
        while True:
            answer, _, sent = await self.patiently(subject, payload, header, max(0.0, end - loop.time()))
            unsure = unsure or sent
            sequence, error = _read_ack(answer)
            if error is None:
                return sequence
            if error.get("err_code") in _TRY_AGAIN and loop.time() < end:
                unsure = True
                await asyncio.sleep(0.1)
                continue
            conflict = api_error(subject, error)
            if (
                unsure
                and isinstance(conflict, Conflict)
                and await self._is_ours(subject, header + payload, conflict.actual)
            ):
                return conflict.actual
            raise conflict

    async def _is_ours(self, subject: str, sent: bytes, sequence: int) -> bool:
        """Whether the message at `sequence` is what we sent: an earlier try was stored, only its answer was lost."""
        if not sequence:
            return False
        found = await self.api("STREAM.NAMES", {"subject": subject})
        for stream in found.get("streams") or []:
            try:
                message = (await self.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence}))["message"]
            except BrokerError:
                return False
            stored = base64.b64decode(message.get("hdrs", "")) + base64.b64decode(message.get("data", ""))
            return message["subject"] == subject and stored == sent
        return False


def _publish_header(expect: int | None, expect_filter: str, *, rollup: bool, message_id: str) -> bytes:
    lines = ""
    if expect is not None:
        lines += f"Nats-Expected-Last-Subject-Sequence: {expect}\r\n"
        if expect_filter:
            lines += f"Nats-Expected-Last-Subject-Sequence-Subject: {expect_filter}\r\n"
    if rollup:
        lines += "Nats-Rollup: sub\r\n"
    if message_id:
        lines += f"Nats-Msg-Id: {message_id}\r\n"
    return f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""


def _read_ack(answer: bytes) -> tuple[int, dict[str, Any] | None]:
    try:
        found = orjson.loads(answer)
        return (0, found["error"]) if "error" in found else (int(found["seq"]), None)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BrokerError(f"not a publish acknowledgement: {answer[:100]!r}") from error


def api_error(where: str, error: dict[str, Any]) -> BrokerError:
    """Translate an error of the JetStream API."""
    code = error.get("err_code", 0)
    text = f"{where}: {error.get('description', 'unknown error')} (JetStream {code})"
    if code in _WRONG_LAST:
        digits = "".join(filter(str.isdigit, str(error.get("description", "")).rpartition(":")[2]))
        return Conflict(text, actual=int(digits or 0))
    if code in _FULL:
        return StorageFull(f"{text}; free space or raise the limit, nothing was stored")
    found = BrokerError(text)
    found.code = code  # type: ignore[attr-defined]
    return found
