"""Unmodified clients of the Vercel AI SDK, versions 5.0 to 7: every shown message is what the log says."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

VERSIONS = ("ai50", "ai5", "ai60", "ai6", "ai7")
ANSWER = """
await run.reasoning("thinking ")
async with run.tool("search", {"q": run.input.text}) as tool:
    tool.output = ["found"]
for number in range(60):
    await run.text(f"w{number} ")
    await asyncio.sleep(0.02)
await run.source("https://example.org/a", title="A")
await run.data("score", {"value": 1}, id="s")
await run.usage(output_tokens=60)
"""
WHOLE = "".join(f"w{number} " for number in range(60))

#: what an adapter writes of a framework's sub-agents: one that works for a tool call, one that was handed on to
SUBAGENTS = """
async def told(id, **about):
    await run.emit({"type": "data", "name": "subagent", "id": id, "data": {"parent": None, "call": None, **about}})
await run.emit({"type": "tool.input", "call": "c1", "tool": "think", "input": {}})
await told("h/1", name="thinker", status="running", call="c1")
await run.emit({"type": "text.delta", "part": "p1", "text": "deep ", "by": "h/1"})
await run.emit({"type": "text.delta", "part": "p1", "text": "thought"})
await run.emit({"type": "tool.input", "call": "c2", "tool": "look", "input": {}, "by": "h/1"})
await run.emit({"type": "tool.output", "call": "c2", "output": "seen"})
await run.emit({"type": "text.end", "part": "p1"})
await told("h/1", name="thinker", status="done", call="c1")
await run.emit({"type": "tool.output", "call": "c1", "output": "thought"})
await told("x2", name="expert", status="running")
await run.emit({"type": "text.delta", "part": "p2", "text": "Sunny.", "by": "x2"})
"""


class App:
    """A process with an AI SDK client in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, *command: Any) -> dict[str, Any]:
        """Do something and return what the app shows then."""
        self.begin(*command)
        return await self.line()

    def begin(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            text = await self._process.stdout.readline()
        if not text:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-2000:])
        return dict(json.loads(text))


@asynccontextmanager
async def running(folder: Path, script: str, *arguments: str) -> AsyncIterator[App]:
    """Run an app."""
    process = await asyncio.create_subprocess_exec(
        "node", script, *arguments, cwd=folder, limit=2**24,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield App(process)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def app(gateway: Any, clients: Path) -> Callable[..., Any]:
    """Start an app: `async with app("ai5", chat) as tab:`."""
    return lambda version, chat, query="", scheme="http": running(
        clients, "chat.mjs", version, f"{scheme}://127.0.0.1:{gateway.port}/api/chat{query}", chat
    )


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A chat with an agent."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


def text_of(message: dict[str, Any], kind: str = "text") -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == kind)


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unmodified_app_shows_an_answer_with_its_parts(app: Any, chat: str, version: str) -> None:
    """Text, reasoning, tool call, source, data, who said it, and the usage."""
    async with app(version, chat) as tab:
        shown = await tab.do("send", "hello")

    user, answer = shown["messages"]
    tool = next(part for part in answer["parts"] if part["type"] == "dynamic-tool")
    assert (shown["status"], shown.get("error")) == ("ready", None)
    assert (text_of(user), text_of(answer), text_of(answer, "reasoning")) == ("hello", WHOLE, "thinking ")
    assert (tool["state"], tool["input"], tool["output"]) == ("output-available", {"q": "hello"}, ["found"])
    assert {part["type"] for part in answer["parts"]} >= {"source-url", "data-score", "data-agent"}
    assert answer["metadata"]["durable"]["usage"] == {"output_tokens": 60}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_reloaded_page_shows_the_answer_in_the_making_and_its_end(
    app: Any, gateway: Any, chat: str, version: str
) -> None:
    """The first tab is gone in the middle; history and stream together are the whole conversation, once."""
    url = f"http://127.0.0.1:{gateway.port}/api/chat/{chat}/messages"
    async with app(version, chat) as second:
        await second.do("show")  # it runs: a node that starts on a busy machine outlasts the answer
        async with app(version, chat) as first:
            first.begin("begin", "send", "hello")
            while not text_of(((await first.do("show"))["messages"] or [{"parts": []}])[-1]).startswith("w0 w1 "):
                pass
        loaded = await second.do("load", url)
        shown = await second.do("resume")
        again = await second.do("resume")
    async with app(version, chat) as late:
        late_shown = await late.do("load", url)

    assert [message["role"] for message in loaded["messages"]] == ["user"]
    assert [text_of(message) for message in shown["messages"]] == ["hello", WHOLE]
    assert [text_of(message) for message in again["messages"]] == ["hello", WHOLE]
    assert [text_of(message) for message in late_shown["messages"]] == ["hello", WHOLE]
    assert shown["messages"][1]["id"] == late_shown["messages"][1]["id"]


