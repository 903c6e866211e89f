"""A part of a run as a client is told it: texts and tool calls grow, sub-agents come and go, the rest is told whole."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import orjson

from orchestrator_free.fold import RunFold
from orchestrator_free.projections.told import BEGUN, CLOSED, ENDED, KINDS, NOTHING, OPENED, PartTold, RunTold

Kind = Literal[
    "run.began", "run.changed", "run.ended", "text.began", "text.opened", "text.grew", "text.closed", "text.ended",
    "tool.began", "tool.grew", "tool.given", "tool.called", "tool.output", "tool.ended", "subagent.began",
    "subagent.changed", "subagent.ended", "part", "ask", "answer.ended",
]  # fmt: skip
Part = dict[str, Any]


class Step(NamedTuple):
    """One thing to tell; where a client is to be told two messages, there are two steps, each with its cursor.

    Attributes:
        kind: what happened.
        run: to which run; None for the answer as a whole.
        key: names the part within the answer, the same in every telling.
        part: the part as the fold has it, or the ask.
        text: what is new of it; of the answer's end how it ended.
        direct: the run is the answer itself, not one of several.
        again: of an ask: it was told before.
        by: the key of the sub-agent inside the run that wrote the part, if one did.
        aside: a text that is no part of the answer: its sub-agent works for a tool call.
    """

    kind: Kind
    run: RunFold | None
    key: str = ""
    part: Part = {}  # noqa: RUF012 - never changed
    text: str = ""
    direct: bool = False
    again: bool = False
    by: str = ""
    aside: bool = False


def kind_of(run: RunFold, part: Part) -> str:
    """Return the letter of a part's kind, as `PartTold` has it, of one that is told for the first time."""
    match part.get("type"):
        case "text":
            return "a" if _helps(run, part.get("by")) else "t"
        case "reasoning":
            return "r"
        case "tool":
            return "c"
    return "s" if is_subagent(part) else "o"


def is_subagent(part: Part) -> bool:
    """Whether a part tells of a sub-agent inside the run."""
    data = part.get("type") == "data" and part.get("name") == "subagent"
    return data and isinstance(part.get("id"), str) and isinstance(part.get("data"), dict)


def _helps(run: RunFold, by: Any) -> bool:
    """Whether a sub-agent works for a tool call, or for one that does: then its text is the call's."""
    seen: set[str] = set()
    while isinstance(by, str) and by not in seen:
        seen.add(by)
        about = run.subagent(by) or {}
        if about.get("call"):
            return True
        by = about.get("parent")
    return False


def is_same(known: PartTold, part: Part) -> bool:
    """Whether a part of the fold can be the one that was told."""
    return KINDS.get(known.kind) == (part["type"] if part.get("type") in KINDS.values() else None)


def gone(known: PartTold) -> Part:
    """Return an end for a part that the fold does not have any more."""
    if known.kind == "s" and isinstance(known.seen, dict):
        return {**known.seen, "gone": True, "data": {**known.seen["data"], "status": "error"}}
    return {"type": KINDS.get(known.kind, "gone"), "status": "running", "gone": True}


def is_replaceable(part: Part) -> bool:
    """Whether a later part may take its place."""
    return part.get("type") == "data" and part.get("id") is not None


def tell_part(run: RunFold, told: RunTold, prefix: str, index: int, part: Part) -> Iterator[Step]:
    """Yield what is new of a part; what becomes of a sub-agent is told by `tell_subagents`."""
    known, key = told.parts[index], f"{prefix}{index}"
    over = not run.open or bool(run.cancelled) or bool(part.get("gone"))
    match known.kind:
        case "t" | "a" | "r":
            steps = _tell_text(run, key, part, known, over=over)
        case "c":
            steps = _tell_tool(run, key, part, known, over=over)
        case "s":
            steps = _begin_subagent(run, told, prefix, index, part)
        case _:
            steps = _tell_whole(run, key, part, known)
    by = told.subagents.get(part.get("by") or "", index)
    for step in steps:
        yield step._replace(by=f"{prefix}{by}" if by < index else "", aside=known.kind == "a")
    if known.kind != "s" and known.stage == ENDED and (over or not is_replaceable(part)):
        told.parts.pop(index, None)


def _tell_whole(run: RunFold, key: str, part: Part, known: PartTold) -> Iterator[Step]:
    if part.get("gone") or known.seen is part:
        return
    known.seen = part
    size = _checksum(part)
    if known.stage != ENDED or known.size != size:
        known.stage, known.size = ENDED, size
        yield Step("part", run, key, part)


# -- sub-agents -----------------------------------------------------------------------------------------------------


