"""A backup that was made under load is the installation: after the loss of everything the work goes on from it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import pkgutil
import shutil
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from orchestrator_free import Run, connect, contract
from orchestrator_free.broker import wired
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import InvalidInput, PositionLost
from orchestrator_free.gateway.access.revocations import revoke_all
from orchestrator_free.jetstream import AccessBucket
from orchestrator_free.operations.backup import back_up, rehearse, restore
from orchestrator_free.operations.manifest import problems, read_manifest
from tests.gateway.identity import Mint, bearer, guarding
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def answer(run: Run) -> None:
    """Answer at once."""
    await run.text(f"answer to {run.input.text}")
    if run.input.text == "file":
        await run.file("note.txt", b"kept", media_type="text/plain")


async def keep_sending(url: str, sent: list[str], stop: asyncio.Event) -> None:
    """Send inputs to a fast agent, several at a time, until told to stop."""
    async with connect(url, member="ann") as broker:
        session = broker.session("busy")
        while not stop.is_set():
            found = await asyncio.gather(*(session.send("x" * 300, to="fast") for _ in range(8)))
            sent += [one.input for one in found]


def without_position(view: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in view.items() if name != "position"}


@pytest.mark.slow
async def test_after_the_loss_of_everything_the_work_goes_on_from_a_backup_made_under_load(
    tmp_path: Path, eventually: Any
) -> None:
    """Clients get a reset, subscriptions go on where they were, agents finish what was open; no input is forgotten."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "lost", port=0)) as server:
        hold = asyncio.Event()

        async def slow(run: Run) -> None:
            await run.text("beginning ")
            await hold.wait()

        async with (
            serving(server.url, "fast", answer, replicas=2),
            serving(server.url, "slow", slow),
            connect(server.url, member="ann") as ann,
        ):
            calm = ann.session("calm")
            await calm.create(title="Calm", agents=["fast"])
            done = await calm.send("file", to="fast")
            await calm.result("fast", done.run, timeout=30)
            async with calm.subscribe("billing", start="beginning") as deliveries:
                read = [await anext(aiter(deliveries)) for _ in range(1)]
                for delivery in read:
                    await delivery.ack()
            open_run = await ann.session("held").send("long work", to="slow")
            await eventually(lambda: _parts(ann, "held"), 30)
            position = (await calm.view())["position"]
            before = await calm.view()
            stop, sent = asyncio.Event(), list[str]()
            load = asyncio.create_task(keep_sending(server.url, sent, stop))
            await eventually(lambda: len(sent) > 100, 30)
            async with wired(server.url, member="operator") as wire:
                manifest = await back_up(wire, tmp_path / "backup")
            during = len(sent)
            stop.set()
            await load
        assert during > 100
        server.kill()
    shutil.rmtree(tmp_path / "lost")

    assert problems(tmp_path / "backup", read_manifest(tmp_path / "backup")) == []
    async with EmbeddedServer(ServerSettings(data=tmp_path / "new", port=0)) as server:
        async with wired(server.url, member="operator") as wire:
            assert await restore(wire, tmp_path / "backup") == manifest
        async with connect(server.url, member="ann") as ann:
            calm = ann.session("calm")
            assert without_position(await calm.view()) == without_position(before)
            assert await calm.object(_file(before)) == b"kept"
            with pytest.raises(PositionLost, match="recreated"):
                await anext(calm.follow(position))
            async with calm.subscribe("billing", start="beginning") as deliveries:
                following = await asyncio.wait_for(anext(aiter(deliveries)), 30)
            assert following.event.sequence > read[-1].event.sequence
            busy = await ann.log.read_all(0, "session.0.busy.ann.in.fast.*")
            assert len(busy) >= 100
            async with serving(server.url, "fast", answer), serving(server.url, "slow", answer):
                ended = await ann.session("held").result("slow", open_run.run, timeout=60)
                assert (ended["status"], ended["attempt"]) == ("done", 2)
                await eventually(lambda: _all_answered(ann, "busy", len(busy)), 60, every=0.3)


async def _parts(ann: Any, session: str) -> bool:
    with contextlib.suppress(Exception):
        view = await ann.session(session).view()
        return bool(view["agents"] and view["agents"][0]["runs"][0]["parts"])
    return False


