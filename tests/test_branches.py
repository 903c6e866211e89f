"""Branches: what is edited or asked again stays beside what stands for it, and everybody looks at the same branch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest

from orchestrator_free import Fold, connect
from orchestrator_free.errors import Conflict, InvalidEvent, InvalidInput, SessionNotFound
from orchestrator_free.events import Event
from orchestrator_free.subjects import address, run_id
from orchestrator_free.views.conversation import conversation
from tests.inside import serving, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker, Run, Session

View = dict[str, Any]


async def echo(run: Run) -> None:
    """Answer with what it was asked, and how much was said before."""
    before = [turn["text"] for turn in await run.history()]
    await run.text(f"{run.input.text} after {before}")


async def endless(run: Run) -> None:
    """Write until it is stopped."""
    for number in range(100_000):
        await run.text(f"w{number} ")
        await asyncio.sleep(0.01)


def names(references: list[View]) -> list[str]:
    return [one["input"] for one in references]


def words(turns: list[View]) -> list[str]:
    return [turn["text"] for turn in turns]


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


async def say(session: Session, name: str, text: str) -> str:
    """Send an input; return its id."""
    return (await session.send(text, to=name)).input


# -- the tree -------------------------------------------------------------------------------------------------------


async def test_an_edited_input_stands_beside_the_old_one_and_everybody_looks_at_it(
    session: Session, broker_url: str, name: str
) -> None:
    """The old one keeps what came after it; two clients and a late one see the same branch."""
    one, two = await say(session, name, "one"), await say(session, name, "two")
    three = await say(session, name, "three")

    sent = await session.branches.edit(two, "zwei")

    async with connect(broker_url, member="bob") as bob:
        views = [await session.view(), await bob.session(session.id).view()]
    assert views[0] == views[1]
    entries = {entry["input"]: entry for entry in views[0]["inputs"]}
    assert names(views[0]["branch"]["path"]) == [one, sent.input]
    assert names(views[0]["branch"]["heads"]) == [three, sent.input]
    assert [entries[id]["siblings"] for id in (one, two, three, sent.input)] == [1, 2, 1, 2]
    assert entries[sent.input]["after"] == entries[two]["after"] == {"from": "ann", "input": one}
    assert entries[three]["after"] == {"from": "ann", "input": two}
    assert words(await session.branches.conversation()) == ["one", "zwei"]
    assert words(await session.branches.conversation(f"ann/{two}")) == ["one", "two", "three"]


async def test_clients_that_follow_see_the_branch_that_one_of_them_selects(
    session: Session, broker_url: str, name: str, eventually: Any
) -> None:
    """Selecting an input in the middle shows what came after it last; the next input goes on there."""
    one, two = await say(session, name, "one"), await say(session, name, "two")
    edited = await session.branches.edit(one, "eins")
    async with connect(broker_url, member="bob") as bob, watching(session) as mine:
        other = bob.session(session.id)
        async with watching(other) as his:
            await eventually(lambda: mine.branches.path() == his.branches.path() == [f"ann/{edited.input}"], 30)
            await other.branches.select(f"ann/{one}")
            old = [f"ann/{one}", f"ann/{two}"]
            await eventually(lambda: mine.branches.path() == his.branches.path() == old, 30)
            three = await other.send("three", to=name)
            await eventually(lambda: mine.branches.path() == his.branches.path() == [*old, f"bob/{three.input}"], 30)
            view = await session.view()
            assert view["branch"] == mine.branches.view() == his.branches.view()


async def test_edits_of_edits_and_of_earlier_inputs_are_all_kept(session: Session, name: str) -> None:
    """Siblings of the first input, an edit of an edit, an edit below an edit."""
    one = await say(session, name, "1")
    two = await say(session, name, "1.1")
    second = (await session.branches.edit(two, "1.2")).input
    third = (await session.branches.edit(second, "1.3")).input
    deep = await say(session, name, "1.3.1")
    await session.branches.edit(deep, "1.3.2")
    other = (await session.branches.edit(one, "2")).input
    back = (await session.branches.go_on(two, "1.1.1", to=name)).input

    tree = await session.branches.tree()
    inputs = {entry["input"]: entry for entry in tree["inputs"]}
    assert names(inputs[one]["next"]) == [two, second, third]
    assert [inputs[id]["after"] for id in (one, other)] == [None, None]
    assert [entry["text"] for entry in tree["inputs"] if entry["selected"]] == ["1", "1.1", "1.1.1"]
    assert names(tree["path"]) == [one, two, back]
    ends = [turns[-1]["text"] for head in tree["heads"] if (turns := await conversation_of(session, head))]
    assert ends == ["1.2", "1.3.1", "1.3.2", "2", "1.1.1"]


async def conversation_of(session: Session, head: View) -> list[View]:
    return await session.branches.conversation(f"{head['from']}/{head['input']}")


async def test_an_input_to_several_agents_is_one_place_and_is_edited_for_all_of_them(
    session: Session, fresh: Callable[[str], str]
) -> None:
    """The new one goes to whom the old one went, with what came with it, unless it says otherwise."""
    agents = [fresh("a"), fresh("b")]
    sent = await session.send("both", to=agents, data={"n": 1})

    edited = await session.branches.edit(sent.input, "both again")
    other = await session.branches.edit(sent.input, "one", to=agents[0], data=None)

    entries = (await session.view())["inputs"]
    new = [entry for entry in entries if entry["input"] == edited.input]
    assert (sorted(entry["to"] for entry in new), [entry["data"] for entry in new]) == (agents, [{"n": 1}] * 2)
    assert [(e["to"], e["data"]) for e in entries if e["input"] == other.input] == [(agents[0], None)]
    assert {entry["siblings"] for entry in entries} == {3}


async def test_sending_an_edit_again_stores_it_once(session: Session, name: str) -> None:
    """With an id of one's own; the same id with other words is refused."""
    one = await say(session, name, "one")
    sent = [await session.branches.edit(one, "eins", id="e1") for _ in range(2)]

    assert [(one.input, one.repeated) for one in sent] == [("e1", False), ("e1", True)]
    with pytest.raises(Conflict, match="e1"):
        await session.branches.edit(one, "uno", id="e1")


