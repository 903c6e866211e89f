"""A headless Chromium of this machine, a gateway as a process that may be killed, and pages that must stay without fault."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from orchestrator_free.broker import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free.broker import Broker

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one module share its browser, and therefore its event loop."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(broker_url: str) -> AsyncIterator[Broker]:
    """A connection as the member `ann`."""
    async with connect(broker_url, member="ann") as connection:
        yield connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Any]:
    """A browser; each page has a profile of its own."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        running = await playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        await running.close()


class House:
    """A gateway in a process of its own: `kill()` it, and `start()` it again on the same port."""

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


@pytest.fixture(scope="module")
def gateway_process(lasting: Any, tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> House:
    """The module's gateway, not started yet."""
    script = tmp_path_factory.mktemp("gateway") / "gateway_program.py"
    script.write_text(_PROGRAM)
    return House(lasting, script, broker_url)


@pytest_asyncio.fixture(loop_scope="module")
async def house(gateway_process: House) -> House:
    """A gateway as a process; it runs, whatever the test before did to it."""
    if gateway_process.program is None or not gateway_process.program.alive:
        await gateway_process.start()
    return gateway_process


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
