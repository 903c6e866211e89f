"""The facts of many sessions added up. Pure; memory grows by two numbers for each session, not by what it holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from orchestrator_free.errors import InvalidInput
from orchestrator_free.insights.facts import RunFacts, SessionFacts
from orchestrator_free.insights.spread import Spread
from orchestrator_free.metrics.tally import Names

#: the name of everybody whom the gateway does not know by another: of them nobody can say who came back
NOBODY: Final = "user"
#: session lengths in seconds, for a picture: 10 s, 30 s, 1, 2, 5, 10, 30 minutes, 1, 3, 12 hours, 1, 7 days
LENGTHS: Final = (10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 43200, 86400, 604800)
#: seconds to the first output, for a picture
FIRSTS: Final = (0.25, 0.5, 1, 2, 3, 5, 10, 20, 60)

#: what the log cannot tell, or only in part; said wherever figures are shown
KNOWN: Final = {
    "answers": "The log knows what people do, not what they see. `followed` counts answers after which somebody did "
    "something in the session; of the others nobody can say from the log whether they were read.",
    "restarts": f"Persons are told apart by member name; sessions of `{NOBODY}`, whom no gateway has identified, are "
    "left out.",
    "first_output": "Compaction removes when words came. First output and silence are known where the agent measured "
    "them (runs of this version on) or the run's events still stand, and of runs with one attempt; `unknown` counts "
    "the rest. It is the time in the log; at the viewer see --gateway and the dashboards.",
    "silence": "Of the last attempt; waiting for people is no silence.",
    "waited": "From the input stored, by the broker's clock, to the run begun, by the agent's: milliseconds are "
    "noise. Waiting in a session's line is in it.",
    "overlap": "Inputs that an agent refused, or dropped for a later one, are runs that ended rejected or cancelled.",
    "sessions": "Sessions that were created and not deleted. Imported and forked history is not counted again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What counts as what, in seconds.

    Attributes:
        short: a session that lasted no longer is short.
        restart: its person began another one within this time after its end: the context may have been lost.
        silence: a run that wrote nothing for longer fell silent.
    """

    short: float = 120.0
    restart: float = 600.0
    silence: float = 10.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise InvalidInput("short, restart and silence are seconds above 0")


class _Agent:
    """What is added up of an agent."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.controls: Counter[str] = Counter()
        self.runs = self.delegated = self.taken_over = self.silent = self.silence_unknown = self.first_unknown = 0
        self.waited, self.seconds, self.first = Spread(), Spread(), Spread()

    def take(self, run: RunFacts, silence: float) -> None:
        """Add a run."""
        self.runs += 1
        self.statuses[run.status] += 1
        self.delegated += run.delegated
        self.taken_over += run.attempts > 1
        if run.silence is None:
            self.silence_unknown += 1
        else:
            self.silent += run.silence > silence
        if run.first_output is None:
            self.first_unknown += 1
        for spread, value in ((self.waited, run.waited), (self.seconds, run.seconds), (self.first, run.first_output)):
            if value is not None:
                spread.add(value)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "runs": self.runs, "delegated": self.delegated, "statuses": dict(sorted(self.statuses.items())),
            "taken_over": self.taken_over, "controls": dict(sorted(self.controls.items())),
            "silent": self.silent, "silence_unknown": self.silence_unknown,
            "first_output": self.first.as_dict() | {"unknown": self.first_unknown},
            "waited": self.waited.as_dict(), "seconds": self.seconds.as_dict(),
        }  # fmt: skip


class Report:
    """Takes sessions in any order, each once; `as_dict` may be asked at any time."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.sessions = 0
        self.lengths, self.first_output = Spread(), Spread()
        self.agents: dict[str, _Agent] = {}
        self._names = Names()
        self._answers: Counter[str] = Counter()
        self._hand_offs: Counter[str] = Counter()
        self._handed = Spread()
        self._asks: dict[str, Counter[str]] = {}
        self._asked = Spread()
        self._visits: dict[str, list[tuple[float, float]]] = {}
        self._unnamed = 0

    def take(self, facts: SessionFacts) -> None:
        """Add a session."""
        self.sessions += 1
        self.lengths.add(facts.seconds)
        self._take_people(facts)
        for run in facts.runs:
            self._take_run(run)
        for agent, control in facts.controls:
            self._agent(agent).controls[control] += 1
        for _, end, seconds in facts.hand_offs:
            self._hand_offs[end] += 1
            if end == "accept" and seconds is not None:
                self._handed.add(seconds)
        for about, status, seconds, escalated in facts.asks:
            counts = self._asks.setdefault(self._names(about), Counter())
            counts[status] += 1
            counts["escalated"] += escalated
            if seconds is not None:
                self._asked.add(seconds)

    def _agent(self, name: str) -> _Agent:
        return self.agents.setdefault(self._names(name), _Agent())

    def _take_people(self, facts: SessionFacts) -> None:
        if facts.forked:
            return  # who forks has not lost the context
        for person in facts.people:
            if person == NOBODY:
                self._unnamed += 1
            else:
                self._visits.setdefault(person, []).append((facts.began, facts.seconds))

    def _take_run(self, run: RunFacts) -> None:
        self._agent(run.agent).take(run, self.settings.silence)
        if run.first_output is not None:
            self.first_output.add(run.first_output)
        if run.followed is not None and not run.delegated:
            self._answers["followed" if run.followed else "last"] += 1

    def restarts(self) -> dict[str, int]:
        """Return how many short sessions there were, and of how many the person began another one soon after."""
        short = again = 0
        for visits in self._visits.values():
            visits.sort()
            for (began, seconds), after in zip(visits, [*visits[1:], None], strict=True):
                if seconds <= self.settings.short:
                    short += 1
                    again += after is not None and 0 <= after[0] - (began + seconds) <= self.settings.restart
        return {"people": len(self._visits), "short": short, "restarted": again, "unnamed": self._unnamed}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; `known` says what the figures can and cannot tell."""
        bars = zip([*map(float, LENGTHS), None], self.lengths.bars(LENGTHS), strict=True)
        firsts = zip([*map(float, FIRSTS), None], self.first_output.bars(FIRSTS), strict=True)
        return {
            "settings": asdict(self.settings),
            "sessions": self.sessions,
            "lengths": self.lengths.as_dict() | {"bars": [{"up_to": edge, "count": count} for edge, count in bars]},
            "restarts": self.restarts(),
            "answers": {"followed": self._answers["followed"], "last": self._answers["last"]},
            "first_output": self.first_output.as_dict()
            | {"bars": [{"up_to": edge, "count": count} for edge, count in firsts]},
            "hand_offs": {"ends": dict(sorted(self._hand_offs.items())), "accepted_after": self._handed.as_dict()},
            "asks": {
                "about": {about: dict(sorted(counts.items())) for about, counts in sorted(self._asks.items())},
                "open_for": self._asked.as_dict(),
            },
            "agents": {name: agent.as_dict() for name, agent in sorted(self.agents.items())},
            "known": KNOWN,
        }
