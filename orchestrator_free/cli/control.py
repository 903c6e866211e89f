"""The commands that tell agents something: cancel, steer, redirect, pause, resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator_free.cli.options import EXIT_FAILED, AsJson, Member, SessionName, err, reach, run, write_json
from orchestrator_free.errors import SessionNotFound

To = Annotated[str, typer.Option("--to", help="An agent, or all.")]
Which = Annotated[str | None, typer.Option("--run", help="Which run; all that are open or waiting if absent.")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait for the outcome; 0 does not wait.", min=0)]
Within = Annotated[float | None, typer.Option(help="Not accepted in so many seconds, it expires.", min=0)]
Words = Annotated[str, typer.Argument(help="What to say.")]


def cancel(
    session: SessionName, to: To = "all", which: Which = None, wait: Wait = 10, sender: Member = "user",
    reason: Annotated[str, typer.Option(help="For people.")] = "", within: Within = None,
    children: Annotated[bool, typer.Option(help="Also what they delegated.")] = True, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Stop runs: at once for everybody who watches, also runs that have not begun."""
    body = {"type": "cancel", "reason": reason, "children": children}
    _give(session, body, to, which, wait, sender, within, as_json=as_json)


def steer(
    session: SessionName, text: Words, to: To = "all", which: Which = None, wait: Wait = 10, sender: Member = "user",
    within: Within = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give running agents something to take into account."""
    _give(session, {"type": "steer", "text": text}, to, which, wait, sender, within, as_json=as_json)


def redirect(
    session: SessionName, text: Words, to: To = "all", which: Which = None, wait: Wait = 10, sender: Member = "user",
    within: Within = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """End the present answer and begin another one."""
    _give(session, {"type": "redirect", "text": text}, to, which, wait, sender, within, as_json=as_json)


def pause(
    session: SessionName, to: To = "all", which: Which = None, wait: Wait = 10, sender: Member = "user",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Let runs write nothing until `resume`."""
    _give(session, {"type": "pause"}, to, which, wait, sender, as_json=as_json)


def resume(
    session: SessionName, to: To = "all", which: Which = None, wait: Wait = 10, sender: Member = "user",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Let paused runs go on."""
    _give(session, {"type": "resume"}, to, which, wait, sender, as_json=as_json)


def _give(
    session: str, body: dict[str, Any], to: str, which: str | None, wait: float, sender: str,
    within: float | None = None, *, as_json: bool,
) -> None:  # fmt: skip
    async def work() -> int:
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if not await target.exists():
                raise SessionNotFound(session)
            sent = await target.control.give(body, to=to, run=which, within_seconds=within)
            try:
                outcome = asdict(await sent.outcome(timeout=wait)) if wait else None
            except TimeoutError:
                outcome = None
        if as_json:
            write_json({"control": sent.control, "position": str(sent.position), "outcome": outcome})
        elif outcome is None:
            why = "; no agent has answered: nothing was running, or its agent is away" if wait else ""
            err.print(f"{body['type']} stands at {sent.position}{why}", highlight=False)
        else:
            reason = f" ({outcome['reason']})" if outcome["reason"] else ""
            err.print(f"{body['type']} {outcome['state']} by {outcome['agent']}{reason}", highlight=False, markup=False)
        return 0 if outcome is None or outcome["state"] == "applied" else EXIT_FAILED

    run(work())
