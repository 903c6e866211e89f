"""A folder's broker while it runs: made to take a change, and given the streams of every tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.broker import connect
from orchestrator_free.brokerdir.folder import BrokerFolder
from orchestrator_free.brokerdir.plan import GATEWAY, MAIN
from orchestrator_free.contract.roles import NARROW
from orchestrator_free.embedded.server import EmbeddedServer
from orchestrator_free.errors import BrokerError, BrokerUnreachable
from orchestrator_free.jetstream import System, Wire, WireOptions

_NO_CONSUMER: Final = 10014


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


async def kick(folder: BrokerFolder, tenant: str, name: str) -> int | None:
    """End the connections that the callout service let in for a member; return how many, None if no broker runs."""
    try:
        async with system(folder) as found:
            theirs = [one for one in await found.connections() if one.get("authorized_user") == f"{tenant}/{name}"]
            for one in theirs:
                await found.kick(one)
    except BrokerUnreachable:
        return None
    return len(theirs)


async def prepare(folder: BrokerFolder, tenant: str) -> None:
    """Make what is missing of a tenant's streams, and its agents' consumers as the plan bounds them.

    Raises:
        ConfigMismatch: there are streams with another structure.
    """
    users = folder.plan.tenant(tenant).users
    await bind(folder, tenant, {user.name: user.sessions for user in users if user.role in NARROW})


async def bind(folder: BrokerFolder, tenant: str, agents: Mapping[str, tuple[str, ...]]) -> None:
    """Make what is missing of a tenant's streams, and the consumers of agents for their sessions, none for all.

    Raises:
        ConfigMismatch: there are streams with another structure.
    """
    async with connect(**folder.options(tenant, GATEWAY), settings=stream_settings(folder)) as broker:
        for name, sessions in agents.items():
            for shard in range(broker.log.shards):
                for make in (contract.agent_consumer, contract.control_consumer):
                    await _bound(broker.log.wire, shard, make(shard, name, sessions=sessions))


async def prepare_all(folder: BrokerFolder) -> None:
    """Make what is missing of every tenant; where a callout service has to let gateways in first, they make it."""
    for tenant in folder.plan.tenants:
        if folder.plan.callout is None or tenant == MAIN:
            await prepare(folder, tenant)


async def _bound(wire: Wire, shard: int, wanted: dict[str, Any]) -> None:
    """Make a consumer that is missing, or give one that is there other sessions; nobody else may do either."""
    where = f"{contract.stream_name(shard)}.{wanted['durable_name']}"
    try:
        found = (await wire.api(f"CONSUMER.INFO.{where}"))["config"]
    except BrokerError as error:
        if getattr(error, "code", 0) != _NO_CONSUMER:
            raise
        found = {}
    if sorted(found.get("filter_subjects", ())) != sorted(wanted["filter_subjects"]):
        config = (found or wanted) | {"filter_subjects": wanted["filter_subjects"]}
        body = {"stream_name": contract.stream_name(shard), "config": config, "action": ""}
        await wire.api(f"CONSUMER.CREATE.{where}", body)


def stream_settings(folder: BrokerFolder) -> contract.StreamSettings:
    """Return how the streams of a folder's broker are made."""
    return contract.StreamSettings(shards=folder.plan.shards, isolated=folder.plan.isolated)


@asynccontextmanager
async def embedded(folder: BrokerFolder) -> AsyncIterator[EmbeddedServer]:
    """Run the embedded server on a folder, with the streams made.

    Raises:
        BrokerStartError: it does not start; says why.
    """
    async with EmbeddedServer(folder.settings()) as server:
        await prepare_all(folder)
        yield server
