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
from typing import Any

from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.projections.kin import Kin, kin_of
from orchestrator_free.projections.parts import (
    Part,
    Step,
    gone,
    is_replaceable,
    is_same,
    is_subagent,
    kind_of,
    placed,
    tell_part,
    tell_subagents,
)
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
)
from orchestrator_free.subjects import ALL, run_id


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
        if self.owes(fold):
            return False
        if any(run.run == self.run for run in members):
            return True
        asked = [fold.inputs[key] for key in kin.entries.get(self.run, ())]
        return bool(asked) and not any(_anybody(fold, entry, self.run) for entry in asked)

    def owes(self, fold: Fold) -> bool:
        """Whether a run is to come that was asked for, by the input or by a run of this answer."""
        kin = kin_of(fold)
        members = ((member.agent, member.run) for member in self.members(fold))
        asked = [self.run, *(run for member in members for run in kin.delegated.get(member, ()))]
        return any(True for run in asked for key in kin.entries.get(run, ()) for _ in fold.owed(fold.inputs[key], run))

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

    def begun(self, fold: Fold) -> Iterator[Step]:
        """Yield again the beginning of each run and sub-agent that was told as begun, and not as ended."""
        for run in self.members(fold):
            told = self._runs.get(name := name_of(run.agent, run.run))
            if told is None or told.ended:
                continue
            yield Step("run.began", run, name, direct=told.direct)
            if told.attempt == run.attempt and told.source is not run.parts:
                _find(run, told)
            prefix = f"{name}.{told.attempt}."
            for index, known in told.parts.items():
                if known.kind == "s" and known.stage == BEGUN:
                    part = run.parts.get(known.key or "") or gone(known)  # of an attempt that was lost meanwhile
                    key, about = f"{prefix}{index}", placed(run, told, prefix, part)
                    yield Step("subagent.began", run, key, about, direct=told.direct)

    def pause(self, fold: Fold) -> Iterator[Step]:
        """Yield the end of texts that are open; what comes after it begins them again, with what is new.

        Nothing is to be told before it: `advance` comes first.
        """
        for run in self.members(fold):
            told = self._runs[name := name_of(run.agent, run.run)]
            for index, known in told.parts.items():
                if known.stage == OPENED and known.kind in "tar":
                    key, about = f"{name}.{told.attempt}.{index}", {"type": KINDS[known.kind], "gone": True}
                    step = Step("text.closed", run, key, about, direct=told.direct, aside=known.kind == "a")
                    known.stage = CLOSED
                    yield step
                    known.stage = NOTHING
                    yield step._replace(kind="text.ended")

    @property
    def writing(self) -> bool:
        """Whether a tool call is being written that was told so far."""
        return any(
            part.kind == "c" and part.stage < OPENED for told in self._runs.values() for part in told.parts.values()
        )

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
    for index, known in list(told.parts.items()):
        part = run.parts.get(known.key) if known.key is not None else None
        yield from tell_part(run, told, prefix, index, gone(known) if part is None else part)
    for key, part in _newest(run.parts, len(run.parts) - told.looked):
        index, told.looked = told.looked, told.looked + 1
        told.parts[index] = PartTold(kind_of(run, part), key=key)
        yield from tell_part(run, told, prefix, index, part)
    yield from tell_subagents(run, told, prefix)
    status = (run.shown_status, run.attempt, run.stalled is not None, _reason(run))
    if over:
        told.ended, told.parts, told.source = True, {}, None
        yield Step("run.ended", run, name)
    elif status != told.status:
        told.status = status
        yield Step("run.changed", run, name)


def _leave(run: RunFold, told: RunTold, name: str) -> Iterator[Step]:
    """Tell the end of what a lost attempt has left open."""
    subagents = []
    for index, known in list(told.parts.items()):
        if known.kind in KINDS:
            yield from tell_part(run, told, f"{name}.{told.attempt}.", index, gone(known))
        elif known.kind == "s":
            known.key = None
            subagents.append(known)
    if subagents:
        yield from tell_subagents(run, told, f"{name}.{told.attempt}.")


def _find(run: RunFold, told: RunTold) -> None:
    """Find the parts that were told in the fold as it is now: behind a cursor, and when the run's end replaces them."""
    names = list(run.parts)
    for index, known in told.parts.items():
        known.key = names[index] if index < len(names) and is_same(known, run.parts[names[index]]) else None
        known.pieces = -1
    found = [(index, name, run.parts[name]) for index, name in enumerate(names[: told.looked])]
    told.subagents = {part["id"]: index for index, _, part in found if is_subagent(part)}
    if told.more:
        told.more = False
        for index, name, part in found:
            if index not in told.parts and is_replaceable(part):
                told.parts[index] = PartTold("s", ENDED, key=name) if is_subagent(part) else PartTold("o", key=name)
    told.source = run.parts


def _newest(parts: dict[str, Part], count: int) -> list[tuple[str, Part]]:
    return list(islice(reversed(parts.items()), max(0, count)))[::-1]


def _reason(run: RunFold) -> Any:
    return run.waiting and (run.waiting.get("reason"), run.waiting.get("ask"))


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
