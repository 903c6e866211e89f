"""An approval of a framework survives kill -9: another replica meets the same ask and its answer, and finishes once.

That of the OpenAI Agents SDK is in test_programs.py. Each program notes what it really does in a file.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.adapters import test_anthropic as messages_api
from tests.adapters.conftest import parts, texts
from tests.adapters.test_claude import Cli, gave, result, streamed, text, tool
from tests.adapters.test_generic import AGUI, sse
from tests.adapters.test_openai import ANSWER, CHAT, DONE, ENDING, RESPONSE
from tests.adapters.test_openai import sse as openai_sse

if TYPE_CHECKING:
    from pathlib import Path

PYDANTIC_AI = """
import os
from pydantic_ai import Agent as Model, DeferredToolRequests
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import pydantic_ai as adapter

agent = Agent(os.environ["NAME"])
model = Model("test", output_type=[str, DeferredToolRequests])

@model.tool_plain(requires_approval=True)
def pay(euros: int) -> str:
    print("paid", file=open(os.environ["DONE"], "a"), flush=True)
    return f"paid {euros}"

@agent
async def serve(run: Run) -> None:
    def resume(messages, answers):
        return model.run_stream_events(message_history=messages, deferred_tool_results=answers)
    stream = model.run_stream_events(message_history=await adapter.messages(run))
    await adapter.publish(run, stream, resume=resume, asking={"seconds": 600.0})

agent.main()
"""

LANGGRAPH = """
import os, pickle
from pathlib import Path
from typing import Annotated, TypedDict
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import langgraph as adapter

agent = Agent(os.environ["NAME"])

class Saver(InMemorySaver):
    '''Keeps its checkpoints in a file, as the savers for databases do.'''

    file = Path(os.environ["DONE"]).with_suffix(".pickle")

    def load(self):
        if self.file.exists():
            for ours, theirs in zip((self.storage, self.writes, self.blobs), pickle.loads(self.file.read_bytes())):
                ours.clear()
                ours.update(theirs)

    def get_tuple(self, config):
        self.load()
        return super().get_tuple(config)

    def keep(self):
        new = self.file.with_suffix(".new")
        new.write_bytes(pickle.dumps(tuple(map(dict, (self.storage, self.writes, self.blobs)))))
        new.rename(self.file)

    def put(self, *arguments):
        found = super().put(*arguments)
        self.keep()
        return found

    def put_writes(self, *arguments):
        super().put_writes(*arguments)
        self.keep()

class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]

def note(word):
    print(word, file=open(os.environ["DONE"], "a"), flush=True)

def look(state):
    note("looked")
    return {"messages": [AIMessage("Let me see.", id="a1")]}

def pay(state):
    answer = interrupt({"question": "Pay 40?"})
    note("paid")
    return {"messages": [AIMessage("Paid." if answer == "approve" else "Not paid.", id="a2")]}

built = StateGraph(State).add_node("look", look).add_node("pay", pay).add_edge(START, "look").add_edge("look", "pay")
graph = built.compile(checkpointer=Saver() if os.environ["KEPT"] else InMemorySaver())

@agent
async def serve(run: Run) -> None:
    await adapter.work(run, graph, {"messages": await adapter.messages(run)}, asking={"seconds": 600.0})

agent.main()
"""

CLAUDE = """
import os
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import claude as adapter

agent = Agent(os.environ["NAME"])

@agent
async def serve(run: Run) -> None:
    options = ClaudeAgentOptions(
        include_partial_messages=True, cli_path=os.environ["CLI"], can_use_tool=adapter.permissions(run, seconds=600.0)
    )
    async with ClaudeSDKClient(options) as client:
        await client.query(await adapter.prompt(run))
        await adapter.publish(run, client)

agent.main()
"""


CALL_TOOLS = """
import os
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import anthropic, call_tools, openai

agent = Agent(os.environ["NAME"])
kind, url = os.environ["KIND"], os.environ["URL"]
vendor = (AsyncAnthropic if kind == "anthropic" else AsyncOpenAI)(base_url=url, api_key="k", max_retries=0)

def weather(city: str) -> str:
    print("looked", file=open(os.environ["DONE"], "a"), flush=True)
    return f"{city} is sunny"

@agent
async def serve(run: Run) -> None:
    said = await {"chat": openai.messages, "responses": openai.items, "anthropic": anthropic.messages}[kind](run)
    while True:
        if kind == "chat":
            result = await openai.publish(run, vendor.chat.completions.create(model="m", messages=said, stream=True))
        elif kind == "responses":
            result = await openai.publish(run, vendor.responses.create(model="m", input=said, stream=True))
        else:
            source = vendor.messages.create(model="m", max_tokens=99, messages=said, stream=True)
            result = await anthropic.publish(run, source)
        if not result.calls:
            return
        answered = await call_tools(run, result.calls[:1], {"weather": weather}, approve={"weather"}, seconds=600.0)
        answers = {"chat": openai.answers, "responses": openai.output_items, "anthropic": anthropic.answers}[kind]
        told = answers(answered)
        said += result.messages + (told if isinstance(told, list) else [told])

