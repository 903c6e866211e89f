"""Shared state and the ledger of tool calls over HTTP: revisions are entity tags, nobody's change is lost."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from orchestrator_free.session.state import STATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.broker import Broker

PAGE = Path(__file__).parents[2] / "docs" / "state.md"
SCHEMA = Path(__file__).parents[2] / "broker" / "schemas" / "problem.json"
PROBLEM = Draft202012Validator(json.loads(SCHEMA.read_text()))
MERGE = "application/merge-patch+json"
OPERATIONS = "application/json-patch+json"
WRITERS = """
import asyncio, os, sys
from orchestrator_free import connect

async def write(number):
    async with connect(os.environ["ORCHESTRATOR_FREE_URL"], member=f"w{number}") as broker:
        state = broker.session(sys.argv[1]).state
        for _ in range(10):
            await state.update("count", lambda n: n + 1, default=0, patience_seconds=100)

async def main():
    first, last = int(sys.argv[2]), int(sys.argv[3])
    await asyncio.gather(*(write(number) for number in range(first, last)))

asyncio.run(main())
"""


def problem(answer: httpx.Response, status: int, *words: str) -> None:
    """Check that an answer is a problem document of a status, whose detail has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    PROBLEM.validate(answer.json())
    for word in words:
        assert word in answer.json()["detail"]


class State:
    """The state of a new session over HTTP."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self.session = session
        self._http = http

    async def ask(self, method: str, key: str = "", body: Any = ..., **headers: str) -> httpx.Response:
        """Send a request about a key, or `k/history`; names of headers with `_` for `-`; the member is `ann`."""
        content = b"" if body is ... else body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        where = f"/sessions/{self.session}/state" + (f"/{key}" if key else "")
        query = "?from=ann" if method not in ("GET", "HEAD") and "?" not in where else ""
        return await self._http.request(method, where + query, content=content, headers=named)


@pytest.fixture
async def state(gateway: Any, fresh: Callable[[str], str]) -> State:
    """A session that exists."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    return State(gateway.http, name)


async def test_a_value_is_set_read_changed_and_removed(state: State, ann: Broker) -> None:
    """201 and then 200; the revision is the tag; who wrote it stands beside it; the library sees the same."""
    made = await state.ask("PUT", "plan", {"step": 1, "by": "me"})
    read = await state.ask("GET", "plan")
    merged = await state.ask("PATCH", "plan", {"step": 2, "by": None}, content_type=f"{MERGE}; charset=utf-8")
    operations = [{"op": "test", "path": "/step", "value": 2}, {"op": "add", "path": "/list", "value": [1]}]
    patched = await state.ask("PATCH", "plan", operations, content_type=OPERATIONS)
    session = ann.session(state.session)
    found = await session.state.get("plan")
    everything = (await state.ask("GET")).json()
    gone = await state.ask("DELETE", "plan")

    assert (made.status_code, merged.status_code, patched.status_code, gone.status_code) == (201, 200, 200, 204)
    assert made.json()["position"] == str(session.position(made.json()["revision"]))
    assert made.headers["etag"] == read.headers["etag"] == f'"{made.json()["revision"]}"'
    assert read.json()["value"] == {"step": 1, "by": "me"} and read.json()["time"]
    assert merged.json()["value"] == {"step": 2}
    assert patched.json()["value"] == {"step": 2, "list": [1]}
    assert found is not None
    assert (found.by, f'"{found.revision}"') == ("ann", patched.headers["etag"])
    assert everything["state"]["plan"]["value"] == found.value
    problem(await state.ask("GET", "plan"), 404, "no value")
    problem(await state.ask("DELETE", "plan"), 404, "no value")
    assert (await state.ask("GET")).json() == {"state": {}}


@pytest.mark.parametrize("value", [None, False, 0, "", [], "naïve 🦜", [1, {"a": None}]])
async def test_any_json_is_a_value(state: State, value: Any) -> None:
    """Null too, which is not the same as none."""
    assert (await state.ask("PUT", "k", value)).status_code == 201
    assert (await state.ask("GET", "k")).json()["value"] == value
    assert (await state.ask("PUT", "k", value)).status_code == 200


