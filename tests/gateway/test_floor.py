"""The floor, whispers, notes and the brief over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_controls import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from orchestrator_free import Run


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def http(gateway: Any) -> httpx.AsyncClient:
    return gateway.http  # type: ignore[no-any-return]


@pytest.fixture
async def session(http: httpx.AsyncClient, name: str) -> str:
    answer = await http.post("/sessions", json={"title": "Parcel", "agents": [name]})
    return str(answer.json()["session"])


async def step(http: httpx.AsyncClient, session: str, step: str, member: str, **more: Any) -> httpx.Response:
    return await http.post(f"/sessions/{session}/floor", json={"step": step, "from": member, **more})


async def test_a_hand_off_over_http(http: httpx.AsyncClient, session: str, name: str) -> None:
    """Request, accept, return; each answers with the whole state and its position, which the view and the floor show."""
    none = await http.get(f"/sessions/{session}/floor")
    asked = await step(http, session, "request", name, to="desk", reason="too hard")
    taken = await step(http, session, "accept", "ann")
    back = await step(http, session, "return", "ann", reason="solved")
    floor = (await http.get(f"/sessions/{session}/floor")).json()
    view = (await http.get(f"/sessions/{session}")).json()

    assert (none.status_code, none.json()["holder"], none.json()["history"]) == (200, None, [])
    assert asked.status_code == taken.status_code == back.status_code == 200
    assert asked.json()["request"] == {"from": name, "to": "desk", "reason": "too hard"}
    assert (taken.json()["holder"], taken.json()["request"]) == ("ann", None)
    assert back.json()["holder"] is None
    assert [one["step"] for one in floor["history"]] == ["request", "accept", "return"]
    assert view["floor"]["revision"] == floor["revision"] == int(back.json()["position"].rpartition("-")[2])
    assert view["floor"]["history"] == floor["history"]


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"step": "return", "from": "ann"}, 409, "nobody has the floor"),
    ({"step": "accept", "from": "ann"}, 403, "carl is asked to take the floor, not ann"),
    ({"step": "decline", "from": "ann"}, 403, "carl is asked"),
    ({"step": "request", "from": "ann", "to": "dora"}, 409, "bob has asked carl already"),
    ({"step": "request", "from": "ann"}, 400, "name who is asked"),
    ({"step": "request", "from": "bob", "to": "all"}, 400, "the floor is for one"),
    ({"step": "request", "from": "bob", "to": "a b"}, 400, "to 'a b'"),
    ({"step": "take", "from": "a.b"}, 400, "from 'a.b'"),
    ({"step": "take", "from": "ann", "to": "bob"}, 400, "for nobody else"),
    ({"step": "dance", "from": "ann"}, 400, "step"),
    ({"from": "ann"}, 400, "step"),
    ({"step": "take", "holder": "ann"}, 400, "holder"),
    ({"step": "take", "reason": "x" * 2001}, 400, "reason"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD)
async def test_a_wrong_step_is_a_problem_document(
    http: httpx.AsyncClient, session: str, body: dict[str, Any], status: int, words: str
) -> None:
    """403 for somebody else's step, 409 for one that does not fit, 400 for one that is none; nothing changes."""
    await step(http, session, "request", "bob", to="carl")
    before = (await http.get(f"/sessions/{session}/floor")).json()
    answer = await http.post(f"/sessions/{session}/floor", json=body)
    problem = answer.json()

    assert (answer.status_code, problem["status"]) == (status, status)
    assert words in problem["detail"]
    assert (await http.get(f"/sessions/{session}/floor")).json() == before


async def test_a_session_that_is_not_there_has_no_floor(http: httpx.AsyncClient) -> None:
    """404, and nothing is begun."""
    answers = [await http.get("/sessions/nope/floor"), await http.get("/sessions/nope/brief")]
    answers.append(await step(http, "nope", "take", "ann"))

    assert [answer.status_code for answer in answers] == [404] * 3


async def test_of_many_who_take_a_request_over_http_one_has_it(
    http: httpx.AsyncClient, session: str, name: str
) -> None:
    """200 once, 409 for all others, who hear who was first."""
    await step(http, session, "request", name, to="desk")
    answers = await asyncio.gather(*(step(http, session, "accept", f"m{number}") for number in range(12)))
    holder = (await http.get(f"/sessions/{session}/floor")).json()["holder"]
    lost = [answer.json()["detail"] for answer in answers if answer.status_code == 409]

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
    assert all(f"{holder} was faster" in detail for detail in lost)


async def test_whispers_and_notes_over_http(
    http: httpx.AsyncClient, broker_url: str, session: str, name: str, eventually: Any
) -> None:
    """A whisper reaches the agent though another has the floor and is marked; a note is there to be read."""

    async def echo(run: Run) -> None:
        await run.text(f"to {run.input.sender}: {run.input.text}")

    async with serving(broker_url, name, echo):
        await step(http, session, "take", "ann")
        note = {"from": "ann", "to": "cust", "text": "One moment.", "note": True}
        whisper = {"from": "ann", "to": name, "text": "stock?", "whisper": True}
        sent = [await http.post(f"/sessions/{session}/inputs", json=body) for body in (note, whisper)]
        run = sent[1].json()["run"]

        async def answered() -> Any:
            view = (await http.get(f"/sessions/{session}")).json()
            return [one for agent in view["agents"] for one in agent["runs"] if one["finished"]]

        runs = await eventually(answered)
    inputs = (await http.get(f"/sessions/{session}")).json()["inputs"]

    assert [answer.status_code for answer in sent] == [202, 202]
    assert [(one["run"], one["whisper"], one["parts"][0]["text"]) for one in runs] == [(run, True, "to ann: stock?")]
    assert [(one["text"], one["note"], one["whisper"]) for one in inputs] == [
        ("One moment.", True, False),
        ("stock?", False, True),
    ]


async def test_the_brief_is_json_or_markdown(http: httpx.AsyncClient, session: str, name: str) -> None:
    """By the Accept header."""
    await http.post(f"/sessions/{session}/inputs", json={"from": "cust", "to": "all", "text": "Where is it?"})
    await step(http, session, "request", name, to="desk", reason="lost parcel")
    plain = await http.get(f"/sessions/{session}/brief")
    words = await http.get(f"/sessions/{session}/brief", headers={"accept": "text/markdown"})

    assert plain.headers["content-type"] == "application/json"
    assert plain.json()["asked"][0]["text"] == "Where is it?"
    assert plain.json()["floor"]["request"]["reason"] == "lost parcel"
    assert words.headers["content-type"].startswith("text/markdown")
    assert words.text.startswith("# Parcel\n")
    assert "cust → all: Where is it?" in words.text


async def test_the_document_describes_the_floor_and_the_brief(http: httpx.AsyncClient) -> None:
    """So does /docs."""
    paths = (await http.get("/openapi.json")).json()["paths"]

    assert set(paths["/sessions/{session}/floor"]) == {"parameters", "get", "post"}
    assert "text/markdown" in str(paths["/sessions/{session}/brief"]["get"]["responses"]["200"])
    assert {"whisper", "note"} <= set(
        paths["/sessions/{session}/inputs"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "properties"
        ]
    )
