"""The commands that run something: up, launch, demo; exit codes, help, and that nothing is left running."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
import websockets
from typer.main import get_command
from websockets.exceptions import InvalidStatus

from orchestrator_free.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_free.broker import Broker

ALL = (
    "up", "callout", "demo", "launch", "send", "tail", "sessions", "show", "delete", "export", "import", "lag",
    "cancel", "steer", "redirect", "pause", "resume", "ask", "asks", "answer", "approve", "deny", "withdraw",
    "state", "tools", "presence", "away", "back", "floor", "desk", "brief", "branch", "edit", "regenerate", "fork", "notify",
    "broker", "token", "synadia",
    "doctor", "deadletters", "pause-agent", "resume-agent", "drain", "backup", "restore", "audit", "retain", "erase", "inspect", "insights",
)  # fmt: skip
NEED_A_BROKER = (
    ("send", "s", "x"), ("tail", "s"), ("sessions",), ("show", "s"), ("delete", "s", "-y"), ("export", "s"), ("lag",),
    ("cancel", "s"), ("up", "--broker", "nats://127.0.0.1:1"),
)  # fmt: skip
WRONG = (
    ["nothing"], ["send"], ["send", "s"], ["send", "a.b", "x"], ["send", "s", "x", "--to", "a b"],
    ["send", "s", "x", "--to", "ada,b.c"], ["send", "s", "x", "--data", "{"], ["send", "s", "x", "--id", "*"],
    ["send", "s", "x", "--from", "[/]"], ["tail", "s", "--kinds", "tokens"], ["tail", "s", "--after", "x"],
    ["tail", "s", "--agents", "*"], ["show", "[/]"], ["delete", "[red]", "-y"], ["export", "[/x]"], ["launch"],
    ["launch", "missing.py"], ["launch", "x.py", "--replicas", "0"], ["up", "--port", "99999"],
    ["up", "--durability", "maybe"], ["--log-level", "loud", "sessions"], ["sessions", "--limit", "0"],
    ["demo", "--file", "[/]"], ["cancel", "a.b"],
)  # fmt: skip


def urls(program: Any) -> dict[str, str]:
    """Return what `up` has printed: gateway and broker."""
    return dict(re.findall(r"^(gateway|broker) +(\S+)", program.output, re.MULTILINE))


# -- up ---------------------------------------------------------------------------------------------------------


async def test_up_runs_a_broker_and_a_gateway_until_it_is_told_to_stop(
    command: Any, eventually: Any, processes: Callable[[str], list[int]], tmp_path: Path
) -> None:
    """It says where they are and how durable; SIGTERM is its good end; the log is there the next time."""
    data = tmp_path / "data"
    for attempt in (201, 409):
        up = command.start("up", "--port", "0", "--broker-port", "0", "--data", str(data), "--durability", "fsync")
        found = await eventually(lambda: len(urls(up)) == 2 and urls(up))
        async with httpx.AsyncClient(base_url=found["gateway"]) as http:
            assert (await http.get("/readyz")).json()["durability"] == "fsync"
            assert (await http.post("/sessions", json={"session": "s"})).status_code == attempt
        assert command("send", "s", "hello", "--to", "ada", ORCHESTRATOR_FREE_URL=found["broker"]).code == 0
        assert f"export ORCHESTRATOR_FREE_URL={found['broker']}" in up.output
        up.send(signal.SIGTERM)
        up.send(signal.SIGTERM)  # as timeout(1) does: to the process, and to its group
        await eventually(lambda: not up.alive)
        assert up.process.returncode == 0
        assert "Traceback" not in up.output
        assert processes(str(data)) == []


async def test_up_ends_when_its_broker_does(command: Any, eventually: Any, processes: Any, tmp_path: Path) -> None:
    """Killed or crashed: 1, with the way to its log; a supervisor starts both again."""
    data = tmp_path / "data"
    up = command.start("up", "--port", "0", "--broker-port", "0", "--data", str(data))
    await eventually(lambda: len(urls(up)) == 2)
    [broker] = [pid for pid in processes(str(data)) if pid != up.pid]
    os.kill(broker, signal.SIGKILL)
    await eventually(lambda: not up.alive)
    assert up.process.returncode == 1
    assert "nats-server.log" in up.output


async def test_nothing_is_left_when_up_is_killed(command: Any, eventually: Any, processes: Any, tmp_path: Path) -> None:
    """SIGKILL, which nobody can catch: the broker ends, too."""
    data = tmp_path / "data"
    up = command.start("up", "--port", "0", "--broker-port", "0", "--data", str(data))
    await eventually(lambda: len(urls(up)) == 2)
    assert len(processes(str(data))) == 2
    up.kill()
    await eventually(lambda: processes(str(data)) == [])


def test_a_taken_port_is_said_in_a_line(command: Any, tmp_path: Path) -> None:
    """The gateway's and the broker's; 1; the option that helps is named, nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        gateway = command("up", "--port", port, "--broker", command.url)
        broker = command("up", "--port", "0", "--broker-port", port, "--data", str(tmp_path / "data"))
    for done in (gateway, broker):
        assert done.code == 1
        assert port in done.err
        assert "Traceback" not in done.err
    assert "pass another --port" in gateway.err
    assert "--broker-port" in broker.err


