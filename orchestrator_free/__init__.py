"""Durable sessions for multi-agent AI products.

A session is a NATS JetStream subject hierarchy with one branch per agent. Agents are processes that publish straight
into it; anybody reads the same total order, from any position.

    from orchestrator_free import Agent, Run, connect

    agent = Agent("greeter")

    @agent
    async def greet(run: Run) -> None:
        await run.text(f"Hello, {run.input.text}!")

    if __name__ == "__main__":
        agent.main()
"""

from orchestrator_free.agent import Agent
from orchestrator_free.broker import Broker, connect
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.reading.subscription import Delivery
from orchestrator_free.session import Sent, Session
from orchestrator_free.session.asks import Decision
from orchestrator_free.subjects import Position
from orchestrator_free.working.delegation import Child
from orchestrator_free.working.run import Run, RunError, RunInput, Steer, ToolCall

__all__ = [
    "Agent", "Broker", "Child", "Decision", "Delivery", "Event", "Fold", "Position", "Run", "RunError", "RunInput",
    "Sent", "Session", "Steer", "ToolCall", "connect",
]  # fmt: skip
