"""Too much: requests, feeds and sessions of one member and of one address; and who an address is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from starlette.datastructures import Headers

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.allowance import Buckets, address_of, networks
from tests.gateway.identity import bearer, guard, guarded, token

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from tests.gateway.identity import Mint


async def statuses(gateway: Any, target: str, count: int, **headers: str) -> list[int]:
    answers = await asyncio.gather(*(gateway.http.get(target, headers=headers) for _ in range(count)))
    return sorted(answer.status_code for answer in answers)


async def test_a_member_that_asks_too_often_is_told_when_to_come_again(
    guard: Any, pen: Any, token: Mint, eventually: Any
) -> None:
    """429 with Retry-After; others, and services that speak for many, are not held up; after that time it goes on."""
    await pen.create()
    target = f"/sessions/{pen.session}"
    async with guard(member_requests_per_second=2) as gateway:
        mine = bearer(token("ann"))
        found = await statuses(gateway, target, 30, **mine)
        assert 10 <= found.count(200) <= 14, found
        assert set(found) == {200, 429}
        refused = await gateway.http.get(target, headers=mine)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "too many requests of one member" in refused.json()["detail"]
        assert await statuses(gateway, target, 8, **bearer(token("bob"))) == [200] * 8
        assert await statuses(gateway, target, 30, **bearer(token("shop", cap=["read", "speak"]))) == [200] * 30
        assert gateway.count("refused_total", reason="member_rate") >= 16

        async def again() -> bool:
            return bool((await gateway.http.get(target, headers=mine)).status_code == 200)

        await eventually(again, 10, every=0.3)


async def test_an_address_that_asks_too_often_is_refused_before_its_tokens_are_read(guard: Any, token: Mint) -> None:
    """Guessing tokens is asking, too; one address behind a trusted proxy is not all of them."""
    async with guard(address_requests_per_second=2, trusted_proxies=("127.0.0.1",)) as gateway:
        found = [
            (await gateway.http.get("/sessions", headers=bearer("x") | {"x-forwarded-for": "203.0.113.7"})).status_code
            for _ in range(30)
        ]
        assert set(found) == {401, 429}
        other = await gateway.http.get("/sessions", headers=bearer(token()) | {"x-forwarded-for": "203.0.113.8"})
        assert other.status_code == 200


async def test_feeds_of_one_member_are_counted_and_their_places_come_back(
    guard: Any, pen: Any, token: Mint, eventually: Any
) -> None:
    """Over every transport; a place is free again within seconds of a feed's end."""
    await pen.create("bot")
    mine = bearer(token("ann"))
    async with guard(member_feeds=2) as gateway:
        async with gateway.feed(pen.session, headers=mine) as one, gateway.feed(pen.session, headers=mine) as two:
            await eventually(lambda: one.events and two.events)
            third = await gateway.read(pen.session, headers=mine)
            assert (third.status, "retry-after: " in third.head) == (429, True)
            message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
            chat = await gateway.http.post("/api/chat", json={"id": pen.session, "messages": [message]}, headers=mine)
            assert chat.status_code == 429
            assert (await gateway.http.get(f"/sessions/{pen.session}", headers=mine)).json()["inputs"] == []
            async with gateway.feed(pen.session, headers=bearer(token("bob"))) as other:
                await eventually(lambda: other.events)

        async def free() -> bool:
            async with gateway.feed(pen.session, headers=mine) as again:
                await eventually(lambda: again.events or again.end)
                return bool(again.events)

        await eventually(free, 10, every=0.3)


async def test_feeds_of_one_address_are_counted(guard: Any, pen: Any, token: Mint, eventually: Any) -> None:
    """Whoever they are of."""
    await pen.create()
    async with guard(address_feeds=1) as gateway, gateway.feed(pen.session, headers=bearer(token("ann"))) as one:
        await eventually(lambda: one.events)
        assert (await gateway.read(pen.session, headers=bearer(token("bob")))).status == 429


async def test_sessions_begun_by_one_member_are_counted_however_it_begins_them(
    guard: Any, pen: Any, token: Mint, fresh: Any
) -> None:
    """By POST, by fork, by the first message of a chat."""
    await pen.create()
    mine = bearer(token("ann"))
    async with guard(member_sessions_per_hour=3) as gateway:
        post = gateway.http.post
        assert (await post("/sessions", json={}, headers=mine)).status_code == 201
        assert (await post(f"/sessions/{pen.session}/fork", json={}, headers=mine)).status_code == 201
        agui = {"threadId": fresh("t"), "runId": "r", "messages": [{"role": "user", "content": "x"}]}
        async with gateway.http.stream("POST", "/api/agui", json=agui, headers=mine) as begun:
            assert begun.status_code == 200
        for path, body in (
            ("/sessions", {}), (f"/sessions/{pen.session}/fork", {}), ("/api/agui", agui | {"threadId": fresh("t")}),
        ):  # fmt: skip
            answer = await post(path, json=body, headers=mine)
            assert (answer.status_code, int(answer.headers["retry-after"]) > 60) == (429, True), answer.text
        assert (await post("/sessions", json={}, headers=bearer(token("bob")))).status_code == 201


def test_an_address_is_what_trusted_proxies_say_and_never_what_a_client_says() -> None:
    """From the last hop on, as long as hops are trusted."""
    proxies = networks(["10.0.0.0/8", "::1"])
    for peer, said, expected in (
        ("203.0.113.1", "1.2.3.4", "203.0.113.1"), ("10.0.0.1", "1.2.3.4", "1.2.3.4"), ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"), ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "evil", "10.0.0.1"), ("10.0.0.1", "1.2.3.4, evil", "10.0.0.1"), ("::1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "127.0.0.1, 1.2.3.4", "1.2.3.4"),
    ):  # fmt: skip
        headers = Headers({} if said is None else {"x-forwarded-for": said})
        assert address_of({"client": (peer, 1)}, headers, proxies) == expected, (peer, said)
        assert address_of({"client": (peer, 1)}, headers, []) == peer
    for wrong in ("all", "10.0.0.0/99", "*", ""):
        with pytest.raises(InvalidInput, match="name the proxies"):
            networks([wrong])


def test_buckets_are_bounded_and_forget_who_is_silent() -> None:
    """A million addresses are no million entries for ever."""
    buckets = Buckets(rate=1e9, burst=5)
    for number in range(10_000):
        assert buckets.take(str(number)) == 0
    assert len(buckets._left) < 10
