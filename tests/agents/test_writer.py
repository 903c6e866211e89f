"""Writer: what it makes of a model's stream, with the real openai package and a server that speaks the protocol.

The shape of the stream is that of `openai.types.chat.ChatCompletionChunk` (openai 3.54, generated from OpenAI's OpenAPI
document; every chunk sent here is validated against it) in server-sent events that end with `data: [DONE]`, as
`openai/_streaming.py` reads them. `reasoning_content` is no field of OpenAI: DeepSeek and vLLM send it
(docs.vllm.ai, "OpenAI Chat Completion With Reasoning Streaming").
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from openai.types.chat import ChatCompletionChunk

KEY = "sk-very-secret-0123456789"
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@pytest.fixture
def writer(program):
    return program("writer")


def chunk(delta=None, finish=None, **more):
    """One chunk of a stream; without a delta the last one, which holds the usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices} | more
    ChatCompletionChunk.model_validate(body)
    return body


def tool_piece(index, arguments, *, id=None, name=None):
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": id, "type": "function"} if id else {})]}


def sse(*chunks, done=True):
    """A whole answer: status and body."""
    lines = [f"data: {json.dumps(body)}\n\n" for body in chunks] + (["data: [DONE]\n\n"] if done else [])
    return 200, "".join(lines)


