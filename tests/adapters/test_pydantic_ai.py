"""PydanticAI: the real package with its own models for tests, TestModel and FunctionModel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel as Model

from orchestrator_free.adapters import pydantic_ai as adapter
from tests.adapters.conftest import parts, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Run


def told(messages: list[ModelMessage], kind: type = ToolReturnPart) -> list[str]:
    """What a model is told by parts of a kind."""
    requests = [message for message in messages if isinstance(message, ModelRequest)]
    return [str(part.content) for request in requests for part in request.parts if isinstance(part, kind)]


async def weather(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """A model that thinks, calls a tool, and says what it gave."""
    if not told(messages):
        yield {0: DeltaThinkingPart(content="Hm, ")}
        yield {0: DeltaThinkingPart(content="yes.")}
        yield {1: DeltaToolCall(name="sky", json_args='{"city": ', tool_call_id="c1")}
        yield {1: DeltaToolCall(json_args='"Rome"}')}
    else:
        yield "It says: "
        yield told(messages)[-1]


def agent(model: Any = weather, **options: Any) -> Agent[None, Any]:
    return Agent(FunctionModel(stream_function=model) if callable(model) else model, **options)


def sky(city: str) -> str:
    """The weather in a city."""
    return f"clear in {city}"


async def test_text_reasoning_tools_and_usage(working: Any) -> None:
    """In their order, with the input's pieces and the tool's duration."""
    seen = []

    async def handle(run: Run) -> None:
        one = agent(tools=[sky])
        seen.append(await adapter.publish(run, one.run_stream_events(message_history=await adapter.messages(run))))

    async with working(handle) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert [part["type"] for part in run["parts"]] == ["reasoning", "tool", "text"]
    assert (texts(run, "reasoning"), texts(run)) == (["Hm, yes."], ["It says: clear in Rome"])
    (tool,) = parts(run, "tool")
    assert (tool["call"], tool["tool"], tool["input"], tool["output"]) == (
        "c1",
        "sky",
        {"city": "Rome"},
        "clear in Rome",
    )
    assert tool["seconds"] >= 0
    assert run["usage"]["requests"] == 2
    assert run["usage"]["output_tokens"] > 0
    assert (seen[0].text, seen[0].output, seen[0].calls) == ("It says: clear in Rome", "It says: clear in Rome", [])


async def test_a_structured_output_is_the_result(working: Any) -> None:
    """With the package's TestModel, which calls every tool; a tool that fails is shown as failed."""
    seen = []

    class Report(BaseModel):
        city: str

    async def handle(run: Run) -> None:
        one = agent(Model(custom_output_args={"city": "Rome"}), output_type=Report, tools=[sky])
        seen.append(await adapter.publish(run, one.run_stream_events("Go")))

    async with working(handle) as work:
        run = await work.ask()

    assert run["error"] is None
    assert seen[0].output == Report(city="Rome")
    assert [(tool["tool"], tool["status"]) for tool in parts(run, "tool")] == [
        ("sky", "done"),
        ("final_result", "done"),
    ]


async def test_history_keeps_tool_calls(working: Any) -> None:
    """The second input's model is told the first turn: words, call, what it gave, answer."""
    histories: list[list[ModelMessage]] = []

    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        histories.append(messages)
        async for piece in weather(messages, info):
            yield piece

    async def handle(run: Run) -> None:
        await adapter.publish(
            run, agent(model, tools=[sky]).run_stream_events(message_history=await adapter.messages(run))
        )

    async with working(handle) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")

    assert told(histories[-1]) == ["clear in Rome"]
    assert told(histories[-1], UserPromptPart) == ["Weather?", "Thanks"]
    assert [message.kind for message in histories[-1]] == ["request", "response", "request", "response", "request"]


