"""OpenAI Agents SDK: the real package with a model of our own (`agents.Model`) that streams the Responses events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from agents import Agent, Model, ModelResponse, RunConfig, Runner, function_tool, set_tracing_disabled
from orchestrator_free.adapters import openai_agents as adapter
from tests.adapters.conftest import parts, texts
from tests.adapters.test_openai import MESSAGE, REASONING, response, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Run

set_tracing_disabled(True)
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def call(name: str, arguments: str, id: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{id}",
        "call_id": id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def say(text: str) -> dict[str, Any]:
    return {**MESSAGE, "content": [{"type": "output_text", "text": text, "annotations": []}]}


def streamed(*items: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a response that gives these items."""
    events = [response(0, "response.created", response=whole("in_progress", usage=None))]
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "reasoning":
            events.append(
                response(
                    1, "response.reasoning_summary_text.delta", **at, summary_index=0, delta=item["summary"][0]["text"]
                )
            )
        elif item["type"] == "message":
            pieces = item["content"][0]["text"].split(" ")
            events += [
                response(1, "response.output_text.delta", **at, content_index=0, delta=piece + " ", logprobs=[])
                for piece in pieces
            ]
        else:
            events.append(response(1, "response.output_item.added", output_index=index, item={**item, "arguments": ""}))
            events.append(response(1, "response.function_call_arguments.delta", **at, delta=item["arguments"]))
        events.append(response(2, "response.output_item.done", output_index=index, item=item))
    return [*events, response(3, "response.completed", response=whole(output=items))]


