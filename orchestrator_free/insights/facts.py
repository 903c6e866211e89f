"""What one session says of how people fared in it. Pure: events in, facts out.

A compacted log keeps of a finished run its beginning, its end and its parts, not when each of its words came. So the
first output and the longest silence are known where the agent has measured them (`timing` in `run.finished`), or where
the run's events still stand; elsewhere they are None, which is counted as unknown and never as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from orchestrator_free.events import Event
from orchestrator_free.fold import FINAL, Fold
from orchestrator_free.subjects import ALL

#: what people do, besides reading: whoever does one of these was there
_SIGNS: Final = frozenset({"in", "ctl", "answer", "floor", "state", "presence", "meta"})
#: steps that end a request for the floor
_REPLIES: Final = frozenset({"accept", "decline", "withdraw", "take"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run.

    Attributes:
        status: how it ended; `running` or `lost` while it has not.
        attempts: more than one: it was taken over.
        delegated: another agent asked for it, no person.
        waited: seconds from the input stored to the run begun. seconds: from there to its end.
        first_output: seconds from the input stored to the first output of its only attempt.
        silence: the longest time in seconds in which its last attempt wrote nothing and waited for nobody.
        followed: a person did something in the session after it had ended; None where it has not ended.
    """

    agent: str
    status: str
    attempts: int
    delegated: bool
    waited: float | None
    seconds: float | None
    first_output: float | None
    silence: float | None
    followed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """One session.

    Attributes:
        began: time of its first event, seconds since 1970. seconds: from there to the last thing that anybody did.
        forked: it began with the history of another one.
        people: who sent inputs, and how many.
        controls: (agent, type) of every control for an agent; `all` where it was for everybody.
        hand_offs: (who was asked, how it ended, seconds until then); `open` where nobody has answered.
        asks: (what about, how it ended, seconds until then, escalated).
    """

    session: str
    began: float
    seconds: float
    forked: bool
    people: dict[str, int]
    runs: list[RunFacts]
    controls: list[tuple[str, str]] = field(default_factory=list)
    hand_offs: list[tuple[str, str, float | None]] = field(default_factory=list)
    asks: list[tuple[str, str, float | None, bool]] = field(default_factory=list)


def facts_of(session: str, events: Iterable[Event]) -> SessionFacts | None:
    """Fold a session's events, in log order, to its facts; None if there is none that makes sense."""
    fold, watch = Fold(session), _Watch()
    for event in events:
        fold.apply(event)
        watch.take(event)
    if not watch.first or fold.deleted:
        return None
    agents = {agent for agent, _ in fold.runs} | set(fold.meta["agents"])
    last_sign = max((at for member, at in watch.signs.items() if member not in agents), default=0)
    return SessionFacts(
        session=session, began=stamp(watch.first), seconds=max(0.0, stamp(watch.last) - stamp(watch.first)),
        forked=fold.meta["forked_from"] is not None,
        people=_people(fold, agents),
        runs=[_run_facts(fold, watch, run, last_sign) for run in fold.runs.values() if not _is_history(fold, run)],
        controls=[(control["to"], control["type"]) for control in fold.controls.view()],
        hand_offs=list(watch.hand_offs()),
        asks=[_ask(ask, watch) for ask in fold.asks.view()],
    )  # fmt: skip


class _Watch:
    """What the fold does not keep: who did what when, and when runs whose events still stand wrote."""

    def __init__(self) -> None:
        self.first = self.last = ""
        self.signs: dict[str, int] = {}
        self.escalated: set[str] = set()
        self.outputs: dict[tuple[str, str], _Outputs] = {}
        self._request: tuple[str, str] | None = None
        self._handed: list[tuple[str, str, float | None]] = []

    def take(self, event: Event) -> None:
        """Note an event."""
        self.first = self.first or event.time
        self.last = event.time
        kind, key = event.kind, (event.member, event.id)
        if kind in _SIGNS and event.type != "agent.offline":
            self.signs[event.member] = event.sequence
        if kind == "run":
            self.outputs.setdefault(key, _Outputs()).take(event)
        elif kind == "floor":
            self._floor(event)
        elif event.type == "ask.escalated":
            self.escalated.add(event.address.target)

    def _floor(self, event: Event) -> None:
        """Note a request for the floor, or what became of it."""
        step = event.body.get("step")
        if step in _REPLIES and self._request is not None:
            asked, to = self._request
            self._handed.append((to, str(step), max(0.0, stamp(event.time) - stamp(asked))))
            self._request = None
        request = event.body.get("request")
        if step == "request" and isinstance(request, dict):
            self._request = (event.time, str(request.get("to", "")))

    def hand_offs(self) -> Iterator[tuple[str, str, float | None]]:
        """Yield every request for the floor, and what became of it."""
        yield from self._handed
        if self._request is not None:
            yield self._request[1], "open", None