def _file(view: dict[str, Any]) -> str:
    parts = view["agents"][0]["runs"][0]["parts"]
    return next(part["object"] for part in parts if part["type"] == "file")


async def _all_answered(ann: Any, session: str, count: int) -> bool:
    view = await ann.session(session).view()
    runs = [run for agent in view["agents"] for run in agent["runs"]]
    return len(runs) == count and all(run["status"] == "done" for run in runs)


async def test_inputs_to_everybody_from_before_a_restore_are_still_for_the_agents_that_were_there(
    tmp_path: Path,
) -> None:
    """A restored consumer is younger than what waits for it; who was there is what it was."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "lost", port=0)) as server:
        async with serving(server.url, "fast", answer):
            pass
        async with connect(server.url, member="ann") as ann:
            sent = await ann.session("open").send("anybody?", to="all")
        async with wired(server.url, member="operator") as wire:
            await back_up(wire, tmp_path / "backup")
    async with EmbeddedServer(ServerSettings(data=tmp_path / "new", port=0)) as server:
        async with wired(server.url, member="operator") as wire:
            await restore(wire, tmp_path / "backup")
        async with serving(server.url, "fast", answer, ack_wait_seconds=5), connect(server.url, member="ann") as ann:
            assert (await ann.session("open").result("fast", sent.run, timeout=30))["status"] == "done"


def stream_definitions() -> Iterator[dict[str, Any]]:
    """Everything in the contract's modules that describes a stream."""
    known = {"settings": contract.StreamSettings(), "shard": 0, "replicas": 1}
    for module in pkgutil.iter_modules(contract.__path__):
        functions = vars(importlib.import_module(f"orchestrator_free.contract.{module.name}")).values()
        for function in filter(inspect.isfunction, functions):
            parameters = inspect.signature(function).parameters
            if parameters.keys() <= known.keys():
                found = function(**{name: known[name] for name in parameters})
                if isinstance(found, dict) and "storage" in found:
                    yield found


def test_every_stream_of_the_contract_is_in_a_backup_or_says_why_not() -> None:
    """One that is added to the contract, or that somebody may create, is kept or has a reason not to be."""
    settings = contract.StreamSettings()
    kept, known = set(contract.lasting_streams(1)), set(contract.installation(settings))
    described = {config["name"] for config in stream_definitions()}
    assert {"SESSIONS_0", "SESSIONS_AUDIT", "KV_orchestrator_free_access", "KV_orchestrator_free_presence"} <= described
    assert described <= known == kept | contract.TRANSIENT.keys()
    assert not kept & contract.TRANSIENT.keys()
    assert all(len(reason) > 30 for reason in contract.TRANSIENT.values())
    call = "$JS.API.STREAM.CREATE."
    made = {
        one.removeprefix(call) for role in contract.ROLES
        for one in contract.permissions(role, "x")["publish"]["allow"] if one.startswith(call)
    }  # fmt: skip
    assert made <= known


async def test_what_was_revoked_stays_revoked_after_a_restore_and_no_stream_is_forgotten(
    tmp_path: Path, token: Mint
) -> None:
    """A token by its id, and all of a member; whatever an installation has made at the broker is kept or explained."""
    gone, eves, good = token("ann"), token("eve"), token("bob")
    root = bearer(token("root", cap=["admin"]))

    async def statuses(gateway: Any) -> list[int]:
        return [(await gateway.http.get("/sessions", headers=bearer(one))).status_code for one in (gone, eves, good)]

    async with EmbeddedServer(ServerSettings(data=tmp_path / "lost", port=0)) as server:
        async with serving(server.url, "fast", answer), guarding(server.url, token, audit="on") as gateway:
            mine = bearer(good)
            assert (await gateway.http.put("/v1/stream/s1", headers=mine, content=b"x")).status_code == 201
            assert (await gateway.http.post("/sessions", headers=mine, json={"session": "s1"})).status_code == 201
            asked = {"text": "file", "to": "fast"}
            assert (await gateway.http.post("/sessions/s1/inputs", json=asked, headers=mine)).status_code == 202
            assert (await gateway.http.post("/tickets", json={"session": "s1"}, headers=mine)).status_code == 201
            jti = jwt.decode(gone, options={"verify_signature": False})["jti"]
            for revoked in ({"token": jti}, {"member": "eve"}):
                assert (await gateway.http.post("/revocations", json=revoked, headers=root)).status_code == 204
            assert await statuses(gateway) == [401, 401, 200]
        async with wired(server.url, member="operator") as wire:
            manifest = await back_up(wire, tmp_path / "backup")
            present = set((await wire.api("STREAM.NAMES"))["streams"])
    assert present == set(contract.installation(contract.StreamSettings()))
    assert present - contract.TRANSIENT.keys() == {part.stream for part in manifest.streams}
    async with EmbeddedServer(ServerSettings(data=tmp_path / "new", port=0)) as server:
        async with wired(server.url, member="operator") as wire:
            await restore(wire, tmp_path / "backup")
        async with guarding(server.url, token) as gateway:
            assert await statuses(gateway) == [401, 401, 200]
            await revoke_all(AccessBucket(gateway.gateway.broker.log))
            await gateway.gateway.gate.revocations.load()
            assert await statuses(gateway) == [401, 401, 401]