async def test_edits_at_the_same_moment_are_all_kept_and_one_is_shown_to_everybody(
    session: Session, broker_url: str, name: str, eventually: Any
) -> None:
    """Two people, ten edits each: the log's order decides, a client that followed and one that came late agree."""
    one = await say(session, name, "one")
    async with connect(broker_url, member="bob") as bob, watching(session) as live:
        other = bob.session(session.id)
        edits = [who.branches.edit(f"ann/{one}", f"edit {n}") for n in range(10) for who in (session, other)]
        sent = await asyncio.gather(*edits)
        last = max(sent, key=lambda each: each.position.sequence)
        view = await other.view()
        await eventually(lambda: live.sequence >= last.position.sequence, 30)

    assert {entry["siblings"] for entry in view["inputs"]} == {21}
    assert names(view["branch"]["path"]) == [last.input]
    assert live.branches.view() == view["branch"]


async def test_notes_and_whispers_belong_to_the_branch_on_which_they_were_said(session: Session, name: str) -> None:
    """They are no place of their own: nobody answers below them; a whisper is not for the person who is served."""
    one = await say(session, name, "one")
    await session.send("a note", to=name, note=True)
    await session.send("a whisper", to=name, whisper=True)
    await session.branches.edit(one, "eins")

    view = await session.view()
    assert [(entry["after"], entry["siblings"]) for entry in view["inputs"][1:3]] == [
        ({"from": "ann", "input": one}, 0)
    ] * 2
    old = conversation(view, branch=f"ann/{one}")
    assert [note["text"] for note in old[0]["notes"]] == ["a note"]
    assert [note["text"] for note in conversation(view, branch=f"ann/{one}", whispers=True)[0]["notes"]] == [
        "a note", "a whisper",
    ]  # fmt: skip
    assert conversation(view)[0]["notes"] == []


