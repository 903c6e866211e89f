"""A folder's broker while it runs: made to take a change, and given the streams of every tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator_free.broker import connect
from orchestrator_free.brokerdir.folder import BrokerFolder
from orchestrator_free.brokerdir.plan import FIRST_USERS
from orchestrator_free.contract import StreamSettings
from orchestrator_free.errors import BrokerError, BrokerUnreachable
from orchestrator_free.jetstream import System, Wire, WireOptions
from orchestrator_free.server import EmbeddedServer


@asynccontextmanager
async def system(folder: BrokerFolder) -> AsyncIterator[System]:
    """Connect as the system account's user.

    Raises:
        BrokerUnreachable: the broker does not run.
    """
    options = WireOptions(
        url=folder.url, name="orchestrator-free system", nkey_seed=folder.system_seed, ca=folder.authority
    )
    wire = await Wire.connect(options)
    try:
        yield System(wire)
    finally:
        await wire.close()


async def reload(folder: BrokerFolder) -> bool:
    """Let the broker take what was written; False if it does not run.

    Raises:
        BrokerError: it runs and does not take it.
    """
    try:
        async with system(folder) as found:
            await found.reload()
    except BrokerUnreachable:
        return False
    except BrokerError as error:
        check = f"nats-server -t -c {folder.path}/nats-server.conf"
        raise BrokerError(
            f"the broker goes on with its old configuration ({error}); `{check}` checks the new one"
        ) from error
    return True


async def prepare(folder: BrokerFolder, tenant: str) -> None:
    """Make the streams of a tenant, where they are missing.

    Raises:
        ConfigMismatch: there are some with another structure.
    """
    async with connect(**folder.options(tenant, FIRST_USERS[0]), settings=stream_settings(folder)):
        pass


def stream_settings(folder: BrokerFolder) -> StreamSettings:
    """Return how the streams of a folder's broker are made."""
    return StreamSettings(shards=folder.plan.shards)


@asynccontextmanager
async def embedded(folder: BrokerFolder) -> AsyncIterator[EmbeddedServer]:
    """Run the embedded server on a folder, with the streams made.

    Raises:
        BrokerStartError: it does not start; says why.
    """
    async with EmbeddedServer(folder.settings()) as server:
        for tenant in folder.plan.tenants:
            await prepare(folder, tenant)
        yield server
