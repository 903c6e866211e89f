"""`audit`: who did what."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.operations.audit import read_audit, time_of
from orchestrator_free.subjects import check_name


def audit(
    member: Annotated[str, typer.Option(help="Only what this member did.")] = "",
    session: Annotated[str, typer.Option(help="Only about this session.")] = "",
    since: Annotated[str | None, typer.Option(help="From then on: 30m, 2h, 7d ago, or RFC 3339.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who did what: requests at gateways, refused ones too, feeds, and what operators did."""

    async def work() -> None:
        for what, name in (("--member", member), ("--session", session)):
            if name:
                check_name(what, name)
        begin = time_of(since) if since else None
        shown = 0
        async with reach.wire() as wire:
            async for entry in read_audit(wire, member=member, session=session, since=begin, follow=follow):
                shown += 1
                if as_json:
                    write_json(entry)
                else:
                    out.print(_line(entry), soft_wrap=True)
        if not shown and not as_json:
            err.print(
                "nothing was written down; gateways do so with `up --audit on`, the default where they ask for tokens"
            )

    run(work(), endless=follow)


def _line(entry: dict[str, Any]) -> Text:
    shown = ("time", "kind", "member", "session", "sequence")
    facts = " ".join(f"{name}={value}" for name, value in entry.items() if name not in shown)
    who = f"{entry['member'] or '-':<12} {entry['session'] or '-':<16}"
    return Text(clean(f"{entry['time'][:23]} {entry['kind']:<9} {who} {facts}"))
