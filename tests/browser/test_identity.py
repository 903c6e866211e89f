"""The console at a gateway that asks for tokens, and the pages' policies, in a real Chromium."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.broker import connect
from tests.browser.conftest import Watched
from tests.gateway.identity import bearer, guard, token

__all__ = ["guard", "token"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gateway.identity import Mint

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def page_at(browser: Any, base: str, target: str) -> AsyncIterator[Watched]:
    context = await browser.new_context()
    watched = Watched(await context.new_page(), base)
    try:
        await watched.page.goto(base + target)
        yield watched
    finally:
        await context.close()


async def begin(url: str, session: str) -> None:
    async with connect(url, member="bot") as broker:
        await broker.session(session).create(title="Guarded", agents=["bot"])


async def test_the_console_takes_a_token_from_its_address_and_works_with_it(
    browser: Any, guard: Any, token: Mint, broker_url: str, fresh: Callable[[str], str]
) -> None:
    """`#token=` leaves the address at once and is in no request's; the page speaks as the token's subject."""
    session = fresh("s")
    await begin(broker_url, session)
    secret = token("ann", session)
    async with guard() as gateway, page_at(browser, gateway.base, f"/console/#/s/{session}&token={secret}") as watched:
        requested: list[str] = []
        watched.page.on("request", lambda request: requested.append(request.url))
        await watched.until("() => document.querySelector('.connection')?.dataset.status === 'live'")
        assert watched.page.url == f"{gateway.base}/console/#/s/{session}"
        await watched.page.locator("#composer textarea").fill("hello")
        await watched.page.locator("#composer textarea").press("Enter")
        await watched.until("() => document.querySelector('#transcript')?.textContent.includes('hello')")
        await watched.page.reload()
        await watched.until("() => document.querySelector('.connection')?.dataset.status === 'live'")
        view = (await gateway.http.get(f"/sessions/{session}", headers=bearer(secret))).json()
        stored = await watched.page.evaluate("() => JSON.stringify(localStorage)")
        assert await watched.page.locator(".open-badge").is_hidden()
        assert (watched.faults, watched.away) == ([], [])
    assert [one["from"] for one in view["inputs"]] == ["ann"]
    assert not [url for url in requested if secret[:20] in url]
    assert secret[:20] not in stored


async def test_the_console_asks_for_a_token_and_for_another_one(
    browser: Any, guard: Any, token: Mint, broker_url: str, fresh: Callable[[str], str]
) -> None:
    """Pasted; and pasted again when it has expired under an open session, which then goes on."""
    session = fresh("s")
    await begin(broker_url, session)
    async with guard() as gateway, page_at(browser, gateway.base, f"/console/#/s/{session}") as watched:
        await _paste(watched, token.ending(5))
        await watched.until("() => document.querySelector('#dialog').open")  # it has expired
        await _paste(watched, token("ann", session))
        await watched.page.locator("#composer textarea").fill("still here")
        await watched.page.locator("#composer textarea").press("Enter")
        await watched.until("() => document.querySelector('#transcript')?.textContent.includes('still here')")


async def _paste(watched: Watched, secret: str) -> None:
    await watched.page.locator("#dialog textarea").fill(secret)
    await watched.page.locator("#dialog button.primary").click()
    await watched.until("() => document.querySelector('.connection')?.dataset.status === 'live'")


async def test_an_open_gateway_says_so_on_every_page_of_the_console(browser: Any, house: Any) -> None:
    """A badge that says what that means."""
    async with page_at(browser, house.url, "/console/") as watched:
        await watched.until("() => document.querySelector('.open-badge')?.hidden === false")
        assert "everybody" in str(await watched.page.locator(".open-badge").get_attribute("title"))


@pytest.mark.parametrize("target", ["/console/", "/docs"])
async def test_pages_run_under_their_policy_and_in_no_frame(
    browser: Any, house: Any, target: str, eventually: Any
) -> None:
    """Without a fault of their own; a script that is put into them does not run; a frame around them stays empty."""
    async with page_at(browser, house.url, target) as watched:
        shown = "#sessions h1" if target == "/console/" else "main section"
        await watched.page.locator(shown).first.wait_for()
        assert (watched.faults, watched.away) == ([], [])
        ran = await watched.page.evaluate(
            """() => { const made = document.createElement('script'); made.textContent = 'window.hacked = 1';
                       document.body.append(made); return window.hacked ?? 0; }"""
        )
        assert ran == 0
        assert any("Content Security Policy" in fault for fault in watched.faults)
        answer = await watched.page.request.get(house.url + target)
        policy = answer.headers["content-security-policy"]
        assert re.search(r"frame-ancestors 'none'", policy)
        assert "unsafe-eval" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        await watched.page.evaluate(
            "(address) => { const made = document.createElement('iframe'); made.src = address; document.body.append(made); }",
            house.url + target,
        )
        await eventually(lambda: any("frame" in fault for fault in watched.faults))
