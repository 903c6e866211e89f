"""Presence through gateways: who looks costs one entry, everybody is told, the dead are gone in time."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from websockets.asyncio.client import connect as websocket

from orchestrator_free import Agent
from orchestrator_free.broker import Broker, connect
from orchestrator_free.gateway.channels.attendance import ENTRY_DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Run, Session

#: what the issue allows
GONE_SECONDS = 15.0
CLIENT = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nhost: test\\r\\n\\r\\n".encode())
while sock.recv(65536):
    pass
"""
GATEWAY = """
import asyncio, sys
from orchestrator_free.broker import connect
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server

async def main():
    async with connect(sys.argv[1], member="gateway") as broker:
        async with Server(Gateway(broker).app, port=0) as server:
            print("port", server.port, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create()
    return session


def devices(members: list[Any]) -> list[tuple[str, str]]:
    return sorted((one.member, one.device) for one in members)


def told(feed: Any) -> dict[str, Any]:
    """Fold the frames `presence` of a feed: what its reader knows of every member."""
    known: dict[str, Any] = {}
    for frame in feed.controls:
        if frame.event == "presence":
            body = orjson.loads(frame.data)
            known = {} if body["whole"] else known
            known |= {member["member"]: member for member in body["members"]}
            for name in body["gone"]:
                del known[name]
    return known


async def test_agents_and_browsers_see_two_devices_of_one_member_and_a_second_person(
    gateway: Any, session: Session, broker_url: str, eventually: Any
) -> None:
    """Each browser is told of the others as they come and go; a handler that asks who looks is told the same."""
    seen: list[list[tuple[str, str]]] = []
    agent = Agent("looker", grace_seconds=0)

    @agent
    async def look(run: Run) -> None:
        seen.append(devices(await run.session.watchers()))

    async with connect(broker_url, member="looker") as broker:
        task = asyncio.create_task(agent.serve(broker))
        try:
            async with gateway.feed(session.id, member="ann", device="phone", presence="follow") as phone:
                async with (
                    gateway.feed(session.id, member="ann", device="laptop", presence="follow") as laptop,
                    gateway.feed(session.id, member="bob", device="desk", presence="follow") as desk,
                ):
                    for feed in (phone, laptop, desk):
                        await eventually(lambda feed=feed: told(feed).get("bob", {}).get("status") == "joined", 30)
                        await eventually(lambda feed=feed: told(feed)["ann"]["device_count"] == 2, 30)
                    await session.result("looker", (await session.send("1", to="looker")).run, timeout=30)
                    await eventually(lambda: told(desk).get("looker", {}).get("kind") == "agent", 30)
                await eventually(lambda: "bob" not in told(phone) and told(phone)["ann"]["device_count"] == 1, 30)

                async def alone() -> bool:
                    return devices(await session.watchers()) == [("ann", "phone")]

                await eventually(alone, 30)
            await eventually(lambda: _nobody(session), 30)
            await session.result("looker", (await session.send("2", to="looker")).run, timeout=30)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert seen == [[("ann", "laptop"), ("ann", "phone"), ("bob", "desk")], []]
    assert all(not frame.id or frame.id in phone.positions for frame in phone.controls)


async def _nobody(session: Session) -> bool:
    return not await session.watchers()


async def test_who_hides_is_not_listed_and_yet_told(gateway: Any, session: Session, eventually: Any) -> None:
    """A supervisor with presence=0,follow; a feed that asks for nothing is told nothing."""
    async with (
        gateway.feed(session.id, member="boss", device="d", presence="0,follow") as boss,
        gateway.feed(session.id, member="spy", device="d", presence="0"),
        gateway.feed(session.id, member="bob", device="d") as bob,
    ):
        await eventually(lambda: told(boss).get("bob"), 30)
        assert devices(await session.watchers()) == [("bob", "d")]
        members = (await gateway.http.get(f"/sessions/{session.id}/presence")).json()["members"]
    assert {"boss", "spy"}.isdisjoint(told(boss))
    assert [(one["member"], one["status"]) for one in members] == [("ann", "offline"), ("bob", "joined")]
    assert bob.names == []


async def test_lines_of_json_tell_it_too(gateway: Any, session: Session, eventually: Any) -> None:
    """As a control without a position."""
    headers = {"accept": "application/x-ndjson"}
    async with gateway.feed(session.id, headers=headers, member="ann", presence="follow") as feed:
        line = await eventually(lambda: next((one for one in feed.body.split(b"\n") if b'"presence"' in one), None), 30)
    found = orjson.loads(line)
    assert (found["control"], found["position"], found["data"]["whole"]) == ("presence", None, True)


async def test_clients_of_every_kind_look(gateway: Any, session: Session, eventually: Any) -> None:
    """A WebSocket, an AI SDK stream and an AG-UI stream are seen as a feed is, as long as they last."""
    url = f"ws://127.0.0.1:{gateway.port}/sessions/{session.id}/events?member=ws&device=d"
    said = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}], "content": "hello"}
    chat = {"id": session.id, "messages": [said], "to": "nobody"}
    run = {"threadId": session.id, "runId": "r1", "messages": [said], "forwardedProps": {"to": "nobody"}}
    async with (
        websocket(url),
        gateway.http.stream("POST", "/api/chat?member=sdk", json=chat),
        gateway.http.stream("POST", "/api/agui?member=agui", json=run),
    ):
        found = await eventually(lambda: _at_least(session, 3), 30)
    await eventually(lambda: _nobody(session), 30)
    assert [one.member for one in found] == ["agui", "sdk", "ws"]


async def test_one_device_with_two_tabs_is_one_device(gateway: Any, session: Session, eventually: Any) -> None:
    """It is there until the last of them has gone; without a name it gets one, its member is `user`."""
    async with gateway.feed(session.id, member="ann", device="phone"):
        async with gateway.feed(session.id, member="ann", device="phone"), gateway.feed(session.id):
            found = await eventually(lambda: _at_least(session, 2), 30)
        await eventually(lambda: _exactly(session, ("ann", "phone")), 30)
    await eventually(lambda: _nobody(session), 30)
    assert [one.member for one in found] == ["ann", "user"]


async def _at_least(session: Session, count: int) -> list[Any]:
    found = sorted(await session.watchers(), key=lambda one: one.member)
    return found if len(found) >= count else []


async def _exactly(session: Session, *wanted: tuple[str, str]) -> bool:
    return devices(await session.watchers()) == sorted(wanted)


async def test_what_a_member_says_of_itself_is_told_and_shown(gateway: Any, session: Session, eventually: Any) -> None:
    """Away with a reason and a time, in the log and in the feeds; and back."""
    url = f"/sessions/{session.id}/presence"
    async with (
        gateway.feed(session.id, member="bob", device="d", presence="follow") as bob,
        gateway.feed(session.id, member="ann", device="d") as ann,
    ):
        await eventually(lambda: told(bob).get("ann", {}).get("status") == "joined", 30)
        away = {"status": "away", "reason": "lunch", "back": "2030-01-01T12:00:00Z", "from": "ann"}
        answer = await gateway.http.post(url, json=away)
        await eventually(lambda: told(bob)["ann"]["status"] == "away", 30)
        shown = told(bob)["ann"]
        members = (await gateway.http.get(url)).json()["members"]
        await gateway.http.post(url, json={"status": "available", "from": "ann"})
        await eventually(lambda: told(bob)["ann"]["status"] == "joined", 30)
    assert (answer.status_code, list(answer.json())) == (202, ["position"])
    assert (shown["reason"], shown["back"]) == ("lunch", "2030-01-01T12:00:00+00:00")
    assert shown in members
    assert [one.envelope["event"]["status"] for one in ann.events[1:]] == ["away", "available"]


async def test_a_device_is_idle_whichever_gateway_hears_of_it(
    gateway: Any, serve: Any, session: Session, eventually: Any
) -> None:
    """The entry of the gateway that has it changes, the log does not."""

    async def status() -> str:
        return next((one.status for one in await session.watchers()), "")

    last = await session._log.last(session.shard, session.filter)
    async with serve() as other, gateway.feed(session.id, member="ann", device="phone"):
        assert await eventually(status, 30) == "active"
        for place, wanted in ((gateway, "idle"), (gateway, "active"), (other, "idle"), (other, "active")):
            said = {"from": "ann", "device": "phone", "status": wanted}
            answer = await place.http.post(f"/sessions/{session.id}/presence", json=said)
            assert (answer.status_code, answer.json()["status"]) == (200, wanted)

            async def changed(wanted: str = wanted) -> bool:
                return await status() == wanted

            await eventually(changed, 30)
    after = await session._log.last(session.shard, session.filter)
    assert last is not None and after is not None and after.sequence == last.sequence


async def test_feeds_at_two_gateways_are_one_picture(
    gateway: Any, serve: Any, session: Session, eventually: Any
) -> None:
    """Each gateway has one entry; a gateway that stops withdraws its own at once."""
    async with gateway.feed(session.id, member="ann", device="a", presence="follow") as ann:
        async with serve() as other, other.feed(session.id, member="bob", device="b"):
            await eventually(lambda: told(ann).get("bob"), 30)
            assert len(await _entries(session)) == 2
        begun = time.monotonic()
        await eventually(lambda: "bob" not in told(ann), 30)
        print(f"a gateway that stopped was gone after {time.monotonic() - begun:.1f} s")


async def _entries(session: Session) -> list[tuple[str, bytes]]:
    return list(await session._log.present(f"watch.{session.id}"))


# -- the dead -----------------------------------------------------------------------------------------------------------


async def test_a_killed_browser_is_gone(
    gateway: Any, session: Session, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """The kernel closes its connection, the gateway tells the others; well within 15 s."""
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    async with gateway.feed(session.id, member="ann", device="a", presence="follow") as ann:
        program = programs.start(script, str(gateway.port), f"/sessions/{session.id}/events?member=carl&device=c")
        await eventually(lambda: told(ann).get("carl"), 40)
        program.send(signal.SIGKILL)
        begun = time.monotonic()
        await eventually(lambda: "carl" not in told(ann), GONE_SECONDS)
        print(f"a killed browser was gone after {time.monotonic() - begun:.2f} s")


SOCKET = (
    "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def deafen(sock: socket.socket) -> None:
    """Let the kernel drop whatever comes for a socket, as if the cable were cut: nothing is acknowledged any more."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(drop_all)))


