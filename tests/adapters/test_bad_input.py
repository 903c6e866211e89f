"""What every adapter stands: one table over all of them, so that a new one gets them all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from orchestrator_free.adapters.publishing import publish
from tests.adapters.conftest import parts, texts
from tests.adapters.dialects import DIALECTS, Dialect
from tests.adapters.test_framework_table import MODULES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Run

pytestmark = pytest.mark.parametrize("name", DIALECTS)


class Source:
    """A stream of events; an error is raised, `None` hangs. `closed` is set when it is left."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            for event in self.events:
                if event is None:
                    await asyncio.Event().wait()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed.set()


def handler(dialect: Dialect, source: Any, results: list[Any] | None = None) -> Any:
    async def handle(run: Run) -> None:
        result = await publish(run, aiter(source), dialect.make())
        if results is not None:
            results.append(result)

    return handle


def test_every_adapter_is_here(name: str) -> None:
    """The table names each module of the framework table."""
    assert {dialect.module.__name__.rpartition(".")[2] for dialect in DIALECTS.values()} == set(MODULES)
    assert name in DIALECTS


async def test_a_stream_that_raises_in_the_middle_ends_the_run(working: Any, name: str) -> None:
    """As `error`, with what came before, and without the words of the exception: they may repeat a key."""
    dialect = DIALECTS[name]
    async with working(handler(dialect, Source([*dialect.text("Let me "), RuntimeError("sk-secret")]))) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Let me "])
    assert "failed after " in run["error"]
    assert run["error"].endswith("(RuntimeError)")


async def test_an_event_that_makes_no_sense_ends_the_run(working: Any, name: str) -> None:
    """The error says which, and of what framework; what came before stays."""
    dialect = DIALECTS[name]
    said = dialect.text("Let me ")
    async with working(handler(dialect, Source([*said, dialect.malformed, *dialect.end]))) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Let me "])
    assert f"{dialect.make().framework} sent something that makes no sense as event {len(said) + 1} (" in run["error"]


async def test_an_event_of_a_later_version_breaks_nothing(working: Any, name: str) -> None:
    """It is skipped and counted; the log says so once, also where the stream fails later."""
    dialect, results = DIALECTS[name], []
    events = [*dialect.text("Sunny."), *[dialect.unknown] * 3]
    with capture_logs() as logs:
        async with working(handler(dialect, Source([*events, *dialect.end]), results)) as work:
            run = await work.ask()
        async with working(handler(dialect, Source([*events, dialect.malformed]))) as work:
            failed = await work.ask()

    assert (run["status"], run["error"], texts(run)) == ("done", None, ["Sunny."])
    assert list(results[0].skipped.values()) == [3]
    assert (failed["status"], texts(failed)) == ("error", ["Sunny."])
    told = [one["skipped"] for one in logs if one["event"] == "events skipped"]
    assert told == [results[0].skipped] * 2


async def test_a_piece_larger_than_a_message_comes_whole(working: Any, name: str) -> None:
    """Three megabytes at once, where the broker takes one: cut into several events, and one text."""
    dialect, huge = DIALECTS[name], "0123456789äöü" * 230_000
    async with working(handler(dialect, Source([*dialect.text(huge), *dialect.end]))) as work:
        run = await work.ask()

    assert (run["status"], run["error"]) == ("done", None)
    assert "".join(texts(run)) == huge


async def test_a_cancel_in_the_middle_of_a_tool_call_closes_the_stream(working: Any, shown: Any, name: str) -> None:
    """The call is shown as one that did not come to its end, and no answer is made up for it."""
    dialect = DIALECTS[name]
    source = Source([*dialect.begun, None])
    async with working(handler(dialect, source)) as work:
        sent = await work.begin()
        await shown(work, "one")
        await work.session.control.cancel(sent.run)
        run = await work.end()
        await asyncio.wait_for(source.closed.wait(), 60)

    (tool,) = parts(run, "tool")
    assert (run["status"], tool["tool"], tool["status"], tool["output"]) == ("cancelled", "one", "error", None)


async def test_parallel_tool_calls_that_come_by_turns_are_two(working: Any, name: str) -> None:
    """Each piece goes to its own call."""
    dialect, results = DIALECTS[name], []
    async with working(handler(dialect, Source([*dialect.calls, *dialect.end]), results)) as work:
        run = await work.ask()

    assert (run["status"], run["error"]) == ("done", None)
    assert [(tool["tool"], tool["input"]) for tool in parts(run, "tool")] == [("one", {"n": 1}), ("two", {"n": 2})]
    assert [use.tool for use in results[0].calls] == ["one", "two"]


async def test_an_empty_answer_without_usage_is_an_answer(working: Any, name: str) -> None:
    """No part, no numbers, no error."""
    dialect, results = DIALECTS[name], []
    async with working(handler(dialect, Source(dialect.end), results)) as work:
        run = await work.ask()

    assert (run["status"], run["error"], run["parts"], run["usage"]) == ("done", None, [], {})
    assert (results[0].text, results[0].usage, results[0].calls) == ("", {}, [])
