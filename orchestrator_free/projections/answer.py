"""An answer as a client is told it, step by step: what the fold has that this client has not been told.

An answer is everything that is done for one input: the runs of the agents it went to, and what they delegated. A step
is made by comparing the fold with what was told before, not from an event. So it does not matter whether the client
was there from the first token, comes back in the middle, was too slow for every token, or finds a log in which the
finished runs have replaced their deltas: it is told the rest, exactly. What was told fits into a short text, the
cursor, with which any gateway goes on, at any time.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import orjson

from orchestrator_free.errors import InvalidPosition
from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.subjects import run_id

#: how much of a part was told
_NOTHING, _BEGUN, _CALLED, _ENDED = range(4)
_RUN_DIGITS: Final = 8

Kind = Literal[
    "run.began", "run.changed", "run.ended", "text.began", "text.grew", "text.ended", "tool.began", "tool.grew",
    "tool.called", "tool.output", "tool.ended", "part", "ask", "answer.ended",
]  # fmt: skip


class Step(NamedTuple):
    """One thing to tell.

    Attributes:
        kind: what happened.
        run: to which run; None for the answer as a whole.
        key: names the part within the answer, the same in every telling.
        part: the part as the fold has it, or the ask.
        text: what is new of it; of `tool.called` whether its input was told piece by piece.
    """

    kind: Kind
    run: RunFold | None
    key: str = ""
    part: dict[str, Any] = {}  # noqa: RUF012 - never changed
    text: str = ""


@dataclass(slots=True)
class _Told:
    """What was told of a part.

    Attributes:
        stage: how far.
        size: characters of its text; or the checksum of a part that may be replaced.
        pieces: how many of its pieces that was, where known: not behind a cursor.
    """

    stage: int = _NOTHING
    size: int = 0
    pieces: int = -1


@dataclass(slots=True)
class _Run:
    """What was told of a run.

    Attributes:
        done: so many of its first parts are told whole.
        parts: of those after them, by index.
        last: the fold's last sequence that was looked at.
    """

    attempt: int = 0
    done: int = 0
    parts: dict[int, _Told] = field(default_factory=dict)
    status: Any = None
    ended: bool = False
    last: int = -1


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
            InvalidPosition: the cursor is none.
        """
        self.sender = sender
        self.input = input
        self.run = run_id(sender, input)
        self.ended = False
        self._runs: dict[str, _Run] = {}
        self._asks: dict[str, int] = {}
        if cursor:
            self._load(cursor)

    # -- what belongs to it -------------------------------------------------------------------------------------

    def members(self, fold: Fold) -> list[RunFold]:
        """Return the runs of this answer in the order in which they began."""
        found = {(run.agent, run.run) for run in fold.runs.values() if run.run == self.run}
        runs = sorted(fold.runs.values(), key=lambda run: run.first)
        for run in runs:
            parent = run.parent
            if isinstance(parent, dict) and (parent.get("agent"), parent.get("run")) in found:
                found.add((run.agent, run.run))
        return [run for run in runs if (run.agent, run.run) in found]

    def complete(self, fold: Fold) -> bool:
        """Whether nothing is to come any more."""
        members = {(run.agent, run.run) for run in self.members(fold)}
        if any(key in members for key in fold.waiting()):
            return False
        roots = [key for key in members if key[1] == self.run]
        expected = {agent for agent, run in fold.queued() if run == self.run}
        if expected or not roots:
            return False
        inputs = (entry for entry in fold.inputs.values() if isinstance(entry["parent"], dict))
        delegated = {
            run_id(entry["from"], entry["input"])
            for entry in inputs
            if (entry["parent"].get("agent"), entry["parent"].get("run")) in members
        }
        return not any(run in delegated for _, run in fold.queued())

    def status(self, fold: Fold) -> str:
        """Return how the answer as a whole ended: done if any direct run is, else as they did."""
        ends = [run.view()["status"] for run in self.members(fold) if run.run == self.run]
        return next((end for end in ("done", "cancelled", "rejected", "error", "failed") if end in ends), "done")

    # -- telling ------------------------------------------------------------------------------------------------

    def advance(self, fold: Fold) -> Iterator[Step]:
        """Yield what this client has not been told yet; after each step the cursor stands behind it."""
        if self.ended:
            return
        members = self.members(fold)
        for run in members:
            yield from self._tell_run(run)
        yield from self._tell_asks(fold, members)
        if self.complete(fold):
            self.ended = True
            yield Step("answer.ended", None, text=self.status(fold))

    def _tell_run(self, run: RunFold) -> Iterator[Step]:
        name = f"{run.agent}.{run.run[:_RUN_DIGITS]}"
        told = self._runs.get(name)
        if told is None:
            told = self._runs[name] = _Run(attempt=run.attempt)
            yield Step("run.began", run, name)
        if told.last == run.last or told.ended:
            return
        if told.attempt != run.attempt:
            told.attempt, told.done, told.parts = run.attempt, 0, {}
        parts = list(run.parts.values())
        for index in range(told.done, len(parts)):
            yield from self._tell_part(run, told, f"{name}.{told.attempt}.{index}", index, parts[index])
        while told.done in told.parts and _is_whole(run, parts[told.done], told.parts[told.done]):
            del told.parts[told.done]
            told.done += 1
        told.last = run.last
        status = (run.view()["status"], run.attempt, run.stalled is not None, _reason(run))
        if not run.open or run.cancelled:
            told.ended = True
            yield Step("run.ended", run, name)
        elif status != told.status:
            told.status = status
            yield Step("run.changed", run, name)

    def _tell_part(self, run: RunFold, told: _Run, key: str, index: int, part: dict[str, Any]) -> Iterator[Step]:
        known = told.parts.setdefault(index, _Told())
        match part.get("type"):
            case "text" | "reasoning":
                yield from _tell_text(run, key, part, known)
            case "tool":
                yield from _tell_tool(run, key, part, known)
            case _:
                size = binascii.crc32(orjson.dumps(part))
                if known.stage != _ENDED or known.size != size:
                    known.stage, known.size = _ENDED, size
                    yield Step("part", run, key, part)

    def _tell_asks(self, fold: Fold, members: list[RunFold]) -> Iterator[Step]:
        if not fold.asks.found:
            return
        by_run = {(run.agent, run.run): run for run in members}
        for ask in fold.asks.view():
            about = ask["run"] or {"agent": "", "run": ""}
            run = by_run.get((about["agent"], about["run"]))
            state = 1 + len(ask["answers"]) + 1000 * (ask["status"] != "open")
            if run is not None and self._asks.get(ask["ask"]) != state:
                self._asks[ask["ask"]] = state
                yield Step("ask", run, ask["ask"], ask)

    # -- the cursor ---------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """What was told so far, as a short text: per run its attempt, whole parts, and those in the making."""
        runs = []
        for name, told in self._runs.items():
            parts = "".join(f"_{index}-{part.stage}-{part.size}" for index, part in told.parts.items())
            runs.append(f"{name}.{told.attempt}.{told.done}{'e' if told.ended else ''}{parts}")
        return "~".join(runs) or "0"

    def _load(self, cursor: str) -> None:
        if cursor == "0":
            return
        try:
            for text in cursor.split("~"):
                agent, run, attempt, rest = text.split(".")
                done, *parts = rest.split("_")
                told = _Run(int(attempt), int(done.removesuffix("e")), ended=done.endswith("e"))
                for part in parts:
                    index, stage, size = map(int, part.split("-"))
                    told.parts[index] = _Told(stage, size)
                self._runs[f"{agent}.{run}"] = told
        except ValueError as error:
            raise InvalidPosition(f"{cursor[:80]!r} is no cursor of an answer; pass an `id:` of its stream") from error