# -- launch -----------------------------------------------------------------------------------------------------


@pytest.fixture
def greeter(tmp_path: Path, fresh: Callable[[str], str]) -> Path:
    """The program of an agent that nobody else has."""
    path = tmp_path / f"{fresh('agent')}.py"
    path.write_text(
        "from orchestrator_free import Agent, Run\n"
        f"agent = Agent({path.stem!r})\n@agent\nasync def greet(run: Run) -> None:\n    await run.text('hello')\n"
        "agent.main()\n"
    )
    return path


async def replicas(ann: Broker, agent: str) -> list[int]:
    """Return the pids of an agent's processes, as presence has them."""
    return sorted(orjson.loads(payload)["pid"] for _, payload in await ann.log.present(f"agent.{agent}"))


async def test_launch_keeps_replicas_alive_and_stops_them_all(
    command: Any, ann: Broker, greeter: Path, eventually: Any, processes: Any
) -> None:
    """One that is killed comes again; SIGTERM ends the launcher with 0 and every process with it."""
    launcher = command.start("launch", str(greeter), "--replicas", "2")
    both = await eventually(lambda: _several(ann, greeter.stem, 2))
    os.kill(both[0], signal.SIGKILL)
    again = await eventually(lambda: _others(ann, greeter.stem, both))
    assert both[1] in again
    assert "starting it again" in launcher.output
    launcher.send(signal.SIGTERM)
    await eventually(lambda: not launcher.alive)
    assert launcher.process.returncode == 0
    assert processes(str(greeter)) == []


async def _several(ann: Broker, agent: str, count: int) -> list[int] | None:
    found = await replicas(ann, agent)
    return found if len(found) == count else None


async def _others(ann: Broker, agent: str, before: list[int]) -> list[int] | None:
    found = await replicas(ann, agent)
    living = [pid for pid in found if pid != before[0]]
    return living if len(living) == 2 else None


async def test_no_agent_outlives_a_launcher_that_is_killed(
    command: Any, ann: Broker, greeter: Path, eventually: Any, processes: Any
) -> None:
    """SIGKILL to the launcher: its agents end by themselves."""
    launcher = command.start("launch", str(greeter), "--replicas", "2")
    await eventually(lambda: _several(ann, greeter.stem, 2))
    launcher.kill()
    await eventually(lambda: processes(str(greeter)) == [])


async def test_a_program_that_ends_well_is_not_started_again(command: Any, tmp_path: Path) -> None:
    """And when all have, the launcher ends with 0."""
    (tmp_path / "once.py").write_text("open('ran', 'a').write('x')\n")
    assert command("launch", "once.py").code == 0
    assert (tmp_path / "ran").read_text() == "x"


# -- the demonstration ------------------------------------------------------------------------------------------


