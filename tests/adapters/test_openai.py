"""OpenAI: the real client against a server that speaks its two streaming formats.

The shapes are those of `openai.types.chat.ChatCompletionChunk` and `openai.types.responses.ResponseStreamEvent`
(openai 3.54, generated from OpenAI's OpenAPI document); every event sent here is validated against them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from orchestrator_free.adapters import SourceFailed, call_tools
from orchestrator_free.adapters import openai as adapter
from tests.adapters.conftest import HANG, parts, texts, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Run

KEY = "sk-very-secret-0123456789"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 8},
}  # fmt: skip


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a completion; without a delta the last one, which holds the usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices} | more
    ChatCompletionChunk.model_validate(body)
    return body


def piece(index: int, arguments: str, **first: str) -> dict[str, Any]:
    """A piece of a tool call."""
    function = {"arguments": arguments} | ({"name": first["name"]} if first else {})
    return {
        "tool_calls": [
            {"index": index, "function": function} | ({"id": first["id"], "type": "function"} if first else {})
        ]
    }


def sse(*bodies: Any) -> list[Any]:
    """An answer, an event at a time; a body with a type is an event of that name."""
    lines = []
    for body in bodies:
        named = f"event: {body['type']}\n" if isinstance(body, dict) and "type" in body else ""
        lines.append(body if body is HANG or isinstance(body, str) else f"{named}data: {json.dumps(body)}\n\n")
    return lines


DONE = "data: [DONE]\n\n"
CHAT = [
    chunk({"role": "assistant", "content": ""}), chunk({"reasoning_content": "Hm, "}), chunk({"reasoning_content": "yes."}),
    chunk({"content": "Let me "}), chunk({"content": "look."}),
    chunk(piece(0, '{"cit', id="call_a", name="weather")), chunk(piece(0, 'y": "Rome"}')),
    chunk(piece(1, '{"city": "Oslo"}', id="call_b", name="weather")),
    chunk({}, finish="tool_calls"), chunk(usage=USAGE),
]  # fmt: skip
ANSWER = [chunk({"content": "Sunny 👍."}), chunk({}, finish="stop"), chunk(usage=USAGE)]


def response(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    """An event of a response."""
    body = {"type": kind, "sequence_number": number} | fields
    EVENTS.validate_python(body)
    return body


def whole(status: str = "completed", output: Any = (), **more: Any) -> dict[str, Any]:
    """A response."""
    usage = {
        "input_tokens": 100, "output_tokens": 20, "total_tokens": 120,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 8},
    }  # fmt: skip
    return {
        "id": "r1", "object": "response", "created_at": 1, "model": "m", "output": list(output), "status": status,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage,
    } | more  # fmt: skip


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm, yes."}]}
MESSAGE = {
    "type": "message",
    "id": "m_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Look.", "annotations": []}],
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_a",
    "name": "weather",
    "arguments": '{"city": "Rome"}',
    "status": "completed",
}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "rome", "queries": ["rome"]},
}
IMAGE = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk="}
MCP = {
    "type": "mcp_call",
    "id": "mcp_1",
    "name": "read",
    "server_label": "s",
    "arguments": "{}",
    "output": None,
    "error": {"type": "mcp_protocol_error", "code": 1, "message": "no"},
    "status": "failed",
}
AT = {"item_id": "m_1", "output_index": 1, "content_index": 0}
FOUND = {"type": "url_citation", "url": "https://a.org", "title": "A", "start_index": 0, "end_index": 1}
RESPONSE = [
    response(0, "response.created", response=whole("in_progress", usage=None)),
    response(1, "response.output_item.added", output_index=0, item={**REASONING, "summary": []}),
    response(2, "response.reasoning_summary_text.delta", item_id="rs_1", output_index=0, summary_index=0, delta="Hm, "),
    response(3, "response.reasoning_summary_text.delta", item_id="rs_1", output_index=0, summary_index=0, delta="yes."),
    response(4, "response.reasoning_summary_text.done", item_id="rs_1", output_index=0, summary_index=0, text="Hm, yes."),
    response(5, "response.output_item.done", output_index=0, item=REASONING),
    response(6, "response.output_text.delta", **AT, delta="Lo", logprobs=[]),
    response(7, "response.output_text.delta", **AT, delta="ok.", logprobs=[]),
    response(8, "response.output_text.annotation.added", **AT, annotation_index=0, annotation=FOUND),
    response(9, "response.output_text.done", **AT, text="Look.", logprobs=[]),
    response(10, "response.output_item.added", output_index=2, item={**CALL, "arguments": "", "status": "in_progress"}),
    response(11, "response.function_call_arguments.delta", item_id="fc_1", output_index=2, delta='{"city": '),
    response(12, "response.function_call_arguments.delta", item_id="fc_1", output_index=2, delta='"Rome"}'),
    response(13, "response.output_item.done", output_index=2, item=CALL),
    response(14, "response.output_item.done", output_index=3, item=SEARCH),
    response(15, "response.output_item.done", output_index=4, item=IMAGE),
    response(16, "response.output_item.done", output_index=5, item=MCP),
    response(17, "response.completed", response=whole(output=[REASONING, MESSAGE, CALL])),
]  # fmt: skip
ENDING = [
    response(0, "response.output_text.delta", **AT, delta="Sunny.", logprobs=[]),
    response(1, "response.completed", response=whole(output=[MESSAGE])),
]


@pytest.fixture
def client(model_server: Any) -> AsyncOpenAI:
    """The real client; tests close it."""
    return AsyncOpenAI(base_url=model_server.url, api_key=KEY, max_retries=0)


def weather(city: str) -> str:
    """A tool that fails for one city."""
    if city == "Oslo":
        raise ValueError(f"secret of {city}")
    return f"{city} is sunny"


def chatting(client: AsyncOpenAI, **options: Any) -> Callable[[Run], Any]:
    """A handler that goes on as long as the model calls tools."""

    async def handle(run: Run) -> None:
        messages = await adapter.messages(run)
        while True:
            source = client.chat.completions.create(model="m", messages=messages, stream=True)
            result = await adapter.publish(run, source)
            steers = [{"role": "user", "content": steer.text} for steer in await run.steers()]
            if not result.calls and not steers:
                return
            messages += result.messages
            messages += adapter.answers(await call_tools(run, result.calls, {"weather": weather}, **options)) + steers

    return handle


def responding(client: AsyncOpenAI) -> Callable[[Run], Any]:
    """The same over the Responses API; what people say is the next turn."""

    async def handle(run: Run) -> None:
        items = await adapter.items(run)
        while True:
            result = await adapter.publish(run, client.responses.create(model="m", input=items, stream=True))
            steers = [{"role": "user", "content": steer.text} for steer in await run.steers()]
            if not result.calls and not steers:
                return
            items += result.messages
            items += adapter.output_items(await call_tools(run, result.calls, {"weather": weather}))
            items += steers

    return handle


async def test_a_chat_completion_with_its_tools(working: Any, client: AsyncOpenAI, model_server: Any) -> None:
    """Reasoning, text, two calls (one fails), their outputs told to the model, its answer, and all usage."""
    model_server.answers = [sse(*CHAT, DONE), sse(*ANSWER, DONE)]
    async with client, working(chatting(client)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert [part["type"] for part in run["parts"]] == ["reasoning", "text", "tool", "tool", "text"]
    assert (texts(run, "reasoning"), texts(run)) == (["Hm, yes."], ["Let me look.", "Sunny 👍."])
    rome, oslo = parts(run, "tool")
    assert (rome["tool"], rome["call"], rome["input"]) == ("weather", "call_a", {"city": "Rome"})
    assert (rome["status"], rome["output"]) == ("done", "Rome is sunny")
    assert rome["seconds"] >= 0
    assert (oslo["status"], oslo["error"]) == ("error", "ValueError: the agent failed; its log says more")
    assert run["usage"] == {
        "input_tokens": 200, "output_tokens": 40, "cached_input_tokens": 120, "reasoning_tokens": 16
    }  # fmt: skip
    asked, again = (request.body["messages"] for request in model_server.requests)
    assert asked == [{"role": "user", "content": "Weather?"}]
    assert again[1]["content"] == "Let me look."
    assert [call["function"]["arguments"] for call in again[1]["tool_calls"]] == [
        '{"city": "Rome"}',
        '{"city": "Oslo"}',
    ]
    assert again[2] == {"role": "tool", "tool_call_id": "call_a", "content": "Rome is sunny"}
    assert again[3]["content"].startswith("error: ValueError")


async def test_a_response_with_its_tools(working: Any, client: AsyncOpenAI, model_server: Any) -> None:
    """Reasoning, text with its source, our call and theirs, a file; then the answer to what our tool gave."""
    model_server.answers = [sse(*RESPONSE), sse(*ENDING)]
    async with client, working(responding(client)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert (texts(run, "reasoning"), texts(run)) == (["Hm, yes."], ["Look.", "Sunny."])
    shown = [
        (part["tool"], part["status"], part["input"], part["output"] or part["error"]) for part in parts(run, "tool")
    ]
    assert shown == [
        ("weather", "done", {"city": "Rome"}, "Rome is sunny"),
        ("web_search", "done", {"type": "search", "query": "rome", "queries": ["rome"], "sources": None}, None),
        ("image_generation", "done", {"prompt": None}, {"file": "ig_1.png"}),
        ("read", "error", {}, '{"code": 1, "message": "no", "type": "mcp_protocol_error"}'),
    ]
    (source,), (file,) = parts(run, "source"), parts(run, "file")
    assert (source["url"], source["title"]) == ("https://a.org", "A")
    assert (file["name"], file["media_type"], file["size"]) == ("ig_1.png", "image/png", 2)
    assert run["usage"]["cached_input_tokens"] == 120
    again = model_server.requests[1].body["input"]
    assert [item.get("type") for item in again] == [
        None,
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
    ]
    assert again[-1]["output"] == "Rome is sunny"


async def test_history_with_its_tool_calls_is_told_to_both(
    working: Any, client: AsyncOpenAI, model_server: Any
) -> None:
    """The second input's request repeats the first turn: words, calls, what they gave, and the answer."""
    model_server.answers = [sse(*CHAT, DONE), sse(*ANSWER, DONE), sse(*ANSWER, DONE)]
    async with client, working(chatting(client)) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")
    said = model_server.requests[2].body["messages"]

    assert [one["role"] for one in said] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert [call["id"] for call in said[1]["tool_calls"]] == ["call_a", "call_b"]
    assert [said[2]["content"], said[4]["content"], said[5]["content"]] == ["Rome is sunny", "Sunny 👍.", "Thanks"]

    model_server.answers = [sse(*RESPONSE), sse(*ENDING), sse(*ENDING)]
    async with (
        AsyncOpenAI(base_url=model_server.url, api_key=KEY, max_retries=0) as other,
        working(responding(other)) as work,
    ):
        await work.ask("Weather?")
        await work.ask("Thanks")
    items = model_server.requests[-1].body["input"]

    assert [item["content"] for item in items if "role" in item] == ["Weather?", "Look.", "Sunny.", "Thanks"]
    assert next(item["call_id"] for item in items if item.get("type") == "function_call") == "call_a"


