"""Uvicorn with connections that an endpoint can take, clients that cannot dawdle and a bounded shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, Self

import uvicorn

from orchestrator_free import loop
from orchestrator_free.gateway.connections.handshakes import WebSocket, quiet
from orchestrator_free.gateway.connections.takeover import Door
from orchestrator_free.gateway.connections.transport import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uvicorn._types import ASGIApplication

_logger: Final = logging.getLogger(__name__)
_BACKLOG: Final = 2048
#: longer than clients keep an idle connection: a POST into one that is just being closed fails, and is not repeated
_KEEP_ALIVE_SECONDS: Final = 75
#: what a client may send in one WebSocket message
WEBSOCKET_BYTES: Final = 1024 * 1024


class Server:
    """An HTTP server inside a running loop, without signal handlers: `async with Server(app, port=0) as s:`.

    Leaving it drains: stop accepting, `on_drain`, cut every feed, let running requests end, shut the
    application down; all within `drain_seconds`, of which `on_drain` may use 1/5 and running requests 3/5.
    """

    def __init__(
        self,
        app: ASGIApplication | Callable[..., Any],
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        fd: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        drain_seconds: float = 5.0,
        on_drain: Callable[[], Awaitable[object]] | None = None,
        **options: Any,
    ) -> None:
        """Prepare.

        Args:
            app: the ASGI application.
            host: address to bind; a colon makes it IPv6.
            port: 0 takes a free one, see the attribute `port` afterwards.
            fd: a listening socket inherited from a supervisor, instead of host and port.
            limits: what one client may cost.
            drain_seconds: bound of a shutdown.
            on_drain: awaited when no new connection is accepted any more and before the feeds are cut.
            options: further options of `uvicorn.Config`.
        """
        defaults: dict[str, Any] = {
            "http": Door(limits),
            "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": max(1, round(0.6 * drain_seconds)),
            "ws": WebSocket,
            "ws_max_size": WEBSOCKET_BYTES,
            "ws_per_message_deflate": False,  # a compressor per client costs more than the bytes
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,  # whose word counts is a setting of ours
            "log_config": None,
        }
        self.host = host
        self.port = port
        self.started = False
        self._fd = fd
        self._drain_seconds = drain_seconds
        self._on_drain = on_drain
        quiet()
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, **(defaults | options)))
        self._ticker: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Open connections, feeds included."""
        return len(self._uvicorn.server_state.connections)

    async def __aenter__(self) -> Self:
        self._listener = self._bind()
        try:
            await self._start()
        except BaseException:
            self._listener.close()
            raise
        self.started = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _bind(self) -> socket.socket:
        if self._fd is not None:
            listener = socket.socket(fileno=self._fd)
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        name = listener.getsockname()
        if isinstance(name, tuple):
            self.host, self.port = name[:2]
        return listener

    async def _start(self) -> None:
        config = self._uvicorn.config
        config.load()
        self._uvicorn.lifespan = config.lifespan_class(config)
        try:
            await self._uvicorn.startup([self._listener])
        except SystemExit:
            raise RuntimeError("the application did not start; the log of uvicorn.error says why") from None
        self._ticker = asyncio.create_task(self._uvicorn.main_loop())

    async def close(self) -> None:
        """Drain and stop; once."""
        if self._ticker is None:
            return
        self._ticker.cancel()
        self._ticker = None
        for listener in self._uvicorn.servers:
            listener.close()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._prepare_drain()
                await self._uvicorn.shutdown([self._listener])
        except TimeoutError:
            _logger.error("not shut down within %s s; what still runs is left behind", self._drain_seconds)
        finally:
            self._abort_all()
            await asyncio.sleep(0)

    def hurry(self) -> None:
        """Make a running `close` end now: nothing is waited for any more."""
        self._uvicorn.force_exit = True
        self._abort_all()

    async def _prepare_drain(self) -> None:
        if self._on_drain is None:
            return
        try:
            async with asyncio.timeout(0.2 * self._drain_seconds):
                await self._on_drain()
        except Exception:
            _logger.exception("on_drain failed; the feeds are cut all the same")

    def _abort_all(self) -> None:
        for connection in tuple(self._uvicorn.server_state.connections):
            connection.transport.abort()


def serve(app: ASGIApplication | Callable[..., Any], **options: Any) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends that, too. Options: see `Server`."""
    with loop.runner() as runner, contextlib.suppress(asyncio.CancelledError):
        runner.run(_serve(Server(app, **options)))


async def _serve(server: Server) -> None:
    stop = asyncio.Event()
    main = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()
        if not server.started and main is not None:
            main.cancel()

    running = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl+C cancels this task instead
            running.add_signal_handler(number, on_signal)
    async with server:
        await stop.wait()
