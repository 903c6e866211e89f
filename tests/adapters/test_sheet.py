"""The sheet, and what a run gets that does not fit, is no JSON, or comes twice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.adapters.publishing import publish
from orchestrator_free.adapters.sheet import Sheet
from orchestrator_free.adapters.translation import Translation
from tests.adapters.conftest import parts, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Run


def shown(sheet: Sheet) -> list[tuple[str, ...]]:
    """What was written: types with their part or call."""
    return [(body["type"], body.get("part") or body.get("call") or body.get("id") or "") for body in sheet.take()]


def test_text_without_a_key_flows_until_something_else_is_written() -> None:
    """Reasoning, a tool call and the end close it; a keyed part stays open beside it."""
    sheet = Sheet()
    for kind, text in (("text", "a"), ("text", "b"), ("reasoning", "c"), ("text", "d")):
        sheet.write(kind, text)
    sheet.write("text", "k", key="item")
    sheet.call("c1", "look", "{}")
    sheet.write("text", "l", key="item")

    assert shown(sheet) == [
        ("text.delta", "a-1"), ("text.delta", "a-1"), ("text.end", "a-1"), ("reasoning.delta", "a-2"), ("reasoning.end", "a-2"),
        ("text.delta", "a-3"), ("text.delta", "a-4"), ("text.end", "a-3"), ("tool.input", "c1"), ("text.delta", "a-4"),
    ]  # fmt: skip
    assert sheet.text == "abdkl"


def test_a_call_id_that_comes_again_is_another_call() -> None:
    """Some models number their calls anew in every answer: the second one does not overwrite the first."""
    sheet = Sheet()
    for city in ("Rome", "Oslo"):
        sheet.call_delta("call_0", "sky", json.dumps({"city": city}))
        sheet.call("call_0", "sky", json.dumps({"city": city}))
        sheet.output("call_0", city.lower())
    named = [body["call"] for body in sheet.take() if body["type"] == "tool.output"]

    assert named[0] == "call_0"
    assert named[1] not in ("call_0", "")


def test_a_sub_agent_is_told_of_when_something_changed() -> None:
    """The same again is nothing; what it was told before stays."""
    sheet = Sheet()
    sheet.subagent("s", "scout", call="c1")
    sheet.subagent("s", "scout")
    sheet.subagent_status("s", "done")
    sheet.subagent_status("nobody", "done")
    first, last = (body["data"] for body in sheet.take())

    assert (first["status"], last) == ("running", {"name": "scout", "status": "done", "parent": None, "call": "c1"})


@dataclass
class Trip:
    """Something that a tool gives."""

    day: date
    price: float
    raw: bytes


def test_what_a_tool_gives_becomes_json() -> None:
    """Objects by their fields, and what JSON cannot say as text or null."""
    sheet = Sheet()
    sheet.call("c", "t", "no json")
    sheet.output("c", {"trip": Trip(date(2026, 5, 1), float("inf"), b"\xff"), "kind": Trip, 1: {2}})
    called, gave = sheet.take()

    assert called["input"] == "no json"
    assert gave["output"] == {"trip": {"day": "2026-05-01", "price": None, "raw": "_w=="}, "kind": str(Trip), "1": [2]}


class Plain(Translation):
    """Events that are calls on the sheet."""

    framework = "plain"

    def take(self, event: Any) -> None:
        name, *arguments = event
        getattr(self.sheet, name)(*arguments)


def handler(*events: Any) -> Any:
    async def stream() -> AsyncIterator[Any]:
        for event in events:
            yield event

    async def handle(run: Run) -> None:
        await run.text("Before. ")
        await publish(run, stream(), Plain())
        await run.text("After.")

    return handle


async def test_what_is_too_large_for_a_message_becomes_a_file(working: Any) -> None:
    """A tool's output of 3 MB is stored with the session; the call says where."""
    large = "x" * 3_000_000
    async with working(handler(("call", "c1", "fetch", {"url": "u"}), ("output", "c1", large))) as work:
        run = await work.ask()

    assert (run["status"], run["error"]) == ("done", None)
    (tool,), (file,) = parts(run, "tool"), parts(run, "file")
    assert (tool["status"], tool["output"]) == ("done", {"file": "c1-output.json", "bytes": file["size"]})
    assert (file["name"], file["media_type"]) == ("c1-output.json", "application/json")
    assert file["size"] > len(large)


async def test_an_error_too_large_for_a_message_becomes_a_file(working: Any) -> None:
    """The call shows its beginning, and where the rest is."""
    async with working(handler(("call", "c1", "fetch", {"url": "u"}), ("failed", "c1", "no" * 1_000_000))) as work:
        run = await work.ask()

    (tool,), (file,) = parts(run, "tool"), parts(run, "file")
    assert (run["status"], tool["status"]) == ("done", "error")
    assert tool["error"].startswith("nono")
    assert tool["error"].endswith(f"(whole in {file['name']})")
    assert file["size"] > 2_000_000


async def test_what_the_handler_writes_before_and_after_keeps_its_place(working: Any) -> None:
    """A stream's parts stand between them, under names of their own, however often it publishes."""

    async def stream(word: str) -> AsyncIterator[Any]:
        yield ("write", "text", word)

    async def handle(run: Run) -> None:
        await run.text("Before.")
        for word in ("one", "two"):
            await publish(run, stream(word), Plain())
        await run.text("After.")

    async with working(handle) as work:
        run = await work.ask()

    assert texts(run) == ["Before.", "one", "two", "After."]


async def test_a_paused_run_does_not_read_its_source_and_a_cancel_closes_it(
    working: Any, shown: Any, eventually: Any
) -> None:
    """Not where it was read, where a cancel reaches it anyway, but between two events."""
    read: list[int] = []
    closed = asyncio.Event()

    class Source:
        """An endless stream that is no generator, so that nothing but `aclose` closes it."""

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> Any:
            read.append(len(read))
            return ("write", "text", f"w{len(read)} ")

        async def aclose(self) -> None:
            closed.set()

    async def handle(run: Run) -> None:
        await publish(run, Source(), Plain())

    async with working(handle) as work:
        sent = await work.begin()
        await shown(work, "w9 ")
        pause = await work.session.control.pause(to=work.agent, run=sent.run)
        assert (await pause.outcome(timeout=60)).state == "applied"
        seen = len(read)
        await work.session.state.set("trip", 1)
        assert len(read) <= seen + 1
        assert not closed.is_set()
        await work.session.control.cancel(sent.run)
        await asyncio.wait_for(closed.wait(), 20)
        run = await work.end()

    assert run["status"] == "cancelled"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (("write", "text", "half \ud83d"), "surrogates not allowed"),
        (("nonsense",), "plain sent something that makes no sense as event 1"),
    ],
)
async def test_what_cannot_be_said_ends_the_run_with_a_reason(working: Any, event: Any, error: str) -> None:
    """Half a character, or an event that breaks the translation; what came before stays."""
    async with working(handler(event)) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Before. "])
    assert error in run["error"]