@pytest.mark.parametrize(("make", "first"), [(chatting, CHAT[3]), (responding, RESPONSE[6])])
async def test_a_cancel_ends_the_request(
    working: Any, client: AsyncOpenAI, model_server: Any, eventually: Any, make: Any, first: Any
) -> None:
    """In the middle of an answer: the server sees the client leave, what was shown stays."""
    model_server.answers = [sse(first, HANG)]

    async with client, working(make(client)) as work:
        sent = await work.begin()

        async def begun() -> bool:
            return bool((await work.run()).get("parts"))

        await eventually(begun, 60)
        await work.session.control.cancel(sent.run)
        await eventually(model_server.gone.is_set, 60)
        run = await work.end()

    assert run["status"] == "cancelled"
    assert texts(run)[0].startswith("L")


@pytest.mark.parametrize(("make", "field", "answer"), [(chatting, "messages", ANSWER), (responding, "input", ENDING)])
async def test_a_steer_is_the_next_turn(
    working: Any, client: AsyncOpenAI, model_server: Any, eventually: Any, make: Any, field: str, answer: Any
) -> None:
    """Said while the model answers, it is in the next request, and the log says that it was applied."""
    model_server.answers = [sse(*answer), sse(*answer)]
    async with client:

        async def handle(run: Run) -> None:
            await run.reasoning("waiting")
            await eventually(lambda: run._active.steers, 60)
            await make(client)(run)

        async with working(handle) as work:
            sent = await work.begin()
            control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
            run = await work.session.result(work.agent, sent.run, timeout=60)
            outcome = await control.outcome(timeout=60)

    assert (run["status"], outcome.state) == ("done", "applied")
    assert model_server.requests[1].body[field][-1] == {"role": "user", "content": "Shorter!"}


