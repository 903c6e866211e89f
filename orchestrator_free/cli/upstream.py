"""The broker that a command uses: one that is there, an embedded one, or that of a folder; and its gateway's https."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from orchestrator_free.broker import DEFAULT_URL, Access, access_environment, stream_settings
from orchestrator_free.brokerdir import BrokerFolder, certificates, running
from orchestrator_free.brokerdir.folder import PLAN
from orchestrator_free.brokerdir.layout import TLS, tls_block
from orchestrator_free.brokerdir.plan import GATEWAY, MAIN
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerError, BrokerStartError, BrokerUnreachable, InvalidInput

_TLS: Final = "Encryption, identity of processes"
Tls = Annotated[
    bool, typer.Option("--tls", help="https, and an embedded broker that encrypts, too.", rich_help_panel=_TLS)
]
TlsCertificate = Annotated[
    Path | None, typer.Option(help="PEM file for https, if not one made here.", rich_help_panel=_TLS)
]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file with its private key.", rich_help_panel=_TLS)]
BrokerDir = Annotated[
    Path | None,
    typer.Option(
        envvar="ORCHESTRATOR_FREE_BROKER_DIR", help="A folder that `broker init` made: its users, accounts, TLS.",
        rich_help_panel=_TLS,
    ),
]  # fmt: skip
OfTenant = Annotated[str, typer.Option("--tenant", help="Of the folder: whose gateway it is.", rich_help_panel=_TLS)]
Secure = Annotated[
    bool,
    typer.Option("--secure", help="Such a folder, made where it is missing, and https.", rich_help_panel=_TLS),
]
#: the folder that `up --secure` makes
SECURE: Final = "secure"


@dataclass(frozen=True, slots=True)
class Upstream:
    """The broker that a command uses.

    Attributes:
        monitor_url: its HTTP monitor, if that is known.
        durability: what it was given.
        access: how the gateway connects, beside what the options say.
        streams: how its streams are made, if it says so.
        folder: whose broker it is.
        tenant: whose gateway it is for.
    """

    url: str
    monitor_url: str | None = None
    durability: str = "unknown"
    server: EmbeddedServer | None = None
    access: Access = field(default_factory=Access)
    streams: StreamSettings | None = None
    folder: BrokerFolder | None = None
    tenant: str = MAIN

    def made_with(self, shards: int | None, replicas: int | None) -> StreamSettings | None:
        """Return how streams are made: as options say, and where they do not, as the folder or the environment does."""
        known = self.streams or stream_settings()
        if not shards and not replicas:
            return known
        known = known or StreamSettings()
        return replace(known, shards=shards or known.shards, replicas=replicas or known.replicas)

    def told(self, *, external: bool) -> list[str]:
        """Return what a person has to know of it."""
        lines = [f"broker  [bold]{self.url}[/]  durability {self.durability}"]
        if self.folder is not None:
            of = "" if self.tenant == MAIN else f" --tenant {self.tenant}"
            lines.append(f"agents, services:  orchestrator-free broker agent NAME{of} -d {self.folder.path}")
        elif not external and self.url != DEFAULT_URL:
            variables = {"ORCHESTRATOR_FREE_URL": self.url, **access_environment(self.access)}
            lines.append(
                "agents elsewhere:  export " + " ".join(f"{name}={value}" for name, value in variables.items())
            )
        return lines

    async def ended(self) -> None:
        """Wait until the embedded broker ends by itself, for ever if there is none.

        Raises:
            BrokerError: it has.
        """
        if self.server is None:
            await asyncio.Event().wait()
            return
        code = await self.server.wait()
        raise BrokerError(f"the broker ended with code {code}; its log, {self.server.log_path}, says why")


@asynccontextmanager
async def embedded_or(
    external: str | None, settings: ServerSettings, monitor_url: str | None = None
) -> AsyncIterator[Upstream]:
    """Use the broker at an address, or run one."""
    if external:
        yield Upstream(external, monitor_url)
        return
    async with _started(settings) as server:
        access = Access(ca=settings.data / TLS / certificates.AUTHORITY) if settings.tls else Access()
        yield Upstream(server.url, server.monitor_url, settings.durability, server, access)


@asynccontextmanager
async def of_folder(folder: BrokerFolder, tenant: str = MAIN, binary: str = "nats-server") -> AsyncIterator[Upstream]:
    """Use the broker of a folder: the one that runs there, or an embedded one; as the gateway of a tenant."""
    folder.plan.tenant(tenant)
    options: dict[str, Any] = folder.options(tenant, GATEWAY)
    access = Access(nkey_seed=options["nkey_seed"], ca=options["ca"])
    async with AsyncExitStack() as stack:
        server = None
        try:
            async with running.system(folder):
                pass
        except BrokerUnreachable:
            server = await stack.enter_async_context(_started(replace(folder.settings(), binary=binary)))
        plan, streams = folder.plan, running.stream_settings(folder)
        await running.prepare_all(folder)
        monitor = f"http://127.0.0.1:{plan.monitor_port}"
        yield Upstream(folder.url, monitor, plan.durability, server, access, streams, folder, tenant)


@asynccontextmanager
async def _started(settings: ServerSettings) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(settings)
    try:
        await server.start()
    except BrokerStartError as error:  # here its port is the other one
        raise BrokerStartError(str(error).replace("--port", "--broker-port")) from error
    async with server:
        yield server


def choose(
    external: str | None, settings: ServerSettings, monitor_url: str | None,
    *, folder: Path | None, tenant: str, secure: bool, tls: bool, own: tuple[Path | None, Path | None],
) -> tuple[AbstractAsyncContextManager[Upstream], dict[str, Any]]:  # fmt: skip
    """Return the broker to use, not yet started, and what makes the gateway speak https, if it is to.

    Raises:
        InvalidInput: options that do not go together, or a file is missing.
    """
    there = _folder(settings, folder, secure=secure, external=external)
    encrypted = tls or secure or own != (None, None)
    shown = _https(own, (settings.data if there is None else there.path) / TLS) if encrypted else {}
    if there is not None:
        return of_folder(there, tenant, binary=settings.binary), shown
    if tenant != MAIN:
        raise InvalidInput("--tenant is one of a broker's folder: pass --broker-dir")
    return embedded_or(external, _with_tls(settings) if tls and not external else settings, monitor_url), shown


def _with_tls(settings: ServerSettings) -> ServerSettings:
    """Return the settings of an embedded broker that encrypts, with a certificate beside its data."""
    folder = settings.data.resolve() / TLS
    certificates.ensure(folder, certificates.LOCAL)
    return replace(settings, tls=True, extra=settings.extra + tls_block(folder))


def _folder(settings: ServerSettings, named: Path | None, *, secure: bool, external: str | None) -> BrokerFolder | None:
    """Return the folder whose broker is to be used: the one that is named, or that of `--secure`, made if missing."""
    if external and (secure or named is not None):
        raise InvalidInput("--broker names a broker that is there already: leave out --broker-dir and --secure")
    if named is not None:
        return BrokerFolder.open(named)
    if not secure:
        return None
    path = settings.data / SECURE
    monitor_port = None if (path / PLAN).exists() else 0
    return BrokerFolder.init(path, tls=True, port=settings.port, monitor_port=monitor_port)[0]


def _https(own: tuple[Path | None, Path | None], folder: Path) -> dict[str, Any]:
    """Return uvicorn's options for https: with a certificate that is given, or one of the folder's authority."""
    certificate, key = own
    if (certificate is None) != (key is None):
        raise InvalidInput("--tls-certificate and --tls-key go together")
    if certificate is None or key is None:
        certificates.ensure(folder, certificates.LOCAL)
        certificate, key = folder / certificates.SERVER, folder / certificates.SERVER_KEY
    for path in (certificate, key):
        if not path.is_file():
            raise InvalidInput(f"there is no file {str(path)!r}: pass the gateway's certificate and its key, both PEM")
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


def told_of_https(shown: dict[str, Any], *, own: Path | None) -> list[str]:
    """Return what a person has to know of a gateway with a certificate that was made here."""
    if not shown or own is not None:
        return []
    authority = Path(shown["ssl_certfile"]).with_name(certificates.AUTHORITY)
    return [f"https is vouched for by {authority}: curl --cacert, NODE_EXTRA_CA_CERTS, a browser's authorities"]