async def test_an_agent_inside_a_tool_is_a_sub_agent(working: Any) -> None:
    """Its parts name it, it names the call it works for, and its text is not the answer's, nor the conversation's."""

    async def thinker(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        yield "deep thought"

    results = []

    async def handle(run: Run) -> None:
        outer = agent()

        @outer.tool
        async def sky(context: RunContext[None], city: str) -> str:
            events = agent(thinker).run_stream_events(city)
            inner = await adapter.publish(run, events, subagent="thinker", call=context.tool_call_id)
            return inner.text.upper()

        results.append(await adapter.publish(run, outer.run_stream_events("Weather?")))

    async with working(handle) as work:
        run = await work.ask()
        turns = await work.session.branches.conversation()
        conversation = [answer["text"] for turn in turns for answer in turn["answers"]]

    (helper,) = parts(run, "data")
    assert (helper["name"], helper["data"]) == (
        "subagent",
        {"name": "thinker", "status": "done", "parent": None, "call": "c1"},
    )
    assert [(part["text"], part.get("by")) for part in parts(run, "text")] == [
        ("deep thought", helper["id"]), ("It says: DEEP THOUGHT", None)
    ]  # fmt: skip
    assert results[0].text == "It says: DEEP THOUGHT"
    assert conversation == ["It says: DEEP THOUGHT"]


async def endless(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """A model that says one thing and never ends."""
    try:
        yield "Let me "
        await asyncio.Event().wait()
    finally:
        CLOSED.set()


CLOSED = asyncio.Event()


@pytest.mark.parametrize("driven", [False, True])
async def test_a_cancel_closes_the_model_s_stream(working: Any, shown: Any, driven: bool) -> None:
    """With `run_stream_events` and with `iter`: the model is stopped at once, what was shown stays."""
    CLOSED.clear()

    async def handle(run: Run) -> None:
        one = agent(endless)
        await adapter.publish(run, one.iter("Go") if driven else one.run_stream_events("Go"))

    async with working(handle) as work:
        sent = await work.begin()
        await shown(work, "Let me")
        await work.session.control.cancel(sent.run)
        run = await work.end()
        await asyncio.wait_for(CLOSED.wait(), 20)

    assert (run["status"], texts(run)) == ("cancelled", ["Let me "])


async def test_a_steer_reaches_an_agent_at_work(working: Any, shown: Any) -> None:
    """Driven by `iter`, the agent's next request has it; the log says that it was applied while a tool still runs."""
    going = asyncio.Event()

    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        prompts = told(messages, UserPromptPart)
        if "Shorter!" in prompts:
            yield "Sunny."
        elif not told(messages):
            yield {0: DeltaToolCall(name="sky", json_args='{"city": "Rome"}', tool_call_id="c1")}
        else:
            yield "A long answer."

    async def handle(run: Run) -> None:
        async def sky(city: str) -> str:
            await going.wait()
            return city

        await adapter.publish(run, agent(model, tools=[sky]).iter("Go"))

    async with working(handle) as work:
        sent = await work.begin()
        await shown(work, "Rome")
        control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
        outcome = await control.outcome(timeout=60)
        going.set()
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert outcome.state == "applied"
    assert texts(run)[-1] == "Sunny."


@pytest.mark.parametrize("answer", ["approve", "deny"])
async def test_a_tool_that_needs_approval_is_asked_for(working: Any, asked: Any, answer: str) -> None:
    """The agent's own deferred tools: approved it runs, denied the model is told why."""

    async def handle(run: Run) -> None:
        one = agent(output_type=[str, DeferredToolRequests])
        one.tool_plain(requires_approval=True)(sky)
        await adapter.publish(
            run,
            one.run_stream_events("Weather?"),
            resume=lambda messages, results: one.run_stream_events(
                message_history=messages, deferred_tool_results=results
            ),
        )

    async with working(handle) as work:
        sent = await work.begin()
        ask = await asked(work)
        await work.session.asks.answer(ask["ask"], answer, comment="not today")
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert ask["data"] == {"tool": "sky", "input": {"city": "Rome"}}
    (tool,) = parts(run, "tool")
    if answer == "approve":
        assert (tool["status"], texts(run)) == ("done", ["It says: clear in Rome"])
    else:
        assert (tool["status"], tool["error"]) == ("error", "not approved: not today")
        assert texts(run) == ["It says: not approved: not today"]


async def test_an_agent_that_raises_ends_the_run(working: Any) -> None:
    """As `error`; what came before stays, what the exception says is not shown."""

    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        yield "Let me "
        raise RuntimeError("the secret")

    async def handle(run: Run) -> None:
        await adapter.publish(run, agent(model).run_stream_events("Go"))

    async with working(handle) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Let me "])
    assert run["error"].startswith("pydantic-ai failed after ")
    assert run["error"].endswith("(RuntimeError)")
