"""Dead letters: one list of what was given up; retried under the rules of branches, or dismissed, and that is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Run
from orchestrator_free.errors import InvalidInput, LetterNotFound
from orchestrator_free.operations import letters
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker


async def failed(ann: Broker, session: str, agent: str) -> Any:
    """Let a run be given up: an input and the end of its run, as an agent writes it after its last attempt."""
    sent = await ann.session(session).send("do it", to=agent, data={"n": 1})
    body = {
        "type": "run.finished", "status": "failed", "attempt": 4, "input": f"ann/{sent.input}", "parts": [],
        "error": "gave up after 3 attempts without a result",
    }  # fmt: skip
    await ann.as_member(agent).session(session).append("run", body, id=sent.run, expect=0)
    return sent


async def test_a_run_that_was_given_up_is_asked_again_beside_it(ann: Broker, fresh: Callable[[str], str]) -> None:
    """The new answer has a branch of its own, the old one stays as it ended; the letter is gone from the list."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    sent = await failed(ann, session.id, name)
    [letter] = await letters.letters(ann, session=session.id)
    assert (letter.kind, letter.member, letter.about) == ("run", name, f"ann/{sent.input}")

    async def answer(run: Run) -> None:
        await run.text(f"{run.input.text} {run.input.data['n']}")

    async with serving(ann.log.wire.options.url, name, answer):
        again = await letters.retry(ann, await letters.find(ann, letter.id))
        run = await session.result(name, again["run"], timeout=30)
    assert run["parts"][0]["text"] == "do it 1"
    view = await session.view()
    assert {run["status"] for agent in view["agents"] for run in agent["runs"]} == {"failed", "done"}
    assert [entry["siblings"] for entry in view["inputs"]] == [2, 2]
    assert await letters.letters(ann, session=session.id) == []
    with pytest.raises(LetterNotFound):
        await letters.find(ann, letter.id)
    assert await letters.retry(ann, letter) == again, "asked again because the answer was lost, it is sent once"
    assert len((await session.view())["inputs"]) == 2


async def test_a_delegated_run_is_not_retried_behind_the_back_of_who_delegated_it(
    ann: Broker, fresh: Callable[[str], str]
) -> None:
    """Its parent was told that it failed; the refusal says what to do."""
    session, name = ann.session(fresh("s")), fresh("critic")
    sent = await session.send("check", to=name, parent={"agent": "ann", "run": "0" * 24})
    body = {"type": "run.finished", "status": "failed", "attempt": 4, "input": f"ann/{sent.input}", "parts": []}
    await ann.as_member(name).session(session.id).append("run", body, id=sent.run, expect=0)
    [letter] = await letters.letters(ann, agent=name)

    with pytest.raises(InvalidInput, match="retry that run's own input"):
        await letters.retry(ann, letter)


async def test_a_control_that_expired_is_given_anew_without_its_deadline(
    ann: Broker, fresh: Callable[[str], str]
) -> None:
    """For the agent that let it expire, with another id."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    given = await session.control.steer("shorter", to=name, within_seconds=0.01)
    await (
        ann.as_member(name)
        .session(session.id)
        .append("outcome", {"type": "outcome", "state": "expired"}, id=given.control)
    )
    [letter] = await letters.letters(ann, session=session.id)
    again = await letters.retry(ann, letter)

    controls = {control["control"]: control for control in (await session.view())["controls"]}
    assert controls[again["control"]]["text"] == "shorter"
    stored = await ann.log.last(0, f"session.0.{session.id}.ann.ctl.{name}.{again['control']}")
    assert b"deadline" not in stored.payload
    assert await letters.letters(ann, session=session.id) == []


async def test_on_the_command_line(ann: Broker, command: Any, fresh: Callable[[str], str]) -> None:
    """List, retry, dismiss; an unknown one is exit code 3."""
    session, name = fresh("s"), fresh("writer")
    first, second = await failed(ann, session, name), await failed(ann, session, name)
    listed = await asyncio.to_thread(command, "deadletters", "--session", session, "--json")
    assert [one["about"] for one in listed.json] == [f"ann/{first.input}", f"ann/{second.input}"]
    people = await asyncio.to_thread(command, "deadletters", "--session", session)
    assert "gave up" in people.out
    retried = await asyncio.to_thread(command, "deadletters", "retry", listed.json[0]["id"], "--from", "ann", "--json")
    assert retried.code == 0
    assert retried.json[0]["run"] != first.run
    gone = await asyncio.to_thread(command, "deadletters", "dismiss", listed.json[1]["id"], "--reason", "a test")
    assert gone.code == 0
    assert (await asyncio.to_thread(command, "deadletters", "--session", session, "--json")).json == []
    assert (await asyncio.to_thread(command, "deadletters", "retry", listed.json[1]["id"])).code == 3
    view = await ann.session(session).view()
    assert not view["notices"], "a view shows notifications, not what operators do"
