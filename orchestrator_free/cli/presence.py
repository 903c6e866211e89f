"""`presence`, `away` and `back`: who is there, and what a member says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from orchestrator_free.cli.options import AsJson, Member, SessionName, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import SessionNotFound
from orchestrator_free.views.members import Member as Present
from orchestrator_free.views.members import Picture, changes

_STYLES: Final = {
    "joined": "green", "idle": "dim", "thinking": "yellow", "streaming": "yellow", "waiting": "magenta",
    "stalled": "red", "away": "cyan", "offline": "dim",
}  # fmt: skip
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def presence(
    session: SessionName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, and print what changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who is there: agents and what they do or wait for, people and their devices."""

    async def work() -> None:
        async with reach.connect() as broker:
            target = broker.session(session)
            if not follow:
                _print(await target.presence.now(), [], as_json=as_json)
                return
            shown: Picture = {}
            async for members in target.presence.watch():
                found = {member.member: member for member in members}
                _print(*changes(shown, found), as_json=as_json)
                shown = found

    run(work(), endless=follow)


def away(
    session: SessionName,
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    back: Annotated[
        str | None, typer.Option(help="When you expect to be back: a time with a zone, or 30m, 2h, 1d.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Offline instead of away.")] = False,
    sender: Member = "user",
) -> None:
    """Say that you are away, for everybody to see until you say something else."""
    _say(session, sender, "offline" if offline else "away", reason, _moment(back))


def back(session: SessionName, sender: Member = "user") -> None:
    """Say that you are back."""
    _say(session, sender, "available", "", None)


def _say(session: str, sender: str, status: str, reason: str, back: str | None) -> None:
    async def work() -> None:
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if not await target.exists():
                raise SessionNotFound(session)
            position = await target.presence.set(status, reason=reason, back=back)
        err.print(f"{sender} is {status}, at {position}", highlight=False, markup=False)

    run(work())


def _moment(text: str | None) -> str | None:
    """Return a time as it is, or so long from now."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text or "")
    if found is None:
        return text
    after = timedelta(**{_UNITS[found[2]]: int(found[1])})
    return (datetime.now(UTC) + after).isoformat(timespec="seconds")


# -- printing ---------------------------------------------------------------------------------------------------------


def _print(members: Iterable[Present], gone: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        for member in members:
            write_json(member.as_dict())
        for name in gone:
            write_json({"member": name, "status": "gone"})
        return
    table = Table.grid(padding=(0, 2))
    for member in members:
        status = Text(member.status, style=_STYLES.get(member.status, ""))
        table.add_row(Text(member.member, style="bold"), member.kind, status, Text(clean(_about(member))))
    for name in gone:
        table.add_row(Text(name, style="bold"), "", Text("gone", style="dim"), "")
    out.print(table)


def _about(member: Present) -> str:
    """Return the rest of what is known of a member in words."""
    words = [_excuse(member.reason, member.back)]
    if member.detail is not None:
        silent = f"silent for {member.detail['seconds']:g} s" if member.detail["seconds"] else ""
        until = f"until {member.detail['until']}" if member.detail["until"] else ""
        words += [str(member.detail["reason"]), silent, until, f"run {member.detail['run']}"]
    if member.kind != "agent":
        words.append(", ".join(one.device + (" (idle)" if one.status == "idle" else "") for one in member.devices))
    if member.device_count > 1:
        words.append(f"{member.device_count} {'processes' if member.kind == 'agent' else 'devices'}")
    return "; ".join(filter(None, words))


def _excuse(reason: str, back: str | None) -> str:
    return ", ".join(filter(None, [reason, f"back {back}" if back else ""]))


def render_said(view: dict[str, Any]) -> list[Text]:
    """Return a line for every member of a view that has said it is not there."""
    return [
        Text.assemble((name, "bold"), f" is {said['status']}", clean(f": {words}" if words else ""), style="cyan")
        for name, said in view["presence"].items()
        if said["status"] != "available"
        for words in [_excuse(said["reason"], said["back"])]
    ]
