"""Unmodified clients of AG-UI (1.0 and 0.0.59), CopilotKit and TanStack AI show what the log says."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.subjects import run_id
from tests.gateway.test_chat import ANSWER, WHOLE, App, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

KINDS = ("agui1", "agui0", "copilotkit", "tanstack")


@pytest.fixture
def app(gateway: Any, clients: Path) -> Callable[..., Any]:
    """Start an app: `async with app("agui1", thread) as tab:`."""

    @asynccontextmanager
    async def start(kind: str, thread: str) -> AsyncIterator[App]:
        async with running(clients, "agui.mjs", kind, f"http://127.0.0.1:{gateway.port}", thread) as tab:
            assert await tab.line() == {"ready": kind}
            yield tab

    return start


@pytest.fixture
async def thread(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A thread with an agent."""
    name, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, ANSWER)
    await ann.session(name).create(agents=[agent])
    return name


def text_of(shown: dict[str, Any], role: str = "assistant") -> str:
    """The text that an app shows; TanStack keeps it in parts."""
    found = ""
    for message in shown["messages"]:
        if message["role"] == role:
            parts = message.get("parts") or [{"type": "text", "content": message.get("content") or ""}]
            found += "".join(part["content"] for part in parts if part["type"] == "text")
    return found


def seen(shown: dict[str, Any]) -> str:
    """Everything that an app shows, as text to look into."""
    return json.dumps(shown["messages"])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unmodified_app_shows_an_answer_with_its_reasoning_and_tool_call(
    app: Any, thread: str, kind: str
) -> None:
    """Nothing is lost on the way, and no schema of the client is violated."""
    async with app(kind, thread) as tab:
        shown = await tab.do("send", "hello")

    assert shown.get("done") == "send", shown
    assert (shown["running"], shown.get("error")) == (False, None)
    assert (text_of(shown, "user"), text_of(shown)) == ("hello", WHOLE)
    assert "thinking " in seen(shown)
    assert '"search"' in seen(shown)
    assert "found" in seen(shown)


@pytest.mark.parametrize("kind", ["agui1", "agui0", "copilotkit"])
async def test_a_second_client_joins_in_the_middle_with_everything_that_was_said(
    app: Any, gateway: Any, thread: str, kind: str
) -> None:
    """History, what the person said, and the answer in the making until its end; joining again changes nothing."""
    async with app(kind, thread) as first:
        await first.do("send", "one")
        first.begin("begin", "send", "two")
        while not text_of(await first.do("show")).startswith(f"{WHOLE}w0 w1 "):
            pass
        async with app(kind, thread) as second:
            shown = await second.do("connect")
            again = await second.do("connect")

    assert (text_of(shown, "user"), text_of(shown)) == ("onetwo", WHOLE + WHOLE)
    assert (text_of(again, "user"), text_of(again)) == ("onetwo", WHOLE + WHOLE)


