"""The commands of a broker's folder: make it, add and remove who may connect, run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.table import Table

from orchestrator_free.broker import wired
from orchestrator_free.brokerdir import BrokerFolder
from orchestrator_free.brokerdir.certificates import expiry
from orchestrator_free.brokerdir.plan import GATEWAY, MAIN
from orchestrator_free.brokerdir.running import embedded, kick, prepare, reload
from orchestrator_free.cli.auditing import audited, written_down
from orchestrator_free.cli.options import AsJson, err, out, run, write_json
from orchestrator_free.contract import stream_name
from orchestrator_free.errors import BrokerError, InvalidInput, PermissionDenied
from orchestrator_free.operations.backup import stream_info

PRODUCTION: Final = "https://nats.io/download/"

_TAKEN: Final = "the broker has taken it"
_LATER: Final = "counts when the broker starts; it is in no audit log, since no broker runs"

broker_app = typer.Typer(
    no_args_is_help=True, help="A broker of your own: users with keys, accounts, TLS, in one folder."
)

Folder = Annotated[Path, typer.Argument(help="The broker's folder.", metavar="DIR")]
In = Annotated[
    Path,
    typer.Option("--dir", "-d", envvar="ORCHESTRATOR_FREE_BROKER_DIR", help="The broker's folder; this one if absent."),
]
Of = Annotated[str, typer.Option("--tenant", help="Whose user.")]
Name = Annotated[str, typer.Argument(help="The name it publishes under.")]


@broker_app.command("init")
@audited("broker init", "folder")
def init(
    folder: Folder,
    tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="Encrypt; makes an authority and a certificate.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name or address that clients use; repeat it for more.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if never said.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="4222 if never said; 0 takes a free one.")] = None,
    monitor_port: Annotated[int | None, typer.Option(min=0, max=65535, help="On loopback; 8222 if never said.")] = None,
    one_account: Annotated[
        bool | None,
        typer.Option(
            "--one-account/--isolated", help="Agents you trust share the account of the core; isolated if never said."
        ),
    ] = None,
    durability: Annotated[Literal["fsync", "interval"] | None, typer.Option(help="fsync if never said.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=1000, help="Streams of a tenant; 1 if never said.")] = None,
    callout: Annotated[
        bool | None, typer.Option("--callout/--no-callout", help="Let in who has a token: `orchestrator-free callout`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a broker's folder, or bring it up to date: keys and whatever is not said stay as they are."""

    async def work() -> None:
        isolated = None if one_account is None else not one_account
        names = tuple(name) if name else None
        made, told = BrokerFolder.init(
            folder, tls=tls, names=names, host=host, port=port, monitor_port=monitor_port, isolated=isolated,
            durability=durability, shards=shards, callout=callout,
        )  # fmt: skip
        await _tell(made, told, as_json=as_json)
        if not as_json:
            err.print(
                f"next: orchestrator-free broker run {folder}; or: nats-server -c {made.path}/nats-server.conf",
                highlight=False,
                soft_wrap=True,
            )

    run(work())


@broker_app.command("agent")
@audited("broker agent", "name", "sessions", "trusted", "tenant")
def agent(
    name: Name,
    sessions: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Its code is yours: it may live in the account of the core.")
    ] = False,
    tenant: Of = MAIN,
    folder: In = Path(),
    as_json: AsJson = False,
) -> None:
    """Add an agent, or change its sessions, and print how its process connects."""
    found = tuple(one.strip() for one in sessions.split(",")) if sessions else ()

    async def work() -> None:
        there = BrokerFolder.open(folder)
        role = "isolated" if there.plan.isolated and not trusted else "agent"
        await _add(there, tenant, name, role, found, as_json=as_json)

    run(work())


