"""React's real `useChat` in a real browser, with the nine lines of docs/usechat.md and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import TimeoutError, async_playwright

from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from playwright.async_api import Page

    from orchestrator_free import Broker

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/usechat.md"
PAGE = "http://localhost:3000"
#: what the pages of each version are built with
VERSIONS = ("5", "6", "7")
WORDS = " ".join(f"w{number}" for number in range(120))
WHOLE = f"{WORDS} "
ANSWER = """
for word in run.input.text.split():
    await run.text(f"{word} ")
    await asyncio.sleep(0.05)
"""
TEXT = "[...document.querySelectorAll('article[data-role=assistant] p')].map((p) => p.textContent).join('')"
READY = "document.querySelector('main')?.dataset.status === 'ready'"


def block(language: str, number: int = 0) -> str:
    """Return a block of the guide."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)[number]


@pytest.fixture(scope="session")
def app(packages: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The app of tests/clients/app/before with the guide's diff, bundled for a version of `ai`."""
    source = packages(ROOT / "tests/clients/app")
    built: dict[str, Path] = {}

    def build(version: str) -> Path:
        if version not in built:
            folder = tmp_path_factory.mktemp(f"app{version}")
            shutil.copy(source / "before/chat.jsx", folder)
            subprocess.run(["git", "apply"], input=block("diff"), cwd=folder, text=True, check=True, timeout=60)
            shutil.copy(source / "index.html", folder)
            command = ["node", "build.mjs", str(folder), version, str(folder / "chat.js")]
            subprocess.run(command, cwd=source, check=True, timeout=120)
            built[version] = folder
        return built[version]

    return build


class Quiet(SimpleHTTPRequestHandler):
    """Serves the app's files."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Callable[[Path], int]]:
    """Serve a folder; returns the port."""
    servers = []

    def start(folder: Path) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def browsing(page_port: int, gateway_port: int) -> AsyncIterator[Callable[[str], Any]]:
    """A browser in which the app is at http://localhost:3000 and the gateway at http://localhost:8080."""
    rules = f"MAP localhost:3000 127.0.0.1:{page_port}, MAP localhost:8080 127.0.0.1:{gateway_port}"
    options = ["--no-sandbox", "--disable-dev-shm-usage", f"--host-resolver-rules={rules}"]
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is not installed: useChat is not tested (Debian: apt install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=options)
        try:

            async def visit(chat: str) -> Page:
                page = await (await browser.new_context()).new_page()
                page.set_default_timeout(30_000)
                await page.goto(f"{PAGE}/?chat={chat}")
                await page.wait_for_selector("main")
                return page

            yield visit
        finally:
            await browser.close()


@pytest.fixture
async def page_gateway(serve: Any) -> AsyncIterator[Any]:
    """A gateway that the app may use."""
    async with serve(settings=GatewaySettings(allow_origins=(PAGE,))) as serving:
        yield serving


@pytest.fixture
async def browser(page_gateway: Any, app: Callable[[str], Path], site: Any) -> Callable[..., Any]:
    """Open a browser for a version of `ai`: `async with browser("7") as visit: page = await visit(chat)`."""
    return lambda version, port=0: browsing(site(app(version)), port or page_gateway.port)


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A chat with an agent that repeats what it hears."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


async def say(page: Page, text: str = WORDS) -> None:
    await until(page, READY)
    await page.fill("input", text)
    await page.click("text=Send")


async def until(page: Page, condition: str) -> None:
    """Wait until a condition holds in a page; say what it shows if it does not."""
    try:
        await page.wait_for_function(condition)
    except TimeoutError as error:
        raise AssertionError(
            f"not {condition}: {await page.locator('main').evaluate('one => one.outerHTML')}"
        ) from error


async def begun(page: Page) -> None:
    """Wait for the middle of an answer."""
    await until(page, f"{TEXT}.startsWith('w0 w1 w2 ')")


async def shown(page: Page) -> tuple[list[str], str]:
    """Wait for the end of the answer; return the roles of what is shown, and the answer's text."""
    await until(page, READY)
    roles = "[...document.querySelectorAll('article')].map((one) => one.dataset.role)"
    assert await page.locator("[role=alert]").count() == 0
    return await page.evaluate(roles), await page.evaluate(TEXT)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_reload_in_the_middle_and_a_late_join_show_the_whole_answer_once(
    browser: Any, chat: str, version: str
) -> None:
    """A new chat opens without an error; the page that asked is reloaded, another device joins; both see it all."""
    async with browser(version) as visit:
        page = await visit(chat)
        await say(page)
        await begun(page)
        await page.reload()
        late = await visit(chat)
        await until(late, f"{TEXT}.length > 0 && !({READY})")
        for one in (page, late):
            await until(one, f"{TEXT} === {WHOLE!r}")
            assert await shown(one) == (["user", "assistant"], WHOLE)
        after = await visit(chat)
        assert await shown(after) == (["user", "assistant"], WHOLE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_closing_the_tab_cancels_nothing(
    browser: Any, chat: str, ann: Broker, eventually: Any, version: str
) -> None:
    """Nobody looks, the answer is finished, and stands there later."""

    async def done() -> bool:
        return [run["status"] for run in (await ann.session(chat).view())["agents"][0]["runs"]] == ["done"]

    async with browser(version) as visit:
        page = await visit(chat)
        await say(page)
        await begun(page)
        await page.close()
        await eventually(done, 60)
        assert await shown(await visit(chat)) == (["user", "assistant"], WHOLE)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stop_on_another_device_ends_the_answer_everywhere(
    browser: Any, chat: str, ann: Broker, version: str
) -> None:
    """Its button is a cancel in the log; both pages are ready with what there was, and the next message is answered."""
    async with browser(version) as visit:
        page = await visit(chat)
        await say(page, f"{WORDS} " * 6)
        await begun(page)
        other = await visit(chat)
        await begun(other)
        await other.click("text=Stop")
        first, second = await shown(page), await shown(other)
        status = (await ann.session(chat).view())["agents"][0]["runs"][0]["status"]
        await say(other, "next")
        await until(other, f"{READY} && {TEXT}.endsWith('next ')")

    assert status == "cancelled"
    assert first[1] == second[1]
    assert first[1].startswith("w0 w1 w2 ")


@pytest.mark.parametrize("version", VERSIONS)
async def test_concurrent_agents_are_grouped_in_one_message(
    browser: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], version: str
) -> None:
    """Three write at once; each has its own part, whole, with its name; also after a reload in the middle."""
    names = [fresh(name) for name in ("one", "two", "three")]
    for name in names:
        programs.agent(name, f'for n in range(40):\n    await run.text(f"{name}{{n}} ")\n    await asyncio.sleep(0.05)')
    chat = fresh("chat")
    await ann.session(chat).create(agents=names)
    groups = "Object.fromEntries([...document.querySelectorAll('p')].map((p) => [p.dataset.agent, p.textContent]))"
    async with browser(version) as visit:
        page = await visit(chat)
        await say(page, "go")
        await until(page, "document.querySelectorAll('p[data-agent]').length === 3")
        await page.reload()
        await until(page, f"{READY} && {TEXT}.length > 0")
        texts = await page.evaluate(groups.replace("'p'", "'p[data-agent]'"))
        count = await page.locator("article").count()

    assert texts == {name: "".join(f"{name}{n} " for n in range(40)) for name in names}
    assert count == 2


async def test_after_a_cut_the_page_goes_on_when_it_is_looked_at_again(
    browser: Any, chat: str, page_gateway: Any, proxy: Any
) -> None:
    """The network goes away in the middle; the stock page of `ai` 7 shows an error and resumes with `visibilitychange`.

    Those of `ai` 5.0.277 and 6.0.323 resume, too, but show the beginning of the answer twice (their own state, until a
    reload).
    """
    async with proxy(page_gateway.port) as between, browser("7", between.port) as visit:
        page = await visit(chat)
        await say(page)
        await begun(page)
        await between.cut()
        await until(page, "document.querySelector('main').dataset.status === 'error'")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await until(page, f"{TEXT} === {WHOLE!r}")
        assert await shown(page) == (["user", "assistant"], WHOLE)


async def test_the_guide_works_as_it_is_written(
    app: Any, site: Any, programs: Any, tmp_path: Path, fresh: Callable[[str], str], eventually: Any
) -> None:
    """Its agent, its commands and its diff of at most ten lines, on a broker of its own."""
    changed = [line for line in block("diff").splitlines() if re.match(r"[+-](?![+-])", line)]
    agent = tmp_path / "agent.py"
    agent.write_text(block("python"))
    command = block("sh").split()
    assert block("sh", 1).split() == ["orchestrator-free", "launch", "agent.py"]
    tool = Path(sys.executable).with_name(command[0])
    elsewhere = ["--port", "0", "--broker-port", "0", "--data", str(tmp_path / "data")]
    up = programs.start(tool, *command[1:], *elsewhere)
    found = await eventually(
        lambda: re.search(r"gateway http://127\.0\.0\.1:(\d+).*broker +(nats://\S+)", up.output, re.DOTALL), 60
    )
    launched = programs.start(tool, "launch", str(agent), ORCHESTRATOR_FREE_URL=found[2])
    await eventually(lambda: "agent ready" in launched.output, 60)
    chat = fresh("chat")
    async with browsing(site(app("7")), int(found[1])) as visit:
        page = await visit(chat)
        await say(page)
        await begun(page)
        await page.reload()
        other = await visit(chat)
        await begun(other)
        await until(page, f"{TEXT} === {WHOLE!r}")
        assert await shown(other) == await shown(page) == (["user", "assistant"], WHOLE)
        await say(page, WORDS)
        await until(page, f"{TEXT}.startsWith({WHOLE + 'w0 w1 '!r})")
        await page.click("text=Stop")
        await until(page, READY)
        stopped = (await shown(page))[1]

    assert len(changed) <= 10
    assert stopped.startswith(WHOLE)
    assert stopped != WHOLE + WHOLE
