"""Insights: numbers against sessions built by hand, properties of the pure part, and real agents read from a real log."""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator_free.cli.insights import since_time
from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Event, encode
from orchestrator_free.fold import RunFold
from orchestrator_free.fold.run import ending
from orchestrator_free.insights import Report, Settings, facts_of, read_report
from orchestrator_free.insights.facts import RunFacts, SessionFacts
from orchestrator_free.insights.page import html_page, seconds
from orchestrator_free.insights.plots import write_png
from orchestrator_free.insights.spread import Spread
from orchestrator_free.insights.viewers import viewers_of
from orchestrator_free.metrics import GatewayMetrics
from orchestrator_free.subjects import Address, address, run_id

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free import Broker

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Story:
    """A session written by hand: who says what, at which second."""

    def __init__(self, session: str = "s1", *, agents: tuple[str, ...] = ()) -> None:
        self.session = session
        self.events: list[Event] = []
        self.say(0, "ann", "meta", {"type": "session.created", "agents": list(agents)})

    def say(self, second: float, member: str, kind: str, body: dict[str, Any], **where: str) -> None:
        self.events.append(
            Event(len(self.events) + 1, at(second), Address(0, self.session, member, kind, **where), body)
        )

    def ask(self, second: float, person: str, id: str, to: str = "bot", **more: Any) -> str:
        self.say(second, person, "in", {"type": "input", "text": "?", **more}, target=to, id=id)
        return run_id(person, id)

    def run(self, second: float, run: str, body: dict[str, Any], agent: str = "bot") -> None:
        self.say(second, agent, "run", body, id=run)

    def begin(self, second: float, run: str, source: str, attempt: int = 1, **more: Any) -> None:
        self.run(second, run, {"type": "run.started", "attempt": attempt, "input": source, **more})

    def word(self, second: float, run: str) -> None:
        self.run(second, run, {"type": "text.delta", "part": "1", "text": "a"})

    def end(self, second: float, run: str, status: str = "done", **more: Any) -> None:
        self.run(second, run, {"type": "run.finished", "status": status, **more})

    @property
    def facts(self) -> SessionFacts:
        found = facts_of(self.session, self.events)
        assert found is not None
        return found

    def compacted(self) -> list[Event]:
        """The log as the broker keeps it: of a finished run only its end, made as agents make it."""
        folds: dict[str, RunFold] = {}
        found = []
        for event in self.events:
            if event.kind != "run":
                found.append(event)
                continue
            fold = folds.setdefault(event.id, RunFold(event.member, event.id))
            if event.type != "run.finished":
                fold.apply(event.body, event.sequence, event.time)
                found.append(event)
                continue
            body = ending(fold, event.body["status"], None, event.time) | event.body
            found = [one for one in found if one.address != event.address]
            found.append(event._replace(body=body))
        return found


# -- one session ----------------------------------------------------------------------------------------------------


def test_a_run_by_the_second() -> None:
    """Waiting, first output, silence, duration: as a stop watch would have it."""
    story = Story()
    run = story.ask(10, "ann", "i1")
    story.begin(13, run, "ann/i1")
    story.word(15, run)
    story.word(35, run)
    story.end(36, run)
    (found,) = story.facts.runs

    assert found == RunFacts(
        agent="bot", status="done", attempts=1, delegated=False, waited=3, seconds=23, first_output=5, silence=20,
        followed=False,
    )  # fmt: skip
    assert story.facts.seconds == 36
    assert story.facts.people == {"ann": 1}


def test_waiting_for_people_is_no_silence_and_stalls_say_nothing() -> None:
    """From `run.waiting` to `run.working` nobody counts; `run.stalled` ends no silence."""
    story = Story()
    run = story.ask(0, "ann", "i1")
    story.begin(0, run, "ann/i1")
    story.run(1, run, {"type": "run.waiting", "reason": "approval", "ask": "q"})
    story.run(500, run, {"type": "run.working"})
    story.run(530, run, {"type": "run.stalled", "seconds": 30.0})
    story.word(545, run)
    story.end(546, run)

    assert story.facts.runs[0].silence == 45


def test_of_a_run_that_was_taken_over_the_first_output_is_unknown() -> None:
    """A dead attempt's words are not what people got; the silence is the last attempt's."""
    story = Story()
    run = story.ask(0, "ann", "i1")
    story.begin(1, run, "ann/i1")
    story.word(2, run)
    story.begin(40, run, "ann/i1", attempt=2)
    story.word(41, run)
    story.end(44, run)
    (found,) = story.facts.runs

    assert (found.attempts, found.first_output, found.silence, found.seconds) == (2, None, 3, 43)


