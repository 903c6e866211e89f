"""The feed: framing, forms, filters, snapshot, idle, reset, deletion; what strange publishers cannot break."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from orchestrator_free.fold import Fold
from orchestrator_free.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker

ENVELOPE = Path(__file__).parents[2] / "broker" / "schemas" / "envelope.json"
NDJSON = {"accept": "application/x-ndjson"}


def lines(feed: Any) -> list[Any]:
    return [json.loads(line) for line in feed.body.splitlines() if line]


# -- framing ----------------------------------------------------------------------------------------------------


async def test_a_feed_is_the_log_one_event_for_one_message(gateway: Any, pen: Any, got: Any) -> None:
    """Positions and payloads as stored, in order; `id:` is the envelope's position."""
    await pen.story("ada", "bob")
    feed = await gateway.read(pen.session, until="idle")
    assert got(feed.events) == await pen.log()
    assert [one.id for one in feed.events] == [one.envelope["position"] for one in feed.events]
    assert feed.names == ["idle"]
    assert feed.controls[0].id == feed.positions[-1]
    assert feed.end == "finished"


async def test_an_envelope_says_where_an_event_belongs(gateway: Any, pen: Any) -> None:
    """As the schema says: session, member, kind, target and id, position, time, event."""
    await pen.create("ada")
    await pen.write("ann", "in", {"type": "input", "text": "go"}, target="ada", id="i1")
    async with gateway.feed(pen.session) as feed:
        async with asyncio.timeout(10):
            while len(feed.events) < 2:
                await asyncio.sleep(0.01)
    envelope = feed.events[1].envelope
    schema = json.loads(ENVELOPE.read_text())
    for one in feed.events:
        Draft202012Validator(schema).validate(one.envelope)
    assert envelope.pop("time").startswith("20")
    assert envelope == {
        "session": pen.session, "member": "ann", "kind": "in", "target": "ada", "id": "i1",
        "position": feed.positions[1], "event": {"type": "input", "text": "go"},
    }  # fmt: skip


async def test_the_bytes_are_lf_framed_with_retry_and_headers_for_proxies(gateway: Any, pen: Any) -> None:
    """No CR anywhere; `retry:` once, first; nothing may be cached, buffered or sniffed."""
    await pen.story("ada")
    feed = await gateway.read(pen.session, until="idle")
    assert b"\r" not in feed.body
    assert feed.body.startswith(b"retry: 1000\n\nid: ")
    assert feed.body.count(b"retry:") == 1
    assert feed.parser.retry == 1000
    for header in ("content-type: text/event-stream; charset=utf-8", "cache-control: no-cache",
                   "x-accel-buffering: no", "x-content-type-options: nosniff"):  # fmt: skip
        assert header in feed.head


async def test_ndjson_has_the_same_envelopes_and_controls(gateway: Any, pen: Any) -> None:
    """One per line, the event stream's `data:` as it is; controls have a name and a position."""
    await pen.story("ada", "bob")
    sse = await gateway.read(pen.session, until="idle")
    ndjson = await gateway.read(pen.session, until="idle", headers=NDJSON)
    *events, idle = ndjson.body.splitlines()
    assert [line.decode() for line in events] == [one.data for one in sse.events]
    assert json.loads(idle) == {"control": "idle", "position": sse.controls[0].id, "data": {}}
    assert "content-type: application/x-ndjson" in ndjson.head


async def test_heartbeats_are_comments_that_no_client_takes_for_an_event(serve: Any, pen: Any, eventually: Any) -> None:
    """In both forms, to whoever keeps up; a heartbeat moves no id."""
    await pen.create("ada")
    async with (
        serve(settings=GatewaySettings(heartbeat_seconds=0.05, sweep_seconds=0.02)) as gateway,
        gateway.feed(pen.session) as sse,
        gateway.feed(pen.session, headers=NDJSON) as ndjson,
    ):
        await eventually(lambda: len(sse.parser.comments) >= 3)
        await eventually(lambda: ndjson.body.endswith(b"}\n\n\n\n"))
    assert set(sse.parser.comments) == {"heartbeat"}
    assert len(sse.events) == 1
    assert sse.parser.last_id == sse.positions[0]
    assert len(lines(ndjson)) == 1