@pytest.mark.skipif(sys.platform != "linux", reason="how a kernel forgets a peer is its own")
@pytest.mark.parametrize("upgrade", ["", SOCKET], ids=["feed", "socket"])
async def test_a_browser_whose_cable_was_cut_is_gone(
    gateway: Any, session: Session, upgrade: str, eventually: Any
) -> None:
    """Nobody says so; its kernel acknowledges nothing, neither words nor keep-alives."""
    async with gateway.feed(session.id, member="ann", device="a", presence="follow") as ann:
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        try:
            head = f"GET /sessions/{session.id}/events?member=carl&device=c HTTP/1.1\r\nhost: test\r\n{upgrade}\r\n"
            sock.sendall(head.encode())
            await eventually(lambda: told(ann).get("carl"), 40)
            deafen(sock)
            begun = time.monotonic()
            await eventually(lambda: "carl" not in told(ann), GONE_SECONDS)
            print(f"a browser whose cable was cut was gone after {time.monotonic() - begun:.1f} s")
        finally:
            sock.close()


async def test_the_clients_of_a_killed_gateway_are_gone(
    gateway: Any, broker_url: str, session: Session, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Nobody withdraws its entry; it vanishes within 15 s, for who asks and for who is told."""
    script = tmp_path / "gateway.py"
    script.write_text(GATEWAY)
    program = programs.start(script, broker_url)
    await eventually(lambda: "port" in program.output, 40)
    port = int(program.output.split("port ")[1].split()[0])
    async with gateway.feed(session.id, member="ann", device="a", presence="follow") as ann:
        async with gateway.feed(session.id, port=port, member="carl", device="c"):
            await eventually(lambda: told(ann).get("carl"), 40)
            program.send(signal.SIGKILL)
            begun = time.monotonic()
            await eventually(lambda: _exactly(session, ("ann", "a")), GONE_SECONDS)
            asked = time.monotonic() - begun
            await eventually(lambda: "carl" not in told(ann), GONE_SECONDS - asked)
            print(
                f"a killed gateway's client was gone after {asked:.1f} s, told after {time.monotonic() - begun:.1f} s"
            )


# -- what it costs ------------------------------------------------------------------------------------------------------


async def test_hundreds_of_feeds_cost_one_small_entry(gateway: Any, session: Session, eventually: Any) -> None:
    """Everybody is counted and every member named; written four times a second at most, whatever comes and goes."""
    written: list[float] = []
    unhear = session._log.hear_presence(f"watch.{session.id}", lambda key, payload: written.append(time.monotonic()))
    sockets = []
    head = f"GET /sessions/{session.id}/events{{}} HTTP/1.1\r\nhost: test\r\n\r\n"
    try:
        begun = time.monotonic()
        for number in range(500):
            sock = socket.socket()
            sock.setblocking(False)
            sockets.append(sock)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
            query = f"?member=m{number}" if number % 100 == 0 else ""
            await asyncio.get_running_loop().sock_sendall(sock, head.format(query).encode())

        async def entry() -> Any:
            found = await _entries(session)
            assert len(found) <= 1
            about = orjson.loads(found[0][1]) if found else {}
            return (about, len(found[0][1])) if about.get("count") == 500 else None

        about, size = await eventually(entry, 40)
        seconds = time.monotonic() - begun
    finally:
        for sock in sockets:
            sock.close()
    await eventually(lambda: _nobody(session), 40)
    unhear()
    print(f"500 feeds: 1 entry of {size} bytes, written {len(written)} times")
    members = {one["member"] for one in about["clients"]}
    assert members == {"user", *(f"m{number}" for number in range(0, 500, 100))}
    assert len(about["clients"]) == ENTRY_DEVICES
    assert size < 32_768
    assert sum(at <= begun + seconds for at in written) <= 4 * seconds + 2


async def test_events_cost_nothing_here(
    gateway: Any, session: Session, ann: Broker, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between coming and leaving nobody looks at a client for presence: not per event, not per flush."""
    async with gateway.feed(session.id, member="ann", device="a") as one, gateway.feed(session.id) as two:
        await eventually(lambda: _at_least(session, 2), 30)
        attendance = gateway.hub.attendance
        calls: list[str] = []
        for name in ("came", "left", "_write", "_follow", "set_status"):
            original = getattr(attendance, name)
            monkeypatch.setattr(
                attendance, name, lambda *args, name=name, original=original: (calls.append(name), original(*args))
            )
        begun = time.monotonic()
        for number in range(300):
            await session.append("run", {"type": "text.delta", "part": "1", "text": str(number)}, id="r1")
        await eventually(lambda: len(one.events) == len(two.events) == 301, 60)
        seconds = time.monotonic() - begun
        found = list(calls)
    assert set(found) <= {"_write"}  # the renewals
    assert len(found) <= seconds / 2 + 2


async def test_followers_are_told_twice_a_second_at_most(gateway: Any, pen: Any, eventually: Any) -> None:
    """A run that changes its mind all the time is one picture now and then; the last one is right."""
    await pen.create("ada")
    shard_key = "agent.ada.x"
    async with gateway.feed(pen.session, member="ann", presence="follow") as ann:
        await eventually(lambda: told(ann).get("ada", {}).get("status") == "offline", 30)
        await pen.broker.log.announce(shard_key, b"{}")
        await eventually(lambda: told(ann)["ada"]["status"] == "idle", 30)
        await pen.start("ada")
        begun, before = time.monotonic(), ann.names.count("presence")
        for number in range(40):
            await pen.write("ada", "run", {"type": "run.waiting", "reason": f"turn {number}"}, id="r1")
            await pen.write("ada", "run", {"type": "run.working"}, id="r1")
        await pen.write("ada", "run", {"type": "run.waiting", "reason": "budget"}, id="r1")
        await eventually(lambda: (told(ann)["ada"]["detail"] or {}).get("reason") == "budget", 5)
        seconds, frames = time.monotonic() - begun, ann.names.count("presence") - before
        await eventually(lambda: told(ann)["ada"]["status"] == "offline", 20)
    assert frames <= 2 * seconds + 2


async def test_a_follower_that_could_not_keep_up_is_told_all_anew(
    gateway: Any, pen: Any, ann: Broker, eventually: Any
) -> None:
    """What it missed is not lost: once it reads again it has the whole picture."""
    await pen.create("ada")
    bob = Broker(ann.log, "bob").session(pen.session)
    async with gateway.feed(pen.session, member="ann", presence="follow", buffer=4096) as feed:
        await eventually(lambda: "ann" in told(feed), 30)
        channel = await gateway.hub.channel(pen.session)
        [client] = channel._clients
        feed.reading.clear()
        for number in itertools.count():
            await pen.write("ada", "run", {"type": "raw", "data": "x" * 200_000}, id=f"r{number}")
            if client.feed.paused:
                break
        await bob.presence.set("away", reason="lunch")
        await eventually(lambda: not client.visit.informed, 30)
        feed.reading.set()
        await eventually(lambda: told(feed).get("bob", {}).get("reason") == "lunch", 60)
    assert [orjson.loads(one.data)["whole"] for one in feed.controls if one.event == "presence"].count(True) == 2


# -- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["member=a.b", "member=", "device=a%20b", "device=", "presence=1", "presence=maybe", f"member={'x' * 65}"],
)
async def test_a_feed_with_a_wrong_name_is_refused(gateway: Any, session: Session, query: str) -> None:
    """400, before anything of the feed."""
    answer = await gateway.http.get(f"/sessions/{session.id}/events?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown status": ({"status": "busy"}, 400, "status"),
    "no status": ({}, 400, "status"),
    "a time without a zone": ({"status": "away", "back": "2030-01-01T00:00:00"}, 400, "a time with a zone"),
    "no time": ({"status": "away", "back": "soon"}, 400, "a time with a zone"),
    "wrong member": ({"status": "away", "from": "a.b"}, 400, "from 'a.b'"),
    "a device that is away": ({"status": "away", "device": "d"}, 400, "device"),
    "idle without a device": ({"status": "idle"}, 400, "device"),
    "idle with a reason": ({"status": "idle", "device": "d", "reason": "x"}, 400, "device"),
    "wrong device": ({"status": "idle", "device": "a.b"}, 400, "device 'a.b'"),
    "unknown device": ({"status": "idle", "device": "d"}, 404, "no device 'd' of 'user'"),
    "unknown field": ({"status": "away", "mood": "x"}, 400, "mood"),
    "endless reason": ({"status": "away", "reason": "x" * 501}, 400, "reason"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_makes_no_sense_is_refused(gateway: Any, session: Session, case: str) -> None:
    """With a problem document that says what."""
    said, status, words = BAD[case]
    answer = await gateway.http.post(f"/sessions/{session.id}/presence", json=said)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]


async def test_presence_in_a_session_that_is_none(gateway: Any) -> None:
    """404, asked or told."""
    url = "/sessions/nowhere/presence"
    answers = [await gateway.http.get(url), await gateway.http.post(url, json={"status": "away"})]
    assert [one.status_code for one in answers] == [404, 404]
