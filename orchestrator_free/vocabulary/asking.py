"""Writing asks: the payload of one that can work, and what the broker is to say of it later. Pure."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Body
from orchestrator_free.subjects import ALL, check_name
from orchestrator_free.vocabulary import validate

#: how far ahead the broker is told what to say
LONGEST_SECONDS: Final = 366 * 86400.0
MOST_ESCALATIONS: Final = 8


def stages(ask: Body) -> list[tuple[str, float, Body]]:
    """Return what the broker is to say of an ask: (id of the stage, seconds since the ask, payload)."""
    found: list[tuple[str, float, Body]] = [
        (f"escalated-{number}", step["after_seconds"], {"type": "ask.escalated", "to": step["to"]})
        for number, step in enumerate(ask.get("escalations") or (), 1)
    ]
    if ask.get("seconds") is not None:
        found.append(("expired", ask["seconds"], {"type": "ask.expired"}))
    return found


def ask_body(
    text: str, *, to: list[str], escalations: list[tuple[float, list[str]]], seconds: float | None, **more: Any
) -> Body:
    """Return the payload of an ask; refuse one that could not work."""
    steps = [{"to": members, "after_seconds": float(after)} for after, members in sorted(escalations)]
    body: Body = {"type": "ask", "text": text, **more, "to": to, "escalations": steps}
    body["options"] = None if more["options"] is None else list(more["options"])
    body["seconds"] = None if seconds is None else float(seconds)
    body = {name: value for name, value in body.items() if value is not None and value != []}
    if more["options"] is not None:
        body["options"] = list(more["options"])
    validate("ask", body)
    _check_members(to, escalations, more["quorum"], more["rule"])
    _check_values(body)
    _check_times(seconds, [after for after, _ in escalations], more["rule"])
    return body


def _check_members(to: list[str], escalations: list[tuple[float, list[str]]], quorum: int, rule: str) -> None:
    asked = [check_name("to", name) for name in (*to, *(name for _, members in escalations for name in members))]
    if escalations and not to:
        raise InvalidInput("an ask to everybody cannot be escalated: say whom it is for first")
    if len(escalations) > MOST_ESCALATIONS:
        raise InvalidInput(f"{len(escalations)} escalations are more than {MOST_ESCALATIONS}")
    if to and ALL not in to and rule in ("quorum", "count") and quorum > len(set(asked)):
        raise InvalidInput(f"quorum: {quorum} of {len(set(asked))} members cannot come together")


def _check_values(body: Body) -> None:
    options = body.get("options")
    if options is not None and (not options or len(set(options)) != len(options)):
        raise InvalidInput("options: expected different values, at least one")
    if options is not None and body.get("veto", options[0]) not in options:
        raise InvalidInput(f"veto: {body['veto']!r} is not one of the options {', '.join(options)}")


def _check_times(seconds: float | None, steps: list[float], rule: str) -> None:
    if any(not 0 < after <= LONGEST_SECONDS for after in (*steps, *(() if seconds is None else (seconds,)))):
        raise InvalidInput(f"seconds: expected more than 0 and at most {LONGEST_SECONDS:g}")
    if seconds is not None and any(after >= seconds for after in steps):
        raise InvalidInput(f"escalations: one comes when the ask has expired after {seconds:g} s")
    if seconds is None and rule in ("highest", "lowest"):
        raise InvalidInput(f"seconds: the {rule} answer is known only when the ask expires, so say when")
