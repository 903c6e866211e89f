"""DBOS, embedded with SQLite: a workflow writes into a run and is killed in the middle."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from tests.adapters.conftest import parts, texts

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, os, pathlib, signal, sys
from dbos import DBOS
from orchestrator_free import Agent, Run
from orchestrator_free.adapters import dbos as adapter

folder = pathlib.Path(sys.argv[1])
agent = Agent("worker", ack_wait_seconds=4)
DBOS(config={"name": "test", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "run_admin_server": False})

def done(name):
    with (folder / "done.txt").open("a") as file:
        file.write(name + "\\n")

@adapter.step
async def one(shown, text):
    done("one")
    await shown.reasoning("Hm. ")
    async with shown.tool("look", {"for": text}) as call:
        call.output = text.upper()
    await shown.text("One ")
    await shown.text("done. ")
    return call.output

@adapter.step
async def two(shown, text):
    done("two")
    await shown.text("Two. ")
    await shown.source("https://a.org", title="A")
    return text + "!"

@adapter.step
async def three(shown, text):
    done("three")
    await shown.text("Three begins, ")
    if not (folder / "killed").exists():
        (folder / "killed").touch()
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    await shown.text("three ends.")
    await shown.usage(steps=3)
    return text

@adapter.step
async def wait(shown):
    await shown.text("Waiting.")
    try:
        await asyncio.Event().wait()
    finally:
        done("stopped")

@adapter.step
async def fail(shown):
    await shown.text("So far.")
    raise KeyError("the secret")

@DBOS.workflow()
async def work(text):
    if text == "wait":
        return await wait()
    if text == "fail":
        return await fail()
    return await three(await two(await one(text)))

@agent
async def handle(run: Run) -> None:
    DBOS.launch()
    if run.input.text.startswith("status "):
        status = await DBOS.get_workflow_status_async(run.input.text.removeprefix("status "))
        return await run.text(status.status)
    await run.data("result", await adapter.publish(run, work, run.input.text))

agent.main()
"""


def program(programs: Any, folder: Path) -> Any:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return programs.start(path, str(folder))


async def test_a_workflow_killed_in_the_middle_goes_on_after_its_last_step(
    ann: Any, programs: Any, tmp_path: Path, fresh: Any, eventually: Any
) -> None:
    """kill -9 inside the third step: the first two are not done again, the run has each part once, also theirs."""
    first = program(programs, tmp_path)
    session = ann.session(fresh("s"))
    await session.create()
    sent = await session.send("x", to="worker")
    await eventually(lambda: not first.alive, 60)
    program(programs, tmp_path)
    run = await session.result("worker", sent.run, timeout=90)

    assert (run["status"], run["error"], run["attempt"]) == ("done", None, 2)
    assert (tmp_path / "done.txt").read_text().split() == ["one", "two", "three", "three"]
    assert [part["type"] for part in run["parts"]] == ["reasoning", "tool", "text", "text", "source", "text", "data"]
    assert texts(run) == ["One done. ", "Two. ", "Three begins, three ends."]
    assert parts(run, "tool")[0]["output"] == "X"
    assert (parts(run, "data")[0]["data"], run["usage"]) == ("X!", {"steps": 3})
    (lost,) = run["attempts"]
    assert lost["parts"][-1]["text"] == "Three begins, "


async def test_a_cancel_cancels_the_workflow_and_a_failure_ends_the_run(
    ann: Any, programs: Any, tmp_path: Path, fresh: Any, eventually: Any
) -> None:
    """Both keep what the steps had written; a step is stopped whatever it waits for, and DBOS knows it."""
    program(programs, tmp_path)
    session = ann.session(fresh("s"))
    await session.create()
    sent = await session.send("wait", to="worker")

    async def begun() -> bool:
        agents = (await session.view())["agents"]
        return bool(agents and agents[0]["runs"] and agents[0]["runs"][0]["parts"])

    await eventually(begun, 60)
    await session.control.cancel(sent.run)
    cancelled = await session.result("worker", sent.run, timeout=60)
    await eventually(lambda: "stopped" in (tmp_path / "done.txt").read_text(), 60)
    asked = f"status {session.id}.worker.{sent.run}"
    status = await session.result("worker", (await session.send(asked, to="worker")).run, timeout=60)
    failed = await session.result("worker", (await session.send("fail", to="worker")).run, timeout=60)

    assert (cancelled["status"], texts(cancelled)) == ("cancelled", ["Waiting."])
    assert texts(status) == ["CANCELLED"]
    assert (failed["status"], texts(failed)) == ("error", ["So far."])
    assert failed["error"] == "the workflow failed (KeyError)"


async def test_the_program_works(ann: Any, programs: Any, folder: Path, fresh: Any, tmp_path: Path) -> None:
    """`agents/surveyor.py` as a process."""
    programs.start(
        folder / "surveyor.py", SURVEYOR_DATABASE=f"sqlite:///{tmp_path}/s.sqlite", ORCHESTRATOR_FREE_PACE_MS="1"
    )
    session = ann.session(fresh("s"))
    await session.create()
    run = await session.result("surveyor", (await session.send("One. 2 and 3!", to="surveyor")).run, timeout=60)

    assert (run["error"], parts(run, "data")[0]["data"]) == (None, {"words": 4, "sentences": 2, "numbers": 2})
    assert len(parts(run, "tool")) == 3
