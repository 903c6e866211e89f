"""The small TypeScript client in node, against a real gateway and real agents: live, offline, and back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.broker import connect
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from tests.gateway.pages import RefusedError, Restartable, page, restartable

__all__ = ["page", "restartable"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

ANSWER = """
async with run.tool("search", {"q": run.input.text}) as tool:
    tool.output = ["found"]
for number in range(40):
    await run.text(f"w{number} ")
    await asyncio.sleep(0.02)
"""
WHOLE = "".join(f"w{number} " for number in range(40))
TEXT = "session.view.agents[0]?.runs[0]?.parts.find((part) => part.type === 'text')?.text"


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A session with an agent."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


async def view_of(base: str, session: str) -> Any:
    async with httpx.AsyncClient(base_url=base) as http:
        return (await http.get(f"/sessions/{session}")).json()


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_two_pages_and_a_late_one_show_the_same(
    restartable: Restartable, page: Any, chat: str, transport: str
) -> None:
    """While an answer streams, and after it: what the gateway's own view says."""
    node = ("--experimental-websocket",) if transport == "websocket" else ()
    async with restartable.up() as base, page(*node) as one, page(*node) as two:
        for tab in (one, two):
            await tab.open(base, chat, transport=transport)
        sent = await one.eval("session.send('hello')")
        assert await two.wait(f"{TEXT}?.startsWith('w0 w1 ') && session.view.inputs[0].text") == "hello"
        await two.open(base, chat, "late", transport=transport)
        for tab in (one, two):
            await tab.wait(f"{TEXT} === {WHOLE!r} && session.view.agents[0].runs[0].status === 'done'")
        await two.wait("late.view.position === session.view.position")
        views = [await one.eval("session.view"), await two.eval("session.view"), await two.eval("late.view")]
        expected = await view_of(base, chat)

    assert sent["run"] == views[0]["agents"][0]["runs"][0]["run"]
    assert views == [expected] * 3


async def test_what_is_said_while_the_gateway_is_away_arrives_in_order_and_once(
    restartable: Restartable, ann: Broker, page: Any, chat: str
) -> None:
    """Two inputs and a control; also when the gateway goes again in the middle of it."""
    async with page() as tab:
        async with restartable.up() as base:
            await tab.open(base, chat)
        await tab.wait("session.status === 'offline'")
        await tab.do(
            "keep", "said", "[session.send('one', {id: 'i1'}), session.send('two'), session.pause({reason: 'r'})]"
        )
        assert await tab.eval("session.outbox.entries.map((entry) => entry.kind)") == ["input", "input", "control"]
        async with restartable.up():
            answers = await tab.eval("Promise.all(said)")
            await tab.wait("session.outbox.entries.length === 0 && session.view.controls.length === 1")
        async with restartable.up():
            again = await tab.eval("session.send('one', {id: 'i1'})")
    log = [event async for event in _log(ann, chat)]
    said = [(event.kind, event.body.get("text") or event.body["type"]) for event in log if event.member == "user"]
    assert said == [("in", "one"), ("in", "two"), ("ctl", "pause")]
    assert answers[0] == again
    assert [answer["position"] for answer in answers] == [
        str(ann.session(chat).position(event.sequence)) for event in log if event.member == "user"
    ]


async def _log(ann: Broker, session: str) -> AsyncIterator[Any]:
    """Every event so far."""
    one = ann.session(session)
    end = int((await one.view())["position"].rsplit("-")[-1])
    async for event in one.follow():
        yield event
        if event.sequence >= end:
            return


