"""A full store refuses with the reason and what to do, loses nothing that was acknowledged, and recovers."""

from __future__ import annotations

import os
import secrets
import subprocess
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.embedded.server import MIB, EmbeddedServer, ServerSettings, running_server
from orchestrator_free.errors import BrokerTimeout, SessionNotFound, StorageFull
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.session.archive import export_session, import_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
Fresh = Callable[[str], str] if TYPE_CHECKING else Any

ADVICE = "free space or raise the limit, nothing was stored"
FILL = "fill"
TOKENS = 200
WRITER = f"""
for number in range({TOKENS}):
    await run.text(f"{{number:04d}}" + "x" * 1020)
    await asyncio.sleep(0.001)
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A broker with room for 4 MiB."""
    settings = ServerSettings(data=tmp_path_factory.mktemp("small"), port=0, max_file_store=4 * MIB)
    with running_server(settings) as server:
        yield server


@pytest.fixture(autouse=True)
async def empty(broker: EmbeddedServer) -> None:
    """Begin each test with an empty store."""
    async with connect(broker.url, member="ann") as ann:
        await ann.log.purge(0, "session.0.>")


async def fill(broker: Broker, *, session: str = FILL) -> int:
    """Write until nothing fits any more; return the bytes written."""
    written, piece = 0, os.urandom(20_000)
    with suppress(StorageFull):
        while True:
            subject = f"session.0.{session}.ann.state.{secrets.token_hex(8)}"
            await broker.log.wire.publish(subject, piece, expect=0)
            written += len(piece)
    return written


async def free(broker: Broker) -> None:
    """Make room again, as an operator does."""
    await broker.log.purge(0, f"session.0.{FILL}.>")


# -- the library ----------------------------------------------------------------------------------------------------


async def test_publishing_into_a_full_store_says_what_to_do_and_stores_nothing(ann: Broker, fresh: Fresh) -> None:
    """Inputs, new sessions and objects are refused at once; everything that was stored can be read."""
    session = ann.session(fresh("s"))
    await session.create(title="before")
    await fill(ann)
    end = (await ann.log.info(0))["state"]["last_seq"]

    for refused in (session.send("x" * 1000, to="bob"), ann.session(fresh("t")).create(title="x" * 400)):
        with pytest.raises(StorageFull, match=ADVICE):
            await refused
    with pytest.raises(StorageFull, match=ADVICE):
        await ann.objects.put(session.id, "file-1", bytes(300_000))

    assert (await ann.log.info(0))["state"]["last_seq"] == end
    assert (await session.view())["meta"]["title"] == "before"
    assert await session.object("file-1") is None


async def test_everything_works_again_after_a_purge(ann: Broker, fresh: Fresh) -> None:
    """Three times full, three times freed."""
    for _ in range(3):
        assert await fill(ann) > 3 * MIB
        await free(ann)
    session = ann.session(fresh("s"))
    await session.create()
    await ann.objects.put(session.id, "file-1", b"content")

    assert (await session.send("hi", to="bob")).position.sequence
    assert await session.object("file-1") == b"content"


async def test_a_session_can_be_deleted_when_the_store_is_full(ann: Broker, fresh: Fresh) -> None:
    """Deleting is how room is made: it needs none, and a follower is told all the same."""
    session = ann.session(fresh("s"))
    await session.create()
    await fill(ann, session=session.id)
    async with aclosing(session.follow(kinds=["meta"])) as follower:
        assert (await anext(follower)).type == "session.created"

        await session.delete()

        assert (await anext(follower)).type == "session.deleted"
    with pytest.raises(SessionNotFound):
        await session.view()
    await ann.session(fresh("s")).create()


async def test_an_import_that_does_not_fit_leaves_nothing(ann: Broker, fresh: Fresh) -> None:
    """Neither events nor objects of it; the same import works when there is room."""
    original = ann.session(fresh("s"))
    await original.create(title="large")
    for number in range(8):
        await original.send("x" * 200_000, to="bob", id=f"i{number}")
    archive = [line async for line in export_session(original)]
    await original.delete()
    await ann.log.wire.publish(f"session.0.{FILL}.ann.state.room", os.urandom(900_000), expect=0)
    await fill(ann)
    await ann.log.purge(0, f"session.0.{FILL}.ann.state.room")
    before = (await ann.log.info(0))["state"]["messages"]

    with pytest.raises(StorageFull, match=ADVICE) as refused:
        await import_session(ann, archive)

    assert not getattr(refused.value, "__notes__", [])
    assert not await original.exists()
    assert (await ann.log.info(0))["state"]["messages"] == before
    await free(ann)
    await import_session(ann, archive)
    assert len((await original.view())["inputs"]) == 8


