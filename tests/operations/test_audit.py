"""Who did what stands in the audit log: requests, refused ones, feeds; without contents and secrets, and for good."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.errors import BrokerError
from orchestrator_free.operations.audit import Entry, Recorder, read_audit, time_of
from tests.gateway.identity import bearer

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

SECRET = "the-words-that-nobody-may-log"


async def entries(ann: Broker, session: str, **more: Any) -> list[dict[str, Any]]:
    return [entry async for entry in read_audit(ann.log.wire, session=session, **more)]


async def test_requests_feeds_and_refusals_are_written_down_without_contents(
    ann: Broker,
    guard: Callable[..., Any],
    token: Any,
    fresh: Callable[[str], str],
    eventually: Any,
) -> None:
    """Who, what, where, outcome, by the broker's clock; the broker refuses to change or remove an entry."""
    session = fresh("s")
    async with guard(audit="on") as gateway, httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http:
        mine = bearer(token("bob"))
        assert (await http.post("/sessions", json={"session": session}, headers=mine)).status_code == 201
        said = {"text": SECRET, "to": "writer"}
        assert (await http.post(f"/sessions/{session}/inputs", json=said, headers=mine)).status_code == 202
        control = {"type": "cancel", "reason": SECRET}
        assert (await http.post(f"/sessions/{session}/controls", json=control, headers=mine)).status_code == 202
        assert (await http.get(f"/sessions/{session}")).status_code == 401
        assert (await http.delete(f"/sessions/{session}", headers=mine)).status_code == 403
        async with http.stream("GET", f"/sessions/{session}/events", headers=mine) as feed:
            assert feed.status_code == 200
            await eventually(lambda: _has(ann, session, "opened"), 20, every=0.1)
        await eventually(lambda: _has(ann, session, "closed"), 20, every=0.1)
        await http.get("/healthz")
    found = await entries(ann, session)
    assert [
        (one["kind"], one["member"], one.get("route"), one["outcome"]) for one in found if one["outcome"] != "closed"
    ] == [
        ("request", "bob", "/sessions/{session}/inputs", "done"),
        ("request", "bob", "/sessions/{session}/controls", "done"),
        ("request", None, "/sessions/{session}", "refused"),
        ("request", None, "/sessions/{session}", "refused"),
        ("feed", "bob", "/sessions/{session}/events", "opened"),
    ]
    cancel = found[1]
    assert (cancel["what"], cancel["to"], cancel["status"], cancel["address"]) == ("cancel", "all", 202, "127.0.0.1")
    assert cancel["token"]
    stored = [message.payload async for message in _raw(ann)]
    assert not any(SECRET.encode() in payload or b"Bearer" in payload or b"eyJ" in payload for payload in stored)
    for call, body in (("STREAM.PURGE", {}), ("STREAM.MSG.DELETE", {"seq": 1})):
        with pytest.raises(BrokerError):
            await ann.log.wire.api(f"{call}.SESSIONS_AUDIT", body)


async def _has(ann: Broker, session: str, outcome: str) -> bool:
    return any(one["outcome"] == outcome for one in await entries(ann, session))


async def _raw(ann: Broker) -> Any:
    from orchestrator_free.jetstream.direct import DirectGet

    messages, _, _ = await DirectGet(ann.log.wire)(
        "SESSIONS_AUDIT", {"seq": 1, "batch": 1000, "next_by_subj": "audit.>"}
    )
    for message in messages:
        yield message


