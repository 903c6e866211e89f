"""The fold: events in log order become the view, what a person reads, grouped by agent and run.

Pure: no I/O and no clock. Two promises, both kept by property tests: folding a prefix, writing the view out, loading it
and folding the rest equals folding all; and a compacted log (finished runs instead of their deltas) folds to the same
groups as the full one. The second holds because `run.finished` carries the folded parts and replaces what was there.
An event that makes no sense is skipped and counted, never half applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from orchestrator_free.events import Body, Event
from orchestrator_free.subjects import ALL, run_id

View = dict[str, Any]

#: states a run does not leave
FINAL: Final = frozenset({"done", "error", "cancelled", "failed"})


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """A field is missing or of the wrong type."""


def _take(body: Body, field: str, kind: type, default: Any = ...) -> Any:
    value = body.get(field, default)
    if value is ... or (value is not default and not isinstance(value, kind)):
        raise _Malformed(field)
    return value


def _seconds(start: str | None, end: str) -> float | None:
    if start is None:
        return None
    try:
        return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


class RunFold:
    """One run: its present attempt's parts, and what earlier attempts left.

    Also used by the agent itself, to fold what it publishes into the `run.finished` it ends with.
    """

    __slots__ = (
        "agent", "attempt", "attempts", "error", "finished", "first", "input", "last", "lost", "object", "parent",
        "parts", "run", "started", "status", "usage",
    )  # fmt: skip

    def __init__(self, agent: str, run: str) -> None:
        self.agent = agent
        self.run = run
        self.input = ""
        self.parent: Any = None
        self.status = "running"
        self.lost = False
        self.attempt = 0
        self.attempts: list[dict[str, Any]] = []
        self.parts: dict[str, dict[str, Any]] = {}
        self.usage: dict[str, float] = {}
        self.error: str | None = None
        self.object: str | None = None
        self.started: str | None = None
        self.finished: str | None = None
        self.first = 0
        self.last = 0

    @property
    def open(self) -> bool:
        """Whether more is to come."""
        return self.status == "running"

    def apply(self, body: Body, sequence: int, time: str) -> bool:
        """Apply one event of this run; False if it made no sense and was skipped."""
        try:
            _RUN_EVENTS.get(body["type"], _other)(self, body, sequence, time)
        except _Malformed:
            return False
        self.first = self.first or sequence
        self.last = sequence
        self.lost = False
        return True

    def view(self) -> View:
        """Return the run as JSON values."""
        return {
            "run": self.run,
            "agent": self.agent,
            "input": self.input,
            "parent": self.parent,
            "status": "lost" if self.lost and self.open else self.status,
            "attempt": self.attempt,
            "attempts": self.attempts,
            "started": self.started,
            "finished": self.finished,
            "usage": self.usage,
            "error": self.error,
            "object": self.object,
            "parts": self.part_views(),
            "first": self.first,
            "last": self.last,
        }

    def part_views(self) -> list[View]:
        """Return the parts as JSON values, in the order in which they were opened."""
        return [
            {**part, "text": "".join(part["text"])} if isinstance(part.get("text"), list) else part
            for part in self.parts.values()
        ]

    @classmethod
    def load(cls, view: View) -> RunFold:
        """Return the run that a view shows, ready for the events after it."""
        run = cls(view["agent"], view["run"])
        for field in ("input", "parent", "attempt", "attempts", "started", "finished", "usage", "error", "object"):
            setattr(run, field, view[field])
        run.usage = dict(run.usage)
        run.attempts = list(run.attempts)
        run.lost = view["status"] == "lost"
        run.status = "running" if run.lost else view["status"]
        run.first, run.last = view["first"], view["last"]
        run.parts = _load_parts(view["parts"])
        return run


def _load_parts(parts: list[Any]) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        if not isinstance(part, dict):
            raise _Malformed("parts")
        copy = dict(part)
        if copy.get("open") and isinstance(copy.get("text"), str):
            copy["text"] = [copy["text"]]
        loaded[_part_key(copy, number)] = copy
    return loaded


def _part_key(part: dict[str, Any], number: int) -> str:
    """Return the name under which later events find a part; unnamed parts get their place."""
    match part.get("type"):
        case "text" | "reasoning" as kind:
            return f"{kind} {part.get('part')}"
        case "tool":
            return f"tool {part.get('call')}"
        case "source":
            return f"source {part.get('id')}"
        case "file":
            return f"file {part.get('name')}"
        case "data" if part.get("id") is not None:
            return f"data {part.get('name')} {part['id']}"
    return f"#{number}"


def _started(run: RunFold, body: Body, sequence: int, time: str) -> None:
    attempt = _take(body, "attempt", int)
    source = _take(body, "input", str, "")
    if run.parts:
        run.attempts.append({"attempt": run.attempt, "parts": _closed(run.part_views())})
    run.parts = {}
    run.usage = {}
    run.attempt = attempt
    run.input = source
    run.parent = body.get("parent")
    run.started = run.started or time


def _closed(parts: list[View]) -> list[View]:
    return [{name: value for name, value in part.items() if name != "open"} for part in parts]


def _delta(kind: str) -> Callable[[RunFold, Body, int, str], None]:
    prefix = kind + " "

    def apply(run: RunFold, body: Body, sequence: int, time: str) -> None:
        name, text = body.get("part"), body.get("text")
        if type(name) is not str or type(text) is not str:
            raise _Malformed("part")
        part = run.parts.get(prefix + name)
        if part is None:
            run.parts[prefix + name] = {"type": kind, "part": name, "text": [text], "open": True}
        elif part.get("open"):
            part["text"].append(text)
        else:
            raise _Malformed("the part is closed")

    return apply


def _end(kind: str) -> Callable[[RunFold, Body, int, str], None]:
    def apply(run: RunFold, body: Body, sequence: int, time: str) -> None:
        _close(run.parts.get(f"{kind} {_take(body, 'part', str)}"))

    return apply


def _close(part: dict[str, Any] | None) -> None:
    if part is not None and part.pop("open", None) and isinstance(part.get("text"), list):
        part["text"] = "".join(part["text"])


def _call(run: RunFold, body: Body, time: str, tool: str) -> dict[str, Any]:
    call = _take(body, "call", str)
    fresh = {
        "type": "tool", "call": call, "tool": tool, "status": "running", "input": None, "output": None,
        "error": None, "started": time, "seconds": None,
    }  # fmt: skip
    return run.parts.setdefault(f"tool {call}", fresh)


def _tool_input_delta(run: RunFold, body: Body, sequence: int, time: str) -> None:
    text = _take(body, "text", str)
    part = _call(run, body, time, _take(body, "tool", str))
    if not isinstance(part.get("text"), list):
        part["text"] = []
        part["open"] = True
    part["text"].append(text)


def _tool_input(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time, _take(body, "tool", str))
    part.pop("text", None)
    part.pop("open", None)
    part["input"] = body.get("input")


def _tool_output(run: RunFold, body: Body, sequence: int, time: str) -> None:
    part = _call(run, body, time, "")
    _close(part)
    part["output"] = body.get("output")
    if not body.get("preliminary"):
        part["status"] = "done"
        part["seconds"] = _seconds(part["started"], time)


def _tool_error(run: RunFold, body: Body, sequence: int, time: str) -> None:
    error = _take(body, "error", str)
    part = _call(run, body, time, "")
    _close(part)
    part.update(status="error", error=error, seconds=_seconds(part["started"], time))


def _keep(*identity: str) -> Callable[[RunFold, Body, int, str], None]:
    def apply(run: RunFold, body: Body, sequence: int, time: str) -> None:
        for field in identity:
            _take(body, field, str)
        part = dict(body)
        run.parts[_part_key(part, len(run.parts))] = part

    return apply


def _data(run: RunFold, body: Body, sequence: int, time: str) -> None:
    _take(body, "name", str)
    _take(body, "id", str, None)
    if not body.get("transient"):
        run.parts[_part_key(body, len(run.parts))] = dict(body)


def _usage(run: RunFold, body: Body, sequence: int, time: str) -> None:
    usage = _take(body, "usage", dict)
    if not all(type(value) in (int, float) for value in usage.values()):
        raise _Malformed("usage")
    for name, value in usage.items():
        run.usage[name] = run.usage.get(name, 0) + value


def _other(run: RunFold, body: Body, sequence: int, time: str) -> None:
    run.parts[f"#{len(run.parts)}"] = {"type": "other", "event": body}


def _finished(run: RunFold, body: Body, sequence: int, time: str) -> None:
    status = _take(body, "status", str)
    if status not in FINAL:
        raise _Malformed("status")
    loaded = _load_parts(_take(body, "parts", list, []))
    whole = "parts" in body or "object" in body
    run.input = _take(body, "input", str, run.input)
    run.attempt = _take(body, "attempt", int, run.attempt)
    run.parent = body.get("parent", run.parent)
    run.error = _take(body, "error", str, None)
    run.first = _take(body, "first", int, None) or run.first
    run.started = _take(body, "started", str, None) or run.started
    if whole:
        run.parts = loaded
        run.usage = _take(body, "usage", dict, {})
        run.attempts = _take(body, "attempts", list, [])
        run.object = _take(body, "object", str, None)
    for part in run.parts.values():
        _close(part)
    run.status = status
    run.finished = time


_RUN_EVENTS: Final[dict[str, Callable[[RunFold, Body, int, str], None]]] = {
    "run.started": _started,
    "run.finished": _finished,
    "text.delta": _delta("text"),
    "text.end": _end("text"),
    "reasoning.delta": _delta("reasoning"),
    "reasoning.end": _end("reasoning"),
    "tool.input.delta": _tool_input_delta,
    "tool.input": _tool_input,
    "tool.output": _tool_output,
    "tool.error": _tool_error,
    "source": _keep("id"),
    "file": _keep("name"),
    "data": _data,
    "usage": _usage,
    "error": _keep("message"),
    "raw": _keep(),
}


class Fold:
    """The state of one session after the events applied so far.

    Attributes:
        sequence: sequence of the last event seen.
        skipped: events that made no sense.
        deleted: whether the session's deletion was seen.
    """

    __slots__ = ("deleted", "inputs", "meta", "offline", "runs", "sequence", "session", "skipped", "state")

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

    def apply(self, event: Event) -> None:
        """Apply the next event; events at or before `sequence` must not come again."""
        self.sequence = event.sequence
        handler = _KIND_EVENTS.get(event.address.kind)
        if handler is None:
            return
        try:
            understood = handler(self, event)
        except _Malformed:
            understood = False
        self.skipped += not understood

    def run(self, agent: str, run: str) -> RunFold | None:
        """Return one run, None if it never started."""
        return self.runs.get((agent, run))

    def waiting(self) -> Iterator[tuple[str, str]]:
        """Yield (agent, run) of everything that is open or not yet begun."""
        for fold in self.runs.values():
            if fold.open:
                yield fold.agent, fold.run
        for entry in self.inputs.values():
            if entry["replayed"]:
                continue
            run = run_id(entry["from"], entry["input"])
            targets = [entry["to"]] if entry["to"] != ALL else self.meta["agents"]
            for agent in targets:
                if (agent, run) not in self.runs:
                    yield agent, run

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
            "state": self.state,
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
        return fold


def _apply_input(fold: Fold, event: Event) -> bool:
    body, where = event.body, event.address
    if body["type"] != "input":
        return False
    fold.inputs[f"{where.member}/{where.target}/{where.id}"] = {
        "input": where.id,
        "from": where.member,
        "to": where.target,
        "text": _take(body, "text", str, ""),
        "data": body.get("data"),
        "parent": body.get("parent"),
        "replayed": bool(body.get("replayed")),
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
        if not run.apply(event.body, event.sequence, event.time):
            return False
        fold.runs[key] = run
        fold.offline.pop(where.member, None)
        return True
    fold.offline.pop(where.member, None)
    return run.apply(event.body, event.sequence, event.time)


def _apply_meta(fold: Fold, event: Event) -> bool:
    body = event.body
    match body["type"]:
        case "session.created":
            fold.meta = {
                "title": _take(body, "title", str, ""),
                "agents": _names(body, []),
                "created": event.time,
                "by": event.address.member,
                "compaction": _take(body, "compaction", str, "on"),
            }
        case "session.updated":
            title = _take(body, "title", str, None)
            agents = _names(body, None)
            fold.meta["title"] = fold.meta["title"] if title is None else title
            fold.meta["agents"] = fold.meta["agents"] if agents is None else agents
        case "session.deleted":
            fold.deleted = True
        case _:
            return False
    return True


def _names(body: Body, default: list[str] | None) -> Any:
    names = _take(body, "agents", list, default)
    if names is not None and not all(isinstance(name, str) for name in names):
        raise _Malformed("agents")
    return names


def _apply_presence(fold: Fold, event: Event) -> bool:
    if event.body["type"] != "agent.offline":
        return False
    agent = event.address.member
    fold.offline[agent] = _take(event.body, "reason", str, "")
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


_KIND_EVENTS: Final[dict[str, Callable[[Fold, Event], bool]]] = {
    "in": _apply_input,
    "run": _apply_run,
    "meta": _apply_meta,
    "presence": _apply_presence,
    "state": _apply_state,
}
