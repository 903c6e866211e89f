# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[pydantic-ai]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Researcher: a PydanticAI agent with a helper of its own, that hears what people say while it works.

RESEARCHER_MODEL names the model as PydanticAI does, e.g. `openai:gpt-5` (its package and key have to be there); without
it the package's own test model answers, which calls every tool and needs nothing.
"""

import os

from pydantic_ai import Agent as Model
from pydantic_ai import RunContext

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import pydantic_ai as adapter

agent = Agent("researcher", overlap="steer")
MODEL = os.environ.get("RESEARCHER_MODEL", "test")

reader = Model(MODEL, instructions="You read closely and answer in two sentences.")
researcher = Model(MODEL, deps_type=Run, instructions="You answer with what your reader found.")


@researcher.tool
async def read(context: RunContext[Run], question: str) -> str:
    """Let the reader look for something."""
    events = reader.run_stream_events(question)
    found = await adapter.publish(context.deps, events, subagent="reader", call=context.tool_call_id or "")
    return found.text


@agent
async def research(run: Run) -> None:
    """Answer; what people say meanwhile goes straight to the agent."""
    await adapter.publish(run, researcher.iter(message_history=await adapter.messages(run), deps=run))


if __name__ == "__main__":
    agent.main()
