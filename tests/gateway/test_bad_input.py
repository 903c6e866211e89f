"""What is wrong is refused with a problem document that says what to do, before anything reaches the broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

SCHEMA = Path(__file__).parents[2] / "broker" / "schemas" / "problem.json"
PROBLEM = Draft202012Validator(json.loads(SCHEMA.read_text()))
NAMES = [
    "a.b", "*", ">", "a b", "x" * 65, "x" * 200, "a\r\nx: y", "a\nb", "\0", "é", "а", "\u2028", "a\tb", "$JS", ".a", "a%b",
    "a=b", "'; drop table", "<script>",
]  # fmt: skip
MIB = 1024 * 1024


def problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that an answer is a problem document of a status, whose detail has these words."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    PROBLEM.validate(body)
    assert (answer.status_code, body["status"]) == (status, status)
    assert body["title"]
    for word in words:
        assert word in body["detail"]
    return body


@pytest.fixture
async def session(gateway: Any, fresh: Callable[[str], str]) -> str:
    """A session that exists."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    return name


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_cannot_be_in_a_subject_is_refused_everywhere(gateway: Any, session: str, name: str) -> None:
    """In paths, bodies and queries; 400, the name is shown, the characters that are allowed are listed."""
    http, path = gateway.http, quote(name, safe="")
    answers = [
        await http.get(f"/sessions/{path}"),
        await http.delete(f"/sessions/{path}"),
        await http.get(f"/sessions/{path}/events"),
        await http.post(f"/sessions/{path}/inputs", json={"to": "ada"}),
        await http.get(f"/sessions/{session}/objects/{path}"),
        await http.get(f"/sessions/{path}/objects/x"),
        await http.get(f"/sessions/{session}/events", params={"agents": f"ada,{name}"}),
        await http.post("/sessions", json={"session": name}),
        await http.post("/sessions", json={"agents": [name]}),
        await http.post(f"/sessions/{session}/inputs", json={"to": name}),
        await http.post(f"/sessions/{session}/inputs", json={"to": ["ada", name]}),
        await http.post(f"/sessions/{session}/inputs", json={"to": "ada", "from": name}),
        await http.post(f"/sessions/{session}/inputs", json={"to": "ada", "id": name}),
        await http.post(f"/sessions/{path}/controls", json={"type": "pause"}),
        await http.post(f"/sessions/{session}/controls", json={"type": "pause", "to": name}),
        await http.post(f"/sessions/{session}/controls", json={"type": "pause", "from": name}),
        await http.post(f"/sessions/{session}/controls", json={"type": "pause", "id": name}),
    ]
    for answer in answers:
        body = problem(answer, 400, "use 1 to 64 of the characters A-Z a-z 0-9 _ -")
        assert "\n" not in body["detail"]
        assert (body["title"], body["type"]) == ("Invalid Name", "urn:orchestrator-free:problem:invalid-name")
    view = (await http.get(f"/sessions/{session}")).json()
    assert (view["inputs"], view["controls"]) == ([], [])


async def test_an_encoded_slash_is_no_way_to_another_session(gateway: Any, session: str) -> None:
    """It is another path, which there is not."""
    problem(await gateway.http.get(f"/sessions/{session}%2F..%2F{session}"), 404, "/docs lists what there is")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"to":"ada"} x', "not JSON"),
        (b'{"to":"\xff"}', "not JSON"),
        (b'{"to":"ada","text":"\\ud800"}', "not JSON"),
        (b'{"to":"ada","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"to":"ada","data":NaN}', "not JSON"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{}", "to: Field required"),
        (b'{"to":[]}', "somebody"),
        (b'{"to":5}', "to"),
        (b'{"to":["a",1]}', "to"),
        (b'{"to":"ada","text":1}', "text: Input should be a valid string"),
        (b'{"to":"ada","id":1}', "id"),
        (b'{"to":"ada","more":1}', "more: Extra inputs are not permitted"),
        (b'{"to":["' + b'","'.join(b"a%d" % n for n in range(201)) + b'"]}', "to"),
    ],
)
async def test_a_body_that_is_no_input_is_refused(gateway: Any, session: str, body: bytes, words: str) -> None:
    """400, the field and the reason; the log has nothing of it."""
    problem(await gateway.http.post(f"/sessions/{session}/inputs", content=body), 400, words)
    assert (await gateway.http.get(f"/sessions/{session}")).json()["inputs"] == []


@pytest.mark.parametrize(
    "body", [{"title": "x" * 501}, {"title": None}, {"agents": "ada"}, {"agents": [1]}, {"compaction": "maybe"},
             {"session": 5}, {"session": ""}, {"agents": ["a"] * 201}]
)  # fmt: skip
async def test_a_body_that_is_no_session_is_refused(gateway: Any, body: Any) -> None:
    """400."""
    problem(await gateway.http.post("/sessions", json=body), 400)


@pytest.mark.parametrize(
    "body", [{}, {"type": "stop"}, {"type": "steer"}, {"type": "pause", "x": 1}, {"type": "cancel", "children": "x"},
             {"type": "pause", "within_seconds": -1}, {"type": "pause", "to": ["a"]}]
)  # fmt: skip
async def test_a_body_that_is_no_control_is_refused(gateway: Any, session: str, body: Any) -> None:
    """400; the log has nothing of it."""
    problem(await gateway.http.post(f"/sessions/{session}/controls", json=body), 400)
    assert (await gateway.http.get(f"/sessions/{session}")).json()["controls"] == []