class Scripted(Model):
    """Answers each request with the next of its answers: events, `None` to hang, what to wait for, or an error."""

    def __init__(self, *answers: Any, streams: bool = True) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []
        self.closed = asyncio.Event()
        self.streams = streams

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        raise NotImplementedError

    async def stream_response(self, instructions: Any, input: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        self.asked.append(input)
        events = self.answers.pop(0)
        for event in events if self.streams else events[-1:]:
            if event is None:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.closed.set()
            if isinstance(event, asyncio.Event):
                await event.wait()
                continue
            if isinstance(event, Exception):
                raise event
            yield EVENTS.validate_python(event)


@function_tool
def sky(city: str) -> str:
    """The weather in a city."""
    return f"clear in {city}"


@function_tool(needs_approval=True)
def pay(euros: int) -> str:
    """Pay."""
    return f"paid {euros}"


CALLING = (REASONING, say("Let me look."), call("sky", '{"city": "Rome"}', "c1"))


def handler(agent: Agent[Any], results: list[Any] | None = None) -> Any:
    async def handle(run: Run) -> None:
        result = await adapter.publish(run, Runner.run_streamed(agent, await adapter.messages(run)))
        if results is not None:
            results.append(result)

    return handle


@pytest.mark.parametrize("streams", [True, False])
async def test_text_reasoning_tools_and_usage(working: Any, streams: bool) -> None:
    """Also of a model that gives a response at once."""
    model = Scripted(streamed(*CALLING), streamed(say("Sunny.")), streams=streams)
    results: list[Any] = []
    async with working(handler(Agent("clerk", model=model, tools=[sky]), results)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert [part["type"] for part in run["parts"]] == ["reasoning", "text", "tool", "text"]
    assert [text.strip() for text in texts(run, "reasoning") + texts(run)] == ["Hm, yes.", "Let me look.", "Sunny."]
    (tool,) = parts(run, "tool")
    assert (tool["call"], tool["tool"], tool["input"], tool["output"]) == (
        "c1",
        "sky",
        {"city": "Rome"},
        "clear in Rome",
    )
    assert run["usage"] == {
        "input_tokens": 200,
        "output_tokens": 40,
        "cached_input_tokens": 120,
        "reasoning_tokens": 16,
    }
    assert (results[0].output, results[0].skipped) == ("Sunny.", {})


async def test_a_hand_off_is_a_sub_agent(working: Any) -> None:
    """The other agent's parts name it; its text is the answer."""
    expert = Agent("expert", model=Scripted(streamed(say("Sunny."))))
    desk = Agent("desk", model=Scripted(streamed(call("transfer_to_expert", "{}", "c1"))), handoffs=[expert])
    results: list[Any] = []
    async with working(handler(desk, results)) as work:
        run = await work.ask()

    (about,) = parts(run, "data")
    assert (about["name"], about["data"]["name"], about["data"]["how"], about["data"]["status"]) == (
        "subagent",
        "expert",
        "handoff",
        "done",
    )
    (text,), (tool,) = parts(run, "text"), parts(run, "tool")
    assert (text["text"].strip(), text["by"]) == ("Sunny.", about["id"])
    assert (tool["output"], tool.get("by")) == ({"agent": "expert"}, None)
    assert results[0].text.strip() == "Sunny."


async def test_an_agent_as_a_tool_is_a_sub_agent_that_works_for_its_call(working: Any) -> None:
    """Its stream is shown with its name and its call; the answer is the other's."""
    results: list[Any] = []

    async def handle(run: Run) -> None:
        helper = Agent("helper", model=Scripted(streamed(say("deep thought"))))
        tool = helper.as_tool("think", "Think.", on_stream=adapter.nested(run))
        desk = Agent(
            "desk",
            model=Scripted(streamed(call("think", '{"input": "x"}', "c1")), streamed(say("Done."))),
            tools=[tool],
        )
        results.append(await adapter.publish(run, Runner.run_streamed(desk, "Go")))

    async with working(handle) as work:
        run = await work.ask()

    (about,) = parts(run, "data")
    assert (about["data"]["name"], about["data"]["call"]) == ("helper", "c1")
    assert [(text["text"].strip(), text.get("by")) for text in parts(run, "text")] == [
        ("deep thought", about["id"]),
        ("Done.", None),
    ]
    assert results[0].text.strip() == "Done."


async def test_history_keeps_tool_calls(working: Any) -> None:
    """The second input's request repeats the first turn."""
    model = Scripted(streamed(*CALLING), streamed(say("Sunny.")), streamed(say("Bye.")))
    async with working(handler(Agent("clerk", model=model, tools=[sky]))) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")

    said = model.asked[-1]
    assert [item.get("role") or item["type"] for item in said] == [
        "user",
        "assistant",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
    ]
    assert (said[3]["output"], said[-1]["content"]) == ("clear in Rome", "Thanks")


@pytest.mark.parametrize("paused", [False, True])
async def test_a_cancel_ends_the_request(working: Any, shown: Any, paused: bool) -> None:
    """In the middle of an answer, also of a paused run that reads nothing: the model's stream is closed."""
    begin, more = streamed(say("Let me"))[:2], streamed(say("Let me"))[2]
    going = asyncio.Event()
    model = Scripted([*begin, *([going, *[more] * 9] if paused else []), None])
    async with working(handler(Agent("clerk", model=model))) as work:
        sent = await work.begin()
        await shown(work, "Let")
        if paused:
            await (await work.session.control.pause(to=work.agent, run=sent.run)).outcome(timeout=60)
            going.set()
            await work.session.state.set("trip", 1)
        await work.session.control.cancel(sent.run)
        run = await work.end()
        await asyncio.wait_for(model.closed.wait(), 20)

    assert (run["status"], texts(run)) == ("cancelled", ["Let "])


async def test_a_steer_is_the_sdk_s_next_turn(working: Any, shown: Any) -> None:
    """The turn under way is ended with its tool calls; then the model is told."""
    going = asyncio.Event()

    @function_tool
    async def wait() -> str:
        """Wait."""
        await going.wait()
        return "waited"

    model = Scripted(streamed(call("wait", "{}", "c1")), streamed(say("Short.")))

    async with working(handler(Agent("clerk", model=model, tools=[wait]))) as work:
        sent = await work.begin()
        await shown(work, "wait")
        control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
        outcome = await control.outcome(timeout=60)
        going.set()
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert (run["error"], outcome.state) == (None, "applied")
    assert model.asked[1][-1] == {"role": "user", "content": "Shorter!"}
    assert parts(run, "tool")[0]["output"] == "waited"


@pytest.mark.parametrize("answer", ["approve", "deny"])
async def test_a_tool_that_needs_approval_is_asked_for(working: Any, asked: Any, answer: str) -> None:
    """The SDK's own approval: its interrupted run goes on with what people decided."""
    model = Scripted(streamed(call("pay", '{"euros": 40}', "c1")), streamed(say("Done.")))
    async with working(handler(Agent("clerk", model=model, tools=[pay]))) as work:
        sent = await work.begin()
        ask = await asked(work)
        await work.session.asks.answer(ask["ask"], answer, comment="too much")
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert ask["data"] == {"tool": "pay", "input": {"euros": 40}}
    told = model.asked[1][-1]
    assert (told["call_id"], told["output"]) == ("c1", "paid 40" if answer == "approve" else "not approved: too much")
    assert [text.strip() for text in texts(run)] == ["Done."]


@pytest.mark.parametrize("where", ["model", "turns"])
async def test_an_agent_that_raises_ends_the_run(working: Any, shown: Any, where: str) -> None:
    """A model that breaks off, and a run that goes round too often: as `error`, with what came before.

    What the SDK has not handed on when its model fails it throws away itself.
    """
    seen = asyncio.Event()
    broken = [[*streamed(say("Let me"))[:2], seen, RuntimeError("the secret")]]
    model = Scripted(*(broken if where == "model" else [streamed(*CALLING)] * 2))

    async def handle(run: Run) -> None:
        agent = Agent("clerk", model=model, tools=[sky])
        await adapter.publish(
            run, Runner.run_streamed(agent, "Go", max_turns=1, run_config=RunConfig(tracing_disabled=True))
        )

    async with working(handle) as work:
        await work.begin()
        await shown(work, "Let")
        seen.set()
        run = await work.end()

    assert (run["status"], texts(run)[0].split(" ")[0]) == ("error", "Let")
    assert run["error"].startswith("openai-agents failed after ")
    assert run["error"].endswith("(RuntimeError)" if where == "model" else "(MaxTurnsExceeded)")
