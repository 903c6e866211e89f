"""An answer as a client is told it, step by step: what the fold has that this client has not been told.

An answer is everything that is done for one input: the runs of the agents it went to, and what they delegated. A step
is made by comparing the fold with what was told before, not from an event. So it does not matter whether the client
was there from the first token, comes back in the middle, was too slow for every token, or finds a log in which the
finished runs have replaced their deltas: it is told the rest, exactly. What was told fits into a short text, the
cursor, with which any gateway goes on, at any time.

What was told as ended stays so for that client: if a cancel is refused afterwards, only the history shows the rest.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple

import orjson

from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.projections.kin import Kin, kin_of
from orchestrator_free.projections.told import (
    BEGUN,
    CLOSED,
    ENDED,
    KINDS,
    NOTHING,
    OPENED,
    PartTold,
    RunTold,
    name_of,
    read,
    write,
)  # fmt: skip
from orchestrator_free.subjects import ALL, run_id

Kind = Literal[
    "run.began", "run.changed", "run.ended", "text.began", "text.opened", "text.grew", "text.closed", "text.ended",
    "tool.began", "tool.grew", "tool.given", "tool.called", "tool.output", "tool.ended", "part", "ask", "answer.ended",
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
    """

    kind: Kind
    run: RunFold | None
    key: str = ""
    part: Part = {}  # noqa: RUF012 - never changed
    text: str = ""
    direct: bool = False
    again: bool = False


class Answer:
    """Tells one client one answer.

    Attributes:
        sender, input: whose input it answers.
        run: id of the runs that answer it directly.
        ended: everything was told.
    """

    def __init__(self, sender: str, input: str, cursor: str = "") -> None:
        """Begin, or go on behind a cursor.

        Raises:
            InvalidPosition: the cursor is none, or of another answer.
        """
        self.sender = sender
        self.input = input
        self.run = run_id(sender, input)
        self._runs, self._asks, self.ended = read(cursor or "0", self.run)
        self._members: tuple[Kin | None, int, list[RunFold]] = (None, 0, [])

    # -- what belongs to it -------------------------------------------------------------------------------------

    def members(self, fold: Fold) -> list[RunFold]:
        """Return the runs of this answer in the order in which they began."""
        kin = kin_of(fold)
        if self._members[:2] != (kin, kin.state):
            self._members = (kin, kin.state, kin.family(self.run))
        return self._members[2]

    def complete(self, fold: Fold) -> bool:
        """Whether nothing is to come any more."""
        kin, members = kin_of(fold), self.members(fold)
        if any(run.open and not run.cancelled for run in members):
            return False
        asked = [fold.inputs[key] for key in kin.entries.get(self.run, ())]
        if any(True for entry in asked for _ in fold.owed(entry, self.run)):
            return False
        if not any(run.run == self.run for run in members):
            return bool(asked) and not any(_anybody(fold, entry, self.run) for entry in asked)
        return not any(
            True
            for member in members
            for run in kin.delegated.get((member.agent, member.run), ())
            for key in kin.entries[run]
            for _ in fold.owed(fold.inputs[key], run)
        )

    def status(self, fold: Fold) -> str:
        """Return how the answer as a whole ended: done if any direct run is, else as they did."""
        ends = {run.shown_status for run in self.members(fold) if run.run == self.run}
        if not ends and any(_cancelled(fold, fold.inputs[key], self.run) for key in kin_of(fold).entries[self.run]):
            return "cancelled"
        return next((end for end in ("done", "cancelled", "rejected", "error", "failed") if end in ends), "done")

    def above(self, run: RunFold) -> str:
        """Return the name of the run that delegated to one, empty if that is the answer itself or not of it."""
        found = name_of(run.parent["agent"], run.parent["run"]) if isinstance(run.parent, dict) else ""
        told = self._runs.get(found)
        itself = found == name_of(run.agent, run.run)
        return found if told is not None and not told.direct and not itself else ""

    # -- telling ------------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """What was told so far, as a short text: per run its attempt, its parts, and those in the making."""
        return write(self._runs, self._asks, self.ended)

    def advance(self, fold: Fold) -> Iterator[Step]:
        """Yield what this client has not been told yet; after each step the cursor stands behind it."""
        if self.ended:
            return
        kin, members = kin_of(fold), self.members(fold)
        for run in members:
            told = self._runs.get(name := name_of(run.agent, run.run))
            if told is None:
                direct = not self._runs and run.run == self.run and _is_alone(fold, kin, self.run)
                told = self._runs[name] = RunTold(run.attempt, direct=direct)
                yield Step("run.began", run, name, direct=direct)
            state = (run.last, run.cancelled, run.lost, run.status)
            if not told.ended and told.state != state:
                for step in _tell_run(run, told, name):
                    yield step._replace(direct=told.direct)
                told.state = state
        yield from self._tell_asks(fold, kin, members)
        if self.complete(fold):
            self.ended = True
            yield Step("answer.ended", None, text=self.status(fold))

    def _tell_asks(self, fold: Fold, kin: Kin, members: list[RunFold]) -> Iterator[Step]:
        for run in members if kin.asks else ():
            for name in kin.asks.get((run.agent, run.run), ()):
                ask = fold.asks.found[name]
                state = binascii.crc32(f"{ask['status']} {len(ask['answers'])} {len(ask['to'])}".encode())
                before = self._asks.get(name)
                if before != state:
                    self._asks[name] = state
                    direct = self._runs[name_of(run.agent, run.run)].direct
                    yield Step("ask", run, name, ask, direct=direct, again=before is not None)


