"""Overlap and the tree of runs on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

WORK = """
import asyncio
if run.input.text == "hold":
    await run.delegate("nobody", "never")
    await asyncio.sleep(60)
await run.text("done")
"""


async def test_an_input_says_what_becomes_of_it_and_the_queue_is_shown(
    command: Any, ann: Broker, programs: Any, fresh: Callable[[str], str], eventually: Any
) -> None:
    """`send --overlap`, places and who asked whom in `show`; a word that is no policy is refused before it is sent."""
    name, session = fresh("agent"), ann.session(fresh("s"))
    programs.agent(name, WORK, overlap="queue", overlap_override=True)
    command("send", session.id, "hold", "--to", name)
    await eventually(lambda: delegated(session), 30)
    command("send", session.id, "waits", "--to", name)
    refused = command("send", session.id, "now or never", "--to", name, "--overlap", "reject", "--wait")
    wrong = command("send", session.id, "x", "--to", name, "--overlap", "whenever")
    shown = command("show", session.id)
    view = await session.view()

    assert (refused.code, wrong.code) == (1, 2)
    assert f"agent {name} is at work on run" in refused.out + refused.err
    assert "whenever" in wrong.err
    assert "place 1 in the queue  waits" in shown.out
    assert "nobody ○ place 1 in the queue  never" in shown.out
    assert [entry["text"] for entry in view["inputs"]] == ["hold", "never", "waits", "now or never"]


async def delegated(session: Any) -> bool:
    if not await session.exists():
        return False
    return any(one["agent"] == "nobody" for one in (await session.view())["queue"])