@pytest.mark.parametrize("measured", [True, False])
def test_a_compacted_log_tells_what_the_agent_has_measured_and_nothing_else(measured: bool) -> None:
    """Without `timing` first output and silence are unknown, never zero; all else is as in the whole log."""
    story = Story()
    run = story.ask(10, "ann", "i1")
    story.begin(13, run, "ann/i1")
    story.word(15, run)
    story.word(35, run)
    timing = {"first_output_seconds": 2.0, "longest_silence_seconds": 20.0}
    story.end(36, run, **({"timing": timing} if measured else {}))
    whole = story.facts.runs[0]
    found = facts_of("s1", story.compacted())
    assert found is not None
    (run_found,) = found.runs

    assert len(story.compacted()) == 3
    assert (run_found.first_output, run_found.silence) == ((5, 20) if measured else (None, None))
    assert (run_found.waited, run_found.seconds, run_found.status) == (whole.waited, whole.seconds, whole.status)


@pytest.mark.parametrize(
    ("act", "followed"),
    [
        (lambda story: None, False),
        (lambda story: story.ask(50, "ann", "i2"), True),
        (lambda story: story.say(50, "bob", "state", {"type": "state.set", "value": 1}, id="k"), True),
        (lambda story: story.say(50, "bot", "state", {"type": "state.set", "value": 1}, id="k"), False),
        (lambda story: story.say(50, "bot", "presence", {"type": "agent.offline"}), False),
        (lambda story: story.say(50, "bob", "answer", {"type": "answer", "value": 1}, id="q"), True),
    ],
    ids=["nothing", "asks again", "writes state", "an agent writes", "nobody is there", "answers"],
)
def test_an_answer_is_followed_if_a_person_did_something_after_it(act: Any, followed: bool) -> None:
    """What agents and monitors do is no sign that anybody has read it."""
    story = Story(agents=("bot",))
    run = story.ask(0, "ann", "i1")
    story.begin(1, run, "ann/i1")
    story.end(2, run)
    act(story)

    assert story.facts.runs[0].followed is followed


def test_hand_offs_and_asks_with_how_long_people_waited() -> None:
    """A request that was accepted, one that was declined, one that is open; an ask that escalated and was decided."""
    story = Story()

    def step(second: float, by: str, name: str, holder: str | None, request: Any = None) -> None:
        body = {"type": "floor", "step": name, "holder": holder, "request": request}
        story.say(second, by, "floor", body)

    step(10, "bot", "request", None, {"from": "bot", "to": "desk"})
    step(55, "eve", "accept", "eve")
    step(60, "bot", "request", "eve", {"from": "bot", "to": "bob"})
    step(61, "bob", "decline", "eve")
    step(70, "bot", "request", "eve", {"from": "bot", "to": "zoe"})
    story.say(80, "bot", "ask", {"type": "ask", "about": "approval", "to": ["ann"], "options": ["yes"]}, id="q")
    story.say(90, "bot", "stage", {"type": "ask.escalated", "to": ["bob"]}, target="q", id="1")
    story.say(110, "bob", "answer", {"type": "answer", "value": "yes"}, id="q")

    assert story.facts.hand_offs == [("desk", "accept", 45), ("bob", "decline", 1), ("zoe", "open", None)]
    assert story.facts.asks == [("approval", "decided", 30, True)]


def test_who_is_no_person_and_what_is_history() -> None:
    """Delegated inputs are of no person, imported runs are not counted; controls are, by whom they are for."""
    story = Story()
    run = story.ask(0, "ann", "i1")
    story.begin(1, run, "ann/i1")
    child = story.ask(2, "bot", "d1", to="helper", parent={"agent": "bot", "run": run})
    story.say(3, "helper", "run", {"type": "run.started", "attempt": 1, "input": "bot/d1",
                                   "parent": {"agent": "bot", "run": run}}, id=child)  # fmt: skip
    old = story.ask(4, "kim", "i0", replayed=True)
    story.begin(5, old, "kim/i0")
    story.say(6, "ann", "ctl", {"type": "redirect", "text": "no"}, target="bot", id="c1")
    found = story.facts

    assert found.people == {"ann": 1}
    assert [(one.agent, one.delegated) for one in found.runs] == [("bot", False), ("helper", True)]
    assert found.controls == [("bot", "redirect")]
    assert facts_of("s1", []) is None


# -- the pure part, as properties -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_one_per_cent(values: list[float], share: float) -> None:
    """Against the sorted list itself; and no value is lost in the bars."""
    spread = Spread(values)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = spread.quantile(share)

    assert found is not None
    assert abs(found - exact) <= max(0.0101 * exact, 0.001)
    assert sum(spread.bars((1, 60, 3600))) == spread.count == len(values)
    assert spread.as_dict()["max"] == round(max(values), 3)


