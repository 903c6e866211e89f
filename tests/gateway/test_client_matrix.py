"""The matrix of docs/clients.md: every test that it names is there, and what no other file tests is tested here."""

from __future__ import annotations

import ast
import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.pages import Page, page
from tests.gateway.test_agui import text_of
from tests.gateway.test_chat import ANSWER, WHOLE, App, running
from tests.gateway.test_chat import text_of as ui_text

__all__ = ["page"]  # a fixture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator_free import Broker

ROOT = Path(__file__).parents[2]
COLUMNS = 8


@pytest.fixture
async def thread(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A session with an agent."""
    name, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


@pytest.fixture
async def endless(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A session with an agent whose answer ends when it is cancelled."""
    name, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, 'for n in range(2000):\n    await run.text(f"w{n} ")\n    await asyncio.sleep(0.05)')
    await ann.session(name).create(agents=[agent])
    return name


async def status(ann: Broker, session: str) -> str:
    """Return how the session's only run ended."""
    return str((await ann.session(session).view())["agents"][0]["runs"][0]["status"])


@pytest.fixture
def app(gateway: Any, clients: Path) -> Callable[..., Any]:
    """Start a client of AG-UI: `async with app("tanstack", thread, port=…) as tab:`."""

    @asynccontextmanager
    async def start(kind: str, thread: str, port: int = 0) -> AsyncIterator[App]:
        base = f"http://127.0.0.1:{port or gateway.port}"
        async with running(clients, "agui.mjs", kind, base, thread) as tab:
            assert await tab.line() == {"ready": kind}
            yield tab

    return start


@pytest.fixture
def stock(gateway: Any, clients: Path) -> Callable[..., Any]:
    """Start a stock `WebSocketChatTransport`."""
    return lambda chat: running(clients, "chat.mjs", "ai7", f"ws://127.0.0.1:{gateway.port}/api/chat/socket", chat)


async def begun(tab: App) -> None:
    """Wait for the middle of an answer."""
    async with asyncio.timeout(60):
        while "w0 w1 " not in text_of(await tab.do("show")):
            await asyncio.sleep(0.02)


