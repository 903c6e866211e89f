"""The ordinary routes: sessions, inputs, objects, operations, and the document that describes them."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker

Fresh = "Callable[[str], str]"
SCHEMAS = Path(__file__).parents[2] / "broker" / "schemas"


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


async def inputs_of(ann: Broker, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ann.session(session).view())["inputs"]
    return found


# -- sessions ---------------------------------------------------------------------------------------------------


async def test_a_created_session_has_an_address_and_a_position(gateway: Any, fresh: Fresh) -> None:
    """201 with a Location; the position is that of its first event; the view shows what was asked for."""
    name = fresh("s")
    asked = {"session": name, "title": "Review", "agents": ["outliner"], "compaction": "off"}
    answer = await gateway.http.post("/sessions", json=asked)
    view = (await gateway.http.get(answer.headers["location"])).json()
    assert answer.status_code == 201
    assert answer.json() == {"session": name, "position": view["position"]}
    assert answer.headers["location"] == f"/sessions/{name}"
    assert (view["meta"]["title"], view["meta"]["agents"], view["meta"]["by"]) == ("Review", ["outliner"], "user")
    assert view["meta"]["compaction"] == "off"


async def test_a_session_without_an_id_gets_one_of_its_own(gateway: Any) -> None:
    """Two of them differ."""
    made = [(await gateway.http.post("/sessions", json={})).json()["session"] for _ in range(2)]
    assert len(set(made)) == 2


async def test_creating_a_session_twice_is_a_conflict(gateway: Any, fresh: Fresh) -> None:
    """409 with what to do; of ten at once one succeeds."""
    name = fresh("s")
    answers = await asyncio.gather(*(gateway.http.post("/sessions", json={"session": name}) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["title"] == "Session Exists"
    assert "choose another id" in refused["detail"]


async def test_the_list_goes_page_by_page_through_every_session(gateway: Any, fresh: Fresh) -> None:
    """`next` is where the next page begins; ids ascend; nothing is listed twice."""
    prefix = fresh("page")
    names = [f"{prefix}-{number}" for number in range(5)]
    for name in names:
        await gateway.http.post("/sessions", json={"session": name, "title": name.upper(), "agents": ["a"]})
    found, after, pages = [], prefix, 0
    while after is not None and pages < 10:
        page = (await gateway.http.get("/sessions", params={"limit": 2, "after": after})).json()
        found += page["sessions"]
        after, pages = page["next"], pages + 1
    mine = [one for one in found if one["session"] in names]
    assert [one["session"] for one in mine] == names
    assert (mine[0]["title"], mine[0]["agents"]) == (names[0].upper(), ["a"])
    assert mine[0]["created"]


async def test_the_view_is_the_librarys_view(gateway: Any, ann: Broker, pen: Any) -> None:
    """Same JSON, as the schema says; the ETag is the position."""
    await pen.story("ada", "bob")
    answer = await gateway.http.get(f"/sessions/{pen.session}")
    assert answer.json() == await ann.session(pen.session).view()
    assert answer.headers["etag"] == f'"{answer.json()["position"]}"'
    schema("view").validate(answer.json())


async def test_a_deleted_session_is_gone_and_its_name_is_free(gateway: Any, fresh: Fresh) -> None:
    """204, then 404 for the view, for inputs and for another deletion; then it may be created again, empty."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    await gateway.http.post(f"/sessions/{name}/inputs", json={"to": "ada", "text": "old"})
    assert (await gateway.http.delete(f"/sessions/{name}")).status_code == 204
    assert (await gateway.http.get(f"/sessions/{name}")).status_code == 404
    assert (await gateway.http.delete(f"/sessions/{name}")).status_code == 404
    assert (await gateway.http.post(f"/sessions/{name}/inputs", json={"to": "ada"})).status_code == 404
    assert (await gateway.http.post("/sessions", json={"session": name})).status_code == 201
    assert (await gateway.http.get(f"/sessions/{name}")).json()["inputs"] == []


# -- inputs -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def session(gateway: Any, fresh: Fresh) -> str:
    """A session that exists."""
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    return name


