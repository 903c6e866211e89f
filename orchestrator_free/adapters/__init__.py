"""Agents of any framework: a module for each puts what the framework streams into a run.

    from orchestrator_free.adapters import pydantic_ai as adapter

    result = await adapter.publish(run, agent.run_stream_events(message_history=await adapter.messages(run)))

Every module has the same two functions. `publish(run, source)` writes a stream into a run and returns a `Result`;
`messages(run)` gives the framework the conversation so far in its own form. Between them stands a pure translation:
events of the framework in, our vocabulary out.
"""

from orchestrator_free.adapters.publishing import Result
from orchestrator_free.adapters.sheet import ToolUse
from orchestrator_free.adapters.tools import Answered, call_tools
from orchestrator_free.adapters.translation import MissingExtra, SourceFailed

__all__ = ["Answered", "MissingExtra", "Result", "SourceFailed", "ToolUse", "call_tools"]