@pytest.mark.parametrize("version", ["ai5", "ai6", "ai7"])
async def test_a_stop_on_one_device_ends_the_answer_on_the_other(
    app: Any, gateway: Any, ann: Broker, chat: str, version: str
) -> None:
    """The other tab gets its end, and the metadata say why; a closed tab has cancelled nothing."""
    async with app(version, chat) as tab:
        tab.begin("begin", "send", "hello")
        while not text_of(((await tab.do("show"))["messages"] or [{"parts": []}])[-1]).startswith("w0 w1 "):
            pass
        stopped = await gateway.http.post(f"/api/chat/{chat}/stop")
        done = await tab.line()
        shown = await tab.do("show")

    assert stopped.status_code == 202
    assert done == {"done": "send"}
    assert shown["status"] == "ready"
    assert shown["messages"][1]["metadata"]["durable"]["outcome"] == "cancelled"
    assert text_of(shown["messages"][1]) != WHOLE


async def test_concurrent_agents_come_as_parts_of_one_message_grouped_by_agent(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Their texts interleave on the wire and stay apart on the screen."""
    names = [fresh("one"), fresh("two"), fresh("three")]
    for name in names:
        programs.agent(
            name, f'for n in range(30):\n    await run.text(f"{name[:3]}{{n}} ")\n    await asyncio.sleep(0.01)'
        )
    chat = fresh("chat")
    await ann.session(chat).create(agents=names)
    async with app("ai5", chat) as tab:
        shown = await tab.do("send", "hello")

    parts = shown["messages"][1]["parts"]
    texts = {part["providerMetadata"]["durable"]["agent"]: part["text"] for part in parts if part["type"] == "text"}
    assert texts == {name: "".join(f"{name[:3]}{n} " for n in range(30)) for name in names}
    assert {part["data"]["agent"] for part in parts if part["type"] == "data-agent"} == set(names)
    assert {part["data"]["status"] for part in parts if part["type"] == "data-agent"} == {"done"}


async def test_a_stream_goes_on_exactly_behind_any_frame_at_any_gateway(
    serve: Any, ann: Broker, chat: str, eventually: Any
) -> None:
    """Whatever `id:` a client has last, the rest completes the text: also when the run has finished meanwhile."""
    async with serve() as one, serve() as two:
        body = {"id": chat, "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]}
        async with one.http.stream("POST", "/api/chat", json=body) as answer:
            place = answer.headers["x-stream-url"]
            lines = [line async for line in answer.aiter_lines()]
        frames = [
            (lines[i][4:], json.loads(lines[i + 1][6:])) for i in range(len(lines) - 1) if lines[i].startswith("id: ")
        ]
        texts = []
        for count in range(1, len(frames), 7):
            had = "".join(chunk.get("delta", "") for _, chunk in frames[:count] if chunk["type"] == "text-delta")
            rest = await two.http.get(place, headers={"last-event-id": frames[count - 1][0]})
            chunks = [json.loads(line[6:]) for line in rest.text.splitlines() if line.startswith("data: {")]
            texts.append(had + "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"))
            assert chunks[-1]["type"] == "finish"

    assert len(texts) > 5
    assert set(texts) == {WHOLE}


@pytest.mark.parametrize("version", VERSIONS)
async def test_regenerating_and_editing_make_branches_and_the_history_follows(
    app: Any, gateway: Any, chat: str, version: str
) -> None:
    """The app shows what it replaced as replaced; a reload shows the same; the log keeps every sibling."""
    async with app(version, chat) as tab:
        first = await tab.do("send", "one")
        again = await tab.do("regenerate")
        edited = await tab.do("edit", first["messages"][0]["id"], "two")
    history = (await gateway.http.get(f"/api/chat/{chat}/messages")).json()
    view = (await gateway.http.get(f"/sessions/{chat}")).json()

    assert [text_of(message) for message in again["messages"]] == ["one", WHOLE]
    assert again["messages"][1]["id"] != first["messages"][1]["id"]
    assert [text_of(message) for message in edited["messages"]] == ["two", WHOLE]
    assert [text_of(message) for message in history] == ["two", WHOLE]
    assert [(entry["text"], entry["siblings"]) for entry in view["inputs"]] == [("one", 3), ("one", 3), ("two", 3)]


@pytest.mark.parametrize("version", ["ai50", "ai5", "ai60", "ai6", "ai7"])
async def test_what_a_sub_agent_says_for_a_tool_call_is_shown_apart(
    app: Any, gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], version: str
) -> None:
    """As reasoning, which no app takes for the answer; each part names its sub-agent; the history says the same."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, SUBAGENTS)
    await ann.session(name).create(agents=[agent])
    async with app(version, name) as tab:
        shown = await tab.do("send", "hello")
        history = await tab.do("load", f"http://127.0.0.1:{gateway.port}/api/chat/{name}/messages")

    for messages in (shown["messages"], history["messages"]):
        parts = messages[1]["parts"]
        about = {part["data"]["name"]: part for part in parts if part["type"] == "data-subagent"}
        think, look = [part for part in parts if part["type"] == "dynamic-tool"]
        (aside,) = [part for part in parts if part["type"] == "reasoning"]
        assert text_of(messages[1]) == "Sunny."
        assert aside["text"] == "deep thought"
        assert aside["providerMetadata"]["durable"] | {"run": ""} == {
            "agent": agent, "run": "", "subagent": about["thinker"]["id"], "kind": "text",
        }  # fmt: skip
        (text,) = [part for part in parts if part["type"] == "text"]
        assert text["providerMetadata"]["durable"]["subagent"] == about["expert"]["id"]
        assert about["thinker"]["data"]["call"] == think["toolCallId"]
        assert (about["thinker"]["data"]["status"], about["expert"]["data"]["call"]) == ("done", None)
        assert look["callProviderMetadata"]["durable"]["subagent"] == about["thinker"]["id"]
        assert "subagent" not in think["callProviderMetadata"]["durable"]


@pytest.mark.parametrize(("version", "approved"), [("ai6", True), ("ai7", True), ("ai7", False)])
async def test_an_approval_is_asked_and_answered_in_the_app(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], version: str, approved: bool
) -> None:
    """The stream ends where it is the person's turn, and the same message goes on with what was decided."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, """
