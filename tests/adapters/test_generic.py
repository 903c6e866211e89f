"""AG-UI and AI SDK streams as input: from a server over HTTP, and as objects.

AG-UI events are validated against `ag_ui.core.Event` (ag-ui-protocol 1.0). The AI SDK's chunks are those of its
documentation, "Stream Protocols: UI Message Stream"; what our own gateway sends an unmodified `useChat` is read, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from orchestrator_free.adapters import agui, aisdk
from orchestrator_free.adapters.decoding import Lines
from orchestrator_free.adapters.translation import Malformed
from orchestrator_free.events import Event as LogEvent
from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.projections.agui import EventStream
from orchestrator_free.projections.aisdk import MessageStream
from orchestrator_free.subjects import address, run_id
from orchestrator_free.views.answers import answer_text
from tests.adapters.conftest import HANG, parts, texts, translated

if TYPE_CHECKING:
    from orchestrator_free import Run

EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of AG-UI."""
    body = {"type": kind} | fields
    EVENTS.validate_python(body)
    return body


AT = {"subagentRunId": "sub1"}
BEGUN = [
    event("RUN_STARTED", threadId="t", runId="r"),
    event("TEXT_MESSAGE_START", messageId="m1", role="assistant"),
    event("TEXT_MESSAGE_CONTENT", messageId="m1", delta="Let me "),
]
AGUI = [
    BEGUN[0],
    event("REASONING_MESSAGE_START", messageId="r1", role="reasoning"),
    event("REASONING_MESSAGE_CONTENT", messageId="r1", delta="Hm, yes."),
    event("REASONING_MESSAGE_END", messageId="r1"),
    *BEGUN[1:],
    event("TEXT_MESSAGE_CONTENT", messageId="m1", delta="look."),
    event("TEXT_MESSAGE_END", messageId="m1"),
    event("TOOL_CALL_START", toolCallId="c1", toolCallName="sky"),
    event("TOOL_CALL_ARGS", toolCallId="c1", delta='{"city": '),
    event("TOOL_CALL_ARGS", toolCallId="c1", delta='"Rome"}'),
    event("TOOL_CALL_END", toolCallId="c1"),
    event("SUBAGENT_STARTED", subagentRunId="sub1", name="thinker", parentToolCallId="c1"),
    event("TEXT_MESSAGE_START", messageId="m2", role="assistant", **AT),
    event("TEXT_MESSAGE_CONTENT", messageId="m2", delta="deep thought", **AT),
    event("TEXT_MESSAGE_END", messageId="m2", **AT),
    event("SUBAGENT_FINISHED", subagentRunId="sub1"),
    event("TOOL_CALL_RESULT", messageId="m3", toolCallId="c1", content="clear in Rome"),
    event("STATE_SNAPSHOT", snapshot={"step": 1}),
    event("STATE_DELTA", delta=[{"op": "replace", "path": "/step", "value": 2}]),
    event("CUSTOM", name="mood", value={"is": "sunny"}),
    event("RAW", event={"vendor": 1}),
    event("TEXT_MESSAGE_CHUNK", messageId="m4", role="assistant", delta="Sunny."),
    event("RUN_FINISHED", threadId="t", runId="r", result={"ok": True}, usage=[{"inputTokens": 100, "outputTokens": 20, "cachedInputTokens": 60}]),
]  # fmt: skip
START = [
    {"type": "start", "messageId": "m1"},
    {"type": "text-start", "id": "t1"},
    {"type": "text-delta", "id": "t1", "delta": "Let me "},
]
CHUNKS = [
    START[0], {"type": "start-step"},
    {"type": "reasoning-start", "id": "r1"}, {"type": "reasoning-delta", "id": "r1", "delta": "Hm, yes."}, {"type": "reasoning-end", "id": "r1"},
    *START[1:], {"type": "text-delta", "id": "t1", "delta": "look."}, {"type": "text-end", "id": "t1"},
    {"type": "tool-input-start", "toolCallId": "c1", "toolName": "sky"},
    {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": '{"city": "Rome"}'},
    {"type": "tool-input-available", "toolCallId": "c1", "toolName": "sky", "input": {"city": "Rome"}},
    {"type": "tool-output-available", "toolCallId": "c1", "output": "half", "preliminary": True},
    {"type": "tool-output-available", "toolCallId": "c1", "output": "clear in Rome"},
    {"type": "tool-input-available", "toolCallId": "c2", "toolName": "rain", "input": {}},
    {"type": "tool-output-error", "toolCallId": "c2", "errorText": "broken"},
    {"type": "source-url", "sourceId": "s1", "url": "https://a.org", "title": "A"},
    {"type": "file", "url": "data:image/png;base64,aGk=", "mediaType": "image/png"},
    {"type": "data-mood", "id": "d1", "data": {"is": "sunny"}},
    {"type": "text-start", "id": "t2"}, {"type": "text-delta", "id": "t2", "delta": "Sunny."}, {"type": "text-end", "id": "t2"},
    {"type": "finish-step"}, {"type": "finish", "finishReason": "stop", "messageMetadata": {"usage": {"inputTokens": 100, "outputTokens": 20}}},
]  # fmt: skip


def sse(*bodies: Any) -> list[Any]:
    return [body if body is HANG or isinstance(body, str) else f"data: {json.dumps(body)}\n\n" for body in bodies]


def handler(adapter: Any, server: Any, results: list[Any] | None = None) -> Any:
    """A handler that asks an agent over HTTP."""

    async def handle(run: Run) -> None:
        body = (
            await agui.request(run)
            if adapter is agui
            else {"id": run.session.id, "messages": await aisdk.messages(run)}
        )
        async with httpx.AsyncClient(timeout=None) as client:
            result = await adapter.publish(run, client.stream("POST", server.url, json=body))
        if results is not None:
            results.append(result)

    return handle


async def test_an_agui_agent_over_http(working: Any, model_server: Any) -> None:
    """Text, reasoning, a tool with its sub-agent, state, custom and raw events, usage and result."""
    model_server.answers = [sse(*AGUI)]
    results: list[Any] = []
    async with working(handler(agui, model_server, results)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert texts(run, "reasoning") == ["Hm, yes."]
    assert [(part["text"], part.get("by")) for part in parts(run, "text")] == [
        ("Let me look.", None),
        ("deep thought", "sub1"),
        ("Sunny.", None),
    ]
    (tool,) = parts(run, "tool")
    assert (tool["call"], tool["tool"], tool["input"], tool["output"]) == (
        "c1",
        "sky",
        {"city": "Rome"},
        "clear in Rome",
    )
    about, state, mood = parts(run, "data")
    assert about["data"] == {"name": "thinker", "status": "done", "parent": None, "call": "c1"}
    assert (state["data"], mood["name"], mood["data"]) == ({"step": 2}, "mood", {"is": "sunny"})
    assert parts(run, "raw")[0]["data"] == {"vendor": 1}
    assert run["usage"] == {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 60}
    assert (results[0].text, results[0].output, results[0].skipped) == ("Let me look.Sunny.", {"ok": True}, {})
    asked = model_server.requests[0].body
    assert (asked["threadId"], asked["messages"]) == (
        work.session.id,
        [{"id": "m1", "role": "user", "content": "Weather?"}],
    )


async def test_an_ai_sdk_agent_over_http(working: Any, model_server: Any) -> None:
    """Text, reasoning, tools, a source, a file that is stored, data and usage."""
    model_server.answers = [sse(*CHUNKS, "data: [DONE]\n\n")]
    async with working(handler(aisdk, model_server)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert (texts(run, "reasoning"), texts(run)) == (["Hm, yes."], ["Let me look.", "Sunny."])
    sky, rain = parts(run, "tool")
    assert (sky["input"], sky["output"], rain["error"]) == ({"city": "Rome"}, "clear in Rome", "broken")
    (source,), (file,), (mood,) = parts(run, "source"), parts(run, "file"), parts(run, "data")
    assert (source["url"], file["media_type"], file["size"], mood["data"]) == (
        "https://a.org",
        "image/png",
        2,
        {"is": "sunny"},
    )
    assert run["usage"] == {"input_tokens": 100, "output_tokens": 20}


@pytest.mark.parametrize("adapter", [agui, aisdk], ids=["agui", "aisdk"])
async def test_history_keeps_tool_calls(working: Any, model_server: Any, adapter: Any) -> None:
    """The second input's request repeats the first turn, calls and what they gave."""
    whole = sse(*(AGUI if adapter is agui else CHUNKS))
    model_server.answers = [whole, whole]
    async with working(handler(adapter, model_server)) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")
    said = model_server.requests[1].body["messages"]

    if adapter is agui:
        assert [one["role"] for one in said] == ["user", "assistant", "tool", "assistant", "user"]
        assert (said[1]["toolCalls"][0]["function"]["arguments"], said[2]["content"]) == (
            '{"city": "Rome"}',
            "clear in Rome",
        )
    else:
        assert [one["role"] for one in said] == ["user", "assistant", "user"]
        assert [part["type"] for part in said[1]["parts"]] == ["text", "dynamic-tool", "dynamic-tool", "text"]
        assert said[1]["parts"][1]["output"] == "clear in Rome"


@pytest.mark.parametrize(("adapter", "begun"), [(agui, BEGUN), (aisdk, START)], ids=["agui", "aisdk"])
async def test_a_cancel_ends_the_request(
    working: Any, model_server: Any, shown: Any, eventually: Any, adapter: Any, begun: Any
) -> None:
    """The agent's server sees us leave, also one that would never end; what was shown stays."""
    model_server.answers = [sse(*begun, HANG)]
    async with working(handler(adapter, model_server)) as work:
        sent = await work.begin()
        await shown(work, "Let me")
        await work.session.control.cancel(sent.run)
        await eventually(model_server.gone.is_set, 60)
        run = await work.end()

    assert (run["status"], texts(run)) == ("cancelled", ["Let me "])


@pytest.mark.parametrize(
    ("adapter", "answer", "error"),
    [
        (agui, sse(*BEGUN), "ag-ui stream broke off before RUN_FINISHED"),
        (agui, sse(*BEGUN, event("RUN_ERROR", message="out of order")), "ag-ui agent ended with an error: out of order"),
        (agui, sse(*BEGUN, "data: {no\n\n"), "makes no sense after 3 events (no JSON: '{no')"),
        (agui, sse(*BEGUN, "data: [1]\n\n"), "makes no sense as event 4 (Malformed: list is no event)"),
        (agui, sse(*BEGUN, {"type": "TOOL_CALL_END", "toolCallId": "x"}), "(Malformed: tool call 'x' was not begun)"),
        (agui, sse(*BEGUN, {"type": "STATE_DELTA", "delta": [{"op": "remove", "path": "/x"}]}), "does not apply to 'state'"),
        (agui, (503, ["busy"]), "the agent's server answered 503"),
        (aisdk, sse(*START), "ai-sdk stream broke off before its finish"),
        (aisdk, sse(*START, {"type": "error", "errorText": "out of order"}), "ai-sdk agent ended with an error: out of order"),
        (aisdk, sse(*START, {"type": "text-delta", "id": "t1"}), "(Malformed: delta is NoneType, not str)"),
        (aisdk, sse(*START, {"type": "file", "mediaType": "x/y", "url": "data:x"}), "(Malformed: a data: address that is not base64)"),
        (aisdk, (401, ["no"]), "the agent's server answered 401"),
    ],
)  # fmt: skip
async def test_a_stream_that_fails_ends_the_run(
    working: Any, model_server: Any, adapter: Any, answer: Any, error: str
) -> None:
    """As `error` that says what was wrong, with what came before."""
    model_server.answers = [answer]
    async with working(handler(adapter, model_server)) as work:
        run = await work.ask()

    assert run["status"] == "error"
    assert error in run["error"]
    assert texts(run) == (["Let me "] if isinstance(answer, list) else [])


def test_the_message_of_an_agent_in_a_tool_s_output_is_a_sub_agent() -> None:
    """The AI SDK's own way: each preliminary output is its message so far. What is new is told, the last text is the output."""

    def output(*parts: Any, **more: Any) -> dict[str, Any]:
        return {
            "type": "tool-output-available",
            "toolCallId": "c1",
            "output": {"id": "m", "role": "assistant", "parts": list(parts)},
            **more,
        }

    tool = {"type": "tool-look", "toolCallId": "n1", "state": "input-available", "input": {"at": "sky"}}
    seen = {**tool, "state": "output-available", "output": "clear"}
    bodies = translated(aisdk.AiSdk(), [
        START[0],
        {"type": "tool-input-available", "toolCallId": "c1", "toolName": "think", "input": {}},
        output({"type": "text", "text": "Hm"}, preliminary=True),
        output({"type": "text", "text": "Hm, yes."}, tool, preliminary=True),
        output({"type": "text", "text": "Hm, yes."}, seen, {"type": "text", "text": "Clear."}, preliminary=True),
        output({"type": "text", "text": "Hm, yes."}, seen, {"type": "text", "text": "Clear."}),
        CHUNKS[-1],
    ])  # fmt: skip

    run = RunFold("a", "r")
    for body in bodies:
        assert run.apply(json.loads(json.dumps(body)), 1, "2026-01-01T00:00:00Z"), body
    told = run.part_views()
    assert [(part["type"], part.get("text") or part.get("tool"), part.get("by")) for part in told if part["type"] != "data"] == [
        ("tool", "think", None), ("text", "Hm, yes.", "c1"), ("tool", "look", "c1"), ("text", "Clear.", "c1"),
    ]  # fmt: skip
    assert [part["output"] for part in told if part["type"] == "tool"] == ["Clear.", "clear"]
    assert run.subagent("c1") == {"name": "think", "status": "done", "parent": None, "call": "c1", "how": "tool"}
    assert answer_text(told) == ""


@pytest.mark.parametrize("kind", [7, "agui"])
def test_what_our_gateway_tells_of_sub_agents_is_read_back(kind: Any) -> None:
    """A run with sub-agents in the words of either protocol, and back: the same parts, by the same, below the same calls."""
    first = translated(agui.AgUi(), AGUI)
    fold = Fold("s1")
    for number, body in enumerate(
        [{"type": "run.started", "attempt": 1, "input": "ann/i"}, *first, {"type": "run.finished", "status": "done"}], 2
    ):
        name = address(0, "s1", "a", "run", id=run_id("ann", "i"))
        if number == 2:
            asked = address(0, "s1", "ann", "in", target="a", id="i")
            fold.apply(LogEvent(1, "2026-01-01T00:00:00Z", asked, {"type": "input", "text": "Weather?"}))
        fold.apply(LogEvent(number, "2026-01-01T00:00:00Z", name, json.loads(json.dumps(body))))
    stream: Any = MessageStream("s1", "ann", "i", profile=7) if kind == 7 else EventStream("s1", "ann", "i")
    translation: Any = aisdk.AiSdk() if kind == 7 else agui.AgUi()
    again = RunFold("a", "r")
    for body in translated(translation, [message for _, message in stream.advance(fold)]):
        assert again.apply(json.loads(json.dumps(body)), 1, "2026-01-01T00:00:00Z"), body

    def told(run: RunFold) -> list[Any]:
        return [
            (part["type"], part["text"], (run.subagent(part.get("by", "")) or {}).get("name"))
            for part in run.part_views() if part["type"] in ("text", "reasoning")
        ]  # fmt: skip

    (was,) = fold.runs.values()
    assert told(again) == told(was) == [
        ("reasoning", "Hm, yes.", None), ("text", "Let me look.", None), ("text", "deep thought", "thinker"), ("text", "Sunny.", None),
    ]  # fmt: skip
    (helper,) = [part["data"] for part in again.part_views() if part.get("name") == "subagent"]
    (tool,) = [part for part in again.part_views() if part["type"] == "tool"]
    assert (helper["call"], helper["status"]) == (tool["call"], "done")
    assert answer_text(again.part_views()) == "Let me look.Sunny."


@pytest.mark.parametrize(
    ("schema", "answer", "entry"),
    [
        ({"type": "boolean"}, "approve", {"status": "resolved", "payload": True}),
        ({"type": "object", "properties": {"approved": {"type": "boolean"}}}, "deny", {"status": "resolved", "payload": {"approved": False}}),
        ({"type": "string", "enum": ["approve", "deny"]}, "deny", {"status": "resolved", "payload": "deny"}),
        ({"type": "string", "enum": ["red", "blue"]}, "blue", {"status": "resolved", "payload": "blue"}),
        ({"type": "object", "properties": {"size": {}}}, {"size": 3}, {"status": "resolved", "payload": {"size": 3}}),
        (None, None, {"status": "cancelled"}),
    ],
)  # fmt: skip
async def test_an_interrupt_is_asked_in_the_session_and_the_next_request_answers_it(
    working: Any, model_server: Any, asked: Any, schema: Any, answer: Any, entry: Any
) -> None:
    """What is answered fits the schema; where nobody answers in time the interrupt is cancelled. It is one run of ours."""
    interrupt = {"id": "i1", "reason": "approval", "message": "Pay 40?"} | (
        {"responseSchema": schema} if schema else {}
    )
    ended = event("RUN_FINISHED", threadId="t", runId="r", outcome={"type": "interrupt", "interrupts": [interrupt]})
    suspended = event("SUBAGENT_FINISHED", subagentRunId="sub1", outcome={"type": "suspended", "interruptIds": ["i1"]})
    begun = event("SUBAGENT_STARTED", subagentRunId="sub1", name="thinker")
    done = [event("SUBAGENT_FINISHED", subagentRunId="sub1"), AGUI[-1]]
    model_server.answers = [
        sse(*BEGUN, event("TEXT_MESSAGE_END", messageId="m1"), begun, suspended, ended),
        sse(AGUI[0], begun, *AGUI[-2:-1], *done),
    ]

    async def handle(run: Run) -> None:
        async with httpx.AsyncClient(timeout=None) as client:

            async def resume(answers: list[dict[str, Any]]) -> Any:
                return client.stream("POST", model_server.url, json=await agui.request(run, resume=answers))

            first = client.stream("POST", model_server.url, json=await agui.request(run))
            await agui.publish(run, first, resume=resume, asking={"seconds": 2.0 if answer is None else 600.0})

    async with working(handle) as work:
        sent = await work.begin()
        ask = await asked(work)
        if answer is not None:
            await work.session.asks.answer(ask["ask"], answer)
        run = await work.session.result(work.agent, sent.run, timeout=60)

    first, second = [request.body for request in model_server.requests]
    assert (ask["text"], ask["data"]["reason"]) == ("Pay 40?", "approval")
    assert second["resume"] == [{"interruptId": "i1", **entry}]
    assert first["runId"] != second["runId"]
    assert (run["status"], texts(run)) == ("done", ["Let me ", "Sunny."])
    (helper,) = parts(run, "data")
    assert helper["data"]["status"] == "done"


def test_what_an_agent_waits_for_is_in_the_result() -> None:
    """An interrupt of AG-UI, an approval of the AI SDK: the next request can answer them."""
    first, second = agui.AgUi(), aisdk.AiSdk()
    outcome = {"type": "interrupt", "interrupts": [{"id": "i1", "reason": "approval"}]}
    translated(first, [BEGUN[0], event("RUN_FINISHED", threadId="t", runId="r", outcome=outcome)])
    request = {"type": "tool-approval-request", "approvalId": "a1", "toolCallId": "c1"}
    translated(second, [*START, request, {"type": "finish"}])

    assert (first.pending[0]["id"], second.pending) == ("i1", [request])


@pytest.mark.parametrize(
    ("translation", "begun", "end"), [(agui.AgUi, BEGUN, AGUI[-1]), (aisdk.AiSdk, START, CHUNKS[-1])]
)
def test_unknown_events_are_skipped_and_counted(translation: Any, begun: Any, end: Any) -> None:
    """A user's message is no output either; what is known goes on."""
    made = translation()
    bodies = translated(made, [*begun, {"type": "TELEPATHY"}, {"type": "TELEPATHY"}, end])

    assert made.sheet.skipped == {"TELEPATHY": 2}
    assert [body["text"] for body in bodies if body["type"] == "text.delta"] == ["Let me "]


def test_bytes_are_read_however_they_are_cut() -> None:
    """Byte by byte, with CRLF, comments, several data lines, JSON lines, and an event that was cut off."""
    body = b': hi\r\ndata: {"a":\r\ndata: "\xc3\xa4"}\r\n\r\nid: 1\ndata: {"b": 2}\n\n{"c": 3}\ndata: {"cut": 1}'
    for size in (1, 3, len(body)):
        lines = Lines()
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        found = [one for piece in pieces for one in lines.feed(piece)] + list(lines.end())

        assert found == [{"a": "ä"}, {"b": 2}, {"c": 3}]


def test_a_line_without_end_is_refused() -> None:
    """It would fill the memory."""
    lines = Lines()
    with pytest.raises(Malformed, match="longer than"):
        for _ in range(20):
            list(lines.feed(b"x" * 2**20))