@pytest.mark.parametrize("wait", ["x", "61", "-1", "1.5"])
async def test_a_wrong_time_to_wait_is_refused(gateway: Any, session: str, wait: str) -> None:
    """400 with the range, before the control is given."""
    answer = await gateway.http.post(f"/sessions/{session}/controls?wait={wait}", json={"type": "pause"})
    problem(answer, 400, "from 0 to 60")
    assert (await gateway.http.get(f"/sessions/{session}")).json()["controls"] == []


async def test_a_body_that_is_too_large_is_refused_while_it_is_still_sent(gateway: Any, session: str) -> None:
    """413 for more than 1 MiB, with and without a length; a little less is taken."""
    url = f"/sessions/{session}/inputs"

    async def endless() -> Any:
        for _ in range(64):
            yield b" " * 65536

    problem(await gateway.http.post(url, content=b" " * (MIB + 1)), 413, "put large documents into a file")
    problem(await gateway.http.post(url, content=endless()), 413)
    kept = await gateway.http.post(url, json={"to": "ada", "text": "x" * (MIB - 100)})
    assert kept.status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/sessions", "GET, HEAD, POST"),
        ("POST", "/sessions/s1", "DELETE, GET, HEAD"),
        ("GET", "/sessions/s1/inputs", "POST"),
        ("GET", "/sessions/s1/controls", "POST"),
        ("POST", "/sessions/s1/events", "GET, HEAD"),
        ("DELETE", "/sessions/s1/objects/o", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PATCH", "/metrics", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(gateway: Any, method: str, path: str, allowed: str) -> None:
    """405 with Allow."""
    answer = await gateway.http.request(method, path)
    problem(answer, 405, method, "/docs")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/session", "/sessions/s1/event", "/sessions/s1/objects/", "/favicon.ico"])
async def test_an_unknown_path_is_told_where_to_look(gateway: Any, path: str) -> None:
    """404."""
    problem(await gateway.http.get(path), 404, path, "/docs lists what there is")


@pytest.mark.parametrize(
    "path", ["", "/events", "/events?snapshot=1", "/events?after=00000000-5", "/inputs", "/controls"]
)
async def test_an_unknown_session_is_a_404_that_says_how_to_create_it(gateway: Any, path: str) -> None:
    """On every route; nothing is kept in memory for it."""
    bodies = {"/inputs": {"to": "ada"}, "/controls": {"type": "pause"}}
    method, body = ("POST", bodies[path]) if path in bodies else ("GET", None)
    problem(await gateway.http.request(method, f"/sessions/nobody{path}", json=body), 404, "POST /sessions")
    assert gateway.hub.hot("nobody") is None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("after=x", "is not a position"),
        ("after=00000000-05", "is not a position"),
        ("after=00000000-99999999999999999999", "is not a position"),
        ("after=" + quote("00000000-1\n"), "is not a position"),
        ("kinds=run,tokens", "'tokens' is no kind; there are"),
        ("kinds=*", "is no kind"),
        ("snapshot=yes", "snapshot=1"),
        ("until=end", "until=idle"),
        ("snapshot=" + "x" * 500, "snapshot=1"),
    ],
)
async def test_an_unknown_query_value_of_a_feed_is_refused(gateway: Any, session: str, query: str, words: str) -> None:
    """400 before the feed begins; the detail lists what is possible."""
    problem(await gateway.http.get(f"/sessions/{session}/events?{query}"), 400, words)


@pytest.mark.parametrize("position", ["x", "00000000-", "-1", "00000000-1; x", "\xe9", "0" * 5000])
async def test_a_last_event_id_that_is_none_is_refused(gateway: Any, session: str, position: str) -> None:
    """400; the header is input like any other."""
    headers = {"last-event-id": position.encode("latin-1")}
    answer = await gateway.http.get(f"/sessions/{session}/events", headers=headers)
    problem(answer, 400, "is not a position")
    assert len(answer.content) < 1000


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "٣", "", "1" * 5000])
async def test_a_wrong_page_size_is_refused(gateway: Any, limit: str) -> None:
    """400 with the range."""
    problem(await gateway.http.get("/sessions", params={"limit": limit}), 400, "expected a number from 1 to 1000")


async def test_errors_do_not_tell_where_the_broker_is(
    gateway: Any, broker: Any, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may hold a password: 504 says what to do, with Retry-After, and no more."""
    wire = gateway.gateway.broker.log.wire
    monkeypatch.setitem(type(wire).api.__kwdefaults__, "deadline", 0.2)
    broker.kill()
    try:
        answer = await gateway.http.get("/sessions/other")
    finally:
        await broker.start()
    problem(answer, 504, "try again")
    assert answer.headers["retry-after"] == "1"
    assert str(broker.port) not in answer.text
    assert "$JS" not in answer.text


async def test_a_client_that_leaves_in_the_middle_of_its_request_harms_nobody(gateway: Any, session: str) -> None:
    """Half a body and gone, fifty times; the next request is answered."""
    head = f"POST /sessions/{session}/inputs HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n".encode()
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + b'{"to":')
        await writer.drain()
        writer.close()
    answer = await gateway.http.post(f"/sessions/{session}/inputs", json={"to": "ada"})
    assert answer.status_code == 202
    assert len((await gateway.http.get(f"/sessions/{session}")).json()["inputs"]) == 1
