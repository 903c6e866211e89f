"""`retain` and `erase`: how long things are kept, and how they go for good."""

from __future__ import annotations

import re
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from orchestrator_free.cli.auditing import audited, remember
from orchestrator_free.cli.options import EXIT_FAILED, AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import moment
from orchestrator_free.errors import InvalidInput
from orchestrator_free.operations.erasing import Report, erase_member, erase_session
from orchestrator_free.operations.retention import retain as go_through
from orchestrator_free.operations.retention import set_limits

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}


@audited("retain", "older_than", "closed", "limit_age", "limit_bytes", when=lambda given: not given["dry_run"])
def retain(
    older_than: Annotated[str | None, typer.Option(help="Delete sessions whose last event is older: 12h, 30d.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Only where nothing is open or waiting.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted.")] = False,
    per_second: Annotated[
        float, typer.Option(help="Sessions deleted per second; purging blocks others.", min=0.1)
    ] = 5.0,
    limit_age: Annotated[str | None, typer.Option(help="Set the age at which events go, 90d; 0d for none.")] = None,
    limit_bytes: Annotated[int | None, typer.Option(help="Set the size of each shard; -1 for no limit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete old sessions, whole and slowly; or set the limits of the streams."""

    async def work() -> None:
        if older_than is None and limit_age is None and limit_bytes is None:
            raise InvalidInput("say what to do: --older-than 30d, or set --limit-age or --limit-bytes")
        async with reach.connect("operator") as broker:
            if limit_age is not None or limit_bytes is not None:
                age = None if limit_age is None else int(_span(limit_age).total_seconds())
                write_json(await set_limits(broker, age_seconds=age, bytes_=limit_bytes))
            if older_than is None:
                return
            found = gone = 0
            async for one in go_through(
                broker, _span(older_than), closed=closed, dry_run=dry_run, per_second=per_second
            ):
                found, gone = found + 1, gone + one.deleted
                remember(deleted=gone)
                word = "deleted" if one.deleted else "left alone" if closed and not one.at_rest else "would be deleted"
                if as_json:
                    write_json(one.as_dict())
                else:
                    out.print(f"{one.session}  last event {moment(one.last)}  {word}", highlight=False, markup=False)
            if not found:
                err.print(f"no session's last event is older than {older_than}", highlight=False)

    run(work())


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise InvalidInput(f"{text[:40]!r} is no span of time: pass 90m, 12h or 30d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


@audited("erase", when=lambda given: not given["dry_run"])  # never the name
def erase(
    session: Annotated[str | None, typer.Option(help="Erase this session.")] = None,
    member: Annotated[str | None, typer.Option(help="Erase this member from all sessions.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done to which session.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where sessions are kept while they are written anew.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase for good, then search every stream for what is left; exit with 1 if something is."""
    if (session is None) == (member is None):
        raise typer.BadParameter("pass --session or --member, one of them")
    if not yes and not dry_run:
        typer.confirm(f"Erase {session or member}? It cannot be undone.", abort=True)

    async def work() -> int:
        async with reach.connect("operator") as broker:
            if member is None:
                assert session is not None  # noqa: S101 - checked above
                if dry_run:
                    raise InvalidInput("--dry-run is for --member; a session is erased whole")
                report = await erase_session(broker, session)
            else:
                where = folder or Path(tempfile.mkdtemp(prefix="orchestrator-free-erase-"))
                report = await erase_member(broker, member, where, dry_run=dry_run)
            remember(**report.counts())
        if as_json:
            write_json(report.as_dict())
        else:
            _tell(report, dry_run=dry_run)
        return 0 if report.clean or dry_run else EXIT_FAILED

    run(work())


def _tell(report: Report, *, dry_run: bool) -> None:
    word = "would be " if dry_run else ""
    for name, sessions in (("deleted", report.deleted), ("rewritten", report.rewritten)):
        for session in sessions:
            out.print(f"{word}{name}: {session}", highlight=False, markup=False)
    for session, reason in report.refused.items():
        out.print(f"refused: {session}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for place in report.left:
        out.print(f"left: {place}", highlight=False, markup=False, soft_wrap=True)
    err.print(
        f"searched {report.searched} messages in all streams: {report.left_count} have the name of "
        f"{report.what} {report.name}; {report.audit} entries of the audit log stay by design; {report.remains}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
