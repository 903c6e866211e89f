# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[anthropic]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Essayist: writes about what it is asked, with Anthropic's Messages API.

Needs ANTHROPIC_API_KEY and ANTHROPIC_MODEL; ANTHROPIC_BASE_URL names another server. What people say while it writes is
its next turn.
"""

import os

from anthropic import AsyncAnthropic

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import anthropic as adapter

agent = Agent("essayist", overlap="steer")
INSTRUCTIONS = "You write short essays in plain words. What the person says later changes the essay: write it anew."
LONGEST = 4096  # tokens of one answer


@agent
async def write(run: Run) -> None:
    """Write, and write again as long as people have something to say about it."""
    messages = await adapter.messages(run)
    async with AsyncAnthropic() as client:
        while True:
            source = client.messages.create(
                model=os.environ["ANTHROPIC_MODEL"], max_tokens=LONGEST, system=INSTRUCTIONS, messages=messages,
                stream=True,
            )  # fmt: skip
            result = await adapter.publish(run, source)
            steers = await run.steers()
            if not steers:
                return
            messages += [*result.messages, *({"role": "user", "content": steer.text} for steer in steers)]


if __name__ == "__main__":
    agent.main()