def rows() -> list[list[str]]:
    """Return the cells of the matrix."""
    table = (ROOT / "docs/clients.md").read_text().partition("## The matrix")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_cell_of_the_matrix_has_a_test_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests are there under these names; the table is printed."""
    text = (ROOT / "docs/clients.md").read_text()
    notes = dict(re.findall(r"^\[(\d+)\]: (.+)$", text.partition("## The tests")[2], re.MULTILINE))
    head, _, *body = rows()
    with capsys.disabled():
        print()
        for row in (head, *body):
            print(" | ".join(f"{re.sub(r'[`*]', '', cell)[:26]:26}" for cell in row))
    used = set()
    for row in body:
        assert len(row) == COLUMNS + 1, row
        for cell in row[1:]:
            numbers = re.findall(r"\[(\d+)\]", cell)
            used |= set(numbers)
            assert numbers or re.match(r"no: \S", cell), (row[0], cell)
    assert used == set(notes)
    for number, note in notes.items():
        file, _, name = note.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in names, (number, note)


async def test_tanstack_goes_on_by_itself_after_a_cut(app: Any, gateway: Any, proxy: Any, thread: str) -> None:
    """It asks again with the `id:` that it had last; nothing is missing, nothing twice, no error."""
    async with proxy(gateway.port) as between, app("tanstack", thread, between.port) as tab:
        tab.begin("begin", "send", "hello")
        await begun(tab)
        await between.cut()
        assert await tab.line() == {"done": "send"}
        shown = await tab.do("show")

    assert (text_of(shown, "user"), text_of(shown), shown.get("error")) == ("hello", WHOLE, None)


async def test_a_tanstack_page_that_comes_later_shows_the_history(app: Any, thread: str, eventually: Any) -> None:
    """With `persistence: true` it asks on mount; what was said and answered is there, and the call with its result."""
    async with app("tanstack", thread) as first:
        await first.do("send", "hello")
    async with app("hydrating", thread) as late:

        async def whole() -> bool:
            return text_of(await late.do("show")) == WHOLE

        await eventually(whole, 60)
        shown = await late.do("show")
    kinds = [part["type"] for message in shown["messages"] for part in message["parts"]]
    assert kinds == ["text", "tool-call", "tool-result", "text"]
    assert (text_of(shown, "user"), shown["running"], shown.get("error")) == ("hello", False, None)


@pytest.mark.parametrize("kind", ["agui1", "agui0", "copilotkit", "tanstack"])
async def test_a_cancel_from_elsewhere_ends_a_clients_run(
    app: Any, gateway: Any, ann: Broker, endless: str, kind: str
) -> None:
    """The gateway's control, by any other device; the client's run ends without an error, with what it had."""
    async with app(kind, endless) as tab:
        tab.begin("begin", "send", "hello")
        await begun(tab)
        told = await gateway.http.post(f"/sessions/{endless}/controls", json={"type": "cancel", "to": "all"})
        assert told.status_code == 202
        assert await tab.line() == {"done": "send"}
        shown = await tab.do("show")

    assert (shown["running"], shown.get("error")) == (False, None)
    assert text_of(shown).startswith("w0 w1 ")
    assert await status(ann, endless) == "cancelled"


@pytest.mark.parametrize("kind", ["copilotkit", "tanstack"])
async def test_concurrent_agents_are_messages_of_their_own(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], kind: str
) -> None:
    """Their texts interleave on the wire and stay apart."""
    names = [fresh("one"), fresh("two")]
    for name in names:
        programs.agent(name, f'for n in range(30):\n    await run.text(f"{name}{{n}} ")\n    await asyncio.sleep(0.01)')
    thread = fresh("thread")
    await ann.session(thread).create(agents=names)
    async with app(kind, thread) as tab:
        shown = await tab.do("send", "hello")
    said = [text_of({"messages": [one]}) for one in shown["messages"] if one["role"] == "assistant"]
    assert sorted(filter(None, said)) == sorted("".join(f"{name}{n} " for n in range(30)) for name in names)


async def test_a_cancel_from_elsewhere_ends_the_answer_over_the_websocket_transport(
    stock: Any, gateway: Any, endless: str
) -> None:
    """Stock `WebSocketChatTransport`."""
    async with stock(endless) as tab:
        tab.begin("begin", "send", "hello")
        async with asyncio.timeout(60):
            while not ui_text(((await tab.do("show"))["messages"] or [{"parts": []}])[-1]).startswith("w0 w1 "):
                await asyncio.sleep(0.02)
        await gateway.http.post(f"/api/chat/{endless}/stop")
        assert await tab.line() == {"done": "send"}
        shown = await tab.do("show")
    assert shown["status"] == "ready"
    assert shown["messages"][1]["metadata"]["durable"]["outcome"] == "cancelled"


async def test_concurrent_agents_are_grouped_over_the_websocket_transport(
    stock: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Stock `WebSocketChatTransport`: parts by agent, as over HTTP."""
    names = [fresh("one"), fresh("two")]
    for name in names:
        programs.agent(name, f'for n in range(30):\n    await run.text(f"{name}{{n}} ")\n    await asyncio.sleep(0.01)')
    chat = fresh("chat")
    await ann.session(chat).create(agents=names)
    async with stock(chat) as tab:
        shown = await tab.do("send", "hello")
    parts = [part for part in shown["messages"][1]["parts"] if part["type"] == "text"]
    texts = {part["providerMetadata"]["durable"]["agent"]: part["text"] for part in parts}
    assert texts == {name: "".join(f"{name}{n} " for n in range(30)) for name in names}


@pytest.mark.parametrize("version", ["ai5", "ai7"])
async def test_durable_fetch_changes_nothing_else_of_a_stock_chat(
    gateway: Any, page: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], version: str
) -> None:
    """Another page joins late, or is the same one reloaded; agents are grouped; a stop elsewhere ends both."""
    names = [fresh("one"), fresh("two")]
    for name in names:
        programs.agent(
            name, f'for n in range(900):\n    await run.text(f"{name}{{n}} ")\n    await asyncio.sleep(0.05)'
        )
    chat, api = fresh("chat"), f"http://127.0.0.1:{gateway.port}/api/chat"
    await ann.session(chat).create(agents=names)
    stock = f"(Stock) => new Stock({{api: '{api}', fetch: durableFetch()}})"
    parts = "(chat.messages[1]?.parts ?? []).filter((part) => part.type === 'text')"
    agents = f"{parts}.map((part) => part.providerMetadata.durable.agent).sort()"
    texts = f"{parts}.map((part) => part.text).sort()"

    async def begins(tab: Page, what: str) -> None:
        await tab.do("keep", "chat", f"await makeChat({version!r}, {chat!r}, {stock})")
        await tab.eval(
            f"fetch('{api}/{chat}/messages').then((one) => one.json()).then((all) => {{ chat.messages = all; }})"
        )
        await tab.do("keep", "under", f"[{what}]")
        await tab.wait(f"{parts}.length === 2 && {parts}.every((part) => part.text.length > 20)")

    async with page() as one, page() as late:
        await begins(one, "chat.sendMessage({text: 'hello'})")
        await begins(late, "chat.resumeStream()")
        told = await gateway.http.post(f"/api/chat/{chat}/stop")
        for tab in (one, late):
            await tab.wait("chat.status === 'ready' && chat.messages[1].metadata.durable.outcome === 'cancelled'")
        shown = [[await tab.eval(agents), await tab.eval(texts)] for tab in (one, late)]

    assert told.status_code == 202
    assert shown[0] == shown[1]
    assert shown[0][0] == sorted(names)
