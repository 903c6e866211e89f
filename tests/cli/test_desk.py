"""The desk: a person who answers in a terminal, as a real process that reads a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Broker
from orchestrator_free.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_free import Session

#: an agent that tries, calls a tool, and hands over what it cannot do; what it is told afterwards it repeats
HELPER = """
if "refund" in run.input.text:
    async with run.tool("track", {"order": 7}) as call:
        call.output = {"status": "lost"}
    await run.text("Your parcel is lost. I ask a colleague.")
    await run.hand_off("desk", "refund over the limit")
elif "slow" in run.input.text:
    for number in range(2000):
        await run.text(f"w{number} ")
        await asyncio.sleep(0.01)
else:
    notes = [entry["text"] for entry in (await run.session.view())["inputs"] if entry["note"]]
    await run.text(f"{run.input.text}; a colleague said: {notes}")
"""


class DeskProcess:
    """`orchestrator-free desk --as NAME` with a pipe for a keyboard."""

    def __init__(self, name: str, script: Path, folder: Path, url: str) -> None:
        self.name = name
        self.path = folder / f"desk-{name}-{len(list(folder.iterdir()))}.txt"
        environment = {**os.environ, "ORCHESTRATOR_FREE_URL": url, "COLUMNS": "200"}
        with self.path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(script), "desk", "--as", name],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.path.read_text(errors="replace")

    def type(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]


@pytest.fixture
def sit(command: Any, tmp_path: Path) -> Iterator[Callable[[str], DeskProcess]]:
    """Start a desk: `sit("ann")`; none outlives the test."""
    started: list[DeskProcess] = []

    def start(name: str) -> DeskProcess:
        started.append(DeskProcess(name, command.script, tmp_path, command.url))
        return started[-1]

    yield start
    for desk in started:
        desk.kill()


@pytest.fixture
async def session(ann: Broker, fresh: Any, helper: str) -> Session:
    """A session that a customer has begun."""
    session = Broker(ann.log, "cust").session(fresh("s"))
    await session.create(title="Parcel 7", agents=[helper])
    return session


@pytest.fixture
def helper(programs: Any, fresh: Any) -> str:
    name = str(fresh("helper"))
    programs.agent(name, HELPER)
    return name


def run_of(view: dict[str, Any], agent: str, run: str) -> dict[str, Any]:
    found = [one for group in view["agents"] if group["agent"] == agent for one in group["runs"] if one["run"] == run]
    return found[0] if found else {}


async def handed_over(session: Session, helper: str) -> None:
    """The customer asks for something that the agent hands over."""
    sent = await session.send("I want a refund for my parcel", to="all")
    await session.result(helper, sent.run, timeout=40)


async def test_a_hand_off_to_a_person_and_back_needs_no_recap(
    session: Session, helper: str, sit: Any, fresh: Any, eventually: Any
) -> None:
    """The desk is shown what was asked, tried and called; the agent sees afterwards what the person said."""
    ann = sit(fresh("ann"))
    await eventually(lambda: "is at the desk" in ann.output, 40)
    await handed_over(session, helper)
    await eventually(lambda: f"{session.id}: {helper} asks desk" in ann.output, 40)
    ann.type("/accept")
    await eventually(lambda: "── so far ──" in ann.output and f"{ann.name} accept" in ann.output, 40)
    shown = ann.output
    asked = await session.send("Are you there?", to="all")
    await eventually(lambda: "Are you there?" in ann.output, 40)
    ann.type("Yes. I refund you 90 euros.")
    answer = await session.result(ann.name, asked.run, timeout=40)
    ann.type("It takes three days.")

    async def notes() -> Any:
        return [entry for entry in (await session.view())["inputs"] if entry["note"]]

    noted = await eventually(notes, 40)
    ann.type("/return refunded")
    await eventually(lambda: "has the floor; you go on watching" in ann.output, 40)
    thanks = await session.send("Thank you!", to="all")
    run = await session.result(helper, thanks.run, timeout=40)
    view = await session.view()
    await eventually(lambda: "Thank you!; a colleague said" in ann.output, 40)
    ann.type("/quit")

    assert "# Parcel 7" in shown
    assert "cust → all: I want a refund for my parcel" in shown
    assert "Your parcel is lost. I ask a colleague." in shown
    assert 'called track({"order":7}): done, {"status":"lost"}' in shown
    assert "refund over the limit" in shown
    assert (answer["status"], answer["parts"][0]["text"]) == ("done", "Yes. I refund you 90 euros.")
    assert [(entry["from"], entry["to"], entry["text"]) for entry in noted] == [
        (ann.name, "cust", "It takes three days.")
    ]
    assert run_of(view, helper, asked.run) == {}
    assert run["parts"][0]["text"] == "Thank you!; a colleague said: ['It takes three days.']"
    assert [step["step"] for step in view["floor"]["history"]] == ["request", "accept", "return"]
    assert ann.process.wait(20) == 0


async def test_of_two_desks_that_accept_at_once_one_has_the_floor(
    session: Session, helper: str, sit: Any, fresh: Any, eventually: Any
) -> None:
    """The other is told who was faster; of an answered input there is one answer."""
    desks = [sit(fresh("ann")), sit(fresh("bob"))]
    await eventually(lambda: all("is at the desk" in desk.output for desk in desks), 40)
    await handed_over(session, helper)
    await eventually(lambda: all("asks desk to take the floor" in desk.output for desk in desks), 40)
    for desk in desks:
        desk.type(f"/accept {session.id}")
    state = await eventually(lambda: _held(session), 40)
    winner, loser = sorted(desks, key=lambda desk: desk.name != state.holder)
    await eventually(lambda: f"{winner.name} was faster" in loser.output, 40)
    asked = await session.send("Who are you?", to="all")
    await eventually(lambda: "Who are you?" in winner.output, 40)
    for desk in desks:
        desk.type(f"I am {desk.name}.")
    answer = await session.result(winner.name, asked.run, timeout=40)
    await eventually(lambda: "error: you are in no session" in loser.output, 40)
    view = await session.view()

    assert answer["parts"][0]["text"] == f"I am {winner.name}."
    assert run_of(view, loser.name, asked.run) == {}
    assert [entry["text"] for entry in view["inputs"] if entry["note"]] == []


async def _held(session: Session) -> Any:
    state = await session.floor.state()
    return state if state.holder else None


async def test_a_supervisor_watches_whispers_and_takes_over(
    session: Session, helper: str, sit: Any, fresh: Any, eventually: Any
) -> None:
    """Watching is silent; a line typed by somebody who only watches goes nowhere; taking over ends the answer."""
    ann = sit(fresh("ann"))
    await eventually(lambda: "is at the desk" in ann.output, 40)
    sent = await session.send("slow please", to="all")
    ann.type(f"/watch {session.id}")
    await eventually(lambda: f"{helper} │ w" in ann.output, 40)
    watched = await session.view()
    ann.type("this must not reach the customer", f"/whisper {helper} what is the limit?")
    await eventually(lambda: f"{helper} [whisper] │ what is the limit?" in ann.output, 40)
    ann.type("/take")
    run = await session.result(helper, sent.run, timeout=40)
    await eventually(lambda: f"{helper} │ ■ cancelled: {ann.name} has the floor" in ann.output, 40)
    view = await session.view()
    ann.type("/release")
    await eventually(lambda: "nobody has the floor" in ann.output, 40)

    assert watched["floor"] is None
    assert {entry["from"] for entry in watched["inputs"]} == {"cust"}
    assert "error: you only watch here" in ann.output
    assert "this must not reach the customer" not in str(view)
    assert run["status"] == "cancelled"
    assert view["floor"]["holder"] == ann.name


async def test_a_desk_that_is_killed_goes_on_when_it_is_back(
    ann: Broker, session: Session, helper: str, sit: Any, fresh: Any, eventually: Any
) -> None:
    """SIGKILL with an input waiting: everybody sees that it is gone; the next desk of that name is in the session again and answers it, once."""
    name = fresh("ann")
    first = sit(name)
    await eventually(lambda: "is at the desk" in first.output, 40)
    await handed_over(session, helper)
    await eventually(lambda: "asks desk" in first.output, 40)
    first.type("/accept")
    await eventually(lambda: "── so far ──" in first.output, 40)
    asked = await session.send("Still there?", to="all")

    async def waits() -> Any:
        return run_of(await session.view(), name, asked.run).get("waiting")

    async def away() -> Any:
        view = await session.view()
        seen = [agent["status"] for agent in view["agents"] if agent["agent"] == name]
        return seen == ["offline"] and run_of(view, name, asked.run)

    waiting = await eventually(waits, 40)
    async with Monitor(ann):
        first.kill()
        lost = await eventually(away, 40)
    second = sit(name)
    await eventually(lambda: "── so far ──" in second.output and "Still there?" in second.output, 40)

    async def again() -> Any:
        found = run_of(await session.view(), name, asked.run)
        return found.get("attempt") == 2 and found["waiting"]

    await eventually(again, 60)
    second.type("I am back.")
    answer = await session.result(name, asked.run, timeout=40)

    assert waiting["reason"] == "person"
    assert lost["status"] == "lost"
    assert (answer["status"], answer["attempt"]) == ("done", 2)
    assert [part["text"] for part in answer["parts"]] == ["I am back."]


async def test_a_desk_declines_approves_and_says_what_it_does_not_understand(
    session: Session, helper: str, sit: Any, fresh: Any, eventually: Any
) -> None:
    """Requests by name can be declined; asks are answered by id; mistakes are one line each."""
    ann = sit(fresh("ann"))
    await eventually(lambda: "is at the desk" in ann.output, 40)
    agent = Broker(session.log, helper).session(session.id)
    asked = await agent.floor.request(ann.name, reason="please")
    await eventually(lambda: f"asks {ann.name} to take the floor: please" in ann.output, 40)
    ann.type("/decline at lunch")
    declined = await agent.floor.answer(asked, timeout=40)
    ask = await agent.asks.ask("Refund 90?", about="approval", options=["approve", "deny"])
    ann.type(f"/watch {session.id}")
    await eventually(lambda: f"/approve {ask.ask}" in ann.output, 40)
    ann.type(f"/approve {ask.ask}")
    decision = await ask.decision(timeout=40)
    ann.type(
        "/dance", "/accept", "/whisper", f"/whisper {helper}", "/whisper a.b hello", "/cancel", "/cancel a.b",
        "/approve nothing", "/watch nowhere", "/take nowhere", "/return", "/release", "", "   ", "/help", "/requests",
        "/brief",
    )  # fmt: skip
    await eventually(lambda: "Where" in ann.output or ann.output.count("Session `") >= 2, 40)
    ann.type("/quit")

    assert (declined.step, declined.reason, declined.holder) == ("decline", "at lunch", None)
    assert (decision.status, decision.value, decision.by) == ("decided", "approve", [ann.name])
    assert ann.process.wait(20) == 0
    for words in (
        "/dance is no command", "nobody asks you", "/whisper AGENT TEXT", "'a.b'", "/cancel AGENT", "nothing",
        "nowhere", "nobody has the floor", "take over; ends what others answer",
    ):  # fmt: skip
        assert words in ann.output, words
    assert "Traceback" not in ann.output


async def test_a_desk_ends_with_its_input_and_with_signals(sit: Any, fresh: Any, eventually: Any) -> None:
    """End of input, SIGTERM and SIGINT are good ends; a wrong name is a usage error."""
    for end in (None, signal.SIGTERM, signal.SIGINT):
        desk = sit(fresh("ann"))
        await eventually(lambda: "is at the desk" in desk.output, 40)
        if end is None:
            desk.process.stdin.close()
        else:
            desk.process.send_signal(end)
        assert desk.process.wait(20) == 0, desk.output
        assert "Traceback" not in desk.output
    wrong = sit("a b")
    assert wrong.process.wait(20) == 2
    assert "--as 'a b'" in wrong.output


async def test_floor_and_brief_as_commands(command: Any, session: Session, helper: str) -> None:
    """Steps, who has the floor, and what somebody who takes over has to know; mistakes are exit codes."""
    await handed_over(session, helper)
    asked = command("floor", session.id, "--json")
    accepted = command("floor", session.id, "accept", "--from", "ann")
    again = command("floor", session.id, "accept", "--from", "bob")
    shown = command("floor", session.id)
    brief = command("brief", session.id)
    machine = command("brief", session.id, "--json")
    whisper = command("send", session.id, "limit?", "--to", helper, "--from", "ann", "--whisper", "--wait", "--json")
    note = command("send", session.id, "Hello from Ann", "--to", "cust", "--from", "ann", "--note")

    assert [step["step"] for step in asked.json] == ["request"]
    assert (accepted.code, "ann has the floor" in accepted.err) == (0, True)
    assert (again.code, "nobody is asked to take the floor; ann was faster" in again.err) == (1, True)
    assert "ann: accept; ann has the floor" in shown.out
    assert "cust → all: I want a refund for my parcel" in brief.out
    assert machine.json[0]["floor"]["holder"] == "ann"
    assert whisper.json[1]["whisper"] is True
    assert note.code == 0
    assert (await session.view())["inputs"][-1]["note"] is True
    for wrong, code in ((("floor", "nope"), 3), (("floor", session.id, "dance"), 2)):
        assert command(*wrong).code == code, wrong


async def test_on_a_terminal_what_comes_does_not_disturb_what_is_typed(
    session: Session, helper: str, command: Any, fresh: Any, eventually: Any
) -> None:
    """A real terminal: keys are edited, lines come above them, and the terminal is as before at the end."""
    name = fresh("ann")
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "ORCHESTRATOR_FREE_URL": command.url, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, str(command.script), "desk", "--as", name],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.set_blocking(master, False)
    seen = ""

    def shows(words: str) -> bool:
        nonlocal seen
        with contextlib.suppress(BlockingIOError):
            seen += os.read(master, 65536).decode(errors="replace")
        return words in seen

    try:
        await eventually(lambda: shows("is at the desk"), 40)
        os.write(master, f"/take {session.id}\r".encode())
        await eventually(lambda: shows("so far"), 40)
        os.write(master, "Hello therx\x7fe, wörld\x1b[A".encode())
        await eventually(lambda: shows("Hello there, wörld"), 40)
        seen = ""
        await session.send("a line from the customer", to="all")
        await eventually(lambda: shows("a line from the customer") and shows("Hello there, wörld"), 40)
        os.write(master, b"\r")
        answered = await eventually(lambda: _answer(session, name), 40)
        os.write(master, b"not sent\x15/quit\r")
        code = await eventually(lambda: shows("never") or process.poll() is not None, 20) and process.returncode
        after = termios.tcgetattr(slave)
    finally:
        process.kill()
        process.wait(10)
        os.close(master)
        os.close(slave)

    assert answered == "Hello there, wörld"
    assert code == 0
    assert after == before


async def _answer(session: Session, name: str) -> Any:
    runs = [run for agent in (await session.view())["agents"] if agent["agent"] == name for run in agent["runs"]]
    return runs and runs[0]["finished"] and runs[0]["parts"][0]["text"]
