"""What the broker and the agents say, as families of metrics. Pure: numbers in, families out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from orchestrator_free.fold import FINAL
from orchestrator_free.lag import Lag, Replica
from orchestrator_free.metrics.tally import Counts, Names, is_count
from orchestrator_free.working.stats import BUCKETS

PREFIX: Final = "orchestrator_free"

_STREAM_GAUGES: Final = (
    ("total_messages", "Messages stored."),
    ("total_bytes", "Bytes stored."),
    ("max_bytes", "Bytes that may be stored, 0 for no limit of the stream's own."),
    ("first_seq", "Sequence of the first message that is still there."),
    ("last_seq", "Sequence of the last message."),
    ("consumers", "Consumers, ephemeral ones included."),
    ("replicas", "Copies that are to be kept."),
    ("replicas_current", "Copies that are up to date, the leader's included."),
    ("replica_lag", "Messages that the copy furthest behind has not got yet."),
)
_CONSUMER_GAUGES: Final = (
    ("num_pending", "Messages not delivered yet."),
    ("num_ack_pending", "Messages delivered and not acknowledged."),
    ("num_redelivered", "Of those, messages delivered more than once."),
    ("ack_floor_stream_seq", "Everything up to this sequence is acknowledged; of several durables the lowest."),
    ("behind_seconds", "Age of the oldest message that is not acknowledged; of several durables the highest."),
    ("durables", "Durables of this name, over all sessions."),
)
_AGENT_GAUGES: Final = (
    ("inputs_waiting", "Inputs that no replica has taken yet."),
    ("oldest_waiting_seconds", "Age of the oldest of them, 0 if there is none."),
    ("inputs_in_work", "Inputs that a replica has taken and not acknowledged."),
    ("runs_active", "Runs at work now, as the replicas tell."),
    ("runs_stalled_now", "Of those, runs that are shown as stalled."),
    ("runs_asking", "Of those, runs that wait for people's decision on an ask."),
    ("longest_asking_seconds", "How long the one that has waited longest for a decision waits."),
    ("replicas", "Processes that are alive."),
    ("desired_replicas", "Processes that are needed for what can be taken and is at work now; scale on it."),
    ("offline", "1 if there is something to take or to go on with, and no process is alive."),
    ("paused", "1 while an operator lets it take no new inputs."),
)
_AGENT_HISTOGRAMS: Final = (
    ("agent_time_to_first_token", "first_token", "From the start of an attempt to its first output."),
    ("agent_run_duration", "duration", "From the start of the attempt that finished a run to its end."),
)
#: places of a replica that does not tell
_PLACES: Final = 16


@dataclass(slots=True)
class AgentNow:
    """What is known of an agent at this moment.

    Attributes:
        takeable: of the inputs that wait, those that a replica would be given now: none of a paused agent.
    """

    waiting: int = 0
    takeable: int = 0
    oldest: float = 0.0
    in_work: int = 0
    active: float = 0.0
    stalled: float = 0.0
    asking: float = 0.0
    asked_for: float = 0.0
    replicas: int = 0
    places: float = 0.0
    offline: bool = False
    paused: bool = False

    @property
    def desired(self) -> int:
        """The replicas that what can be taken and what is at work need; one while there is either."""
        places = self.places / self.replicas if self.replicas and self.places else _PLACES
        owed = self.takeable + self.in_work > 0
        return max(int(owed), math.ceil((self.takeable + self.active) / places))

    def take(self, replica: Replica) -> None:
        """Add a living process."""
        stats = replica.about.get("stats")
        stats = stats if isinstance(stats, dict) else {}
        asking = stats.get("asking")
        asking = asking if isinstance(asking, dict) else {}
        self.replicas += 1
        self.places += max(1.0, _count(replica.about.get("places"), _PLACES))
        self.active += _count(stats.get("active"))
        self.stalled += _count(stats.get("stalled_now"))
        self.asking += _count(asking.get("runs"))
        self.asked_for = max(self.asked_for, _count(asking.get("seconds")))


def _count(value: object, default: float = 0.0) -> float:
    """Return what a process says as a number; nonsense counts as the default."""
    return float(value) if is_count(value) else default  # type: ignore[arg-type]


def agents_now(lags: Iterable[Lag], replicas: Sequence[Replica], names: Names) -> dict[str, AgentNow]:
    """Return what is known of every agent."""
    alive = {replica.agent for replica in replicas}
    found: dict[str, AgentNow] = {}
    for lag in lags:
        if lag.agent:
            agent = found.setdefault(names(lag.agent), AgentNow())
            takeable = 0 if lag.paused else lag.waiting
            agent.waiting += lag.waiting
            agent.takeable += takeable
            agent.oldest = max(agent.oldest, lag.seconds_waiting)
            agent.in_work += lag.in_work
            agent.paused |= lag.paused
            agent.offline |= lag.agent not in alive and takeable + lag.in_work > 0
    for replica in replicas:
        found.setdefault(names(replica.agent), AgentNow()).take(replica)
    return found


Rows = Sequence[tuple[Sequence[str], Sequence[float]]]


def _gauges(prefix: str, labels: Sequence[str], rows: Rows, about: Sequence[tuple[str, str]]) -> Iterator[Metric]:
    """Make one gauge per column; a row is its label values and its numbers."""
    for column, (name, text) in enumerate(about):
        family = GaugeMetricFamily(f"{PREFIX}_{prefix}_{name}", text, labels=labels)
        for values, numbers in rows:
            family.add_metric(values, numbers[column])
        yield family


def stream_families(streams: Mapping[str, Mapping[str, Any] | None]) -> Iterator[Metric]:
    """Yield what is known of the streams; of one that nobody answers for, that it has no leader."""
    led = GaugeMetricFamily(f"{PREFIX}_stream_leader", "1 while the stream has a leader.", labels=["stream_name"])
    for name, info in streams.items():
        led.add_metric([name], float(info is not None))
    yield led
    rows = [((name,), _stream_row(info)) for name, info in streams.items() if info is not None]
    yield from _gauges("stream", ["stream_name"], rows, _STREAM_GAUGES)


def _stream_row(info: Mapping[str, Any]) -> list[float]:
    state, config = info["state"], info["config"]
    followers = (info.get("cluster") or {}).get("replicas") or []
    current = 1 + sum(bool(one.get("current")) and not one.get("offline") for one in followers)
    lag = max((int(one.get("lag") or 0) for one in followers), default=0)
    stored = [state["messages"], state["bytes"], max(0, config.get("max_bytes") or 0)]
    counted = [state["first_seq"], state["last_seq"], state["consumer_count"]]
    return [*stored, *counted, config.get("num_replicas") or 1, current, lag]


def consumer_families(lags: Iterable[Lag], names: Names) -> Iterator[Metric]:
    """Yield how far durables are behind, those of one name together."""
    found: dict[tuple[str, str], Lag] = {}
    for lag in lags:
        key = (lag.stream, names(lag.consumer))
        found[key] = found[key] + lag if key in found else lag
    rows = [
        (key, (lag.waiting, lag.in_work, lag.redelivered, lag.floor, lag.seconds_behind, lag.durables))
        for key, lag in found.items()
    ]
    return _gauges("consumer", ["stream_name", "consumer_name"], rows, _CONSUMER_GAUGES)


def agent_families(agents: Mapping[str, AgentNow], totals: Mapping[str, Counts]) -> Iterator[Metric]:
    """Yield what is known of the agents now, and what their processes have counted."""
    rows = [
        (
            (name,),
            (
                now.waiting,
                now.oldest,
                now.in_work,
                now.active,
                now.stalled,
                now.asking,
                now.asked_for,
                now.replicas,
                now.desired,
                float(now.offline),
                float(now.paused),
            ),
        )
        for name, now in agents.items()
    ]
    yield from _gauges("agent", ["agent"], rows, _AGENT_GAUGES)
    text = "Attempts at runs; more than one per run after a crash."
    attempts = CounterMetricFamily(f"{PREFIX}_agent_attempts", text, labels=["agent"])
    stalled = CounterMetricFamily(f"{PREFIX}_agent_runs_stalled", "Times a run fell silent.", labels=["agent"])
    labels = ["agent", "status"]
    finished = CounterMetricFamily(f"{PREFIX}_agent_runs_finished", "Runs finished, by status.", labels=labels)
    for name, counts in totals.items():
        attempts.add_metric([name], counts.get("attempts", 0.0))
        stalled.add_metric([name], counts.get("stalled", 0.0))
        for status in sorted(FINAL):
            finished.add_metric([name, status], counts.get(f"finished {status}", 0.0))
    yield from (attempts, stalled, finished)
    for name, key, about in _AGENT_HISTOGRAMS:
        yield _histogram(name, about, key, totals)


def _histogram(name: str, about: str, key: str, totals: Mapping[str, Counts]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", about, labels=["agent"])
    bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
    for agent, counts in totals.items():
        buckets = accumulate(counts.get(f"{key} {place}", 0.0) for place in range(len(bounds)))
        family.add_metric([agent], list(zip(bounds, buckets, strict=True)), counts.get(f"{key} sum", 0.0))
    return family
