"""What the environment of a process says of an agent counts, wherever it is started; one table names every variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.errors import InvalidInput
from orchestrator_free.launcher import Launcher
from orchestrator_free.working.attempts import AgentSettings, deployed

if TYPE_CHECKING:
    from orchestrator_free import Broker

ROOT = Path(__file__).parents[1]
PREFIX = "ORCHESTRATOR_FREE_"
#: variables of other projects that the package reads
OTHERS = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"}


def test_the_environment_counts_instead_of_the_program() -> None:
    """Of what depends on where the process runs, and of nothing else."""
    own = AgentSettings(concurrency=2, grace_seconds=3, max_attempts=5)
    said = {f"{PREFIX}CONCURRENCY": "7", f"{PREFIX}GRACE_SECONDS": "60.5", f"{PREFIX}MAX_ATTEMPTS": "9"}

    assert deployed(own, {}) == own
    assert deployed(own, said) == AgentSettings(concurrency=7, grace_seconds=60.5, max_attempts=5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "1.5"),
        ("GRACE_SECONDS", "-1"),
        ("GRACE_SECONDS", "soon"),
        ("GRACE_SECONDS", "nan"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, text: str) -> None:
    """The variable and what it says are in the error; the launcher refuses before it starts anything."""
    with pytest.raises(InvalidInput, match=f"{PREFIX}{name}='{re.escape(text)}'"):
        deployed(AgentSettings(), {PREFIX + name: text})
    with pytest.raises(InvalidInput, match=f"{PREFIX}{name}"):
        Launcher([Path(__file__)], environment={PREFIX + name: text})


@pytest.mark.slow
async def test_a_run_that_needs_longer_to_stop_gets_the_time_that_the_environment_gives(
    ann: Broker, programs: Any, eventually: Any, tmp_path: Path
) -> None:
    """SIGTERM to a launcher: a run of 12 s is finished by the process that began it, though the program gives it none."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import asyncio\nfrom orchestrator_free import Agent, Run\n"
        "agent = Agent('slow', grace_seconds=0)\n"
        "@agent\nasync def handle(run: Run) -> None:\n    await run.text('a')\n    await asyncio.sleep(17)\n"
        "agent.main()\n"
    )
    launch = tmp_path / "launch.py"
    launch.write_text("from orchestrator_free.cli import main\nmain()\n")
    started = programs.start(launch, "launch", str(program), **{f"{PREFIX}GRACE_SECONDS": "40"})
    session = ann.session("s1")
    sent = await session.send("hello", to="slow")

    async def begun() -> bool:
        view = await session.view()
        return any(run["parts"] for agent in view["agents"] for run in agent["runs"])

    await eventually(begun, 60, every=0.2)
    started.process.terminate()
    finished = await session.result("slow", sent.run, timeout=60)
    assert (finished["status"], finished["attempt"]) == ("done", 1)
    await eventually(lambda: not started.alive, 30)


def test_every_variable_stands_in_one_table() -> None:
    """Of docs/operations.md, and no other: what the package and its agents read, each once."""
    source = "\n".join(
        path.read_text() for folder in ("orchestrator_free", "agents") for path in (ROOT / folder).rglob("*.py")
    )
    read = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b", source)) | {name for name in OTHERS if name in source}
    section = (ROOT / "docs/operations.md").read_text().partition("## Environment")[2].partition("\n## ")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]

    assert sorted(named) == sorted(read)
    assert read >= OTHERS
