"""The commands of tokens at the broker: the service that checks them, one that makes them, one that takes them back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server

from orchestrator_free.brokerdir import BrokerFolder
from orchestrator_free.brokerdir.plan import MAIN
from orchestrator_free.brokerdir.running import kick
from orchestrator_free.callout.grants import AUDIENCE, REQUIRED, TTL_SECONDS, mint
from orchestrator_free.callout.service import CalloutService
from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.broker import In, Name, Of, broker_app, write_down
from orchestrator_free.cli.guarding import AuthIssuer, AuthJwks, AuthKeys
from orchestrator_free.cli.options import AsJson, err, out, run, write_json
from orchestrator_free.cli.token import KEYS, KeyFile
from orchestrator_free.errors import BrokerStartError, InvalidInput
from orchestrator_free.identity.keys import read_key_file
from orchestrator_free.identity.keysets import FileKeys, KeySet, RemoteKeys
from orchestrator_free.identity.tokens import ISSUER, Verifier

Audience = Annotated[str, typer.Option("--audience", help="For whom the tokens have to be (aud).")]


def callout(
    folder: In = Path(),
    auth_keys: AuthKeys = None,
    auth_jwks: AuthJwks = None,
    auth_issuer: AuthIssuer = ISSUER,
    audience: Audience = AUDIENCE,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port of the loopback.")
    ] = None,
) -> None:
    """Let in, at a broker of `broker init --callout`, who has a token; run two of them, one may always be down."""

    async def work() -> None:
        if (auth_keys is None) == (auth_jwks is None):
            raise InvalidInput("how are tokens checked? Pass --auth-keys FILE or --auth-jwks URL, one of them")
        keys: KeySet = FileKeys(auth_keys) if auth_keys is not None else RemoteKeys(str(auth_jwks))
        verifier = Verifier(keys, issuer=auth_issuer, audience=audience, leeway=0, required=REQUIRED)
        there, registry = BrokerFolder.open(folder), CollectorRegistry()
        async with CalloutService.open(there, verifier, registry):
            if metrics_port is not None:
                _serve_metrics(metrics_port, registry)
            err.print(f"callout for {there.url}: tokens of {auth_issuer!r} for {audience!r}", highlight=False)
            await asyncio.Event().wait()

    run(work(), endless=True)


def _serve_metrics(port: int, registry: CollectorRegistry) -> None:
    try:
        server, _ = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise BrokerStartError(f"no metrics on port {port}: {error.strerror}; pass another --metrics-port") from error
    err.print(f"metrics http://127.0.0.1:{server.server_port}/metrics", highlight=False)


@broker_app.command("token")
def token(
    name: Name,
    role: Annotated[str | None, typer.Option(help="isolated if absent; agent where there is one account.")] = None,
    sessions: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    ttl: Annotated[int, typer.Option(help="Seconds it counts.", min=1)] = TTL_SECONDS,
    issuer: str = ISSUER,
    audience: Audience = AUDIENCE,
    keys: KeyFile = KEYS,
    tenant: Of = MAIN,
    folder: In = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a token with which a member connects through `callout`, and print it: for `--token-file`."""

    async def work() -> None:
        plan = BrokerFolder.open(folder).plan
        plan.tenant(tenant)
        wanted = role or ("isolated" if plan.isolated else "agent")
        bound = tuple(one.strip() for one in sessions.split(",")) if sessions else ()
        key = next(iter(read_key_file(keys).values()))
        made = mint(key, name, wanted, tenant=tenant, sessions=bound, seconds=ttl, issuer=issuer, audience=audience)
        if as_json:
            write_json({"token": made, "tenant": tenant, "member": name, "role": wanted, "seconds": ttl})
        else:
            out.print(made, highlight=False, soft_wrap=True)

    run(work())


@broker_app.command("revoke")
@audited("broker revoke", "name", "tenant")
def revoke(name: Name, tenant: Of = MAIN, folder: In = Path(), as_json: AsJson = False) -> None:
    """Let the tokens that a member has count no more, and end its connections now; a new token counts."""

    async def work() -> None:
        there = BrokerFolder.open(folder)
        told = there.revoke(tenant, name)
        ended = await kick(there, tenant, name)
        if ended is not None:
            await write_down(there)
        if as_json:
            write_json({"changed": told, "ended": ended})
            return
        err.print("\n".join(told), highlight=False, markup=False)
        err.print(
            f"{ended} connections ended" if ended is not None else "no broker runs here, so it is in no audit log",
            highlight=False,
        )

    run(work())
