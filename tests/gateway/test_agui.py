"""Unmodified clients of AG-UI (1.0 and 0.0.59), CopilotKit and TanStack AI show what the log says."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.subjects import run_id
from tests.gateway.identity import bearer, guard, guarded, token
from tests.gateway.test_chat import ANSWER, SUBAGENTS, WHOLE, App, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from orchestrator_free import Broker

__all__ = ["guard", "guarded", "token"]  # fixtures

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


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["agui1", "agui0", "copilotkit", "tanstack"])
async def test_a_sub_agent_is_a_subagent_and_what_it_says_for_a_tool_call_is_no_answer(
    app: Any, gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], kind: str, late: bool
) -> None:
    """To a modern client it is a subagent below its tool call; an older one is shown it as reasoning. Late ones, too."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, SUBAGENTS)
    session = ann.session(thread)
    await session.create(agents=[agent])
    async with app(kind, thread) as tab:
        shown = await tab.do("send", "hello")
    body = {"threadId": thread, "runId": "r-2", "protocolVersion": "1.0", "messages": []}
    told = await gateway.http.post("/api/agui/connect", json=body | {"messages": []})
    if late:
        if kind == "tanstack":
            pytest.skip("it has no way to join")
        async with app(kind, thread) as tab:
            shown = await tab.do("connect")

    assert shown.get("error") is None
    if kind == "agui1":
        said = {
            one["content"]: one["subagentRunId"]
            for one in shown["messages"]
            if one.get("content") in ("deep thought", "Sunny.")
        }
        assert set(said) == {"deep thought", "Sunny."}
        assert said["deep thought"] != said["Sunny."]
        assert "MESSAGES_SNAPSHOT" in told.text
    else:
        assert text_of(shown) == "Sunny."
        assert late or "deep thought" in seen(shown)


async def test_a_modern_client_is_told_where_a_sub_agent_belongs(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Under the tool call that it works for; it begins and ends once, around all that it wrote."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, SUBAGENTS)
    await ann.session(thread).create(agents=[agent])
    said = {"id": "u", "role": "user", "content": "hi"}
    body = {"threadId": thread, "runId": "r-1", "protocolVersion": "1.0", "messages": [said]}
    for _ in range(2):  # as it is written, and of the finished run
        text = (await gateway.http.post("/api/agui", json=body)).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        begun = [event for event in events if event["type"] == "SUBAGENT_STARTED"]
        call = next(event["toolCallId"] for event in events if event.get("toolCallName") == "think")
        assert [(one["name"], one.get("parentToolCallId")) for one in begun] == [("thinker", call), ("expert", None)]
        thinker, expert = [one["subagentRunId"] for one in begun]
        whose = [
            event["type"] for event in events if event.get("subagentRunId") == thinker and event["type"] != "CUSTOM"
        ]
        assert whose[0] == "SUBAGENT_STARTED"
        assert whose[-1] == "SUBAGENT_FINISHED"
        assert (
            whose.count("SUBAGENT_STARTED") == whose.count("SUBAGENT_FINISHED") == whose.count("TOOL_CALL_START") == 1
        )
        assert {event.get("subagentRunId") for event in events if event.get("delta") == "Sunny."} == {expert}


@pytest.mark.parametrize(
    ("answer", "value"),
    [({"payload": True}, "approve"), ({"payload": {"approved": False, "comment": "no"}}, "deny"),
     ({"payload": "approve"}, "approve"), ({"status": "cancelled"}, "deny")],
)  # fmt: skip
async def test_an_unmodified_client_answers_an_ask_by_its_interrupt(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], answer: dict[str, Any], value: str
) -> None:
    """The run ends where it is the person's turn; the next one answers, and the same text goes on in its place."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, """
