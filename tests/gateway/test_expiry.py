"""Open feeds whose token ends: they are cut, told why, and go on with another one; over every transport."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed

from orchestrator_free.gateway.access.revocations import revoke_member, revoke_token
from orchestrator_free.identity.keys import rotate_keys
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.jetstream import AccessBucket
from tests.gateway.identity import bearer, guard, guarded, token
from tests.gateway.pages import page

__all__ = ["guard", "guarded", "page", "token"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateway.identity import Mint


async def test_an_expired_token_cuts_its_feed_and_another_goes_on_without_loss(
    guarded: Any, pen: Any, token: Mint, got: Callable[..., Any], eventually: Any
) -> None:
    """A control frame says `token_expired`; what came meanwhile is there for who comes back; a long token stays."""
    await pen.story("one")
    async with guarded.feed(pen.session, headers=bearer(token("bob"))) as other:
        async with guarded.feed(pen.session, headers=bearer(token.ending(2))) as feed:
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            await eventually(lambda: feed.end, 10)
            assert (feed.end, feed.names[-1]) == ("truncated", "token_expired")
            first = feed.events
        await pen.start("two")
        refused = await guarded.read(pen.session, headers=bearer(token.ending(-1)))
        async with guarded.feed(pen.session, headers=bearer(token()) | {"last-event-id": first[-1].id}) as again:
            await pen.say("two", "more")
            await eventually(lambda: len(first) + len(again.events) == len(pen.sequences))
            assert got(first + again.events) == await pen.log()
        assert (refused.status, b"token-expired" in refused.body) == (401, True)
        await eventually(lambda: len(other.events) == len(pen.sequences))
        assert other.end is None
    assert guarded.gateway.registry.get_sample_value(
        "orchestrator_free_gateway_tokens_ended_total", {"reason": "token_expired"}
    ) == 1  # fmt: skip


async def test_ndjson_and_websockets_are_told_in_their_own_words(
    guarded: Any, pen: Any, token: Mint, eventually: Any
) -> None:
    """A line of JSON; closing code 4401."""
    await pen.story("one")
    headers = bearer(token.ending(2)) | {"accept": "application/x-ndjson"}
    read = asyncio.create_task(guarded.read(pen.session, headers=headers))
    messages, code = await _follow(
        f"ws://127.0.0.1:{guarded.port}/sessions/{pen.session}/events", bearer(token.ending(2))
    )
    lines = [orjson.loads(line) for line in (await read).body.split(b"\n") if line.strip()]
    assert lines[-1]["control"] == "token_expired"
    assert (messages[-1]["control"], code) == ("token_expired", 4401)
    assert len([line for line in lines if "event" in line]) == len(pen.sequences)


async def _follow(address: str, headers: dict[str, str]) -> tuple[list[Any], int]:
    """Follow a WebSocket until the gateway closes it; return what came, and the code."""
    found = []
    async with dial(address, additional_headers=headers) as socket, asyncio.timeout(20):
        try:
            while True:
                found.append(orjson.loads(await socket.recv()))
        except ConnectionClosed as closed:
            return found, closed.rcvd.code if closed.rcvd else 1006


async def test_streams_of_other_protocols_end_with_their_token(guarded: Any, pen: Any, token: Mint) -> None:
    """Truncated, so that a client resumes; the socket of chats closes with 4401."""
    await pen.create("bot")
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    body = {"id": pen.session, "messages": [message]}
    with pytest.raises(Exception, match=r"incomplete chunked read|peer closed"):
        async with guarded.http.stream("POST", "/api/chat", json=body, headers=bearer(token.ending(2))) as answer:
            async for _ in answer.aiter_bytes():
                pass
    again = await guarded.http.get(f"/api/chat/{pen.session}/stream", headers=bearer(token.ending(-1)))
    assert again.status_code == 401
    _, code = await _follow(f"ws://127.0.0.1:{guarded.port}/api/chat/socket", bearer(token.ending(2)))
    assert code == 4401


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_the_typescript_client_fetches_a_new_token_and_misses_nothing(
    guarded: Any, pen: Any, token: Mint, page: Any, transport: str
) -> None:
    """Three tokens end while it listens, events all the while: each once, in order; the page never says `offline`."""
    await pen.create("bot")
    await pen.start("bot")
    node = ("--experimental-websocket",) if transport == "websocket" else ()
    tokens = [token.ending(seconds) for seconds in (6, 11, 16)] + [token()]
    about = (
        f"gateway: {guarded.base!r}, session: {pen.session!r}, member: 'ann', share: false, transport: {transport!r}"
    )
    async with page(*node) as tab:
        await tab.do(
            "keep",
            "seen",
            "({tokens: " + orjson.dumps(tokens).decode() + ", asked: 0, cuts: 0, statuses: [], got: []})",
        )
        ask = "token: async () => { seen.asked += 1; return seen.tokens[Math.min(seen.cuts, 3)]; }"
        await tab.do("keep", "session", f"new Session({{{about}, {ask}}})")
        await tab.eval("void session.on('status', (now) => seen.statuses.push(now))")
        await tab.eval("void session.on('event', (event) => seen.got.push(event.event.text))")
        await tab.eval(
            "void session.on('control-frame', (frame) => frame.control === 'token_expired' && (seen.cuts += 1))"
        )
        await tab.eval("session.open()")
        said = []
        async with asyncio.timeout(60):
            while await tab.eval("seen.cuts") < 3:
                said.append(f"w{len(said)}")
                await pen.say("bot", said[-1])
                await asyncio.sleep(0.01)
        said.append("end")
        await pen.say("bot", "end")
        await tab.wait("seen.got.at(-1) === 'end'")
        assert await tab.eval("seen.got") == said
        assert await tab.eval("seen.cuts") == 3
        assert "offline" not in await tab.eval("seen.statuses")
        assert await tab.eval("seen.asked") >= 4


async def test_a_revoked_token_and_all_of_a_member_end_within_seconds(
    guard: Any, pen: Any, token: Mint, ann: Any, eventually: Any
) -> None:
    """At every gateway, wherever it was said; others stay; what is made afterwards counts."""
    await pen.story("one")
    bucket = AccessBucket(ann.log)
    async with guard() as first, guard() as second:
        one, two, other = token("ann"), token("ann"), token("bob")
        verified = await Verifier(await _keys(token)).verify(one)
        async with (
            first.feed(pen.session, headers=bearer(one)) as gone,
            second.feed(pen.session, headers=bearer(two)) as kept,
            second.feed(pen.session, headers=bearer(other)) as others,
        ):
            await eventually(lambda: gone.events and kept.events and others.events)
            await revoke_token(bucket, verified.token)
            await eventually(lambda: gone.end, 30)
            assert (gone.end, gone.names) == ("truncated", ["token_revoked"])
            assert (await first.http.get(f"/sessions/{pen.session}", headers=bearer(one))).status_code == 401
            assert kept.end is None
            await revoke_member(bucket, "ann")
            await eventually(lambda: kept.end, 30)
            assert kept.names == ["token_revoked"]
            for gateway in (first, second):

                async def refuses(gateway: Any = gateway) -> bool:
                    answer = await gateway.http.get(f"/sessions/{pen.session}", headers=bearer(two))
                    return answer.status_code == 401 and "revoked" in answer.json()["detail"]

                await eventually(refuses, 30)
            assert others.end is None

        async def counts_again() -> bool:
            answer = await second.http.get(f"/sessions/{pen.session}", headers=bearer(token("ann")))
            return bool(answer.status_code == 200)

        await eventually(counts_again, 30)


async def _keys(token: Mint) -> FileKeys:
    keys = FileKeys(token.file)
    await keys.load()
    return keys


async def test_an_administrator_revokes_over_http(guarded: Any, pen: Any, token: Mint, eventually: Any) -> None:
    """For a backend that does not speak NATS; nobody else may."""
    await pen.create()
    admin = bearer(token("root", cap=["admin"]))
    mallory = token("mallory")
    assert (
        await guarded.http.post("/revocations", json={"member": "mallory"}, headers=bearer(mallory))
    ).status_code == 403
    for body in ({}, {"member": "a", "token": "b"}, {"member": "a.b"}):
        assert (await guarded.http.post("/revocations", json=body, headers=admin)).status_code == 400
    async with guarded.feed(pen.session, headers=bearer(mallory)) as feed:
        await eventually(lambda: feed.events)
        assert (await guarded.http.post("/revocations", json={"member": "mallory"}, headers=admin)).status_code == 204
        await eventually(lambda: feed.end, 10)
    assert (await guarded.http.get("/sessions", headers=bearer(mallory))).status_code == 401


async def test_what_a_forger_writes_into_the_bucket_revokes_nobody(
    guarded: Any, pen: Any, token: Mint, ann: Any, eventually: Any
) -> None:
    """The broker can be made to put an answer of its own there; it is no entry, and breaks nothing."""
    await pen.create()
    wire = ann.log.wire
    for key in ("revoked.member.ann", "revoked.member.bob"):
        wire.send("$JS.API.STREAM.INFO.SESSIONS_0", b"", reply=f"$KV.orchestrator_free_access.{key}")
        wire.send(
            "$JS.API.DIRECT.GET.SESSIONS_0",
            b'{"last_by_subj": "session.>"}',
            reply=f"$KV.orchestrator_free_access.{key}",
        )
    # The worst that a member can do: words of its own choice, which the broker hands over as if it had asked for them.
    said = {"type": "state.set", "value": 1, "before": 9_000_000_000}
    await pen.write("mallory", "state", said, id="x")
    asked = orjson.dumps({"last_by_subj": f"session.0.{pen.session}.mallory.state.x"})
    wire.send("$JS.API.DIRECT.GET.SESSIONS_0", asked, reply="$KV.orchestrator_free_access.revoked.member.ann")
    await wire.api("STREAM.INFO.SESSIONS_0")
    await eventually(lambda: _stored(wire, "revoked.member.ann", b"9000000000"))
    await guarded.gateway.gate.revocations.load()
    assert (await guarded.http.get(f"/sessions/{pen.session}", headers=bearer(token("ann")))).status_code == 200


async def _stored(wire: Any, key: str, text: bytes) -> bool:
    body = {"last_by_subj": f"$KV.orchestrator_free_access.{key}"}
    found = await wire.api("STREAM.MSG.GET.KV_orchestrator_free_access", body)
    return text in base64.b64decode(found["message"]["data"])


async def test_a_gateway_takes_new_keys_while_it_runs(guarded: Any, pen: Any, token: Mint) -> None:
    """Rotation over HTTP: the old token counts until its key is gone."""
    await pen.create()
    old = token("ann")
    rotate_keys(token.file)
    for one in (old, token("ann")):
        assert (await guarded.http.get(f"/sessions/{pen.session}", headers=bearer(one))).status_code == 200
    rotate_keys(token.file)

    async with asyncio.timeout(10):
        while (await guarded.http.get(f"/sessions/{pen.session}", headers=bearer(old))).status_code != 401:
            await asyncio.sleep(0.05)
    assert (await guarded.http.get(f"/sessions/{pen.session}", headers=bearer(token("ann")))).status_code == 200
