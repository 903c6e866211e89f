"""Runs survive their processes: take-over, fencing, poison, hand-back, and what the log says of each."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import nats
import pytest

from orchestrator_free import connect
from orchestrator_free.jetstream.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker, Session

SLOW = """
await run.text(f"attempt {run.attempt}: ")
for number in range(60):
    await run.text(f"{number} ")
    await asyncio.sleep(0.1)
"""
EXITS = """
await run.text(f"attempt {run.attempt}")
await run._writer.drained()
os._exit(1)
"""


@pytest.fixture
def name(fresh: Callable[[str], str]) -> str:
    return fresh("agent")


@pytest.fixture
async def session(ann: Broker, fresh: Callable[[str], str], name: str) -> Session:
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    return session


async def text_of(session: Session, name: str) -> str:
    """What the view shows of the agent's last run."""
    for agent in (await session.view())["agents"]:
        if agent["agent"] == name and agent["runs"]:
            return "".join(part.get("text", "") for part in agent["runs"][-1]["parts"])
    return ""


async def ends(ann: Broker, session: Session) -> list[Message]:
    """The messages in the log that end a run."""
    stored = await ann.log.read(session.shard, session.filter)
    return [message for message in stored if b'"run.finished"' in message.payload]


@pytest.mark.slow
async def test_a_replica_takes_over_from_a_killed_process(
    ann: Broker, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """Attempt 2 is the answer, attempt 1 stays readable beside it, and there is one end."""
    first, second = programs.agent(name, SLOW, replicas=2, ack_wait_seconds=3)
    sent = await session.send("go", to=name)
    await eventually(lambda: has(session, name, "attempt 1: 0 1 2"))
    pids = {program.pid: program for program in (first, second)}
    pids[await busy(ann, name)].kill()
    run = await session.result(name, sent.run, timeout=30)

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert run["parts"][0]["text"].startswith("attempt 2: 0 1 ") and run["parts"][0]["text"].endswith("59 ")
    assert run["attempts"][0]["parts"][0]["text"].startswith("attempt 1: 0 1 2")
    assert len(await ends(ann, session)) == 1


async def has(session: Session, name: str, text: str) -> bool:
    return text in await text_of(session, name)


async def busy(ann: Broker, name: str) -> int:
    """The process that does a run of the agent, as its presence says."""
    import orjson

    while True:
        for _, payload in await ann.log.present(f"agent.{name}"):
            about = orjson.loads(payload)
            if about["runs"]:
                return int(about["pid"])


@pytest.mark.slow
async def test_a_process_that_wakes_up_after_its_run_was_taken_over_is_refused_by_the_broker(
    ann: Broker, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """SIGSTOP, take-over, SIGCONT: not a word of the first attempt after the second began, one end."""
    first, second = programs.agent(name, SLOW, replicas=2, ack_wait_seconds=3)
    sent = await session.send("go", to=name)
    await eventually(lambda: has(session, name, "attempt 1: 0 1 2"))
    zombie = {first.pid: first, second.pid: second}[await busy(ann, name)]
    zombie.send(signal.SIGSTOP)
    await eventually(lambda: has(session, name, "attempt 2: 0 1 2"), 20)
    zombie.send(signal.SIGCONT)
    run = await session.result(name, sent.run, timeout=30)
    await eventually(lambda: "another attempt" in zombie.output or "taken over" in zombie.output)

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert run["parts"][0]["text"] == "attempt 2: " + "".join(f"{number} " for number in range(60))
    assert len(await ends(ann, session)) == 1


@pytest.mark.slow
async def test_an_input_that_kills_its_agent_every_time_fails_visibly_and_stays(
    session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """After the attempts are used up nobody is killed any more; the input and what was written can be read."""
    sent = await session.send("poison", to=name)
    for attempt in (1, 2):
        (program,) = programs.agent(name, EXITS, ack_wait_seconds=2, max_attempts=2)
        await eventually(lambda program=program: not program.alive, 20)
        assert await has(session, name, f"attempt {attempt}")
    programs.agent(name, EXITS, ack_wait_seconds=2, max_attempts=2)
    run = await session.result(name, sent.run, timeout=30)
    view = await session.view()

    assert (run["status"], run["error"]) == ("failed", "gave up after 2 attempts without a result")
    assert [one["parts"][0]["text"] for one in run["attempts"]] == ["attempt 1", "attempt 2"]
    assert [entry["text"] for entry in view["inputs"]] == ["poison"]


@pytest.mark.slow
async def test_a_process_that_is_asked_to_stop_hands_its_run_to_another_at_once(
    ann: Broker, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """SIGTERM: long before the time after which a silent process loses its run."""
    (leaving,) = programs.agent(name, SLOW, ack_wait_seconds=60, grace_seconds=0)
    sent = await session.send("go", to=name)
    await eventually(lambda: has(session, name, "attempt 1: 0 1"))
    programs.agent(name, SLOW, ack_wait_seconds=60)
    leaving.send(signal.SIGTERM)
    run = await session.result(name, sent.run, timeout=25)

    assert (run["status"], run["attempt"]) == ("done", 2)
    assert leaving.process.wait(10) == 0


async def test_what_goes_wrong_in_a_handler_ends_the_run_with_a_message_that_is_safe_to_show(
    session: Session, name: str, programs: Any
) -> None:
    """An exception's own text may hold secrets, that of a RunError is meant to be seen; both keep what was written."""
    programs.agent(
        name, 'await run.text("so far")\nraise RunError("no more") if run.input.text == "mine" else KeyError("hunter2")'
    )
    theirs = await session.send("theirs", to=name)
    mine = await session.send("mine", to=name)
    runs = [await session.result(name, sent.run, timeout=20) for sent in (theirs, mine)]

    assert [run["status"] for run in runs] == ["error", "error"]
    assert runs[0]["error"] == "KeyError: the agent failed; its log says more"
    assert runs[1]["error"] == "no more"
    assert [run["parts"][0]["text"] for run in runs] == ["so far", "so far"]


async def test_an_input_that_is_no_json_fails_with_the_reason(
    broker_url: str, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """Published by something else than us; the agent lives on."""
    programs.agent(name, 'await run.text("fine")')
    connection = await nats.connect(broker_url)
    await connection.jetstream().publish(f"session.{session.shard}.{session.id}.bob.in.{name}.i1", b"not json")
    await connection.close()
    await eventually(lambda: failed(session, name))
    sent = await session.send("go", to=name)

    assert (await session.result(name, sent.run, timeout=20))["status"] == "done"


async def failed(session: Session, name: str) -> bool:
    runs = [run for agent in (await session.view())["agents"] if agent["agent"] == name for run in agent["runs"]]
    return bool(runs) and runs[0]["status"] == "failed" and "cannot be read: not JSON" in runs[0]["error"]


async def test_a_run_larger_than_a_message_is_whole_for_every_reader(
    ann: Broker, session: Session, name: str, programs: Any
) -> None:
    """Its parts are in the object store, the log points there."""
    programs.agent(name, 'await run.text("x" * 3_000_000)')
    sent = await session.send("go", to=name)
    run = await session.result(name, sent.run, timeout=30)
    (end,) = await ends(ann, session)

    assert len(run["parts"][0]["text"]) == 3_000_000
    assert len(end.payload) < 1000
    assert (await session.view())["agents"][0]["runs"][0]["parts"] == run["parts"]


async def test_a_broker_that_is_killed_in_the_middle_of_a_run_loses_and_doubles_nothing(
    broker: Any, session: Session, name: str, programs: Any, eventually: Any
) -> None:
    """The run goes on as the same attempt, each word once."""
    programs.agent(name, SLOW)
    sent = await session.send("go", to=name)
    await eventually(lambda: has(session, name, "attempt 1: 0 1 2"))
    await broker.restart(kill=True)
    async with connect(broker.url, member="judge") as judge:
        run = await judge.session(session.id).result(name, sent.run, timeout=40)

    assert (run["status"], run["attempt"]) == ("done", 1)
    assert run["parts"][0]["text"] == "attempt 1: " + "".join(f"{number} " for number in range(60))