# -- agents ---------------------------------------------------------------------------------------------------------


async def test_an_agent_that_answers_an_edited_input_knows_what_is_before_it_and_not_what_it_replaces(
    session: Session, broker_url: str, name: str
) -> None:
    """`run.history()` is the branch before its input, with the answers."""
    seen: list[list[View]] = []

    async def remember(run: Run) -> None:
        seen.append(await run.history())
        await run.text(f"answer to {run.input.text}")

    async with serving(broker_url, name, remember):
        for text in ("one", "two", "three"):
            last = await session.send(text, to=name)
            await session.result(name, last.run, timeout=30)
        two = (await session.view())["inputs"][1]["input"]
        edited = await session.branches.edit(two, "zwei")
        await session.result(name, edited.run, timeout=30)
        again = await session.branches.regenerate(edited.input)
        await session.result(name, again.run, timeout=30)

    said = [[(turn["text"], [answer["text"] for answer in turn["answers"]]) for turn in turns] for turns in seen]
    first = ("one", ["answer to one"])
    assert said == [[], [first], [first, ("two", ["answer to two"])], [first], [first]]
    assert seen[1][0]["answers"][0] | {"parts": []} == {
        "agent": name, "run": run_id("ann", seen[1][0]["input"]), "status": "done", "text": "answer to one", "parts": [],
    }  # fmt: skip


async def test_an_agent_that_was_delegated_to_knows_the_conversation_of_the_one_that_asked(
    session: Session, broker_url: str, name: str, fresh: Callable[[str], str]
) -> None:
    """Up to the input that its parent answers, with what the parent has written so far."""
    child, seen = fresh("child"), []

    async def helper(run: Run) -> None:
        seen.extend(await run.history())

    async def lead(run: Run) -> None:
        await run.text("let me see")
        await run.data("flush", 1)
        await (await run.delegate(child, "help")).result(timeout=30)

    async with serving(broker_url, child, helper), serving(broker_url, name, lead):
        sent = await session.send("question", to=name)
        await session.result(name, sent.run, timeout=60)

    assert [(turn["text"], [answer["status"] for answer in turn["answers"]]) for turn in seen] == [
        ("question", ["running"])
    ]
    assert names((await session.view())["branch"]["path"]) == [sent.input]


async def test_an_edit_while_the_old_answer_streams_cancels_it(
    session: Session, broker_url: str, name: str, eventually: Any
) -> None:
    """What it had written stays on the old branch; with `cancel=False` it goes on."""
    async with serving(broker_url, name, endless, overlap="concurrent"), watching(session) as live:

        def status(run: str) -> str:
            found = live.run(name, run)
            return found.view()["status"] if found is not None and found.parts else ""

        old = await session.send("old", to=name)
        await eventually(lambda: status(old.run) == "running", 30)
        kept = await session.branches.edit(old.input, "kept", cancel=False)
        await eventually(lambda: status(kept.run) == "running", 30)
        assert status(old.run) == "running"

        new = await session.branches.edit(old.input, "new")
        await eventually(lambda: status(old.run) == "cancelled" and status(new.run) == "running", 30)
        assert status(kept.run) == "running"
        turns = conversation(live.view("0-0"), branch=f"ann/{old.input}")
        assert turns[0]["answers"][0]["text"].startswith("w0 w1 ")
        assert names(live.branches.view()["path"]) == [new.input]


