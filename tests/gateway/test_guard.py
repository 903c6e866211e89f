"""Who may do what over HTTP: every route, every method, tokens of every kind; one table says what is right."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from orchestrator_free.gateway.access.permits import PERMITS, SOCKET, permit_of
from orchestrator_free.identity.principal import CAPABILITIES
from tests.gateway.identity import bearer, guard, guarded, token

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateway.identity import Mint

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: something that each route takes, so that what is refused is refused for who asks
BODIES: dict[str, Any] = {
    "/sessions": {"session": "{session}"},
    "/sessions/{session}/inputs": {"text": "hi", "to": "bot"},
    "/sessions/{session}/controls": {"type": "cancel"},
    "/sessions/{session}/asks": {"text": "?"},
    "/sessions/{session}/asks/{ask}/answer": {"value": 1},
    "/sessions/{session}/asks/{ask}/withdraw": {},
    "/sessions/{session}/floor": {"step": "take"},
    "/sessions/{session}/branch": {"input": "ann/i1"},
    "/sessions/{session}/fork": {},
    "/sessions/{session}/presence": {"status": "away"},
    "/sessions/{session}/state/{key}": {"a": 1},
    "/api/chat": {"id": "{session}", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
    "/api/agui": {"threadId": "{session}", "runId": "r1", "messages": [{"role": "user", "content": "hi"}]},
    "/api/agui/connect": {"threadId": "{session}", "runId": "r1", "messages": []},
    "/api/copilotkit/agent/{agent}/run": {"threadId": "{session}", "runId": "r1", "messages": [{"role": "user", "content": "hi"}]},
    "/api/copilotkit/agent/{agent}/connect": {"threadId": "{session}", "runId": "r1", "messages": []},
    "/tickets": {"session": "{session}"},
    "/revocations": {"member": "nobody"},
    "/deadletters/retry": {"id": "run/{session}/bot/r1"},
    "/deadletters/dismiss": {"id": "run/{session}/bot/r1"},
}  # fmt: skip


def all_routes(gateway: Any) -> list[tuple[str, str]]:
    """Every (route, method) that the application serves."""
    found = []
    for route in gateway.gateway.app.routes:
        assert isinstance(route, Route | WebSocketRoute), f"{route} is of a kind that the guard does not look into"
        methods = sorted(route.methods or METHODS) if isinstance(route, Route) else [SOCKET]
        found += [(route.path, method) for method in methods]
    return found


def filled(route: str, session: str) -> str:
    """A path of a route."""
    path = route.replace("{session}", session).replace("{path:path}", "index.html")
    return re.sub(r"\{\w+(:\w+)?\}", "x1", path) + (f"?threadId={session}" if route == "/api/agui" else "")


def body_of(route: str, session: str) -> Any:
    """A body of a route."""

    def put(value: Any) -> Any:
        return session if value == "{session}" else value

    return {name: put(value) for name, value in BODIES.get(route, {}).items()}


async def ask(gateway: Any, route: str, method: str, session: str, headers: dict[str, str]) -> httpx.Response:
    """Send a request; a feed is not read to its end, a WebSocket only opened."""
    if method == SOCKET:
        address = f"ws://127.0.0.1:{gateway.port}{filled(route, session)}"
        try:
            async with dial(address, additional_headers=headers):
                return httpx.Response(101)
        except InvalidStatus as refused:
            answer = refused.value if hasattr(refused, "value") else refused
            return httpx.Response(answer.response.status_code, content=bytes(answer.response.body or b""))
    kind = {"content-type": "application/merge-patch+json"} if method == "PATCH" else {}
    body = body_of(route, session) if method in ("POST", "PUT", "PATCH") else None
    async with gateway.http.stream(
        method, filled(route, session), json=body, headers={"accept": "application/json", **headers, **kind}
    ) as answer:
        fed = "event-stream" in answer.headers.get("content-type", "")
        text = b"" if fed else await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=text)


async def test_every_route_is_in_the_table_and_the_table_has_no_other(guarded: Any) -> None:
    """Whoever adds a route says what it asks for; what is asked for is served."""
    served = {(route, "GET" if method == "HEAD" else method) for route, method in all_routes(guarded)}
    missing = [pair for pair in served if permit_of(*pair) is None]
    written = {(route, method) for route, methods in PERMITS.items() for method in methods}
    assert missing == []
    assert written - served == set()
    public = sorted({route for route, methods in PERMITS.items() for permit in methods.values() if permit.public})
    assert public == [
        "/client/{path:path}", "/console", "/console/{path:path}", "/docs", "/healthz", "/openapi.json", "/readyz",
    ]  # fmt: skip


async def test_without_a_token_that_counts_nothing_is_answered(guarded: Any, pen: Any, token: Mint) -> None:
    """Every route × every method × every kind of no token: 401 and nothing else."""
    await pen.create("bot")
    good = token("ann", pen.session)
    wrong = {
        "none": {}, "empty": {"authorization": ""}, "basic": {"authorization": "Basic YW5uOmFubg=="},
        "garbage": bearer("garbage"), "expired": bearer(token.ending(-5)), "cut": bearer(good[:-4]),
        "two": {"authorization": f"Bearer {good}, Bearer {good}"},
    }  # fmt: skip
    asked = 0
    for route, method in all_routes(guarded):
        permit = permit_of(route, method)
        if permit is None or permit.public:
            continue
        for name, headers in wrong.items():
            answer = await ask(guarded, route, method, pen.session, headers)
            assert answer.status_code == 401, (route, method, name, answer.text)
            if method not in (SOCKET, "HEAD"):
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.json()["type"].startswith("urn:orchestrator-free:problem:")
            asked += 1
    unknown = await guarded.http.get("/nothing/here")
    assert (unknown.status_code, asked > 300) == (401, True)


async def test_each_capability_opens_its_routes_and_no_other(guarded: Any, pen: Any, token: Mint) -> None:
    """A token with all of them but one is refused where that one is needed; a token with just those needed is not."""
    await pen.create("bot")
    everything = set(CAPABILITIES)
    for route, method in all_routes(guarded):
        permit = permit_of(route, method)
        assert permit is not None
        if permit.public or not permit.needs or (route, method) == ("/sessions/{session}", "DELETE"):
            continue
        for missing in permit.needs:
            answer = await ask(
                guarded, route, method, pen.session, bearer(token("ann", pen.session, cap=everything - {missing}))
            )
            assert answer.status_code == 403, (route, method, missing, answer.text)
            if method not in (SOCKET, "HEAD"):
                assert repr(missing) in answer.json()["detail"]
        answer = await ask(guarded, route, method, pen.session, bearer(token("ann", pen.session, cap=permit.needs)))
        assert answer.status_code not in (401, 403) or "capability" not in answer.text, (route, method, answer.text)


async def test_a_session_that_is_not_granted_looks_like_one_that_is_not_there(
    guarded: Any, pen_for: Any, token: Mint, fresh: Callable[[str], str]
) -> None:
    """Every route × every method: the same answer, to the byte, for a session of others and for none at all."""
    mine, foreign, none = fresh("mine"), fresh("alien"), fresh("ghost")
    for name in (mine, foreign):
        await pen_for(name).create("bot")
    headers = bearer(token("ann", mine, f"{none}x", cap=CAPABILITIES))
    compared = 0
    for route, method in all_routes(guarded):
        permit = permit_of(route, method)
        named = "{session}" in route or "{session}" in str(BODIES.get(route)) or route == "/api/agui"
        if permit is None or permit.public or not named:
            continue
        there = await ask(guarded, route, method, foreign, headers)
        absent = await ask(guarded, route, method, none, headers)
        assert there.status_code in (204, 403, 404) or there.text.replace(foreign, none) == absent.text
        assert there.status_code == absent.status_code, (route, method, there.text, absent.text)
        assert there.text.replace(foreign, none) == absent.text, (route, method)
        assert foreign not in there.text.replace(f"{foreign!r}", "").replace(f"/{foreign}", ""), (
            route,
            method,
            there.text,
        )
        compared += 1
    assert compared > 35
    view = await guarded.http.get(f"/sessions/{foreign}", headers=bearer(token("bob", foreign)))
    assert (view.json()["inputs"], view.json()["controls"]) == ([], [])


async def test_lists_show_what_is_granted_and_pages_are_full(
    guarded: Any, pen_for: Any, token: Mint, fresh: Callable[[str], str]
) -> None:
    """Sessions of others between them are not counted, either."""
    prefix = fresh("list")
    for number in range(6):
        await pen_for(f"{prefix}-{'ann' if number % 2 else 'bob'}-{number}").create()
    headers = bearer(token("ann", f"{prefix}-ann-*"))
    first = (await guarded.http.get("/sessions?limit=2", headers=headers)).json()
    second = (await guarded.http.get(f"/sessions?limit=2&after={first['next']}", headers=headers)).json()
    names = [line["session"] for page in (first, second) for line in page["sessions"]]
    assert names == [f"{prefix}-ann-{number}" for number in (1, 3, 5)]
    assert second["next"] is None


async def test_a_member_is_the_tokens_subject_wherever_it_could_say_another(
    guarded: Any, pen: Any, ann: Any, token: Mint
) -> None:
    """`from`, `member` and `?from=`: absent or equal, else 403; what is written stands under the subject."""
    await pen.create("bot")
    base, headers = f"/sessions/{pen.session}", bearer(token("carol", pen.session))
    ask_body = {"text": "?", "to": ["carol"]}
    made = await guarded.http.post(f"{base}/asks", json=ask_body, headers=headers)
    asked = made.json()["ask"]
    posts: list[tuple[str, dict[str, Any]]] = [
        ("inputs", {"text": "hi", "to": "bot"}), ("controls", {"type": "cancel"}), ("asks", ask_body),
        ("floor", {"step": "take"}), ("presence", {"status": "away"}), (f"asks/{asked}/answer", {"value": 1}),
    ]  # fmt: skip
    for path, body in posts:
        other = await guarded.http.post(f"{base}/{path}", json=body | {"from": "bob"}, headers=headers)
        assert (other.status_code, "does not speak for" in other.text) == (403, True), path
        for said in ({}, {"from": "carol"}):
            assert (
                await guarded.http.post(f"{base}/{path}", json=body | said, headers=headers)
            ).status_code < 300 or said
    put = await guarded.http.put(f"{base}/state/k", json=1, headers=headers)
    assert (put.status_code, put.json()["by"]) == (201, "carol")
    assert (await guarded.http.put(f"{base}/state/k?from=bob", json=1, headers=headers)).status_code == 403
    chat = {"id": pen.session, "messages": [{"id": "m9", "role": "user", "parts": [{"type": "text", "text": "x"}]}]}
    agui = {"threadId": pen.session, "runId": "r9", "messages": [{"role": "user", "content": "x"}]}
    for path, body in (("chat", chat), ("agui", agui), ("agui/connect", agui), ("copilotkit/agent/default/run", agui)):
        answer = await guarded.http.post(f"/api/{path}?member=bob", json=body, headers=headers)
        assert answer.status_code == 403, path
    assert (await guarded.http.get(f"{base}/events?member=bob", headers=headers)).status_code == 403
    events = [event async for event in _events(ann, pen.session)]
    assert {event.member for event in events if event.kind != "meta"} == {"carol"}


async def _events(ann: Any, session: str) -> Any:
    end = int((await ann.session(session).view())["position"].rsplit("-")[-1])
    async for event in ann.session(session).follow():
        yield event
        if event.sequence >= end:
            return


async def test_a_service_that_may_speak_for_others_does(guarded: Any, pen: Any, token: Mint) -> None:
    """An application's own backend, which knows who its users are."""
    await pen.create("bot")
    headers = bearer(token("shop", pen.session, cap=["write", "read", "speak"]))
    said = {"text": "hi", "to": "bot", "from": "dave"}
    assert (await guarded.http.post(f"/sessions/{pen.session}/inputs", json=said, headers=headers)).status_code == 202
    view = (await guarded.http.get(f"/sessions/{pen.session}", headers=headers)).json()
    assert view["inputs"][0]["from"] == "dave"


