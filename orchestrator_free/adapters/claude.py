"""The Claude Agent SDK.

    options = ClaudeAgentOptions(include_partial_messages=True, can_use_tool=claude.permissions(run))
    async with ClaudeSDKClient(options) as client:
        await client.query(await claude.prompt(run))
        result = await claude.publish(run, client)

A source is a connected client, or what `claude_agent_sdk.query` gives. Sub-agents (the Task tool) are sub-agents of the
run. What people say while Claude works interrupts it and is its next turn; with `query` it is left to `run.steers()`. A
cancel interrupts a client, and ends the process of a `query`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack

from orchestrator_free.adapters.claude_messages import Claude
from orchestrator_free.adapters.dialogue import dialogue
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.tools import refusal
from orchestrator_free.adapters.translation import require
from orchestrator_free.working.run import Run

__all__ = ["Claude", "messages", "permissions", "prompt", "publish"]

EXTRA = "claude-agent-sdk"
#: what the CLI may take to obey an interrupt
_INTERRUPT_SECONDS: Final = 3.0


async def publish(run: Run, source: Any, **options: Unpack[Options]) -> Result:
    """Write what Claude does into a run, up to the result of what it was asked; see `Options`.

    Raises:
        SourceFailed: Claude ended with an error, or took too long.
    """
    translation = Claude()
    if not hasattr(source, "receive_response"):
        return await _publish(run, source, translation, **options)
    while True:
        result = await _publish(run, _driven(source, translation), translation, **options)
        if not translation.said:
            return result
        said, translation.said = translation.said, []
        await source.query("\n\n".join(said))


@asynccontextmanager
async def _driven(client: Any, translation: Claude) -> AsyncIterator[Any]:
    """Read a client's messages up to a result; leaving early interrupts it."""

    async def steer(text: str) -> None:
        translation.said.append(text)
        await client.interrupt()

    translation.steer = steer
    translation.ended = False
    try:
        yield client.receive_response()
    finally:
        translation.steer = None
        if not translation.ended:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_INTERRUPT_SECONDS):
                    await client.interrupt()


def permissions(run: Run, **asking: Any) -> Callable[[str, dict[str, Any], Any], Awaitable[Any]]:
    """Return a `can_use_tool` that asks the people of the session.

    Args:
        run: whose.
        asking: how, as of `run.approve`: `to`, `seconds`, …
    """
    words = require("claude_agent_sdk", EXTRA)

    async def can_use_tool(tool: str, input: dict[str, Any], context: Any) -> Any:
        refused = await refusal(run, tool, input, **asking)
        return words.PermissionResultAllow() if refused is None else words.PermissionResultDeny(message=refused)

    return can_use_tool


async def messages(run: Run) -> list[dict[str, Any]]:
    """Return the conversation as messages for `client.query`: one of the user, with what was said before in it."""
    return [{"type": "user", "message": {"role": "user", "content": await prompt(run)}, "parent_tool_use_id": None}]


async def prompt(run: Run) -> str:
    """Return what to ask, with the conversation before it: the CLI takes no answers of others for its own.

    A CLI that keeps its own transcript (`resume`) needs only `run.input.text`.
    """
    *before, asked = await dialogue(run)
    if not before:
        return asked.text
    lines = []
    for said in before:
        lines += [f"{said.role}: {said.text}"] if said.text else []
        lines += [f"{said.role} used {one.tool} {one.arguments}: {one.told}" for one in said.calls]
    return "The conversation so far:\n" + "\n".join(lines) + f"\n\nNow answer this:\n{asked.text}"
