"""Every command that changes something over the broker leaves an entry in the audit log, or says here why it need not."""

from __future__ import annotations

import asyncio
import getpass
import re
from typing import TYPE_CHECKING, Any

import pytest
import typer

from orchestrator_free.broker import wired
from orchestrator_free.cli.app import app
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.operations.audit import read_audit
from orchestrator_free.session.archive import export_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_free import Broker

LOG = "what is said in a session stands in its log for good: who, what, when"
READS = "changes nothing"
SERVICE = "serves others until it is stopped; what they do stands in the log, or in the audit log of the gateway"
KEYS = "reaches no broker: it works with a file of keys, or with one folder's plan"
#: commands that are not audited, and why
EXEMPT = {
    LOG: "send cancel steer redirect pause resume approve deny answer ask withdraw edit regenerate branch fork floor "
    "away back state-set state-patch state-delete",
    READS: "insights lag asks brief presence tools audit inspect tail sessions show export deadletters state-get "
    "state-history state-watch broker-show synadia-agents",
    SERVICE: "up demo launch desk callout broker-run synadia-door synadia-guest",
    KEYS: "token token-keys broker-token",
}
#: audited commands and how each is called in the test below; those of a broker's folder end in `-d b`
CALLS = {
    "pause-agent": "pause-agent writer --hold-runs", "resume-agent": "resume-agent writer", "drain": "drain writer",
    "deadletters retry": "deadletters retry {letter}", "deadletters dismiss": "deadletters dismiss {letter}",
    "notify": "notify --retry none", "backup": "backup kept", "restore": "restore kept", "doctor": "doctor --fix",
    "retain": "retain --older-than 999d --closed", "erase": "erase --session gone --yes",
    "token revoke": "token revoke --id abc", "delete": "delete old --yes", "import": "import archive --as new",
    "broker init": "broker init b --durability interval", "broker agent": "broker agent greeter --sessions a -d b",
    "broker service": "broker service billing -d b", "broker observer": "broker observer eye -d b",
    "broker notifier": "broker notifier -d b", "broker operator": "broker operator olga -d b",
    "broker door": "broker door -d b", "broker caller": "broker caller cora -d b",
    "broker guest": "broker guest gus -d b", "broker gateway": "broker gateway second -d b", "broker tenant": "broker tenant acme -d b",
    "broker rotate": "broker rotate greeter -d b", "broker remove": "broker remove billing -d b",
    "broker revoke": "broker revoke greeter -d b",
}  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    """Yield (words, callback) of everything that can be run."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        subcommands = getattr(command, "commands", {})
        if path and (not subcommands or command.invoke_without_command):
            yield " ".join(path), command.callback
        for name, sub in subcommands.items():
            yield from walk(sub, (*path, name))

    return walk(typer.main.get_command(app), ())


def test_every_command_is_audited_or_exempt_for_a_reason() -> None:
    """A new command that is neither fails here; an exemption that is not needed any more does, too."""
    exempt = [name.replace("-", " ", 1) if name.startswith(("state-", "broker-", "token-", "synadia-")) else name
              for names in EXEMPT.values() for name in names.split()]  # fmt: skip
    called = {name: callback.audited for name, callback in commands() if hasattr(callback, "audited")}
    audited = called.keys()
    everything = {name for name, _ in commands()}

    assert audited | set(exempt) == everything
    assert not audited & set(exempt)
    assert len(exempt) == len(set(exempt))
    assert audited == CALLS.keys()
    assert all(name == what for name, what in called.items())


async def entries(ann: Broker, what: str) -> list[dict[str, Any]]:
    return [entry async for entry in read_audit(ann.log.wire) if entry.get("what") == what]


@pytest.fixture
async def scene(ann: Broker, programs: Any, eventually: Any, tmp_path: Path) -> dict[str, str]:
    """What the commands are about: an agent at work, a run that was given up, sessions to be deleted."""
    for name in ("old", "gone", "kept"):
        await ann.session(name).create()
    (tmp_path / "archive").write_bytes(b"".join([line async for line in export_session(ann.session("old"))]))
    programs.agent("writer", 'if run.input.text == "die": os._exit(1)\nawait run.text("x")', max_attempts=1, replicas=2)
    session = ann.session("kept")
    sent = await session.send("die", to="writer")
    assert (await session.result("writer", sent.run, timeout=60))["status"] == "failed"
    return {"letter": f"run/kept/writer/{sent.run}"}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_leaves_an_entry_that_says_who_what_and_with_which_outcome(
    ann: Broker, command: Any, scene: dict[str, str], tmp_path: Path
) -> None:
    """Run as an operator types them; one that fails is written down as failed, one that changes nothing is not."""
    person = getpass.getuser()
    async with EmbeddedServer(ServerSettings(data=tmp_path / "empty", port=0)) as empty:
        for name in [name for name in CALLS if not name.startswith("broker ")]:
            words = CALLS[name].format(**scene).split()
            url = empty.url if name == "restore" else command.url
            before = [] if name == "restore" else await entries(ann, name)
            done = await asyncio.to_thread(command, *words, ORCHESTRATOR_FREE_URL=url)
            fails = name in {"notify", "deadletters dismiss"}  # no letter of this name waits
            assert (done.code == 0) is not fails or name == "doctor", (name, done.err)  # which finds something
            async with wired(url, member="operator") as wire:
                found = [one async for one in read_audit(wire) if one.get("what") == name]
            (entry,) = found[len(before) :]
            assert entry["outcome"] == ("failed" if fails else "done")
            assert entry["kind"] == "operation" and entry["member"] and entry["time"]
            assert entry["by"].startswith(f"{person}@")
    assert (await entries(ann, "pause-agent"))[-1].items() >= {"agent": "writer", "hold_runs": True}.items()
    assert (await entries(ann, "delete"))[-1]["session"] == "old"
    assert (await entries(ann, "import"))[-1]["session"] == "new"
    assert (await entries(ann, "erase"))[-1]["deleted"] == 1
    for words in ("doctor", "retain --older-than 1d --dry-run", "backup kept --verify", "erase --member x --dry-run"):
        name = words.split()[0]
        before = await entries(ann, name)
        await asyncio.to_thread(command, *words.split())
        assert await entries(ann, name) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_changes_of_a_brokers_folder_are_written_down_at_the_broker_that_takes_them(
    command: Any, eventually: Callable[..., Any]
) -> None:
    """In the account of the main tenant; while no broker runs the command says that there is no entry."""
    made = command("broker", "init", "b", "--no-tls", "--port", "0", "--monitor-port", "0")
    assert "no audit log" in made.err
    program = command.start("broker", "run", str(command.folder / "b"))
    await eventually(lambda: re.search(r"broker +nats://", program.output), 60)
    olga = (await asyncio.to_thread(command, "broker", "operator", "root", "-d", "b")).out.split()
    reached = dict(part.split("=", 1) for part in olga)
    for name in [name for name in CALLS if name.startswith("broker ") and name != "broker revoke"]:
        done = await asyncio.to_thread(command, *CALLS[name].split())
        assert done.code == 0, (name, done.err)
        told = await asyncio.to_thread(command, "audit", "--json", **reached)
        assert told.code == 0, told.err
        entry = told.json[-1]
        assert (entry["what"], entry["outcome"], entry["member"]) == (name, "done", "operator")
