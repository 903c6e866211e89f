"""Whoever waits for an answer on a reply subject: told chunk by chunk, each known to have reached the broker's side.

Core NATS drops what is sent to nobody. So each chunk carries a reply subject, on which the broker says at once that
nobody listens (503), and an echo behind it tells when the broker has dealt with both. A caller whose connection comes
back within `GONE_SECONDS` misses nothing; what was under way at the moment at which the broker died may come twice.
"""

from __future__ import annotations

import asyncio
from typing import Final

from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.jetstream import Wire
from orchestrator_free.synadia.frames import ACK, END, Code, error

#: a caller who does not listen for so long has left
GONE_SECONDS: Final = 60.0
_ECHO_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.1
_NOBODY: Final = b"NATS/1.0 503"


class CallerGone(OrchestratorFreeError):  # noqa: N818 - a state, as in errors.py
    """Nobody listens on the reply subject any more."""


class Caller:
    """One caller; chunks go out in the order of the calls."""

    def __init__(self, wire: Wire, reply: str) -> None:
        self._wire = wire
        self._reply = reply
        self._turn = asyncio.Lock()

    async def say(self, chunk: bytes, header: bytes = b"") -> None:
        """Send a chunk until the broker has passed it on.

        Raises:
            CallerGone: nobody has listened for `GONE_SECONDS` while the broker was there.
        """
        async with self._turn:
            silent = 0.0
            while silent < GONE_SECONDS:
                await self._wire.connected.wait()
                if await self._passed_on(chunk, header):
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
                silent += _PAUSE_SECONDS
        raise CallerGone(f"nobody listens on {self._reply}")

    async def _passed_on(self, chunk: bytes, header: bytes) -> bool:
        """Send once; return whether somebody was there to get it."""
        echo: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def take(subject: str, reply: str, payload: bytes, header: bytes) -> None:
            if not echo.done():
                echo.set_result(not header.startswith(_NOBODY))

        subject, release = self._wire.inbox(take)
        try:
            self._wire.send(self._reply, chunk, reply=subject, header=header)
            self._wire.send(subject)
            async with asyncio.timeout(_ECHO_SECONDS):
                return await echo
        except TimeoutError:
            return False
        finally:
            release()

    async def fail(self, code: Code, text: str) -> None:
        """End the answer with an error."""
        await self.say(*error(code, text))
        await self.say(END)

    async def keep(self, seconds: float) -> None:
        """Say every so often that the answer is still coming; until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.say(ACK)
