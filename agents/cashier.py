# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[openai-agents]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Cashier: an agent of the OpenAI Agents SDK that hands over to another one, whose payments people have to approve of.

Needs OPENAI_API_KEY; CASHIER_MODEL names the model. OPENAI_BASE_URL names another server.
"""

import os

from agents import Agent as SdkAgent
from agents import Runner, function_tool, set_tracing_disabled
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import openai_agents as adapter

agent = Agent("cashier", overlap="queue")
MODEL = os.environ.get("CASHIER_MODEL", "gpt-5-mini")
APPROVAL_SECONDS = 600.0
set_tracing_disabled(disabled=True)  # it would send the conversation to OpenAI


@function_tool(needs_approval=True)
def pay(order: str, euros: float) -> str:
    """Pay money back for an order."""
    return f"{euros:.2f} euros paid back for order {order}"


payer = SdkAgent(name="payer", model=MODEL, instructions="You pay back what was agreed.", tools=[pay])
desk = SdkAgent(name="desk", model=MODEL, instructions="You listen. Hand over to the payer to pay.", handoffs=[payer])


@agent
async def serve(run: Run) -> None:
    """Serve the customer."""
    stream = Runner.run_streamed(desk, await adapter.messages(run))
    await adapter.publish(run, stream, asking={"seconds": APPROVAL_SECONDS})


if __name__ == "__main__":
    agent.main()
