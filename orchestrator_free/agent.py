"""An agent: a named process that does runs. Replicas of one name share the work; the broker hands it out.

An input is delivered to one replica and stays its own as long as it says that it is at work. When it falls silent, the
broker delivers the input again, the next attempt begins on the same run, and whatever the first one still tries to
write is refused by the broker. Nobody supervises.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import Callable
from typing import Final, Unpack

from orchestrator_free import logs, loop, tracing
from orchestrator_free.broker import DEFAULT_URL, Broker, access, connect, stream_settings
from orchestrator_free.errors import (
    BrokerTimeout,
    BrokerUnreachable,
    ConfigMismatch,
    InvalidInput,
    PermissionDenied,
    UnsupportedBroker,
)
from orchestrator_free.subjects import ALL, check_name
from orchestrator_free.working.attempts import AgentOptions, AgentSettings, Handler, deployed
from orchestrator_free.working.overlap import check_policy
from orchestrator_free.working.worker import Worker

_log = logs.logger("orchestrator_free.agent")

#: EX_UNAVAILABLE: another try may do; EX_NOPERM and EX_CONFIG: somebody has to change something
_EXIT_CODES: Final[dict[type[Exception], int]] = {
    BrokerUnreachable: 69, BrokerTimeout: 69, PermissionDenied: 77, ConfigMismatch: 78, UnsupportedBroker: 78,
    InvalidInput: 78,
}  # fmt: skip


class Agent:
    """Decorate one async handler with it and call `main()`.

    Attributes:
        name: who publishes, and whom inputs are addressed to.
    """

    def __init__(self, name: str, **settings: Unpack[AgentOptions]) -> None:
        self.name = check_name("agent", name)
        if name == ALL:
            raise ValueError(f"an agent cannot be called {ALL!r}: that addresses everybody")
        self.settings = AgentSettings(**settings)
        check_policy(self.settings.overlap)
        self._handler: Handler | None = None

    def __call__(self, handler: Handler) -> Handler:
        """Register the handler: `async def handle(run: Run) -> None`.

        Raises:
            InvalidInput: there is one already, or this one yields.
        """
        if self._handler is not None:
            raise InvalidInput(f"agent {self.name!r} has a handler already: one agent, one handler")
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise InvalidInput(f"the handler of agent {self.name!r} yields: let it write with `await run.text(…)`")
        self._handler = handler
        return handler

    async def serve(self, broker: Broker, *, ready: Callable[[], None] = lambda: None) -> None:
        """Work until cancelled; `broker` is connected as this agent's name."""
        if self._handler is None:
            raise ValueError(f"agent {self.name!r} has no handler: decorate an async function with it")
        await Worker(self.name, self.settings, self._handler, broker).serve(ready)

    def main(self) -> None:
        """Run as a program: connect to ORCHESTRATOR_FREE_URL and work until SIGTERM or SIGINT.

        `broker.ACCESS_VARIABLES` says how it authenticates and whom it trusts: ORCHESTRATOR_FREE_NKEY, _CREDENTIALS,
        _TOKEN_FILE, _CA, _CERTIFICATE and _KEY name files, ORCHESTRATOR_FREE_TOKEN is a token. ORCHESTRATOR_FREE_SHARDS
        and _REPLICAS are asked for where the streams are missing, and must agree with those that are there.
        ORCHESTRATOR_FREE_CONCURRENCY and _GRACE_SECONDS count instead of what the program says.
        """
        from orchestrator_free.logs import configure

        configure()
        tracing.configure(self.name)
        url = os.environ.get("ORCHESTRATOR_FREE_URL", DEFAULT_URL)
        try:
            loop.run(self._main(url))
        except tuple(_EXIT_CODES) as error:
            _log.error("agent cannot start", agent=self.name, error=str(error))
            raise SystemExit(next(code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))) from error

    async def _main(self, url: str) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - inside asyncio.run
        for sign in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(sign, task.cancel)
        self.settings = deployed(self.settings)
        with contextlib.suppress(asyncio.CancelledError):
            async with connect(url, member=self.name, settings=stream_settings(), **access()) as broker:
                _log.info("agent ready", agent=self.name, url=broker.log.wire.options.address, pid=os.getpid())
                await self.serve(broker)