def test_the_demonstration_prints_three_agents_work_and_ends(command: Any, tmp_path: Path, processes: Any) -> None:
    """Grouped by agent, all done, 0; how to watch it goes to standard error; it works with a document of one's own."""
    (tmp_path / "my.md").write_text("# Mine\n\nThe report has 3 parts. It has four parts. See [it](http//x).\n")
    done = command("demo", "--once", "--file", "my.md", "--data", str(tmp_path / "data"))
    assert done.code == 0, done.err
    titles = re.findall(r"^╭─+ (\w+) ─+╮$", done.out, re.MULTILINE)
    assert sorted(titles) == ["checker", "critic", "outliner"]
    assert len(re.findall(r"^╰─+ ✔ done ─+╯$", done.out, re.MULTILINE)) == 3
    assert "my.md" in done.out
    assert "curl -N" in done.err
    assert processes(str(tmp_path)) == []


def test_the_demonstration_for_machines_is_the_view(command: Any, tmp_path: Path) -> None:
    """One line of JSON on standard output, nothing else; without --file it is a README."""
    [view] = command("demo", "--json", "--data", str(tmp_path / "data")).json
    runs = {agent["agent"]: agent["runs"][0] for agent in view["agents"]}
    assert runs.keys() == {"outliner", "checker", "critic"}
    assert {run["status"] for run in runs.values()} == {"done"}
    assert view["inputs"][0]["data"]["document"]["name"] == "README.md"


@pytest.mark.slow
def test_the_demonstration_needs_no_checkout(tmp_path: Path) -> None:
    """Installed from a wheel, in an empty folder, it brings its agents and a document."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from orchestrator_free.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", program, "demo", "--json"],
        cwd=tmp_path / "empty", env=environment, check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    view = orjson.loads(done.stdout)
    assert view["inputs"][0]["data"]["document"]["text"].startswith("# orchestrator-free")
    assert {agent["runs"][0]["status"] for agent in view["agents"]} == {"done"}


async def test_a_socket_that_is_refused_is_no_error_of_the_gateway(command: Any, eventually: Any) -> None:
    """Its client reads why; the log is for what somebody has to look at."""
    gateway = command.start("up", "--broker", command.url, "--port", "0")
    await eventually(lambda: "gateway" in urls(gateway))
    address = urls(gateway)["gateway"].replace("http", "ws")
    for target in ("no-such-session", "a.b"):
        with pytest.raises(InvalidStatus):
            await websockets.connect(f"{address}/sessions/{target}/events")
    gateway.process.send_signal(signal.SIGTERM)
    await eventually(lambda: not gateway.alive)

    assert "handshake" not in gateway.output


def test_the_version_is_told(command: Any) -> None:
    """As `pip show` says it."""
    assert command("--version").out == f"orchestrator-free {version('orchestrator-free')}\n"


async def test_lag_is_served_where_it_says(command: Any, eventually: Any) -> None:
    """With --port 0 the address that is printed is the one that was taken."""
    serving = command.start("lag", "--serve", "--port", "0")
    address = re.compile(r"^metrics (http://127\.0\.0\.1:[1-9]\d*/metrics)$", re.MULTILINE)

    [url] = await eventually(lambda: address.findall(serving.output))

    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).status_code == 200


def test_a_document_that_cannot_be_read_is_said(command: Any, tmp_path: Path) -> None:
    """Missing, no text, too large; 2."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_text("x" * 700_001)
    for name in ("missing", "binary", "large", "."):
        done = command("demo", "--once", "--file", name, "--data", str(tmp_path / "data"))
        assert done.code == 2
        assert "Traceback" not in done.err


@contextmanager
def terminal(columns: int, lines: int, *command: str, **options: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process in a terminal of its own, as a person starts it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def become_foreground() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, close_fds=True, preexec_fn=become_foreground, **options
    )
    os.close(slave)
    try:
        yield process, master
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        os.close(master)


