"""A headless Chromium of this machine, a gateway as a process that may be killed, and pages that must stay without fault."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SECONDS = 40
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PROGRAM = "from orchestrator_free.cli import main\nmain()\n"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; without it, or without Playwright, the tests are skipped."""
    pytest.importorskip("playwright", reason="Playwright is not installed: pip install -r requirements.lock")
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Any]:
    """A browser of the test's own."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        running = await playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        await running.close()


class House:
    """The gateway of a test, in a process of its own: `kill()` it, and `start()` it again on the same port."""

    def __init__(self, programs: Any, script: Path, url: str) -> None:
        self._programs = programs
        self._script = script
        self._broker = url
        self.port = 0
        self.program: Any = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self.program = self._programs.start(self._script, "up", "--broker", self._broker, "--port", str(self.port))
        async with asyncio.timeout(SECONDS):
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.program.output)):
                assert self.program.alive, self.program.output
                await asyncio.sleep(0.05)
        self.port = int(found[1])

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.program.kill()


@pytest.fixture
async def house(programs: Any, tmp_path: Path, broker_url: str) -> AsyncIterator[House]:
    """A gateway as a process."""
    script = tmp_path / "gateway_program.py"
    script.write_text(_PROGRAM)
    made = House(programs, script, broker_url)
    await made.start()
    yield made
    made.kill()


class Watched:
    """A page, and what went wrong on it: faults, what its console said, dialogs, requests to other hosts."""

    def __init__(self, page: Any, origin: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.away: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error.message}"))
        page.on("console", self._said)
        page.on("dialog", self._dialog)
        page.on(
            "request",
            lambda request: request.url.startswith((origin, "data:", "blob:")) or self.away.append(request.url),
        )

    def _said(self, message: Any) -> None:
        network = message.text.startswith(
            "Failed to load resource: net::"
        )  # the gateway was killed: the browser says so
        if message.type in ("error", "warning") and not network:
            self.faults.append(f"console: {message.text}")

    async def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    async def until(self, script: str, *arguments: Any) -> Any:
        """Wait until an expression over the page is true."""
        return await self.page.wait_for_function(script, arg=list(arguments) or None, timeout=SECONDS * 1000)

    def text(self, agent: str) -> Any:
        """What the last card of an agent shows as text."""
        return self.page.locator(f"article.card[data-agent='{agent}'] .parts .part.text")


@pytest.fixture
def console(browser: Any, house: House) -> Callable[..., Any]:
    """Open a session's console as a member, in a browser profile of its own; it must stay without fault."""

    @asynccontextmanager
    async def opened(session: str | None, member: str = "ann", **options: Any) -> AsyncIterator[Watched]:
        context = await browser.new_context(**options)
        watched = Watched(await context.new_page(), house.url)
        try:
            await watched.page.goto(f"{house.url}/console/?member={member}" + (f"#/s/{session}" if session else ""))
            if session:
                await watched.until("() => document.querySelector('.connection')?.dataset.status === 'live'")
            yield watched
            assert watched.faults == []
            assert watched.away == []
        finally:
            await context.close()

    return opened
