"""Exact resume: for every cut, what was received and what the resumed feed brings are together the log."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free.fold import Fold
from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator_free.broker import Broker
    from orchestrator_free.embedded.server import EmbeddedServer

PROGRAM = "from orchestrator_free.cli import main\nmain()\n"


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_a_client_resumes_behind_every_event(gateway: Any, pen: Any, form: str) -> None:
    """By Last-Event-ID and by ?after=; the header goes before the query; the bytes are those of the whole feed."""
    await pen.story("ada", "bob")
    accept = {"accept": "application/x-ndjson"} if form == "ndjson" else {}
    whole = await gateway.read(pen.session, until="idle", headers=accept)
    pieces = bytes(whole.body).split(b"\n" if form == "ndjson" else b"\n\n")
    events = [piece for piece in pieces if b'"position":"' in piece and b'"event":{' in piece]
    for number, event in enumerate(events):
        found = re.search(rb'"position":"([^"]+)"', event)
        assert found is not None
        place = found[1].decode()
        by_header = await gateway.read(pen.session, until="idle", headers={**accept, "last-event-id": place})
        by_query = await gateway.read(pen.session, until="idle", after=place, headers=accept)
        assert by_header.body == by_query.body
        assert [one for one in events if one in bytes(by_query.body)] == events[number + 1 :]
        assert len(by_query.events) == (0 if form == "ndjson" else len(events) - number - 1)
    both = await gateway.read(
        pen.session, until="idle", after=whole.positions[0] if whole.positions else place,
        headers={**accept, "last-event-id": place},
    )  # fmt: skip
    assert both.body == by_query.body


@pytest.mark.slow
async def test_a_stream_that_is_cut_after_any_byte_is_resumed_exactly(
    gateway: Any, pen: Any, proxy: Any, got: Any
) -> None:
    """By a FIN or a reset after each byte of the body, chunk sizes included; received ++ resumed == log."""
    await pen.create()
    await pen.write("ada", "state", {"type": "state.set", "value": "naïve 🦜\n\u2028"}, id="k")
    await pen.write("ada", "state", b'{"type":\r\n"state.set",\n"value":null}', id="empty")
    log = await pen.log()
    whole = await gateway.read(pen.session, until="idle")
    size = len(whole.body) + 200  # with the sizes of the chunks
    cuts = set()
    async with proxy(gateway.port) as between:
        for between.cut_after in range(1, size):
            first = await gateway.read(pen.session, until="idle", port=between.port)
            if first.end == "finished":
                break
            place = {"last-event-id": first.parser.last_id} if first.parser.last_id else {}
            rest = await gateway.read(pen.session, until="idle", headers=place)
            assert got(first.events + rest.events) == log, between.cut_after
            cuts.add(len(first.events))
        assert first.end == "finished"
        assert between.cut_after > len(whole.body)
    assert cuts == set(range(len(log) + 1))


async def test_a_live_stream_that_is_cut_again_and_again_is_resumed_exactly(
    gateway: Any, pen: Any, proxy: Any, got: Any, eventually: Any
) -> None:
    """While an agent writes as fast as it can; the client comes back at once, each time somewhere in the middle."""
    await pen.create("ada")
    await pen.start("ada")
    events: list[Any] = []
    last_id, cuts = "", 0
    async with proxy(gateway.port) as between:

        async def follow() -> None:
            nonlocal last_id, cuts
            while True:
                between.cut_after = 3000 + 977 * cuts % 5000
                headers = {"last-event-id": last_id} if last_id else {}
                feed = await gateway.read(pen.session, until="idle", headers=headers, port=between.port)
                events.extend(feed.events)
                last_id = feed.parser.last_id
                if feed.end == "finished":
                    return
                cuts += 1

        following = asyncio.create_task(follow())
        for number in range(400):
            await pen.say("ada", f"{number} ")
        await pen.finish("ada")
        await asyncio.wait_for(following, 30)
    assert got(events) == await pen.log()
    assert cuts > 10


async def test_two_gateways_give_the_same_bytes(serve: Any, pen: Any, eventually: Any) -> None:
    """Live at one, live at the other, and from the log at both, to the last byte."""
    async with serve() as left, serve() as right:
        await pen.create("ada")
        await pen.start("ada")
        async with left.feed(pen.session, until="idle") as one, right.feed(pen.session, until="idle") as two:
            await eventually(lambda: one.events and two.events)
            for number in range(50):
                await pen.say("ada", f"{number} ")
            await pen.finish("ada")
            await eventually(lambda: one.end and two.end)
        three, four = [await gateway.read(pen.session, until="idle") for gateway in (left, right)]
    assert len(one.events) == len(pen.sequences)
    assert one.body == two.body == three.body == four.body


async def test_a_client_that_changes_gateways_goes_on_where_it_stood(
    serve: Any, broker: EmbeddedServer, ann: Broker, pen: Any, proxy: Any, got: Any
) -> None:
    """Though the other gateway is behind: its way to the broker is slow, it has not read that far yet."""
    await pen.create("ada")
    async with proxy(broker.port) as between, serve() as here, serve(f"nats://127.0.0.1:{between.port}") as there:
        assert (await there.http.get(f"/sessions/{pen.session}")).status_code == 200
        await pen.start("ada")
        between.delay = 0.1
        for number in range(10):
            sequence = await pen.say("ada", f"{number} ")
            place = str(ann.session(pen.session).position(sequence))
            assert there.hub.hot(pen.session).position.sequence < sequence
            async with there.feed(pen.session, after=place) as feed:
                sequence = await pen.say("ada", "next")
                async with asyncio.timeout(10):
                    while not feed.events and feed.end is None:
                        await asyncio.sleep(0.01)
            assert feed.names == []
            assert [one.id for one in feed.events] == [str(ann.session(pen.session).position(sequence))]
        between.delay = 0.0
        assert here.hub.hot(pen.session) is None


async def test_until_idle_at_a_gateway_that_is_behind_waits_for_what_it_has_not_read(
    serve: Any, broker: EmbeddedServer, ann: Broker, pen: Any, proxy: Any, eventually: Any
) -> None:
    """An input is in the log: nothing is idle, wherever it is asked."""
    await pen.create("ada")
    async with proxy(broker.port) as between, serve(f"nats://127.0.0.1:{between.port}") as behind:
        assert (await behind.http.get(f"/sessions/{pen.session}")).status_code == 200
        between.delay = 0.2
        sent = await ann.session(pen.session).send("go", to="ada")
        async with behind.feed(pen.session, until="idle") as feed:
            await eventually(lambda: str(sent.position) in feed.positions)
            assert feed.end is None
            await pen.write("ada", "run", {"type": "run.started", "attempt": 1, "input": "ann/x"}, id=sent.run)
            await pen.finish("ada", run=sent.run)
            await eventually(lambda: feed.end)
        assert feed.names == ["idle"]


async def test_what_is_older_than_the_memory_comes_from_the_log(serve: Any, pen: Any, got: Any) -> None:
    """The memory stays small; whoever stands before it gets the same bytes, from any position, in several pages."""
    async with serve(settings=GatewaySettings(tail_bytes=20_000)) as small, serve() as large:
        await pen.create("ada")
        await pen.start("ada")
        first = await small.http.get(f"/sessions/{pen.session}")
        assert first.status_code == 200
        for start in range(0, 1200, 100):
            await asyncio.gather(*(pen.say("ada", f"{number} ") for number in range(start, start + 100)))
        await pen.finish("ada")
        whole = await large.read(pen.session, until="idle")
        held = small.hub.hot(pen.session).tail
        for start in range(0, len(whole.positions), 97):
            feed = await small.read(pen.session, after=whole.positions[start], until="idle")
            assert feed.events == whole.events[start + 1 :]
        beginning = await small.read(pen.session, until="idle")
        assert beginning.body == whole.body
        assert held.size <= 20_000
        assert len(held) < 150
        assert small.count("resumes_total", how="log") > 10
    assert got(whole.events) == await pen.log()


async def test_a_client_that_reads_the_log_misses_nothing_of_what_is_written_meanwhile(
    serve: Any, pen: Any, eventually: Any
) -> None:
    """Twenty clients from the beginning, one after the other, while the memory forgets what they have not read yet."""
    async with serve(settings=GatewaySettings(tail_bytes=3000)) as gateway:
        await pen.create("ada")
        await pen.start("ada")
        feeds: list[Any] = []
        done = asyncio.Event()

        async def join() -> None:
            async with gateway.feed(pen.session) as feed:
                feeds.append(feed)
                await done.wait()

        async with asyncio.TaskGroup() as group:
            for number in range(600):
                if number % 30 == 0:
                    group.create_task(join())
                await pen.say("ada", f"{number} ")
            await eventually(lambda: all(len(feed.events) == len(pen.sequences) for feed in feeds))
            done.set()
        assert len(feeds) == 20
        for feed in feeds:
            assert [int(place.rpartition("-")[2]) for place in feed.positions] == sorted(pen.sequences)
        assert gateway.hub.hot(pen.session).tail.size <= 3000


async def test_a_compacted_run_is_resumed_to_the_same_view(
    gateway: Any, ann: Broker, pen: Any, folded: Any, got: Any
) -> None:
    """A client that saw half of a run's tokens and comes back after its end: the end replaces what it has."""
    await pen.create("ada")
    await pen.start("ada")
    for number in range(20):
        await pen.say("ada", f"{number} ")
    async with gateway.feed(pen.session) as live:
        async with asyncio.timeout(10):
            while len(live.events) < 22:
                await asyncio.sleep(0.01)
    parts = [{"type": "text", "part": "1", "text": "".join(f"{number} " for number in range(20))}]
    end = {"type": "run.finished", "status": "done", "input": "ann/i1", "parts": parts, "attempts": []}
    await pen.write("ada", "run", end, id="r1", rollup=True)
    view = await ann.session(pen.session).view()
    late = await gateway.read(pen.session, until="idle")
    assert len(late.events) == 2
    for seen in range(1, 23):
        rest = await gateway.read(pen.session, after=live.positions[seen - 1], until="idle")
        envelopes = [one.envelope for one in live.events[:seen] + rest.events]
        found = folded(envelopes, Fold(pen.session))
        assert rest.names == ["idle"]
        assert found["agents"][0]["runs"][0]["parts"] == view["agents"][0]["runs"][0]["parts"]
        assert found["position"] == view["position"]