async def test_what_was_said_offline_survives_a_reload(
    restartable: Restartable, ann: Broker, page: Any, chat: str
) -> None:
    """The next page sends it; a page that was closed has told its caller."""
    async with restartable.up() as base:
        pass
    about = f"{{gateway: {base!r}, session: {chat!r}, store, share: false, backoff: {{base: 50, most: 200}}}}"
    async with page() as tab:
        await tab.do("keep", "store", "new Store()")
        await tab.do("keep", "first", f"new Session({about})")
        await tab.eval("void first.open()")
        await tab.do("keep", "lost", "[first.send('one').catch((error) => error.message)]")
        await tab.eval("void first.send('two')")
        await tab.eval("first.close()")
        assert "closed before" in (await tab.eval("Promise.all(lost)"))[0]
        await tab.do("keep", "second", f"new Session({about})")
        await tab.eval("void second.open()")
        assert await tab.eval("second.outbox.entries.map((entry) => entry.body.text)") == ["one", "two"]
        async with restartable.up():
            await tab.wait("second.view?.inputs.length === 2 && second.outbox.entries.length === 0")
            assert await tab.eval("store.size") == 1  # the name of the device
    said = [event.body["text"] async for event in _log(ann, chat) if event.kind == "in"]
    assert said == ["one", "two"]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_gateway_that_goes_in_the_middle_loses_and_doubles_nothing(
    restartable: Restartable, page: Any, chat: str, transport: str
) -> None:
    """The page goes on behind the last event it had."""
    async with page(*(("--experimental-websocket",) if transport == "websocket" else ())) as tab:
        async with restartable.up() as base:
            await tab.open(base, chat, transport=transport)
            await tab.eval("session.on('event', (event) => seen.push(event.position)) && null")
            await tab.eval("session.on('control-frame', (frame) => seen.push(frame.control)) && null")
            await tab.eval("session.send('hello')")
            await tab.wait(f"{TEXT}?.startsWith('w0 w1 ')")
        async with restartable.up() as base:
            await tab.wait(f"{TEXT} === {WHOLE!r} && session.view.agents[0].runs[0].status === 'done'")
            assert await tab.eval("session.view") == await view_of(base, chat)
            assert 0 <= await tab.eval("session.lag") < 20_000
            seen = [int(item.rsplit("-")[-1]) for item in await tab.eval("seen") if item not in ("presence", "cut")]
            log = await tab.eval(
                "(async () => { const found = []; for await (const one of session.history()) found.push(one); return found; })()"
            )
    assert len(seen) > 40
    assert seen == sorted(set(seen))
    assert [entry["kind"] for entry in log][:2] == ["meta", "in"]


async def test_a_session_that_was_made_again_meanwhile_is_shown_from_its_beginning(
    restartable: Restartable, ann: Broker, page: Any, chat: str
) -> None:
    """The old position means nothing any more."""
    async with page() as tab:
        async with restartable.up() as base:
            await tab.open(base, chat)
            await tab.eval("session.on('control-frame', (frame) => seen.push(frame.control)) && null")
        await ann.session(chat).delete()
        await ann.session(chat).create(title="new")
        async with restartable.up():
            await tab.wait("session.view.meta.title === 'new'")
            assert "reset" in await tab.eval("seen")


async def test_a_deleted_session_ends(restartable: Restartable, ann: Broker, page: Any, chat: str) -> None:
    """For a page that looks, and for one that comes back."""
    async with page() as tab, page() as away:
        async with restartable.up() as base:
            await away.open(base, chat)
        await away.wait("session.status === 'offline'")
        await away.eval("clearTimeout(0)")
        async with restartable.up():
            await tab.open(base, chat)
            await tab.do(
                "keep", "ended", "[(async () => { for await (const event of session.events); return true; })()]"
            )
            await ann.session(chat).delete()
            assert await tab.wait("session.status === 'deleted'")
            assert await tab.eval("Promise.all(ended)") == [True]
            assert await away.wait("session.status === 'deleted'")


async def test_tabs_share_one_feed_and_a_next_one_takes_over(gateway: Any, page: Any, chat: str) -> None:
    """Whoever leads; what one of them says stands in all."""
    base = f"http://127.0.0.1:{gateway.port}"
    names = ("one", "two", "three")
    async with page() as tab:
        await tab.eval("Object.defineProperty(globalThis, 'navigator', {value: {locks: new Locks()}}) && null")
        for name in names:
            await tab.open(base, chat, name, share=True, device="d")
        assert gateway.count("clients") == 1
        await tab.eval("two.send('hello')")
        await tab.wait("three.view.agents[0]?.runs[0]?.parts[1]?.text.length > 9")
        await tab.eval("one.close()")
        for name in names[1:]:
            await tab.wait(f"{name}.view.agents[0].runs[0].status === 'done' && {name}.status === 'live'")
        views = [await tab.eval(f"{name}.view") for name in names[1:]]
        assert views == [await view_of(base, chat)] * 2
        assert gateway.count("clients") == 1
        await tab.open(base, chat, "late", share=True, device="d")
        assert await tab.eval("late.view") == views[0]
        assert await tab.eval("late.presence.length") > 0
        assert gateway.count("clients") == 1


