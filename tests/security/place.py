"""An installation with accounts: a real nats-server with the tenants and users that a test names."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats

from orchestrator_free import Broker, connect, contract
from orchestrator_free.contract_files import User, accounts_block
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.steward import Steward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

TENANT = "acme"
ISOLATED = contract.StreamSettings(isolated=True)


def user(role: str, member: str, *sessions: str, tenant: str = TENANT) -> User:
    """Return somebody who connects with a password made of tenant and name."""
    login = f"user: {tenant}-{member}, password: pw-{tenant}-{member}"
    return User(member=member, role=role, login=login, sessions=sessions)


@dataclass
class Place:
    """A server with tenants."""

    server: EmbeddedServer

    def url(self, member: str, tenant: str = TENANT) -> str:
        """Return the address with what a user needs to get in."""
        return self.server.url.replace("nats://", f"nats://{tenant}-{member}:pw-{tenant}-{member}@")

    def connect(
        self, member: str, tenant: str = TENANT, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[Broker]:
        """Connect with our library."""
        return connect(self.url(member, tenant), member=member, **options)

    @contextlib.asynccontextmanager
    async def core(self, tenant: str = TENANT, *, isolated: bool = True) -> AsyncIterator[Broker]:
        """Connect as the tenant's gateway, first at an empty broker, with a steward beside it."""
        settings = contract.StreamSettings(isolated=isolated)
        async with self.connect("gateway", tenant, settings=settings) as broker, Steward(broker, sweep_seconds=3600):
            yield broker

    @contextlib.asynccontextmanager
    async def plain(self, member: str, tenant: str = TENANT) -> AsyncIterator[nats.NATS]:
        """Connect with nats-py; refusals go to `errors` of the connection."""
        errors: list[str] = []

        async def note(error: Exception) -> None:
            errors.append(str(error))

        connection = await nats.connect(
            self.url(member, tenant) if tenant else self.server.url.replace("//", "//system:pw-system@"),
            inbox_prefix=f"_INBOX.{member}".encode(),
            error_cb=note,
            allow_reconnect=False,
        )
        connection.errors = errors  # type: ignore[attr-defined]
        try:
            yield connection
        finally:
            await connection.close()

    def system(self) -> contextlib.AbstractAsyncContextManager[nats.NATS]:
        """Connect as the operator of the server, with nats-py."""
        return self.plain("system", "")


@contextlib.asynccontextmanager
async def installation(folder: Path, tenants: Mapping[str, Sequence[User]] | Sequence[User]) -> AsyncIterator[Place]:
    """Start a server with the users of some tenants, or of one."""
    named = tenants if isinstance(tenants, dict) else {TENANT: tenants}
    extra = accounts_block(named, system="user: system, password: pw-system")
    async with EmbeddedServer(ServerSettings(data=folder / "broker", port=0, extra=extra)) as server:
        yield Place(server)