async def test_strict_gives_no_answer_before_it_is_written_down(
    ann: Broker,
    guard: Callable[..., Any],
    token: Any,
    fresh: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The entry is there when the answer is; without it the answer is an error."""
    session = fresh("s")
    async with (
        guard(audit="strict") as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http,
    ):
        mine = bearer(token("bob"))
        await http.post("/sessions", json={"session": session}, headers=mine)
        await http.post(f"/sessions/{session}/inputs", json={"text": "x", "to": "w"}, headers=mine)
        assert len(await entries(ann, session)) == 1

        async def fails(self: Recorder, entry: Entry) -> None:
            raise BrokerError("no")

        monkeypatch.setattr(Recorder, "written", fails)
        answer = await http.post(f"/sessions/{session}/inputs", json={"text": "y", "to": "w"}, headers=mine)
        assert answer.status_code == 502
        monkeypatch.undo()


async def test_what_cannot_be_written_waits_bounded_and_what_is_dropped_is_said(
    ann: Broker, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """The gateway pays with a queue of a fixed size, whatever the broker does."""
    monkeypatch.setattr("orchestrator_free.operations.audit._WAITING", 10)
    session, recorder = fresh("s"), Recorder(ann.log.wire)
    for number in range(25):
        recorder.record(Entry("request", "bob", session, {"number": number}))
    assert recorder.dropped == 15
    await recorder.open()
    await eventually(lambda: recorder.stored == 11, 20)
    await recorder.close()
    assert [one["number"] for one in await entries(ann, session)] == list(range(10))
    assert [e["dropped"] async for e in read_audit(ann.log.wire) if e.get("what") == "audit.gap"] == [15]


ROUNDS = 15


async def test_how_much_it_costs(
    ann: Broker,
    guard: Callable[..., Any],
    token: Any,
    fresh: Callable[[str], str],
    capsys: Any,
) -> None:
    """Three gateways, asked in turn by eight connections: what a request costs with it and without; printed as ratios.

    Other load on the machine meets all modes of a round alike; processor time is of this process: gateway and client.
    """
    modes = ("off", "on", "strict")
    walls: dict[str, list[float]] = {mode: [] for mode in modes}
    works: dict[str, list[float]] = {mode: [] for mode in modes}
    session, mine = fresh("s"), bearer(token("bob"))
    async with AsyncExitStack() as stack:
        clients = {}
        for mode in modes:
            gateway = await stack.enter_async_context(guard(audit=mode, member_requests_per_second=0))
            address = f"http://127.0.0.1:{gateway.port}"
            clients[mode] = await stack.enter_async_context(httpx.AsyncClient(base_url=address, timeout=60))
        await clients["off"].post("/sessions", json={"session": session}, headers=mine)

        async def ask(mode: str) -> None:
            for _ in range(10):
                assert (await clients[mode].get(f"/sessions/{session}", headers=mine)).status_code == 200

        for number in range(-1, ROUNDS):  # the first is for warmth
            for mode in modes if number % 2 else reversed(modes):
                began, busy = time.perf_counter(), time.process_time()
                await asyncio.gather(*(ask(mode) for _ in range(8)))
                if number >= 0:
                    walls[mode].append((time.perf_counter() - began) / 80)
                    works[mode].append((time.process_time() - busy) / 80)
    ratios = {
        (mode, kind): sorted(one / off for one, off in zip(found[mode], found["off"], strict=True))
        for mode in modes[1:]
        for kind, found in (("time", walls), ("processor", works))
    }
    with capsys.disabled():
        print(f"\n  audit off: {statistics.median(walls['off']) * 1e3:.2f} ms a request, eight at once")
        for (mode, kind), found in ratios.items():
            spread = f"{found[len(found) // 4]:.2f} to {found[-len(found) // 4]:.2f}"
            print(
                f"  audit {mode}: {statistics.median(found):.2f} times the {kind} of off (half of the rounds: {spread})"
            )
    assert statistics.median(ratios["on", "processor"]) < 3


async def test_the_command_filters_and_ends(ann: Broker, command: Any, fresh: Callable[[str], str]) -> None:
    """By member, session and time; --json is one entry per line."""
    session, recorder = fresh("s"), Recorder(ann.log.wire)
    await recorder.open()
    await recorder.written(Entry("request", "bob", session, {"what": "cancel"}))
    await recorder.written(Entry("request", "eve", session, {"what": "cancel"}))
    await recorder.close()
    found = await asyncio.to_thread(
        command, "audit", "--member", "eve", "--session", session, "--since", "1h", "--json"
    )
    assert [(one["member"], one["what"]) for one in found.json] == [("eve", "cancel")]
    assert "eve" in (await asyncio.to_thread(command, "audit", "--session", session)).out
    assert (await asyncio.to_thread(command, "audit", "--since", "yesterday")).code == 2


def test_times() -> None:
    """Ago, or exactly."""
    assert time_of("2026-01-01T00:00:00Z").isoformat() == "2026-01-01T00:00:00+00:00"
    assert -1 < time.time() - time_of("2h").timestamp() - 7200 < 5
