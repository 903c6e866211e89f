"""`doctor`: is this installation in order, and what is to be done where it is not."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.text import Text

from orchestrator_free import contract
from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.options import EXIT_FAILED, AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import InvalidInput
from orchestrator_free.operations.doctor import examine, repair
from orchestrator_free.operations.facts import Check

_MARKS: Final = {"ok": ("ok      ", "green"), "warning": ("warning ", "yellow"), "problem": ("problem ", "bold red")}


@audited("doctor", "fix", when=lambda given: given["fix"])
def doctor(
    monitor_url: Annotated[
        str | None, typer.Option(help="The broker's monitoring address, as http://127.0.0.1:8222.")
    ] = None,
    gateway: Annotated[list[str] | None, typer.Option(help="A gateway's address; repeat it for more.")] = None,
    role: Annotated[
        str, typer.Option(help=f"The role of these credentials: {', '.join(contract.ROLES)}.")
    ] = "operator",
    member: Annotated[str, typer.Option("--as", help="The name these credentials are for.")] = "operator",
    fix: Annotated[bool, typer.Option("--fix", help="Do what is safe: create streams that are missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the broker, the streams, the agents and what waits; exit with 1 if there is a problem."""

    async def work() -> int:
        if role not in contract.ROLES:
            raise InvalidInput(f"--role {role!r} is unknown; there are {', '.join(contract.ROLES)}")
        async with reach.wire(member) as wire:
            for line in await repair(wire) if fix else ():
                err.print(line, highlight=False, markup=False)
            found = await examine(wire, role=role, member=member, monitor_url=monitor_url, gateways=gateway or ())
        for check in found:
            if as_json:
                write_json(check.as_dict())
            else:
                out.print(_line(check), soft_wrap=True)
        problems = sum(check.status == "problem" for check in found)
        if not as_json:
            warnings = sum(check.status == "warning" for check in found)
            counts = (
                f"{count} {word}{'' if count == 1 else 's'}"
                for count, word in ((problems, "problem"), (warnings, "warning"))
            )
            err.print(", ".join(counts), highlight=False)
        return EXIT_FAILED if problems else 0

    run(work())


def _line(check: Check) -> Text:
    mark, style = _MARKS[check.status]
    line = Text.assemble((mark, style), (f"{check.name:<13}", "bold"), clean(check.says))
    return line + Text(f"\n{'':21}→ {clean(check.advice)}", style="dim") if check.advice else line
