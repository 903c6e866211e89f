"""`deadletters`: what nobody will do any more unless somebody sees to it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.options import AsJson, Member, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.operations import letters

letters_app = typer.Typer(help="What was given up: runs, controls that expired, notifications that reached nobody.")
LetterId = Annotated[str, typer.Argument(help="As the list shows it.", metavar="ID")]


@letters_app.callback(invoke_without_command=True)
def deadletters(
    context: typer.Context,
    session: Annotated[str, typer.Option(help="Only of this session.")] = "*",
    agent: Annotated[str, typer.Option(help="Only of this agent, or notifier.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List what was given up: runs, controls that expired, notifications that reached nobody."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> None:
        async with reach.connect() as broker:
            found = await letters.letters(broker, session=session, agent=agent)
        for letter in found if as_json else ():
            write_json(letter.as_dict())
        if as_json:
            return
        if not found:
            err.print("nothing: all that was asked for was done, or somebody has seen to it")
            return
        table = Table("id", "about", "reason", "time", box=None, pad_edge=False)
        for letter in found:
            cells = (letter.id, letter.about, letter.reason, letter.time)
            table.add_row(*(Text(clean(cell), overflow="fold") for cell in cells))
        out.print(table)

    run(work())


@letters_app.command("retry")
@audited("deadletters retry", "id")
def retry(id: LetterId, sender: Member = "operator", as_json: AsJson = False) -> None:
    """Have it done after all: the input is asked once more, the control given anew, the notification tried again."""

    async def work() -> None:
        async with reach.connect(sender) as broker:
            sent = await letters.retry(broker, await letters.find(broker, id))
        if as_json:
            write_json({"id": id, **sent})
        else:
            err.print(f"{id}: sent again as {', '.join(sent.values())}", highlight=False, markup=False)

    run(work())


@letters_app.command("dismiss")
@audited("deadletters dismiss", "id")
def dismiss(
    id: LetterId,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "",
    sender: Member = "operator",
) -> None:
    """Take it off the list; nothing else is changed."""

    async def work() -> None:
        async with reach.connect(sender) as broker:
            await letters.dismiss(broker, await letters.find(broker, id), reason)
        err.print(f"{id}: dismissed", highlight=False, markup=False)

    run(work())
