"""Asks over HTTP: whoever has only the gateway asks, answers and sees what is decided like everybody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx


@pytest.fixture
async def asks(gateway: Any, fresh: Callable[[str], str]) -> str:
    """The path of the asks of a session that exists."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    return f"/sessions/{name}/asks"


def problem(answer: httpx.Response, status: int, *words: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    for word in words:
        assert word in answer.json()["detail"]


async def test_an_ask_is_asked_found_waited_for_answered_and_seen_in_the_view(gateway: Any, asks: str) -> None:
    """The same key asks once; whoever waits hears of the decision."""
    http = gateway.http
    body = {"text": "Refund?", "about": "approval", "to": ["bob"], "options": ["approve", "deny"], "from": "ann"}
    body |= {"seconds": 600, "escalations": [{"to": ["cat"], "after_seconds": 300}]}
    asked = await http.post(asks, json=body, headers={"idempotency-key": "my key"})
    again = await http.post(asks, json=body, headers={"idempotency-key": "my key"})
    one = f"{asks}/{asked.json()['ask']}"
    opened = (await http.get(asks, params={"status": "open"})).json()["asks"]
    waiting = asyncio.create_task(http.get(one, params={"wait": "30"}))
    answered = await http.post(f"{one}/answer", json={"value": "approve", "comment": "fair", "from": "bob"})
    decided = (await waiting).json()
    view = (await http.get(asks.removesuffix("/asks"))).json()

    assert (asked.status_code, again.status_code) == (201, 200)
    assert again.json() == asked.json() | {"until": again.json()["until"]}
    assert asked.json()["status"] == "open"
    assert [(ask["ask"], ask["from"], ask["to"]) for ask in opened] == [(asked.json()["ask"], "ann", ["bob"])]
    assert answered.status_code == 200
    assert answered.json() == decided == view["asks"][0]
    assert (decided["status"], decided["value"], decided["by"]) == ("decided", "approve", ["bob"])
    assert decided["answers"][0]["comment"] == "fair"
    assert (await http.get(asks, params={"status": "open"})).json() == {"asks": []}
    assert len((await http.get(asks)).json()["asks"]) == 1


async def test_what_would_not_count_is_refused_with_the_reason(gateway: Any, asks: str) -> None:
    http = gateway.http
    asked = await http.post(asks, json={"to": ["bob"], "options": ["yes", "no"], "from": "ann"})
    one = f"{asks}/{asked.json()['ask']}"

    problem(await http.post(f"{one}/answer", json={"value": "yes", "from": "cat"}), 403, "cat is not asked, only bob")
    problem(await http.post(f"{one}/answer", json={"value": "so", "from": "bob"}), 422, "'so'", "yes, no")
    problem(await http.post(f"{asks}/other/answer", json={"value": "yes"}), 404, "no ask 'other'")
    problem(await http.get(f"{asks}/other"), 404)
    problem(await http.get(f"{asks}/other", params={"wait": "5"}), 404)
    problem(await http.post(f"{one}/withdraw", json={"from": "bob"}), 403, "ann has asked it")
    assert (await http.post(f"{one}/answer", json={"value": "yes", "from": "bob"})).status_code == 200
    assert (await http.post(f"{one}/answer", json={"value": "yes", "from": "bob"})).status_code == 200
    problem(await http.post(f"{one}/answer", json={"value": "no", "from": "bob"}), 409, "decided already: 'yes' by bob")
    problem(await http.post(f"{one}/withdraw", json={"from": "ann"}), 409, "decided already")
    problem(await http.post(asks, json={"text": "Other?", "id": asked.json()["ask"]}), 409, "new id")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"to": ["a.b"]}, "valid name"),
        ({"to": "bob"}, "to:"),
        ({"to": ["bob"], "quorum": 3}, "3 of 1"),
        ({"options": []}, "options"),
        ({"options": ["a"], "veto": "b"}, "veto"),
        ({"rule": "loudest"}, "rule"),
        ({"rule": "lowest"}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 1e300}, "seconds"),
        ({"to": ["b"], "seconds": 1, "escalations": [{"to": ["c"], "after_seconds": 2}]}, "escalations"),
        ({"escalations": [{"to": ["c"]}]}, "after_seconds"),
        ({"id": "a b"}, "valid name"),
        ({"from": "a b"}, "valid name"),
        ({"run": {"agent": "x", "run": "y"}}, "run"),
    ],
)
async def test_an_ask_that_could_not_work_is_refused(gateway: Any, asks: str, body: dict[str, Any], word: str) -> None:
    """Among them an ask in the name of a run: only its agent can ask for it."""
    problem(await gateway.http.post(asks, json=body), 400, word)

    assert (await gateway.http.get(asks)).json() == {"asks": []}


async def test_wrong_queries_names_and_sessions_are_refused(gateway: Any, asks: str) -> None:
    http = gateway.http

    problem(await http.get(asks, params={"status": "closed"}), 400, "closed", "withdrawn")
    problem(await http.get(f"{asks}/q", params={"wait": "soon"}), 400, "wait")
    problem(await http.get(f"{asks}/q", params={"wait": "61"}), 400, "wait")
    problem(await http.get(f"{asks}/a.b"), 400, "valid name")
    problem(await http.post(f"{asks}/a.b/answer", json={"value": 1}), 400, "valid name")
    problem(await http.post(f"{asks}/q/answer", json={}), 400, "value")
    problem(await http.get("/sessions/nobody-began-it/asks"), 404, "does not exist")
    problem(await http.post("/sessions/nobody-began-it/asks", json={}), 404, "does not exist")


async def test_an_ask_expires_and_a_wait_for_it_ends(gateway: Any, asks: str) -> None:
    """A wait that is too short shows the ask as it is."""
    http = gateway.http
    short = (await http.post(asks, json={"text": "Now?", "seconds": 0.5})).json()["ask"]
    long = (await http.post(asks, json={"text": "Ever?"})).json()["ask"]
    expired = (await http.get(f"{asks}/{short}", params={"wait": "40"}, timeout=60)).json()
    still = (await http.get(f"{asks}/{long}", params={"wait": "1"})).json()
    withdrawn = (await http.post(f"{asks}/{long}/withdraw", json={"reason": "never mind"})).json()

    assert (expired["status"], still["status"]) == ("expired", "open")
    assert (withdrawn["status"], withdrawn["reason"]) == ("withdrawn", "never mind")
    problem(await http.post(f"{asks}/{short}/answer", json={"value": 1, "from": "bob"}), 409, "expired already")
