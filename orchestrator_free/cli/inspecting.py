"""`inspect`: where is this input, and who has read what."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator_free.cli.options import AsJson, SessionName, out, reach, run, write_json
from orchestrator_free.cli.render import clean, moment
from orchestrator_free.operations.inspecting import inspect as look


def inspect(
    session: SessionName,
    input: Annotated[str | None, typer.Argument(help="An input's id, or <sender>/<id>.", metavar="INPUT")] = None,
    as_json: AsJson = False,
) -> None:
    """Say where a session's inputs are, stored, taken, running or finished, and who reads it up to where."""

    async def work() -> None:
        async with reach.connect("operator") as broker:
            found = await look(broker, session, input)
        if as_json:
            write_json(found)
            return
        for line in _lines(found):
            out.print(clean(line), highlight=False, markup=False, soft_wrap=True)

    run(work())


def _lines(found: dict[str, Any]) -> list[str]:
    where = f"{found['messages']} messages up to {found['position']}"
    lines = [f"{found['session']}: {where}, the last at {moment(found['last'])}"]
    for one in found["inputs"]:
        stored = f"stored at {one['position']}, {moment(one['time'])}"
        lines.append(f"input {one['from']}/{one['input']} to {one['to']}: {stored}")
        lines += [f"  {_agent(about)}" for about in one["agents"]]
    for kind, readers in found["readers"].items():
        for reader in readers:
            if kind == "devices":
                lines.append(
                    f"device {reader['member']}/{reader['device']}: {reader['status']} since {reader['since']}"
                )
            else:
                counts = f"{reader['waiting']} waiting, {reader['in_work']} in work"
                lines.append(f"{kind[:-1]} {reader['name']}: acknowledged up to {reader['position']}, {counts}")
    return lines


def _agent(about: dict[str, Any]) -> str:
    text = f"{about['agent']}: {about['stage']}"
    match about["stage"]:
        case "finished":
            text += f" as {about['status']} in attempt {about['attempt']}, {moment(about['time'])}"
        case "running":
            lives = {True: "alive", False: "not alive", None: "unknown"}[about["alive"]]
            text += (
                f" in attempt {about['attempt']} at replica {about['replica']} ({lives}) since {moment(about['time'])}"
            )
        case "stored" | "taken":
            text += f", behind {', '.join(about['behind'])}" if about["behind"] else ""
            text += f"; {about['ahead_at_broker']} wait at the broker" + (", PAUSED" if about["paused"] else "")
    return text
