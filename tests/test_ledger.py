"""The ledger of tool calls: every call of every attempt, who made it, how long it took, what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold
from orchestrator_free.subjects import address
from orchestrator_free.views.ledger import STATUSES, tool_calls
from orchestrator_free.working.runwriter import INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker, Session

Body = dict[str, Any]
STARTED = {"type": "run.started", "attempt": 1, "input": "ann/i1"}
NOW = "2026-01-01T00:01:00Z"


def at(seconds: float) -> str:
    return f"2026-01-01T00:00:{seconds:06.3f}Z"


def view_of(*said: tuple[float, str, str, Body]) -> Body:
    """The view of (second, agent, run, payload)."""
    fold = Fold("s1")
    for number, (second, agent, run, body) in enumerate(said, 1):
        fold.apply(Event(number, at(second), address(0, "s1", agent, "run", id=run), body))
    assert fold.skipped == 0
    found: Body = orjson.loads(orjson.dumps(fold.view("ab12cd34-0")))
    return found


def called(call: str, tool: str, **more: Any) -> Body:
    return {"type": "tool.input", "call": call, "tool": tool, **more}


def gave(call: str, output: Any = None, **more: Any) -> Body:
    return {"type": "tool.output", "call": call, "output": output, **more}


STORY = view_of(
    (0, "ada", "r1", STARTED),
    (1, "ada", "r1", called("c1", "search", input={"q": "x"})),
    (2, "bea", "r1", STARTED),
    (3, "bea", "r1", called("c1", "draft")),
    (4, "ada", "r1", gave("c1", {"hits": 3})),
    (5, "ada", "r1", called("c2", "search")),
    (5.5, "ada", "r1", {"type": "tool.error", "call": "c2", "error": "the index is away"}),
    (6, "bea", "r1", gave("c1", "half", preliminary=True)),
)


def brief(calls: list[Body]) -> list[tuple[Any, ...]]:
    return [(one["agent"], one["tool"], one["status"], one["seconds"]) for one in calls]


def test_every_call_has_who_what_when_and_what_came_of_it() -> None:
    """In the order in which they were begun; a running call has run up to now."""
    calls = tool_calls(STORY, now=NOW)
    assert calls[0] == {
        "call": "c1", "tool": "search", "agent": "ada", "run": "r1", "attempt": 1, "lost": False, "status": "done",
        "started": at(1), "finished": at(4), "seconds": 3.0, "input": {"q": "x"}, "output": {"hits": 3}, "error": None,
    }  # fmt: skip
    assert brief(calls) == [
        ("ada", "search", "done", 3.0), ("bea", "draft", "running", 57.0), ("ada", "search", "error", 0.5),
    ]  # fmt: skip
    assert (calls[1]["output"], calls[1]["finished"]) == ("half", None)
    assert (calls[2]["error"], calls[2]["finished"]) == ("the index is away", at(5.5))
    assert tool_calls(STORY)[1]["seconds"] is None


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"tool": "search"}, [0, 2]),
        ({"agent": "bea"}, [1]),
        ({"status": "error"}, [2]),
        ({"status": "running", "agent": "ada"}, []),
        ({"min_seconds": 3}, [0, 1]),
        ({"min_seconds": 57.0}, [1]),
        ({"run": "r1"}, [0, 1, 2]),
        ({"run": "r2"}, []),
        ({"tool": None, "min_seconds": 0}, [0, 1, 2]),
    ],
)
def test_calls_are_chosen_by_what_they_are(filters: dict[str, Any], found: list[int]) -> None:
    """Each filter alone and together; a call that runs counts with the time it has run."""
    everything = tool_calls(STORY, now=NOW)
    assert tool_calls(STORY, now=NOW, **filters) == [everything[place] for place in found]


@pytest.mark.parametrize(
    "filters", [{"status": "fine"}, {"status": "lost"}, {"min_seconds": -1}, {"min_seconds": float("nan")}]
)
def test_a_filter_that_cannot_be_is_refused(filters: dict[str, Any]) -> None:
    """A misspelt status would find nothing, and be believed."""
    with pytest.raises(InvalidInput, match=next(iter(filters))):
        tool_calls(STORY, **filters)


def test_calls_of_lost_attempts_are_there_and_marked() -> None:
    """They happened: somebody was charged, a mail was sent. One that was open when its attempt was lost failed."""
    calls = tool_calls(
        view_of(
            (0, "ada", "r1", STARTED),
            (1, "ada", "r1", called("c1", "charge")),
            (2, "ada", "r1", gave("c1", "ok")),
            (3, "ada", "r1", called("c2", "mail")),
            (9, "ada", "r1", STARTED | {"attempt": 2}),
            (10, "ada", "r1", called("c1", "charge")),
        ),
        now=NOW,
    )
    assert [(one["call"], one["attempt"], one["lost"], one["status"]) for one in calls] == [
        ("c1", 1, True, "done"), ("c2", 1, True, "error"), ("c1", 2, False, "running"),
    ]  # fmt: skip
    assert (calls[1]["error"], calls[1]["seconds"]) == ("the attempt was lost", None)


@pytest.mark.parametrize("status", ["done", "error", "cancelled", "failed"])
def test_a_call_that_its_run_did_not_finish_is_an_error(status: str) -> None:
    """Nobody will end it any more."""
    (call,) = tool_calls(
        view_of(
            (0, "ada", "r1", STARTED),
            (1, "ada", "r1", called("c1", "search")),
            (2, "ada", "r1", {"type": "run.finished", "status": status, "input": "ann/i1"}),
        ),
        now=NOW,
    )
    assert (call["status"], call["error"], call["finished"]) == ("error", "the run ended before it", None)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(at(1)),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
part = st.dictionaries(
    st.sampled_from(["call", "tool", "status", "started", "seconds", "input", "output", "error"]), anything
).map(lambda found: {"type": "tool", **found})


@given(
    st.lists(part | anything, max_size=4), anything | st.lists(anything | st.fixed_dictionaries({"parts": anything}))
)
def test_whatever_an_agent_wrote_into_its_run_the_ledger_can_be_read(parts: list[Any], attempts: Any) -> None:
    """Parts of finished runs come from anywhere."""
    run = STORY["agents"][0]["runs"][0]
    lost = attempts if isinstance(attempts, list) else []
    view = STORY | {"agents": [{"agent": "ada", "runs": [run | {"parts": parts, "attempts": lost}]}]}
    for filters in ({}, {"tool": "search"}, {"min_seconds": 1.0}, {"status": "running"}):
        for call in tool_calls(view, now=NOW, **filters):
            assert call["status"] in STATUSES
            assert call["seconds"] is None or isinstance(call["seconds"], int | float)


# -- over the log -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create()
    return session


async def test_a_run_too_large_for_the_log_has_its_calls_in_the_ledger(
    session: Session, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Its parts are fetched from the object store; a failed tool and a slow one among them."""
    name = fresh("agent")
    programs.agent(
        name,
        f"""
        async with run.tool("search", {{"q": "x"}}) as call:
            call.output = "y" * {INLINE_LIMIT // 3}
        async with run.tool("wait"):
            await asyncio.sleep(0.3)
        try:
            async with run.tool("breaks"):
                raise RunError("no disk")
        except RunError:
            pass
        await run.text("x" * {INLINE_LIMIT})
        """,
    )
    sent = await session.send("go", to=name)
    run = await session.result(name, sent.run, timeout=30)
    calls = await session.tools(agent=name)

    assert run["object"], "the run should have gone to the object store"
    assert [(one["tool"], one["status"], one["attempt"]) for one in calls] == [
        ("search", "done", 1), ("wait", "done", 1), ("breaks", "error", 1),
    ]  # fmt: skip
    assert calls[0]["input"] == {"q": "x"} and len(calls[0]["output"]) == INLINE_LIMIT // 3
    assert [one["tool"] for one in await session.tools(min_seconds=0.25)] == ["wait"]
    assert [one["error"] for one in await session.tools(status="error")] == ["no disk"]


async def test_a_killed_replicas_calls_stay_in_the_ledger(
    session: Session, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """A call is seen while it runs; when its process is killed it is an error of a lost attempt, the next one's is done."""
    name = fresh("agent")
    body = """
        async with run.tool("charge", {"attempt": run.attempt}) as call:
            if run.attempt == 1:
                await asyncio.Event().wait()
            call.output = "paid"
        """
    first = programs.agent(name, body, ack_wait_seconds=1.0)[0]
    sent = await session.send("go", to=name)

    async def running() -> list[Body]:
        return await session.tools(status="running")

    found = await eventually(running, 30)
    first.kill()
    programs.agent(name, body, ack_wait_seconds=1.0)
    await session.result(name, sent.run, timeout=40)
    calls = await session.tools(tool="charge", run=sent.run)

    assert found[0]["input"] == {"attempt": 1} and found[0]["seconds"] >= 0
    assert [(one["attempt"], one["lost"], one["status"], one["output"]) for one in calls] == [
        (1, True, "error", None), (2, False, "done", "paid"),
    ]  # fmt: skip