async def test_a_plain_publisher_cannot_break_the_framing(gateway: Any, pen: Any, eventually: Any) -> None:
    """Line breaks between tokens, U+2028, NUL escapes, numbers no double holds: every reader gets the same value."""
    bodies = [
        b'{\n "type": "x",\r\n "text": "a\\nb",\r"n": 12345678901234567890123\n}\n',
        '{"type":"x","text":"\u2028 \u2029 \u0085 \\u0000 \\r\\n\\n data: 1"}'.encode(),
        b'{"type":"x","value":null,"n":1e300,"m":-0.0,"id":"\\n\\nid: 9\\n\\n"}',
        b'  {"type":"x","type":"y"}  ',
        b'{"type":"x","deep":' + b"[" * 200 + b"]" * 200 + b"}",
    ]
    await pen.create("ada")
    async with gateway.feed(pen.session) as live:
        await eventually(lambda: live.events)
        for number, body in enumerate(bodies):
            await pen.write("eve", "state", body, id=f"k{number}")
        await eventually(lambda: len(live.events) == 1 + len(bodies))
    later = await gateway.read(pen.session, until="idle")
    assert live.body == later.body[: len(live.body)]
    assert [json.loads(one.data)["event"] for one in later.events[1:]] == [json.loads(body) for body in bodies]
    assert b"12345678901234567890123" in live.body
    assert b"\r" not in live.body


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"5", b"{}", b'{"type":null}', b'{"type":5}', b"not json", b'{"type":"x"', b"\xff\xfe",
             b'\xef\xbb\xbf{"type":"x"}', b'{"type":"x","t":"\n"}', b'{"type":"io.nats.jetstream.api.v1.x"}',
             b"[" * 100_000, b'{"type":"state.set","value":' + b"[" * 500 + b"]" * 500 + b"}"]
)  # fmt: skip
async def test_what_is_no_event_is_passed_over(gateway: Any, pen: Any, eventually: Any, body: bytes) -> None:
    """Live and from the log; a client that resumes at its place loses nothing."""
    await pen.create("ada")
    async with gateway.feed(pen.session) as live:
        await eventually(lambda: live.events)
        sequence = await pen.write("eve", "state", body, id="k")
        await pen.write("eve", "state", {"type": "state.set", "value": 1}, id="k2")
        await eventually(lambda: len(live.events) == 2)
    epoch = live.positions[0].partition("-")[0]
    resumed = await gateway.read(pen.session, after=f"{epoch}-{sequence}", until="idle")
    assert [one.envelope["id"] for one in live.events[1:]] == ["k2"]
    assert resumed.positions == live.positions[1:]


async def test_what_stands_on_a_foreign_subject_is_passed_over(gateway: Any, ann: Broker, pen: Any) -> None:
    """A kind there is not, too many tokens, a name of another alphabet."""
    await pen.create("ada")
    for tail in ("eve.unknown", "eve.in.ada", "eve.in.ada.i.j", "eve.run", "é.meta", "eve.state.a=b"):
        await ann.log.wire.publish(f"session.0.{pen.session}.{tail}", b'{"type":"x"}', message_id=tail)
    feed = await gateway.read(pen.session, until="idle")
    assert [one.envelope["event"]["type"] for one in feed.events] == ["session.created"]


# -- what is asked for ------------------------------------------------------------------------------------------


async def test_filters_choose_events_and_change_none(gateway: Any, pen: Any, got: Any) -> None:
    """agents= and kinds=, alone, together, in both forms; the chosen events are those of the whole feed, byte for byte."""
    await pen.story("ada", "bob", "cyd")
    await pen.write("ann", "in", {"type": "input", "text": "x", "replayed": True}, target="ada", id="i1")
    whole = await gateway.read(pen.session, until="idle")
    for agents, kinds in [("ada", ""), ("ada,cyd", ""), ("", "in"), ("", "meta,in"), ("bob", "run"), ("nobody", "run")]:
        query = {"until": "idle", "agents": agents, "kinds": kinds}
        feed = await gateway.read(pen.session, **query)
        ndjson = await gateway.read(pen.session, headers=NDJSON, **query)
        wanted = [
            one for one in whole.events
            if (not agents or one.envelope["member"] in agents.split(","))
            and (not kinds or one.envelope["kind"] in kinds.split(","))
        ]  # fmt: skip
        assert feed.events == wanted
        assert [line.decode() for line in ndjson.body.splitlines()[:-1]] == [one.data for one in wanted]


async def test_filters_hold_for_what_comes_live(gateway: Any, pen: Any, eventually: Any) -> None:
    """Three clients of one session, each with its own choice."""
    await pen.create("ada", "bob")
    async with (
        gateway.feed(pen.session, agents="ada") as ada,
        gateway.feed(pen.session, kinds="run") as runs,
        gateway.feed(pen.session) as everything,
    ):
        await eventually(lambda: everything.events)
        for agent in ("ada", "bob"):
            await pen.start(agent)
            await pen.say(agent, "hello")
        await eventually(lambda: len(everything.events) == 5)
        await eventually(lambda: len(runs.events) == 4)
    assert runs.events == everything.events[1:]
    assert ada.events == everything.events[1:3]