async def test_sessions_are_begun_where_they_are_granted(
    guarded: Any, token: Mint, fresh: Callable[[str], str]
) -> None:
    """Named, made up behind a granted beginning, or not at all; the same for forks."""
    prefix = fresh("own")
    headers = bearer(token("ann", f"{prefix}-*"))
    made = await guarded.http.post("/sessions", json={}, headers=headers)
    named = await guarded.http.post("/sessions", json={"session": f"{prefix}-1"}, headers=headers)
    other = await guarded.http.post("/sessions", json={"session": fresh("x")}, headers=headers)
    assert (made.status_code, named.status_code, other.status_code) == (201, 201, 403)
    assert made.json()["session"].startswith(f"{prefix}-")
    fork = await guarded.http.post(f"/sessions/{prefix}-1/fork", json={}, headers=headers)
    away = await guarded.http.post(f"/sessions/{prefix}-1/fork", json={"session": fresh("x")}, headers=headers)
    assert (fork.status_code, away.status_code) == (201, 403)
    assert fork.json()["session"].startswith(f"{prefix}-")
    exact = bearer(token("ann", fresh("only")))
    assert (await guarded.http.post("/sessions", json={}, headers=exact)).status_code == 403
    begun = await guarded.http.get(f"/sessions/{prefix}-1", headers=headers)
    assert begun.json()["meta"]["by"] == "ann"


