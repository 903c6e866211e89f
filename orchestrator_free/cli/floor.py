"""`floor` and `brief`: who answers the person now, and what somebody who takes over has to know."""

from __future__ import annotations

import sys
from typing import Annotated, cast

import typer

from orchestrator_free.cli.options import AsJson, Member, SessionName, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import SessionNotFound
from orchestrator_free.session.floor import FloorState, Step
from orchestrator_free.views.brief import markdown


def floor(
    session: SessionName,
    step: Annotated[
        str | None,
        typer.Argument(help="take, request, accept, decline, withdraw, return or release; only shows it if absent."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="request: who is asked; desk for whoever is there.")] = None,
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    sender: Member = "user",
    cancel: Annotated[bool, typer.Option(help="take: end what the others are about to answer.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show who answers the person in a session, or take a step: hand over, accept, take over, give back."""

    async def work() -> None:
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if not await target.exists():
                raise SessionNotFound(session)
            if step is not None:
                states = [await target.floor.step(cast("Step", step), to=to, reason=reason, cancel=cancel)]
            else:
                states = await target.floor.history()
        for state in states:
            if as_json:
                write_json(state.json())
            else:
                (err if step else out).print(describe(state), highlight=False, markup=False)
        if not states and not as_json:
            err.print("nobody has the floor: agents answer what is meant for them")

    run(work())


def describe(state: FloorState) -> str:
    """Return a step in words."""
    asked = state.request
    words = f"{state.by}: {state.step}" + (f" to {asked.to}" if asked and state.step == "request" else "")
    reason = f" ({clean(state.reason)})" if state.reason else ""
    return f"{words}{reason}; {state.holder or 'nobody'} has the floor"


def brief(session: SessionName, as_json: AsJson = False) -> None:
    """Print what somebody who takes a session over has to know, as Markdown."""

    async def work() -> None:
        async with reach.connect() as broker:
            about = await broker.session(session).brief()
        if as_json:
            write_json(about)
        else:
            sys.stdout.write(clean(markdown(about)))

    run(work())