# -- agents ---------------------------------------------------------------------------------------------------------


async def test_a_run_that_meets_a_full_store_waits_visibly_and_goes_on_when_there_is_room(
    ann: Broker, programs: Any, fresh: Fresh, eventually: Eventually
) -> None:
    """Meanwhile the session shows it as running, with what it had written; then another attempt does it all."""
    name = fresh("writer")
    agent = programs.agent(name, WRITER, ack_wait_seconds=1.0)[0]
    await eventually(lambda: "agent ready" in agent.output, 20)
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    await ann.log.wire.publish(f"session.0.{FILL}.ann.state.room", os.urandom(80_000), expect=0)
    await fill(ann)
    await ann.log.purge(0, f"session.0.{FILL}.ann.state.room")

    sent = await session.send("go", to=name)
    await eventually(lambda: agent.output.count("run interrupted") >= 2, 20)
    during = await _run(session)
    assert (during["status"], during["attempt"]) == ("running", 1)
    assert 10_000 < len(during["parts"][0]["text"]) < TOKENS * 1024
    assert agent.alive
    assert ADVICE in agent.output

    await free(ann)
    after = await session.result(name, sent.run, timeout=30)
    assert (after["status"], after["attempt"]) == ("done", 2)
    assert len(after["parts"][0]["text"]) == TOKENS * 1024
    assert after["attempts"][0]["parts"][0]["text"] == during["parts"][0]["text"]


async def _run(session: Any) -> dict[str, Any]:
    view = await session.view()
    found: dict[str, Any] = view["agents"][0]["runs"][0]
    return found


# -- the gateway ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway(broker: Broker) -> AsyncIterator[httpx.AsyncClient]:
    async with Server(Gateway(broker).app, host="127.0.0.1", port=0) as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
            yield http


async def test_a_gateway_answers_507_while_the_store_is_full(ann: Broker, fresh: Fresh) -> None:
    """A problem document that says what to do, for inputs and new sessions; reading and deleting go on."""
    name = fresh("s")
    async with gateway(ann) as http:
        assert (await http.post("/sessions", json={"session": name, "title": "before"})).status_code == 201
        await fill(ann)
        text = "x" * 1000

        for path, body in (
            (f"/sessions/{name}/inputs", {"to": "bob", "text": text}),
            ("/sessions", {"session": fresh("t"), "title": text[:400]}),
        ):
            answer = await http.post(path, json=body)
            assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
            problem = answer.json()
            assert (problem["status"], problem["type"]) == (507, "urn:orchestrator-free:problem:storage-full")
            assert ADVICE in problem["detail"]

        assert (await http.get(f"/sessions/{name}")).json()["meta"]["title"] == "before"
        assert (await http.delete(f"/sessions/{FILL}")).status_code == 204
        answer = await http.post(f"/sessions/{name}/inputs", json={"to": "bob", "text": text})
        assert answer.status_code == 202


# -- a small disk ---------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 24 MiB; only root may."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_the_default_limit_refuses_before_the_disk_is_full(tmp_path: Path, fresh: Fresh) -> None:
    """Without a limit of its own the broker takes 80 % of what the disk can give: it refuses, and never fails."""
    with small_disk(tmp_path / "disk") as disk:
        async with (
            EmbeddedServer(ServerSettings(data=disk / "data", port=0)) as server,
            connect(server.url, member="ann") as ann,
        ):
            assert await fill(ann) > 15 * MIB
            assert (await server.monitor("/healthz"))["status"] == "ok"
            await free(ann)
            await ann.session(fresh("s")).create()


async def test_a_disk_that_others_filled_loses_nothing_and_works_after_a_restart(tmp_path: Path, fresh: Fresh) -> None:
    """nats-server does not answer then, and needs a restart once there is room; what it acknowledged is all there."""
    with small_disk(tmp_path / "disk") as disk:
        async with (
            EmbeddedServer(ServerSettings(data=disk / "data", port=0)) as server,
            connect(server.url, member="ann") as ann,
        ):
            (disk / "others").write_bytes(bytes(12 * MIB))
            stored = 0
            with pytest.raises(BrokerTimeout):
                while True:
                    subject = f"session.0.{FILL}.ann.state.{stored}"
                    await ann.log.wire.publish(subject, os.urandom(200_000), expect=0, deadline=1.5)
                    stored += 1
            assert len(await ann.log.read(0, f"session.0.{FILL}.>")) == stored

            (disk / "others").unlink()
            await server.restart()
            assert len(await ann.log.read(0, f"session.0.{FILL}.>")) == stored
            await ann.session(fresh("s")).create()
            await free(ann)
