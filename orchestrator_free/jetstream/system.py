"""The system account: what a broker's operators may ask of its servers; every account's connections are seen here."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from orchestrator_free.errors import BrokerError, BrokerTimeout
from orchestrator_free.jetstream.wire import Wire

#: servers of a cluster answer one after the other; so long after the last one nobody else is waited for
_QUIET_SECONDS: Final = 0.3
_SECONDS: Final = 15.0
_PAGE: Final = 1024


class System:
    """Requests over a connection of the system account's user."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def servers(self) -> dict[str, str]:
        """Return the servers that answer: id and name."""
        found = {}
        answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        inbox, release = self._wire.inbox(lambda _, __, payload, ___: answers.put_nowait(orjson.loads(payload)))
        try:
            self._wire.send("$SYS.REQ.SERVER.PING", reply=inbox)
            seconds = _SECONDS
            while True:
                async with asyncio.timeout(seconds):
                    server = (await answers.get())["server"]
                found[str(server["id"])] = str(server["name"])
                seconds = _QUIET_SECONDS
        except TimeoutError:
            if not found:
                raise BrokerTimeout("no server answers on the system account; is this its user?") from None
            return found
        finally:
            release()

    async def ask(self, server: str, what: str, body: dict[str, Any] | None = None) -> Any:
        """Ask one server something, e.g. `ask(id, "CONNZ", {...})`; return its data.

        Raises:
            BrokerTimeout: it does not answer.
            BrokerError: it refuses; says why.
        """
        try:
            answer, _ = await self._wire.exchange(
                f"$SYS.REQ.SERVER.{server}.{what}", orjson.dumps(body or {}), seconds=_SECONDS
            )
        except TimeoutError:
            raise BrokerTimeout(f"server {server} does not answer {what}") from None
        found = orjson.loads(answer)
        if (error := found.get("error")) is not None:
            raise BrokerError(f"server {server} refuses {what}: {error.get('description', error)}")
        return found.get("data")

    async def connections(self, account: str = "") -> list[dict[str, Any]]:
        """Return the open connections, of an account or of all, each with the id of its `server`."""
        found: list[dict[str, Any]] = []
        for server in await self.servers():
            offset, total = 0, 1
            while offset < total:
                body = {"auth": True, "limit": _PAGE, "offset": offset, "acc": account}
                page = await self.ask(server, "CONNZ", body)
                found += [one | {"server": server} for one in page.get("connections") or ()]
                offset, total = offset + _PAGE, page.get("total", 0)
        return found

    async def kick(self, connection: dict[str, Any]) -> None:
        """End a connection that `connections` has returned; its process will try to come back."""
        await self.ask(connection["server"], "KICK", {"cid": connection["cid"]})

    async def reload(self) -> None:
        """Let every server read its configuration again."""
        for server in await self.servers():
            await self.ask(server, "RELOAD")
