"""`synadia`: a front door for callers of the Synadia Agent Protocol, and their agents as guests in sessions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.synadia import DoorSettings, FrontDoor, Guest
from orchestrator_free.synadia.guest import Where, discover

synadia_app = typer.Typer(no_args_is_help=True, help="The Synadia Agent Protocol 0.3: be found, and bring guests.")


@synadia_app.command()
def door(
    owner: Annotated[str, typer.Option(help="How this installation is called in the subjects.")] = "orchestrator-free",
    member: Annotated[str, typer.Option("--as", help="The member whose inputs the prompts become.")] = "synadia",
    max_sessions: Annotated[int, typer.Option(help="So many sessions are listed, the newest.", min=0)] = 100,
    at_once: Annotated[int, typer.Option(help="Prompts answered at once; more are refused.", min=1)] = 256,
    signed: Annotated[bool, typer.Option("--signed", help="Refuse prompts that nobody has signed.")] = False,
) -> None:
    """Let callers discover and prompt the agents of all sessions; any number of doors share the work."""
    settings = DoorSettings(owner=owner, member=member, max_sessions=max_sessions, at_once=at_once, signed=signed)

    async def work() -> None:
        async with reach.connect(member) as broker:
            await FrontDoor(broker, settings).run(
                ready=lambda: err.print(f"answering agents.prompt.*.{owner}.* as {member}", highlight=False)
            )

    run(work(), endless=True)


@synadia_app.command()
def guest(
    name: Annotated[str, typer.Argument(help="How the agent is called in sessions here.", metavar="NAME")],
    agent: Annotated[str, typer.Argument(help="Which: agent.owner.session, as `synadia agents` lists them.")],
) -> None:
    """Let a discovered agent take part in sessions: inputs to NAME become its prompts."""

    async def work() -> None:
        invited = Guest(name, Where.parse(agent))
        async with reach.connect(name) as broker:
            await invited.serve(broker, ready=lambda: err.print(f"{agent} takes part as {name}", highlight=False))

    run(work(), endless=True)


@synadia_app.command()
def agents(as_json: AsJson = False) -> None:
    """List the agents that answer discovery, ours and others."""

    async def work() -> None:
        async with reach.connect() as broker:
            found = await discover(broker.log.wire)
        table = Table("agent", "about", "protocol")
        for one in found:
            where = f"{one.agent}.{one.owner}.{one.session_name}"
            if as_json:
                write_json({"agent": where, "about": one.description, "protocol": one.protocol_version})
            table.add_row(*(clean(cell) for cell in (where, one.description, one.protocol_version)))
        if not as_json:
            out.print(table if found else "no agent answers discovery")

    run(work())
