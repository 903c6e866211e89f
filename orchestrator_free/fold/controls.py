"""Controls and what becomes of them. A control that ends runs counts from its place in the log, for every reader."""

from __future__ import annotations

import math
from typing import Any, Final

from orchestrator_free.events import Event
from orchestrator_free.fold.run import RunFold, View
from orchestrator_free.subjects import ALL
from orchestrator_free.vocabulary import validate

_CONTROLS: Final = frozenset({"cancel", "steer", "redirect", "pause", "resume"})
#: controls that end a run
_ENDING: Final = frozenset({"cancel", "redirect"})

Runs = dict[tuple[str, str], RunFold]


class Controls:
    """The controls of a session, each with its outcome per agent."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[str, View] = {}

    def cancels(self, agent: str, run: str, since: int, until: float = math.inf) -> int:
        """Return the sequence of the control that ended a run between two sequences, 0 if there is none."""
        for control in self.found.values():
            meant = control["to"] in (agent, ALL) and control["run"] in (None, run)
            ends = meant and control["type"] in _ENDING and not _refused(control, agent)
            if ends and since < control["sequence"] < until:
                return int(control["sequence"])
        return 0

    def given(self, event: Event, runs: Runs) -> bool:
        """Apply a control."""
        body, where = event.body, event.address
        if body["type"] not in _CONTROLS:
            return False
        validate("ctl", body)
        key = f"{where.member}/{where.target}/{where.id}"
        if key in self.found:
            return False  # a control is said once
        self.found[key] = {
            "control": where.id, "type": body["type"], "from": where.member, "to": where.target,
            "run": body.get("run"), "text": body.get("text", ""), "reason": body.get("reason", ""),
            "time": event.time, "sequence": event.sequence, "outcomes": {},
        }  # fmt: skip
        if body["type"] in _ENDING:
            for run in runs.values():
                meant = where.target in (run.agent, ALL) and body.get("run") in (None, run.run)
                if meant and run.open and not run.cancelled:
                    run.cancelled = event.sequence
        return True

    def settled(self, event: Event) -> tuple[bool, list[View]]:
        """Apply an outcome; return whether it made sense, and the controls that change nothing by it."""
        body, where = event.body, event.address
        if body["type"] != "outcome":
            return False, []
        validate("outcome", body)
        meant = [
            control
            for control in self.found.values()
            if control["control"] == where.id and control["to"] in (where.member, ALL)
        ]
        refused: list[View] = []
        for control in meant:
            before = control["outcomes"].get(where.member, {}).get("state", "accepted")
            if before != "accepted":
                return False, refused  # the first end counts
            control["outcomes"][where.member] = {
                "state": body["state"], "reason": body.get("reason", ""), "runs": list(body.get("runs", [])),
                "time": event.time,
            }  # fmt: skip
            if _refused(control, where.member):
                refused.append(control)
        return bool(meant), refused

    def view(self) -> list[View]:
        """Return the controls in log order."""
        found = sorted(self.found.values(), key=lambda control: control["sequence"])
        return [_copy(control) for control in found]

    def load(self, view: list[View]) -> None:
        """Take over what a view shows."""
        self.found = {f"{one['from']}/{one['to']}/{one['control']}": _copy(one) for one in view}


def _copy(control: View) -> View:
    return {**control, "outcomes": dict(control["outcomes"])}


def _refused(control: dict[str, Any], agent: str) -> bool:
    """Whether an agent has said that a control changes nothing."""
    return control["outcomes"].get(agent, {}).get("state") in ("rejected", "too_late", "expired")