async def test_who_has_seen_another_revision_is_refused_and_told_who_was_first(state: State) -> None:
    """412 for PUT, PATCH and DELETE; the tag of what stands there comes with the refusal; nothing was written."""
    first = (await state.ask("PUT", "k", {"n": 1})).headers["etag"]
    second = (await state.ask("PUT", "k", {"n": 2}, if_match=first)).headers["etag"]
    for method, body, headers in (
        ("PUT", {"n": 3}, {}),
        ("PATCH", {"n": 3}, {"content_type": MERGE}),
        ("PATCH", [{"op": "add", "path": "/n", "value": 3}], {"content_type": OPERATIONS}),
        ("DELETE", ..., {}),
    ):
        for condition in ({"if_match": first}, {"if_none_match": "*"}, {"if_match": f'{first}, W/{second}, "x"'}):
            refused = await state.ask(method, "k", body, **headers, **condition)
            problem(refused, 412, "ann", second.strip('"'), "nothing was written")
            assert refused.headers["etag"] == second
            assert refused.json()["type"] == "urn:orchestrator-free:problem:precondition-failed"
    assert (await state.ask("GET", "k")).json()["value"] == {"n": 2}
    assert (
        await state.ask("PATCH", "k", {"n": 4}, content_type=MERGE, if_match=f"{first} ,{second}")
    ).status_code == 200
    assert (await state.ask("PUT", "k", 5, if_match="*")).status_code == 200
    assert (await state.ask("DELETE", "k", if_match="*")).status_code == 204


async def test_conditions_about_a_key_without_value(state: State) -> None:
    """If-None-Match: * creates once, also after a deletion; If-Match of anything fails."""
    for condition in ('"1"', "*", '"1", "2"'):
        problem(await state.ask("PUT", "k", 1, if_match=condition), 412, "nothing was written")
        problem(await state.ask("DELETE", "k", if_match=condition), 412)
    for _ in range(2):
        assert (await state.ask("PUT", "k", 1, if_none_match="*")).status_code == 201
        problem(await state.ask("PUT", "k", 2, if_none_match="*"), 412, "expected to have no value, but ann set")
        assert (await state.ask("DELETE", "k")).status_code == 204
    problem(await state.ask("DELETE", "k", if_none_match="*"), 404)
    assert (await state.ask("PATCH", "k", {"a": 1}, content_type=MERGE, if_none_match="*")).status_code == 201


@pytest.mark.parametrize("tag", ["12", '"12', "", '"1" "2"', "W/12", '"1",', "**"])
async def test_a_tag_that_cannot_be_read_is_refused(state: State, tag: str) -> None:
    """400: taken for no condition it would overwrite what somebody wanted to keep."""
    problem(await state.ask("PUT", "k", 1, if_match=tag), 400, "If-Match")
    problem(await state.ask("PUT", "k", 1, if_none_match=tag), 400, "If-None-Match")
    problem(await state.ask("PUT", "k", 1, if_none_match="*", if_match='"1"'), 400, "one of them")
    problem(await state.ask("GET", "k"), 404)


