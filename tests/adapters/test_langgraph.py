"""LangGraph: the real package with a chat model of langchain-core made for tests, that streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from pydantic import Field

from orchestrator_free.adapters import langgraph as adapter
from tests.adapters.conftest import parts, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Run

MODES = ["messages", "updates", "custom"]
USAGE = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 60},
    "output_token_details": {"reasoning": 8},
}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Scripted(BaseChatModel):
    """Answers each request with the next of its answers: pieces, `None` to hang, or an error; notes what it is asked."""

    answers: list[Any]
    asked: list[Any] = Field(default_factory=list)
    closed: Any = None
    streams: bool = True

    @property
    def _llm_type(self) -> str:
        return "scripted"

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any
    ) -> AsyncIterator[Any]:
        self.asked.append(messages)
        for piece in self.answers.pop(0):
            if piece is None:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.closed.set()
            if isinstance(piece, Exception):
                raise piece
            yield ChatGenerationChunk(message=piece)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        self.asked.append(messages)
        whole = None
        for piece in self.answers.pop(0):
            whole = piece if whole is None else whole + piece
        message = AIMessage(
            whole.content, tool_calls=whole.tool_calls, usage_metadata=whole.usage_metadata, id=f"run-{len(self.asked)}"
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _should_stream(self, **options: Any) -> bool:
        return self.streams


def said(text: Any, **more: Any) -> AIMessageChunk:
    return AIMessageChunk(content=text, **more)


def calls(name: str, first: str, rest: str) -> list[AIMessageChunk]:
    """The pieces of a tool call."""
    begin = {"name": name, "args": first, "id": "c1", "index": 0}
    return [
        said("", tool_call_chunks=[begin]),
        said("", tool_call_chunks=[{"name": None, "args": rest, "id": None, "index": 0}]),
    ]


def sky(city: str) -> str:
    """The weather in a city."""
    return f"clear in {city}"


def graph(model: Any, *tools: Any, **options: Any) -> Any:
    """A model that calls tools until it does not."""

    async def talk(state: State) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    built = StateGraph(State)
    built.add_node("talk", talk)
    built.add_node("tools", ToolNode(list(tools)))
    built.add_edge(START, "talk")
    built.add_conditional_edges("talk", tools_condition)
    built.add_edge("tools", "talk")
    return built.compile(**options)


def handler(made: Any, results: list[Any] | None = None, **options: Any) -> Any:
    async def handle(run: Run) -> None:
        source = made.astream({"messages": await adapter.messages(run)}, stream_mode=MODES, subgraphs=True, **options)
        result = await adapter.publish(run, source)
        if results is not None:
            results.append(result)

    return handle


THOUGHT = [{"type": "reasoning", "reasoning": "Hm, yes.", "index": 0}]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("streams", [True, False])
async def test_text_reasoning_tools_and_usage(working: Any, version: str, streams: bool) -> None:
    """Of both versions of the stream, and of a model that does not stream."""
    thought = [said(THOUGHT)] if streams else []
    model = Scripted(
        answers=[[*thought, said("Let me "), said("look."), *calls("sky", '{"city": ', '"Rome"}')], [said("Sun"), said("ny.", usage_metadata=USAGE)]],
        streams=streams,
    )  # fmt: skip
    results: list[Any] = []
    async with working(handler(graph(model, sky), results, version=version)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert texts(run, "reasoning") == ["Hm, yes."] * len(thought)
    assert [part["type"] for part in run["parts"] if part["type"] != "reasoning"] == ["text", "tool", "text"]
    assert texts(run) == ["Let me look.", "Sunny."]
    (tool,) = parts(run, "tool")
    assert (tool["call"], tool["tool"], tool["input"], tool["output"]) == (
        "c1",
        "sky",
        {"city": "Rome"},
        "clear in Rome",
    )
    assert run["usage"] == {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 60, "reasoning_tokens": 8}
    assert (results[0].text, results[0].skipped) == ("Let me look.Sunny.", {})


async def test_a_subgraph_is_a_sub_agent(working: Any) -> None:
    """Its parts name it, and it is done when its node is."""
    inner = graph(Scripted(answers=[[said("deep thought")]]))
    outer = StateGraph(State)
    outer.add_node("thinker", inner)
    outer.add_edge(START, "thinker")
    outer.add_edge("thinker", END)
    async with working(handler(outer.compile())) as work:
        run = await work.ask()

    (about,) = parts(run, "data")
    assert (about["name"], about["data"]["name"], about["data"]["how"], about["data"]["status"]) == (
        "subagent",
        "thinker",
        "subgraph",
        "done",
    )
    assert [(text["text"], text["by"]) for text in parts(run, "text")] == [("deep thought", about["id"])]


async def test_history_keeps_tool_calls(working: Any) -> None:
    """The second input's model is told the first turn."""
    model = Scripted(answers=[calls("sky", "{", '"city": "Rome"}'), [said("Sunny.")], [said("Bye.")]])
    async with working(handler(graph(model, sky))) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")

    told = model.asked[-1]
    assert [message.type for message in told] == ["human", "ai", "tool", "ai", "human"]
    assert (told[1].tool_calls[0]["args"], told[2].content, told[-1].content) == (
        {"city": "Rome"},
        "clear in Rome",
        "Thanks",
    )


