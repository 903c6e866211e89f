"""Tokens that read the words of some members only: nothing of the others comes to them, in whatever form it is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from websockets.asyncio.client import connect as dial

from orchestrator_free.gateway.access.permits import PERMITS, SOCKET
from orchestrator_free.identity.principal import CAPABILITIES
from tests.gateway.identity import bearer, guard, guarded, token
from tests.gateway.test_guard import all_routes, ask, body_of, filled

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from tests.gateway.identity import Mint

HIDDEN = "s3cr3t-of-others"
SHOWN = "for-ann-to-read"


@pytest.fixture
async def story(pen: Any) -> Any:
    """What ann, `bot` and others have said; of the others every kind of entity has the secret in it."""
    await pen.write("carl", "meta", {"type": "session.created", "title": "both", "agents": ["bot", "other"]})
    ask_ann = {"type": "input", "text": f"{SHOWN} question", "to": "all"}
    await pen.write("ann", "in", ask_ann, target="all", id="i1")
    for agent, text in (("bot", SHOWN), ("other", HIDDEN)):
        run = f"run-{agent}"
        await pen.write(agent, "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=run)
        await pen.write(agent, "run", {"type": "text.delta", "part": "1", "text": text}, id=run)
        await pen.write(
            agent, "run", {"type": "tool.started", "call": "c", "tool": f"tool-{text}", "input": text}, id=run
        )
        await pen.write(agent, "run", {"type": "tool.output", "call": "c", "output": text}, id=run)
        await pen.write(agent, "run", {"type": "run.finished", "status": "done"}, id=run)
        await pen.write(agent, "state", {"type": "state.set", "value": text}, id=f"key-{agent}")
        await pen.write(agent, "presence", {"type": "presence.set", "status": "away", "reason": text})
    await pen.write("bob", "in", {"type": "input", "text": f"{HIDDEN} bob", "to": "bot"}, target="bot", id="i2")
    await pen.write("bob", "ctl", {"type": "steer", "text": HIDDEN}, target="bot", id="c1")
    await pen.write("bob", "ask", {"type": "ask", "text": HIDDEN, "to": ["ann"]}, id="a1")
    await pen.write("bob", "floor", {"type": "floor.take", "holder": "bob", "reason": HIDDEN})
    return pen


def narrow() -> list[tuple[str, str]]:
    """Routes that such a token may use."""
    return [
        (route, method) for route, methods in PERMITS.items() for method, permit in methods.items() if permit.narrow
    ]


async def test_whoever_may_not_read_others_finds_nothing_of_them(guarded: Any, story: Any, token: Mint) -> None:
    """Every route, every method, feeds from the beginning, as a snapshot, as NDJSON, over WebSocket and as protocols."""
    headers = bearer(token("ann", story.session, cap=CAPABILITIES, agents=["bot"]))
    bodies = {}
    for route, method in narrow():
        if method == SOCKET or route == "/metrics":
            continue
        if "events" in route or route.startswith("/api/") or method == "GET":
            bodies[(route, method)] = await _all_of(guarded, route, method, story.session, headers)
        else:
            bodies[(route, method)] = (await ask(guarded, route, method, story.session, headers)).text
    base = f"/sessions/{story.session}"
    for name, target, more in (
        ("snapshot", f"{base}/events?snapshot=1&presence=follow", {}),
        ("ndjson", f"{base}/events", {"accept": "application/x-ndjson"}),
        ("reset", f"{base}/events?after=00000000-5", {}),
        ("named", f"{base}/events?agents=other,bob", {}),
        ("tools", f"{base}/tools?agent=other", {}),
        ("regenerate", "/api/agui?threadId=" + story.session + "&runId=i2", {}),
    ):
        bodies[(name, "GET")] = await _read(guarded, "GET", target, None, headers | more)
    leaks = {name: body[:300] for name, body in bodies.items() if HIDDEN in body}
    assert leaks == {}
    for name in (
        (f"{base}/events".replace(story.session, "{session}"), "GET"), ("snapshot", "GET"), ("ndjson", "GET"), ("reset", "GET"),
        ("/sessions/{session}", "GET"), ("/sessions/{session}/conversation", "GET"), ("/sessions/{session}/tools", "GET"),
        ("/api/chat/{session}/messages", "GET"), ("/api/agui", "GET"), ("/api/agui/connect", "POST"),
    ):  # fmt: skip
        assert SHOWN in bodies[name], (name, bodies[name][:500])


async def _all_of(guarded: Any, route: str, method: str, session: str, headers: dict[str, str]) -> str:
    body = body_of(route, session) if method == "POST" else None
    return await _read(guarded, method, filled(route, session), body, headers)


async def _read(guarded: Any, method: str, target: str, body: Any, headers: dict[str, str]) -> str:
    """Read a body until nothing more comes for a moment."""
    found = b""
    try:
        async with guarded.http.stream(method, target, json=body, headers=headers) as answer, asyncio.timeout(1.5):
            async for piece in answer.aiter_raw():
                found += piece
    except TimeoutError:
        pass
    return found.decode()


async def test_what_is_said_later_is_kept_apart_too(guarded: Any, story: Any, token: Mint, eventually: Any) -> None:
    """Live, over both transports, while a lens and a plain reader look at the same session."""
    narrow_token = token("ann", story.session, agents=["bot"])
    address = f"ws://127.0.0.1:{guarded.port}/sessions/{story.session}/events"
    heard: list[str] = []
    async with (
        guarded.feed(story.session, headers=bearer(narrow_token)) as feed,
        guarded.feed(story.session, headers=bearer(token("dan", story.session))) as whole,
        dial(address, additional_headers=bearer(narrow_token)) as socket,
    ):
        task = asyncio.create_task(_hear(socket, heard))
        before = (await guarded.http.get(f"/sessions/{story.session}", headers=bearer(narrow_token))).json()
        for number in range(20):
            for agent, text in (("bot", f"{SHOWN} {number}"), ("other", f"{HIDDEN} {number}")):
                await story.write(agent, "state", {"type": "state.set", "value": text}, id="late")
        await eventually(lambda: f"{SHOWN} 19" in feed.body.decode() and f"{HIDDEN} 19" in whole.body.decode())
        await eventually(lambda: any(f"{SHOWN} 19" in text for text in heard))
        view = (await guarded.http.get(f"/sessions/{story.session}", headers=bearer(narrow_token))).json()
        task.cancel()
    assert HIDDEN not in feed.body.decode() + "".join(heard) + orjson.dumps([before, view]).decode()
    assert view["state"]["late"]["value"] == f"{SHOWN} 19"
    assert int(view["position"].rpartition("-")[2]) == story.sequences[-1]


async def _hear(socket: Any, heard: list[str]) -> None:
    while True:
        heard.append(await socket.recv())


async def test_routes_that_cannot_tell_members_apart_refuse_such_a_token(guarded: Any, story: Any, token: Mint) -> None:
    """With a reason; and nothing of others can be had by saying it again in one's own name."""
    headers = bearer(token("ann", story.session, cap=CAPABILITIES, agents=["bot"]))
    refused = 0
    for route, method in all_routes(guarded):
        permits = PERMITS.get(route, {})
        permit = permits.get("GET" if method == "HEAD" else method)
        if permit is None or permit.public or permit.narrow:
            continue
        answer = await ask(guarded, route, method, story.session, headers)
        assert answer.status_code == 403, (route, method, answer.text)
        refused += 1
    assert refused > 12
    for place in ("again", "edits", "after"):
        body = {place: {"from": "bob", "input": "i2"}, "text": "x"}
        answer = await guarded.http.post(f"/sessions/{story.session}/inputs", json=body, headers=headers)
        assert (answer.status_code, "does not read" in answer.text) == (403, True), answer.text


async def test_files_of_those_who_are_read_can_be_had_and_no_others(
    guarded: Any, story: Any, ann: Any, token: Mint
) -> None:
    """By the view: what it refers to. The name of another's file opens nothing."""
    session = ann.session(story.session)
    for agent in ("bot", "other"):
        await ann.objects.put(session.id, f"file-{agent}", b"bytes of " + agent.encode())
        part = {"type": "file", "part": "2", "name": "f", "media_type": "text/plain", "object": f"file-{agent}"}
        await story.write(agent, "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=f"filed-{agent}")
        await story.write(agent, "run", part, id=f"filed-{agent}")
    headers = bearer(token("ann", story.session, agents=["bot"]))
    base = f"/sessions/{story.session}/objects"
    assert (await guarded.http.get(f"{base}/file-bot", headers=headers)).content == b"bytes of bot"
    assert (await guarded.http.get(f"{base}/file-other", headers=headers)).status_code == 404
    assert (await guarded.http.get(f"{base}/file-other", headers=bearer(token("dan")))).status_code == 200