agent.main()
"""


class Crash:
    """A program that asks, is killed, and is taken over; `over` gives its finished run."""

    def __init__(self, ann: Any, programs: Any, folder: Path, eventually: Any, fresh: Any) -> None:
        self.programs, self.folder, self.eventually, self.name = programs, folder, eventually, fresh("agent")
        self.session = ann.session(fresh("s"))
        self.file = folder / "done.txt"

    @property
    def done(self) -> list[str]:
        """What was really done, by any process."""
        return self.file.read_text().split() if self.file.exists() else []

    async def over(self, program: str, **environment: str) -> dict[str, Any]:
        script = self.folder / "program.py"
        script.write_text(textwrap.dedent(program))
        settings = {"NAME": self.name, "DONE": str(self.file), "KEPT": "", **environment}
        first = self.programs.start(script, **settings)
        await self.session.create()
        sent = await self.session.send("Refund 7", to=self.name)

        async def asked() -> Any:
            return [ask for ask in (await self.session.view())["asks"] if ask["status"] == "open"]

        (ask,) = await self.eventually(asked, 90)
        self.programs.start(script, **settings)
        first.kill()
        await self.session.asks.answer(ask["ask"], "approve")
        run: dict[str, Any] = await self.session.result(self.name, sent.run, timeout=120)
        assert (run["status"], run["error"], run["attempt"]) == ("done", None, 2)
        assert [(one["status"], one["value"]) for one in (await self.session.view())["asks"]] == [
            ("decided", "approve")
        ]
        return run


@pytest.fixture
def crash(ann: Any, programs: Any, tmp_path: Path, eventually: Any, fresh: Any) -> Crash:
    return Crash(ann, programs, tmp_path, eventually, fresh)


async def test_an_approval_of_pydantic_ai_survives_its_process(crash: Crash) -> None:
    """The tool that needs it is run by the replica, once."""
    run = await crash.over(PYDANTIC_AI)

    (call,) = parts(run, "tool")
    assert (call["status"], call["output"]) == ("done", "paid 0")
    assert crash.done == ["paid"]
    assert len(texts(run)) == 1


async def test_an_interrupt_of_langgraph_survives_its_process(crash: Crash) -> None:
    """Without a checkpoint that outlives the process the graph begins again, and meets its question answered."""
    run = await crash.over(LANGGRAPH)

    assert texts(run) == ["Let me see.", "Paid."]
    assert crash.done == ["looked", "looked", "paid"]


async def test_a_graph_goes_on_from_its_checkpoint(crash: Crash) -> None:
    """With one no step is done twice; what was said before is in the run again."""
    run = await crash.over(LANGGRAPH, KEPT="1")

    assert texts(run) == ["Let me see.", "Paid."]
    assert crash.done == ["looked", "paid"]


async def test_a_permission_of_claude_survives_its_process(crash: Crash, tmp_path: Path) -> None:
    """The CLI is begun again, wants the same, and is allowed it at once."""
    cli = Cli(tmp_path)
    call = tool("toolu_1", "Bash", {"command": "rm x"})
    ask = {"permit": "Bash", "input": call["input"], "allowed": [gave("toolu_1", "gone")], "denied": []}
    cli.options([*streamed("m1", call), ask, *streamed("m2", text("Done.")), result()])
    run = await crash.over(CLAUDE, CLI=str(cli.path))

    assert texts(run) == ["Done."]
    assert parts(run, "tool")[0]["output"] == "gone"
    allowed = [json.dumps(one) for one in cli.got if '"behavior": "allow"' in json.dumps(one)]
    assert len(allowed) == 1


@pytest.mark.parametrize(
    ("kind", "called", "answered"),
    [
        ("chat", openai_sse(*CHAT, DONE), openai_sse(*ANSWER, DONE)),
        ("responses", openai_sse(*RESPONSE), openai_sse(*ENDING)),
        ("anthropic", messages_api.sse(*messages_api.CALLING), messages_api.sse(*messages_api.ANSWER)),
    ],
)
async def test_an_approval_of_call_tools_survives_its_process(
    crash: Crash, model_server: Any, kind: str, called: Any, answered: Any
) -> None:
    """The model is asked again and calls the same; the tool is run once."""
    model_server.answers = [called, called, answered]
    run = await crash.over(CALL_TOOLS, KIND=kind, URL=model_server.url)

    assert crash.done == ["looked"]
    assert "Rome is sunny" in [part["output"] for part in parts(run, "tool")]
    assert texts(run)[-1].startswith("Sunny")


async def test_an_interrupt_of_ag_ui_survives_its_process(
    crash: Crash, model_server: Any, folder: Path, programs: Any
) -> None:
    """The agent's server is asked again and interrupts for the same; its one answer goes on with what was decided."""
    interrupt = {"id": "i1", "reason": "approval", "message": "Pay 40?"}
    ended = {
        "type": "RUN_FINISHED",
        "threadId": "t",
        "runId": "r",
        "outcome": {"type": "interrupt", "interrupts": [interrupt]},
    }
    model_server.answers = [sse(AGUI[0], ended), sse(AGUI[0], ended), sse(AGUI[0], *AGUI[-2:])]
    run = await crash.over((folder / "courier.py").read_text(), COURIER_URL=model_server.url, COURIER_NAME=crash.name)

    assert texts(run) == ["Sunny."]
    assert [one.body.get("resume") for one in model_server.requests] == [
        None, None, [{"interruptId": "i1", "status": "resolved", "payload": "approve"}],
    ]  # fmt: skip