async def test_what_the_client_has_is_not_sent_again(state: State) -> None:
    """304 with the tag, weak or among others; another tag gets the value."""
    tag = (await state.ask("PUT", "k", 1)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"1" , {tag}', "*"):
        answer = await state.ask("GET", "k", if_none_match=known)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert (await state.ask("GET", "k", if_none_match='"1"')).json()["value"] == 1


@pytest.mark.parametrize("kind", ["", "application/json", "text/plain", "application/merge-patch"])
async def test_a_patch_says_which_kind_it_is(state: State, kind: str) -> None:
    """415, and which kinds there are."""
    answer = await state.ask("PATCH", "k", {"a": 1}, **({"content_type": kind} if kind else {}))
    problem(answer, 415, MERGE, OPERATIONS)
    assert answer.headers["accept-patch"] == f"{MERGE}, {OPERATIONS}"


async def test_a_patch_that_does_not_apply_changes_nothing(state: State) -> None:
    """409 says which operation; a malformed one is 400; so is an absent value, for JSON Patch only."""
    await state.ask("PUT", "k", {"a": 1})
    patch = [{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]
    problem(await state.ask("PATCH", "k", patch, content_type=OPERATIONS), 409, "operation 1 (test /a)")
    missing = [{"op": "remove", "path": "/x/y"}]
    problem(await state.ask("PATCH", "k", missing, content_type=OPERATIONS), 409, "operation 0 (remove /x/y)")
    problem(await state.ask("PATCH", "k", [{"op": "fly"}], content_type=OPERATIONS), 400, "operation 0")
    problem(await state.ask("PATCH", "k", {"a": 1}, content_type=OPERATIONS), 400, "a list of operations")
    problem(await state.ask("PATCH", "none", patch, content_type=OPERATIONS), 409, "set it first")
    assert (await state.ask("GET", "k")).json()["value"] == {"a": 1}
    assert (await state.ask("PATCH", "none", {"a": 1}, content_type=MERGE)).status_code == 201


async def test_bad_input_is_refused_before_anything_is_written(state: State, gateway: Any) -> None:
    """Names, no JSON, sizes, depth, members, sessions."""
    for key in ("a.b", "a%20b", "%2A", "x" * 65, "%C3%BC"):
        for method, more in (("GET", {}), ("PUT", {}), ("DELETE", {}), ("PATCH", {"content_type": MERGE})):
            problem(await state.ask(method, key, {"a": 1}, **more), 400, "key")
        problem(await state.ask("GET", f"{key}/history"), 400, "key")
    for body in (b"", b"{", b"NaN", b"'x'", b'{"a":1}x', b"\xff"):
        problem(await state.ask("PUT", "k", body), 400, "not JSON")
        problem(await state.ask("PATCH", "k", body, content_type=MERGE), 400, "not JSON")
    problem(await state.ask("PUT", "k", "x" * STATE_BYTES), 413, str(STATE_BYTES))
    problem(await state.ask("PATCH", "k", {"a": "x" * STATE_BYTES}, content_type=MERGE), 413, str(STATE_BYTES))
    problem(await state.ask("PUT", "k", b"x" * 1_100_000), 413)
    for depth in (250, 900, 5000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        for method in ("PUT", "PATCH"):
            problem(await state.ask(method, "k", deep, content_type=MERGE), 400)
    problem(await gateway.http.put(f"/sessions/{state.session}/state/k?from=a.b", content=b"1"), 400, "from")
    problem(await gateway.http.put("/sessions/never-begun/state/k", content=b"1"), 404, "create it first")
    problem(await gateway.http.get("/sessions/never-begun/state"), 404, "create it first")
    assert (await state.ask("GET")).json() == {"state": {}}


async def test_the_history_comes_in_pages(state: State) -> None:
    """In order, deletions included; `next` is None at the end."""
    problem(await state.ask("GET", "k/history"), 404, "never had")
    for number in range(5):
        await state.ask("PUT", "k", number)
    await state.ask("DELETE", "k")
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        page = (await state.ask("GET", f"k/history?after={after}&limit=2")).json()
        found += page["versions"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [(one["value"], one["deleted"]) for one in found] == [*((n, False) for n in range(5)), (None, True)]
    assert all(one["by"] == "ann" and one["time"] for one in found)
    for query in ("after=x", "after=-1", "limit=0", "limit=x"):
        problem(await state.ask("GET", f"k/history?{query}"), 400, query.partition("=")[0])


async def test_a_change_reaches_every_feed_at_its_position(state: State, gateway: Any, eventually: Any) -> None:
    """The answer to a write says where it stands; the feed has it there, and the snapshot behind it shows it."""
    async with gateway.feed(state.session) as feed:
        position = (await state.ask("PUT", "k", [1])).json()["position"]
        await eventually(lambda: position in feed.positions)
        found = feed.events[feed.positions.index(position)].envelope
    view = (await gateway.http.get(f"/sessions/{state.session}")).json()
    assert (found["kind"], found["id"], found["event"]) == ("state", "k", {"type": "state.set", "value": [1]})
    assert view["state"]["k"]["value"] == [1]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_fifty_writers_over_http_and_nats_lose_no_update(
    state: State, ann: Broker, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Thirty in three processes, twenty that read, compute and put under the tag they have seen."""
    script = tmp_path / "writers.py"
    script.write_text(WRITERS)
    started = [programs.start(script, state.session, str(n), str(n + 10)) for n in (0, 10, 20)]

    async def increment() -> None:
        while True:
            read = await state.ask("GET", "count")
            known = {"if_match": read.headers["etag"]} if read.status_code == 200 else {"if_none_match": "*"}
            value = read.json()["value"] if read.status_code == 200 else 0
            written = await state.ask("PUT", "count", value + 1, **known)
            if written.status_code in (200, 201):
                return
            assert written.status_code == 412, written.text

    async def write() -> None:
        for _ in range(10):
            await increment()

    async with asyncio.timeout(110):
        await asyncio.gather(*(write() for _ in range(20)))
    await eventually(lambda: not any(one.alive for one in started), 60)
    history = await ann.session(state.session).state.history("count")
    assert [one.process.returncode for one in started] == [0] * 3, started[0].output
    assert [one.value for one in history] == list(range(1, 501))


async def test_the_page_about_state_is_true(gateway: Any, ann: Broker, fresh: Callable[[str], str]) -> None:
    """docs/state.md: its code runs."""
    page = PAGE.read_text()
    session = ann.session(fresh("s"))
    await session.create()
    await session.state.set("plan", {})
    await session.state.set("form", {"items": []})
    code = page.partition("```python\n")[2].partition("```")[0].replace("    ...\n", "    break\n")
    names: dict[str, Any] = {}
    exec("async def run(session):\n" + textwrap.indent(code, "    "), names)
    await names["run"](session)
    assert {key: one.value for key, one in (await session.state.all()).items()} == {
        "plan": {"step": 2}, "title": "Review", "count": 1, "form": {"items": [7], "name": "Ann"},
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
async def test_the_commands_on_the_page_about_state_do_what_stands_beside_them(
    gateway: Any, fresh: Callable[[str], str]
) -> None:
    """Each in turn; the tags on the page, 12 and on, stand for those that came."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    commands = PAGE.read_text().partition("```sh\n")[2].partition("```")[0].replace("\\\n", "")
    tags: list[str] = []
    answers = []
    for line in commands.splitlines():
        command = line.partition("  #")[0].replace(
            "localhost:8080/sessions/s1", f"{gateway.http.base_url}/sessions/{name}"
        )
        for number, tag in enumerate(tags, 12):
            command = command.replace(f'"{number}"', tag)
        process = await asyncio.create_subprocess_shell(f"{command} -s -i", stdout=asyncio.subprocess.PIPE)
        answer = (await process.communicate())[0].decode()
        answers.append(int(answer.split(" ")[1]))
        if "-X P" in command:
            tags += re.findall(r"etag: (.*)\r", answer)
    assert answers == [201, 200, 200, 200, 200, 204, 200, 200]


# -- the ledger -------------------------------------------------------------------------------------------------------


async def test_the_ledger_is_filtered_by_the_query(gateway: Any, pen: Any) -> None:
    """By tool, agent, run, status and duration; in pages; what is wrong is said."""
    await pen.create("ada")
    for agent in ("ada", "bea"):
        await pen.start(agent)
        for call, tool in (("c1", "search"), ("c2", "draft")):
            body = {"type": "tool.input", "call": call, "tool": tool, "input": {"q": agent}}
            await pen.write(agent, "run", body, id="r1")
        await pen.write(agent, "run", {"type": "tool.output", "call": "c1", "output": 1}, id="r1")

    async def ask(query: str) -> httpx.Response:
        found: httpx.Response = await gateway.http.get(f"/sessions/{pen.session}/tools?{query}")
        return found

    async def calls(query: str = "") -> list[tuple[str, str, str]]:
        return [(one["agent"], one["tool"], one["status"]) for one in (await ask(query)).json()["calls"]]

    everything = [
        ("ada", "search", "done"),
        ("ada", "draft", "running"),
        ("bea", "search", "done"),
        ("bea", "draft", "running"),
    ]
    assert await calls() == everything
    assert await calls("tool=search") == everything[::2]
    assert await calls("agent=bea&status=running") == everything[3:]
    assert await calls("run=r2") == await calls("min_seconds=1000") == []
    assert await calls("limit=2&offset=1") == everything[1:3]
    first = (await ask("limit=1")).json()
    assert first["total"] == 4
    assert first["calls"][0]["input"] == {"q": "ada"} and first["calls"][0]["seconds"] >= 0
    for query in ("status=fine", "min_seconds=-1", "min_seconds=nan", "min_seconds=x", "limit=0", "offset=x"):
        problem(await ask(query), 400, query.partition("=")[0])
    problem(await gateway.http.get("/sessions/never-begun/tools"), 404, "create it first")
