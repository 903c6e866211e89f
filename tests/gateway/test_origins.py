"""Which web pages may use the gateway: its own, those that are listed, and nobody else's for more than reading."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.origins import check_origin
from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PAGE = "http://localhost:3000"


@pytest.fixture
async def open_gateway(serve: Any) -> AsyncIterator[Any]:
    """A gateway that a page at http://localhost:3000 may use."""
    async with serve(settings=GatewaySettings(allow_origins=(PAGE,))) as serving:
        yield serving


async def test_a_foreign_page_may_change_nothing_and_open_no_socket(gateway: Any, fresh: Callable[[str], str]) -> None:
    """By default no page is listed; simple requests, preflights and handshakes are refused, with what to do."""
    name = fresh("s")
    for headers in (
        {"origin": PAGE, "content-type": "text/plain"},
        {"origin": PAGE, "content-type": "application/json"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = await gateway.http.post("/sessions", content=f'{{"session": "{name}"}}', headers=headers)
        assert (answer.status_code, answer.json()["title"]) == (403, "Origin refused"), headers
        assert "--allow-origin" in answer.json()["detail"]
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    assert (await gateway.http.options("/sessions", headers=asked)).status_code == 403
    assert (await gateway.http.delete(f"/sessions/{name}", headers={"origin": PAGE})).status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        await dial(f"ws://127.0.0.1:{gateway.port}/api/chat/socket", origin=PAGE)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    assert (await gateway.http.get(f"/sessions/{name}")).status_code == 404


async def test_what_is_no_page_and_the_gateways_own_pages_are_as_before(
    gateway: Any, fresh: Callable[[str], str]
) -> None:
    """curl and servers send no Origin; the console's is the Host; behind a proxy that renames the host, too."""
    own = f"http://127.0.0.1:{gateway.port}"
    for headers in ({}, {"origin": own}, {"origin": "https://a.example", "sec-fetch-site": "same-origin"}):
        answer = await gateway.http.post("/sessions", json={"session": fresh("s")}, headers=headers)
        assert answer.status_code == 201
        assert "access-control-allow-origin" not in answer.headers
    read = await gateway.http.get("/sessions", headers={"origin": PAGE})
    assert (read.status_code, "access-control-allow-origin" in read.headers) == (200, False)
    async with dial(f"ws://127.0.0.1:{gateway.port}/api/chat/socket", origin=own):  # type: ignore[arg-type]
        pass


async def test_a_listed_page_may_read_and_write_and_sees_the_headers_it_needs(open_gateway: Any, pen: Any) -> None:
    """Preflight, answer, problem, feed and socket; another page is still refused."""
    http = open_gateway.http
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, idempotency-key"}
    preflight = await http.options("/api/chat", headers={"origin": PAGE} | asked)
    made = await http.post("/sessions", json={"session": pen.session}, headers={"origin": PAGE})
    missing = await http.get("/sessions/no-such", headers={"origin": PAGE})
    other = await http.post("/sessions", json={}, headers={"origin": "http://localhost:3001"})
    plain = await http.get("/sessions")

    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    for answer in (preflight, made, missing):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"].startswith("origin")
    assert "x-stream-url" in made.headers["access-control-expose-headers"]
    assert (made.status_code, missing.status_code, other.status_code) == (201, 404, 403)
    assert "access-control-allow-origin" not in other.headers
    assert plain.headers["vary"] == "origin"
    async with dial(f"ws://127.0.0.1:{open_gateway.port}/sessions/{pen.session}/events", origin=PAGE):  # type: ignore[arg-type]
        pass


async def test_a_feed_tells_its_permission_in_its_head(open_gateway: Any, pen: Any, eventually: Any) -> None:
    """The feed takes its connection past the response: the headers are in what it writes all the same."""
    await pen.story("agent")
    async with open_gateway.feed(pen.session, headers={"origin": PAGE}) as feed:
        await eventually(lambda: feed.events)
        assert f"access-control-allow-origin: {PAGE}" in feed.head
        assert feed.head.count("access-control-expose-headers") == 1
    async with open_gateway.feed(pen.session, headers={"origin": "http://evil.example"}) as feed:
        await eventually(lambda: feed.events)
        assert "access-control-allow-origin" not in feed.head


def test_an_origin_is_written_as_browsers_do_and_there_is_no_wildcard() -> None:
    """Upper case, default ports and a closing slash do not matter; paths and wildcards are refused."""
    assert check_origin("HTTP://Localhost:3000/") == PAGE
    assert check_origin("https://a.example:443") == "https://a.example"
    assert check_origin("http://[::1]:5173") == "http://[::1]:5173"
    assert check_origin("tauri://localhost") == "tauri://localhost"
    for wrong in ("*", "https://*.example.com", "localhost:3000", "http://a/b", "null", "", "http://user@a"):
        with pytest.raises(InvalidInput):
            check_origin(wrong)


async def test_up_refuses_a_wildcard_before_it_begins_anything() -> None:
    """One line, no traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator_free", "up", "--allow-origin", "*", stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode
    assert b"There is no wildcard" in b" ".join(said.split())
    assert b"Traceback" not in said
