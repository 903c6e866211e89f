"""What each adapter reads, in its own words, for the tests that all of them have to stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from claude_agent_sdk import ResultMessage, StreamEvent
from langchain_core.messages import AIMessageChunk
from pydantic_ai.messages import (
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.usage import RunUsage

from orchestrator_free.adapters import agui, aisdk, anthropic, claude, langgraph, openai, openai_agents, pydantic_ai
from orchestrator_free.adapters.anthropic_messages import Messages
from orchestrator_free.adapters.translation import Translation
from tests.adapters import test_anthropic as messages_api
from tests.adapters.test_openai import chunk, piece, response, whole

Events = list[Any]


class TelepathyMessage:
    """A message of a later version of an SDK."""

    type = event_kind = "telepathy"


@dataclass(frozen=True)
class Dialect:
    """One framework's words.

    Attributes:
        module: of the adapter. make: its translation.
        text: what says a text. begun: a tool call that was begun. calls: two calls whose inputs come by turns, `one`
            with {"n": 1} and `two` with {"n": 2}.
        end: the end of an answer, without a word of usage. malformed: an event that makes no sense. unknown: one of a
            type that is not known.
    """

    module: Any
    make: Callable[[], Translation]
    text: Callable[[str], Events]
    begun: Events
    calls: Events
    end: Events
    malformed: Any
    unknown: Any


def _said(text: str, index: int = 0) -> Events:
    return [
        response(1, "response.output_text.delta", output_index=index, item_id="m1", content_index=0, delta=text, logprobs=[])
    ]  # fmt: skip


def _item(name: str, index: int, arguments: str) -> dict[str, Any]:
    about = {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": name, "status": "completed"}
    return {"output_index": index, "item": {**about, "arguments": arguments}}


def _written(name: str, index: int, piece: str) -> Any:
    return response(1, "response.function_call_arguments.delta", output_index=index, item_id=f"fc_{name}", delta=piece)


_RESPONSE_BEGUN = [response(1, "response.output_item.added", **_item("one", 0, "")), _written("one", 0, '{"n"')]
_RESPONSE_CALLS = [
    _RESPONSE_BEGUN[0], response(1, "response.output_item.added", **_item("two", 1, "")), _written("one", 0, '{"n"'),
    _written("two", 1, '{"n": '), _written("one", 0, ": 1}"), _written("two", 1, "2}"),
    response(2, "response.output_item.done", **_item("two", 1, '{"n": 2}')),
    response(2, "response.output_item.done", **_item("one", 0, '{"n": 1}')),
]  # fmt: skip
_RESPONSE_END = [response(3, "response.completed", response=whole(usage=None))]


def _raw(events: Events) -> Events:
    return [SimpleNamespace(type="raw_response_event", data=event) for event in events]


def _block(index: int, kind: str, **delta: Any) -> Any:
    return messages_api.event("content_block_delta", index=index, delta={"type": kind, **delta})


def _begin(name: str, index: int) -> Any:
    block = {"type": "tool_use", "id": name, "name": name, "input": {}}
    return messages_api.event("content_block_start", index=index, content_block=block)


def _message_text(text: str) -> Events:
    empty = {"type": "text", "text": "", "citations": None}
    return [
        messages_api.event("content_block_start", index=0, content_block=empty), _block(0, "text_delta", text=text),
    ]  # fmt: skip


_MESSAGE_BEGUN = [_begin("one", 1), _block(1, "input_json_delta", partial_json='{"n"')]
_MESSAGE_CALLS = [
    _begin("one", 1), _begin("two", 2), _block(1, "input_json_delta", partial_json='{"n"'),
    _block(2, "input_json_delta", partial_json='{"n": '), _block(1, "input_json_delta", partial_json=": 1}"),
    _block(2, "input_json_delta", partial_json="2}"), messages_api.event("content_block_stop", index=2),
    messages_api.event("content_block_stop", index=1),
]  # fmt: skip
_MESSAGE_END = [
    {"type": "message_start", "message": {"id": "m", "content": []}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"},
]  # fmt: skip


def _cli(events: Events) -> Events:
    return [StreamEvent(uuid="u", session_id="s", event=event, parent_tool_use_id=None) for event in events]


def _graph(**message: Any) -> Any:
    return "messages", (AIMessageChunk(id="m1", **{"content": "", **message}), {})


def _call_chunk(index: int, args: str, name: str | None = None) -> Any:
    return _graph(tool_call_chunks=[{"name": name, "args": args, "id": name, "index": index}])


def _agui(kind: str, call: str, **more: Any) -> dict[str, Any]:
    return {"type": f"TOOL_CALL_{kind}", "toolCallId": call, **more}


def _chunk(kind: str, call: str, **more: Any) -> dict[str, Any]:
    return {"type": f"tool-input-{kind}", "toolCallId": call, **more}


def _part(name: str, index: int) -> Any:
    return PartStartEvent(index=index, part=ToolCallPart(tool_name=name, args="", tool_call_id=name))


def _args(index: int, piece: str) -> Any:
    return PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=piece))


def _call_event(name: str, args: str) -> Any:
    part = ToolCallPart(tool_name=name, args=args, tool_call_id=name)
    return SimpleNamespace(event_kind="function_tool_call", part=part)


_RESULT = SimpleNamespace(output="", usage=RunUsage(), new_messages=list, all_messages=list)
_TOLD = ResultMessage(subtype="success", duration_ms=1, duration_api_ms=1, is_error=False, num_turns=1, session_id="s")

DIALECTS: dict[str, Dialect] = {
    "responses": Dialect(
        openai, openai.OpenAI, _said, _RESPONSE_BEGUN, _RESPONSE_CALLS, _RESPONSE_END,
        {"type": "response.output_text.delta"}, {"type": "response.telepathy"},
    ),
    "chat": Dialect(
        openai, openai.OpenAI, lambda text: [chunk({"content": text})], [chunk(piece(0, '{"n"', id="one", name="one"))],
        [chunk(piece(0, '{"n"', id="one", name="one")), chunk(piece(1, '{"n": ', id="two", name="two")),
         chunk(piece(0, ": 1}")), chunk(piece(1, "2}"))],
        [chunk({}, finish="stop")], {"choices": 7},
        {"choices": [{"index": 1, "delta": {"content": "another choice"}}]},
    ),
    "anthropic": Dialect(
        anthropic, Messages, _message_text, _MESSAGE_BEGUN, _MESSAGE_CALLS, _MESSAGE_END,
        {"type": "content_block_delta", "index": 9, "delta": {}}, {"type": "telepathy"},
    ),
    "pydantic_ai": Dialect(
        pydantic_ai, pydantic_ai.PydanticAI,
        lambda text: [PartStartEvent(index=0, part=TextPart("")), PartDeltaEvent(index=0, delta=TextPartDelta(text))],
        [_part("one", 1), _args(1, '{"n"')],
        [_part("one", 1), _part("two", 2), _args(1, '{"n"'), _args(2, '{"n": '), _args(1, ": 1}"), _args(2, "2}"),
         PartEndEvent(index=1, part=TextPart("")), _call_event("two", '{"n": 2}'), _call_event("one", '{"n": 1}')],
        [SimpleNamespace(event_kind="agent_run_result", result=_RESULT)],
        PartDeltaEvent(index=9, delta=TextPartDelta("x")), TelepathyMessage(),
    ),
    "openai_agents": Dialect(
        openai_agents, openai_agents.OpenAIAgents, lambda text: _raw(_said(text)), _raw(_RESPONSE_BEGUN),
        _raw(_RESPONSE_CALLS), _raw(_RESPONSE_END), 7, TelepathyMessage(),
    ),
    "langgraph": Dialect(
        langgraph, langgraph.LangGraph, lambda text: [_graph(content=text)], [_call_chunk(0, '{"n"', "one")],
        [_call_chunk(0, '{"n"', "one"), _call_chunk(1, '{"n": ', "two"), _call_chunk(0, ": 1}"), _call_chunk(1, "2}"),
         ("updates", {"talk": {"messages": [SimpleNamespace(
             type="ai", id="m1", content="", usage_metadata=None, response_metadata={}, tool_calls=[
                 {"id": "one", "name": "one", "args": {"n": 1}}, {"id": "two", "name": "two", "args": {"n": 2}}])]}})],
        [("updates", {"talk": None})], 7, ("telepathy", {}),
    ),
    "claude": Dialect(
        claude, claude.Claude, lambda text: _cli(_message_text(text)), _cli(_MESSAGE_BEGUN), _cli(_MESSAGE_CALLS),
        [_TOLD], 7, TelepathyMessage(),
    ),
    "agui": Dialect(
        agui, agui.AgUi, lambda text: [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": text}],
        [_agui("START", "one", toolCallName="one"), _agui("ARGS", "one", delta='{"n"')],
        [_agui("START", "one", toolCallName="one"), _agui("START", "two", toolCallName="two"), _agui("ARGS", "one", delta='{"n"'),
         _agui("ARGS", "two", delta='{"n": '), _agui("ARGS", "one", delta=": 1}"), _agui("ARGS", "two", delta="2}"),
         _agui("END", "two"), _agui("END", "one")],
        [{"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}], {"type": "TEXT_MESSAGE_CONTENT"}, {"type": "TELEPATHY"},
    ),
    "aisdk": Dialect(
        aisdk, aisdk.AiSdk, lambda text: [{"type": "text-start", "id": "t"}, {"type": "text-delta", "id": "t", "delta": text}],
        [_chunk("start", "one", toolName="one"), _chunk("delta", "one", inputTextDelta='{"n"')],
        [_chunk("start", "one", toolName="one"), _chunk("start", "two", toolName="two"),
         _chunk("delta", "one", inputTextDelta='{"n"'), _chunk("delta", "two", inputTextDelta='{"n": '),
         _chunk("delta", "one", inputTextDelta=": 1}"), _chunk("delta", "two", inputTextDelta="2}"),
         _chunk("available", "two", toolName="two", input={"n": 2}), _chunk("available", "one", toolName="one", input={"n": 1})],
        [{"type": "finish"}], {"type": "text-delta"}, {"type": "telepathy"},
    ),
}  # fmt: skip