@broker_app.command("service")
@audited("broker service", "name", "tenant")
def service(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add a service, which follows all sessions at its own pace, and print how its process connects."""
    run(_added(folder, tenant, name, "service", as_json=as_json))


@broker_app.command("observer")
@audited("broker observer", "name", "tenant")
def observer(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add an observer, which reads all sessions and publishes nothing, and print how its process connects."""
    run(_added(folder, tenant, name, "observer", as_json=as_json))


@broker_app.command("notifier")
@audited("broker notifier", "name", "tenant")
def notifier(name: Name = "notify", tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add a notifier (webhooks), and print how its process connects."""
    run(_added(folder, tenant, name, "notifier", as_json=as_json))


@broker_app.command("door")
@audited("broker door", "name", "tenant")
def door(name: Name = "synadia", tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add a front door for callers of the Synadia Agent Protocol, and print how its process connects."""
    run(_added(folder, tenant, name, "door", as_json=as_json))


@broker_app.command("caller")
@audited("broker caller", "name", "tenant")
def caller(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add somebody who calls through the front door, in an account of its own, and print address and key."""
    run(_added(folder, tenant, name, "caller", as_json=as_json))


@broker_app.command("guest")
@audited("broker guest", "name", "tenant")
def guest(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add the member that an agent of the Synadia Agent Protocol is in sessions, and print how to connect."""
    run(_added(folder, tenant, name, "guest", as_json=as_json))


@broker_app.command("operator")
@audited("broker operator", "name", "tenant")
def operator(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add an operator, who may also back up, restore, erase and read the audit log, and print how to connect."""
    run(_added(folder, tenant, name, "operator", as_json=as_json))


@broker_app.command("gateway")
@audited("broker gateway", "name", "tenant")
def gateway(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Add another gateway, which speaks in every member's name, and print how it connects."""
    run(_added(folder, tenant, name, "core", as_json=as_json))


@broker_app.command("tenant")
@audited("broker tenant", "name")
def tenant(
    name: Annotated[str, typer.Argument(help="Of the tenant.")], folder: In = Path(), as_json: AsJson = False
) -> None:
    """Add a tenant: sessions and users that no other tenant sees anything of."""

    async def work() -> None:
        there = BrokerFolder.open(folder)
        told = there.add_tenant(name)
        await _tell(there, told, as_json=as_json, environment=there.environment(name, "gateway"), tenant=name)

    run(work())


@broker_app.command("remove")
@audited("broker remove", "name", "tenant")
def remove(
    name: Annotated[str | None, typer.Argument(help="A user; none: the whole tenant.")] = None,
    tenant: Of = MAIN,
    folder: In = Path(),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a user, whose connections end at once, or a tenant with all of them."""
    if name is None and not yes:
        typer.confirm(f"Remove tenant {tenant} with all its users?", abort=True)

    async def work() -> None:
        there = BrokerFolder.open(folder)
        names = [name] if name else [user.name for user in there.plan.tenant(tenant).users]
        await _tell(there, there.remove(tenant, name), as_json=as_json)
        for one in names if there.plan.callout is not None else ():
            await kick(there, tenant, one)

    run(work())


@broker_app.command("rotate")
@audited("broker rotate", "name", "certificate", "tenant")
def rotate(
    name: Annotated[str | None, typer.Argument(help="A user, who gets another key.")] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="A new certificate of the same authority.")
    ] = False,
    tenant: Of = MAIN,
    folder: In = Path(),
    as_json: AsJson = False,
) -> None:
    """Exchange a user's key or the broker's certificate; the one before counts no more."""

    async def work() -> None:
        if (name is None) == (not certificate):
            raise InvalidInput("name one: a user, or --certificate")
        there = BrokerFolder.open(folder)
        told = there.rotate_certificate() if name is None else there.rotate(tenant, name)
        await _tell(there, told, as_json=as_json)

    run(work())


@broker_app.command("show")
def show(folder: In = Path(), as_json: AsJson = False) -> None:
    """Show who may connect, in which role, and where their keys are."""

    async def work() -> None:
        _show(BrokerFolder.open(folder), as_json=as_json)

    run(work())


@broker_app.command("run")
def run_broker(folder: Folder) -> None:
    """Run the embedded broker on a folder, until you stop it; for production it names what to run instead."""

    async def work() -> None:
        there = BrokerFolder.open(folder)
        async with embedded(there) as server:
            err.print(
                f"broker  [bold]{server.url}[/]  durability {there.plan.durability}\n"
                f"in production run the official one ({PRODUCTION}): nats-server -c {there.path}/nats-server.conf",
                highlight=False,
                soft_wrap=True,
            )
            code = await server.wait()
            raise BrokerError(f"the broker ended with code {code}; its log, {server.log_path}, says why")

    run(work(), endless=True)


async def _added(folder: Path, tenant: str, name: str, role: str, *, as_json: bool) -> None:
    await _add(BrokerFolder.open(folder), tenant, name, role, (), as_json=as_json)


async def _add(
    there: BrokerFolder, tenant: str, name: str, role: str, sessions: tuple[str, ...], *, as_json: bool
) -> None:
    told = there.add(tenant, name, role, sessions)
    await _tell(there, told, as_json=as_json, environment=there.environment(tenant, name), tenant=tenant)


async def _tell(
    there: BrokerFolder, told: list[str], *, as_json: bool, environment: dict[str, str] | None = None, tenant: str = ""
) -> None:
    """Say what changed, let a running broker take it, and print how the new one connects."""
    taken = await reload(there) if told else None
    later = ""
    if taken and tenant:
        later = await _prepared(there, tenant)
    if taken:
        await write_down(there)
    if as_json:
        write_json({"changed": told, "running": taken, "environment": environment or {}})
        return
    for line in told or ["nothing to change"]:
        err.print(line, highlight=False, markup=False)
    if told:
        err.print((_TAKEN if taken else _LATER) + later, highlight=False)
    if environment:
        out.print(
            " ".join(f"{key}={value}" for key, value in environment.items()),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


async def _prepared(there: BrokerFolder, tenant: str) -> str:
    """Make what a tenant needs; where nobody lets its gateway in yet, return what that means."""
    try:
        await prepare(there, tenant)
    except PermissionDenied:
        if there.plan.callout is None or tenant == MAIN:
            raise
        return "; no callout service lets anybody in yet: run `orchestrator-free callout`"
    return ""


async def write_down(there: BrokerFolder) -> None:
    """Write down what a running broker has taken, in the account of the main tenant: it is for who runs the broker."""
    async with wired(**there.options(MAIN, GATEWAY)) as wire:
        if await stream_info(wire, stream_name(0)) is None:
            err.print("it is in no audit log: nobody has made the streams of this broker yet")
            return
        async with written_down(wire, "operator"):
            pass


def _show(there: BrokerFolder, *, as_json: bool) -> None:
    plan = there.plan
    users: list[dict[str, Any]] = []
    for tenant in plan.tenants.values():
        for user in tenant.users:
            seed = there.seed(tenant.name, user.name)
            row = {"tenant": tenant.name, "user": user.name, "role": user.role, "sessions": list(user.sessions)}
            users.append(row | {"nkey": user.nkey, "key": str(seed) if seed.exists() else None})
    about: dict[str, Any] = {
        "url": there.url,
        "durability": plan.durability,
        "isolated": plan.isolated,
        "shards": plan.shards,
        "ca": str(there.authority) if there.authority else None,
        "certificate_until": f"{expiry(there.authority.parent):%Y-%m-%d}" if there.authority else None,
        "callout": plan.callout is not None,
    }
    if as_json:
        write_json(about | {"users": users})
        return
    out.print(*(f"{key} {value}" for key, value in about.items()), sep="\n", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("tenant", "user", "role", "sessions", "key"):
        table.add_column(column, overflow="fold")
    for one in users:
        table.add_row(
            one["tenant"], one["user"], one["role"], ", ".join(one["sessions"]) or "all", one["key"] or "elsewhere"
        )
    out.print(table)
