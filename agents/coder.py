# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[claude-agent-sdk]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Coder: Claude Code in a session, through the Claude Agent SDK. People approve of its tools and talk into its work.

It works in CODER_FOLDER (by default the present one), with what Claude Code itself needs to log in. CODER_CLI names
another CLI than the one in the SDK.
"""

import os
from pathlib import Path

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import claude as adapter

agent = Agent("coder", overlap="steer")


@agent
async def code(run: Run) -> None:
    """Let Claude work; every tool that its settings do not allow is asked for in the session."""
    options = ClaudeAgentOptions(
        cwd=Path(os.environ.get("CODER_FOLDER", ".")),
        cli_path=os.environ.get("CODER_CLI"),
        include_partial_messages=True,
        can_use_tool=adapter.permissions(run),
    )
    async with ClaudeSDKClient(options) as client:
        await client.query(await adapter.prompt(run))
        await adapter.publish(run, client)


if __name__ == "__main__":
    agent.main()