async def test_a_snapshot_and_the_events_after_it_fold_to_the_same_view(
    gateway: Any, ann: Broker, pen: Any, eventually: Any, folded: Any
) -> None:
    """Wherever in the session the client came, a run open or between two attempts included."""
    await pen.create("ada", "bob")
    feeds: list[Any] = []
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def join() -> None:
            async with gateway.feed(pen.session, snapshot="1") as feed:
                feeds.append(feed)
                await done.wait()

        for attempt in (1, 2):
            await pen.write("ada", "run", {"type": "run.started", "attempt": attempt, "input": "ann/i1"}, id="r1")
            for number in range(3):
                group.create_task(join())
                await eventually(lambda: all(feed.controls for feed in feeds))
                await pen.say("ada", f"{attempt} {number}")
                await pen.write("ada", "run", {"type": "usage", "usage": {"tokens": 5}}, id="r1")
                await pen.write("ada", "state", {"type": "state.set", "value": number}, id="k")
        await pen.finish("ada")
        last = (await ann.session(pen.session).view())["position"]
        await eventually(lambda: all(feed.events and feed.positions[-1] == last for feed in feeds))
        done.set()
    view = await ann.session(pen.session).view()
    assert len(feeds) == 6
    for feed in feeds:
        assert feed.names == ["snapshot"]
        assert feed.controls[0].id == json.loads(feed.controls[0].data)["position"]
        fold = Fold.load(json.loads(feed.controls[0].data))
        assert folded([one.envelope for one in feed.events], fold) == view


async def test_a_client_that_has_a_position_gets_no_snapshot(gateway: Any, pen: Any) -> None:
    """An EventSource opened with ?snapshot=1 comes back with Last-Event-ID: it goes on from there."""
    await pen.story("ada")
    first = await gateway.read(pen.session, snapshot="1", until="idle")
    place = (await gateway.read(pen.session, until="idle")).positions[2]
    again = await gateway.read(pen.session, snapshot="1", until="idle", headers={"last-event-id": place})
    assert first.names == ["snapshot", "idle"]
    assert first.events == []
    assert again.names == ["idle"]
    assert len(again.events) == len(await pen.log()) - 3


async def test_until_idle_ends_when_nothing_is_open_or_waiting(gateway: Any, pen: Any, eventually: Any) -> None:
    """An input without a run, and a run without an end, hold it; the last run's end releases it, politely."""
    await pen.create("ada", "bob")
    await pen.write("ann", "in", {"type": "input", "text": "go"}, target="all", id="i1")
    async with gateway.feed(pen.session, until="idle") as feed, gateway.feed(pen.session) as other:
        for agent in ("ada", "bob"):
            await pen.write(agent, "run", {"type": "run.started", "attempt": 1, "input": "ann/i1"}, id=_run("i1"))
            await eventually(lambda: other.events and other.events[-1].envelope["member"] == agent)
            assert feed.end is None
            await pen.finish(agent, run=_run("i1"))
        await eventually(lambda: feed.end)
    assert (feed.end, feed.names) == ("finished", ["idle"])
    assert feed.events == other.events


async def test_until_idle_is_told_of_what_was_sent_a_moment_before(gateway: Any, ann: Broker, pen: Any) -> None:
    """Forty times: an input by somebody else, then a feed until idle: it does not end at once."""
    await pen.create("ada")
    assert (await gateway.read(pen.session, until="idle")).end == "finished"
    for number in range(40):
        sent = await ann.session(pen.session).send("go", to="ada")
        async with gateway.feed(pen.session, until="idle", after=sent.position) as feed:
            await pen.write("ada", "run", {"type": "run.started", "attempt": 1, "input": f"ann/{number}"}, id=sent.run)
            await pen.finish("ada", run=sent.run)
            async with asyncio.timeout(10):
                while feed.end is None:
                    await asyncio.sleep(0.005)
        assert [one.envelope["event"]["type"] for one in feed.events] == ["run.started", "run.finished"]


def _run(input_id: str) -> str:
    from orchestrator_free.subjects import run_id

    return run_id("ann", input_id)