@pytest.fixture
async def small(tmp_path: Path) -> Path:
    """A backup of a small installation."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0)) as server:
        async with connect(server.url, member="ann") as ann:
            await ann.session("s1").send("hello", to="nobody")
        async with wired(server.url, member="operator") as wire:
            await back_up(wire, tmp_path / "backup")
    return tmp_path / "backup"


async def test_a_backup_can_be_rehearsed(small: Path) -> None:
    """The drill restores it into a broker of its own."""
    assert (await rehearse(small)).messages == read_manifest(small).messages > 0


async def test_a_backup_that_was_changed_or_not_completed_is_refused(small: Path, tmp_path: Path) -> None:
    """Each with what is wrong; the broker is left alone."""
    file = small / "SESSIONS_0.snapshot"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert problems(small, read_manifest(small)) == [
        "SESSIONS_0: SESSIONS_0.snapshot was changed since it was written (SHA-256 differs)"
    ]
    with pytest.raises(InvalidInput, match="not whole"):
        await rehearse(small)
    file.unlink()
    assert "is not there" in problems(small, read_manifest(small))[0]
    (small / "manifest.json").unlink()
    with pytest.raises(InvalidInput, match="was not completed"):
        read_manifest(small)


async def test_nothing_is_overwritten(small: Path, tmp_path: Path) -> None:
    """A folder that holds something takes no backup, a broker that holds an installation no restore."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "other", port=0)) as server:
        async with connect(server.url, member="ann"), wired(server.url, member="operator") as wire:
            with pytest.raises(InvalidInput, match="has an installation already"):
                await restore(wire, small)
            with pytest.raises(InvalidInput, match="not empty"):
                await back_up(wire, small)


@pytest.mark.slow
async def test_how_fast_a_backup_and_a_restore_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, and the memory of this process stays bounded however large the stream is."""
    from orchestrator_free.jetstream.bulk import BulkPublisher

    async with EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0)) as server:
        async with connect(server.url, member="ann") as ann:
            async with BulkPublisher(ann.log.wire) as bulk:
                payload = b'{"type":"input","text":"' + bytes(range(65, 91)) * 150 + b'"}'
                for number in range(30_000):
                    await bulk.publish(f"session.0.s{number % 100}.ann.in.nobody.i{number}", payload)
            began = time.perf_counter()
            manifest = await back_up(ann.log.wire, tmp_path / "backup")
            took = time.perf_counter() - began
    stored = manifest.streams[0].state["bytes"]
    async with EmbeddedServer(ServerSettings(data=tmp_path / "new", port=0)) as server:
        async with wired(server.url, member="operator") as wire:
            began = time.perf_counter()
            await restore(wire, tmp_path / "backup")
            back = time.perf_counter() - began
    with capsys.disabled():
        print(
            f"\n  {stored / 1e6:.0f} MB in 30,000 messages: backup {stored / 1e6 / took:.0f} MB/s "
            f"({manifest.size / 1e6:.1f} MB on disk), restore {stored / 1e6 / back:.0f} MB/s"
        )
    assert manifest.messages == 30_000
