"""The fold of a session: its events in log order become the view. Each part of the view has a module of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from orchestrator_free.errors import InvalidEvent
from orchestrator_free.events import Event
from orchestrator_free.fold.asks import Asks
from orchestrator_free.fold.branches import Branches
from orchestrator_free.fold.controls import Controls
from orchestrator_free.fold.floor import Floor, answers
from orchestrator_free.fold.leases import Leases
from orchestrator_free.fold.notices import Notices
from orchestrator_free.fold.run import RunFold, View
from orchestrator_free.subjects import ALL, run_id
from orchestrator_free.vocabulary import validate


class Fold:
    """The state of one session after the events applied so far.

    Attributes:
        sequence: sequence of the last event seen.
        skipped: events that made no sense.
        deleted: whether the session's deletion was seen.
    """

    __slots__ = (
        "__weakref__", "asks", "branches", "controls", "deleted", "floor", "inputs", "leases", "meta", "notices",
        "offline", "presence", "runs", "sequence", "session", "skipped", "state",
    )  # fmt: skip

    def __init__(self, session: str) -> None:
        self.session = session
        self.sequence = 0
        self.skipped = 0
        self.deleted = False
        self.meta: dict[str, Any] = {
            "title": "", "agents": [], "created": None, "by": None, "compaction": "on", "forked_from": None,
        }  # fmt: skip
        self.inputs: dict[str, dict[str, Any]] = {}
        self.runs: dict[tuple[str, str], RunFold] = {}
        self.offline: dict[str, dict[str, Any]] = {}
        self.presence: dict[str, dict[str, Any]] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.controls = Controls()
        self.asks = Asks()
        self.floor = Floor()
        self.leases = Leases()
        self.notices = Notices()
        self.branches = Branches()

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
        yield from self.queued()

    def queued(self) -> Iterator[tuple[str, str]]:
        """Yield (agent, run) of what has not begun, in the order in which it was asked."""
        for agent, run, _ in self._queued():
            yield agent, run

    def _queued(self) -> Iterator[tuple[str, str, View]]:
        for entry in sorted(self.inputs.values(), key=lambda entry: int(entry["sequence"])):
            run = run_id(entry["from"], entry["input"])
            for agent in self.owed(entry, run):
                yield agent, run, entry

    def owed(self, entry: View, run: str) -> Iterator[str]:
        """Yield the agents that are to work on an input and have not begun; `run` is the id of its run."""
        if entry["replayed"] or entry["note"]:
            return
        for agent in [entry["to"]] if entry["to"] != ALL else self.meta["agents"]:
            if entry["to"] == ALL and not answers(entry["floor"], agent, entry):
                continue
            if (agent, run) not in self.runs and not self.controls.cancels(agent, run, entry["sequence"]):
                yield agent

    def queue(self) -> list[View]:
        """Return what has not begun, with its place among what its agent has not begun."""
        places: dict[str, int] = {}
        found = []
        for agent, run, entry in self._queued():
            place = places[agent] = places.get(agent, 0) + 1
            found.append({
                "agent": agent, "run": run, "input": entry["input"], "from": entry["from"], "place": place,
            })  # fmt: skip
        return found

    def asked(self, agent: str, source: Any) -> int:
        """Return the sequence of the input (`<sender>/<id>`) that a run is for, 0 if it is not known."""
        sender, _, name = str(source).partition("/")
        found = [
            entry["sequence"]
            for target in (agent, ALL)
            if (entry := self.inputs.get(f"{sender}/{target}/{name}")) is not None
        ]
        return max(found, default=0)

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
            "inputs": self.branches.shown(sorted(self.inputs.values(), key=lambda entry: entry["sequence"])),
            "branch": self.branches.view(),
            "agents": [self._agent_view(name, runs) for name, runs in agents.items()],
            "queue": self.queue(),
            "presence": {member: dict(said) for member, said in self.presence.items()},
            "floor": self.floor.view(),
            "state": dict(self.state),
            "asks": self.asks.view(),
            "leases": self.leases.view(),
            "notices": self.notices.view(),
            "controls": self.controls.view(),
        }

    def _agent_view(self, name: str, runs: list[RunFold]) -> View:
        offline = self.offline.get(name)
        status = "offline" if offline else "working" if any(run.open for run in runs) else "idle"
        return {
            "agent": name,
            "status": status,
            "reason": offline["reason"] if offline else None,
            "back": offline["back"] if offline else None,
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
                fold.offline[agent["agent"]] = {"reason": agent["reason"], "back": agent["back"]}
            for run in agent["runs"]:
                fold.runs[agent["agent"], run["run"]] = RunFold.load(run)
        fold.presence = {member: dict(said) for member, said in view["presence"].items()}
        fold.state = {key: dict(entry) for key, entry in view["state"].items()}
        fold.branches = Branches.load(view)
        fold.floor.load(view["floor"])
        fold.asks.load(view["asks"])
        fold.leases.load(view["leases"])
        fold.notices.load(view["notices"])
        fold.controls.load(view["controls"])
        return fold


def _apply_input(fold: Fold, event: Event) -> bool:
    body, where = event.body, event.address
    if body["type"] != "input":
        return False
    validate("in", body)
    key = f"{where.member}/{where.target}/{where.id}"
    known = fold.inputs.get(key)
    entry = {
        "input": where.id,
        "from": where.member,
        "to": where.target,
        "text": body.get("text", ""),
        "data": body.get("data"),
        "parent": body.get("parent"),
        "replayed": body.get("replayed", False),
        "note": body.get("note", False),
        "whisper": body.get("whisper", False),
        "floor": fold.floor.holder,
        "after": fold.branches.take(event, known),
        "time": event.time,
        "sequence": event.sequence,
    }
    place = ("parent", "note", "whisper")  # they stay, whoever says an input twice
    fold.inputs[key] = entry | ({name: known[name] for name in place} if known else {})
    return True


def _apply_run(fold: Fold, event: Event) -> bool:
    where = event.address
    key = (where.member, where.id)
    run = fold.runs.get(key)
    if run is None:
        run = RunFold(*key)
        if fold.controls.found:
            run.cancelled = fold.controls.cancels(*key, fold.asked(where.member, event.body.get("input")))
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
                "forked_from": body.get("forked_from"),
            }
        case "session.updated":
            changed = {name: body[name] for name in ("title", "agents") if body.get(name) is not None}
            fold.meta = fold.meta | changed
        case "session.deleted":
            fold.deleted = True
        case "branch.selected":
            return fold.branches.select(event)
        case _:
            return False
    return True


def _apply_presence(fold: Fold, event: Event) -> bool:
    body, member = event.body, event.member
    if body["type"] not in ("agent.offline", "presence.set"):
        return False
    validate("presence", body)
    # The latest stands last, as in a log that keeps only the latest.
    fold.offline.pop(member, None)
    fold.presence.pop(member, None)
    match body["type"]:
        case "agent.offline":
            fold.offline[member] = {"reason": body.get("reason", ""), "back": body.get("back")}
            for run in fold.runs.values():
                if run.agent == member and run.open:
                    run.lost = True
        case "presence.set":
            fold.presence[member] = {
                "status": body["status"], "reason": body.get("reason", ""), "back": body.get("back"),
                "time": event.time,
            }  # fmt: skip
    return True


def _apply_state(fold: Fold, event: Event) -> bool:
    where, body = event.address, event.body
    match body["type"]:
        case "state.set":
            fold.state[where.id] = {
                "value": body.get("value"), "by": where.member, "revision": event.sequence, "time": event.time,
            }  # fmt: skip
        case "state.deleted":
            fold.state.pop(where.id, None)
        case _:
            return False
    return True


def _apply_control(fold: Fold, event: Event) -> bool:
    return fold.controls.given(event, fold.runs)


def _apply_outcome(fold: Fold, event: Event) -> bool:
    """Apply an outcome; a refused control hides nothing any more, another one may."""
    understood, refused = fold.controls.settled(event)
    for control in refused:
        for run in fold.runs.values():
            if run.agent == event.member and run.cancelled == control["sequence"]:
                until = math.inf if run.open else run.last
                run.cancelled = fold.controls.cancels(run.agent, run.run, fold.asked(run.agent, run.input), until)
    return understood


_KIND_EVENTS: Final[dict[str, Callable[[Fold, Event], bool]]] = {
    "in": _apply_input,
    "run": _apply_run,
    "meta": _apply_meta,
    "presence": _apply_presence,
    "state": _apply_state,
    "ctl": _apply_control,
    "outcome": _apply_outcome,
    "ask": lambda fold, event: fold.asks.apply(event),
    "answer": lambda fold, event: fold.asks.apply(event),
    "stage": lambda fold, event: (fold.leases if event.type == "lease.lapsed" else fold.asks).apply(event),
    "floor": lambda fold, event: fold.floor.apply(event),
    "lease": lambda fold, event: fold.leases.apply(event),
    "notice": lambda fold, event: fold.notices.apply(event),
}
