"""Whatever the README shows is run as it stands, in an empty folder, on the ports it names."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SECURE = """
set -eu
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
{keys}
{up}
ready() {{ for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "$* is not ready"; exit 1; }}
gateway() {{ curl -sSf --cacert .orchestrator-free/secure/tls/ca.pem "$@"; }}
ready gateway https://127.0.0.1:8080/healthz
{key}
{agent}
token=$({token})
as_ada() {{ gateway -H "Authorization: Bearer $token" "$@"; }}
as_ada https://127.0.0.1:8080/sessions -d '{{"session": "ada-1"}}'
as_ada https://127.0.0.1:8080/sessions/ada-1/inputs -d '{{"text": "Ada", "to": "greeter"}}'
answered() {{ as_ada https://127.0.0.1:8080/sessions/ada-1 | grep -q 'Nice to meet you'; }}
ready answered
! as_ada https://127.0.0.1:8080/sessions/bob-1
! gateway https://127.0.0.1:8080/sessions
echo all is well
"""
#: a network of its own, so that the README's ports are free; and processes of its own, which the kernel ends with the first
#: of them, which ends with us: a shell's children do not outlive a test run that is killed
NAMESPACE = """
import ctypes, fcntl, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
user, group = os.getuid(), os.getgid()
libc.prctl(1, 9)
libc.unshare(0x10000000 * (user != 0) | 0x60000000) == 0 or sys.exit(77)
if user:
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {user} 1")
    open("/proc/self/gid_map", "w").write(f"0 {group} 1")
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, running, loopback
child = os.fork()
if not child:
    libc.prctl(1, 9)
    os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
SESSION = """
set -eu
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
ready() {{ for _ in $(seq 300); do curl -sf "$1" >/dev/null && return; sleep 0.1; done; echo "$1 is not ready"; exit 1; }}
{up}
ready http://127.0.0.1:8080/readyz
{launch}
{send} > sent.txt
{curl}
python library.py > library.txt
"""


def block(language: str, words: str) -> str:
    """Return the one code block of a language that has these words."""
    [found] = [text for kind, text in BLOCKS if kind == language and words in text]
    return found


def shell_lines(words: str) -> list[str]:
    """Return the lines of a shell block without their comments."""
    return [line.split("  #")[0].rstrip() for line in block("sh", words).splitlines()]


def isolated(*command: str) -> list[str]:
    """Return a command in a network of its own where the system allows that, else as it is where its ports are free."""
    wrapped = [sys.executable, "-I", "-S", "-c", NAMESPACE]
    if sys.platform == "linux" and subprocess.run([*wrapped, "true"], capture_output=True).returncode == 0:
        return [*wrapped, *command]
    for port in (4222, 8080):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is taken, and no network of our own is to be had")
    return list(command)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's reader has curl")
def test_the_readme_works_line_by_line_in_an_empty_folder(tmp_path: Path) -> None:
    """Ten lines are an agent; it answers; curl and the library see it."""
    pip, up, launch, send = shell_lines("pip install")
    feed, view = shell_lines("curl -N")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pip == f"pip install {project['name']}"
    assert [command.partition(" ")[0] for command in (up, launch, send)] == [*project["scripts"]] * 3
    (tmp_path / "greeter.py").write_text(block("python", 'Agent("greeter")'))
    (tmp_path / "library.py").write_text(block("python", "session.follow"))
    assert feed.startswith("curl -N ")
    curl = f"timeout 2 {feed} > feed.txt || true\n{view} > view.txt"
    script = SESSION.format(up=up, launch=launch, send=send, curl=curl)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_FREE")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    found = subprocess.run(
        isolated("bash", "-c", script), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
    )
    said = found.stdout + found.stderr
    assert found.returncode == 0, said
    assert "Traceback" not in said
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert "Hello, Ada! Nice to meet you." in written["sent"]
    assert "retry: 1000" in written["feed"]
    assert "Nice to meet you." in written["feed"]
    assert '"text":"Hello, Ada! Nice to meet you. "' in written["view"]
    assert re.search(r"^\d+ greeter run.finished$", written["library"], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's reader has curl")
def test_what_runs_for_real_works_line_by_line_in_an_empty_folder(tmp_path: Path) -> None:
    """An agent with a key of its own answers somebody with a token; who has none, or another's session in mind, is refused."""
    keys, up, key, agent, token = shell_lines("--secure")
    (tmp_path / "greeter.py").write_text(block("python", 'Agent("greeter")'))
    script = SECURE.format(keys=keys, up=up, key=key, agent=agent, token=token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_FREE")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    found = subprocess.run(
        isolated("bash", "-c", script), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
    )
    said = found.stdout + found.stderr

    assert found.returncode == 0, said
    assert "all is well" in found.stdout
    assert "Traceback" not in said


async def test_nothing_of_a_run_that_is_killed_is_left(eventually: Any) -> None:
    """SIGKILL to the process that holds a script: its shell, what that has in the background, and their children end."""
    command = isolated("bash", "-c", "sleep 4071 & (sleep 4072 & wait) & wait")
    if command[0] == "bash":
        pytest.skip("no namespaces are to be had here")
    process = subprocess.Popen(command, start_new_session=True)
    await eventually(lambda: len(sleepers(process.pid)) == 2, 30)
    found = sleepers(process.pid)
    process.kill()
    process.wait(30)
    await eventually(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in found), 30)


def sleepers(leader: int) -> list[int]:
    """The pids of the sleeping processes below a process."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal() and session_of(entry) == leader]
    return [int(entry.name) for entry in entries if read(entry / "cmdline").startswith(b"sleep")]


def session_of(entry: Path) -> int:
    """The session of a process, 0 if it is gone."""
    fields = read(entry / "stat").rpartition(b")")[2].split()
    return int(fields[3]) if fields else 0


def read(path: Path) -> bytes:
    """What is in a file, nothing if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_frameworks_agent_is_one_line_more(ann: Broker, programs: Any, tmp_path: Path) -> None:
    """The block is a program but for its last line; the run has the framework's words."""
    program = tmp_path / "researcher.py"
    program.write_text(block("python", "adapter.publish") + "\n\nagent.main()\n")
    programs.start(program)
    session = ann.session("s")
    await session.create(agents=["researcher"])
    sent = await session.send("What is new?", to="researcher")
    run = await session.result("researcher", sent.run, timeout=60)

    assert (run["status"], run["parts"][0]["text"]) == ("done", "success (no tool calls)")


def test_the_agent_has_ten_lines() -> None:
    """As its heading says; blank lines are not counted."""
    lines = [line for line in block("python", 'Agent("greeter")').splitlines() if line.strip()]
    assert "## An agent in ten lines" in README
    assert len(lines) <= 10


def test_every_block_is_run_or_looked_at() -> None:
    """A block that is added has to be added here."""
    assert [language for language, _ in BLOCKS] == ["sh", "python", "sh", "python", "sh", "python", "sh"]


def test_every_make_target_exists() -> None:
    """Those in code blocks and those in sentences."""
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets >= {"demo", "test"}
    assert targets <= known


def test_every_command_that_is_named_exists() -> None:
    """And every command that exists is named."""
    from typer.main import get_command

    from orchestrator_free.cli.app import app

    section = README.partition("## Commands")[2].partition("\n## ")[0].partition("each with")[0]
    named = set(re.findall(r"[a-z]+(?:-[a-z]+)*", section.replace("orchestrator-free", ""))) - {"and"}
    assert named == set(get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"orchestrator-free (?:--\w+ \S+ )?([a-z]+(?:-[a-z]+)*)", README))
    assert used <= named


def test_every_link_leads_somewhere() -> None:
    """Files and folders of the repository; what is elsewhere is not opened."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    files = [link for link in links if not link.startswith("https://")]
    assert files
    assert [link for link in files if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_installed_package_has_the_agents_of_the_demonstrations() -> None:
    """Both demonstrations work without a checkout."""
    from orchestrator_free.cli import serve, support

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    started = {*serve._DEMO_AGENTS, "writer.py", *(f"{name}.py" for name in support.AGENTS)}

    assert packed == {f"agents/{name}": f"orchestrator_free/_agents/{name}" for name in started} | {
        "README.md": "orchestrator_free/_agents/README.md"
    }