async def test_an_approval_decides_about_a_tool_call(
    working: Any, client: AsyncOpenAI, model_server: Any, eventually: Any
) -> None:
    """Asked with the call's input; what is denied is told to the model."""
    model_server.answers = [sse(*CHAT, DONE), sse(*ANSWER, DONE)]
    async with client, working(chatting(client, approve={"weather"})) as work:
        sent = await work.begin()

        async def asked() -> Any:
            return [ask for ask in (await work.session.view())["asks"] if ask["status"] == "open"]

        for answer in ("approve", "deny"):
            (ask,) = await eventually(asked, 60)
            assert ask["data"]["tool"] == "weather"
            await work.session.asks.answer(ask["ask"], answer)
        run = await work.session.result(work.agent, sent.run, timeout=60)

    rome, oslo = parts(run, "tool")
    assert (rome["status"], oslo["error"]) == ("done", "not approved: decided")
    assert model_server.requests[1].body["messages"][3]["content"] == "error: not approved: decided"


FAILED = response(1, "response.failed", response=whole("failed", error={"code": "server_error", "message": KEY}))


@pytest.mark.parametrize(
    ("make", "answer", "error"),
    [
        (chatting, (401, [json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})]), "AuthenticationError, status 401"),
        (chatting, sse(CHAT[3]), "broke off in the middle of its answer"),
        (chatting, sse(CHAT[3], {"error": {"message": KEY}}), "(APIError)"),
        (chatting, sse(CHAT[3], "data: {no json\n\n"), "(JSONDecodeError)"),
        (chatting, sse({**CHAT[3], "choices": 5}), "makes no sense as event 1 (Malformed: choices is int, not list)"),
        (chatting, sse({"id": "x"}), "(Malformed: choices is NoneType, not list)"),
        (responding, sse(RESPONSE[6], FAILED), "said that the response failed (server_error)"),
        (responding, sse(RESPONSE[6], response(1, "error", code="rate_limit", message=KEY, param=None)), "rate_limit"),
        (responding, sse(RESPONSE[6]), "broke off in the middle of its answer"),
        (responding, sse({**RESPONSE[6], "delta": 5}), "(Malformed: delta is int, not str)"),
        (responding, sse(), "openai sent nothing"),
    ],
)  # fmt: skip
async def test_a_stream_that_fails_ends_the_run_and_tells_no_secret(
    working: Any, client: AsyncOpenAI, model_server: Any, capfd: Any, make: Any, answer: Any, error: str
) -> None:
    """As `error`, with what came before; neither the run nor the log repeats what the server said."""
    model_server.answers = [answer]
    async with client, working(make(client)) as work:
        run = await work.ask()

    assert run["status"] == "error"
    assert error in run["error"]
    if answer in ([], ()) or isinstance(answer, tuple) or "sense" in error or "Malformed" in error:
        assert texts(run) == []
    elif answer:
        assert texts(run)[0].startswith("L")
    logged = capfd.readouterr()
    assert KEY not in json.dumps(run) + logged.out + logged.err


