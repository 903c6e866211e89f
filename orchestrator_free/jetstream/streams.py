"""The streams themselves: made where they are missing, compared where they are there, never overwritten."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator_free import contract, logs
from orchestrator_free.errors import (
    BrokerError,
    BrokerTimeout,
    BrokerUnreachable,
    ConfigMismatch,
    OrchestratorFreeError,
    SecondLog,
)
from orchestrator_free.jetstream.neighbours import check_alone
from orchestrator_free.jetstream.wire import Wire

_log = logs.logger("orchestrator_free.jetstream")

_STREAM_NOT_FOUND: Final = 10059
_IN_USE: Final = 10058
#: at a log that heard our question before the broker told us of it
_LOOKS: Final = 5
_LOOK_SECONDS: Final = 0.2
_NO_JETSTREAM: Final = frozenset({10039, 10076})
_PRESENCE_FIELDS: Final = ("subjects", "storage", "allow_direct")
_TIMER_FIELDS: Final = ("subjects", "storage", "allow_direct", "allow_msg_schedules")
_OBJECT_FIELDS: Final = ("subjects", "storage")
_ACCESS_FIELDS: Final = ("subjects", "storage", "allow_direct", "allow_msg_ttl")


def _settings_of(config: dict[str, Any]) -> contract.StreamSettings:
    """Return the settings that an existing shard was made with, for what is still to be created beside it."""
    return contract.StreamSettings(
        shards=int(config.get("metadata", {}).get("orchestrator_free.shards", "1")),
        replicas=config.get("num_replicas", 1),
        max_age_seconds=config.get("max_age", 0) // 1_000_000_000,
        max_bytes=config.get("max_bytes", -1),
        isolated=not config.get("allow_rollup_hdrs", False),
    )


class Streams:
    """The shards, the presence bucket and the object store of one installation."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._replicas = 1
        self._restoring: asyncio.Task[None] | None = None
        wire.on_reconnect.append(self._on_reconnect)

    async def ensure(self, settings: contract.StreamSettings | None = None) -> int:
        """Create what is missing, check what is there, and return the number of shards.

        Args:
            settings: for creation. None: take an existing installation as it is, or create with the defaults.

        Raises:
            ConfigMismatch: a stream exists with another structure; nothing is overwritten.
            SecondLog: there is none, and one made here would be, or might be, the second.
        """
        first = await self._first(settings.domain if settings else None)
        found = None if first is None else _settings_of(first["config"])
        wanted = (settings or found or contract.StreamSettings()).beside(found)
        shards, self._replicas = wanted.shards or 1, wanted.replicas or 1
        self._wire.rollups = not wanted.isolated
        asked = ("num_replicas",) if settings and settings.replicas else ()
        streams: list[tuple[dict[str, Any], tuple[str, ...]]]
        streams = [(contract.stream_config(shard, wanted), contract.STRUCTURE) for shard in range(shards)]
        streams += [(self._presence(), _PRESENCE_FIELDS), (contract.object_stream(wanted), _OBJECT_FIELDS)]
        streams.insert(0, (contract.timer_stream(wanted), _TIMER_FIELDS))  # the shards take from it
        missing = [(config, fields) for config, fields in streams if not await self._is_there(config, fields + asked)]
        for config, fields in missing:  # only when nothing differs
            await self._create(config, fields)
        return shards

    async def _first(self, domain: str | None) -> dict[str, Any] | None:
        """Return what there is of the first shard; None if it is to be made."""
        name = contract.stream_name(0)
        if (found := await self._find(name)) is not None:
            return found
        try:
            await check_alone(self._wire, domain)
        except SecondLog:
            for _ in range(_LOOKS):  # somebody is making it at this moment
                if (found := await self._find(name)) is not None:
                    return found
                await asyncio.sleep(_LOOK_SECONDS)
            raise
        return None

    async def ensure_access(self) -> None:
        """Create the bucket of identity if it is missing: only who checks tokens needs it, and may.

        Raises:
            ConfigMismatch: it exists with another structure.
        """
        config = contract.access_stream(contract.StreamSettings(replicas=self._replicas))
        if not await self._is_there(config, _ACCESS_FIELDS):
            await self._create(config, _ACCESS_FIELDS)

    def _on_reconnect(self) -> None:
        """A broker that was started again has no memory streams: make the one of presence anew."""
        self._restoring = asyncio.create_task(self._restore_presence())

    async def _restore_presence(self) -> None:
        try:
            if not await self._is_there(self._presence(), _PRESENCE_FIELDS):
                await self._create(self._presence(), _PRESENCE_FIELDS)
        except OrchestratorFreeError as error:
            _log.debug("presence cannot be restored here, others may", reason=str(error))

    def _presence(self) -> dict[str, Any]:
        # As many replicas as the log: a bucket on one node only would take every process's start down with that node.
        return contract.presence_stream() | {"num_replicas": self._replicas}

    async def _find(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._wire.api(f"STREAM.INFO.{name}")
        except (BrokerTimeout, BrokerUnreachable) as error:
            raise BrokerUnreachable(f"{error}; is JetStream enabled there, and may this user use it?") from error
        except BrokerError as error:
            code = getattr(error, "code", 0)
            if code == _STREAM_NOT_FOUND:
                return None
            if code in _NO_JETSTREAM:
                raise BrokerUnreachable(f"{error}; enable JetStream for the account of this user") from error
            raise

    async def _is_there(self, config: dict[str, Any], fields: tuple[str, ...]) -> bool:
        """Whether a stream exists; if with another structure, raise ConfigMismatch."""
        found = await self._find(config["name"])
        lines = [] if found is None else contract.differences(config, found["config"], fields)
        if lines:
            raise ConfigMismatch(f"stream {config['name']}", lines)
        return found is not None

    async def _create(self, config: dict[str, Any], fields: tuple[str, ...]) -> None:
        now = datetime.now(UTC).isoformat()
        # A shard that is made anew must not get what was due in the one before.
        sources = [source | {"opt_start_time": now} for source in config.get("sources", ())]
        made = config | ({"sources": sources} if sources else {})
        try:
            await self._wire.api(f"STREAM.CREATE.{config['name']}", made)
        except BrokerError as error:
            if getattr(error, "code", 0) != _IN_USE:
                raise
            await self._is_there(config, fields)  # somebody else was first