async def test_people_answer_asks_take_the_floor_and_go_away(gateway: Any, ann: Broker, page: Any, chat: str) -> None:
    """And the other page sees it."""
    base = f"http://127.0.0.1:{gateway.port}"
    asked = await ann.session(chat).asks.ask("Ship it?", to=["bob"], options=["approve", "deny"], id="a1")
    async with page() as bob, page() as user:
        await bob.open(base, chat, member="bob")
        await user.open(base, chat)
        assert (await bob.eval("session.approve('a1', 'fine')"))["status"] == "decided"
        await user.wait("session.view.asks[0].value === 'approve'")
        await bob.eval("session.floor('take', {reason: 'my turn'})")
        await user.wait("session.view.floor?.holder === 'bob'")
        assert (await user.eval("session.brief()"))["session"] == chat
        await bob.eval("session.away({reason: 'lunch'})")
        await user.wait("session.presence.find((one) => one.member === 'bob')?.reason === 'lunch'")
        await bob.eval("session.back()")
        await user.wait("session.presence.find((one) => one.member === 'bob')?.status === 'joined'")
        value = await bob.eval("session.state.set('plan', {step: 1}, {expect: 0})")
        await bob.eval("session.state.patch('plan', {more: true})")
        await user.wait("session.view.state.plan?.value.more === true")
        with pytest.raises(RefusedError, match="412"):
            await user.eval(f"session.state.set('plan', null, {{expect: {value['revision']}}})")
        assert await user.eval("session.state.delete('plan')") is True
        assert [await user.eval("session.state.delete('plan')"), await user.eval("session.state.get('plan')")] == [
            False,
            None,
        ]
    assert asked.ask == "a1"


async def test_bad_input_is_refused_with_what_was_wrong(gateway: Any, page: Any, chat: str) -> None:
    """And what was said after it is sent all the same."""
    base = f"http://127.0.0.1:{gateway.port}"
    async with page() as tab:
        with pytest.raises(RefusedError, match="404"):
            await tab.open(base, "nowhere")
        with pytest.raises(RefusedError, match="session: which one"):
            await tab.open(base, "")
        with pytest.raises(RefusedError, match="gateway: where"):
            await tab.eval("new Session({session: 's'})")
        await tab.open(base, chat)
        await tab.do(
            "keep", "said", "[session.send('x', {to: 'no agent!'}).catch((error) => error.status), session.send('y')]"
        )
        assert (await tab.eval("Promise.all(said)"))[0] == 400
        for code in (
            "session.answer('nothing', 'x')", "session.floor('dance')",
            "session.state.set('a b', 1)", "session.send('x', {edits: {from: 'a b', input: 'none'}})",
        ):  # fmt: skip
            with pytest.raises(RefusedError, match='"status": 4'):
                await tab.eval(code)
        assert await tab.eval("session.outbox.entries") == []


async def test_any_line_ends_and_any_cuts_are_understood(page: Any) -> None:
    """The parser gets a stream byte by byte, in every spelling of its lines."""
    text = "\ufeffretry: 5\n\n: hi\nid: 1\ndata: é🦜 a\ndata:b\n\nevent: x\ndata\n\nid: a\0b\nnothing: x\n\ndata:  c\n\ndata: cut"
    expected = [
        {"event": "", "data": "é🦜 a\nb", "id": "1"},
        {"event": "x", "data": "", "id": "1"},
        {"event": "", "data": " c", "id": "1"},
    ]
    async with page() as tab:
        for line_end in ("\n", "\r\n", "\r"):
            for size in (1, 2, 3, 1000):
                code = f"""(() => {{
                    const bytes = new TextEncoder().encode({json.dumps(text.replace(chr(10), line_end))});
                    const parser = new SseParser();
                    const found = [];
                    for (let at = 0; at < bytes.length; at += {size}) found.push(...parser.feed(bytes.subarray(at, at + {size})));
                    return [found, parser.retry];
                }})()"""
                assert await tab.eval(code) == [expected, 5], (line_end, size)


async def test_the_readme_of_the_package_runs_as_it_stands(
    gateway: Any, programs: Any, clients: Path, tmp_path: Path
) -> None:
    """Its first program, against a gateway and an agent."""
    package = clients.parents[1] / "orchestrator_free/web/client"
    program = (package / "README.md").read_text().split("```js\n")[1].split("```")[0]
    agent = programs.agent("outliner", "await run.text('## Outline')")
    program = program.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{gateway.port}")
    script = tmp_path / "readme.mjs"
    script.write_text(program)
    (tmp_path / "node_modules/@orchestrator-free").mkdir(parents=True)
    (tmp_path / "node_modules/@orchestrator-free/client").symlink_to(package)
    node = await asyncio.create_subprocess_exec("node", str(script), stdout=asyncio.subprocess.PIPE)
    try:
        output = (await asyncio.wait_for(node.communicate(), 60))[0].decode()
    finally:
        if node.returncode is None:
            node.kill()
    assert agent
    assert node.returncode == 0
    assert "outliner done ## Outline" in output
    assert "stored at" in output


