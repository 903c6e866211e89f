"""What one client was told of an answer, and its text form, the cursor."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator_free.errors import InvalidPosition

#: how far a part was told; a text is opened and closed, a tool given its input and called
NOTHING, BEGUN, OPENED, CLOSED, ENDED = range(5)
#: a part's type by the letter of its kind, where it grows; a text aside is no part of the answer
KINDS: Final = {"t": "text", "a": "text", "r": "reasoning", "c": "tool"}
#: of the parts that may be replaced as long as the run is open, a cursor remembers so many
REPLACEABLE: Final = 32
#: a cursor behind which nothing comes
END: Final = "!"

_HEX: Final = re.compile("[0-9a-f]{24}")
_RUN: Final = re.compile(
    r"([A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64})\.([0-9]{1,20})\.([0-9]{1,9})(d?)(m?)(e?)((?:_[0-9]{1,9}-[tarcso][0-4]-[0-9]{1,12})*)"
)
_ASK: Final = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9]{1,10})")


def name_of(agent: str, run: str) -> str:
    """Return the short name of a run within an answer."""
    return f"{agent}.{run[:8] if _HEX.fullmatch(run) else run}"


@dataclass(slots=True)
class PartTold:
    """What was told of a part.

    Attributes:
        kind: `t`ext, text `a`side, `r`easoning, tool `c`all, `s`ub-agent or `o`ther.
        stage: how far.
        size: characters of its text; or the checksum of what may be replaced.
        pieces: how many of its pieces that was, where known: not behind a cursor.
        key: its name in the fold, None if the fold does not have it any more.
        seen: the value that was last looked at, to notice that it was replaced.
    """

    kind: str
    stage: int = NOTHING
    size: int = 0
    pieces: int = -1
    key: str | None = None
    seen: Any = None


@dataclass(slots=True)
class RunTold:
    """What was told of a run.

    Attributes:
        attempt: of which attempt.
        looked: so many of its first parts were looked at; whole ones are forgotten.
        parts: by index those that may still change.
        direct: it is the answer itself, not one of several that make it.
        more: a cursor did not remember all that may be replaced.
        ended: everything of it was told.
        status: how it was doing when that was told.
        state: how the fold had it when it was last looked at.
        source: the fold's parts that `key` of the parts is about.
        subagents: the index of the part of each sub-agent that was told of, by the sub-agent's id.
    """

    attempt: int = 0
    looked: int = 0
    parts: dict[int, PartTold] = field(default_factory=dict)
    direct: bool = False
    more: bool = False
    ended: bool = False
    status: Any = None
    state: Any = None
    source: Any = None
    subagents: dict[str, int] = field(default_factory=dict)


def write(runs: dict[str, RunTold], asks: dict[str, int], ended: bool) -> str:
    """Return the cursor."""
    found = [_write_run(name, told) for name, told in runs.items()]
    found += [f"{name}.{state}" for name, state in asks.items()]
    return ("~".join(found) or "0") + (END if ended else "")


def _write_run(name: str, told: RunTold) -> str:
    loose = [
        index for index, part in told.parts.items() if part.kind == "o" or (part.kind == "s" and part.stage == ENDED)
    ]
    left = set(loose[:-REPLACEABLE])
    parts = "".join(
        f"_{index}-{part.kind}{part.stage}-{part.size}" for index, part in told.parts.items() if index not in left
    )
    flags = f"{'d' if told.direct else ''}{'m' if told.more or left else ''}{'e' if told.ended else ''}"
    return f"{name}.{told.attempt}.{told.looked}{flags}{parts}"


def read(cursor: str, run: str) -> tuple[dict[str, RunTold], dict[str, int], bool]:
    """Return runs, asks and whether that was all, from the cursor of the answer with a run id.

    Raises:
        InvalidPosition: it is no cursor, or of another answer.
    """
    runs: dict[str, RunTold] = {}
    asks: dict[str, int] = {}
    text = cursor.removesuffix(END)
    for entry in text.split("~") if text != "0" else ():
        if (found := _RUN.fullmatch(entry)) is not None:
            runs[found[1]] = _read_run(found)
        elif (found := _ASK.fullmatch(entry)) is not None:
            asks[found[1]] = int(found[2])
        else:
            raise InvalidPosition(f"{cursor[:80]!r} is no cursor of an answer; pass an `id:` of its stream")
    if runs and not any(name.partition(".")[2] in (run[:8], run) for name in runs):
        raise InvalidPosition(f"{cursor[:80]!r} is the cursor of another answer; pass an `id:` of this one's stream")
    return runs, asks, cursor.endswith(END)


def _read_run(found: re.Match[str]) -> RunTold:
    told = RunTold(int(found[2]), int(found[3]), direct=bool(found[4]), more=bool(found[5]), ended=bool(found[6]))
    for part in found[7].split("_")[1:]:
        index, how, size = part.split("-")
        if int(index) < told.looked:
            told.parts[int(index)] = PartTold(how[0], int(how[1]), int(size))
    return told