def _begin_subagent(run: RunFold, told: RunTold, prefix: str, index: int, part: Part) -> Iterator[Step]:
    known = told.parts[index]
    if known.stage == NOTHING and is_subagent(part):
        told.subagents[part["id"]] = index
        known.stage, known.size, known.seen = BEGUN, _checksum(part), part
        yield Step("subagent.began", run, f"{prefix}{index}", placed(run, told, prefix, part))


def tell_subagents(run: RunFold, told: RunTold, prefix: str) -> Iterator[Step]:
    """Yield what has become of sub-agents; behind what they wrote, the last that began first."""
    over = not run.open or bool(run.cancelled)
    for index in [index for index, known in reversed(told.parts.items()) if known.kind == "s"]:
        known, key = told.parts[index], f"{prefix}{index}"
        part = run.parts.get(known.key) if known.key is not None else None
        if part is None or not is_subagent(part):
            part = gone(known)
        if known.seen is not part and not part.get("gone"):
            before, known.seen, known.size = known.size, part, _checksum(part)
            if before != known.size:
                yield Step("subagent.changed", run, key, placed(run, told, prefix, part))
        if known.stage == BEGUN and (over or part.get("gone") or part["data"].get("status") != "running"):
            known.stage = ENDED
            yield Step("subagent.ended", run, key, placed(run, told, prefix, part))


def placed(run: RunFold, told: RunTold, prefix: str, part: Part) -> Part:
    """Return the part of a sub-agent with the keys of what it works for, in place of the names in the run."""
    data = part.get("data")
    if not isinstance(data, dict) or part.get("gone"):
        return part
    above = told.subagents.get(str(data.get("parent") or ""), told.subagents.get(part["id"], 0))
    parent = f"{prefix}{above}" if above < told.subagents.get(part["id"], 0) else None
    calls = (
        index
        for index, one in enumerate(run.parts.values())
        if one.get("type") == "tool" and one.get("call") == data.get("call")
    )
    call = next(calls, None) if data.get("call") else None
    return {**part, "data": {**data, "parent": parent, "call": None if call is None else f"{prefix}{call}"}}


# -- texts and tools ------------------------------------------------------------------------------------------------


def _checksum(value: Any) -> int:
    return binascii.crc32(orjson.dumps(value, default=str))


def _rest(part: Part, known: PartTold) -> str:
    """Return what is new of a part's text, and note that it is told."""
    text = part.get("text")
    if isinstance(text, list):
        new = "".join(text[known.pieces :]) if known.pieces >= 0 else "".join(text)[known.size :]
        known.pieces = len(text)
    else:
        new = text[known.size :] if isinstance(text, str) else ""
    known.size += len(new)
    return new


def _has_more(part: Part, known: PartTold) -> bool:
    text = part.get("text")
    if isinstance(text, list):
        return len(text) > known.pieces if known.pieces >= 0 else sum(map(len, text)) > known.size
    return isinstance(text, str) and len(text) > known.size


def _tell_text(run: RunFold, key: str, part: Part, known: PartTold, *, over: bool) -> Iterator[Step]:
    if known.stage == NOTHING and known.size and not _has_more(part, known):  # told so far before a pause
        if not part.get("open") or over:
            known.stage = ENDED
        return
    if known.stage == NOTHING:
        known.stage = BEGUN
        yield Step("text.began", run, key, part)
    if known.stage == BEGUN:
        known.stage = OPENED
        yield Step("text.opened", run, key, part)
    if known.stage == OPENED:
        if new := _rest(part, known):
            yield Step("text.grew", run, key, part, new)
        if not part.get("open") or over:
            known.stage = CLOSED
            yield Step("text.closed", run, key, part)
    if known.stage == CLOSED:  # of one that is open still: in the middle of a pause
        known.stage = NOTHING if part.get("open") and not over else ENDED
        yield Step("text.ended", run, key, part)


def _tell_tool(run: RunFold, key: str, part: Part, known: PartTold, *, over: bool) -> Iterator[Step]:
    if known.stage == NOTHING:
        known.stage = BEGUN
        yield Step("tool.began", run, key, part)
    if known.stage == BEGUN:
        if new := _rest(part, known):
            yield Step("tool.grew", run, key, part, new)
        if not part.get("open") or over:
            known.stage, known.size = OPENED, 0
            yield Step("tool.given", run, key, part)
    if known.stage == OPENED:
        known.stage = CLOSED
        yield Step("tool.called", run, key, part)
    if known.stage == CLOSED:
        if part.get("status") == "running" and not over:
            if (output := part.get("output")) is not None and known.seen is not output:
                known.seen, before, known.size = output, known.size, _checksum(output)
                if before != known.size:
                    yield Step("tool.output", run, key, part)
        else:
            known.stage, known.size = ENDED, 0
            yield Step("tool.ended", run, key, part)
