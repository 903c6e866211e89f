"""The floors of all sessions, as they change: for people at a desk, who are asked to take one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from orchestrator_free import logs
from orchestrator_free.broker import Broker
from orchestrator_free.errors import BrokerError, InvalidEvent
from orchestrator_free.fold.floor import Floor
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session.floor import FloorState
from orchestrator_free.subjects import LIVE, ROOT, parse

_log = logs.logger("orchestrator_free.floors")

#: live copies can be lost: all floors are looked at again after this, and after each reconnect
_AGAIN_SECONDS: Final = 30.0
_AT_ONCE: Final = 8


class FloorWatch:
    """Tells of each session's floor, whenever it is another one than before.

    Attributes:
        scanned: set when the present state of all sessions has been told.
    """

    def __init__(self, broker: Broker, on_change: Callable[[str, FloorState], None]) -> None:
        self._broker = broker
        self._on_change = on_change
        self._known: dict[str, int] = {}
        self._doubt = asyncio.Event()
        self.scanned = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        log = self._broker.log
        unsubscribe = [
            log.wire.subscribe(f"{LIVE}{ROOT}.{shard}.*.*.floor", self._on_live) for shard in range(log.shards)
        ]
        log.wire.on_reconnect.append(self._doubt.set)
        try:
            while True:
                self._doubt.clear()
                try:
                    await self._scan()
                    self.scanned.set()
                except BrokerError as error:
                    _log.warning("floors not read, tried again", error=str(error))
                try:
                    async with asyncio.timeout(_AGAIN_SECONDS if self.scanned.is_set() else 1.0):
                        await self._doubt.wait()
                except TimeoutError:
                    continue
        finally:
            log.wire.on_reconnect.remove(self._doubt.set)
            for stop in unsubscribe:
                stop()

    async def _scan(self) -> None:
        names = {where.session for subject in await self._broker.log.names("floor") if (where := parse(subject))}
        places = asyncio.Semaphore(_AT_ONCE)

        async def look(name: str) -> None:
            async with places:
                self._tell(name, await self._broker.session(name).floor.state())

        await asyncio.gather(*(look(name) for name in sorted(names)))

    def _on_live(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        message = live_message(subject, payload, header)
        event = to_event(message) if message is not None else None
        if event is None or event.address.shard != self._broker.log.shard(event.session):
            return
        fold = Floor()
        try:
            understood = fold.apply(event)
        except InvalidEvent:
            return
        if understood:
            self._tell(event.session, FloorState.of(fold.state))

    def _tell(self, session: str, state: FloorState) -> None:
        if state.revision > self._known.get(session, 0):
            self._known[session] = state.revision
            self._on_change(session, state)
