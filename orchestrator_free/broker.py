"""The library's face: `connect()` to a broker and address sessions. No gateway and no agent has to be there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack, cast

from orchestrator_free import contract
from orchestrator_free.errors import InvalidInput
from orchestrator_free.jetstream import Log, Objects, Wire, WireOptions
from orchestrator_free.session import Session
from orchestrator_free.subjects import check_name, parse

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
_YES_NO: Final = {"yes": True, "no": False}
_COUNT_MOST: Final = {"shards": 1024, "replicas": 5}


def stream_settings(environment: Mapping[str, str] = os.environ) -> contract.StreamSettings | None:
    """Return what ORCHESTRATOR_FREE_SHARDS, _REPLICAS, _ISOLATED and _DOMAIN ask for, None if none is set.

    Whoever comes first creates the streams, an agent too: where these are set, everybody asks for the same.

    Raises:
        InvalidInput: one is no such number, or neither `yes` nor `no`.
    """
    found: dict[str, Any] = {}
    for name, most in _COUNT_MOST.items():
        variable = f"ORCHESTRATOR_FREE_{name.upper()}"
        if text := environment.get(variable):
            if not text.isdecimal() or not 1 <= int(text) <= most:
                raise InvalidInput(f"{variable}={text[:20]!r}: expected a number from 1 to {most}")
            found[name] = int(text)
    isolated = environment.get("ORCHESTRATOR_FREE_ISOLATED")
    if isolated and isolated not in _YES_NO:
        raise InvalidInput(f"ORCHESTRATOR_FREE_ISOLATED={isolated[:20]!r}: expected yes or no")
    domain = environment.get("ORCHESTRATOR_FREE_DOMAIN") or None
    if not found and not isolated and not domain:
        return None
    return contract.StreamSettings(**found, isolated=_YES_NO[isolated] if isolated else None, domain=domain)


class Access(TypedDict, total=False):
    """How to authenticate at a broker and how to trust it; see `connect`."""

    credentials: Path | None
    nkey_seed: Path | None
    token: str | Callable[[], str] | None
    token_file: Path | None
    ca: Path | None
    certificate: Path | None
    key: Path | None


#: the environment variable of each part of `Access`; all but the token name files
ACCESS_VARIABLES: Final[dict[str, str]] = {
    "credentials": "ORCHESTRATOR_FREE_CREDENTIALS",
    "nkey_seed": "ORCHESTRATOR_FREE_NKEY",
    "token": "ORCHESTRATOR_FREE_TOKEN",
    "token_file": "ORCHESTRATOR_FREE_TOKEN_FILE",
    "ca": "ORCHESTRATOR_FREE_CA",
    "certificate": "ORCHESTRATOR_FREE_CERTIFICATE",
    "key": "ORCHESTRATOR_FREE_KEY",
}


def access(environment: Mapping[str, str] = os.environ) -> Access:
    """Return how to authenticate as the environment says (`ACCESS_VARIABLES`)."""
    said = {name: value for name, variable in ACCESS_VARIABLES.items() if (value := environment.get(variable))}
    found: Any = {name: value if name == "token" else Path(value) for name, value in said.items()}
    return cast(Access, found)


def access_environment(access: Access) -> dict[str, str]:
    """Return what `access` reads, for a process that is to connect in the same way; paths become absolute."""
    said = {name: value for name, value in access.items() if value is not None and not callable(value)}
    return {
        ACCESS_VARIABLES[name]: str(value.absolute()) if isinstance(value, Path) else str(value)
        for name, value in said.items()
    }


@asynccontextmanager
async def wired(
    url: str = DEFAULT_URL, *, member: str = "service", inbox_prefix: str | None = None, **access: Unpack[Access]
) -> AsyncIterator[Wire]:
    """Connect to a broker without looking at what is there; see `connect` for the rest."""
    check_name("member", member)
    inbox = inbox_prefix or f"_INBOX.{member}"
    wire = await Wire.connect(WireOptions(url=url, name=f"orchestrator-free {member}", inbox_prefix=inbox, **access))
    try:
        yield wire
    finally:
        await wire.close()


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL,
    *,
    member: str = "service",
    inbox_prefix: str | None = None,
    settings: contract.StreamSettings | None = None,
    **access: Unpack[Access],
) -> AsyncIterator[Broker]:
    """Connect to a broker as a member; streams are created if they are missing, checked if they are not.

    Args:
        url: `nats://host:port`, several separated by commas.
        member: the name this process publishes under.
        inbox_prefix: where replies come; `_INBOX.<member>` unless the account scopes inboxes otherwise.
        settings: for the creation of the streams; those that are there must agree with what it says.
        access: `credentials`, a `.creds` file; `nkey_seed`, a file with an nkey seed; `token`, a token or what returns
            one; `token_file`, a file with one: both are asked again at each reconnect, so that a fresh one counts;
            `ca`, a PEM file to verify the broker against; `certificate` and `key`, PEM files of this client.

    Raises:
        BrokerUnreachable: nobody answers at the address.
        ConfigMismatch: the streams exist with another structure.
        SecondLog: there are none, and another log hears the same subjects, or may: at an edge (deploy/leaf).
    """
    async with wired(url, member=member, inbox_prefix=inbox_prefix, **access) as wire:
        log = Log(wire)
        await log.ensure(settings)
        yield Broker(log, member)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A line of the list of sessions."""

    session: str
    title: str
    agents: list[str]
    created: str | None


class Broker:
    """A connection as one member."""

    def __init__(self, log: Log, member: str) -> None:
        self.log = log
        self.member = member
        self.objects = Objects(log.wire, member)

    def session(self, session: str) -> Session:
        """Address a session; nothing is sent.

        Raises:
            InvalidName: the id cannot be one.
        """
        return Session(self, check_name("session", session))

    def as_member(self, member: str) -> Broker:
        """Return this connection as another member; only for who may publish for others, as a gateway does.

        Raises:
            InvalidName: the name cannot be one.
        """
        return Broker(self.log, check_name("member", member))

    async def sessions(
        self, *, after: str = "", limit: int = 100, accept: Callable[[str], bool] = lambda _: True
    ) -> list[SessionInfo]:
        """List sessions that were created, by id, from the one after `after`; of those only what `accept` takes."""
        subjects = await self.log.names("meta")
        found = {where.session: shard for subject, shard in subjects.items() if (where := parse(subject))}
        page = sorted(name for name in found if name > after and accept(name))[:limit]
        folds = await asyncio.gather(*(self.session(name).meta() for name in page))
        return [
            SessionInfo(name, meta["title"], meta["agents"], meta["created"])
            for name, meta in zip(page, folds, strict=True)
        ]
