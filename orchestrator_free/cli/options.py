"""What the commands share: how to reach the broker, how to end, how to print."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.text import Text

from orchestrator_free import loop
from orchestrator_free.broker import (
    ACCESS_VARIABLES,
    DEFAULT_URL,
    Access,
    Broker,
    access_environment,
    connect,
    stream_settings,
    wired,
)
from orchestrator_free.cli.auditing import written_down
from orchestrator_free.cli.render import clean
from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import (
    AskNotFound,
    BrokerUnreachable,
    InvalidInput,
    LetterNotFound,
    OrchestratorFreeError,
    SessionNotFound,
)
from orchestrator_free.jetstream import Wire

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_FOUND: Final = 3
EXIT_UNAVAILABLE: Final = 69
#: a second signal ends the stopping itself, if it is another: timeout(1) and shells tell a process and its group
_ANOTHER_SECONDS: Final = 0.5
_ENDS: Final = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if sys.platform != "win32" else [])]

out = Console()
err = Console(stderr=True)

_BROKER = "Broker"
Url = Annotated[
    str, typer.Option("--url", envvar="ORCHESTRATOR_FREE_URL", help="NATS server(s).", rich_help_panel=_BROKER)
]


def _access(name: str, help: str) -> Any:
    """Return an option that says how to authenticate; also an environment variable, for all that we start."""
    return typer.Option(envvar=ACCESS_VARIABLES[name], help=help, rich_help_panel=_BROKER)


Credentials = Annotated[Path | None, _access("credentials", "A NATS .creds file.")]
Nkey = Annotated[Path | None, _access("nkey_seed", "A file with an nkey seed, as `broker agent` makes it.")]
Token = Annotated[str | None, _access("token", "A NATS token.")]
TokenFile = Annotated[Path | None, _access("token_file", "A file with a token, read at each connect.")]
Ca = Annotated[Path | None, _access("ca", "PEM file to verify the broker against.")]
Certificate = Annotated[Path | None, _access("certificate", "PEM file with a certificate of this client.")]
Key = Annotated[Path | None, _access("key", "PEM file with its private key.")]
Inbox = Annotated[
    str | None,
    typer.Option(
        envvar="ORCHESTRATOR_FREE_INBOX", help="Where replies may come, as _INBOX.ann.", rich_help_panel=_BROKER
    ),
]
Member = Annotated[str, typer.Option("--from", help="The member you speak as.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON, one object per line.")]
_STREAMS: Final = "Streams, where they are missing"
Shards = Annotated[
    int | None,
    typer.Option(
        envvar="ORCHESTRATOR_FREE_SHARDS", help="Streams that the sessions are spread over; for good. As it is, or 1.",
        min=1, max=1024, rich_help_panel=_STREAMS,
    ),
]  # fmt: skip
Replicas = Annotated[
    int | None,
    typer.Option(
        envvar="ORCHESTRATOR_FREE_REPLICAS", help="Copies of every stream: 3 in a cluster. As it is, or 1.",
        min=1, max=5, rich_help_panel=_STREAMS,
    ),
]  # fmt: skip
SessionName = Annotated[str, typer.Argument(help="The session's id.", metavar="SESSION")]


class Reach:
    """The options that say how to reach the broker, collected by the app's callback."""

    url: str = DEFAULT_URL
    access: Access = Access()
    inbox: str | None = None

    @asynccontextmanager
    async def connect(
        self,
        member: str = "cli",
        *,
        url: str | None = None,
        settings: StreamSettings | None = None,
        more: Access | None = None,
    ) -> AsyncIterator[Broker]:
        """Connect as a member: to another address, with settings of the streams, in another way, if given."""
        found: Any = {**self.access, **(more or {})}
        async with (
            connect(
                url or self.url, member=member, inbox_prefix=self.inbox, settings=settings or stream_settings(), **found
            ) as broker,
            written_down(broker.log.wire, member),
        ):
            yield broker

    @asynccontextmanager
    async def wire(self, member: str = "operator") -> AsyncIterator[Wire]:
        """Connect without looking at what is there, and without making what is not."""
        async with (
            wired(self.url, member=member, inbox_prefix=self.inbox, **self.access) as wire,
            written_down(wire, member),
        ):
            yield wire

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process that is started here reaches the same broker in the same way."""
        return {"ORCHESTRATOR_FREE_URL": self.url, **access_environment(self.access)}


reach = Reach()


def run(work: Coroutine[Any, Any, int | None], *, endless: bool = False) -> None:
    """Run a command to its end and exit: errors become one line and an exit code that means something.

    A signal is the good end of an endless command; of any other it is an interruption.
    """
    try:
        code = loop.run(_until_signal(work, endless=endless))
    except KeyboardInterrupt:
        code = 130
    except OrchestratorFreeError as error:
        err.print(Text.assemble(("error: ", "bold red"), clean(_said(error))), highlight=False, soft_wrap=True)
        code = _code(error)
    raise typer.Exit(code or 0)


def _said(error: OrchestratorFreeError) -> str:
    """Return what an error says, with what to do in the words of the command line."""
    if isinstance(error, SessionNotFound):
        return f"there is no session {error.session!r}; `orchestrator-free sessions` lists them, `send` begins one"
    return str(error)


def _code(error: OrchestratorFreeError) -> int:
    if isinstance(error, BrokerUnreachable):
        return EXIT_UNAVAILABLE
    if isinstance(error, (AskNotFound, LetterNotFound, SessionNotFound)):
        return EXIT_NOT_FOUND
    return EXIT_USAGE if isinstance(error, InvalidInput) else EXIT_FAILED


async def _until_signal(work: Coroutine[Any, Any, int | None], *, endless: bool) -> int | None:
    """Let signals end the work by cancellation, so that everything it started is stopped; SIGHUP: a closed terminal."""
    task = asyncio.create_task(work)
    running = asyncio.get_running_loop()
    stopped: list[int] = []
    at = 0.0

    def stop(number: int) -> None:
        nonlocal at
        if not stopped or running.time() - at > _ANOTHER_SECONDS:
            at = running.time()
            stopped.append(number)
            task.cancel()

    for number in _ENDS:
        with suppress(NotImplementedError):
            running.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        return 0 if endless else 128 + stopped[0]


def write_json(value: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()