async def test_an_input_is_in_the_log_with_its_sender_and_data(gateway: Any, ann: Broker, session: str) -> None:
    """202 with input, run and position; the view shows it there."""
    sent = {"to": "ada", "text": "go", "data": {"n": [1, None]}, "from": "eve"}
    answer = await gateway.http.post(f"/sessions/{session}/inputs", json=sent)
    [entry] = await inputs_of(ann, session)
    assert answer.status_code == 202
    assert (entry["from"], entry["to"], entry["text"], entry["data"]) == ("eve", "ada", "go", {"n": [1, None]})
    assert answer.json()["input"] == entry["input"]
    assert answer.json()["position"].endswith(f"-{entry['sequence']}")


async def test_one_input_to_several_agents_has_one_run_id(gateway: Any, ann: Broker, session: str) -> None:
    """`to` may be a list; the answer's run is the same for all of them."""
    answer = await gateway.http.post(f"/sessions/{session}/inputs", json={"to": ["ada", "bob"], "text": "go"})
    found = await inputs_of(ann, session)
    assert answer.status_code == 202
    assert {(entry["to"], entry["input"]) for entry in found} == {(to, answer.json()["input"]) for to in ("ada", "bob")}


@pytest.mark.parametrize("key", ["token-1", "any text: ü/2.*>", "x" * 300])
async def test_the_same_key_and_content_again_gives_the_same_answer(
    gateway: Any, ann: Broker, session: str, key: str
) -> None:
    """202, then 200 with the same body; one input in the log; the key may be any text."""
    headers = {"idempotency-key": key.encode()}
    send = {"json": {"to": "ada", "text": "go"}, "headers": headers}
    first, again = [await gateway.http.post(f"/sessions/{session}/inputs", **send) for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.content == again.content
    assert len(await inputs_of(ann, session)) == 1


async def test_the_same_key_with_other_content_is_a_conflict(gateway: Any, ann: Broker, session: str) -> None:
    """409, and the log keeps the first."""
    headers = {"idempotency-key": "k"}
    for text in ("one", "two"):
        answer = await gateway.http.post(
            f"/sessions/{session}/inputs", json={"to": "ada", "text": text}, headers=headers
        )
    assert (answer.status_code, answer.json()["title"]) == (409, "Conflict")
    assert "use a new id" in answer.json()["detail"]
    assert [entry["text"] for entry in await inputs_of(ann, session)] == ["one"]


async def test_the_same_key_to_somebody_else_is_a_conflict(gateway: Any, ann: Broker, session: str) -> None:
    """Also where one of them is the same; sent again as it was, it is answered as it was."""
    headers, answers = {"idempotency-key": "k"}, []
    for to in (["ada", "bob"], "cleo", ["bob", "cleo"], ["bob", "ada"]):
        body = {"to": to, "text": "one"}
        answers.append(await gateway.http.post(f"/sessions/{session}/inputs", json=body, headers=headers))
    assert [answer.status_code for answer in answers] == [202, 409, 409, 200]
    assert "'ada'" in answers[1].json()["detail"] or "'bob'" in answers[1].json()["detail"]
    assert {entry["to"] for entry in await inputs_of(ann, session)} == {"ada", "bob"}


async def test_twenty_duplicates_at_once_are_one_input(gateway: Any, ann: Broker, session: str) -> None:
    """One 202, else 200, all with the same body."""
    send = {"json": {"to": "ada", "text": "go"}, "headers": {"idempotency-key": "k"}}
    answers = await asyncio.gather(*(gateway.http.post(f"/sessions/{session}/inputs", **send) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.content for answer in answers}) == 1
    assert len(await inputs_of(ann, session)) == 1


async def test_an_id_in_the_body_is_the_inputs_id(gateway: Any, session: str) -> None:
    """It goes before the header, and is as good for sending again."""
    send = {"json": {"to": "ada", "id": "mine"}, "headers": {"idempotency-key": "header"}}
    answers = [await gateway.http.post(f"/sessions/{session}/inputs", **send) for _ in range(2)]
    assert [answer.json()["input"] for answer in answers] == ["mine", "mine"]
    assert [answer.status_code for answer in answers] == [202, 200]


async def test_an_input_can_be_read_at_once(gateway: Any, session: str) -> None:
    """The view that is asked for after the answer holds it, thirty times in a row."""
    for number in range(30):
        sent = (await gateway.http.post(f"/sessions/{session}/inputs", json={"to": "ada", "text": str(number)})).json()
        view = (await gateway.http.get(f"/sessions/{session}")).json()
        assert view["inputs"][-1]["input"] == sent["input"]


# -- controls ---------------------------------------------------------------------------------------------------


async def test_a_control_is_in_the_log_and_its_outcome_may_be_waited_for(
    gateway: Any, programs: Any, ann: Broker, session: str, eventually: Any, fresh: Fresh
) -> None:
    """202 at once, or 200 with what became of it; feeds until idle end with the cancel; the view has both."""
    agent = fresh("slow")
    programs.agent(agent, 'await run.text("begun")\nawait asyncio.sleep(60)')
    url = f"/sessions/{session}/controls"
    await gateway.http.post(f"/sessions/{session}/inputs", json={"to": agent, "text": "go"})
    async with gateway.feed(session, until="idle") as feed:
        await eventually(lambda: any("begun" in one.data for one in feed.events))
        steer = await gateway.http.post(url, json={"type": "steer", "to": agent, "text": "left"})
        cancel = await gateway.http.post(url, json={"type": "cancel", "to": agent, "from": "eve"}, params={"wait": 10})
        await eventually(lambda: feed.end)
    view = (await gateway.http.get(f"/sessions/{session}")).json()
    assert (steer.status_code, steer.json()["outcome"]) == (202, None)
    assert cancel.status_code == 200
    assert (cancel.json()["outcome"]["agent"], cancel.json()["outcome"]["state"]) == (agent, "applied")
    assert (feed.end, feed.names) == ("finished", ["idle"])
    assert [(one["type"], one["from"], one["to"]) for one in view["controls"]] == [
        ("steer", "user", agent), ("cancel", "eve", agent),
    ]  # fmt: skip
    assert view["agents"][0]["runs"][0]["status"] == "cancelled"
    schema("view").validate(view)


async def test_a_control_is_said_once_under_one_key(gateway: Any, session: str) -> None:
    """The same answer; another control under the key is a conflict."""
    url = f"/sessions/{session}/controls"
    send = {"json": {"type": "pause", "to": "ada"}, "headers": {"idempotency-key": "k"}}
    first, again = [await gateway.http.post(url, **send) for _ in range(2)]
    other = await gateway.http.post(url, json={"type": "resume", "to": "ada"}, headers={"idempotency-key": "k"})
    assert first.json() == again.json()
    assert other.status_code == 409
    assert len((await gateway.http.get(f"/sessions/{session}")).json()["controls"]) == 1


async def test_until_idle_ends_with_the_cancel_of_what_nobody_works_on(
    gateway: Any, session: str, eventually: Any
) -> None:
    """An input that waits for an agent that never comes holds the feed; the cancel lets it go."""
    await gateway.http.post(f"/sessions/{session}/inputs", json={"to": "nobody", "text": "go"})
    async with gateway.feed(session, until="idle") as feed:
        await eventually(lambda: len(feed.events) == 2)
        assert feed.end is None
        await gateway.http.post(f"/sessions/{session}/controls", json={"type": "cancel"})
        await eventually(lambda: feed.end)
    assert feed.names == ["idle"]


# -- objects ----------------------------------------------------------------------------------------------------


async def test_a_file_of_a_run_can_be_fetched_and_cannot_run_in_a_page(gateway: Any, ann: Broker, session: str) -> None:
    """The bytes as they are, as a download of no particular type; one that is not there is a 404 that says so."""
    data = b"<script>alert(1)</script>" + secrets.token_bytes(200_000)
    await ann.objects.put(session, "page-html", data)
    answer = await gateway.http.get(f"/sessions/{session}/objects/page-html")
    missing = await gateway.http.get(f"/sessions/{session}/objects/nothing")
    assert answer.content == data
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert missing.status_code == 404
    assert "no object of that name" in missing.json()["detail"]


async def test_the_view_holds_what_a_large_run_keeps_outside_the_log(gateway: Any, ann: Broker, pen: Any) -> None:
    """Its parts are fetched into the view, also for twenty at once; the snapshot of a feed is the same view."""
    text = "word " * 100_000
    parts = {"parts": [{"type": "text", "part": "1", "text": text}], "attempts": []}
    await pen.create("ada")
    await ann.objects.put(pen.session, "run-1", orjson.dumps(parts))
    await pen.start("ada")
    await pen.write("ada", "run", {"type": "run.finished", "status": "done", "object": "run-1"}, id="r1", rollup=True)
    answers = await asyncio.gather(*(gateway.http.get(f"/sessions/{pen.session}") for _ in range(20)))
    view = answers[0].json()
    feed = await gateway.read(pen.session, snapshot="1", until="idle")
    assert len({answer.content for answer in answers}) == 1
    assert view["agents"][0]["runs"][0]["parts"][0]["text"] == text
    assert json.loads(feed.controls[0].data) == view == await ann.session(pen.session).view()


# -- operations -------------------------------------------------------------------------------------------------


async def test_the_gateway_says_that_it_lives_and_is_ready(gateway: Any) -> None:
    """And on what: the broker's state and the durability it was told."""
    ready = await gateway.http.get("/readyz")
    assert (await gateway.http.get("/healthz")).json() == {"status": "ok"}
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready", "broker": "connected", "draining": False, "durability": "unknown", "identity": "open",
    }  # fmt: skip