@asynccontextmanager
async def gateway_process(programs: Any, folder: Path, url: str, port: int = 0) -> AsyncIterator[Any]:
    """`orchestrator-free up` over the module's broker; yields the program and its port."""
    script = folder / "gateway_program.py"
    script.write_text(PROGRAM)
    program = programs.start(script, "up", "--broker", url, "--port", str(port))
    try:
        async with asyncio.timeout(20):
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", program.output)):
                assert program.alive, program.output
                await asyncio.sleep(0.05)
        program.port = int(found[1])
        yield program
    finally:
        program.kill()


async def test_clients_go_on_when_their_gateway_is_killed_and_started_again(
    gateway: Any, programs: Any, tmp_path: Path, broker_url: str, pen: Any, got: Any
) -> None:
    """Ten clients, a gateway that dies by SIGKILL in the middle; received ++ resumed == log for each of them."""
    await pen.create("ada")
    await pen.start("ada")
    async with gateway_process(programs, tmp_path, broker_url) as doomed:
        port = doomed.port

        async def follow() -> tuple[list[Any], int]:
            events: list[Any] = []
            attempts = 0
            while True:
                headers = {"last-event-id": events[-1].id} if events else {}
                feed = await gateway.read(pen.session, until="idle", headers=headers, port=port)
                events += feed.events
                attempts += 1
                if feed.end == "finished":
                    return events, attempts
                await asyncio.sleep(0.05)

        clients = [asyncio.create_task(follow()) for _ in range(10)]
        for number in range(100):
            await pen.say("ada", f"{number} ")
        doomed.kill()
        for number in range(100, 200):
            await pen.say("ada", f"{number} ")
        async with gateway_process(programs, tmp_path, broker_url, port):
            await pen.finish("ada")
            found = await asyncio.wait_for(asyncio.gather(*clients), 30)
    log = await pen.log()
    for events, attempts in found:
        assert got(events) == log
        assert attempts > 1


async def test_sigterm_cuts_the_feeds_so_that_clients_come_back(
    gateway: Any, programs: Any, tmp_path: Path, broker_url: str, pen: Any, eventually: Any
) -> None:
    """Truncated, not politely ended, as the end of a session would be; the process ends with 0 within seconds."""
    await pen.story("ada")
    async with gateway_process(programs, tmp_path, broker_url) as program:
        async with gateway.feed(pen.session, port=program.port) as feed:
            await eventually(lambda: len(feed.events) == len(pen.sequences))
            program.send(signal.SIGTERM)
            await eventually(lambda: feed.end, 10)
            assert feed.end == "truncated"
            await eventually(lambda: not program.alive, 10)
    assert program.process.returncode == 0
    assert "Traceback" not in program.output
    assert json.loads(feed.events[-1].data)["event"]["type"] == "run.finished"
