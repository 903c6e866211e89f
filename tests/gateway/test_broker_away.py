"""The broker goes and comes, and its log is made anew: what clients are told, and that they go on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.jetstream import Wire

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker
    from orchestrator_free.embedded.server import EmbeddedServer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to the broker are given up after a moment instead of 10 and 25 seconds."""
    monkeypatch.setitem(Wire.api.__kwdefaults__, "deadline", 0.3)
    monkeypatch.setitem(Wire.publish.__kwdefaults__, "deadline", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_feeds_stay_open_and_go_on_when_the_broker_returns(
    gateway: Any, broker: EmbeddedServer, pen: Any, eventually: Any, got: Any
) -> None:
    """Killed with SIGKILL: the gateway is not ready, the feeds wait, what is in memory is still served."""
    await pen.create("ada")
    await pen.start("ada")
    async with gateway.feed(pen.session) as feed:
        await eventually(lambda: len(feed.events) == 2)
        broker.kill()
        try:
            await eventually(lambda: _is_ready(gateway, 503))
            away = (await gateway.http.get("/readyz")).json()
            view = await gateway.http.get(f"/sessions/{pen.session}")
            async with gateway.feed(pen.session, headers={"last-event-id": feed.positions[0]}) as second:
                await eventually(lambda: second.positions == feed.positions[1:])
        finally:
            await broker.start()
        await eventually(lambda: _is_ready(gateway, 200))
        assert feed.end is None
        await pen.broker.log.wire.connected.wait()
        await pen.say("ada", "again")
        await eventually(lambda: len(feed.events) == 3)
    assert (away["status"], away["broker"]) == ("not ready", "disconnected")
    assert view.status_code == 200
    assert feed.names == []
    assert got(feed.events) == await pen.log()


async def _is_ready(gateway: Any, status: int) -> bool:
    found: int = (await gateway.http.get("/readyz")).status_code
    return found == status


@pytest.mark.usefixtures("impatient")
async def test_what_needs_the_broker_is_answered_with_a_problem_while_it_is_away(
    gateway: Any, broker: EmbeddedServer, pen: Any, eventually: Any
) -> None:
    """503 or 504 with Retry-After; sent again with the same key after its return, the input is there once."""
    await pen.create("ada")
    assert (await gateway.http.get(f"/sessions/{pen.session}")).status_code == 200
    send = {"json": {"to": "ada", "text": "go"}, "headers": {"idempotency-key": "k"}}
    broker.kill()
    try:
        answers = [
            await gateway.http.post(f"/sessions/{pen.session}/inputs", **send),
            await gateway.http.post("/sessions", json={}),
            await gateway.http.get("/sessions"),
            await gateway.http.get("/sessions/cold"),
            await gateway.http.get("/sessions/cold/events"),
            await gateway.http.delete(f"/sessions/{pen.session}"),
        ]
        assert (await gateway.http.get("/healthz")).status_code == 200
        assert "orchestrator_free_gateway_clients" in (await gateway.http.get("/metrics")).text
    finally:
        await broker.start()
    for answer in answers:
        assert answer.status_code in (503, 504)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "1"
        assert "try again" in answer.json()["detail"]
    await eventually(lambda: _is_ready(gateway, 200))
    await eventually(lambda: _sent(gateway, pen.session, send))
    inputs: list[Any] = []

    async def is_shown() -> bool:
        inputs[:] = (await gateway.http.get(f"/sessions/{pen.session}")).json()["inputs"]
        return bool(inputs)

    await eventually(is_shown)
    assert [entry["text"] for entry in inputs] == ["go"]


async def _sent(gateway: Any, session: str, send: Any) -> bool:
    return (await gateway.http.post(f"/sessions/{session}/inputs", **send)).status_code in (200, 202)


async def test_nothing_is_lost_when_the_broker_is_killed_while_agents_write(
    gateway: Any, broker: EmbeddedServer, pen: Any, eventually: Any, got: Any
) -> None:
    """Twice, in the middle; five clients have every event once, in order."""
    await pen.create("ada")
    await pen.start("ada")

    async def follow() -> list[Any]:
        events: list[Any] = []
        while True:
            headers = {"last-event-id": events[-1].id} if events else {}
            feed = await gateway.read(pen.session, until="idle", headers=headers)
            events += feed.events
            if feed.end == "finished" and feed.status == 200:
                return events

    clients = [asyncio.create_task(follow()) for _ in range(5)]
    for number in range(300):
        if number in (100, 200):
            broker.kill()
            restart = asyncio.create_task(broker.start())
        await pen.say("ada", f"{number} ")
    await restart
    await pen.finish("ada")
    found = await asyncio.wait_for(asyncio.gather(*clients), 40)
    log = await pen.log()
    for events in found:
        assert got(events) == log


@pytest.mark.parametrize("exists", [True, False])
async def test_a_log_that_is_made_anew_is_a_reset_in_every_feed(
    gateway: Any, ann: Broker, pen: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """With a snapshot of the new log where the session is there again, and the feed goes on; else it ends truncated."""
    monkeypatch.setattr("orchestrator_free.reading.reader.CHECK_SECONDS", 0.2)
    await pen.create("ada")
    for number in range(4):
        await pen.write("ada", "state", {"type": "state.set", "value": 0}, id=f"old{number}")
    async with gateway.feed(pen.session) as feed, gateway.feed(pen.session, kinds="state") as state:
        await eventually(lambda: len(feed.events) == 5)
        old = feed.positions[-1]
        await ann.log.wire.api("STREAM.DELETE.SESSIONS_0")
        await ann.log.ensure()
        if exists:
            await pen.write("ann", "meta", {"type": "session.created", "title": "new", "agents": []})
        else:
            gateway.hub.hot(pen.session).reader._hold()  # it would find out at its next doubt
        await eventually(lambda: "reset" in feed.names and "reset" in state.names)
        if exists:
            await eventually(lambda: feed.names == state.names == ["reset", "snapshot"])
            await pen.write("ada", "state", {"type": "state.set", "value": 1}, id="k")
            await eventually(lambda: len(feed.events) == 6 and len(state.events) == 5)
            assert json.loads(feed.controls[1].data)["meta"]["title"] == "new"
            assert gateway.count("clients") == 2
        else:
            await eventually(lambda: feed.end and state.end)
            assert (feed.end, feed.names) == ("truncated", ["reset"])
    assert json.loads(feed.controls[0].data)["reason"] == "recreated"
    back = await gateway.read(pen.session, until="idle", after=old)
    assert back.names == ["reset", "snapshot", "idle"] if exists else back.status == 404


@pytest.mark.timeout(60)
@pytest.mark.parametrize("again", [False, True])
async def test_a_session_that_was_deleted_while_the_gateway_was_cut_off_is_a_reset(
    serve: Any, broker: EmbeddedServer, ann: Broker, pen: Any, proxy: Any, eventually: Any, again: bool
) -> None:
    """Created again under its name or not: no feed stays silent, no view mixes the two."""
    async with proxy(broker.port) as between, serve(f"nats://127.0.0.1:{between.port}") as gateway:
        await pen.create("ada")
        async with gateway.feed(pen.session) as feed:
            await eventually(lambda: feed.events)
            between.closed = True
            await between.cut()
            await eventually(lambda: _is_ready(gateway, 503))
            await ann.session(pen.session).delete()
            if again:
                await ann.session(pen.session).create(title="another")
            between.closed = False
            await eventually(lambda: "reset" in feed.names, 8)
            if again:
                await eventually(lambda: "snapshot" in feed.names)
                assert json.loads(feed.controls[1].data)["meta"]["title"] == "another"
            else:
                await eventually(lambda: feed.end == "truncated")
        view = await gateway.http.get(f"/sessions/{pen.session}")
    assert view.status_code == (200 if again else 404)
    assert not again or view.json() == await ann.session(pen.session).view()
