"""The fold: events in log order become the view, what a person reads, grouped by agent and run.

Pure: no I/O and no clock. Two promises, both kept by property tests: folding a prefix, writing the view out, loading it
and folding the rest equals folding all; and a compacted log (finished runs instead of their deltas) folds to the same
groups as the full one. The second holds because `run.finished` carries the folded parts and replaces what was there.
An event that makes no sense is skipped and counted, never half applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event
from orchestrator_free.runfold import FINAL, RunFold, View
from orchestrator_free.subjects import ALL, run_id
from orchestrator_free.vocabulary import validate

__all__ = ["FINAL", "Fold", "RunFold", "View"]


class Fold:
    """The state of one session after the events applied so far.

    Attributes:
        sequence: sequence of the last event seen.
        skipped: events that made no sense.
        deleted: whether the session's deletion was seen.
    """

    __slots__ = (
        "controls", "deleted", "inputs", "meta", "offline", "runs", "sequence", "session", "skipped", "state",
    )  # fmt: skip

    def __init__(self, session: str) -> None:
        self.session = session
        self.sequence = 0
        self.skipped = 0
        self.deleted = False
        self.meta: dict[str, Any] = {"title": "", "agents": [], "created": None, "by": None, "compaction": "on"}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.runs: dict[tuple[str, str], RunFold] = {}
        self.offline: dict[str, str] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.controls: dict[str, dict[str, Any]] = {}

    def apply(self, event: Event) -> None:
        """Apply the next event; events at or before `sequence` must not come again."""
        self.sequence = event.sequence
        handler = _KIND_EVENTS.get(event.address.kind)
        if handler is None:
            return
        try:
            understood = handler(self, event)
        except InvalidEvent:
            understood = False
        self.skipped += not understood

    def run(self, agent: str, run: str) -> RunFold | None:
        """Return one run, None if it never started."""
        return self.runs.get((agent, run))

    def waiting(self) -> Iterator[tuple[str, str]]:
        """Yield (agent, run) of everything that is open or not yet begun."""
        for fold in self.runs.values():
            if fold.open and not fold.cancelled:
                yield fold.agent, fold.run
        for entry in self.inputs.values():
            if entry["replayed"]:
                continue
            run = run_id(entry["from"], entry["input"])
            targets = [entry["to"]] if entry["to"] != ALL else self.meta["agents"]
            for agent in targets:
                if (agent, run) not in self.runs and not self._cancels(agent, run, entry["sequence"]):
                    yield agent, run

    def _cancels(self, agent: str, run: str, since: int, until: float = math.inf) -> int:
        """Return the sequence of the control that ended a run between two sequences, 0 if there is none."""
        for control in self.controls.values():
            meant = control["to"] in (agent, ALL) and control["run"] in (None, run)
            ends = meant and control["type"] in _ENDING and not _refused(control, agent)
            if ends and since < control["sequence"] < until:
                return int(control["sequence"])
        return 0

    def view(self, position: str) -> View:
        """Return the view as JSON values; `position` is the text form of where it stands."""
        agents: dict[str, list[RunFold]] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.first):
            agents.setdefault(run.agent, []).append(run)
        for name in self.offline:
            agents.setdefault(name, [])
        return {
            "session": self.session,
            "position": position,
            "meta": dict(self.meta),
            "inputs": sorted(self.inputs.values(), key=lambda entry: entry["sequence"]),
            "agents": [self._agent_view(name, runs) for name, runs in agents.items()],
            "state": dict(self.state),
            "controls": [
                {**control, "outcomes": dict(control["outcomes"])}
                for control in sorted(self.controls.values(), key=lambda control: control["sequence"])
            ],
        }

    def _agent_view(self, name: str, runs: list[RunFold]) -> View:
        offline = name in self.offline
        status = "offline" if offline else "working" if any(run.open for run in runs) else "idle"
        return {
            "agent": name,
            "status": status,
            "reason": self.offline.get(name),
            "runs": [run.view() for run in runs],
        }

    @classmethod
    def load(cls, view: View) -> Fold:
        """Return the fold that a view shows, ready for the events after the view's position."""
        fold = cls(view["session"])
        fold.sequence = int(str(view["position"]).rpartition("-")[2])
        fold.meta = dict(view["meta"])
        fold.inputs = {f"{entry['from']}/{entry['to']}/{entry['input']}": dict(entry) for entry in view["inputs"]}
        for agent in view["agents"]:
            if agent["status"] == "offline":
                fold.offline[agent["agent"]] = agent["reason"]
            for run in agent["runs"]:
                fold.runs[agent["agent"], run["run"]] = RunFold.load(run)
        fold.state = {key: dict(entry) for key, entry in view["state"].items()}
        for control in view["controls"]:
            fold.controls[f"{control['from']}/{control['to']}/{control['control']}"] = {
                **control, "outcomes": dict(control["outcomes"]),
            }  # fmt: skip
        return fold