class _Outputs:
    """When a run wrote: as the agent has measured, or from its events as far as they stand."""

    def __init__(self) -> None:
        self.measured: dict[str, Any] | None = None
        self.seen = False
        self.begun: float | None = None
        self.first: float | None = None
        self.longest = 0.0
        self._before: float | None = None
        self._waiting = False

    def take(self, event: Event) -> None:
        """Note an event of the run."""
        now, kind = stamp(event.time), event.type
        if kind == "run.started":
            self.begun, self.first, self.longest, self._waiting, self.seen = now, None, 0.0, False, True
        elif self._before is not None and not self._waiting:
            self.longest = max(self.longest, now - self._before)
        if kind == "run.stalled":
            return  # it says that nothing was written
        self._before = now
        if kind == "run.finished":
            timing = event.body.get("timing")
            self.measured = timing if isinstance(timing, dict) else None
        elif kind != "run.started":
            self.first = now if self.first is None else self.first
            self._waiting = kind == "run.waiting" or (self._waiting and kind != "run.working")

    @property
    def silence(self) -> float | None:
        """The longest silence, None where it is not known."""
        if self.measured is not None:
            return _number(self.measured.get("longest_silence_seconds"))
        return self.longest if self.seen else None

    def first_after(self, started: float | None) -> float | None:
        """Return when the first output came, None where there was none, or it is not known."""
        if self.measured is not None:
            after = _number(self.measured.get("first_output_seconds"))
            begun = self.begun if self.begun is not None else started
            return None if after is None or begun is None else begun + after
        return self.first


def _run_facts(fold: Fold, watch: _Watch, run: Any, last_sign: int) -> RunFacts:
    source = _input_of(fold, run)
    asked = None if source is None else stamp(source["time"])
    started = None if run.started is None else stamp(run.started)
    ended = run.status in FINAL
    outputs = watch.outputs[run.agent, run.run]
    first = outputs.first_after(started) if run.attempt == 1 else None
    return RunFacts(
        agent=run.agent, status=run.shown_status, attempts=run.attempt, delegated=run.parent is not None,
        waited=_between(asked, started), seconds=_between(started, stamp(run.finished) if ended else None),
        first_output=_between(asked, first), silence=outputs.silence,
        followed=last_sign > run.last if ended else None,
    )  # fmt: skip


def _input_of(fold: Fold, run: Any) -> dict[str, Any] | None:
    sender, _, name = str(run.input).partition("/")
    found = (fold.inputs.get(f"{sender}/{target}/{name}") for target in (run.agent, ALL))
    return next((entry for entry in found if entry is not None), None)


def _is_history(fold: Fold, run: Any) -> bool:
    """Whether a run was imported, or copied by a fork: its times are those of the copy."""
    source = _input_of(fold, run)
    return source is not None and bool(source["replayed"])


def _people(fold: Fold, agents: set[str]) -> dict[str, int]:
    """Return how many inputs each person sent: who does runs is none, and what is delegated is no input of a person."""
    found: dict[str, int] = {}
    for entry in fold.inputs.values():
        if entry["from"] not in agents and entry["parent"] is None and not entry["replayed"]:
            found[entry["from"]] = found.get(entry["from"], 0) + 1
    return found


def _ask(ask: dict[str, Any], watch: _Watch) -> tuple[str, str, float | None, bool]:
    decided = None if ask["decided"] is None else stamp(ask["decided"])
    return ask["about"], ask["status"], _between(stamp(ask["time"]), decided), ask["ask"] in watch.escalated


def _between(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else max(0.0, later - earlier)


def _number(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None  # type: ignore[operator, arg-type]


def stamp(time: str) -> float:
    """Return an RFC 3339 time as seconds since 1970; 0 for what is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
