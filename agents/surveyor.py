# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free[dbos]"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Surveyor: surveys a text in the steps of a DBOS workflow; kill it in the middle, and it goes on after the last step.

SURVEYOR_DATABASE is where DBOS keeps what was done, e.g. `sqlite:///surveyor.sqlite` (the default) or a PostgreSQL.
"""

import asyncio
import os
import re

from dbos import DBOS, DBOSConfig

from orchestrator_free import Agent, Run
from orchestrator_free.adapters import dbos as adapter
from orchestrator_free.adapters.dbos import Step

agent = Agent("surveyor")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000
DATABASE = os.environ.get("SURVEYOR_DATABASE", "sqlite:///surveyor.sqlite")
CONFIG: DBOSConfig = {"name": "surveyor", "system_database_url": DATABASE, "run_admin_server": False}
DBOS(config=CONFIG)


@adapter.step
async def count(shown: Step, what: str, pattern: str, text: str) -> int:
    """Count something, in the sight of all."""
    async with shown.tool("count", {"what": what}) as call:
        await asyncio.sleep(PACE_SECONDS * 20)
        call.output = len(re.findall(pattern, text))
    await shown.text(f"{call.output} {what}. ")
    return int(call.output)


@DBOS.workflow()
async def survey(text: str) -> dict[str, int]:
    """Count words, sentences and numbers, a step each."""
    patterns = {"words": r"\w+", "sentences": r"[.!?](?:\s|$)", "numbers": r"\d+"}
    return {what: await count(what, pattern, text) for what, pattern in patterns.items()}


@agent
async def handle(run: Run) -> None:
    """Let the workflow do it."""
    DBOS.launch()  # here, in the agent's event loop; the first time counts
    await run.data("survey", await adapter.publish(run, survey, run.input.text))


if __name__ == "__main__":
    agent.main()
