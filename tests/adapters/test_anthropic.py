"""Anthropic: the real client against a server that speaks the Messages API's stream.

The shapes are those of `anthropic.types.RawMessageStreamEvent` (anthropic 2.14); every event sent here is validated
against it. The order of a message's events is that of Anthropic's documentation, "Streaming messages".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from orchestrator_free.adapters import anthropic as adapter
from orchestrator_free.adapters import call_tools
from tests.adapters.conftest import HANG, parts, texts, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Run

KEY = "sk-ant-very-secret"
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of a message."""
    body = {"type": kind} | fields
    EVENTS.validate_python(body)
    return body


def start() -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 1, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 5}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
        "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    return event("message_start", message=message)


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A block from its start to its stop."""
    pieces = [event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return [
        event("content_block_start", index=index, content_block=first),
        *pieces,
        event("content_block_stop", index=index),
    ]


def end(reason: str) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage={"output_tokens": 20}), event("message_stop")]


SEARCHED = {
    "type": "web_search_result",
    "url": "https://a.org",
    "title": "A",
    "encrypted_content": "x",
    "page_age": None,
}
CITED = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": "Atlas",
    "start_char_index": 0,
    "end_char_index": 1,
    "file_id": None,
}
CALLING = [
    start(),
    *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "Hm, "},
           {"type": "thinking_delta", "thinking": "yes."}, {"type": "signature_delta", "signature": "sig"}),
    *block(1, {"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "Lo"}, {"type": "text_delta", "text": "ok."},
           {"type": "citations_delta", "citation": CITED}),
    *block(2, {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}, {"type": "input_json_delta", "partial_json": '{"query": "rome"}'}),
    *block(3, {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [SEARCHED]}),
    *block(4, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}, {"type": "input_json_delta", "partial_json": '{"cit'},
           {"type": "input_json_delta", "partial_json": 'y": "Rome"}'}),
    *end("tool_use"),
]  # fmt: skip
ANSWER = [
    start(),
    *block(0, {"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "Sunny."}),
    *end("end_turn"),
]


def sse(*bodies: Any) -> list[Any]:
    """An answer, an event at a time."""
    return [
        body if body is HANG or isinstance(body, str) else f"event: {body['type']}\ndata: {json.dumps(body)}\n\n"
        for body in bodies
    ]


@pytest.fixture
def client(model_server: Any) -> AsyncAnthropic:
    """The real client; tests close it."""
    return AsyncAnthropic(base_url=model_server.url, api_key=KEY, max_retries=0)


def talking(client: AsyncAnthropic, **options: Any) -> Callable[[Run], Any]:
    """A handler that goes on as long as the model calls tools, or people say something."""

    async def handle(run: Run) -> None:
        messages = await adapter.messages(run)
        while True:
            source = client.messages.create(model="m", max_tokens=99, messages=messages, stream=True)
            result = await adapter.publish(run, source)
            steers = [{"role": "user", "content": steer.text} for steer in await run.steers()]
            if not result.calls and not steers:
                return
            messages += result.messages
            tools = {"weather": lambda city: {"city": city, "sky": "clear"}}
            messages += adapter.answers(await call_tools(run, result.calls, tools, **options)) + steers

    return handle


async def test_a_message_with_its_tools(working: Any, client: AsyncAnthropic, model_server: Any) -> None:
    """Thinking, text with its source, a search by the vendor and a call for us; the second request repeats it whole."""
    model_server.answers = [sse(*CALLING), sse(*ANSWER)]
    async with client, working(talking(client)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert (texts(run, "reasoning"), texts(run)) == (["Hm, yes."], ["Look.", "Sunny."])
    search, ours = parts(run, "tool")
    assert (search["tool"], search["status"], search["input"]) == ("web_search", "done", {"query": "rome"})
    assert (ours["call"], ours["input"], ours["output"]) == (
        "toolu_1",
        {"city": "Rome"},
        {"city": "Rome", "sky": "clear"},
    )
    assert [(part["url"], part["title"]) for part in parts(run, "source")] == [(None, "Atlas"), ("https://a.org", "A")]
    assert run["usage"] == {
        "input_tokens": 200, "output_tokens": 40, "cached_input_tokens": 120, "cache_write_input_tokens": 10
    }  # fmt: skip
    said = model_server.requests[1].body["messages"]
    assert [block["type"] for block in said[1]["content"]] == [
        "thinking",
        "text",
        "server_tool_use",
        "web_search_tool_result",
        "tool_use",
    ]
    assert said[1]["content"][0] == {"type": "thinking", "thinking": "Hm, yes.", "signature": "sig"}
    assert said[1]["content"][4]["input"] == {"city": "Rome"}
    (told,) = said[2]["content"]
    assert (told["tool_use_id"], told["is_error"], json.loads(told["content"])["sky"]) == ("toolu_1", False, "clear")


async def test_history_keeps_tool_calls(working: Any, client: AsyncAnthropic, model_server: Any) -> None:
    """The second input's request repeats the first turn, calls with their results right after them."""
    model_server.answers = [sse(*CALLING), sse(*ANSWER), sse(*ANSWER)]
    async with client, working(talking(client)) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")
    said = model_server.requests[2].body["messages"]

    assert [one["role"] for one in said] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["type"] for block in said[1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in said[2]["content"]] == ["srv_1", "toolu_1"]
    assert said[-1]["content"][0]["text"] == "Thanks"


