"""useChat's machinery over durable sessions: tabs in sync, late joiners, cancels from elsewhere, lost connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.pages import Page, RefusedError, Restartable, page, restartable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Broker

__all__ = ["page", "restartable"]  # fixtures

VERSIONS = ("ai50", "ai5", "ai60", "ai6", "ai7")
WORDS = 100
ANSWER = f"""
async with run.tool("search", {{"q": run.input.text}}) as tool:
    tool.output = ["found"]
for number in range({WORDS}):
    await run.text(f"w{{number}} ")
    await asyncio.sleep(0.03)
"""
WHOLE = "".join(f"w{number} " for number in range(WORDS))
#: what a chat shows: who said what
SHOWN = "chat.messages.map((m) => m.parts.filter((p) => p.type === 'text').map((p) => p.text).join(''))"
BEGUN = f"({SHOWN}).at(-1)?.startsWith('w0 w1 ')"
DONE = f"chat.status === 'ready' && ({SHOWN}).at(-1) === {WHOLE!r}"


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A session with an agent that takes three seconds."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


async def enter(tab: Page, base: str, session: str, version: str = "ai5", **options: Any) -> None:
    """Open the session with a chat that follows it."""
    await tab.open(base, session, **options)
    await tab.do("keep", "transport", "new DurableChatTransport(session)")
    await tab.do("keep", "chat", f"await makeChat({version!r}, session.session, transport)")
    await tab.do("keep", "following", "follow(session, chat, transport)")
    await tab.eval("following.ready")


@pytest.mark.parametrize("version", VERSIONS)
async def test_two_tabs_are_in_sync_while_an_answer_streams_and_a_late_one_is_equal(
    gateway: Any, page: Any, chat: str, version: str
) -> None:
    """User turns included; in the end all show the same messages, byte by byte."""
    base = f"http://127.0.0.1:{gateway.port}"
    async with page() as one, page() as two, page() as late:
        await enter(one, base, chat, version)
        await enter(two, base, chat, version)
        await late.eval(f"makeChat({version!r}, 'x', null).then(() => null)")  # it takes a while to load
        await one.eval("void chat.sendMessage({text: 'hello'})")
        await two.wait(f"{BEGUN} && chat.status === 'streaming'")
        assert (await two.eval(SHOWN))[0] == "hello"
        await enter(late, base, chat, version)
        await late.wait(f"{BEGUN} && chat.status === 'streaming'")
        for tab in (one, two, late):
            await tab.wait(DONE)
            await tab.wait("chat.messages[0].metadata?.durable?.from === 'user'")  # as the log has it
        shown = [await tab.eval("chat.messages") for tab in (one, two, late)]
        await two.eval("void chat.sendMessage({text: 'again'})")
        await one.wait(f"chat.messages.length === 4 && {DONE}")
        assert await one.eval(SHOWN) == ["hello", WHOLE, "again", WHOLE]
    assert [message["role"] for message in shown[0]] == ["user", "assistant"]
    assert shown[0] == shown[1] == shown[2]


@pytest.mark.parametrize("version", ["ai5", "ai6", "ai7"])
async def test_a_cancel_in_one_tab_ends_the_answer_in_the_other_and_an_abort_does_not(
    gateway: Any, page: Any, chat: str, version: str
) -> None:
    """Stop only stops listening; the tab shows the whole answer when it is there."""
    base = f"http://127.0.0.1:{gateway.port}"
    async with page() as one, page() as two:
        await enter(one, base, chat, version)
        await enter(two, base, chat, version)
        await one.eval("void chat.sendMessage({text: 'hello'})")
        await one.wait(BEGUN)
        await one.eval("chat.stop()")
        await two.wait(DONE)
        await one.wait(DONE)
        await one.eval("void chat.sendMessage({text: 'again'})")
        await two.wait(f"chat.messages.length === 4 && {BEGUN}")
        await two.eval("transport.cancel()")
        for tab in (one, two):
            await tab.wait("chat.status === 'ready' && chat.messages[3]?.metadata?.durable?.outcome === 'cancelled'")
        texts = [(await tab.eval(SHOWN))[3] for tab in (one, two)]
    assert texts[0] == texts[1] != WHOLE


async def test_subagents_are_grouped_and_a_human_joins_with_the_whole_history(
    gateway: Any, ann: Broker, programs: Any, page: Any, fresh: Callable[[str], str]
) -> None:
    """What a run delegated stands under its own name, with who asked it."""
    base = f"http://127.0.0.1:{gateway.port}"
    lead, helper, session = fresh("lead"), fresh("helper"), fresh("chat")
    programs.agent(helper, "await run.text('helped')")
    programs.agent(
        lead, f"child = await run.delegate({helper!r}, 'help')\nawait child.result()\nawait run.text('done')"
    )
    await ann.session(session).create(agents=[lead])
    async with page() as one, page() as human:
        await enter(one, base, session)
        await one.eval("chat.sendMessage({text: 'hello'})")
        await enter(human, base, session, member="bob")
        groups = await human.wait("chat.messages.length === 2 && byAgent(chat.messages[1])")
        assert await one.eval("byAgent(chat.messages[1])") == groups
        await human.eval("session.send('I am here', {note: true})")
        await one.wait("session.view.inputs.some((input) => input.from === 'bob')")
        view = await human.eval("session.view.agents.map(({agent}) => agent)")
    by_name = {group["agent"]: group for group in groups}
    assert {name: by_name[name]["status"] for name in (lead, helper)} == {lead: "done", helper: "done"}
    assert by_name[helper]["parent"]["agent"] == lead
    assert [part["text"] for part in by_name[helper]["parts"] if part["type"] == "text"] == ["helped"]
    assert set(view) == {lead, helper}


@pytest.mark.parametrize("version", ["ai5", "ai6", "ai7"])
async def test_stock_chats_survive_a_gateway_that_goes_and_comes_back(
    restartable: Restartable, ann: Broker, page: Any, chat: str, version: str
) -> None:
    """The stock transport with `fetch: durableFetch()`: the message is whole and was never an error."""
    async with page() as tab:
        async with restartable.up() as base:
            stock = f"(Stock) => new Stock({{api: '{base}/api/chat', fetch: durableFetch({{backoff: {{base: 50}}}})}})"
            await tab.do("keep", "chat", f"await makeChat({version!r}, {chat!r}, {stock})")
            await tab.do("keep", "sent", "[chat.sendMessage({text: 'hello'})]")
            await tab.wait(BEGUN)
        async with restartable.up():
            await tab.wait("chat.status !== 'streaming'")
            await tab.eval("Promise.all(sent)")
            assert [await tab.eval("chat.status"), await tab.eval(SHOWN)] == ["ready", ["hello", WHOLE]]
            parts = await tab.eval("chat.messages[1].parts.map((part) => part.type)")
    assert parts.count("dynamic-tool") == parts.count("text") == 1
    assert [event.kind async for event in _inputs(ann, chat)] == ["in"]


async def _inputs(ann: Broker, session: str) -> Any:
    one = ann.session(session)
    end = int((await one.view())["position"].rsplit("-")[-1])
    async for event in one.follow():
        if event.kind == "in":
            yield event
        if event.sequence >= end:
            return


@pytest.mark.parametrize("version", ["agui1", "agui0"])
async def test_a_stock_ag_ui_agent_survives_it_too(
    restartable: Restartable, page: Any, chat: str, version: str
) -> None:
    """`HttpAgent` with the same option."""
    async with page() as tab:
        async with restartable.up() as base:
            fetch = "durableFetch({backoff: {base: 50}})"
            await tab.do("keep", "agent", f"await makeAgent({version!r}, '{base}/api/agui', {chat!r}, {fetch})")
            await tab.eval("agent.addMessage({id: 'm1', role: 'user', content: 'hello'})")
            await tab.do("keep", "ran", "[agent.runAgent()]")
            await tab.wait("agent.messages.at(-1).content?.startsWith('w0 w1 ')")
        async with restartable.up():
            await tab.eval("Promise.all(ran).then(() => null)")
            texts = await tab.eval(
                "agent.messages.filter((m) => m.content && m.role === 'assistant').map((m) => m.content)"
            )
    assert texts == [WHOLE]


async def test_a_chat_goes_on_when_the_gateway_goes_and_what_is_said_meanwhile_arrives(
    restartable: Restartable, ann: Broker, page: Any, chat: str
) -> None:
    """In the middle of an answer, and in the middle of a message."""
    async with page() as one, page() as two:
        async with restartable.up() as base:
            for tab in (one, two):
                await enter(tab, base, chat, "ai7")
            await one.eval("void chat.sendMessage({text: 'hello'})")
            await two.wait(BEGUN)
        async with restartable.up():
            for tab in (one, two):
                await tab.wait(DONE)
        await one.wait("session.status === 'offline'")
        await one.eval("void chat.sendMessage({text: 'offline'})")
        assert await one.eval("chat.status") == "submitted"
        async with restartable.up():
            for tab in (one, two):
                await tab.wait(f"chat.messages.length === 4 && {DONE}")
    assert [event.body["text"] async for event in _inputs(ann, chat)] == ["hello", "offline"]


async def test_a_durable_fetch_gives_up_with_an_error_and_leaves_when_it_is_told(
    restartable: Restartable, page: Any, chat: str
) -> None:
    """After its patience; at once when the answer is gone, or nobody reads any more."""
    begin = "fetch_(base + '/api/chat', {method: 'POST', body: JSON.stringify({id: chat, messages: [{id: ID, role: 'user', parts: [{type: 'text', text: 'x'}]}]})})"
    async with page() as tab:
        async with restartable.up() as base:
            await tab.do("keep", "base", repr(base))
            await tab.do("keep", "chat", repr(chat))
            await tab.do("keep", "fetch_", "durableFetch({patience: 300, backoff: {base: 50, most: 100}})")
            await tab.do("keep", "first", begin.replace("ID", "'m1'"))
            await tab.do("keep", "second", begin.replace("ID", "'m2'"))
            await tab.eval("second.body.cancel()")
            refused = await tab.eval(
                "fetch_(base + '/api/chat', {method: 'POST', body: '{'}).then((one) => one.status)"
            )
        with pytest.raises(RefusedError, match=r"fetch failed|terminated|does not answer"):
            await asyncio.wait_for(tab.eval("first.text()"), 30)
    assert refused == 400


@pytest.mark.parametrize("version", ["ai6", "ai7"])
async def test_an_approval_in_one_tab_lets_the_answer_go_on_in_the_other(
    gateway: Any, ann: Broker, programs: Any, page: Any, fresh: Callable[[str], str], version: str
) -> None:
    """The stream ends where a person is asked, and a chat that follows goes on behind the answer."""
    base = f"http://127.0.0.1:{gateway.port}"
    session, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, "said = await run.approve('Refund?', to=['user'])\nawait run.text(f'approved: {bool(said)}')")
    await ann.session(session).create(agents=[agent])
    async with page() as one, page() as two:
        for tab in (one, two):
            await tab.open(base, session)
            await tab.do("keep", "transport", f"new DurableChatTransport(session, {{profile: {version[-1]}}})")
            await tab.do("keep", "chat", f"await makeChat({version!r}, session.session, transport)")
            await tab.do("keep", "following", "follow(session, chat, transport)")
        await one.eval("void chat.sendMessage({text: 'hello'})")
        for tab in (one, two):
            await tab.wait("chat.messages[1]?.parts.some((part) => part.state === 'approval-requested')")
            await tab.wait("chat.status === 'ready'")
        await two.eval("session.approve(session.view.asks[0].ask)")
        for tab in (one, two):
            await tab.wait(f"chat.status === 'ready' && ({SHOWN})[1] === 'approved: True'")
        assert await one.eval("chat.messages.length") == 2


async def test_an_answer_made_again_and_a_changed_message_reach_the_other_tab(
    gateway: Any, ann: Broker, programs: Any, page: Any, fresh: Callable[[str], str]
) -> None:
    """All tabs show the branch that is selected."""
    base = f"http://127.0.0.1:{gateway.port}"
    session, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, "await run.text(f'{run.input.text}: {time.time_ns()}')")
    await ann.session(session).create(agents=[agent])
    async with page() as one, page() as two:
        for tab in (one, two):
            await enter(tab, base, session, "ai7")
        await one.eval("chat.sendMessage({text: 'hello'})")
        for tab in (one, two):
            await tab.wait("chat.status === 'ready' && chat.messages[1]?.metadata?.durable")
        before = await two.eval(f"({SHOWN})[1]")
        await one.eval("chat.regenerate()")
        await two.wait(f"chat.status === 'ready' && ({SHOWN})[1] && ({SHOWN})[1] !== {before!r}")
        await one.wait(f"chat.status === 'ready' && chat.messages[0].id === {await two.eval('chat.messages[0].id')!r}")
        await one.eval("chat.sendMessage({text: 'changed', messageId: chat.messages[0].id})")
        for tab in (one, two):
            await tab.wait(f"chat.status === 'ready' && ({SHOWN})[1]?.startsWith('changed: ')")
            assert await tab.eval("chat.messages.length") == 2
        await two.wait("chat.messages[1]?.metadata?.durable")
        assert await one.eval(SHOWN) == await two.eval(SHOWN)


async def test_two_people_who_speak_at_once_see_the_same_in_the_end(gateway: Any, page: Any, chat: str) -> None:
    """Each of them streams an answer of their own meanwhile."""
    base = f"http://127.0.0.1:{gateway.port}"
    async with page() as ann, page() as bob:
        await enter(ann, base, chat, "ai7", member="ann")
        await enter(bob, base, chat, "ai7", member="bob")
        for tab, text in ((ann, "from ann"), (bob, "from bob")):
            await tab.eval(f"void chat.sendMessage({{text: {text!r}}})")
        for tab in (ann, bob):
            await tab.wait(f"chat.messages.length === 4 && {DONE} && ({SHOWN})[1] === {WHOLE!r}")
            await tab.wait("chat.messages.every((message) => message.metadata?.durable)")
        shown = [await tab.eval("chat.messages") for tab in (ann, bob)]
    assert {message["metadata"]["durable"].get("from") for message in shown[0]} == {"ann", "bob", None}
    assert shown[0] == shown[1]


def test_the_client_fits_the_types_of_the_packages_that_it_is_for(clients: Path) -> None:
    """Strictly, for each major version."""
    flags = "--noEmit --strict --skipLibCheck --target ES2022 --module NodeNext --moduleResolution NodeNext"
    command = [
        "node_modules/.bin/tsc",
        *flags.split(),
        "--lib",
        "ES2023,DOM,DOM.Iterable,DOM.AsyncIterable",
        "types.ts",
    ]
    done = subprocess.run(command, cwd=clients, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


async def test_an_answer_arrives_whole_wherever_its_connections_are_cut(
    gateway: Any, proxy: Any, ann: Broker, page: Any, chat: str
) -> None:
    """Between frames, within them, by a clean end and by a reset, again and again."""
    sent = await ann.session(chat).send("hello", to="all")
    cuts = (700, 701, 803, 950, 1001, 1203, 1502, 2048, 3333, 5001)
    async with AsyncExitStack() as stack, page() as tab:
        ports = []
        for cut in cuts:
            between = await stack.enter_async_context(proxy(gateway.port))
            between.cut_after = cut
            ports.append(between.port)
        read = f"""async (port) => {{
            const fetch = durableFetch({{backoff: {{base: 5, most: 50}}, patience: 20000}});
            const text = await (await fetch(`http://127.0.0.1:${{port}}/api/chat/{chat}~{sent.run}/stream`)).text();
            return text.split("\\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        }}"""
        await tab.do("keep", "read", f"({read})")
        found = await tab.eval(f"Promise.all({ports}.map(read))")
    for lines in found:
        assert lines.pop() == "[DONE]"
        chunks = [json.loads(line) for line in lines]
        assert "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta") == WHOLE
        kinds = [chunk["type"] for chunk in chunks]
        assert [
            kinds.count(kind) for kind in ("start", "text-start", "text-end", "tool-output-available", "finish")
        ] == [1] * 5