class Guard:
    """Lets only requests with the present token through, as something in front of a gateway does."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.token = "first"
        self.refused = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        said = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        if scope["type"] == "http" and said != f"Bearer {self.token}":
            self.refused += 1
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await self._app(scope, receive, send)


async def test_a_token_is_asked_again_when_it_is_refused(broker_url: str, page: Any, chat: str) -> None:
    """For the feed and for what is said; one that stays refused is tried again later, and said."""
    async with connect(broker_url, member="gateway") as broker:
        gateway = Gateway(broker)
        guard = Guard(gateway.app)
        async with Server(guard, port=0, on_drain=gateway.drain) as served, page() as tab:
            base = f"http://127.0.0.1:{served.port}"
            await tab.do("keep", "tokens", "{asked: 0, now: ['old', 'first']}")
            about = f"gateway: {base!r}, session: {chat!r}, share: false, backoff: {{base: 50, most: 200}}"
            token = "token: async () => { tokens.asked += 1; return tokens.now.length > 1 ? tokens.now.shift() : tokens.now[0]; }"
            await tab.do("keep", "session", f"new Session({{{about}, {token}}})")
            await tab.eval("session.open()")
            assert (guard.refused, await tab.eval("tokens.asked")) == (1, 2)
            guard.token = "second"
            await tab.do("keep", "said", "[session.send('hello')]")
            await tab.wait("session.outbox.entries[0]?.error !== null")
            assert await tab.eval("tokens.now.splice(0, 1, 'second')") == ["first"]
            assert (await tab.eval("Promise.all(said)"))[0]["input"]
            await tab.wait("session.view.inputs.length === 1")


async def test_a_large_run_that_ended_meanwhile_is_fetched(
    restartable: Restartable, ann: Broker, programs: Any, page: Any, fresh: Callable[[str], str]
) -> None:
    """Its parts are an object of the session."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, "for number in range(40):\n    await run.text('x' * 50_000)")
    await ann.session(name).create(agents=[agent])
    async with page() as tab:
        async with restartable.up() as base:
            await tab.open(base, name)
        sent = await ann.session(name).send("go", to=agent)
        await ann.session(name).result(agent, sent.run, timeout=60)
        async with restartable.up():
            await tab.wait(f"({TEXT})?.length === 2_000_000 && session.view.agents[0].runs[0].object")
            assert await tab.eval("session.view") == await view_of(base, name)


async def test_a_page_that_is_no_gateway_is_not_taken_for_one(gateway: Any, page: Any, chat: str) -> None:
    """It says what is wrong, and tries again."""
    async with page() as tab:
        about = f"{{gateway: 'http://127.0.0.1:{gateway.port}', session: {chat!r}, share: false, fetch: async () => new Response('<html>')}}"
        await tab.do("keep", "session", f"new Session({about})")
        await tab.eval("void session.open()")
        assert "somebody stands in between" in await tab.wait("session.error?.message")
        assert await tab.eval("session.status") == "offline"


async def test_a_session_is_begun_by_the_first_page_even_while_offline(
    restartable: Restartable, page: Any, fresh: Callable[[str], str]
) -> None:
    """Two pages may both ask for it; without it a page can open again what failed."""
    async with restartable.up() as base:
        pass
    name = fresh("new")
    async with page() as one, page() as two:
        about = f"{{gateway: {base!r}, session: {name!r}, share: false, backoff: {{base: 50, most: 200}}, begin: {{title: 't'}}}}"
        for tab in (one, two):
            await tab.do("keep", "session", f"new Session({about})")
            await tab.eval("void session.open()")
        await one.wait("session.status === 'offline'")
        async with restartable.up():
            assert [await tab.wait("session.view?.meta.title") for tab in (one, two)] == ["t", "t"]
            with pytest.raises(RefusedError, match="404"):
                await two.open(base, f"{name}-2", "later")
            await two.eval(f"session.http.create({{session: '{name}-2'}})")
            await two.eval("later.open()")
            assert await two.eval("later.status") == "live"
