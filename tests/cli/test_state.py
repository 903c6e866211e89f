"""`state` and `tools` on the command line: for people and for pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.broker import Broker


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> str:
    """A session that exists."""
    name = fresh("s")
    await ann.session(name).create()
    return name


async def test_a_value_is_set_changed_read_and_removed(command: Any, session: str, ann: Broker) -> None:
    """What `get` prints is the value as JSON; what is said about it goes to standard error."""
    assert command("state", "set", session, "plan", '{"step": 1}', "--from", "eve").code == 0
    merged = command("state", "patch", session, "plan", '{"step": 2, "by": "me"}', "--json")
    patched = command("state", "patch", session, "plan", "-", stdin='[{"op": "remove", "path": "/by"}]')
    read = command("state", "get", session, "plan")
    history = command("state", "history", session, "plan", "--json")
    listed = command("state", "get", session)
    deleted, again = command("state", "delete", session, "plan"), command("state", "delete", session, "plan")

    assert merged.json[0].items() >= {"key": "plan", "value": {"step": 2, "by": "me"}, "by": "user"}.items()
    assert (patched.code, patched.out) == (0, "") and "plan is at revision" in patched.err
    assert read.json == [{"step": 2}]
    assert [(one["value"].get("step"), one["by"]) for one in history.json] == [(1, "eve"), (2, "user"), (2, "user")]
    assert 'plan {"step":2}' in listed.out
    assert (deleted.code, again.code) == (0, 3)
    assert await ann.session(session).state.get("plan") is None


async def test_what_goes_wrong_is_one_line_and_an_exit_code(command: Any, session: str) -> None:
    """1: somebody was first, or the patch does not apply. 2: what was passed is wrong. 3: not there."""
    command("state", "set", session, "k", "1", "--expect", "0")
    refused = command("state", "set", session, "k", "2", "--expect", "0")
    assert (refused.code, refused.out) == (1, "") and "but user set revision" in refused.err
    failed = command("state", "patch", session, "k", '[{"op": "test", "path": "", "value": 2}]')
    assert failed.code == 1 and "operation 0" in failed.err
    for arguments, words in (
        (("set", session, "k", "text"), "'\"like this\"'"),
        (("set", session, "a.b", "1"), "key 'a.b'"),
        (("patch", session, "k", "1"), "a patch is a list of operations"),
    ):
        done = command("state", *arguments)
        assert (done.code, done.out) == (2, ""), done.err
        assert done.err.startswith("error: ") and words in done.err
    assert command("state", "get", session, "none").code == 3
    assert command("state", "get", "never-begun", "k").code == 3


async def test_watching_prints_what_is_there_and_each_change(
    command: Any, session: str, ann: Broker, eventually: Any
) -> None:
    """One line each, for machines JSON."""
    state = ann.session(session).state
    await state.set("k", "first")
    watching = command.start("state", "watch", session, "k", "--json")
    await eventually(lambda: "first" in watching.output, 30)
    await state.set("other", 1)
    await state.set("k", "second")
    await state.delete("k")
    await eventually(lambda: '"deleted":true' in watching.output, 30)
    assert "second" in watching.output
    assert "other" not in watching.output


async def test_tools_are_a_table_or_lines_of_json(command: Any, session: str, ann: Broker) -> None:
    """Filters as of the library; what agents wrote cannot command the terminal."""
    where = f"session.{ann.session(session).shard}.{session}.ada.run.r1"
    for number, body in enumerate(
        (
            b'{"type":"run.started","attempt":1,"input":"ann/i1"}',
            b'{"type":"tool.input","call":"c1","tool":"search[/]","input":{"q":"\\u001b[2J"}}',
            b'{"type":"tool.error","call":"c1","error":"away \\u001b[31m"}',
            b'{"type":"tool.input","call":"c2","tool":"draft"}',
        )
    ):
        await ann.log.wire.publish(where, body, message_id=f"{session}{number}")
    table = command("tools", session)
    lines = command("tools", session, "--status", "error", "--agent", "ada", "--json")

    assert "search[/]" in table.out and "draft" in table.out and "away" in table.out
    assert "\x1b" not in table.out
    assert [one["tool"] for one in lines.json] == ["search[/]"]