@pytest.mark.parametrize("manager", [False, True])
async def test_a_cancel_ends_the_request(
    working: Any, client: AsyncAnthropic, model_server: Any, eventually: Any, manager: bool
) -> None:
    """With `create(stream=True)` and with `stream()`: the server sees the client leave."""
    model_server.answers = [sse(*ANSWER[:3], HANG)]

    async def handle(run: Run) -> None:
        request = {"model": "m", "max_tokens": 9, "messages": await adapter.messages(run)}
        source: Any = client.messages.stream(**request) if manager else client.messages.create(**request, stream=True)
        await adapter.publish(run, source)

    async with client, working(handle) as work:
        sent = await work.begin()

        async def begun() -> bool:
            return bool((await work.run()).get("parts"))

        await eventually(begun, 60)
        await work.session.control.cancel(sent.run)
        await eventually(model_server.gone.is_set, 60)
        run = await work.end()

    assert (run["status"], texts(run)) == ("cancelled", ["Sunny."])


async def test_a_steer_is_the_next_turn(
    working: Any, client: AsyncAnthropic, model_server: Any, eventually: Any
) -> None:
    """Said while the model answers, it is in the next request."""
    model_server.answers = [sse(*ANSWER), sse(*ANSWER)]

    async def handle(run: Run) -> None:
        await run.reasoning("waiting")
        await eventually(lambda: run._active.steers, 60)
        await talking(client)(run)

    async with client, working(handle) as work:
        sent = await work.begin()
        control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
        await work.session.result(work.agent, sent.run, timeout=60)
        outcome = await control.outcome(timeout=60)

    assert outcome.state == "applied"
    assert model_server.requests[1].body["messages"][-1] == {"role": "user", "content": "Shorter!"}


async def test_an_approval_decides_about_a_tool_call(
    working: Any, client: AsyncAnthropic, model_server: Any, eventually: Any
) -> None:
    """Denied with a comment, the model is told so, as an error of the tool."""
    model_server.answers = [sse(*CALLING), sse(*ANSWER)]
    async with client, working(talking(client, approve={"weather"})) as work:
        sent = await work.begin()

        async def asked() -> Any:
            return [ask for ask in (await work.session.view())["asks"] if ask["status"] == "open"]

        (ask,) = await eventually(asked, 60)
        assert ask["data"] == {"tool": "weather", "input": {"city": "Rome"}}
        await work.session.asks.answer(ask["ask"], "deny", comment="not today")
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert parts(run, "tool")[1]["error"] == "not approved: not today"
    (told,) = model_server.requests[1].body["messages"][2]["content"]
    assert (told["content"], told["is_error"]) == ("error: not approved: not today", True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((529, [json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": KEY}})]), ", status 529, overloaded_error)"),
        (sse(*ANSWER[:3]), "anthropic broke off in the middle of its answer"),
        (sse(*ANSWER[:3], f'event: error\ndata: {{"type": "error", "error": {{"type": "overloaded_error", "message": "{KEY}"}}}}\n\n'), "anthropic failed after 3 events (APIStatusError, overloaded_error)"),
        (sse(*ANSWER[:3], ANSWER[2] | {"index": 7}), "(Malformed: block 7 was not begun)"),
        (sse(*ANSWER[:3], "event: message_stop\ndata: {no\n\n"), "(JSONDecodeError)"),
        (sse(), "anthropic sent nothing"),
    ],
)  # fmt: skip
async def test_a_stream_that_fails_ends_the_run_and_tells_no_secret(
    working: Any, client: AsyncAnthropic, model_server: Any, capfd: Any, answer: Any, error: str
) -> None:
    """As `error`, with what came before; neither the run nor the log repeats what the server said."""
    model_server.answers = [answer]
    async with client, working(talking(client)) as work:
        run = await work.ask()

    assert run["status"] == "error"
    assert error in run["error"]
    assert texts(run) == (["Sunny."] if isinstance(answer, list) and answer else [])
    logged = capfd.readouterr()
    assert KEY not in json.dumps(run) + logged.out + logged.err


def test_unknown_events_and_blocks_are_skipped_and_counted() -> None:
    """What is known goes on."""
    translation = adapter.Messages()
    odd = [{"type": "content_block_start", "index": 9, "content_block": {"type": "hologram"}}, {"type": "telepathy"}]
    bodies = translated(translation, [ANSWER[0], *odd, *ANSWER[1:]])

    assert translation.sheet.skipped == {"block hologram": 1, "telepathy": 1}
    assert "".join(body["text"] for body in bodies if body["type"] == "text.delta") == "Sunny."


async def test_the_program_works(ann: Any, programs: Any, folder: Any, fresh: Any, model_server: Any) -> None:
    """`agents/essayist.py` as a process."""
    model_server.answers = [sse(*ANSWER)]
    programs.start(
        folder / "essayist.py", ANTHROPIC_BASE_URL=model_server.url, ANTHROPIC_API_KEY=KEY, ANTHROPIC_MODEL="m"
    )
    session = ann.session(fresh("s"))
    await session.create()
    run = await session.result("essayist", (await session.send("Why?", to="essayist")).run, timeout=60)

    assert (run["error"], texts(run)) == (None, ["Sunny."])
    assert model_server.requests[0].body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    ]
