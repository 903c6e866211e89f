"""State survives `kill -9` of the gateway and of the broker: offsets, bytes, producers, closing, forks, expiry."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free.embedded.server import EmbeddedServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}


def producer(id: str, epoch: int, seq: int) -> dict[str, str]:
    return {"producer-id": id, "producer-epoch": str(epoch), "producer-seq": str(seq)}


async def story(http: httpx.AsyncClient) -> None:
    """Streams of every kind."""
    await http.put("/v1/stream/text", headers=TEXT, content=b"begin ")
    for number in range(20):
        await http.post(
            "/v1/stream/text", headers={**TEXT, "stream-seq": f"{number:03d}"}, content=f"{number} ".encode()
        )
    await http.put("/v1/stream/large", headers=BINARY)
    await http.post("/v1/stream/large", headers=BINARY, content=bytes(range(256)) * 12_000)
    await http.put("/v1/stream/produced", headers=JSON)
    for name, count in (("p", 7), ("q", 3)):
        for seq in range(count):
            await http.post(
                "/v1/stream/produced", headers={**JSON, **producer(name, 2, seq)}, content=b'["%b"]' % name.encode()
            )
    await http.put("/v1/stream/closed", headers=JSON)
    await http.post(
        "/v1/stream/closed", headers={**JSON, **producer("c", 0, 0), "stream-closed": "true"}, content=b"[1]"
    )
    await http.put("/v1/stream/empty", headers={**TEXT, "stream-closed": "true"})
    middle = (await http.get("/v1/stream/text")).headers["stream-next-offset"]
    await http.put("/v1/stream/fork", headers={"stream-forked-from": "/v1/stream/text", "stream-fork-offset": middle})
    await http.post("/v1/stream/fork", headers=TEXT, content=b"forked")
    await http.post("/v1/stream/text", headers=TEXT, content=b"source")
    await http.put("/v1/stream/soft", headers=TEXT, content=b"soft ")
    await http.put("/v1/stream/softfork", headers={"stream-forked-from": "/v1/stream/soft"})
    assert (await http.delete("/v1/stream/soft")).status_code == 204
    assert (await http.delete("/v1/stream/fork-that-is-not-there")).status_code == 404
    await http.put("/v1/stream/deleted", headers=TEXT, content=b"x")
    assert (await http.delete("/v1/stream/deleted")).status_code == 204
    await http.put("/v1/stream/lasting", headers={**TEXT, "stream-ttl": "3600"}, content=b"x")
    await http.put("/v1/stream/short", headers={**TEXT, "stream-ttl": "3"}, content=b"x")


NAMES = ("text", "large", "produced", "closed", "empty", "fork", "soft", "softfork", "deleted", "lasting")


async def state(http: httpx.AsyncClient) -> dict[str, Any]:
    """All that a client can know of the streams."""
    found: dict[str, Any] = {}
    for name in NAMES:
        head, body = await http.head(f"/v1/stream/{name}"), await http.get(f"/v1/stream/{name}")
        kept = {
            key: value for key, value in head.headers.items() if key.startswith(("stream-", "content-type", "etag"))
        }
        found[name] = (head.status_code, kept, hashlib.sha256(body.content).hexdigest(), body.headers.get("etag"))
    return found


async def decisions(http: httpx.AsyncClient) -> list[tuple[int, Any]]:
    """What becomes of writes that must not be stored, or are there already."""

    async def post(name: str, headers: dict[str, str], body: bytes, key: str = "") -> tuple[int, Any]:
        answer = await http.post(f"/v1/stream/{name}", headers=headers, content=body)
        return answer.status_code, answer.headers.get(key)

    return [
        await post("produced", {**JSON, **producer("p", 2, 6)}, b'["again"]', "producer-seq"),
        await post("produced", {**JSON, **producer("q", 2, 0)}, b'["again"]', "producer-seq"),
        await post("produced", {**JSON, **producer("p", 2, 9)}, b'["gap"]', "producer-expected-seq"),
        await post("produced", {**JSON, **producer("p", 1, 0)}, b'["zombie"]', "producer-epoch"),
        await post("closed", JSON, b"[2]", "stream-closed"),
        await post("closed", {**JSON, **producer("c", 0, 0), "stream-closed": "true"}, b"[1]", "stream-closed"),
        await post("text", {**TEXT, "stream-seq": "019"}, b"late"),
        await post(
            "fork", {**TEXT, "stream-seq": "000", "if-match": '"0000000000000000_0000000000000001"'}, b"x", "etag"
        ),
        await post("soft", TEXT, b"x"),
        await post("deleted", TEXT, b"x"),
    ]


EXPECTED = [204, 204, 409, 403, 409, 204, 409, 412, 410, 404]


async def test_everything_survives_the_death_of_the_gateway_and_of_the_broker(
    process: Callable[[], Any], broker: EmbeddedServer, eventually: Any
) -> None:
    """Create, append, producers, close, fork, expiry; then both are killed in turn, and a client sees no difference."""
    gateway = process()
    await gateway.start(eventually)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        await story(http)
        before, decided = await state(http), await decisions(http)
    assert [status for status, _ in decided] == EXPECTED
    assert before["text"][0] == before["lasting"][0] == 200
    assert (before["soft"][0], before["deleted"][0]) == (410, 404)

    gateway.kill()
    await gateway.start(eventually)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        assert await state(http) == before
        assert await decisions(http) == decided

        broker.kill()
        await broker.start()  # the gateway lives on, and finds it again
        assert await state(http) == before
        assert await decisions(http) == decided

    gateway.kill()
    broker.kill()
    await broker.start()
    await gateway.start(eventually)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        assert await state(http) == before
        assert await decisions(http) == decided

        async def expired() -> bool:
            return (await http.head("/v1/stream/short")).status_code == 404

        await eventually(expired, 20)
        answer = await http.post("/v1/stream/produced", headers={**JSON, **producer("p", 2, 7)}, content=b'["next"]')
        assert answer.status_code == 200
        assert (
            await http.post("/v1/stream/text", headers={**TEXT, "stream-seq": "020"}, content=b"!")
        ).status_code == 204
        assert (await http.delete("/v1/stream/softfork")).status_code == 204
        assert (await http.put("/v1/stream/soft", headers=TEXT)).status_code == 201  # the last fork is gone


async def test_appends_under_way_when_the_broker_dies_are_stored_once(
    process: Callable[[], Any], broker: EmbeddedServer, eventually: Any
) -> None:
    """Eight producers write on while the broker is killed twice: what was acknowledged is there, in order, once."""
    gateway = process()
    await gateway.start(eventually)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=90) as http:
        await http.put("/v1/stream/busy", headers=JSON)
        done: dict[str, int] = {}
        stop = asyncio.Event()

        async def write(name: str) -> None:
            seq = 0
            while not stop.is_set():
                headers = {**JSON, **producer(name, 0, seq)}
                try:
                    answer = await http.post(
                        "/v1/stream/busy", headers=headers, content=b'["%b-%d"]' % (name.encode(), seq)
                    )
                except httpx.TransportError:
                    continue
                if answer.status_code in (200, 204):
                    done[name] = seq = seq + 1
                else:
                    assert answer.status_code in (503, 504), answer.text

        writing = [asyncio.create_task(write(f"w{number}")) for number in range(8)]
        for _ in range(2):
            reached = sum(done.values()) + 100
            await eventually(lambda reached=reached: sum(done.values()) >= reached, 60)
            broker.kill()
            await broker.start()
        reached = sum(done.values()) + 100
        await eventually(lambda: sum(done.values()) >= reached, 60)
        stop.set()
        await asyncio.gather(*writing)
        stored = (await http.get("/v1/stream/busy")).json()
    assert len(stored) == sum(done.values())
    for name, count in done.items():
        assert [value for value in stored if value.startswith(f"{name}-")] == [f"{name}-{seq}" for seq in range(count)]