async def test_a_gateway_without_identity_asks_nobody_and_says_so(gateway: Any) -> None:
    """As before: on readiness, and as a metric."""
    assert (await gateway.http.get("/readyz")).json()["identity"] == "open"
    assert "orchestrator_free_gateway_identity_open 1.0" in (await gateway.http.get("/metrics")).text
    assert (await gateway.http.post("/tickets", json={})).status_code == 409
    assert (await gateway.http.post("/revocations", json={"member": "x"})).status_code == 409


@pytest.mark.parametrize(
    ("setting", "plain", "forwarded"), [("loopback", 200, 401), ("open", 200, 200), ("token", 401, 401)]
)
async def test_metrics_are_read_as_configured(
    guard: Any, token: Mint, setting: str, plain: int, forwarded: int
) -> None:
    """From this host, by everybody, or with an operator's token; a proxy on this host is not this host's user."""
    async with guard(metrics=setting) as gateway:
        assert (await gateway.http.get("/metrics")).status_code == plain
        behind = {"x-forwarded-for": "203.0.113.9"}
        assert (await gateway.http.get("/metrics", headers=behind)).status_code == forwarded
        operator = bearer(token("prometheus", cap=["operate"]))
        text = (await gateway.http.get("/metrics", headers=operator | behind)).text
        assert "orchestrator_free_gateway_identity_open 0.0" in text
        assert (await gateway.http.get("/metrics", headers=bearer(token()) | behind)).status_code in (forwarded, 403)
        assert (await gateway.http.get("/readyz")).json()["identity"] == "tokens"


