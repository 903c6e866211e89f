"""The programs of `agents/` that bring a framework, as processes; and three of three frameworks in one session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.adapters.conftest import parts, texts
from tests.adapters.test_claude import WHOLE, Cli
from tests.adapters.test_generic import AGUI, CHUNKS, sse
from tests.adapters.test_openai import sse as openai_sse
from tests.adapters.test_openai_agents import call, say, streamed
from tests.gateway.conftest import gateway, serve

__all__ = ["gateway", "serve"]  # fixtures

if TYPE_CHECKING:
    from pathlib import Path


async def test_three_agents_of_three_frameworks_in_one_session(
    ann: Any, gateway: Any, programs: Any, folder: Path, fresh: Any, eventually: Any, model_server: Any
) -> None:
    """PydanticAI, LangGraph and an AG-UI server work on one input at once; through the gateway each is a group of its own."""
    model_server.answers = [sse(*AGUI)]
    for name in ("researcher", "gardener"):
        programs.start(folder / f"{name}.py")
    programs.start(folder / "courier.py", COURIER_URL=model_server.url)
    session = ann.session(fresh("s"))
    await session.create(agents=["researcher", "gardener", "courier"])
    await session.send("Water it with 7 litres", to="all")

    async def open_asks() -> Any:
        asks = (await gateway.http.get(f"/sessions/{session.id}/asks?status=open")).json()["asks"]
        running = {agent["agent"] for agent in (await session.view())["agents"] for run in agent["runs"]}
        return asks if len(running) == 3 else None

    (ask,) = await eventually(open_asks, 90)
    await gateway.http.post(
        f"/sessions/{session.id}/asks/{ask['ask']}/answer", json={"value": "approve", "from": "ann"}
    )

    async def done() -> Any:
        view = (await gateway.http.get(f"/sessions/{session.id}")).json()
        runs = {agent["agent"]: agent["runs"][0] for agent in view["agents"]}
        return runs if [run["status"] for run in runs.values()] == ["done"] * 3 else None

    runs = await eventually(done, 90)
    subagents = {
        name: [part["data"]["name"] for part in parts(run, "data") if part["name"] == "subagent"]
        for name, run in runs.items()
    }
    assert subagents == {"researcher": ["reader"], "gardener": ["plan"], "courier": ["thinker"]}
    assert ask["text"] == "Water the garden with 7 litres?"
    assert texts(runs["gardener"]) == ["The garden is watered."]
    assert texts(runs["courier"])[-1] == "Sunny."
    assert [part["tool"] for part in parts(runs["researcher"], "tool")] == ["read"]
    spans = [(run["started"], run["finished"]) for run in runs.values()]
    assert max(start for start, _ in spans) < max(end for _, end in spans)


async def test_the_courier_brings_an_agent_of_the_ai_sdk(
    ann: Any, programs: Any, folder: Path, fresh: Any, model_server: Any
) -> None:
    """Under a name of its own."""
    model_server.answers = [sse(*CHUNKS)]
    programs.start(
        folder / "courier.py", COURIER_URL=model_server.url, COURIER_PROTOCOL="ai-sdk", COURIER_NAME="remote"
    )
    session = ann.session(fresh("s"))
    await session.create()
    run = await session.result("remote", (await session.send("Hi", to="remote")).run, timeout=60)

    assert (run["error"], texts(run)) == (None, ["Let me look.", "Sunny."])


async def test_the_coder_asks_for_nothing_that_is_allowed(
    ann: Any, programs: Any, folder: Path, fresh: Any, tmp_path: Path
) -> None:
    """Claude Code as a process of the program, with a CLI that plays its part."""
    cli = Cli(tmp_path)
    cli.options(WHOLE)
    programs.start(folder / "coder.py", CODER_CLI=str(cli.path), CODER_FOLDER=str(tmp_path))
    session = ann.session(fresh("s"))
    await session.create()
    run = await session.result("coder", (await session.send("Look", to="coder")).run, timeout=60)

    assert (run["error"], texts(run)[-1], cli.prompts) == (None, "Sunny.", ["Look"])


async def test_an_approval_survives_the_crash_of_its_process(
    ann: Any, programs: Any, folder: Path, fresh: Any, model_server: Any, eventually: Any
) -> None:
    """The cashier dies while a payment waits for approval; another one meets the same ask, and its answer."""
    model_server.answers = [
        openai_sse(*streamed(call("transfer_to_payer", "{}", f"h{n}"))) if n % 2 == 0 else openai_sse(*streamed(call("pay", '{"order": "7", "euros": 40}', f"p{n}")))
        for n in range(4)
    ] + [openai_sse(*streamed(say("Paid.")))]  # fmt: skip
    environment = {"OPENAI_BASE_URL": model_server.url, "OPENAI_API_KEY": "sk-x"}
    first = programs.start(folder / "cashier.py", **environment)
    session = ann.session(fresh("s"))
    await session.create()
    sent = await session.send("Refund 7", to="cashier")

    async def open_asks() -> Any:
        return [ask for ask in (await session.view())["asks"] if ask["status"] == "open"]

    (ask,) = await eventually(open_asks, 60)
    first.kill()
    await session.asks.answer(ask["ask"], "approve")
    programs.start(folder / "cashier.py", **environment)
    run = await session.result("cashier", sent.run, timeout=90)

    assert (run["status"], run["error"], run["attempt"]) == ("done", None, 2)
    assert len((await session.view())["asks"]) == 1
    assert [text.strip() for text in texts(run)] == ["Paid."]
    assert "40.00 euros paid back" in json.dumps([part["output"] for part in parts(run, "tool")])
