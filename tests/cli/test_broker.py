"""`orchestrator-free broker`, `up --secure` and `up --tls` as people use them: one line connects a process, seeds stay in files."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator_free.broker import access, access_environment
from orchestrator_free.embedded.binary import find_binary

FREE = ("--port", "0", "--monitor-port", "0")
GREETER = """
from orchestrator_free import Agent, Run
agent = Agent("greeter")
@agent
async def greet(run: Run) -> None:
    await run.text("hello " + run.input.text)
agent.main()
"""


def urls(program: Any) -> dict[str, str]:
    """Return what `up` has printed: gateway and broker."""
    return dict(re.findall(r"^(gateway|broker) +(\S+)", program.output, re.MULTILINE))


def variables(line: str) -> dict[str, str]:
    """Return the environment that a command has printed."""
    return dict(part.split("=", 1) for part in line.split())


def seeds(folder: Path) -> list[str]:
    return [path.read_text().strip() for path in folder.rglob("*.nk")]


def test_a_broker_is_made_users_are_added_and_shown(command: Any, tmp_path: Path) -> None:
    """Each command says what it changed, the line that connects a process goes to standard output, no seed anywhere."""
    made = command("broker", "init", "b", "--tls", "--one-account", *FREE)
    again = command("broker", "init", "b")
    agent = command("broker", "agent", "greeter", "--sessions", "a,b", "-d", "b")
    repeated = command("broker", "agent", "greeter", "--sessions", "a,b", "--json", ORCHESTRATOR_FREE_BROKER_DIR="b")
    service = command("broker", "service", "billing", "-d", "b")
    shown = command("broker", "show", "-d", "b", "--json")
    table = command("broker", "show", "-d", "b")
    removed = command("broker", "remove", "billing", "-d", "b")

    for done in (made, again, agent, repeated, service, shown, table, removed):
        assert done.code == 0, done.err
        assert [seed for seed in seeds(tmp_path) if seed in done.out + done.err] == []
    assert "nothing to change" in again.err
    assert "added agent greeter" in agent.err and "counts when the broker starts" in agent.err
    assert variables(agent.out).keys() == {f"ORCHESTRATOR_FREE_{name}" for name in ("URL", "NKEY", "INBOX", "CA")}
    assert repeated.json == [{"changed": [], "running": None, "environment": variables(agent.out)}]
    users = {user["user"]: user for user in shown.json[0]["users"]}
    assert users["greeter"]["sessions"] == ["a", "b"]
    assert users["billing"]["role"] == "service"
    assert not Path(tmp_path, "b/keys/main/billing.nk").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("broker", "agent", "a.b", "-d", "b"), ("broker", "agent", "a", "--tenant", "nobody", "-d", "b"),
        ("broker", "agent", "a", "--sessions", "x y", "-d", "b"), ("broker", "remove", "nobody", "-d", "b"),
        ("broker", "rotate", "-d", "b"), ("broker", "rotate", "--certificate", "-d", "b"), ("broker", "show", "-d", "."),
        ("broker", "run", "nothing"), ("broker", "init", "b", "--name", "a b"), ("broker", "tenant", "a.b", "-d", "b"),
        ("up", "--broker-dir", "nothing"), ("up", "--secure", "--broker", "nats://127.0.0.1:1"),
        ("up", "--tls-certificate", "x.pem"), ("up", "--tls-certificate", "x.pem", "--tls-key", "y.pem"),
        ("--nkey", "missing.nk", "sessions"), ("--nkey", "command.py", "sessions"), ("--ca", "command.py", "sessions"),
        ("--token-file", "missing", "sessions"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_is_wrong_usage(command: Any, arguments: tuple[str, ...]) -> None:
    """2, one line, no traceback; the folder stays as it was."""
    assert command("broker", "init", "b", "--one-account", *FREE).code == 0
    done = command(*arguments)

    assert done.code == 2, done.err
    assert done.err.startswith("error: ") and "Traceback" not in done.err
    assert command("broker", "init", "b").err.startswith("nothing to change")


async def test_up_secure_is_accounts_keys_and_tls_with_one_flag(command: Any, eventually: Any, tmp_path: Path) -> None:
    """A folder is made, an agent added to it answers, its feed resumes over https, and strangers stay outside."""
    data = command.folder / "data"
    up = command.start("up", "--secure", "--port", "0", "--broker-port", "0", "--data", str(data))
    found = await eventually(lambda: len(urls(up)) == 2 and urls(up), 60)
    folder = data / "secure"
    assert found["gateway"].startswith("https://") and found["broker"].startswith("tls://")
    added = [command("broker", *who, "-d", str(folder)) for who in (("agent", "greeter"), ("operator", "ann"))]
    assert [done.code for done in added] == [0, 0], added
    agent, operator = (variables(done.out) for done in added)
    (command.folder / "greeter.py").write_text(GREETER)
    launcher = command.start("launch", str(command.folder / "greeter.py"), **agent)
    await eventually(lambda: "agent ready" in launcher.output, 60)
    assert command("sessions", **operator).code == 0
    sent = command("send", "s", "Ada", "--to", "greeter", "--from", "ann", "--wait", "--json", **operator)
    stranger = command("sessions", **agent | {"ORCHESTRATOR_FREE_NKEY": ""})

    assert sent.code == 0, sent.err
    assert sent.json[-1]["parts"][0]["text"] == "hello Ada"
    assert stranger.code != 0 and "refused" in stranger.err
    context = ssl.create_default_context(cafile=str(folder / "tls/ca.pem"))
    async with httpx.AsyncClient(base_url=found["gateway"], verify=context, timeout=30) as http:
        assert (await http.get("/readyz")).json()["durability"] == "fsync"
        whole = (await http.get("/sessions/s/events?until=idle")).text
        positions = re.findall(r"^id: (\S+)$", whole, re.MULTILINE)
    async with httpx.AsyncClient(base_url=found["gateway"], verify=context, timeout=30) as http:  # as a client does
        rest = (await http.get("/sessions/s/events?until=idle", headers={"last-event-id": positions[1]})).text
        assert re.findall(r"^id: (\S+)$", rest, re.MULTILINE) == positions[2:]
    for program in (launcher, up):
        program.send(signal.SIGTERM)
        await eventually(lambda program=program: not program.alive, 60)
        assert program.process.returncode == 0
        assert "Traceback" not in program.output and "eof_received" not in program.output
        assert [seed for seed in seeds(folder) if seed in program.output] == []


async def test_up_tls_encrypts_gateway_and_broker(command: Any, eventually: Any) -> None:
    """What it prints is all a process elsewhere needs; without the authority nobody is trusted."""
    up = command.start("up", "--tls", "--port", "0", "--broker-port", "0", "--data", str(command.folder / "d"))
    found = await eventually(lambda: len(urls(up)) == 2 and "vouched" in up.output and urls(up), 60)
    [line] = re.findall("export (.*)", up.output)

    assert command("send", "s", "x", "--to", "ada", **variables(line)).code == 0
    assert command("sessions", ORCHESTRATOR_FREE_URL=found["broker"]).code == 69
    authority = variables(line)["ORCHESTRATOR_FREE_CA"]
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=authority), timeout=30) as http:
        assert (await http.get(f"{found['gateway']}/sessions/s")).status_code == 200
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(timeout=30) as http:
            await http.get(f"{found['gateway']}/sessions/s")


async def test_up_uses_the_broker_that_runs_on_a_folder(command: Any, eventually: Any, tmp_path: Path) -> None:
    """Somebody else's nats-server on the written configuration, as in production: `up --broker-dir` is its gateway."""
    assert command("broker", "init", "b", "--tls", "--one-account", *FREE).code == 0
    folder = command.folder / "b"
    server = subprocess.Popen(
        [str(find_binary().path), "-c", str(folder / "nats-server.conf"), "-l", str(tmp_path / "log")]
    )
    try:
        await eventually(
            lambda: (tmp_path / "log").exists() and "Server is ready" in (tmp_path / "log").read_text(), 60
        )
        up = command.start("up", "--broker-dir", str(folder), "--port", "0")
        found = await eventually(lambda: len(urls(up)) == 2 and urls(up), 60)
        async with httpx.AsyncClient(base_url=found["gateway"], timeout=30) as http:
            assert (await http.get("/readyz")).json()["durability"] == "fsync"
            assert (await http.post("/sessions", json={"session": "s"})).status_code == 201
        up.send(signal.SIGTERM)
        await eventually(lambda: not up.alive, 60)
        assert server.poll() is None
    finally:
        server.terminate()
        server.wait(30)


def test_access_passes_from_process_to_process() -> None:
    """What the options say is what a launched agent reads; paths become absolute."""
    said = {"ORCHESTRATOR_FREE_NKEY": "x.nk", "ORCHESTRATOR_FREE_TOKEN": "t", "ORCHESTRATOR_FREE_KEY": "/k.pem"}
    told = access_environment(access(said))

    assert told == {
        "ORCHESTRATOR_FREE_NKEY": str(Path("x.nk").absolute()), "ORCHESTRATOR_FREE_TOKEN": "t",
        "ORCHESTRATOR_FREE_KEY": "/k.pem",
    }  # fmt: skip
    assert access({"ORCHESTRATOR_FREE_NKEY": ""}) == {}