@pytest.mark.parametrize("overlap", ["queue", "latest", "interrupt", "steer", "reject"])
async def test_an_edit_is_answered_whatever_the_agent_does_with_inputs_that_come_while_it_works(
    session: Session, broker_url: str, name: str, eventually: Any, overlap: Any
) -> None:
    """The old answer is cancelled before the new input is sent, so it stands in nobody's way."""
    async with serving(broker_url, name, endless, overlap=overlap), watching(session) as live:
        old = await session.send("old", to=name)
        await eventually(lambda: (run := live.run(name, old.run)) is not None and run.parts, 30)
        new = await session.branches.edit(old.input, "new")
        await eventually(lambda: (run := live.run(name, new.run)) is not None and run.parts, 30)
        found = live.run(name, old.run)
        assert found is not None
        assert found.view()["status"] == "cancelled"


async def test_an_edit_also_ends_what_waits_below_the_replaced_input(session: Session, name: str) -> None:
    """Nobody serves yet: the old input and the one after it are cancelled before they begin, the new one waits."""
    one = await session.send("one", to=name)
    two = await session.send("two", to="all")

    new = await session.branches.edit(one.input, "eins")

    view = await session.view()
    assert {(control["to"], control["run"]) for control in view["controls"]} == {(name, one.run), (name, two.run)}
    assert list(Fold.load(view).waiting()) == [(name, new.run)]


async def test_another_agent_answers_once_more(
    session: Session, broker_url: str, name: str, fresh: Callable[[str], str]
) -> None:
    """With the words and the data of the first input; both answers stay, each on its own branch."""
    other = fresh("other")
    async with serving(broker_url, name, echo), serving(broker_url, other, echo):
        first = await session.send("why?", to=name, data=[1])
        await session.result(name, first.run, timeout=30)
        again = await session.branches.regenerate(first.input, to=other)
        await session.result(other, again.run, timeout=30)

    view = await session.view()
    new = view["inputs"][1]
    assert (new["text"], new["data"], new["to"], new["siblings"]) == ("why?", [1], other, 2)
    assert [turn["answers"][0]["agent"] for turn in conversation(view)] == [other]
    assert [turn["answers"][0]["agent"] for turn in conversation(view, branch=f"ann/{first.input}")] == [name]
    assert view["controls"] == []


# -- plain NATS and nonsense ----------------------------------------------------------------------------------------


async def test_a_plain_nats_client_edits_asks_again_and_selects(session: Session, broker_url: str, name: str) -> None:
    """Nothing but messages: an input with `edits`, one with `again`, and `branch.selected` on its own meta."""
    one = await say(session, name, "one")
    here = f"session.{session.shard}.{session.id}.eve"
    known = {"from": "ann", "input": one}
    nc = await nats.connect(broker_url)
    try:
        js = nc.jetstream()
        for id, place in (("e1", "edits"), ("e2", "again"), ("e3", "after")):
            body = orjson.dumps({"type": "input", "text": id, place: known})
            await js.publish(f"{here}.in.{name}.{id}", body, headers={"Nats-Expected-Last-Subject-Sequence": "0"})
        chosen = {"type": "branch.selected", "input": {"from": "eve", "input": "e1"}}
        await js.publish(f"{here}.meta", orjson.dumps(chosen))
    finally:
        await nc.close()

    tree = await session.branches.tree()
    assert [(entry["input"], entry["after"]) for entry in tree["inputs"]] == [
        (one, None), ("e1", None), ("e2", None), ("e3", known),
    ]  # fmt: skip
    assert names(tree["path"]) == ["e1"]