async def test_a_draining_gateway_is_not_ready(gateway: Any) -> None:
    """503, so that a load balancer sends nobody; it still answers what it is asked."""
    await gateway.gateway.drain()
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["draining"]) == (503, "not ready", True)
    assert (await gateway.http.get("/sessions")).status_code == 200


async def test_the_metrics_count_what_clients_do(gateway: Any, pen: Any) -> None:
    """Inputs, feeds opened and events delivered, in the text format and in OpenMetrics."""
    await pen.story("ada")
    feed = await gateway.read(pen.session, until="idle", kinds="run,meta")
    await gateway.http.post(f"/sessions/{pen.session}/inputs", json={"to": "bob"})
    text = (await gateway.http.get("/metrics")).text
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    assert f"orchestrator_free_gateway_events_delivered_total {len(feed.events)}.0" in text
    assert "orchestrator_free_gateway_inputs_total 1.0" in text
    assert 'orchestrator_free_gateway_resumes_total{how="hot"} 1.0' in text
    assert (await gateway.http.get("/metrics", headers=accept)).text.endswith("# EOF\n")


async def test_the_openapi_document_lists_exactly_the_routes(gateway: Any) -> None:
    """Every path with every method, no other; each operation says what it answers, each parameter has a place."""
    document = (await gateway.http.get("/openapi.json")).json()
    routes = [route for route in gateway.gateway.app.routes if isinstance(route, Route)]
    served = {(route.path_format, method.lower()) for route in routes for method in route.methods or ()}
    described = {(path, verb) for path, verbs in document["paths"].items() for verb in verbs if verb != "parameters"}
    assert described <= served
    assert {one for one in served - described if one[1] != "head"} == set()  # HEAD is told where it says more than GET
    assert document["openapi"].startswith("3.1")
    for path, verbs in document["paths"].items():
        shared = verbs.get("parameters", [])
        assert {one["name"] for one in shared} == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for verb in verbs.keys() - {"parameters"}:
            operation = verbs[verb]
            assert operation["summary"]
            assert all(answer["description"] for answer in operation["responses"].values())
            for one in operation.get("parameters", []):
                Draft202012Validator.check_schema(one["schema"])
            for media in operation.get("requestBody", {}).get("content", {}).values():
                Draft202012Validator.check_schema(media.get("schema", True))  # bytes have none


