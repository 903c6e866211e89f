"""`edit`, `regenerate`, `branch` and `fork` as commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def test_going_back_from_the_command_line(command: Any, fresh: Callable[[str], str]) -> None:
    """The tree is shown after each step; the fork has the history of the selected position."""
    session, copy = fresh("s"), fresh("fork")
    for id in ("one", "two"):
        assert command("send", session, id, "--to", "critic", "--id", id).code == 0
    (edited,) = command("edit", session, "two", "-", "--json", stdin="zwei").json
    (again,) = command("regenerate", session, "user/one", "--to", "writer", "--json").json

    selected = command("branch", session, edited["input"])
    (tree,) = command("branch", session, "--json").json
    assert [(one["text"], one["to"], one["selected"]) for one in tree["inputs"]] == [
        ("one", ["critic"], True), ("two", ["critic"], False), ("zwei", ["critic"], True), ("one", ["writer"], False),
    ]  # fmt: skip
    lines = [line.strip() for line in selected.out.splitlines()]
    assert lines == [
        "● user/one → critic: one", "○ user/two → critic: two", f"● user/{edited['input']} → critic: zwei",
        f"○ user/{again['input']} → writer: one",
    ]  # fmt: skip

    shown = command("show", session).out
    assert "user → critic: two (another branch)" in shown
    assert "user → critic: zwei\n" in shown

    (made,) = command("fork", session, "--as", copy, "--at", edited["position"], "--title", "Other", "--json").json
    (view,) = command("show", copy, "--json").json
    assert made["session"] == copy
    assert (view["meta"]["title"], view["meta"]["forked_from"]["position"]) == ("Other", edited["position"])
    assert [entry["text"] for entry in view["inputs"]] == ["one", "two", "zwei"]


def test_what_makes_no_sense_ends_with_a_line_that_says_so(command: Any, fresh: Callable[[str], str]) -> None:
    """2 for wrong input, 3 for a session that is not there, 1 for what cannot be done."""
    session = fresh("s")
    command("send", session, "one", "--to", "critic", "--id", "one")
    cases = [
        (2, "has no input", ("edit", session, "nobody", "x")),
        (2, "has no input", ("regenerate", session, "bob/one")),
        (2, "has no input", ("branch", session, "nobody")),
        (2, "not a position", ("fork", session, "--at", "yesterday")),
        (1, "recreated", ("fork", session, "--at", "00000000-1")),
        (3, "there is no session", ("branch", fresh("s"))),
        (3, "there is no session", ("fork", fresh("s"))),
    ]
    for code, words, arguments in cases:
        done = command(*arguments)
        assert (done.code, words in done.err, done.out) == (code, True, ""), (arguments, done.err)