@pytest.mark.parametrize("place", ["edits", "again", "after"])
async def test_a_place_that_makes_no_sense_is_refused_before_anything_is_sent(
    session: Session, ann: Broker, broker_url: str, name: str, place: Any, fresh: Callable[[str], str]
) -> None:
    """Unknown, of another session, itself, delegated, a note, or an id that two members have used."""
    other = ann.session(fresh("s"))
    foreign = await say(other, name, "elsewhere")
    await session.send("one", to=name, id="i1")
    await session.send("beside", to=name, id="n1", note=True)
    await session.send("for a run", to=name, id="d1", parent={"agent": name, "run": run_id("ann", "i1")})
    async with connect(broker_url, member="bob") as bob, connect(broker_url, member="cy") as cy:
        for who in (bob, cy):
            await who.session(session.id).send("mine", to=name, id="i2")
    before = await session.view()
    text = None if place == "again" else "x"

    for about, reason in (
        ("nobody", "has no input"), ("bob/i1", "has no input"), (f"ann/{foreign}", "has no input"), ("", "has no input"),
        ("n1", "said beside it"), ("d1", "delegated"), ("i2", "say which, bob/i2, cy/i2"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=reason):
            await session.branches.send(text, place=place, about=about, to=name)
        with pytest.raises(InvalidInput, match=reason):
            await session.branches.select(about)
    with pytest.raises(InvalidInput, match="itself"):
        await session.branches.send(text, place=place, about="i1", to=name, id="i1")
    with pytest.raises(InvalidInput, match=r"repeats|needs a text"):
        await session.branches.send(None if text else "x", place=place, about="i1", to=name)
    for wrong in ({"to": "a.b"}, {"to": []}, {"id": "a b"}):
        with pytest.raises(InvalidInput):
            await session.branches.send(text, place=place, about="i1", cancel=True, **wrong)
    with pytest.raises(SessionNotFound):
        await ann.session(fresh("s")).branches.send(text, place=place, about="i1", to=name)
    with pytest.raises(InvalidEvent, match=place):
        await session.send("x", to=name, place={place: {"from": "ann"}})
    assert await session.view() == before


def test_a_place_that_makes_no_sense_is_a_plain_input_for_every_reader() -> None:
    """Whoever writes it past the library: unknown, its own, not in a branch, several; the fold has one answer."""
    fold = Fold("s1")

    def put(id: str, kind: str = "in", **said: Any) -> list[str]:
        body = {"type": "input"} if kind == "in" else {"type": "branch.selected"}
        where = address(0, "s1", "ann", kind, target="a", id=id)
        fold.apply(Event(fold.sequence + 1, "2025-01-01T00:00:00Z", where, body | said))
        return [key.removeprefix("ann/") for key in fold.branches.path()]

    def ref(id: str) -> View:
        return {"from": "ann", "input": id}

    assert put("1", edits=ref("1")) == ["1"]
    assert put("2", after=ref("nobody")) == ["1", "2"]
    assert put("n", note=True) == put("w", whisper=True) == put("d", parent={"agent": "a", "run": "r"}) == ["1", "2"]
    assert put("3", edits=ref("n")) == ["1", "2", "3"]
    assert put("4", again=ref("d"), after=ref("1")) == ["1", "4"]
    assert put("5", edits=ref("4"), after=ref("3")) == ["1", "5"]
    assert put("", "meta", input=ref("nobody")) == put("", "meta", input=ref("n")) == ["1", "5"]
    assert fold.skipped == 2
    assert put("", "meta", input=ref("2")) == ["1", "2", "3"]
    redirected = {"agent": "a", "run": run_id("ann", "4")}
    assert put("6", redirects=redirected) == ["1", "2", "3"]
    assert fold.branches.path("ann/6") == ["ann/1", "ann/4", "ann/6"]
    assert put("7", redirects={"agent": "a", "run": run_id("ann", "2")}) == ["1", "2", "3", "7"]
    assert put("8", redirects={"agent": "a", "run": run_id("ann", "d")}) == ["1", "2", "3", "7"]
    assert put("9", redirects={"agent": "a", "run": run_id("ann", "8")}) == ["1", "2", "3", "7"]
    assert put("3") == ["1", "2", "3", "7"]
    loaded = Fold.load(orjson.loads(orjson.dumps(fold.view("ab12cd34-99"))))
    assert loaded.view("ab12cd34-99") == fold.view("ab12cd34-99")