await run.text("May I? ")
await run.emit({"type": "data", "name": "subagent", "id": "h", "data": {"name": "thinker", "status": "running"}})
decision = await run.approve("Delete it?", data={"file": "a"}, seconds=600)
await run.text("Yes." if decision else "No.")
""")  # fmt: skip
    session = ann.session(thread)
    await session.create(agents=[agent])
    async with app("agui1", thread) as tab:
        asked = await tab.do("send", "hello")
        (interrupt,) = asked["interrupts"]
        refused = await tab.do("send", "and now?")
        told = await tab.do("resume", {"interruptId": interrupt["id"], "status": "resolved"} | answer)
        assert "messages" in told, told

    (ask,) = (await session.view())["asks"]
    assert (interrupt["reason"], interrupt["message"]) == ("approval", "Delete it?")
    assert interrupt["responseSchema"] == {"type": "string", "enum": ["approve", "deny"]}
    assert (interrupt["metadata"]["ask"], interrupt["metadata"]["data"]) == (ask["ask"], {"file": "a"})
    assert interrupt["expiresAt"]
    assert "pending interrupt" in refused["failed"]
    assert (ask["value"], ask["by"], told["interrupts"]) == (value, ["user"], [])
    assert text_of(asked) == "May I? "
    assert text_of(told) == "May I? " + ("Yes." if value == "approve" else "No.")
    assert [run["status"] for run in (await session.view())["agents"][0]["runs"]] == ["done"]


async def test_an_interrupt_of_two_agents_is_resumed_where_each_stands(
    app: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Both wait; somebody else answers the one meanwhile, the client the other; a second client joins and sees all."""
    thread, names = fresh("thread"), [fresh("one"), fresh("two")]
    for name in names:
        programs.agent(name, f"""
await run.reasoning("hm ")
await run.text("{name[:3]}? ")
decision = await run.ask("Which?", options=["a", "b"])
await run.text(decision.value)
again = await run.ask("And?", options=["a", "b"])
await run.text(again.value)
""")  # fmt: skip
    session = ann.session(thread)
    await session.create(agents=names)
    async with app("agui1", thread) as tab:
        shown = await tab.do("send", "hello")
        assert len(shown["interrupts"]) == 2
        first = shown["interrupts"][0]
        await session.asks.answer(first["metadata"]["ask"], "b")
        for _ in range(2):
            answers = [{"interruptId": one["id"], "status": "resolved", "payload": "a"} for one in shown["interrupts"]]
            shown = await tab.do("resume", *answers)
            assert "interrupts" in shown, shown
        while shown["interrupts"]:
            answers = [{"interruptId": one["id"], "status": "resolved", "payload": "a"} for one in shown["interrupts"]]
            shown = await tab.do("resume", *answers)
            assert "interrupts" in shown, shown
        async with app("agui1", thread) as other:
            joined = await other.do("connect")

    whole = {f"{first['metadata']['from'][:3]}? ba"} | {
        f"{name[:3]}? aa" for name in names if name != first["metadata"]["from"]
    }
    for one in (shown, joined):
        assert {message["content"] for message in one["messages"] if message["role"] == "assistant"} == whole