def test_a_spread_of_a_million_values_stays_small() -> None:
    """Buckets are bounded by the range of times, not by how many there were."""
    spread = Spread(random.Random(1).lognormvariate(1, 3) for _ in range(200_000))

    assert len(spread._buckets) < 1500
    assert spread.count == 200_000
    assert Spread().as_dict() == {"count": 0, "mean": None, "p50": None, "p95": None, "max": None}


VISITS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "user"]), st.integers(0, 4000), st.integers(0, 300), st.booleans()),
    max_size=14,
)


def visit(number: int, person: str, began: float, lasted: float, forked: bool) -> SessionFacts:
    return SessionFacts(session=f"s{number}", began=began, seconds=lasted, forked=forked, people={person: 1}, runs=[])


@given(VISITS, st.randoms())
def test_restarts_are_those_that_a_slow_count_finds_in_any_order(visits: Any, order: random.Random) -> None:
    """For each short session of a named person: did the next one of that person begin within the time?"""
    facts = [visit(number, *one) for number, one in enumerate(visits)]
    named = sorted(
        (one for one in facts if not one.forked and "user" not in one.people), key=lambda f: (f.began, f.seconds)
    )
    short = [one for one in named if one.seconds <= 120]
    again = 0
    for one in short:
        (person,) = one.people
        later = named[named.index(one) + 1 :]
        after = next((other for other in later if person in other.people), None)
        again += after is not None and 0 <= after.began - (one.began + one.seconds) <= 600
    order.shuffle(facts)
    report = Report()
    for one in facts:
        report.take(one)
    found = report.restarts()

    assert (found["short"], found["restarted"]) == (len(short), again)
    assert found["unnamed"] == sum(one.people == {"user": 1} and not one.forked for one in facts)


RUN = st.builds(
    RunFacts, agent=st.sampled_from(["a", "b"]), status=st.sampled_from(["done", "error", "lost", "cancelled"]),
    attempts=st.integers(1, 3), delegated=st.booleans(), waited=st.none() | st.floats(0, 100),
    seconds=st.none() | st.floats(0, 100), first_output=st.none() | st.floats(0, 100),
    silence=st.none() | st.floats(0, 100), followed=st.none() | st.booleans(),
)  # fmt: skip


@given(st.lists(st.lists(RUN, max_size=5), max_size=8))
def test_sums_are_those_of_the_runs(sessions: list[list[RunFacts]]) -> None:
    """Whatever runs there are, every count of the report is what counting them gives, and JSON can say it."""
    report = Report(Settings(silence=10))
    for number, runs in enumerate(sessions):
        report.take(SessionFacts(session=f"s{number}", began=0, seconds=1, forked=False, people={}, runs=runs))
    found = json.loads(json.dumps(report.as_dict()))
    everything = [run for runs in sessions for run in runs]

    assert found["sessions"] == len(sessions)
    assert sum(bar["count"] for bar in found["lengths"]["bars"]) == len(sessions)
    assert found["answers"]["followed"] == sum(run.followed is True and not run.delegated for run in everything)
    assert found["answers"]["last"] == sum(run.followed is False and not run.delegated for run in everything)
    for name, agent in found["agents"].items():
        mine = [run for run in everything if run.agent == name]
        assert agent["runs"] == len(mine) == sum(agent["statuses"].values())
        assert agent["taken_over"] == sum(run.attempts > 1 for run in mine)
        assert agent["silent"] == sum(run.silence is not None and run.silence > 10 for run in mine)
        assert agent["silence_unknown"] == sum(run.silence is None for run in mine)
        assert agent["first_output"]["count"] + agent["first_output"]["unknown"] == len(mine)


# -- what is shown --------------------------------------------------------------------------------------------------


def a_report() -> dict[str, Any]:
    story = Story()
    run = story.ask(10, "ann", "i1", to="b-t")
    story.say(13, "b-t", "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=run)
    story.say(15, "b-t", "run", {"type": "text.delta", "part": "1", "text": "a"}, id=run)
    story.say(16, "b-t", "run", {"type": "run.finished", "status": "error", "error": "<b>"}, id=run)
    story.say(80, "b-t", "ask", {"type": "ask", "about": "<script>"}, id="q")
    report = Report()
    report.take(story.facts)
    return report.as_dict()


def test_the_page_says_what_the_figures_can_tell_and_escapes_what_people_wrote() -> None:
    """One file, nothing fetched, no script; every caveat is in it."""
    report = a_report()
    page = html_page(report, about="nats://<here>")

    assert "<script" not in page.lower().replace("&lt;script", "")
    assert "nats://&lt;here&gt;" in page
    assert "http://" not in page
    assert "src=" not in page
    assert all(name.replace("_", " ") in page for name in report["known"])
    assert "80 s" in page  # how long the session lasted
    assert "prefers-color-scheme: dark" in page


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    """Also of nothing at all; a folder that is not there is said."""
    for number, report in enumerate((a_report(), Report().as_dict())):
        file = tmp_path / f"{number}.png"
        write_png(report, file)
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(InvalidInput, match="cannot write"):
        write_png(a_report(), tmp_path / "none" / "x.png")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (90, "90 s"), (600, "10 min"), (10800, "3 h"),
     (604800, "7 d")],
)  # fmt: skip
def test_durations_for_people(value: float | None, text: str) -> None:
    """The unit that people would use."""
    assert seconds(value) == text