async def test_a_copilotkit_client_stops_what_another_one_started(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Its stop is a cancel in the log; the other client's run ends, with what it had."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, ANSWER.replace("range(60)", "range(10_000)"))
    await ann.session(thread).create(agents=[agent])
    async with app("copilotkit", thread) as first, app("copilotkit", thread) as second:
        first.begin("begin", "send", "hello")
        while not text_of(await first.do("show")).startswith("w0 w1 "):
            pass
        second.begin("begin", "connect")
        while not text_of(await second.do("show")).startswith("w0 w1 "):
            pass
        await second.do("stop")
        done = await first.line()
        shown = await first.do("show")

    view = await ann.session(thread).view()
    assert done == {"done": "send"}
    assert view["agents"][0]["runs"][0]["status"] == "cancelled"
    assert text_of(shown).startswith("w0 w1 ")


@pytest.mark.parametrize("kind", ["agui1", "agui0"])
async def test_a_client_that_goes_away_cancels_nothing(
    app: Any, ann: Broker, thread: str, kind: str, eventually: Any
) -> None:
    """Its abort is a closed connection, which the agent does not notice."""
    async with app(kind, thread) as tab:
        tab.begin("begin", "send", "hello")
        while not text_of(await tab.do("show")).startswith("w0 w1 "):
            pass
        await tab.do("stop")

    async def done() -> bool:
        runs = (await ann.session(thread).view())["agents"][0]["runs"]
        return bool(runs) and runs[0]["status"] == "done"

    await eventually(done, 30)


async def test_concurrent_agents_are_subagents_to_a_modern_client(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Each message says whose it is; an older client gets the same messages without that."""
    names = [fresh("one"), fresh("two")]
    for name in names:
        programs.agent(
            name, f'for n in range(30):\n    await run.text(f"{name[:3]}{{n}} ")\n    await asyncio.sleep(0.01)'
        )
    texts = {name: "".join(f"{name[:3]}{n} " for n in range(30)) for name in names}
    thread = fresh("thread")
    await ann.session(thread).create(agents=names)
    async with app("agui1", thread) as modern:
        shown = await modern.do("send", "hello")
    async with app("agui0", thread) as older:
        plain = await older.do("send", "again")

    said = [one for one in shown["messages"] if one["role"] == "assistant"]
    assert {one["subagentRunId"].partition(".")[0]: one["content"] for one in said} == texts
    assert sorted(one["content"] for one in plain["messages"] if one["role"] == "assistant") == sorted(texts.values())


async def test_a_run_that_is_asked_for_again_is_answered_from_where_the_client_stands(
    gateway: Any, serve: Any, ann: Broker, thread: str
) -> None:
    """Under one run id it is one run; `Last-Event-ID` behind any frame, at any gateway, completes the text."""
    body = {
        "threadId": thread,
        "runId": "r-1",
        "protocolVersion": "1.0",
        "messages": [{"id": "u", "role": "user", "content": "hi"}],
    }
    async with serve() as other:
        first = await gateway.http.post("/api/agui", json=body)
        frames = [line for line in first.text.split("\n\n") if line.startswith("id: ")]
        texts = set()
        for count in range(1, len(frames), 9):
            place = frames[count - 1].partition("\n")[0][4:]
            rest = await other.http.post("/api/agui", json=body, headers={"last-event-id": place})
            events = [
                json.loads(frame.partition("data: ")[2])
                for frame in [*frames[:count], *rest.text.split("\n\n")]
                if "data: " in frame
            ]
            texts.add("".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"))
        joined = await other.http.get("/api/agui", params={"threadId": thread, "runId": "r-1", "offset": "-1"})
        hydrated = (await other.http.get("/api/agui", params={"threadId": thread})).json()

    view = await ann.session(thread).view()
    assert texts == {WHOLE}
    assert [run["run"] for run in view["agents"][0]["runs"]] == [run_id("user", "r-1")]
    assert joined.text.count("RUN_FINISHED") == 1
    assert hydrated["activeRun"] is None
    assert [message["role"] for message in hydrated["messages"]] == ["user", "assistant", "assistant"]
    kinds = [part["type"] for message in hydrated["messages"] for part in message["parts"]]
    assert kinds == ["text", "tool-call", "tool-result", "text"]


async def test_what_cannot_be_a_run_is_refused_clearly(gateway: Any, thread: str, fresh: Callable[[str], str]) -> None:
    """No user's words, no thread, wrong targets; an unknown thread is an empty one."""
    user = {"id": "u", "role": "user", "content": "x"}
    good = {"threadId": thread, "runId": "r", "messages": [user]}

    async def status(**change: Any) -> int:
        return (await gateway.http.post("/api/agui", json=good | change)).status_code

    assert await status(messages=[]) == 400
    assert await status(messages=[{"role": "assistant", "content": "x"}]) == 400
    assert await status(messages=[user | {"content": 7}]) == 400
    assert await status(threadId="a b") == 400
    assert await status(forwardedProps={"to": 5}) == 400
    assert (await gateway.http.get("/api/agui", params={"threadId": fresh("no")})).json()["messages"] == []
    assert (await gateway.http.get("/api/agui", params={"threadId": thread, "runId": "no"})).status_code == 404
