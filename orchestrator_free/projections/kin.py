"""What belongs together in a session: which runs answer an input, and what they delegated and asked.

One index per fold, shared by all who tell answers from it. It is brought up to date by what is new, so that a token
costs the same at the end of a long session as at its beginning.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final
from weakref import WeakKeyDictionary

from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.subjects import run_id

#: agent and run
Key = tuple[str, str]


class Kin:
    """The index of one fold.

    Attributes:
        runs: the runs of each id.
        children: the runs that a run delegated to.
        entries: the keys of the inputs (`Fold.inputs`) that the runs of an id answer: one for each target.
        delegated: the ids of the runs that a run's own inputs ask for.
        asks: the ids of the asks of a run.
        state: another number whenever a family may have changed.
    """

    __slots__ = ("_asks", "_inputs", "_runs", "_unborn", "asks", "children", "delegated", "entries", "runs", "state")

    def __init__(self) -> None:
        self.runs: dict[str, dict[Key, RunFold]] = {}
        self.children: dict[Key, dict[Key, RunFold]] = {}
        self.entries: dict[str, list[str]] = {}
        self.delegated: dict[Key, list[str]] = {}
        self.asks: dict[Key, list[str]] = {}
        self._runs = self._inputs = self._asks = self.state = 0
        self._unborn: list[RunFold] = []

    def update(self, fold: Fold) -> None:
        """Take what has come since the last time; the fold only ever adds."""
        self.state += bool(self._unborn) or self._runs != len(fold.runs)
        for run in [*self._unborn, *_newest(fold.runs.values(), len(fold.runs) - self._runs)]:
            self._take_run(run)
        for key in _newest(fold.inputs, len(fold.inputs) - self._inputs):
            self._take_input(key, fold.inputs[key])
        for name in _newest(fold.asks.found, len(fold.asks.found) - self._asks):
            if (about := _key(fold.asks.found[name]["run"])) is not None:
                self.asks.setdefault(about, []).append(name)
        self._runs, self._inputs, self._asks = len(fold.runs), len(fold.inputs), len(fold.asks.found)
        self._unborn = [run for run in self._unborn if run.open and not run.attempt]

    def _take_run(self, run: RunFold) -> None:
        key = (run.agent, run.run)
        self.runs.setdefault(run.run, {})[key] = run
        if run.open and not run.attempt and run not in self._unborn:
            self._unborn.append(run)  # its start, which names its parent, is still to come
        if (parent := _key(run.parent)) is not None:
            self.children.setdefault(parent, {})[key] = run

    def _take_input(self, key: str, entry: View) -> None:
        run = run_id(entry["from"], entry["input"])
        self.entries.setdefault(run, []).append(key)
        if (parent := _key(entry["parent"])) is not None:
            self.delegated.setdefault(parent, []).append(run)

    def family(self, run: str) -> list[RunFold]:
        """Return the runs of an id and everything below them, in the order in which they began."""
        found = dict(self.runs.get(run, {}))
        todo = list(found)
        while todo:
            for key, one in self.children.get(todo.pop(), {}).items():
                if key not in found:
                    found[key] = one
                    todo.append(key)
        return sorted(found.values(), key=lambda one: one.first)


_KIN: Final[WeakKeyDictionary[Fold, Kin]] = WeakKeyDictionary()


def kin_of(fold: Fold) -> Kin:
    """Return the index of a fold as it stands."""
    kin = _KIN.get(fold)
    if kin is None:
        kin = _KIN[fold] = Kin()
    kin.update(fold)
    return kin


def _newest(found: Any, count: int) -> list[Any]:
    return list(islice(reversed(found), count))[::-1]


def _key(about: Any) -> Key | None:
    """Return whom a reference names, None for what is none."""
    if not isinstance(about, dict):
        return None
    agent, run = about.get("agent"), about.get("run")
    return (agent, run) if isinstance(agent, str) and isinstance(run, str) else None