async def test_the_documented_bodies_are_those_that_are_taken(gateway: Any, fresh: Fresh) -> None:
    """What the schemas in the document allow is accepted, what they refuse is refused."""
    document = (await gateway.http.get("/openapi.json")).json()
    post = document["paths"]["/sessions/{session}/inputs"]["post"]
    check = Draft202012Validator(post["requestBody"]["content"]["application/json"]["schema"])
    name = fresh("s")
    await gateway.http.post("/sessions", json={"session": name})
    bodies = [{"to": "a"}, {"to": ["a", "b"], "data": None}, {}, {"to": 1}, {"to": "a", "x": 1}, {"to": "a", "text": 1}]
    await gateway.http.post(f"/sessions/{name}/inputs", json={"to": "a", "id": "i"})
    bodies += [{"edits": {"from": "user", "input": "i"}}, {"to": None}, {"to": "a", "edits": 1}, {"edits": None}]
    for body in bodies:
        answer = await gateway.http.post(f"/sessions/{name}/inputs", json=body)
        assert (answer.status_code == 202) is check.is_valid(body), body


async def test_the_documentation_needs_nothing_from_elsewhere(gateway: Any) -> None:
    """One page; the only address in it is the document's."""
    page = (await gateway.http.get("/docs")).text
    assert "/openapi.json" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page
