"""A program that uses the library, and has configured its logs in whatever way or not at all, is told no secrets by ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from orchestrator_free.embedded.server import EmbeddedServer

ROOT = Path(__file__).parents[1]
PROGRAM = """
import asyncio, logging, os, structlog
from orchestrator_free import Agent, Run, connect

{setup}
agent = Agent("fails", max_attempts=1)

@agent
async def handle(run: Run) -> None:
    api_key = os.environ["CANARY"]
    raise ValueError("no tkt_" + "abcdef" * 2)

async def main() -> None:
    async with connect(os.environ["ORCHESTRATOR_FREE_URL"], member="ann") as ann, \\
            connect(os.environ["ORCHESTRATOR_FREE_URL"], member="fails") as broker:
        serving = asyncio.create_task(agent.serve(broker))
        session = ann.session("s1")
        sent = await session.send("hello", to="fails")
        await session.result("fails", sent.run, timeout=60)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

asyncio.run(main())
"""
STANDARD = """
logging.basicConfig(level=logging.DEBUG)
structlog.configure(logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_logger_name, structlog.dev.ConsoleRenderer()])
"""
CONFIGURED = {
    "not at all": "",
    "console": "structlog.configure(processors=[structlog.dev.ConsoleRenderer()])",
    "dictionaries": "structlog.configure(processors=[structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()])",
    "the standard library": STANDARD,
}


@pytest.mark.parametrize("setup", CONFIGURED.values(), ids=CONFIGURED)
def test_a_traceback_of_ours_shows_no_variables(broker: EmbeddedServer, tmp_path: Path, setup: str) -> None:
    """A handler that raises is told with its traceback, without what its variables hold and without what looks secret."""
    canary = "c4n4ry" + os.urandom(8).hex()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(setup=setup))
    environment = {**os.environ, "CANARY": canary, "ORCHESTRATOR_FREE_URL": broker.url, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], env=environment, capture_output=True, text=True, timeout=90
    )
    said = done.stdout + done.stderr

    assert done.returncode == 0, said
    assert "Traceback (most recent call last)" in said and "ValueError: no [hidden]" in said
    assert "in handle" in said
    assert canary not in said


def test_every_logger_of_ours_is_such_a_one() -> None:
    """Nothing in the package logs past it."""
    past = [
        str(path) for path in (ROOT / "orchestrator_free").rglob("*.py")
        if path.name != "logs.py" and re.search(r"structlog\.(get_logger|getLogger|wrap_logger)", path.read_text())
    ]  # fmt: skip

    assert past == []
