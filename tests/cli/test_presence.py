"""`presence`, `away` and `back` as real commands."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker, Session


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str]) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=["ada"])
    return session


async def test_presence_shows_who_is_there_and_how(command: Any, session: Session) -> None:
    """A line per member; for machines an object each."""
    async with session.presence.join(device="phone"), session.presence.join(device="laptop") as laptop:
        await laptop.say("idle")
        table = await asyncio.to_thread(command, "presence", session.id)  # so that ann's presence goes on meanwhile
        lines = (await asyncio.to_thread(command, "presence", session.id, "--json")).json
    assert table.code == 0
    assert "no process of this agent is running" in table.out
    assert "laptop (idle)" in table.out
    assert [(one["member"], one["kind"], one["status"]) for one in lines] == [
        ("ada", "agent", "offline"), ("ann", "person", "joined"),
    ]  # fmt: skip


async def test_away_with_a_reason_and_back(command: Any, session: Session) -> None:
    """A time from now or a time with a zone; `show` tells it, `back` ends it."""
    away = command("away", session.id, "--from", "ann", "--reason", "lunch", "--back", "30m")
    shown = command("show", session.id)
    [_, ann] = command("presence", session.id, "--json").json
    offline = command("away", session.id, "--from", "ann", "--offline", "--back", "2030-01-01T00:00:00Z")
    said = (await session.view())["presence"]["ann"]
    back = command("back", session.id, "--from", "ann")
    assert [away.code, offline.code, back.code] == [0, 0, 0]
    assert "ann is away: lunch, back " in shown.out
    assert (ann["status"], ann["reason"]) == ("away", "lunch")
    in_half_an_hour = datetime.now(UTC) + timedelta(minutes=30)
    assert abs(datetime.fromisoformat(ann["back"]) - in_half_an_hour) < timedelta(minutes=5)
    assert (said["status"], said["back"]) == ("offline", "2030-01-01T00:00:00+00:00")
    assert (await session.view())["presence"]["ann"]["status"] == "available"


async def test_presence_goes_on_until_it_is_stopped(command: Any, session: Session, eventually: Any) -> None:
    """What changes is printed, and nothing else; a signal is its good end."""
    program = command.start("presence", session.id, "--follow", "--json")
    await eventually(lambda: program.output.count("\n") == 2, 40)
    async with session.presence.join(device="phone"):
        await eventually(lambda: '"joined"' in program.output, 30)
    await eventually(lambda: program.output.count('"offline"') == 3, 30)
    program.send(signal.SIGTERM)
    assert program.process.wait(20) == 0


async def test_what_makes_no_sense_is_refused(command: Any, session: Session) -> None:
    """An unknown session: 3; a time that is none, a wrong name: 2."""
    codes = [
        command("presence", "nowhere").code, command("away", "nowhere").code, command("back", "nowhere").code,
        command("away", session.id, "--back", "soon").code, command("away", session.id, "--from", "a.b").code,
    ]  # fmt: skip
    assert codes == [3, 3, 3, 2, 2]
