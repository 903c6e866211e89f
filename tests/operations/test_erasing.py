"""What is erased is gone from every stream, others' sessions stay whole, and a search shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Fold, Run
from orchestrator_free.errors import InvalidInput, SessionNotFound
from orchestrator_free.fold import View
from orchestrator_free.operations.erasing import erase_member, erase_session
from orchestrator_free.operations.retention import retain, session_names, set_limits
from orchestrator_free.session.archive import export_session, import_session
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Broker

WORDS = "my-iban-is-DE00"


async def answer(run: Run) -> None:
    """Quote what was said, keep a file, and pass it on."""
    await run.text(f"{run.input.sender} said: {run.input.text}")
    if run.input.text.startswith(WORDS):
        await run.file("note.txt", WORDS.encode(), media_type="text/plain")


async def stored(ann: Broker, word: str) -> list[str]:
    """Where a word stands in any stream, read by a way of its own: message by message through the leader."""
    found = []
    for stream in ("SESSIONS_0", "SESSIONS_TIMERS", "OBJ_orchestrator_free_objects", "KV_orchestrator_free_presence"):
        sequence = 1
        while True:
            try:
                message = (await ann.log.wire.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence, "next_by_subj": ">"}))[
                    "message"
                ]
            except Exception:
                break
            import base64

            text = message["subject"] + base64.b64decode(message.get("data", "")).decode(errors="replace")
            if word in text:
                found.append(f"{stream} {message['subject']}")
            sequence = message["seq"] + 1
    return found


async def folded(broker: Broker, session: str) -> tuple[Fold, View]:
    fold = Fold(session)
    for message in await broker.log.read_all(0, f"session.0.{session}.>"):
        from orchestrator_free.reading.entries import to_event

        event = to_event(message)
        assert event is not None
        fold.apply(event)
    return fold, await broker.session(session).view()


@pytest.mark.slow
async def test_a_member_is_erased_from_all_sessions_and_the_others_stay_whole(
    ann: Broker, fresh: Callable[[str], str], tmp_path: Path
) -> None:
    """Theirs alone is deleted; in a shared one they have no name, their words and the answers to them are gone."""
    bob, writer = ann.as_member(fresh("bob")), fresh("writer")
    alone, shared = bob.session(fresh("alone")), ann.session(fresh("shared"))
    await alone.create(agents=[writer])
    await bob.session(shared.id).create(title="Bob's title", agents=[writer])
    async with serving(ann.log.wire.options.url, writer, answer):
        mine = await shared.send("hello", to=writer)
        await shared.result(writer, mine.run, timeout=30)
        his = await bob.session(shared.id).send(WORDS, to=writer)
        await shared.result(writer, his.run, timeout=30)
        late = await shared.send(f"what did {bob.member} say?", to=writer)
        await shared.result(writer, late.run, timeout=30)
        only = await alone.send(WORDS, to=writer)
        await alone.result(writer, only.run, timeout=30)
    await bob.session(shared.id).state.set("plan", WORDS)
    await shared.state.set("kept", 1)
    await bob.session(shared.id).asks.ask(WORDS, to=["ann"], seconds=3600)
    await shared.branches.select(f"{bob.member}/{his.input}")
    before, _ = await folded(ann, shared.id)
    assert await stored(ann, WORDS)

    report = await erase_member(ann, bob.member, tmp_path)

    assert (report.deleted, report.rewritten, report.refused) == ([alone.id], [shared.id], {})
    assert (report.clean, report.left) == (True, [])
    assert report.searched > 10
    assert await stored(ann, WORDS) == []
    assert await stored(ann, bob.member) == []
    fold, view = await folded(ann, shared.id)
    assert (fold.skipped, before.skipped) == (0, 0)
    inputs = view["inputs"]
    assert inputs[0]["text"] == "hello"
    assert [entry["input"] for entry in inputs] == [mine.input, his.input, late.input], "the order is what it was"
    alias = inputs[1]["from"]
    assert alias.startswith("erased-")
    assert inputs[2]["text"] == f"what did {alias} say?"
    runs = {run["input"]: run for agent in view["agents"] for run in agent["runs"]}
    assert {run["status"] for run in runs.values()} == {"done"}
    assert [bool(runs[f"{entry['from']}/{entry['input']}"]["parts"]) for entry in inputs] == [True, False, True]
    assert set(view["state"]) == {"kept"}
    assert view["meta"]["agents"] == [writer]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SessionNotFound):
        await alone.view()
    assert writer  # an agent started again does nothing over: its inputs are history
    async with serving(ann.log.wire.options.url, writer, answer):
        again = await shared.send("still there?", to=writer)
        assert (await shared.result(writer, again.run, timeout=30))["status"] == "done"
        assert len((await shared.view())["agents"][0]["runs"]) == 4


async def test_what_was_erased_is_not_imported_again(ann: Broker, fresh: Callable[[str], str], tmp_path: Path) -> None:
    """Neither the session by its name, nor the member in a session of another name."""
    bob, session = ann.as_member(fresh("bob")), fresh("s")
    await bob.session(session).create()
    await bob.session(session).send(WORDS, to="nobody")
    archive = b"".join([line async for line in export_session(bob.session(session))])
    await erase_member(ann, bob.member, tmp_path)
    with pytest.raises(InvalidInput, match="was erased here"):
        await import_session(ann, [archive], fresh("other"))
    other = fresh("s")
    await ann.session(other).create()
    archive = b"".join([line async for line in export_session(ann.session(other))])
    report = await erase_session(ann, other)
    assert (report.clean, report.deleted) == (True, [other])
    with pytest.raises(InvalidInput, match="was erased here"):
        await import_session(ann, [archive])
    assert await stored(ann, WORDS) == []


async def test_an_open_run_keeps_a_session_from_being_written_anew(
    ann: Broker, fresh: Callable[[str], str], tmp_path: Path
) -> None:
    """Nothing is changed there, the report says why, and it is not clean."""
    bob, session = ann.as_member(fresh("bob")), ann.session(fresh("s"))
    await session.send("mine", to="w")
    sent = await bob.session(session.id).send(WORDS, to="w")
    started = {"type": "run.started", "attempt": 1, "input": f"{bob.member}/{sent.input}", "replica": "r"}
    await ann.as_member("w").session(session.id).append("run", started, id=sent.run)
    report = await erase_member(ann, bob.member, tmp_path)
    assert "a run is open" in report.refused[session.id]
    assert not report.clean
    assert report.left_count >= 2
    for name in ("user", "a.b"):
        with pytest.raises(InvalidInput):
            await erase_member(ann, name, tmp_path)


async def test_on_the_command_line(ann: Broker, command: Any, fresh: Callable[[str], str]) -> None:
    """The proof is printed and is JSON; erasing stands in the audit log without the name."""
    bob, session = ann.as_member(fresh("bob")), fresh("s")
    await bob.session(session).send(WORDS, to="nobody")
    dry = await asyncio.to_thread(command, "erase", "--member", bob.member, "--dry-run", "--json")
    assert (dry.code, dry.json[0]["deleted"]) == (0, [session])
    done = await asyncio.to_thread(command, "erase", "--member", bob.member, "--yes", "--json")
    assert done.code == 0, done.out
    assert (done.json[0]["clean"], done.json[0]["deleted"], done.json[0]["left"]) == (True, [session], [])
    assert "backups" in done.json[0]["remains"]
    audit = await asyncio.to_thread(command, "audit", "--json")
    assert [one["erased"] for one in audit.json if one.get("what") == "erase"] == ["member"]
    assert bob.member not in audit.out
    assert (await asyncio.to_thread(command, "erase", "--yes")).code == 2


async def test_old_sessions_are_deleted_whole_and_slowly(
    ann: Broker, command: Any, fresh: Callable[[str], str]
) -> None:
    """By their last event; --closed spares those in which something waits; a dry run deletes nothing."""
    from datetime import timedelta

    rest, waits = fresh("rest"), fresh("waits")
    await ann.session(rest).create()
    await ann.session(waits).send("hello", to="nobody")
    none = [one async for one in retain(ann, timedelta(hours=1))]
    assert none == []
    found = {one.session: one async for one in retain(ann, timedelta(0), dry_run=True)}
    assert (found[rest].at_rest, found[waits].at_rest, found[rest].deleted) == (True, False, False)
    gone = {one.session: one.deleted async for one in retain(ann, timedelta(0), closed=True, per_second=1000)}
    assert (gone[rest], gone[waits]) == (True, False)
    assert waits in await session_names(ann, 0)
    assert rest not in await session_names(ann, 0)
    assert (await asyncio.to_thread(command, "retain")).code == 2
    listed = await asyncio.to_thread(command, "retain", "--older-than", "1d", "--dry-run", "--json")
    assert (listed.code, listed.json) == (0, [])
    assert "no session's last event is older than 1d" in listed.err


async def test_limits_of_the_streams_are_set_and_taken_back(ann: Broker) -> None:
    """Age and bytes of every shard; the rest of its definition stays."""
    before = (await ann.log.info(0))["config"]
    await set_limits(ann, age_seconds=60, bytes_=1_000_000)
    found = (await ann.log.info(0))["config"]
    assert (found["max_age"], found["max_bytes"], found["duplicate_window"]) == (60 * 10**9, 1_000_000, 60 * 10**9)
    await set_limits(ann, age_seconds=0, bytes_=-1)
    assert (await ann.log.info(0))["config"] == before
