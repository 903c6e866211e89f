"""The commands of asks: a person at a terminal approves, denies, answers and asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker

Fresh = "Callable[[str], str]"


@pytest.fixture
async def session(ann: Broker, fresh: Fresh) -> Any:
    session = ann.session(fresh("s"))
    await session.create()
    return session


async def test_an_approval_is_listed_shown_and_approved(command: Any, session: Any) -> None:
    """Without its id, as long as it is the only one; then there is nothing to approve."""
    options = {"about": "approval", "options": ["approve", "deny"], "veto": "deny"}
    asked = await session.asks.ask("Refund \x1b[31m40 €?", to=["bob"], **options)
    listed = command("asks", session.id)
    shown = command("show", session.id)
    other = command("approve", session.id, "--from", "cat")
    done = command("approve", session.id, "--from", "bob", "--comment", "fair", "--json")
    empty = command("asks", session.id)
    none = command("approve", session.id, "--from", "bob")
    late = command("deny", session.id, asked.ask, "--from", "bob")

    assert asked.ask in listed.out
    assert "open  ann → bob  approval: Refund" in listed.out
    assert "\x1b[31m" not in listed.out + shown.out
    assert asked.ask in shown.out
    assert (other.code, "cat is not asked" in other.err) == (1, True)
    assert (done.code, done.json[0]["value"], done.json[0]["answers"][0]["comment"]) == (0, "approve", "fair")
    assert (empty.code, empty.out) == (0, "")
    assert (none.code, "no approval is open" in none.err) == (2, True)
    assert (late.code, "decided already: 'approve' by bob" in late.err) == (1, True)
    assert "approve, by bob" in command("asks", session.id, "--all").out


async def test_a_question_is_asked_and_answered_with_words_or_json(command: Any, session: Any) -> None:
    """The same id asks once; with options the words are one of them, even if they look like JSON."""
    asked = command("ask", session.id, "How many?", "--to", "bob", "--seconds", "600", "--id", "q1", "--json")
    again = command("ask", session.id, "How many?", "--to", "bob", "--seconds", "600", "--id", "q1", "--json")
    json = command("answer", session.id, "q1", '{"n": 7}', "--from", "bob", "--json")
    command("ask", session.id, "Which?", "--option", "1", "--option", "2", "--id", "q2")
    words = command("answer", session.id, "q2", "1", "--from", "bob", "--json")
    command("ask", session.id, "Why?", "--id", "q3")
    plain = command("answer", session.id, "q3", "because it is so", "--from", "bob", "--json")

    assert asked.code == again.code == 0
    assert asked.json[0]["sequence"] == again.json[0]["sequence"]
    assert json.json[0]["value"] == {"n": 7}
    assert words.json[0]["value"] == "1"
    assert plain.json[0]["value"] == "because it is so"


async def test_waiting_for_a_decision_ends_with_it_or_with_the_time(command: Any, session: Any) -> None:
    expired = command("ask", session.id, "Now?", "--seconds", "0.5", "--wait", "30", "--json")
    impatient = command("ask", session.id, "Ever?", "--id", "q", "--wait", "0.5")
    withdrawn = command("withdraw", session.id, "q", "--reason", "never mind", "--json")

    assert (expired.code, expired.json[0]["status"]) == (0, "expired")
    assert (impatient.code, "not decided yet" in impatient.err) == (1, True)
    assert (withdrawn.code, withdrawn.json[0]["reason"]) == (0, "never mind")


async def test_what_is_wrong_ends_with_a_code_that_means_something(command: Any, session: Any) -> None:
    assert command("asks", "nobody-began-it").code == 3
    assert command("answer", session.id, "other", "1").code == 3
    assert command("ask", session.id, "Go?", "--to", "a.b").code == 2
    assert command("ask", session.id, "Go?", "--quorum", "0").code == 2
    assert command("withdraw", session.id, "other").code == 3
