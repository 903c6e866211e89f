"""One-time tickets: for what they are, once, soon, from the page that fetched them; at any gateway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from orchestrator_free.broker import connect
from orchestrator_free.gateway.access.tickets import Tickets
from orchestrator_free.jetstream import AccessBucket
from tests.gateway.identity import bearer, guard, guarded, token

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateway.identity import Mint

PAGE = "http://localhost:3000"


async def ticket_for(gateway: Any, token: str, session: str | None, **headers: str) -> str:
    body = {} if session is None else {"session": session}
    answer = await gateway.http.post("/tickets", json=body, headers=bearer(token) | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["ticket"])


async def opened(gateway: Any, session: str, ticket: str, **headers: str) -> int:
    """Open a feed with a ticket, as an EventSource does; return the status."""
    async with gateway.http.stream(
        "GET", f"/sessions/{session}/events?ticket={quote(ticket)}", headers=headers
    ) as answer:
        return int(answer.status_code)


async def socket_opened(gateway: Any, path: str, ticket: str, **more: Any) -> int:
    try:
        async with dial(f"ws://127.0.0.1:{gateway.port}{path}?ticket={quote(ticket)}", **more):
            return 101
    except InvalidStatus as refused:
        return int(refused.response.status_code)


async def test_a_ticket_opens_a_feed_once(guarded: Any, pen: Any, token: Mint, eventually: Any) -> None:
    """Over SSE and over WebSocket; the second time it is nothing, however soon."""
    await pen.story("one")
    mine = token("ann", pen.session)
    async with guarded.feed(pen.session, ticket=await ticket_for(guarded, mine, pen.session)) as feed:
        await eventually(lambda: len(feed.events) == len(pen.sequences))
    ticket = await ticket_for(guarded, mine, pen.session)
    assert [await opened(guarded, pen.session, ticket) for _ in range(3)] == [200, 401, 401]
    ticket = await ticket_for(guarded, mine, pen.session)
    path = f"/sessions/{pen.session}/events"
    assert [await socket_opened(guarded, path, ticket) for _ in range(2)] == [101, 401]
    chats = await ticket_for(guarded, mine, None)
    assert [await socket_opened(guarded, "/api/chat/socket", chats) for _ in range(2)] == [101, 401]


async def test_many_who_show_one_ticket_at_once_are_one(guard: Any, pen: Any, token: Mint) -> None:
    """At two gateways, ten times each: one is let in."""
    await pen.create()
    async with guard() as first, guard() as second:
        for _ in range(5):
            ticket = await ticket_for(first, token("ann"), pen.session)
            found = await asyncio.gather(
                *(opened(gateway, pen.session, ticket) for gateway in (first, second) for _ in range(10))
            )
            assert sorted(found) == [200] + [401] * 19


async def test_an_entry_is_taken_once_however_many_look_at_it_at_the_same_time(
    ann: Any, broker_url: str, guarded: Any
) -> None:
    """Everybody has read it before anybody has used it: the broker decides."""
    async with connect(broker_url, member="gateway") as other:
        buckets = [AccessBucket(ann.log), AccessBucket(other.log)]
        for number in range(10):
            await buckets[0].put(f"ticket.race{number}", b"sealed", ttl="30s")
            found = await asyncio.gather(
                *(bucket.take(f"ticket.race{number}") for bucket in buckets for _ in range(10))
            )
            assert sorted(map(bool, found)) == [False] * 19 + [True]


async def test_a_ticket_is_for_its_session_its_page_and_feeds_only(
    guard: Any, pen: Any, pen_for: Any, token: Mint, fresh: Callable[[str], str]
) -> None:
    """For another session, from a page of another origin, or for anything that changes something: nothing."""
    other = fresh("other")
    await pen.create()
    await pen_for(other).create()
    mine = token("ann")
    async with guard(allow_origins=(PAGE, "http://localhost:3001")) as gateway:
        own = {"origin": f"http://127.0.0.1:{gateway.port}"}
        assert await opened(gateway, other, await ticket_for(gateway, mine, pen.session)) == 401
        assert await opened(gateway, pen.session, await ticket_for(gateway, mine, None)) == 401
        assert await socket_opened(gateway, "/api/chat/socket", await ticket_for(gateway, mine, pen.session)) == 401
        for fetched, shown, expected in (
            ({"origin": PAGE}, {"origin": PAGE}, 200), ({"origin": PAGE}, {"origin": "http://localhost:3001"}, 401),
            ({"origin": PAGE}, {}, 401), ({}, {"origin": PAGE}, 401), (own, {}, 200), (own, own, 200), ({}, own, 200),
        ):  # fmt: skip
            assert (
                await opened(gateway, pen.session, await ticket_for(gateway, mine, pen.session, **fetched), **shown)
                == expected
            )
        ticket = await ticket_for(gateway, mine, pen.session, origin=PAGE)
        path = f"/sessions/{pen.session}/events"
        assert await socket_opened(gateway, path, ticket, origin="http://localhost:3001") == 401
        ticket = await ticket_for(gateway, mine, pen.session)
        for method, target in (("POST", "inputs"), ("GET", ""), ("DELETE", ""), ("POST", "controls")):
            url = f"/sessions/{pen.session}/{target}".rstrip("/") + f"?ticket={ticket}"
            assert (await gateway.http.request(method, url, json={})).status_code == 401 if method == "POST" else True
        assert (await gateway.http.get(f"/sessions/{pen.session}?ticket={ticket}")).status_code == 401
        assert (await gateway.http.post(f"/tickets?ticket={ticket}", json={})).status_code == 401
        assert await opened(gateway, pen.session, ticket) == 200  # none of that has used it


async def test_nobody_gets_a_ticket_for_what_it_may_not_enter(guarded: Any, pen: Any, token: Mint) -> None:
    """As if there were no such session; without a token, or one that may not read, there are none."""
    await pen.create()
    ask = guarded.http.post
    assert (
        await ask("/tickets", json={"session": pen.session}, headers=bearer(token("ann", "else")))
    ).status_code == 404
    assert (await ask("/tickets", json={"session": pen.session})).status_code == 401
    assert (await ask("/tickets", json={}, headers=bearer(token("ann", cap=["write"])))).status_code == 403
    for wrong in ({"session": "a.b"}, {"session": 7}, {"x": 1}):
        assert (await ask("/tickets", json=wrong, headers=bearer(token()))).status_code == 400
    for text in ("", "tkt_", "tkt_made-up", "x" * 5000, "a.b", "*", ">", "tkt_\n", "../x"):
        assert await opened(guarded, pen.session, text) == 401


async def test_a_ticket_is_worth_its_token_and_no_longer(guarded: Any, pen: Any, token: Mint, eventually: Any) -> None:
    """What expires or is revoked opens nothing, and a feed that it opened ends with it."""
    await pen.create()
    short = token.ending(3)
    ticket, later = [await ticket_for(guarded, short, pen.session) for _ in range(2)]
    async with guarded.feed(pen.session, ticket=ticket) as feed:
        await eventually(lambda: feed.end, 10)
    assert feed.names == ["token_expired"]
    assert await opened(guarded, pen.session, later) == 401


async def test_a_token_in_an_address_is_refused_whatever_it_is_worth(guarded: Any, pen: Any, token: Mint) -> None:
    """Addresses end up in logs and histories; the answer says what to do instead, and not the token."""
    await pen.create()
    good = token()
    for name in ("access_token", "token"):
        for headers in ({}, bearer(good)):
            answer = await guarded.http.get(f"/sessions/{pen.session}?{name}={good}", headers=headers)
            assert (answer.status_code, "POST /tickets" in answer.text, good in answer.text) == (401, True, False)


async def test_the_broker_holds_no_ticket_and_no_token(guarded: Any, pen: Any, token: Mint, ann: Any) -> None:
    """Sealed with the ticket; a forger who writes there opens nothing."""
    await pen.create()
    mine = token("ann")
    ticket = await ticket_for(guarded, mine, pen.session)
    bucket = AccessBucket(ann.log)
    stored = await bucket.below("ticket")
    text = repr(stored)
    assert stored
    assert mine not in text
    assert mine.encode() not in b"".join(stored.values())
    assert ticket not in text
    forged = Tickets(AccessBucket(ann.log))
    made = await forged.issue("not.a.token", session=pen.session, page="")
    assert await opened(guarded, pen.session, made) == 401
    await bucket.put(f"ticket.{next(iter(stored))}", b'{"token": "x", "session": null, "page": ""}')
    assert await opened(guarded, pen.session, ticket) == 401


@pytest.mark.slow
async def test_a_ticket_is_over_after_half_a_minute(
    guarded: Any, pen: Any, token: Mint, ann: Any, eventually: Any
) -> None:
    """The broker forgets it by its own clock."""
    await pen.create()
    ticket = await ticket_for(guarded, token(), pen.session)
    bucket = AccessBucket(ann.log)
    assert await bucket.below("ticket")

    async def forgotten() -> bool:
        return not await bucket.below("ticket")

    await eventually(forgotten, 60, every=0.5)
    assert await opened(guarded, pen.session, ticket) == 401
