"""What the tests share: a real broker per module, agents as real processes, and the only place that waits."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from orchestrator_free.broker import Broker, connect
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

#: the machine may be busy: slowness is no failure
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("tests")

#: Linux kills the program with us, even when we are killed; a stage of its own, since preexec_fn breaks threads
STAGE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or sys.exit("the parent died first")
os.execv(sys.argv[2], sys.argv[2:])
"""
AGENT = """
import asyncio, os, pathlib, signal, sys, time
from orchestrator_free import Agent, Run, RunError
from orchestrator_free.errors import *

agent = Agent({name!r}, **{settings!r})

@agent
async def handle(run: Run) -> None:
{body}

agent.main()
"""


#: the tests that start clusters; one worker has them, lest two clusters compete
CLUSTERS = (
    "chaos/test_cluster", "chaos/test_rolling", "chaos/test_shards", "chaos/test_timers", "chaos/test_coordination_cluster",
    "chaos/test_state", "deploy/test_leaf", "deploy/test_clusters",
    "durable_streams/test_cluster", "chaos/test_isolated_cluster",
)  # fmt: skip
#: what takes longest begins first; several workers then end at about the same time
LONG = (
    *CLUSTERS, "durable_streams/", "test_notify", "cli/test_asks", "cli/test_state", "cli/test_desk", "cli/test_serve", "cli/test_sessions",
    "chaos/", "cli/", "browser/", "gateway/test_chat", "test_runs", "test_reader", "gateway/test_mission",
    "gateway/test_presence", "agents/test_programs", "test_monitor", "test_readme", "test_asks", "test_coordination",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first where several workers share the tests."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next((i for i, file in enumerate(LONG) if f"tests/{file}" in item.nodeid), len(LONG))
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker a file at a time, and all clusters to one of them."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "clusters" if any(file in nodeid for file in CLUSTERS) else str(super()._split_scope(nodeid))

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


async def _eventually(condition: Callable[[], Any], seconds: float = 20.0, *, every: float = 0.02) -> Any:
    """Return the condition's first true value; it may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(every)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Wait for a condition with a deadline: `await eventually(lambda: …, seconds)`."""
    return _eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real nats-server of the module's own; tests may kill it as long as they start it again."""
    with running_server(ServerSettings(data=tmp_path_factory.mktemp("broker"), port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def broker_url(broker: EmbeddedServer) -> str:
    """The address of the module's broker."""
    return broker.url


@pytest.fixture
async def ann(broker_url: str) -> AsyncIterator[Broker]:
    """A connection as the member `ann`."""
    async with connect(broker_url, member="ann") as connection:
        yield connection


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """Return a name that no other test uses: `fresh("s")`."""
    return lambda label: f"{label}-{secrets.token_hex(4)}"


class Program:
    """A process of a test; `output` is what it wrote to both streams."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._path = path

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self._path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self.process.poll() is None

    def send(self, sign: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(sign)

    def kill(self) -> None:
        """End it with SIGKILL and reap it; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)


class Programs:
    """Starts programs and agents of one test, and kills them all at its end."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._started: list[Program] = []

    def start(self, script: Path, *arguments: str, **environment: str) -> Program:
        """Start a Python program with ORCHESTRATOR_FREE_URL set."""
        output = self._folder / f"output-{len(self._started)}.txt"
        command = [sys.executable, "-I", "-S", "-c", STAGE, str(os.getpid())] if sys.platform == "linux" else []
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, sys.executable, str(script), *arguments],
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "ORCHESTRATOR_FREE_URL": self._url, **environment},
                start_new_session=True,
            )
        self._started.append(Program(process, output))
        return self._started[-1]

    def agent(self, name: str, body: str, *, replicas: int = 1, **settings: Any) -> list[Program]:
        """Start replicas of an agent whose handler has this body; its variable is `run`."""
        script = self._folder / f"{name}.py"
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        script.write_text(AGENT.format(name=name, settings=settings, body=indented))
        return [self.start(script) for _ in range(replicas)]

    def kill(self) -> None:
        """Kill whatever was started."""
        for program in self._started:
            program.kill()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Programs]:
    """Programs of all tests of a module; none of them outlives it."""
    started = Programs(tmp_path_factory.mktemp("programs"), broker_url)
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture
def programs(tmp_path: Path, broker_url: str) -> Iterator[Programs]:
    """Start agents as processes; none of them outlives the test."""
    started = Programs(tmp_path, broker_url)
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="session")
def packages() -> Callable[[Path], Path]:
    """Install a folder's npm packages as its package-lock.json has them, unless they are there: `packages(folder)`."""
    return _packages


def _packages(folder: Path) -> Path:
    lock = folder / "package-lock.json"
    installed = folder / "node_modules/.package-lock.json"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the tests run in several processes: one installs, the others wait for it
        wanted = json.load(file)["packages"]
        if installed.exists() and json.loads(installed.read_text())["packages"].items() <= wanted.items():
            return folder
        if shutil.which("npm") is None:
            pytest.fail("node and npm are not installed: JavaScript is not tested (Debian: apt install npm)")
        command = ["npm", "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            pytest.fail(f"`npm ci` in {folder} needs the npm registry once, and failed:\n{done.stderr[-2000:]}")
    return folder