def _cancelled(fold: Fold, entry: Part, run: str) -> bool:
    return bool(fold.controls.cancels(entry["to"], run, entry["sequence"]))


def _anybody(fold: Fold, entry: Part, run: str) -> bool:
    """Whether an input waits for whoever may come: it is for all, and the session names nobody."""
    nobody = entry["to"] == ALL and not fold.meta["agents"] and not (entry["replayed"] or entry["note"])
    return nobody and not _cancelled(fold, entry, run)


def _is_alone(fold: Fold, kin: Kin, run: str) -> bool:
    """Whether one agent was asked: its run is the answer itself."""
    asked = [fold.inputs[key]["to"] for key in kin.entries.get(run, ())]
    return len(asked) == 1 and (asked[0] != ALL or len(fold.meta["agents"]) == 1)


# -- a run ----------------------------------------------------------------------------------------------------------


def _tell_run(run: RunFold, told: RunTold, name: str) -> Iterator[Step]:
    over = not run.open or bool(run.cancelled)
    if told.attempt != run.attempt:
        yield from _leave(run, told, name)
        told.attempt, told.looked, told.parts, told.source, told.more = run.attempt, 0, {}, None, False
    if told.source is not run.parts:
        _find(run, told)
    prefix = f"{name}.{told.attempt}."
    for index in list(told.parts):
        known = told.parts[index]
        part = run.parts.get(known.key) if known.key is not None else None
        yield from _tell_part(run, told, prefix, index, _gone(known) if part is None else part)
    for key, part in _newest(run.parts, len(run.parts) - told.looked):
        index, told.looked = told.looked, told.looked + 1
        told.parts[index] = PartTold(_kind(part), key=key)
        yield from _tell_part(run, told, prefix, index, part)
    status = (run.shown_status, run.attempt, run.stalled is not None, _reason(run))
    if over:
        told.ended, told.parts, told.source = True, {}, None
        yield Step("run.ended", run, name)
    elif status != told.status:
        told.status = status
        yield Step("run.changed", run, name)


def _leave(run: RunFold, told: RunTold, name: str) -> Iterator[Step]:
    """Tell the end of what a lost attempt has left open."""
    for index, known in list(told.parts.items()):
        if known.kind in KINDS:
            part = _gone(known)
            tell = _tell_tool if known.kind == "c" else _tell_text
            yield from tell(run, f"{name}.{told.attempt}.{index}", part, known, over=True)


def _find(run: RunFold, told: RunTold) -> None:
    """Find the parts that were told in the fold as it is now: behind a cursor, and when the run's end replaces them."""
    names = list(run.parts)
    for index, known in told.parts.items():
        known.key = names[index] if index < len(names) and _kind(run.parts[names[index]]) == known.kind else None
        known.pieces = -1
    if told.more:
        told.more = False
        for index, name in enumerate(names[: told.looked]):
            if index not in told.parts and _is_replaceable(run.parts[name]):
                told.parts[index] = PartTold("o", key=name)
    told.source = run.parts


def _newest(parts: dict[str, Part], count: int) -> list[tuple[str, Part]]:
    return list(islice(reversed(parts.items()), max(0, count)))[::-1]


def _reason(run: RunFold) -> Any:
    return run.waiting and (run.waiting.get("reason"), run.waiting.get("ask"))


# -- a part ---------------------------------------------------------------------------------------------------------


def _kind(part: Part) -> str:
    return {"text": "t", "reasoning": "r", "tool": "c"}.get(str(part.get("type")), "o")


def _gone(known: PartTold) -> Part:
    """Return an end for a part that the fold does not have any more."""
    return {"type": KINDS.get(known.kind, "gone"), "status": "running"}


def _is_replaceable(part: Part) -> bool:
    return part.get("type") == "data" and part.get("id") is not None


def _tell_part(run: RunFold, told: RunTold, prefix: str, index: int, part: Part) -> Iterator[Step]:
    known, key, over = told.parts[index], f"{prefix}{index}", not run.open or bool(run.cancelled)
    match known.kind:
        case "t" | "r":
            yield from _tell_text(run, key, part, known, over=over)
        case "c":
            yield from _tell_tool(run, key, part, known, over=over)
        case _ if part.get("type") != "gone" and known.seen is not part:
            known.seen = part
            size = _checksum(part)
            if known.stage != ENDED or known.size != size:
                known.stage, known.size = ENDED, size
                yield Step("part", run, key, part)
    if known.stage == ENDED and (over or not _is_replaceable(part)):
        told.parts.pop(index, None)


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


def _tell_text(run: RunFold, key: str, part: Part, known: PartTold, *, over: bool) -> Iterator[Step]:
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
    if known.stage == CLOSED:
        known.stage = ENDED
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


# -- what is answered -----------------------------------------------------------------------------------------------


def answers(fold: Fold) -> list[tuple[str, str]]:
    """Return (sender, input) of every input that people ask, in log order: not delegated, noted or whispered ones."""
    aside = ("parent", "note", "whisper")
    own = (entry for entry in fold.inputs.values() if not any(entry[name] for name in aside))
    ordered = sorted(own, key=lambda entry: int(entry["sequence"]))
    return list(dict.fromkeys((entry["from"], entry["input"]) for entry in ordered))


def shown(fold: Fold) -> list[tuple[str, str]]:
    """Return (sender, input) of what the selected branch asks, in order."""
    found = (key.partition("/") for key in fold.branches.path())
    return [(sender, input) for sender, _, input in found]


def entry_of(fold: Fold, sender: str, input: str) -> Part:
    """Return an input, of one to several targets the first."""
    return fold.inputs[kin_of(fold).entries[run_id(sender, input)][0]]
