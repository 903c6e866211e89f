"""`pause-agent`, `resume-agent` and `drain`: what an agent takes, and when its processes end."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.operations import pausing
from orchestrator_free.operations.pausing import Standing

AgentName = Annotated[str, typer.Argument(help="The agent's name.", metavar="AGENT")]


@audited("pause-agent", "agent", "hold_runs")
def pause_agent(
    agent: AgentName,
    hold_runs: Annotated[bool, typer.Option("--hold-runs", help="Hold what it is at work on, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let an agent, all its replicas, take no new inputs until it is resumed; they wait in the log."""

    async def work() -> None:
        async with reach.connect("operator") as broker:
            _tell(await pausing.pause(broker, agent, hold_runs=hold_runs), as_json=as_json)

    run(work())


@audited("resume-agent", "agent")
def resume_agent(agent: AgentName, as_json: AsJson = False) -> None:
    """Let an agent take inputs again, and go on with runs that were held."""

    async def work() -> None:
        async with reach.connect("operator") as broker:
            _tell(await pausing.resume(broker, agent), as_json=as_json)

    run(work())


@audited("drain", "agent", "replica")
def drain(
    agent: AgentName,
    replica: Annotated[str | None, typer.Option(help="Only this process, by its instance.")] = None,
) -> None:
    """Let an agent's processes take nothing new, finish what they have begun, and end; returns when they have."""

    async def work() -> None:
        async with reach.connect("operator") as broker:
            before = -1
            async for living in pausing.drain(broker, agent, replica=replica):
                if len(living) != before:
                    before = len(living)
                    names = ", ".join(one.key.rpartition(".")[2] for one in living)
                    err.print(f"{before} of {agent} left{': ' + names if names else ''}", highlight=False, markup=False)

    run(work())


def _tell(found: Standing, *, as_json: bool) -> None:
    if as_json:
        write_json(found.as_dict())
        return
    word = "takes no new inputs" if found.paused else "takes inputs"
    counts = f"{found.waiting} waiting, {found.in_work} in work, {found.replicas} processes"
    out.print(f"{found.agent} {word}: {counts}", highlight=False, markup=False)