async def test_a_cancel_ends_the_graph(working: Any, shown: Any) -> None:
    """In the middle of an answer: the model's stream is closed, what was shown stays."""
    model = Scripted(answers=[[said("Let me "), None]], closed=asyncio.Event())
    async with working(handler(graph(model))) as work:
        sent = await work.begin()
        await shown(work, "Let me")
        await work.session.control.cancel(sent.run)
        run = await work.end()
        await asyncio.wait_for(model.closed.wait(), 20)

    assert (run["status"], texts(run)) == ("cancelled", ["Let me "])


async def test_a_steer_is_the_next_turn(working: Any, eventually: Any) -> None:
    """The graph takes nothing while it works: its handler begins another turn with it."""
    model = Scripted(answers=[[said("A long answer.")], [said("Short.")]])
    made = graph(model)

    async def handle(run: Run) -> None:
        await run.reasoning("waiting")
        await eventually(lambda: run._active.steers, 60)
        messages = await adapter.messages(run)
        while True:
            result = await adapter.publish(run, made.astream({"messages": messages}, stream_mode=MODES, subgraphs=True))
            steers = await run.steers()
            if not steers:
                return
            messages += [("ai", result.text), *(("human", steer.text) for steer in steers)]

    async with working(handle) as work:
        sent = await work.begin()
        control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
        run = await work.session.result(work.agent, sent.run, timeout=60)
        outcome = await control.outcome(timeout=60)

    assert (outcome.state, texts(run)) == ("applied", ["A long answer.", "Short."])
    assert model.asked[1][-1].content == "Shorter!"


@pytest.mark.parametrize("answer", ["approve", "deny"])
async def test_an_interrupt_is_asked_in_the_session(working: Any, asked: Any, answer: str) -> None:
    """The graph goes on with what was answered."""

    def pay(euros: int) -> str:
        """Pay."""
        return f"paid {euros}" if interrupt({"question": f"Pay {euros}?", "euros": euros}) == "approve" else "not paid"

    model = Scripted(answers=[calls("pay", "{", '"euros": 40}'), [said("Done.")]])

    async def handle(run: Run) -> None:
        made = graph(model, pay, checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": run.id}}

        def stream(input: Any) -> Any:
            return made.astream(input, config, stream_mode=MODES, subgraphs=True)

        await adapter.publish(run, stream({"messages": await adapter.messages(run)}), resume=stream)

    async with working(handle) as work:
        sent = await work.begin()
        ask = await asked(work)
        await work.session.asks.answer(ask["ask"], answer)
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert (ask["text"], ask["data"]) == ("Pay 40?", {"question": "Pay 40?", "euros": 40})
    (tool,) = parts(run, "tool")
    assert tool["output"] == ("paid 40" if answer == "approve" else "not paid")
    assert texts(run) == ["Done."]


async def test_a_graph_that_raises_ends_the_run(working: Any) -> None:
    """As `error`, with what came before."""
    model = Scripted(answers=[[said("Let me "), RuntimeError("the secret")]])
    async with working(handler(graph(model))) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Let me "])
    assert run["error"].startswith("langgraph failed after ")
    assert run["error"].endswith("(RuntimeError)")


async def test_a_stream_in_one_mode_is_refused(working: Any) -> None:
    """It cannot be told from others: the error says what to pass."""

    async def handle(run: Run) -> None:
        await adapter.publish(run, graph(Scripted(answers=[[said("x")]])).astream({"messages": []}))

    async with working(handle) as work:
        run = await work.ask()

    assert "pass stream_mode=['messages', 'updates', 'custom']" in run["error"]
