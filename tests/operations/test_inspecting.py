"""Where an input is, at every stage of its life; who reads; and the same over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free import Run, connect
from orchestrator_free.errors import InvalidInput, SessionNotFound
from orchestrator_free.operations import pausing
from orchestrator_free.operations.backup import back_up, restore
from orchestrator_free.operations.doctor import examine
from orchestrator_free.operations.erasing import erase_member
from orchestrator_free.operations.inspecting import inspect
from tests.gateway.identity import bearer
from tests.inside import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Broker


async def stage(ann: Broker, session: str, input: str) -> dict[str, Any]:
    """The only agent's whereabouts with an input."""
    found = await inspect(ann, session, input)
    [about] = found["inputs"][0]["agents"]
    return dict(about)


async def test_an_input_is_followed_from_the_log_to_its_end(
    ann: Broker, broker: Any, command: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """Unknown agent, stored, running at a replica, taken behind another one, finished; readers with their positions."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    first = await session.send("one", to=name)
    assert (await stage(ann, session.id, first.input))["stage"] == "unknown agent"
    go = asyncio.Event()

    async def wait(run: Run) -> None:
        await run.text("begun")
        await go.wait()

    async def reaches(input: str, wanted: str) -> bool:
        return (await stage(ann, session.id, input))["stage"] == wanted

    async with serving(broker.url, name, wait, overlap="queue"):
        await eventually(lambda: reaches(first.input, "running"), 30)
        about = await stage(ann, session.id, f"ann/{first.input}")
        assert (about["attempt"], about["alive"]) == (1, True)
        second = await session.send("two", to=name)
        await eventually(lambda: reaches(second.input, "taken"), 30)
        assert (await stage(ann, session.id, second.input))["behind"] == [f"ann/{first.input}"]
        await pausing.pause(ann, name)
        third = await session.send("three", to=name)
        about = await stage(ann, session.id, third.input)
        assert (about["stage"], about["paused"], about["ahead_at_broker"]) == ("stored", True, 1)
        people = await asyncio.to_thread(command, "inspect", session.id)
        assert "behind" in people.out
        assert "PAUSED" in people.out
        go.set()
        await eventually(lambda: reaches(first.input, "finished"), 30)
        await pausing.resume(ann, name)
        await eventually(lambda: reaches(third.input, "finished"), 30)
    async with session.subscribe("billing", start="beginning") as deliveries:
        await (await anext(aiter(deliveries))).ack()
    found = await inspect(ann, session.id)
    [durable] = found["readers"]["durables"]
    assert durable["name"] == "billing"
    assert durable["waiting"] + durable["in_work"] > 0
    assert [len(one["agents"]) for one in found["inputs"]] == [1, 1, 1]
    machine = await asyncio.to_thread(command, "inspect", session.id, third.input, "--json")
    assert machine.json[0]["inputs"][0]["agents"][0]["status"] == "done"
    with pytest.raises(InvalidInput, match="has no input"):
        await inspect(ann, session.id, "nothing")
    with pytest.raises(SessionNotFound):
        await inspect(ann, fresh("nothing"))


async def test_over_http_for_who_may(
    ann: Broker, guard: Any, token: Any, fresh: Callable[[str], str]
) -> None:  # fmt: skip
    """With `admin` only, and only sessions that the token is for; a dead letter is retried in the caller's name."""
    name, session = fresh("writer"), ann.session(fresh("s"))
    await session.create(agents=[name])
    sent = await session.send("do it", to=name)
    body = {"type": "run.finished", "status": "failed", "attempt": 4, "input": f"ann/{sent.input}", "parts": []}
    await ann.as_member(name).session(session.id).append("run", body, id=sent.run, expect=0)
    async with guard() as gateway, httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http:
        may, other = bearer(token("boss", cap=["admin"])), bearer(token("boss", "other", cap=["admin"]))
        found = (await http.get(f"/sessions/{session.id}/inspect", headers=may)).json()
        assert found["inputs"][0]["agents"][0]["stage"] == "finished"
        assert (await http.get(f"/sessions/{session.id}/inspect", headers=bearer(token("ann")))).status_code == 403
        assert (await http.get("/deadletters", headers=other)).json() == {"deadletters": []}
        [letter] = (await http.get("/deadletters", params={"session": session.id}, headers=may)).json()["deadletters"]
        chosen = {"id": letter["id"]}
        assert (await http.post("/deadletters/dismiss", json=chosen, headers=other)).status_code == 404
        assert (await http.post("/deadletters/retry", json=chosen, headers=may)).status_code == 202
        assert (await http.post("/deadletters/dismiss", json=chosen, headers=may)).status_code == 404
    assert [entry["from"] for entry in (await session.view())["inputs"]] == ["ann", "boss"]


async def test_an_operator_needs_no_more_than_the_role_has(place: Any, tmp_path: Path) -> None:
    """Backup, pause, erasure, the doctor and a restore, under the permissions of broker/permissions.conf."""
    async with place.connect("operator") as operator:
        session = operator.session("s1")
        await session.create()
        await operator.as_member("bob").session("s1").send("hello", to="w")
        await session.send("hello", to="w")
        report = await erase_member(operator, "bob", tmp_path)
        assert (report.clean, report.rewritten) == (True, ["s1"])
        checks = {one.name: one for one in await examine(operator.log.wire, role="operator", member="operator")}
        assert checks["permissions"].status == "ok", checks["permissions"].says
        await back_up(operator.log.wire, tmp_path / "backup")
        seed = place.seeds["operator"]
    for stream in ("SESSIONS_0", "SESSIONS_TIMERS", "OBJ_orchestrator_free_objects", "SESSIONS_AUDIT"):
        assert (tmp_path / "backup" / f"{stream}.snapshot").stat().st_size > 0
    await place.server.stop()
    import shutil

    shutil.rmtree(place.server.settings.data / "jetstream")
    await place.server.start()
    from orchestrator_free.broker import wired

    async with wired(place.server.url, member="operator", nkey_seed=seed) as wire:
        await restore(wire, tmp_path / "backup")
    async with connect(place.server.url, member="operator", nkey_seed=seed) as operator:
        assert [entry["text"] for entry in (await operator.session("s1").view())["inputs"]] == ["[erased]", "hello"]