async def test_a_run_that_goes_on_behind_an_interrupt_is_resumed_at_any_gateway(
    gateway: Any, serve: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Its `x-stream-url` and `Last-Event-ID`, behind any frame: the same run of the protocol, and the rest of the text."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, """
await run.text("May I? ")
await run.approve("Ok?")
for number in range(20):
    await run.text(f"w{number} ")
""")  # fmt: skip
    await ann.session(thread).create(agents=[agent])
    said = {"id": "u", "role": "user", "content": "hi"}
    body = {"threadId": thread, "runId": "r-1", "protocolVersion": "1.0", "messages": [said]}

    def told(text: str) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]

    first = told((await gateway.http.post("/api/agui", json=body, timeout=60)).text)
    (interrupt,) = first[-1]["outcome"]["interrupts"]
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "approve"}]
    second = await gateway.http.post("/api/agui", json=body | {"runId": "r-2", "resume": resume}, timeout=60)
    frames = [frame for frame in second.text.split("\n\n") if "data: " in frame]
    texts = set()
    async with serve() as other:
        for count in range(1, len(frames), 3):
            headers = {"last-event-id": frames[count - 1].partition("\n")[0].removeprefix("id: ")}
            rest = await other.http.get(second.headers["x-stream-url"], headers=headers, timeout=60)
            events = told("\n\n".join(frames[:count])) + told(rest.text)
            texts.add("".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"))
            assert [event["runId"] for event in events if event["type"].startswith("RUN_")] == ["r-2", "r-2"]

    assert texts == {"".join(f"w{number} " for number in range(20))}


async def test_an_answer_that_waits_for_somebody_else_is_not_interrupted(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """The reader cannot answer: the run goes on when they who were asked have."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, 'await run.text("Yes." if await run.approve("Ok?", to=["bob"]) else "No.")')
    session = ann.session(thread)
    await session.create(agents=[agent])
    said = {"id": "u", "role": "user", "content": "hi"}
    body = {"threadId": thread, "runId": "r-1", "protocolVersion": "1.0", "messages": [said]}
    async with gateway.http.stream("POST", "/api/agui", json=body, timeout=60) as response:
        text = ""
        async for piece in response.aiter_text():
            text += piece
            for ask in (await session.view())["asks"] if '"name":"ask"' in text else ():
                if ask["status"] == "open":
                    await ann.as_member("bob").session(thread).asks.answer(ask["ask"], "approve")

    assert '"delta":"Yes."' in text
    assert '"interrupt"' not in text


async def test_who_may_not_answer_is_not_interrupted_and_answers_nothing(
    guarded: Any, ann: Broker, programs: Any, token: Any, fresh: Callable[[str], str]
) -> None:
    """A token without `approve` sees the run go on when somebody else has answered; its own `resume` is refused."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, 'await run.text("Yes." if await run.approve("Ok?") else "No.")')
    session = ann.session(thread)
    await session.create(agents=[agent])
    said = {"id": "u", "role": "user", "content": "hi"}
    body = {"threadId": thread, "runId": "r-1", "protocolVersion": "1.0", "messages": [said]}
    headers, text = bearer(token("carol", thread, cap={"read", "write"})), ""
    async with guarded.http.stream("POST", "/api/agui", json=body, headers=headers, timeout=60) as response:
        async for piece in response.aiter_text():
            text += piece
            for ask in (await session.view())["asks"] if '"name":"ask"' in text else ():
                if ask["status"] == "open":
                    entry = {"interruptId": f"{ask['ask']}~0", "status": "resolved", "payload": True}
                    more = {"runId": "r-2", "resume": [entry]}
                    refused = await guarded.http.post("/api/agui", json=body | more, headers=headers)
                    assert (refused.status_code, "'approve'" in refused.text) == (403, True)
                    await session.asks.answer(ask["ask"], "approve")

    assert '"delta":"Yes."' in text
    assert '"interrupt"' not in text
    assert (await session.view())["asks"][0]["by"] == ["ann"]


async def test_what_answers_no_interrupt_is_refused_clearly(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """An unknown one, a payload that is no option, a question that cannot be cancelled: nothing is answered."""
    thread, agent = fresh("thread"), fresh("agent")
    programs.agent(agent, 'await run.ask("Which?", options=["a", "b"])')
    session = ann.session(thread)
    await session.create(agents=[agent])
    said = {"id": "u", "role": "user", "content": "hi"}
    body = {"threadId": thread, "runId": "r-1", "protocolVersion": "1.0", "messages": [said]}
    text = (await gateway.http.post("/api/agui", json=body, timeout=60)).text
    last = json.loads(text.splitlines()[-2].removeprefix("data: "))
    (interrupt,) = last["outcome"]["interrupts"]

    async def refused(**resume: Any) -> str:
        entry = {"interruptId": interrupt["id"], "status": "resolved"} | resume
        answer = await gateway.http.post("/api/agui", json=body | {"runId": "r-2", "resume": [entry]})
        assert answer.status_code == 400
        return str(answer.json()["detail"])

    assert "no interrupt 'x'" in await refused(interruptId="x")
    assert "one of a, b" in await refused(payload="c")
    assert "cannot be cancelled" in await refused(status="cancelled")
    assert "cursor" in await refused(interruptId=interrupt["id"] + "-", payload="a")
    assert [ask["status"] for ask in (await session.view())["asks"]] == ["open"]


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