def screen_until(master: int, words: str, seconds: float = 40.0) -> str:
    """Read a terminal until words come; return everything that came."""
    found, end = b"", time.monotonic() + seconds
    while words not in found.decode(errors="replace"):
        assert time.monotonic() < end, found[-2000:].decode(errors="replace")
        if select.select([master], [], [], 0.1)[0]:
            try:
                found += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
    return found.decode(errors="replace")


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (160, 50)])
def test_the_demonstration_in_a_terminal_lives_until_ctrl_c(
    command: Any, tmp_path: Path, processes: Any, columns: int, lines: int
) -> None:
    """Panels that fit the terminal; Ctrl+C leaves, the whole result stays on the screen, nothing runs any more."""
    environment = {**os.environ, "TERM": "xterm-256color", "ORCHESTRATOR_FREE_PACE_MS": "1"}
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    arguments = ("demo", "--data", str(tmp_path / "data"))
    program = (sys.executable, str(command.script), *arguments)
    with terminal(columns, lines, *program, env=environment, cwd=tmp_path) as (process, master):
        live = screen_until(master, "every run has finished")
        os.write(master, b"\x03")
        rest = screen_until(master, "\0")
        assert process.wait(20) == 0
    frames = [plain(frame) for frame in live.split("\x1b[H")[2:-1]]
    assert frames
    for frame in frames:
        shown = frame.rstrip("\n").split("\n")
        assert len(shown) <= lines
        assert max(len(line) for line in shown) <= columns
        for name in ("outliner", "checker", "critic"):
            assert f" {name} ─" in frame
        assert "Ctrl+C leaves" in frame
    assert "Key sentences" in plain(rest)
    assert plain(rest).count("✔ done") == 3
    assert processes(str(tmp_path / "data")) == []
    assert processes(re.findall(r"nats://[0-9.:]+", live)[0]) == []


def test_the_demonstration_ends_with_its_terminal(
    command: Any, tmp_path: Path, eventually: Any, processes: Any
) -> None:
    """A window that is closed leaves no broker and no agent behind."""
    environment = {**os.environ, "TERM": "xterm-256color"}
    program = (sys.executable, str(command.script), "demo", "--data", str(tmp_path / "data"))
    with terminal(100, 30, *program, env=environment, cwd=tmp_path) as (process, master):
        url = re.findall(r"nats://[0-9.:]+", screen_until(master, "running"))[0]
        assert len(processes(url)) >= 3
        process.send_signal(signal.SIGHUP)
        screen_until(master, "\0")
        process.wait(20)
    assert processes(url) == []
    assert processes(str(tmp_path / "data")) == []


def plain(text: str) -> str:
    """Return what a terminal would show of a text."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


# -- ends -------------------------------------------------------------------------------------------------------


async def test_without_a_broker_every_command_says_so(command: Any, eventually: Any) -> None:
    """69, the address, and how to start one; within seconds."""
    started = [command.start(*one, ORCHESTRATOR_FREE_URL="nats://127.0.0.1:1") for one in NEED_A_BROKER]
    await eventually(lambda: not any(program.alive for program in started), 40)
    for program, arguments in zip(started, NEED_A_BROKER, strict=True):
        assert program.process.returncode == 69, arguments
        assert "nats://127.0.0.1:1" in program.output
        assert "orchestrator-free up" in program.output
        assert "Traceback" not in program.output


@pytest.mark.parametrize("name", ["tail", "show", "delete", "export", "cancel"])
def test_an_unknown_session_is_3(command: Any, name: str) -> None:
    """And says its name."""
    done = command(name, "nobody", *(["--yes"] if name == "delete" else []))
    assert done.code == 3
    assert "'nobody'" in done.err
    assert done.out == ""


def test_wrong_usage_is_2_and_is_explained(command: Any) -> None:
    """Nothing is a traceback, on standard output is nothing."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda arguments: command(*arguments), WRONG))
    for done, arguments in zip(found, WRONG, strict=True):
        assert done.code == 2, (arguments, done.err)
        assert done.err
        assert done.out == ""
        assert "Traceback" not in done.err


def test_every_command_has_help(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """All that there are and no other; each with a sentence and its options."""
    listed = re.findall(r"^│ ([a-z-]+)  +[A-Z]", command("--help").out, re.MULTILINE)
    assert sorted(listed) == sorted(ALL)
    for name, one in get_command(app).commands.items():  # type: ignore[attr-defined]
        one.main(["--help"], prog_name=f"orchestrator-free {name}", standalone_mode=False)
        shown = capsys.readouterr().out
        assert f"Usage: orchestrator-free {name}" in shown
        assert "--help" in shown
