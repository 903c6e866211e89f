"""Branches and forks over HTTP: edit, ask again, go back, select, read a branch, fork; and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.events import decode
from orchestrator_free.fold import Fold
from orchestrator_free.subjects import run_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.broker import Broker


@pytest.fixture
async def session(gateway: Any, fresh: Callable[[str], str]) -> str:
    """A session with two inputs, `one` and `two`."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name, "title": "Review", "agents": ["critic"]})
    for id in ("one", "two"):
        sent = await gateway.http.post(f"/sessions/{name}/inputs", json={"text": id, "to": "critic", "id": id})
        assert sent.status_code == 202
    return name


def ref(id: str, sender: str = "user") -> dict[str, str]:
    return {"from": sender, "input": id}


async def shown(gateway: Any, session: str, **query: str) -> list[str]:
    """The words of a branch."""
    answer = await gateway.http.get(f"/sessions/{session}/conversation", params=query)
    assert answer.status_code == 200, answer.text
    return [turn["text"] for turn in answer.json()["turns"]]


async def test_an_input_is_edited_asked_again_and_gone_on_from(
    gateway: Any, session: str, ann: Broker, eventually: Any
) -> None:
    """The answer is that of any input; `to` and `data` are those of the other input unless given; the key repeats."""
    where = f"/sessions/{session}/inputs"
    edit = {"text": "zwei", "edits": ref("two")}
    answers = [await gateway.http.post(where, json=edit, headers={"idempotency-key": "k1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 200]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["run"] == run_id("user", "k1")
    await eventually(lambda: is_shown(gateway, session, ["one", "zwei"]), 30)

    again = await gateway.http.post(where, json={"again": ref("one"), "to": "writer", "from": "bob"})
    assert again.status_code == 202
    await eventually(lambda: is_shown(gateway, session, ["one"]), 30)
    assert (await gateway.http.post(where, json={"text": "three", "after": ref("two"), "data": 3})).status_code == 202
    await eventually(lambda: is_shown(gateway, session, ["one", "two", "three"]), 30)

    inputs = (await ann.session(session).view())["inputs"]
    assert [(entry["from"], entry["to"], entry["text"], entry["data"]) for entry in inputs[2:]] == [
        ("user", "critic", "zwei", None), ("bob", "writer", "one", None), ("user", "critic", "three", 3),
    ]  # fmt: skip


async def is_shown(gateway: Any, session: str, words: list[str]) -> bool:
    return await shown(gateway, session) == words


async def test_an_edit_cancels_what_answers_the_old_input_unless_told_not_to(
    gateway: Any, session: str, ann: Broker
) -> None:
    """Nobody has begun: both inputs are cancelled with the edit of the first one."""
    where, here = f"/sessions/{session}/inputs", ann.session(session)
    kept = {"text": "x", "edits": ref("two"), "cancel": False, "overlap": "interrupt"}
    assert (await gateway.http.post(where, json=kept)).status_code == 202
    assert (await here.view())["controls"] == []
    last = await here.log.last(here.shard, here.filter)
    assert last is not None
    assert decode(last.payload)["overlap"] == "interrupt"

    assert (await gateway.http.post(where, json={"text": "eins", "edits": ref("one"), "id": "e"})).status_code == 202

    view = await here.view()
    assert {control["from"] for control in view["controls"]} == {"user"}
    assert list(Fold.load(view).waiting()) == [("critic", run_id("user", "e"))]


async def test_a_branch_is_selected_for_every_gateway_and_reader(
    gateway: Any, session: str, serve: Any, ann: Broker, eventually: Any
) -> None:
    """Another gateway shows the same tree and the same view; the event stands in the feed of both."""
    where = f"/sessions/{session}"
    await gateway.http.post(f"{where}/inputs", json={"text": "eins", "edits": ref("one"), "id": "edited"})
    async with serve() as other, gateway.feed(session) as mine, other.feed(session) as his:
        chosen = await other.http.post(f"{where}/branch", json={"input": "user/one", "from": "bob"})
        assert chosen.status_code == 200
        position = chosen.json()["position"]
        for feed in (mine, his):
            await eventually(lambda feed=feed: position in feed.positions, 30)
        event = next(one.envelope for one in mine.events if one.id == position)
        assert (event["member"], event["kind"]) == ("bob", "meta")
        assert event["event"] == {"type": "branch.selected", "input": ref("one")}
        trees = [(await one.http.get(f"{where}/branches")).json() for one in (gateway, other)]
        view = await ann.session(session).view()

    assert trees[0] == trees[1] == {
        "position": view["position"], **view["branch"],
        "inputs": [
            {**ref("one"), "to": ["critic"], "text": "one", "after": None, "next": [ref("two")], "selected": True},
            {**ref("two"), "to": ["critic"], "text": "two", "after": ref("one"), "next": [], "selected": True},
            {**ref("edited"), "to": ["critic"], "text": "eins", "after": None, "next": [], "selected": False},
        ],
    }  # fmt: skip
    assert trees[0]["heads"] == [ref("two"), ref("edited")]
    assert await shown(gateway, session, branch="user/edited") == ["eins"]


async def test_a_session_is_forked_at_a_position(gateway: Any, session: str, ann: Broker) -> None:
    """201 with its address and where it comes from; the history is there, and it goes on by itself."""
    where = f"/sessions/{session}"
    view = (await gateway.http.get(where)).json()
    at = view["position"].rpartition("-")[0] + f"-{view['inputs'][0]['sequence']}"

    answer = await gateway.http.post(f"{where}/fork", json={"at": at, "title": "Other", "from": "bob"})

    assert answer.status_code == 201
    made = answer.json()
    assert made["forked_from"] == {"session": session, "position": at}
    assert answer.headers["location"] == f"/sessions/{made['session']}"
    copy = (await gateway.http.get(answer.headers["location"])).json()
    assert (copy["position"], copy["meta"]["title"], copy["meta"]["by"]) == (made["position"], "Other", "bob")
    assert [(entry["text"], entry["replayed"]) for entry in copy["inputs"]] == [("one", True)]
    assert (await gateway.http.get(where)).json() == view


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text": "x"}, "to: Field required"),
        ({"text": "x", "edits": {"from": "user", "input": "nobody"}}, "no input 'user/nobody'"),
        ({"text": "x", "after": {"from": "bob", "input": "one"}}, "no input 'bob/one'"),
        ({"text": "x", "again": {"from": "user", "input": "one"}}, "repeats the words"),
        ({"text": "x", "edits": {"input": "one"}}, "edits.from: Field required"),
        ({"text": "x", "edits": "one"}, "edits: Input should be"),
        ({"text": "x", "edits": {"from": "user", "input": "one"}, "id": "one"}, "itself"),
        ({"text": "x", "edits": {"from": "user", "input": "one"}, "to": "not a name"}, "not a name"),
        ({"text": "x", "edits": {"from": "user", "input": "one"}, "to": []}, "somebody it is for"),
        ({"text": "x", "edits": {"from": "user", "input": "one"}, "note": True}, "no place"),
        (
            {"text": "x", "edits": {"from": "user", "input": "one"}, "after": {"from": "user", "input": "one"}},
            "one of edits, again and after",
        ),
    ],
)
async def test_an_input_with_a_wrong_place_is_refused(
    gateway: Any, session: str, ann: Broker, body: dict[str, Any], says: str
) -> None:
    """400 with what was wrong; nothing was sent, nothing was cancelled."""
    before = await ann.session(session).view()
    answer = await gateway.http.post(f"/sessions/{session}/inputs", json=body)

    assert (answer.status_code, says in answer.json()["detail"]) == (400, True), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await ann.session(session).view() == before


async def test_wrong_branches_and_forks_are_problems(gateway: Any, session: str, fresh: Callable[[str], str]) -> None:
    """Each with its status: unknown input or session, lost position, taken id, wrong body."""
    where, epoch = f"/sessions/{session}", (await gateway.http.get(f"/sessions/{session}")).json()["position"][:8]
    nowhere = f"/sessions/{fresh('s')}"
    post, get = gateway.http.post, gateway.http.get
    answers = [
        (400, await post(f"{where}/branch", json={"input": "nobody"})),
        (400, await post(f"{where}/branch", json={})),
        (404, await post(f"{nowhere}/branch", json={"input": "one"})),
        (404, await get(f"{nowhere}/branches")),
        (404, await get(f"{nowhere}/conversation")),
        (400, await get(f"{where}/conversation", params={"branch": "user/nobody"})),
        (404, await post(f"{nowhere}/inputs", json={"text": "x", "edits": ref("one")})),
        (404, await post(f"{nowhere}/fork", json={})),
        (400, await post(f"{where}/fork", json={"at": "yesterday"})),
        (410, await post(f"{where}/fork", json={"at": f"{epoch}-999999999"})),
        (410, await post(f"{where}/fork", json={"at": "00000000-1"})),
        (409, await post(f"{where}/fork", json={"session": (await any_other(gateway, fresh))})),
        (400, await post(f"{where}/fork", json={"session": session})),
        (400, await post(f"{where}/fork", json={"session": "a.b"})),
        (400, await post(f"{where}/fork", json={"copy": True})),
    ]
    for status, answer in answers:
        assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
        assert answer.json()["detail"]


async def any_other(gateway: Any, fresh: Callable[[str], str]) -> str:
    name = fresh("taken")
    await gateway.http.post("/sessions", json={"session": name})
    return name
