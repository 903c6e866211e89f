# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[langgraph]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Gardener: a LangGraph graph that plans the watering of a garden, asks before it waters, and needs no model.

The plan is a subgraph, so it shows as a sub-agent; the question is the graph's own `interrupt`. Put a model in the
place of `weigh` to let one decide, and a checkpointer that outlives the process in the place of `InMemorySaver` to go
on after a crash where the graph was.
"""

import re
from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import langgraph as adapter

agent = Agent("gardener", overlap="queue")


class Garden(TypedDict, total=False):
    """What the graph works on."""

    asked: str
    litres: int
    watered: bool


def weigh(state: Garden) -> Garden:
    """Decide how much water: what the person says, or ten litres."""
    said = re.search(r"\d+", state["asked"])
    get_stream_writer()({"plan": "water", "litres": int(said[0]) if said else 10})
    return {"litres": int(said[0]) if said else 10}


def water(state: Garden) -> Garden:
    """Ask, then water."""
    answer = interrupt({"question": f"Water the garden with {state['litres']} litres?", "litres": state["litres"]})
    return {"watered": answer == "approve"}


plan = StateGraph(Garden).add_node("weigh", weigh).add_edge(START, "weigh").compile()
graph = StateGraph(Garden).add_node("plan", plan).add_node("water", water)
garden = graph.add_edge(START, "plan").add_edge("plan", "water").compile(checkpointer=InMemorySaver())


@agent
async def tend(run: Run) -> None:
    """Tend the garden; after a crash another replica meets the same question."""
    result = await adapter.work(run, garden, {"asked": run.input.text})
    await run.text("The garden is watered." if result.output["watered"] else "The garden stays dry.")


if __name__ == "__main__":
    agent.main()
