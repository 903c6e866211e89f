"""The shipped configurations of nats-server, started as they are but for addresses, folders and names of hosts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

from orchestrator_free.embedded.binary import find_binary
from tests.conftest import STAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
#: what the configurations leave to the environment
SECRETS = {
    "CORE_PASSWORD": "core-pw",
    "EDGE_PASSWORD": "edge-pw",
    "SYS_PASSWORD": "sys-pw",
    "HUB_URL": "nats://hub:7422",
}


class Broker:
    """A nats-server with one of the files of deploy/; `changes` are literal replacements in it and what it includes."""

    def __init__(
        self, file: str, folder: Path, changes: Mapping[str, str], port: int, monitor: int, **environment: str
    ) -> None:
        self.port = port
        self.healthz = f"http://127.0.0.1:{monitor}/healthz"
        self.folder = folder
        self.log = folder / "nats-server.log"
        self._config = folder / Path(file).name
        self._environment = {**os.environ, **SECRETS, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        changes = {
            "0.0.0.0:4222": f"127.0.0.1:{port}", "127.0.0.1:4222": f"127.0.0.1:{port}",
            "127.0.0.1:8222": f"127.0.0.1:{monitor}", "/var/lib/nats": str(folder / "store"),
        } | dict(changes)  # fmt: skip
        for source in (DEPLOY / file).parent.glob("*.conf"):
            text = source.read_text()
            for old, new in changes.items():
                text = text.replace(old, new)
            (folder / source.name).write_text(text)

    def url(self, user: str = "", password: str = "") -> str:
        """Return its address for a user."""
        return f"nats://{user}:{password}@127.0.0.1:{self.port}" if user else f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it; it ends with us."""
        stage = [sys.executable, "-I", "-S", "-c", STAGE, str(os.getpid())] if sys.platform == "linux" else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*stage, str(find_binary().path), "-c", str(self._config)],
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        return self

    def kill(self) -> None:
        """End it at once; nothing if it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def serving(self, seconds: float = 40.0) -> None:
        """Wait until its health says ok."""
        end = time.monotonic() + seconds
        while not await asyncio.to_thread(_ok, self.healthz):
            alive = self._process is not None and self._process.poll() is None
            assert alive, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            await asyncio.sleep(0.05)


def _ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def refused_by_nats_server(config: Path, **environment: str) -> str:
    """Return what `nats-server -t` has against a configuration; empty if nothing."""
    done = subprocess.run(
        [str(find_binary().path), "-t", "-c", str(config)], capture_output=True, text=True, check=False,
        env={**os.environ, **SECRETS, **environment},
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr
