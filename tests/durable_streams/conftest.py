"""What the tests of Durable Streams share: gateways as processes, the public suite, apps in Node."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.chaos.cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

COMMAND = "from orchestrator_free.cli import main\nmain()\n"


@pytest.fixture(scope="session")
def node(packages: Callable[[Path], Path]) -> Path:
    """The folder of the suite and of the clients, with their packages."""
    return packages(Path(__file__).parent)


@dataclass
class Outcome:
    """What the suite says: how many tests have passed and failed, and which ones have not passed."""

    passed: int
    failed: int
    skipped: set[str]
    failures: list[str]


@pytest.fixture
def suite(node: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run the public suite against an address: `await suite("http://…")`."""

    async def run(url: str, number: int = 0) -> Outcome:
        report = tmp_path / f"suite-{number}.json"
        # A busy machine needs more than the 5 s that vitest gives a test.
        options = ["--testTimeout=60000", "--reporter=json", f"--outputFile={report}"]
        command = ["npx", "vitest", "run", "conformance.test.mjs", *options]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=node, env=_environment(url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert report.exists(), output.decode()[-3000:]
        found = json.loads(report.read_text())
        tests = [test for file in found["testResults"] for test in file["assertionResults"]]
        skipped = {test["ancestorTitles"][0] for test in tests if test["status"] in ("skipped", "pending")}
        failures = [
            f"{test['fullName']}: {' '.join(test['failureMessages'])[:600]}"
            for test in tests
            if test["status"] == "failed"
        ]
        return Outcome(found["numPassedTests"], found["numFailedTests"], skipped, failures)

    return run


def _environment(url: str) -> dict[str, str]:
    return {**os.environ, "DURABLE_STREAMS_URL": url}


class Process:
    """A gateway in a process of its own, always on the same port."""

    def __init__(self, programs: Any, folder: Path, broker: str) -> None:
        self._programs = programs
        self._script = folder / "gateway.py"
        self._script.write_text(COMMAND)
        self._broker = broker
        self.port = free_ports(1)[0]
        self.program: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, eventually: Any) -> None:
        """Start it and wait until it serves."""
        # The suite's preflight comes from that page; its long-polls must end before vitest gives a test up.
        options = ("--allow-origin", "https://example.com", "--long-poll-seconds", "0.5")
        self.program = self._programs.start(
            self._script, "up", "--broker", self._broker, "--port", str(self.port), *options
        )
        async with httpx.AsyncClient(base_url=self.url) as http:

            async def ready() -> bool:
                assert self.program.alive, self.program.output
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, 60, every=0.1)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.program.kill()


@pytest.fixture
def process(programs: Any, tmp_path: Path, broker_url: str) -> Callable[[], Process]:
    """A gateway that is not started yet: `process()`."""
    return lambda: Process(programs, tmp_path, broker_url)


@pytest.fixture
async def http(process: Callable[[], Process], eventually: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in a process of its own."""
    gateway = process()
    await gateway.start(eventually)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        yield client