class ModelServer:
    """Answers each request with the next of its answers, the last one for ever; remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    async def handle(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.lower().splitlines() if "content-length" in line)
        self.requests.append(SimpleNamespace(head=head, body=json.loads(await reader.readexactly(length))))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = "text/event-stream" if status == 200 else "application/json"
        # x-should-retry is what OpenAI's own server sends to stop the client's retries (openai/_base_client.py)
        headers = (
            f"content-type: {kind}\r\nx-should-retry: false\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"
        )
        payload = body.removesuffix("<cut>").encode()
        end = b"" if body.endswith("<cut>") else b"0\r\n\r\n"
        writer.write(f"HTTP/1.1 {status} X\r\n{headers}\r\n{len(payload):x}\r\n".encode() + payload + b"\r\n" + end)
        await writer.drain()
        writer.close()


@pytest.fixture
def review(ann, fresh, writer, served, monkeypatch):
    """Let the writer review a text with a server that gives these answers; return its run and the server."""

    async def run(text, *answers, key=KEY, user=""):
        server = ModelServer(*answers)
        listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{user}127.0.0.1:{port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("OPENAI_MODEL", "small-model")
        session = ann.session(fresh("s"))
        await session.create()
        async with listening, served(writer.agent):
            sent = await session.send("Look.", to="writer", data={"document": {"name": "a.md", "text": text}})
            return await session.result("writer", sent.run, timeout=30), server

    return run


def parts(run, kind):
    return [part for part in run["parts"] if part["type"] == kind]


# -- a good server ----------------------------------------------------------------------------------------------------


async def test_text_reasoning_and_usage_arrive(review):
    run, server = await review(
        "The log is kept.",
        sse(
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning_content": "Hm, "}),
            chunk({"reasoning_content": "short."}),
            chunk({"content": "It is "}),
            chunk({"content": "fine 👍."}),
            chunk({}, finish="stop"),
            chunk(usage=USAGE),
        ),
    )

    assert (run["status"], run["error"]) == ("done", None)
    assert [part["text"] for part in parts(run, "reasoning")] == ["Hm, short."]
    assert [part["text"] for part in parts(run, "text")] == ["It is fine 👍."]
    assert run["usage"] == {"input_tokens": 100, "output_tokens": 20}
    request = server.requests[0]
    assert request.head.startswith("POST /v1/chat/completions ")
    assert f"bearer {KEY}" in request.head.lower()
    assert (request.body["model"], request.body["stream"]) == ("small-model", True)
    assert "<document>\nThe log is kept.\n</document>" in request.body["messages"][1]["content"]
    assert "tools" not in request.body


async def test_a_long_document_is_cut_and_the_model_can_search_the_rest(review, writer):
    text = "start " + "x" * writer.SHOWN + " the needle lies here"
    run, server = await review(
        text,
        sse(
            chunk(tool_piece(0, '{"phr', id="call_a", name="find_in_document")),
            chunk(tool_piece(0, 'ase": "NEEDLE"}')),
            chunk({}, finish="tool_calls"),
            chunk(usage=USAGE),
        ),
        sse(chunk({"content": "Found."}), chunk({}, finish="stop"), chunk(usage=USAGE)),
    )

    (tool,) = parts(run, "tool")
    assert (tool["tool"], tool["status"], tool["input"]) == ("find_in_document", "done", {"phrase": "NEEDLE"})
    assert tool["output"]["count"] == 1
    assert tool["output"]["passages"][0].endswith(" the needle lies here")
    assert [part["text"] for part in parts(run, "text")] == ["Found."]
    assert run["usage"] == {"input_tokens": 200, "output_tokens": 40}
    first, second = (request.body for request in server.requests)
    assert "[cut here: 27 more characters]" in first["messages"][1]["content"]
    assert second["messages"][2]["tool_calls"][0]["id"] == "call_a"
    assert second["messages"][3]["tool_call_id"] == "call_a"
    assert json.loads(second["messages"][3]["content"])["count"] == 1


async def test_a_model_that_calls_what_does_not_exist_is_told_so(review):
    call = sse(chunk(tool_piece(0, "{broken", id="c", name="rm_rf")), chunk({}, finish="tool_calls"))
    run, server = await review("Text.", call, call, sse(chunk({"content": "Sorry."}), chunk({}, finish="stop")))

    assert run["status"] == "done"
    assert [(tool["status"], tool["input"]) for tool in parts(run, "tool")] == [("error", "{broken")] * 2
    assert server.requests[1].body["messages"][3]["content"] == "error: there is no tool 'rm_rf' that takes this"


async def test_a_model_that_never_stops_calling_tools_is_stopped(review, writer):
    call = sse(chunk(tool_piece(0, "{}", id="c", name="find_in_document")), chunk({}, finish="tool_calls"))
    run, server = await review("x" * (writer.SHOWN + 1), call)

    assert (run["status"], run["error"]) == ("error", "the model gave no review")
    assert [request.body["tool_choice"] for request in server.requests] == ["auto", "auto", "auto", "none"]


async def test_an_empty_document_costs_no_request(review):
    run, server = await review(" \n\x00", sse())

    assert parts(run, "text")[0]["text"] == "a.md is empty: there is nothing to review."
    assert server.requests == []


# -- a failing server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})), "answered 401"),
        ((500, f"<html>{KEY}</html>"), "answered 500"),
        ((404, ""), "answered 404"),
        (sse(chunk({"content": "Hal"}), {"error": {"message": f"overloaded {KEY}"}}), "failed (APIError)"),
        (sse(chunk({"content": "Hal"}), done=False), "broke off in the middle of its answer"),
        ((200, "data: {no json\n\n"), "failed (JSONDecodeError)"),
        ((200, "data: [1]\n\ndata: [DONE]\n\n"), "failed (AttributeError)"),
        ((200, f"data: {json.dumps(chunk({'content': 'Hal'}))}\n\n<cut>"), "failed (APIConnectionError)"),
    ],
)
async def test_a_failing_server_ends_the_run_and_tells_no_secret(review, answer, error, capfd):
    run, _ = await review("Text.", answer, user=f"ann:{KEY}@")

    assert (run["status"], run["error"]) == ("error", f"the model server 127.0.0.1 {error}")
    assert KEY not in json.dumps(run)
    logged = capfd.readouterr()
    assert KEY not in logged.out + logged.err


async def test_a_key_that_cannot_be_sent_is_not_told(review):
    """httpx quotes an illegal header in its error."""
    run, server = await review("Text.", sse(), key=f"{KEY}\n{KEY}")

    assert run["status"] == "error"
    assert KEY not in json.dumps(run)
    assert server.requests == []


async def test_an_answer_that_stopped_early_says_so(review):
    run, _ = await review("Text.", sse(chunk({"content": "It is"}), chunk({}, finish="length")))

    assert run["status"] == "done"
    assert parts(run, "text")[0]["text"] == "It is\n\n*(The model stopped early: length.)*"


# -- pieces of a stream -----------------------------------------------------------------------------------------------


def test_calls_are_put_together_by_index_or_by_id(writer):
    def piece(index, id, name, arguments):
        return SimpleNamespace(index=index, id=id, function=SimpleNamespace(name=name, arguments=arguments))

    calls, unnumbered = [], []
    for one in (
        piece(0, "a", "f", "1"),
        piece(1, "b", "g", "2"),
        piece(0, None, None, "3"),
        piece(1, None, None, None),
    ):
        writer.add_piece(calls, one)
    for one in (piece(None, "a", "f", "1"), piece(None, None, None, "2"), piece(None, "b", "g", "3")):
        writer.add_piece(unnumbered, one)

    assert [(call.id, call.name, call.arguments) for call in calls] == [("a", "f", "13"), ("b", "g", "2")]
    assert [(call.id, call.name, call.arguments) for call in unnumbered] == [("a", "f", "12"), ("b", "g", "3")]


def test_a_phrase_is_found_with_its_surroundings(writer):
    text = "a" * 400 + "Needle" + "b" * 400 + "needle" * 7

    found = writer.find_in_document(text, " NEEDLE ")
    assert (found["count"], len(found["passages"])) == (8, 5)
    assert found["passages"][0] == "a" * 300 + "Needle" + "b" * 300
    assert writer.find_in_document(text, "  ") == {"count": 0, "passages": []}


# -- taking part ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [["OPENAI_BASE_URL"], ["OPENAI_API_KEY", "OPENAI_MODEL"]])
async def test_without_a_model_it_takes_no_part(programs, folder, eventually, missing):
    given = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"), "http://x")
    started = programs.start(folder / "writer.py", **(given | dict.fromkeys(missing, " ")))

    await eventually(lambda: not started.alive)
    assert started.process.returncode == 0
    assert started.output == f"writer takes no part: set {', '.join(missing)} to give it a model\n"
