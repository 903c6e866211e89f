"""broker/accounts.conf as it is shipped, and an agent that knows nothing but PROTOCOL.md."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest

from orchestrator_free import Broker, Run, connect
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings, find_binary
from orchestrator_free.steward import Steward
from tests.inside import serving
from tests.security.place import ISOLATED, installation, user
from tests.test_plain_nats import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNTS = Path(__file__).parents[2] / "broker" / "accounts.conf"
USERS = ("gateway", "operator", "outliner", "billing", "notify", "dashboard", "synadia", "partner", "system")


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The keys of all users; the public ones in the environment, as the file wants it."""
    found = {}
    for name in USERS:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        monkeypatch.setenv(f"{name.upper()}_NKEY", nkeys.from_seed(bytearray(seed)).public_key.decode())
        found[name] = tmp_path / f"{name}.nk"
        found[name].write_bytes(seed)
    return found


@pytest.mark.usefixtures("seeds")
def test_the_server_takes_the_file(tmp_path: Path) -> None:
    """`nats-server -t` has nothing to say against it."""
    conf = tmp_path / "nats-server.conf"
    conf.write_text(f'jetstream {{ store_dir: "{tmp_path}/js" }}\ninclude "accounts.conf"\n')
    (tmp_path / "accounts.conf").write_text(ACCOUNTS.read_text())

    checked = subprocess.run(
        [str(find_binary().path), "-t", "-c", str(conf)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower()


async def test_its_users_work(tmp_path: Path, seeds: dict[str, Path]) -> None:
    """The gateway makes the streams, the isolated agent answers, with the keys of the file."""

    async def outline(run: Run) -> None:
        await run.text("Hello")
        await run.file("outline.md", b"# Outline")

    extra = ACCOUNTS.read_text()
    async with (
        EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0, extra=extra)) as server,
        connect(server.url, member="gateway", nkey_seed=seeds["gateway"], settings=ISOLATED) as gateway,
        Steward(gateway),
        serving(server.url, "outliner", outline, nkey_seed=seeds["outliner"]),
    ):
        session = Broker(gateway.log, "ann").session("s1")
        await session.create()
        sent = await session.send("go", to="outliner")
        run = await session.result("outliner", sent.run, timeout=30)
        file = next(part for part in run["parts"] if part["type"] == "file")

        assert run["status"] == "done"
        assert await session.object(file["object"]) == b"# Outline"


async def test_an_agent_in_plain_nats_needs_no_other_code_there(
    tmp_path: Path, programs: Any, eventually: Callable[..., Any]
) -> None:
    """agent.py of PROTOCOL.md in the account of agents: the same subjects, and its end is compacted."""
    users = [user("core", "gateway"), user("isolated", "echo")]
    script = tmp_path / "agent.py"
    script.write_text(EXAMPLES["agent.py"])
    async with installation(tmp_path, users) as place, place.core() as gateway:
        program = programs.start(script, "echo", NATS_URL=place.url("echo"))
        session = Broker(gateway.log, "ann").session("s1")
        await session.create()
        sent = await session.send("Good morning", to="echo")
        run = await session.result("echo", sent.run, timeout=40)
        subject = f"session.0.s1.echo.run.{sent.run}"
        async with Steward(gateway, sweep_seconds=0.2):
            await eventually(lambda: _one(gateway, subject), 20)

    assert [part["text"] for part in run["parts"]] == ["You said: Good morning"], program.output


async def _one(broker: Broker, subject: str) -> bool:
    return len(await broker.log.read(0, subject)) == 1