async def test_the_api_document_says_what_each_route_asks_for(guarded: Any) -> None:
    """Operation by operation, from the same table; what is in the document is served."""
    document = (await guarded.http.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["token"]["scheme"], schemes["ticket"]["in"]) == ("bearer", "query")
    routes = {route.replace("{path:path}", "{path}"): route for route, _ in all_routes(guarded)}
    operations = [
        (path, method, about)
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        if method != "parameters"
    ]
    for path, method, about in operations:
        permit = permit_of(routes[path], method.upper())
        assert permit is not None, (path, method)
        asked = [] if permit.public else [{"token": list(permit.needs)}]
        assert about["security"][:1] == asked, (path, method)
        assert ({"ticket": list(permit.needs)} in about["security"]) is permit.ticket
        assert ("401" in about["responses"]) is not permit.public
    assert len(operations) > 45


async def test_streams_are_those_that_a_token_names(guarded: Any, token: Mint, fresh: Callable[[str], str]) -> None:
    """By path, or as its sessions; a fork of somebody else's stream is a read of it."""
    mine, other = fresh("mine"), fresh("other")
    http, json_type = guarded.http, {"content-type": "application/json"}
    ann, bob = bearer(token("ann", mine)) | json_type, bearer(token("bob", other)) | json_type
    named = bearer(token("ann", "none", streams=[f"docs/{mine}/*"])) | json_type
    for path, headers, status in (
        (mine, ann, 201), (f"sessions/{mine}", ann, 201), (other, bob, 201), (other, ann, 403), (f"docs/{mine}/1", named, 201),
        (f"docs/{other}/1", named, 403), (mine, named, 403), (f"x/{mine}", ann, 403), (f"../{mine}", ann, 403),
    ):  # fmt: skip
        answer = await http.put(f"/v1/stream/{path}".replace("../", "%2e%2e/"), headers=headers)
        assert answer.status_code == status, (path, answer.text)
    assert (await http.post(f"/v1/stream/{other}", json=["secret"], headers=bob)).status_code < 300
    forked = await http.put(
        f"/v1/stream/sessions/{mine}/../{mine}-2".replace("/..", ""),
        headers=bearer(token("ann", f"{mine}*")) | json_type | {"stream-forked-from": f"/v1/stream/{other}"},
    )
    assert forked.status_code == 403
    for method in ("GET", "HEAD", "POST", "DELETE"):
        assert (await http.request(method, f"/v1/stream/{other}", headers=ann)).status_code == 403
    assert (await http.get(f"/v1/stream/{other}", headers=bob)).json() == ["secret"]
    reader = bearer(token("bob", other, cap=["read"]))
    assert (await http.get(f"/v1/stream/{other}", headers=reader)).status_code == 200
    for method in ("PUT", "POST", "DELETE"):
        assert (await http.request(method, f"/v1/stream/{other}", headers=reader | json_type)).status_code == 403
