"""docs/operations.md shows commands that there are; a gateway that drains says so, and goes on for a while."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

from orchestrator_free.cli.app import app

PAGE = Path(__file__).parents[2] / "docs/operations.md"
COMMANDS = re.findall(r"^(orchestrator-free .*)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_on_the_page_is_one_that_there_is(line: str) -> None:
    """Parsed by the command line itself, options and all."""
    words = shlex.split(line)[1:]
    command: Any = get_command(app)
    context = command.make_context("orchestrator-free", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, rest, parent=context)
    assert context.command.name in words


def test_every_command_of_the_panel_is_on_the_page() -> None:
    """What operators have is explained."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    panel = [name for name, one in commands.items() if getattr(one, "rich_help_panel", "") == "Operations"]
    assert {name for name in panel if f"orchestrator-free {name}" not in PAGE.read_text()} == set()
    assert len(panel) >= 11


async def test_a_gateway_that_drains_is_not_ready_goes_on_and_tells_its_feeds(command: Any, eventually: Any) -> None:
    """SIGTERM: /readyz says 503 while it still serves; a feed hears why before it is cut; then it exits with 0."""
    gateway = command.start("up", "--broker", command.url, "--port", "0", "--linger", "4")
    found = await eventually(lambda: re.search(r"gateway +(http://\S+)", gateway.output), 60)
    async with httpx.AsyncClient(base_url=found[1], timeout=30) as http:
        assert (await http.get("/readyz")).status_code == 200
        await http.post("/sessions", json={"session": "drained"})
        said: list[str] = []

        async def follow() -> None:
            try:
                async with http.stream("GET", "/sessions/drained/events") as feed:
                    async for line in feed.aiter_lines():
                        said.append(line)  # noqa: PERF401 - what came before the cut counts
            except httpx.HTTPError:
                said.append("cut")

        reading = asyncio.create_task(follow())
        await eventually(lambda: any("session.created" in line for line in said), 20)
        gateway.send(signal.SIGTERM)
        await eventually(lambda: _status(http, "/readyz", 503), 20)
        assert (await http.get("/sessions/drained")).status_code == 200
        await asyncio.wait_for(reading, 30)
        assert said[said.index("event: cut") + 1] == 'data: {"reason":"drain"}'
        assert said[-1] == "cut"
    await eventually(lambda: not gateway.alive, 30)
    assert gateway.process.returncode == 0


async def _status(http: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await http.get(path)).status_code == status