async def test_a_source_that_never_ends_can_be_given_a_time(
    working: Any, client: AsyncOpenAI, model_server: Any
) -> None:
    """Then the run ends with an error that says so, and the request is closed."""
    model_server.answers = [sse(CHAT[3], HANG)]

    async def handle(run: Run) -> None:
        source = client.chat.completions.create(model="m", messages=await adapter.messages(run), stream=True)
        await adapter.publish(run, source, within_seconds=0.5)

    async with client, working(handle) as work:
        run = await work.ask()

    assert run["error"].startswith("openai took more than 0.5 s; ")
    assert model_server.gone.is_set()


def test_unknown_events_are_skipped_and_counted() -> None:
    """Their types and numbers are in the result; what is known goes on."""
    odd = [{"type": "response.telepathy.delta", "delta": "x"}] * 2
    translation = adapter.OpenAI()
    bodies = translated(translation, [*odd, *ENDING])

    assert translation.sheet.skipped == {"response.telepathy.delta": 2}
    assert [body["type"] for body in bodies] == ["text.delta", "usage", "text.end"]


def test_a_server_without_indexes_is_understood() -> None:
    """Some servers begin a call with its id and leave the index out."""
    bare = [{"tool_calls": [{"id": id, "function": {"name": name, "arguments": text}}]} for id, name, text in
            (("a", "f", "{"), (None, None, "}"), ("b", "g", "2"))]  # fmt: skip
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in bare]
    translation = adapter.OpenAI()
    translated(translation, [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}])

    assert [(use.source_id, use.tool, use.input) for use in translation.sheet.open_calls] == [
        ("a", "f", {}),
        ("b", "g", 2),
    ]


def test_a_stream_that_ends_early_is_an_error() -> None:
    """Also where the translation is driven by hand."""
    with pytest.raises(SourceFailed, match="broke off"):
        translated(adapter.OpenAI(), [CHAT[3]])


async def test_the_program_works(ann: Any, programs: Any, folder: Any, fresh: Any, model_server: Any) -> None:
    """`agents/assistant.py` as a process: a tool of its own, and the answer."""
    call = [chunk(piece(0, '{"zone": "Asia/Tokyo"}', id="c", name="clock")), chunk({}, finish="tool_calls")]
    model_server.answers = [sse(*call, DONE), sse(*ANSWER, DONE)]
    programs.start(folder / "assistant.py", OPENAI_BASE_URL=model_server.url, OPENAI_API_KEY=KEY, OPENAI_MODEL="small")
    session = ann.session(fresh("s"))
    await session.create()
    run = await session.result("assistant", (await session.send("When?", to="assistant")).run, timeout=60)

    assert run["error"] is None
    assert texts(run) == ["Sunny 👍."]
    assert parts(run, "tool")[0]["output"].endswith("+09:00")
