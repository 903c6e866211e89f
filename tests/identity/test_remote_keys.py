"""Keys behind an address: fetched over a real server, seldom, and not from everywhere."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.errors import InvalidInput
from orchestrator_free.identity.keys import make_key
from orchestrator_free.identity.keysets import RemoteKeys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def public(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "d"}


class Place:
    """A server that shows a key set, and counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.status = "200 OK"
        self.more = ""
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        body = json.dumps({"keys": self.keys})
        writer.write(f"HTTP/1.1 {self.status}\r\n{self.more}content-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """Start one."""
    found = Place()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
    try:
        yield found
    finally:
        server.close()


async def test_an_unknown_key_is_asked_for_once_however_many_want_it() -> None:
    """A storm of made-up ids is no storm of requests; a new key is there after the floor."""
    first, second = make_key("EdDSA"), make_key("ES256")
    async with place() as there:
        there.keys = [public(first)]
        keys = RemoteKeys(there.url, floor_seconds=0.5)
        await keys.load()
        found = await asyncio.gather(*(keys.find(f"made-up-{n}") for n in range(300)))
        assert (found, there.asked) == ([None] * 300, 1)
        there.keys = [public(second), public(first)]
        assert await keys.find(second["kid"]) is None  # the floor holds for it, too
        async with asyncio.timeout(20):
            while (key := await keys.find(second["kid"])) is None:
                await asyncio.sleep(0.05)
        assert key.algorithm == "ES256"
        assert there.asked == 2


async def test_keys_count_while_their_address_is_away_and_go_when_they_are_taken_out(eventually: Any) -> None:
    """An outage of the identity provider ends nobody's session; a key that it withdraws does."""
    first, second = make_key("EdDSA"), make_key("EdDSA")
    async with place() as there:
        there.keys = [public(first), public(second)]
        keys = RemoteKeys(there.url, fresh_seconds=0.1, floor_seconds=0.1)
        await keys.load()
        before = keys.version
        there.status = "500 Internal Server Error"
        await eventually(lambda: _asked(keys, there, first["kid"], 2))
        assert await keys.find(first["kid"]) is not None
        there.status, there.keys = "200 OK", [public(second)]
        await eventually(lambda: _gone(keys, first["kid"]))
        assert keys.version > before


async def _asked(keys: RemoteKeys, there: Place, id: str, times: int) -> bool:
    await keys.find(id)
    return there.asked > times


async def _gone(keys: RemoteKeys, id: str) -> bool:
    return await keys.find(id) is None


@pytest.mark.parametrize(
    "url", ["http://keys.example/jwks", "file:///etc/passwd", "ftp://keys.example/x", "keys.json", ""]
)
def test_keys_come_over_https_only(url: str) -> None:
    """Whoever stands on the way could give his own."""
    with pytest.raises(InvalidInput, match="https"):
        RemoteKeys(url)


async def test_a_place_that_redirects_or_shows_secrets_is_refused() -> None:
    """Keys are where the operator says; a set with private keys would let everybody make tokens."""
    key = make_key("EdDSA")
    async with place() as there, place() as elsewhere:
        elsewhere.keys = [public(key)]
        there.status, there.more = "302 Found", f"location: {elsewhere.url}\r\n"
        with pytest.raises(InvalidInput, match="no keys from"):
            await RemoteKeys(there.url).load()
        assert elsewhere.asked == 0
        there.status, there.more = "200 OK", ""
        for shown in (key, make_key("HS256")):
            there.keys = [shown]
            with pytest.raises(InvalidInput, match="private keys"):
                await RemoteKeys(there.url).load()
        there.keys = [public(key)]
        await RemoteKeys(there.url).load()