await run.text("May I? ")
decision = await run.approve("Delete it?", data={"file": "a"})
await run.text("Yes." if decision else "No.")
""")  # fmt: skip
    await ann.session(name).create(agents=[agent])
    async with app(f"{version}", f"{name}", query=f"?ai_sdk={version[2:]}") as tab:
        asked = await tab.do("send", "hello")
        tool = next(part for part in asked["messages"][1]["parts"] if part["type"] == "dynamic-tool")
        told = await tab.do("approve", tool["approval"]["id"], approved)
        assert "messages" in told, (told, asked)

    tool = next(part for part in told["messages"][1]["parts"] if part["type"] == "dynamic-tool")
    assert len(told["messages"]) == 2
    assert text_of(asked["messages"][1]) == "May I? "
    assert text_of(told["messages"][1]) == "May I? " + ("Yes." if approved else "No.")
    assert tool["state"] == ("output-available" if approved else "output-denied")


async def test_the_websocket_transport_streams_resumes_and_its_abort_cancels(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """Stock `WebSocketChatTransport`: going away cancels nothing, a stop does, for everybody."""
    chat, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, ANSWER.replace("0.02", "0.08"))  # as long as another client may take to begin
    await ann.session(chat).create(agents=[agent])
    async with app("ai7", chat, query="/socket", scheme="ws") as first:
        whole = await first.do("send", "one")
        first.begin("begin", "send", "two")
        while not text_of((await first.do("show"))["messages"][-1]).startswith("w0 w1 "):
            pass
    async with app("ai7", chat, query="/socket", scheme="ws") as second:
        resumed = await second.do("resume")
        nothing = await second.do("resume")
        second.begin("begin", "send", "three")
        while not text_of((await second.do("show"))["messages"][-1]).startswith("w0 w1 "):
            pass
        await second.do("stop")

    async def cancelled() -> bool:
        return [run["status"] for run in (await ann.session(chat).view())["agents"][0]["runs"]][2:] == ["cancelled"]

    assert text_of(whole["messages"][1]) == WHOLE
    assert text_of(resumed["messages"][0]) == WHOLE
    assert nothing["messages"] == resumed["messages"]
    await eventually(cancelled)


async def test_wrong_frames_on_the_websocket_are_told_under_their_request(gateway: Any, chat: str) -> None:
    """Unknown types, chats that cannot be, messages that are none; what is no frame closes the socket."""
    async with connect(f"ws://127.0.0.1:{gateway.port}/api/chat/socket") as socket:

        async def told(**frame: Any) -> dict[str, Any]:
            await socket.send(json.dumps({"requestId": "r"} | frame))
            return dict(json.loads(await asyncio.wait_for(socket.recv(), 20)))

        assert (await told(type="dance"))["errorText"].startswith("type: 'dance'")
        assert (await told(type="send", id="a b", messages=[{}]))["type"] == "error"
        assert (await told(type="send", id=chat, messages="x"))["errorText"].startswith("messages")
        assert (await told(type="resume", id=f"{chat}-no"))["type"] == "error"
        assert (await told(type="resume", id=chat))["type"] == "no-active"
        await socket.send("no json")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)


async def test_a_client_that_counts_chunks_goes_on_behind_any_number_of_them(
    gateway: Any, serve: Any, chat: str
) -> None:
    """At the gateway that told them, also after the run has finished; another one refuses instead of guessing."""
    body = {"id": chat, "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]}

    def chunks(text: str) -> list[Any]:
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

    first = await gateway.http.post("/api/chat", json=body)
    whole, place = chunks(first.text), f"/api/chat/{first.headers['x-workflow-run-id']}/stream"
    for count in (len(whole) - 1, len(whole) // 2, 9, 1):  # going back: what was told after it is told anew
        rest = chunks((await gateway.http.get(place, params={"startIndex": count})).text)
        told = whole[:count] + rest
        assert "".join(one["delta"] for one in told if one["type"] == "text-delta") == WHOLE
        assert [one["type"] for one in told].count("start") == 1
        assert told[-1]["type"] == "finish"
    async with serve() as other:
        refused = await other.http.get(place, params={"startIndex": 3})
    assert refused.status_code == 409
    assert "Last-Event-ID" in refused.json()["detail"]
    assert (await gateway.http.get(place, params={"startIndex": "x"})).status_code == 400


async def test_what_cannot_be_a_chat_is_refused_clearly(gateway: Any, fresh: Callable[[str], str]) -> None:
    """Malformed messages, wrong profiles, unknown chats."""
    user = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}
    chat = fresh("chat")

    async def status(body: Any, query: str = "") -> tuple[int, str]:
        answer = await gateway.http.post(f"/api/chat{query}", json=body)
        return answer.status_code, answer.json()["detail"]

    assert (await status({"id": chat, "messages": []}))[0] == 400
    assert (await status({"id": chat, "messages": [{"role": "user"}]}))[1].startswith(
        "messages: the last one has no list"
    )
    assert (await status({"id": chat, "messages": [{"role": "user", "parts": [{"type": "text"}]}]}))[0] == 400
    assert (await status({"id": chat, "messages": [{"role": "assistant", "parts": []}]}))[0] == 400
    assert (await status({"id": "a b", "messages": [user]}))[0] == 400
    assert (await status({"id": chat, "messages": [user]}, "?ai_sdk=4"))[1].startswith("ai_sdk='4'")
    assert (await gateway.http.get(f"/api/chat/{chat}-unknown/stream")).status_code == 204  # not begun: no error
    assert (await gateway.http.get(f"/api/chat/{chat}-unknown/messages")).json() == []
    assert (await gateway.http.get(f"/api/chat/{chat}-unknown~run/stream")).status_code == 404
    assert (await gateway.http.post(f"/api/chat/{chat}-unknown/stop")).status_code == 404