# -- where it cannot go on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sse", "ndjson"])
@pytest.mark.parametrize(("reason", "shift"), [("recreated", None), ("ahead", 1000)])
async def test_a_position_that_is_not_of_this_log_is_a_reset_with_a_snapshot(
    gateway: Any, pen: Any, reason: str, shift: int | None, form: str
) -> None:
    """Of another epoch, or beyond the end: said first, then a snapshot, then what comes; never a silent skip."""
    await pen.story("ada")
    end = (await gateway.http.get(f"/sessions/{pen.session}")).json()["position"]
    epoch, _, last = end.partition("-")
    after = f"deadbeef-{last}" if shift is None else f"{epoch}-{int(last) + shift}"
    headers = {"last-event-id": after} | (NDJSON if form == "ndjson" else {})
    feed = await gateway.read(pen.session, until="idle", headers=headers)
    if form == "ndjson":
        reset, snapshot, idle = lines(feed)
        assert [reset["control"], snapshot["control"], idle["control"]] == ["reset", "snapshot", "idle"]
        assert (reset["data"]["reason"], snapshot["position"], snapshot["data"]["position"]) == (reason, end, end)
    else:
        assert feed.names == ["reset", "snapshot", "idle"]
        assert json.loads(feed.controls[0].data)["reason"] == reason
        assert json.loads(feed.controls[1].data)["position"] == feed.controls[1].id == end
        assert feed.events == []
    assert gateway.count("resumes_total", how="reset") == 1


async def _purge(ann: Broker, session: str, below: int) -> None:
    await ann.log.wire.api("STREAM.PURGE.SESSIONS_0", {"filter": f"session.0.{session}.>", "seq": below})


async def test_a_position_whose_log_was_trimmed_is_a_reset_with_a_snapshot(
    gateway: Any, ann: Broker, pen: Any, folded: Any
) -> None:
    """The view is what is left of the log, and what comes after continues it; positions that are left go on."""
    await pen.story("ada", deltas=6)
    positions = [position for position, _ in await pen.log()]
    await _purge(ann, pen.session, pen.sequences[4])
    lost = await gateway.read(pen.session, after=positions[2], until="idle")
    kept = await gateway.read(pen.session, after=positions[4], until="idle")
    assert lost.names == ["reset", "snapshot", "idle"]
    assert json.loads(lost.controls[0].data)["reason"] == "too_old"
    assert lost.events == []
    assert kept.names == ["idle"]
    assert kept.positions == positions[5:]


async def test_a_log_that_is_trimmed_below_a_client_is_a_reset_in_the_feed(
    serve: Any, ann: Broker, pen: Any, folded: Any
) -> None:
    """The memory has forgotten, the log too: the client that asks for it is told, though its feed has begun."""
    async with serve(settings=GatewaySettings(tail_bytes=2000)) as gateway:
        await pen.story("ada", deltas=40)
        positions = [position for position, _ in await pen.log()]
        whole = await gateway.read(pen.session, until="idle")
        assert gateway.hub.hot(pen.session).tail.size <= 2000
        await _purge(ann, pen.session, pen.sequences[20])
        lost = await gateway.read(pen.session, after=positions[5], until="idle")
    assert whole.positions == positions
    assert lost.names == ["reset", "snapshot", "idle"]
    assert json.loads(lost.controls[0].data)["reason"] == "too_old"
    assert lost.events == []


async def test_a_deletion_is_told_and_ends_every_feed(gateway: Any, pen: Any, eventually: Any) -> None:
    """The event, then `deleted`, then a polite end; in memory nothing is left; to come back is a 404."""
    await pen.story("ada")
    async with gateway.feed(pen.session) as sse, gateway.feed(pen.session, headers=NDJSON, kinds="in") as ndjson:
        await eventually(lambda: len(sse.events) == len(pen.sequences))
        assert (await gateway.http.delete(f"/sessions/{pen.session}")).status_code == 204
        await eventually(lambda: sse.end and ndjson.end)
    assert (sse.end, ndjson.end) == ("finished", "finished")
    assert sse.events[-1].envelope["event"]["type"] == "session.deleted"
    assert sse.names == ["deleted"]
    assert lines(ndjson) == [{"control": "deleted", "position": None, "data": {"session": pen.session}}]
    back = await gateway.read(pen.session, headers={"last-event-id": sse.positions[-1]})
    assert (back.status, orjson.loads(back.body)["status"]) == (404, 404)
    assert gateway.hub.hot(pen.session) is None


async def test_a_head_request_gets_the_head_and_nothing_else(gateway: Any, pen: Any) -> None:
    """Some proxies and link checkers ask; it costs no client."""
    await pen.create("ada")
    answer = await gateway.http.head(f"/sessions/{pen.session}/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b""