def _reason(run: RunFold) -> Any:
    return run.waiting and (run.waiting.get("reason"), run.waiting.get("ask"))


def _is_whole(run: RunFold, part: View, told: _Told) -> bool:
    """Whether a part was told and will not change: data of an open run may be replaced."""
    replaceable = part.get("type") == "data" and part.get("id") is not None and run.open
    return told.stage == _ENDED and not replaceable


def _rest(part: dict[str, Any], told: _Told) -> str:
    """Return what is new of a part's text, and note that it is told."""
    text = part.get("text")
    if isinstance(text, list):
        new = "".join(text[told.pieces :]) if told.pieces >= 0 else "".join(text)[told.size :]
        told.pieces = len(text)
    else:
        new = text[told.size :] if isinstance(text, str) else ""
    told.size += len(new)
    return new


def _tell_text(run: RunFold, key: str, part: dict[str, Any], told: _Told) -> Iterator[Step]:
    if told.stage == _NOTHING:
        told.stage = _BEGUN
        yield Step("text.began", run, key, part)
    if told.stage == _BEGUN:
        if new := _rest(part, told):
            yield Step("text.grew", run, key, part, new)
        if not part.get("open") or not run.open or run.cancelled:
            told.stage = _ENDED
            yield Step("text.ended", run, key, part)


def _tell_tool(run: RunFold, key: str, part: dict[str, Any], told: _Told) -> Iterator[Step]:
    over = not run.open or bool(run.cancelled)
    if told.stage == _NOTHING:
        told.stage = _BEGUN
        yield Step("tool.began", run, key, part)
    if told.stage == _BEGUN:
        if new := _rest(part, told):
            yield Step("tool.grew", run, key, part, new)
        if not part.get("open") or over:
            streamed, told.stage, told.size = bool(told.size), _CALLED, 0
            yield Step("tool.called", run, key, part, "streamed" if streamed else "")
    if told.stage == _CALLED:
        if part.get("status") == "running" and not over:
            size = 0 if part.get("output") is None else binascii.crc32(orjson.dumps(part["output"]))
            if size != told.size:
                told.size = size
                yield Step("tool.output", run, key, part)
        else:
            told.stage, told.size = _ENDED, 0
            yield Step("tool.ended", run, key, part)


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
