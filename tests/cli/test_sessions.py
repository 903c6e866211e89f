"""The commands that use a session: send, tail, show, sessions, delete, export, import, lag, and the controls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free.broker import Broker

Fresh = "Callable[[str], str]"
GREET = """
for word in f"Hello, {run.input.text}!".split():
    await run.text(word + " ")
"""


@pytest.fixture
def greeter(programs: Any, fresh: Fresh) -> str:
    """An agent that greets; its name."""
    name = fresh("greeter")
    programs.agent(name, GREET)
    return name


async def test_send_begins_a_session_and_waits_for_the_answer(command: Any, greeter: str, fresh: Fresh) -> None:
    """The answer is on standard output, all about the sending on standard error; 0."""
    name = fresh("s")
    done = command("send", name, "Ada", "--to", greeter, "--wait")
    assert done.code == 0
    assert "Hello, Ada!" in done.out
    assert "✔ done" in done.out
    assert "sent as input" in done.err


async def test_a_second_answer_comes_without_the_first(command: Any, greeter: str, fresh: Fresh) -> None:
    """Only the runs of this input are printed; `--to all` waits for every agent that has ever been there."""
    name = fresh("s")
    command("send", name, "Ada", "--to", greeter, "--wait")
    done = command("send", name, "Bob", "--to", f"{greeter},{greeter}", "--wait")
    assert "Hello, Bob!" in done.out
    assert "Ada" not in done.out


async def test_send_for_machines_prints_what_was_sent_and_each_run(command: Any, greeter: str, fresh: Fresh) -> None:
    """One object per line; standard input is the text, data is JSON beside it, the sender may be named."""
    options = ["--to", greeter, "--wait", "--json", "--from", "eve", "--data", '{"n": 1}']
    done = command("send", fresh("s"), "-", *options, stdin="Ada")
    sent, run = done.json
    assert done.code == 0
    assert run["run"] == sent["run"]
    assert run["input"] == f"eve/{sent['input']}"
    assert run["parts"][0]["text"].strip() == "Hello, Ada!"


async def test_a_run_that_fails_is_an_exit_code(command: Any, programs: Any, fresh: Fresh) -> None:
    """1, and the error is shown."""
    name = fresh("bad")
    programs.agent(name, 'raise RunError("no idea")')
    done = command("send", fresh("s"), "x", "--to", name, "--wait")
    assert done.code == 1
    assert "no idea" in done.out


async def test_waiting_for_nobody_is_said_at_once(command: Any, ann: Broker, fresh: Fresh) -> None:
    """With --to all, no agent in the session and none in the installation there would never be an answer."""
    if not [name for name in await ann.log.consumer_names(0) if name.startswith("agent-")]:
        done = command("send", fresh("s"), "x", "--wait")
        assert done.code == 2
        assert "nobody will answer" in done.err


async def test_waiting_for_an_agent_that_is_away_says_so(
    command: Any, ann: Broker, eventually: Any, fresh: Fresh
) -> None:
    """A name that nobody serves: what the session says of it is said to who waits, on standard error."""
    session, nobody = ann.session(fresh("s")), fresh("nobody")
    waiting = command.start("send", session.id, "x", "--to", nobody, "--wait", "--json")
    await eventually(lambda: "position" in waiting.output)
    where = f"session.{session.shard}.{session.id}.{nobody}.presence"
    said = orjson.dumps({"type": "agent.offline", "reason": "no agent of this name has ever connected"})
    await ann.log.wire.publish(where, said, message_id=fresh("m"))

    words = f"{nobody} is offline: no agent of this name has ever connected; the input waits in the log"
    await eventually(lambda: words in waiting.output)


async def test_the_same_id_is_sent_once(command: Any, ann: Broker, fresh: Fresh) -> None:
    """Twice the same answer; other words under the same id are refused, with 1."""
    name = fresh("s")
    send = ["send", name, "go", "--to", "ada", "--id", "once", "--json"]
    first, again = command(*send), command(*send)
    other = command("send", name, "stop", "--to", "ada", "--id", "once")
    assert (first.code, again.code, other.code) == (0, 0, 1)
    assert first.json == again.json
    assert "use a new id" in other.err
    assert len((await ann.session(name).view())["inputs"]) == 1


@pytest.fixture
async def story(ann: Broker, fresh: Fresh) -> str:
    """A session with a finished run, whose text tries to take over the terminal."""
    name = fresh("story")
    session = ann.session(name)
    await session.create(title="Title [red]x[/] \x1b[2J", agents=["ada"])
    await session.send("go \x1b]0;owned\x07 [/]", to="ada", id="i1")
    run = (await session.send("go \x1b]0;owned\x07 [/]", to="ada", id="i1")).run
    where = f"session.0.{name}.ada.run.{run}"
    for body in (
        {"type": "run.started", "attempt": 1, "input": "ann/i1"},
        {"type": "text.delta", "part": "1", "text": "one\ntwo [bold]three[/bold] \x1b[31m \x9b31m \u2028 "},
        {"type": "tool.input", "call": "c", "tool": "search[/]", "input": {}},
        {"type": "tool.error", "call": "c", "error": "[/] \x1b[0m"},
        {"type": "source", "id": "s", "title": "[/] source"},
        {"type": "other.kind", "x": 1},
        {"type": "run.finished", "status": "done", "input": "ann/i1"},
    ):
        await ann.log.wire.publish(where, orjson.dumps(body), message_id=f"{name}{body['type']}")
    return name


def test_what_agents_write_cannot_command_the_terminal(command: Any, story: str) -> None:
    """No escape sequence passes through show, tail and sessions; markup is shown as it was written."""
    for arguments in (["show", story], ["tail", story, "--until-idle"], ["sessions"]):
        done = command(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
        assert "\x9b" not in done.out
        assert "\x07" not in done.out
    shown = command("show", story).out
    assert "[bold]three[/bold]" in shown
    assert "search[/]" in shown
    assert "[red]x[/]" in command("sessions").out


async def test_show_for_machines_is_the_librarys_view(command: Any, ann: Broker, story: str) -> None:
    """The same JSON."""
    done = command("show", story, "--json")
    assert done.json == [await ann.session(story).view()]


async def test_tail_prints_every_event_as_a_line(command: Any, ann: Broker, story: str) -> None:
    """From the beginning, from a position, chosen by agent and kind; JSON has the whole of it."""
    everything = command("tail", story, "--until-idle", "--json").json
    epoch = everything[0]["position"].partition("-")[0]
    stored = await ann.log.read(0, f"session.0.{story}.>")
    assert [one["position"] for one in everything] == [f"{epoch}-{one.sequence}" for one in stored]
    assert [one["event"] for one in everything] == [orjson.loads(one.payload) for one in stored]
    place = everything[3]["position"]
    assert command("tail", story, "--until-idle", "--json", "--after", place).json == everything[4:]
    inputs = command("tail", story, "--until-idle", "--json", "--kinds", "in,meta", "--agents", "ann").json
    assert inputs == [one for one in everything if one["kind"] in ("in", "meta")]
    lines = command("tail", story, "--until-idle").out.rstrip("\n").split("\n")
    assert len(lines) == len(everything)
    assert "text.delta" in lines[3]
    assert "one\\ntwo" in lines[3]


def test_tail_at_the_end_of_an_idle_session_ends_at_once(command: Any, story: str) -> None:
    """There is nothing to come."""
    last = command("tail", story, "--until-idle", "--json").json[-1]["position"]
    done = command("tail", story, "--until-idle", "--after", last, seconds=30)
    assert (done.code, done.out) == (0, "")


async def test_tail_follows_until_it_is_stopped(command: Any, ann: Broker, eventually: Any, fresh: Fresh) -> None:
    """What comes is printed at once; Ctrl+C is its good end."""
    name = fresh("s")
    await ann.session(name).create()
    tail = command.start("tail", name, "--json")
    await eventually(lambda: "session.created" in tail.output)
    await ann.session(name).send("hello", to="ada")
    await eventually(lambda: "hello" in tail.output)
    tail.send(signal.SIGINT)
    await eventually(lambda: not tail.alive)
    assert tail.process.returncode == 0
    assert "Traceback" not in tail.output


def test_a_pipe_that_closes_early_is_no_traceback(command: Any, story: str) -> None:
    """`tail | head -1`, as everybody does."""
    shell = f"{sys.executable} {command.script} tail {story} --until-idle --json | head -n 1"
    found = subprocess.run(
        ["bash", "-c", shell], capture_output=True, timeout=30, cwd=command.folder,
        env={**os.environ, "ORCHESTRATOR_FREE_URL": command.url},
    )  # fmt: skip
    assert found.stdout.count(b"\n") == 1
    assert b"Traceback" not in found.stderr


async def test_sessions_go_page_by_page(command: Any, ann: Broker, fresh: Fresh) -> None:
    """The end of a page says how to go on."""
    prefix = fresh("list")
    for number in range(3):
        await ann.session(f"{prefix}-{number}").create(title=f"T{number}", agents=["ada", "bob"])
    page = command("sessions", "--after", prefix, "--limit", "2")
    assert f"--after {prefix}-1" in page.err
    assert "T0" in page.out
    assert "ada bob" in page.out
    found = command("sessions", "--after", f"{prefix}-1", "--limit", "1", "--json").json
    assert [(one["session"], one["agents"]) for one in found] == [(f"{prefix}-2", ["ada", "bob"])]


def test_a_deletion_asks_first(command: Any, story: str) -> None:
    """No is no; --yes does not ask; then it is unknown."""
    refused = command("delete", story, stdin="n\n")
    assert refused.code == 1
    assert command("show", story).code == 0
    assert command("delete", story, "--yes").code == 0
    assert command("show", story).code == 3


def test_a_session_goes_to_a_file_and_comes_back(command: Any, story: str, tmp_path: Path, fresh: Fresh) -> None:
    """The same events under another name; a pipe will do; an archive that is none is refused."""
    copy = fresh("copy")
    written = command("export", story, "--to", "story.jsonl")
    assert written.code == 0
    assert written.err.startswith(f"exported {story} to story.jsonl (")  # no trace of a progress bar in a file
    assert [path.name for path in tmp_path.glob("story*")] == ["story.jsonl"]
    done = command("import", "story.jsonl", "--as", copy, "--json")
    assert done.json[0]["session"] == copy
    before, after = [command("tail", name, "--until-idle", "--json").json for name in (story, copy)]
    assert [one["event"]["type"] for one in after] == [one["event"]["type"] for one in before]
    piped = command("import", "-", "--as", fresh("pipe"), stdin=command("export", story).out)
    assert piped.code == 0
    (tmp_path / "none.jsonl").write_text("not an archive\n")
    assert command("import", "none.jsonl").code == 2
    assert command("import", "missing[/].jsonl").code == 2
    assert command("export", story, "--to", "no/such/folder/x").code == 2


def test_lag_is_a_table_or_json(command: Any, greeter: str, fresh: Fresh) -> None:
    """One line per agent, with its replicas."""
    command("send", fresh("s"), "Ada", "--to", greeter, "--wait")
    done = command("lag")
    rows = {row["consumer"]: row for row in command("lag", "--json", seconds=20).json}
    assert {"consumer", "waiting", "replicas"} <= set(done.out.split())
    assert f"agent-{greeter}" in done.out
    assert rows[f"agent-{greeter}"] | {"seconds_behind": 0} == {
        "consumer": f"agent-{greeter}", "waiting": 0, "in_work": 0, "redelivered": 0, "seconds_behind": 0, "replicas": 1,
        "paused": False,
    }  # fmt: skip


async def test_a_run_is_cancelled_from_the_command_line(
    command: Any, programs: Any, ann: Broker, eventually: Any, fresh: Fresh
) -> None:
    """The outcome is said; the view shows it; `send --wait` of it fails."""
    agent, name = fresh("slow"), fresh("s")
    programs.agent(agent, 'await run.text("begun")\nawait asyncio.sleep(60)')
    waiting = command.start("send", name, "go", "--to", agent, "--wait")
    await eventually(lambda: _begun(ann, name))
    done = command("cancel", name, "--to", agent, "--reason", "enough", "--json")
    [answer] = done.json
    assert done.code == 0
    assert answer["outcome"]["state"] == "applied"
    await eventually(lambda: not waiting.alive)
    assert waiting.process.returncode == 1
    assert "cancelled" in waiting.output


async def _begun(ann: Broker, name: str) -> bool:
    if not await ann.session(name).exists():
        return False
    view = await ann.session(name).view()
    return any(run["parts"] for agent in view["agents"] for run in agent["runs"])