def _apply_input(fold: Fold, event: Event) -> bool:
    body, where = event.body, event.address
    if body["type"] != "input":
        return False
    validate("in", body)
    fold.inputs[f"{where.member}/{where.target}/{where.id}"] = {
        "input": where.id,
        "from": where.member,
        "to": where.target,
        "text": body.get("text", ""),
        "data": body.get("data"),
        "parent": body.get("parent"),
        "replayed": body.get("replayed", False),
        "time": event.time,
        "sequence": event.sequence,
    }
    return True


def _apply_run(fold: Fold, event: Event) -> bool:
    where = event.address
    key = (where.member, where.id)
    run = fold.runs.get(key)
    if run is None:
        run = RunFold(*key)
        if fold.controls:
            run.cancelled = fold._cancels(*key, _asked(fold, where.member, event.body.get("input")))
    if not run.apply(event.body, event.sequence, event.time):
        return False
    fold.runs[key] = run
    if fold.offline:
        fold.offline.pop(where.member, None)
    return True


def _apply_meta(fold: Fold, event: Event) -> bool:
    body = event.body
    validate("meta", body)
    match body["type"]:
        case "session.created":
            fold.meta = {
                "title": body.get("title", ""),
                "agents": body.get("agents", []),
                "created": event.time,
                "by": event.address.member,
                "compaction": body.get("compaction", "on"),
            }
        case "session.updated":
            changed = {name: body[name] for name in ("title", "agents") if body.get(name) is not None}
            fold.meta = fold.meta | changed
        case "session.deleted":
            fold.deleted = True
        case _:
            return False
    return True


def _apply_presence(fold: Fold, event: Event) -> bool:
    if event.body["type"] != "agent.offline":
        return False
    validate("presence", event.body)
    agent = event.address.member
    fold.offline.pop(agent, None)  # the latest stands last, as in a log that keeps only the latest
    fold.offline[agent] = event.body.get("reason", "")
    for run in fold.runs.values():
        if run.agent == agent and run.open:
            run.lost = True
    return True


def _apply_state(fold: Fold, event: Event) -> bool:
    if event.body["type"] != "state.set":
        return False
    where = event.address
    fold.state[where.id] = {"value": event.body.get("value"), "by": where.member, "revision": event.sequence}
    return True


#: controls that end a run
_ENDING: Final = frozenset({"cancel", "redirect"})


def _refused(control: dict[str, Any], agent: str) -> bool:
    """Whether an agent has said that a control changes nothing."""
    return control["outcomes"].get(agent, {}).get("state") in ("rejected", "too_late", "expired")


def _asked(fold: Fold, agent: str, source: Any) -> int:
    """Return the sequence of the input (`<sender>/<id>`) that a run is for, 0 if it is not known."""
    sender, _, name = str(source).partition("/")
    found = [
        entry["sequence"]
        for target in (agent, ALL)
        if (entry := fold.inputs.get(f"{sender}/{target}/{name}")) is not None
    ]
    return max(found, default=0)


def _apply_control(fold: Fold, event: Event) -> bool:
    body, where = event.body, event.address
    if body["type"] not in _CONTROLS:
        return False
    validate("ctl", body)
    key = f"{where.member}/{where.target}/{where.id}"
    if key in fold.controls:
        return False  # a control is said once
    fold.controls[key] = {
        "control": where.id, "type": body["type"], "from": where.member, "to": where.target, "run": body.get("run"),
        "text": body.get("text", ""), "reason": body.get("reason", ""), "time": event.time,
        "sequence": event.sequence, "outcomes": {},
    }  # fmt: skip
    if body["type"] in _ENDING:
        for run in fold.runs.values():
            meant = where.target in (run.agent, ALL) and body.get("run") in (None, run.run)
            if meant and run.open and not run.cancelled:
                run.cancelled = event.sequence
    return True


def _apply_outcome(fold: Fold, event: Event) -> bool:
    body, where = event.body, event.address
    if body["type"] != "outcome":
        return False
    validate("outcome", body)
    meant = [
        control
        for control in fold.controls.values()
        if control["control"] == where.id and control["to"] in (where.member, ALL)
    ]
    for control in meant:
        before = control["outcomes"].get(where.member, {}).get("state", "accepted")
        if before != "accepted":
            return False  # the first end counts
        control["outcomes"][where.member] = {
            "state": body["state"], "reason": body.get("reason", ""), "runs": list(body.get("runs", [])),
            "time": event.time,
        }  # fmt: skip
        if _refused(control, where.member):
            _let_go_on(fold, control, where.member)
    return bool(meant)


def _let_go_on(fold: Fold, control: dict[str, Any], agent: str) -> None:
    """A refused control hides nothing any more; another one may."""
    for run in fold.runs.values():
        if run.agent == agent and run.cancelled == control["sequence"]:
            until = math.inf if run.open else run.last
            run.cancelled = fold._cancels(agent, run.run, _asked(fold, agent, run.input), until)


_CONTROLS: Final = frozenset({"cancel", "steer", "redirect", "pause", "resume"})
_KIND_EVENTS: Final[dict[str, Callable[[Fold, Event], bool]]] = {
    "in": _apply_input,
    "run": _apply_run,
    "meta": _apply_meta,
    "presence": _apply_presence,
    "state": _apply_state,
    "ctl": _apply_control,
    "outcome": _apply_outcome,
}
