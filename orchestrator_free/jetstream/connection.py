"""The connection to the broker: authentication, TLS, coming back; and a send and receive path without detours.

nats-py keeps the connection; all commands of one loop tick leave in one write, and a message costs one call.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from orchestrator_free import logs
from orchestrator_free.errors import (
    BrokerError,
    BrokerTimeout,
    BrokerUnreachable,
    PermissionDenied,
    UnsupportedBroker,
)
from orchestrator_free.jetstream.options import WireOptions
from orchestrator_free.jetstream.parser import Handler, Parser

_log = logs.logger("orchestrator_free.jetstream")

#: atomic batches, schedules and the advisories fixed until then; docs/supply-chain.md
MINIMUM_VERSION: Final = (2, 14)
#: seconds; nats-py annotates an int and sleeps for whatever it gets
_RECONNECT_PAUSE: Final[Any] = 0.2
#: a refusal that took so long is the broker's own: the auth callout service that it asked did not answer, another may
_UNHEARD_SECONDS: Final = 1.5
#: one try; longer than a broker takes to refuse whom nobody knows (2 s), or its word for it comes too late
_TRY_SECONDS: Final = 3
#: a broker that is there may have more at its door than its callout services get through at once
_PATIENCE_SECONDS: Final = 20.0
#: between two tries, at random, so that those who came together do not come together again
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
#: after a TLS handshake that failed, asyncio never says that the transport is closed
_CLOSE_SECONDS: Final = 1.0


def _pause(tries: int) -> float:
    return random.uniform(0.2, 1) * _PAUSES[min(tries, len(_PAUSES) - 1)]


@dataclass(eq=False)
class Connection:
    """A connection that stays: it comes back after whatever ends it, with every subscription.

    Attributes:
        connected: set while the connection stands.
        on_disconnect: called, without arguments, each time the connection ends, before anything comes over the next.
        on_reconnect: called, without arguments, each time the connection stands again; messages may have come before.
    """

    options: WireOptions
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    on_disconnect: list[Callable[[], None]] = field(default_factory=list)
    on_reconnect: list[Callable[[], None]] = field(default_factory=list)
    reconnects: int = 0

    def __post_init__(self) -> None:
        self._client = Client()
        self._parser = Parser(self._client)
        self._out: list[bytes] = []
        self._closing = False
        self._last_error: Exception | None = None
        self._refused = ""
        self._opening = False
        self._subjects: dict[str, tuple[str, str]] = {}
        self._revival: asyncio.Task[None] | None = None

    # -- connection ---------------------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, options: WireOptions) -> Self:
        """Connect.

        Raises:
            InvalidInput: a file to connect with is missing or no such file.
            BrokerUnreachable: nobody answers at the address within `connect_seconds`.
            PermissionDenied: the credentials are refused.
            UnsupportedBroker: the server is older than `MINIMUM_VERSION`.
        """
        options.check()
        wire = cls(options)
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_SECONDS
        for tries in itertools.count():
            began = loop.time()
            try:
                await wire._open(wire._client)
                break
            except (TimeoutError, OSError, NatsError, ValueError) as error:
                await wire._on_error(error)
                if loop.time() > end or not wire._may_be_let_in(error, loop.time() - began):
                    await wire._give_up()
                    raise wire._connect_error(error) from error
                await wire._start_over()
                await asyncio.sleep(_pause(tries))
        numbers = re.match(r"(\d+)\.(\d+)", wire.server_version)
        if numbers and (int(numbers[1]), int(numbers[2])) < MINIMUM_VERSION:
            await wire._give_up()
            raise UnsupportedBroker(options.address, wire.server_version, ".".join(map(str, MINIMUM_VERSION)))
        wire.connected.set()
        wire._begin()
        return wire

    def _may_be_let_in(self, error: Exception, seconds: float) -> bool:
        """Whether another try may succeed: the broker is there, and it was not told in time who we are."""
        if isinstance(error, ssl.SSLError) or isinstance(self._last_error, ssl.SSLError):
            return False
        return seconds >= _UNHEARD_SECONDS if self._refused else bool(self._client._server_info)

    async def _start_over(self) -> None:
        """Get ready for another try, with a new client."""
        old, self._client = self._client, Client()
        self._parser.reset()
        self._parser.client = self._client
        self._closing, closing = True, self._closing
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await old.close()
        except Exception as error:
            _log.debug("close after a failed connect", error=repr(error))
        finally:
            self._closing = closing

    async def _open(self, client: Client) -> None:
        """Connect a client and put our parser in the place of nats-py's."""
        self._opening = True
        self._refused = ""
        try:
            async with asyncio.timeout(self.options.connect_seconds):
                await client.connect(
                    **self.options.arguments(),
                    connect_timeout=_TRY_SECONDS,
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
        finally:
            self._opening = False
        client._ps = self._parser  # type: ignore[assignment]

    def _connect_error(self, error: Exception) -> BrokerError:
        reason = self._last_error or error
        text = str(reason) or type(reason).__name__
        where = self.options.address
        if self._refused:  # of several tries, one may have ended before the broker's word for it came
            hint = "; has the token expired, or is no callout service there?" if self.options.tokened else ""
            return PermissionDenied(f"the broker at {where} refused the credentials: {self._refused}{hint}")
        return BrokerUnreachable(
            f"no broker answers at {where} ({text}); start one with `orchestrator-free up`, or pass --url"
        )

    async def _give_up(self) -> None:
        self._closing = True
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
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
        self._lost()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
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
        return str(self._client._server_info.get("version", "unknown"))

    @property
    def linked(self) -> bool:
        """Whether the server says that it is one of several: of a cluster, or joined to a hub as a leaf."""
        return bool(self._client._server_info.get("cluster"))

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        if text:
            self._last_error = error
        if "authorization" in text.lower() or "authentication" in text.lower():
            self._refused = text
        if self._opening and (self._refused or isinstance(error, ssl.SSLCertVerificationError)):
            raise error  # leaves nats-py's connect, which would try the same for ever
        if "permissions violation" in text:
            self._denied(text)
        elif not self._closing:
            _log.debug("connection", error=text)
        if (self._client.is_connecting or self._client.is_reconnecting) and self._client._transport:
            self._client._transport.close()  # type: ignore[no-untyped-call]  # nats-py forgets the socket of a failed try

    async def _on_disconnected(self) -> None:
        self.connected.clear()
        self._lost()
        for callback in self.on_disconnect:
            callback()
        if not self._closing:
            _log.warning("connection to the broker lost, trying again", url=self.options.address)

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        # Subscriptions made while nats-py was re-subscribing would be missed; the broker ignores the ones it has.
        for sid, (subject, queue) in self._subjects.items():
            self._send(f"SUB {subject} {queue} {sid}\r\n".encode())
        self.connected.set()
        _log.info("connected to the broker again", url=self.options.address)
        for callback in self.on_reconnect:
            callback()

    async def _on_closed(self) -> None:
        """nats-py gives a connection up for good at some errors of the broker; a session must not end with it."""
        if not self._closing and self.connected.is_set() is False and self._revival is None:
            _log.error("the broker closed the connection", url=self.options.address, reason=str(self._last_error))
            self._revival = asyncio.create_task(self._revive(), name="revive connection")

    async def _revive(self) -> None:
        """Connect anew, with every subscription there was."""
        for tries in itertools.count():
            await asyncio.sleep(_pause(tries))
            if self._closing:
                return
            client = Client()
            self._parser.reset()
            try:
                await self._open(client)
            except (TimeoutError, OSError, NatsError, ValueError) as error:
                _log.warning("still no connection to the broker", url=self.options.address, reason=str(error))
                continue
            old, self._client = self._client, client
            client._sid = old._sid
            client._subs = {
                int(sid): Subscription(client, int(sid), subject, queue)
                for sid, (subject, queue) in self._subjects.items()
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

    async def settled(self) -> None:
        """Wait until the broker has taken what was sent, subscriptions included.

        Raises:
            BrokerTimeout: it does not say so.
        """
        self._flush()
        try:
            await self._client.flush(timeout=int(self.options.connect_seconds))
        except (TimeoutError, NatsError) as error:
            raise BrokerTimeout("the broker does not answer") from error

    def send(self, subject: str, payload: bytes = b"", *, reply: str = "", header: bytes = b"") -> None:
        """Publish without an acknowledgement: for acks, requests and what may be lost. Dropped while disconnected."""
        if header:
            sizes = f"{len(header)} {len(header) + len(payload)}"
            self._send(b"".join((f"HPUB {subject} {reply} {sizes}\r\n".encode(), header, payload, b"\r\n")))
        else:
            self._send(b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, b"\r\n")))

    def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", linger_seconds: float = 0.0
    ) -> Callable[[], None]:
        """Call `handler(subject, reply, payload, header)` for every message; return what ends the subscription.

        The handler runs inside the read loop: it must be quick and must not await. Ended, it still gets for
        `linger_seconds` what the broker had sent before it heard of the end. Of all who subscribe with the same
        `queue`, one gets each message.
        """
        client = self._client
        client._sid += 1
        sid = str(client._sid)
        # Registered with nats-py as well, which subscribes again after a reconnect.
        client._subs[client._sid] = Subscription(client, client._sid, subject, queue)
        self._parser.handlers[sid.encode()] = handler
        self._subjects[sid] = subject, queue
        self._send(f"SUB {subject} {queue} {sid}\r\n".encode())

        def unsubscribe() -> None:
            if self._subjects.pop(sid, None) is not None:
                self._client._subs.pop(int(sid), None)
                self._send(f"UNSUB {sid}\r\n".encode())
                if linger_seconds:
                    loop = asyncio.get_running_loop()
                    loop.call_later(linger_seconds, self._parser.handlers.pop, sid.encode(), None)
                else:
                    self._parser.handlers.pop(sid.encode(), None)

        return unsubscribe

    # -- for Wire -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The connection stands for the first time."""

    def _denied(self, text: str) -> None:
        """The broker refused a subject."""

    def _lost(self) -> None:
        """The connection ended; what was under way is not answered any more."""