def test_since_is_a_span_or_a_time() -> None:
    """7d, 12h, a date; anything else is refused with what is possible."""
    now = datetime(2026, 3, 8, tzinfo=UTC)

    assert since_time("", now) == 0
    assert since_time("7d", now) == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    assert since_time("12h", now) == datetime(2026, 3, 7, 12, tzinfo=UTC).timestamp()
    assert since_time("2026-03-01", now) == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    with pytest.raises(InvalidInput, match="--since 'soon'"):
        since_time("soon", now)


def test_what_a_gateway_counted_is_read_from_its_metrics() -> None:
    """By agent: runs seen, the bucket in which the median lies, answers shown; feeds cut."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    for value in (0.2, 0.3, 0.4, 20.0):
        metrics.first_token("bot", value)
    metrics.answer_shown("bot")
    metrics.cuts.labels("slow").inc(3)
    found = viewers_of(generate_latest(registry).decode())

    assert found == {
        "first_token": {"bot": {"count": 4, "p50": 0.5, "p95": 30.0}},
        "answers_shown": {"bot": 1},
        "feeds_cut": 3,
    }


# -- from a real log ------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_real_agents_read_from_a_compacted_log(ann: Broker, programs: Any, fresh: Any, eventually: Any) -> None:
    """Runs that real processes did and compaction replaced: their silence and first output are known all the same."""
    name = fresh("worker")
    programs.agent(
        name, 'await run.text("a")\nawait asyncio.sleep(0.9 if run.input.text == "slow" else 0)\nawait run.text("b")\n'
        'if run.input.text == "bad":\n    raise ValueError("no")',
    )  # fmt: skip
    texts = ("quick", "slow", "bad", "quick")
    for number, text in enumerate(texts):
        session = ann.session(fresh("s"))
        await session.create(agents=[name])
        sent = await session.send(text, to=name)
        await session.result(name, sent.run, timeout=40)
        if number == 0:
            await session.send("thanks", to="ann", note=True)
    report = (await read_report(ann, Settings(silence=0.8), agents=[name])).as_dict()
    agent = report["agents"][name]

    assert report["sessions"] == 4
    assert agent["statuses"] == {"done": 3, "error": 1}
    assert (agent["silent"], agent["silence_unknown"]) == (1, 0)
    assert (agent["first_output"]["count"], agent["first_output"]["unknown"]) == (4, 0)
    assert report["answers"] == {"followed": 1, "last": 3}
    assert report["restarts"]["short"] == 4
    assert report["restarts"]["restarted"] == 3  # ann began one after the other


@pytest.mark.slow
async def test_thousands_of_sessions_in_bounded_memory(ann: Broker, fresh: Any) -> None:
    """Time and memory for 3,000 sessions of 12 events, printed; memory does not grow with what they hold."""
    prefix, count = fresh("many"), 3000
    wire, shard = ann.log.wire, ann.log.shard

    async def write(number: int) -> None:
        session = f"{prefix}-{number}"
        run = run_id("ann", "i1")

        async def say(member: str, kind: str, body: Any, **where: str) -> None:
            await wire.publish(str(address(shard(session), session, member, kind, **where)), encode(body))

        await say("ann", "meta", {"type": "session.created", "agents": ["bot"]})
        await say("ann", "in", {"type": "input", "text": "?"}, target="bot", id="i1")
        await say("bot", "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=run)
        for _ in range(8):
            await say("bot", "run", {"type": "text.delta", "part": "1", "text": "word " * 20}, id=run)
        await say("bot", "run", {"type": "run.finished", "status": "done"}, id=run)

    for start in range(0, count, 100):
        await asyncio.gather(*(write(number) for number in range(start, start + 100)))
    await read_report(ann, since=time.time() + 1e6)  # imports, names: what is there before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    report = await read_report(ann, agents=["bot"])
    took = time.perf_counter() - begun
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{count} sessions, {12 * count} events: {took:.1f} s, {took / count * 1000:.2f} ms each, +{grown:.1f} MiB")

    assert report.sessions == count
    assert report.agents["bot"].as_dict()["silence_unknown"] == 0
    assert grown < 60
