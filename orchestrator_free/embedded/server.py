"""The embedded broker: one `nats-server` process, configured, watched and stopped from Python (Linux, macOS).

Promise: `start` returns when the broker serves and its whole store was recovered, or raises with the reason.

nats-server lets two processes write one store, so ours inherits a locked file: the lock is held exactly while
it lives. The pid file tells of servers started by other means. It must not outlive us: on Linux a Python
stage asks for SIGTERM on its parent's death and becomes nats-server (`preexec_fn` is unsafe beside threads).
The kernel means the parent *thread*: a server ends with the thread that ran `start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from orchestrator_free import logs
from orchestrator_free.embedded.binary import check_binary, find_binary
from orchestrator_free.errors import BrokerStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
POLL_SECONDS = 0.02
LOCK_SECONDS = 1.0  # enough for the server of a killed parent to stop cleanly
FREE_PORTS = range(20_000, 32_768)  # below the ephemeral ports, where a client socket may sit on any of them
COMPLAINTS = ("[FTL]", "panic: ", "[ERR]", "nats-server: ", "Error: ", "[WRN]")  # the most telling first
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.getppid() == int(sys.argv[1]) or sys.exit("the parent died first")
os.execv(sys.argv[2], sys.argv[2:])
"""

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the server is told; sizes are in bytes, and a port of 0 is any free one."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 4222
    monitor_host: str = "127.0.0.1"  # the monitor lists subjects: keep it on loopback
    monitor_port: int = 0
    durability: Literal["fsync", "interval"] = "interval"
    max_file_store: int | None = None  # None: 80 % of what the disk can give, measured at each start
    max_memory_store: int = 256 * MIB
    max_payload: int = MIB
    max_pending: int = 64 * MIB
    max_connections: int = 20_000
    extra: str = ""  # more configuration text, such as accounts
    tls: bool = False  # `extra` says with which certificate
    binary: str = "nats-server"  # a name or a path
    start_seconds: float = 20.0
    stop_seconds: float = 10.0


def server_config(settings: ServerSettings) -> str:
    """Return the text of `nats-server.conf`; pure, so that shipped files can be compared with it."""
    file_store = "" if settings.max_file_store is None else f"\n  max_file_store: {settings.max_file_store}"
    return f"""\
# Written by orchestrator_free.embedded.server.
listen: "{_endpoint(settings.host, settings.port or -1)}"
http: "{_endpoint(settings.monitor_host, settings.monitor_port or -1)}"
max_payload: {settings.max_payload}
max_pending: {settings.max_pending}
max_connections: {settings.max_connections}
write_deadline: "10s"
ping_interval: "20s"
ping_max: 2
logfile_size_limit: {16 * MIB}
logfile_max_num: 3
jetstream {{
  store_dir: {json.dumps(str(settings.data), ensure_ascii=False)}{file_store}
  max_memory_store: {settings.max_memory_store}
  sync_interval: {"always" if settings.durability == "fsync" else '"1s"'}
  limits {{ default_max_consumers: -1 }}
}}
{settings.extra}"""


class EmbeddedServer:
    """One nats-server process over one data folder; `url` and the ports are the real ones once started."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = replace(settings, data=settings.data.resolve())
        self.port, self.monitor_port = settings.port, settings.monitor_port
        self.url = self.monitor_url = ""
        self.log_path = self.settings.data / "nats-server.log"
        self.pid_path = self.settings.data / "nats-server.pid"
        self.config_path = self.settings.data / "nats-server.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    @property
    def pid(self) -> int | None:
        """The process id while the server runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and wait until it serves, or raise BrokerStartError; nothing if it runs."""
        if self.pid is not None:
            return
        binary, data = find_binary(self.settings.binary), self.settings.data
        try:
            check_binary(binary)
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (data / "nats-server.lock").open("ab") as lock:
                if not await _until(lambda: _locked(lock.fileno()), LOCK_SECONDS):
                    raise self._already_runs()
                self._check_folder()
                self._spawn(str(binary.path), lock.fileno())
                await self._serving()
        except OSError as error:
            advice = "make it writable, or use another folder with --data"
            raise BrokerStartError(f"cannot use the data folder {data} ({error}): {advice}") from error
        if complaints := self._complaints():
            log.warning("the broker complained while starting", lines=complaints, log=str(self.log_path))
        log.info("the broker serves", url=self.url, pid=self.pid, data=str(data))

    async def stop(self) -> None:
        """End the server with SIGTERM, or SIGKILL when that takes too long; nothing if it is down."""
        if self._process is None or self.pid is None:
            return
        self._process.terminate()
        if not await _until(lambda: self.pid is None, self.settings.stop_seconds):
            log.warning("the broker did not stop in time and is killed", seconds=self.settings.stop_seconds)
        self.kill()
        self.pid_path.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would: the store and the pid file stay as they are."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def restart(self, *, kill: bool = False) -> None:
        """Stop the server, or kill it, and start it again on the same ports and data."""
        if kill:
            self.kill()
        await self.stop()
        await self.start()

    async def wait(self) -> int | None:
        """Wait until the server process ends; return its exit code, None when it never ran."""
        await _until(lambda: self.pid is None, float("inf"))
        return None if self._process is None else self._process.returncode

    async def monitor(self, path: str) -> dict[str, Any]:
        """Return what the HTTP monitor has at a path such as `/varz`; OSError or ValueError if nothing."""
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(self.settings.monitor_host, self.monitor_port)
            with contextlib.closing(writer):
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = await reader.read()
        return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))

    def _check_folder(self) -> None:
        """Refuse a folder without room or with another server; forget a stale pid file."""
        data, free = self.settings.data, shutil.disk_usage(self.settings.data).free
        if free < 4 * MIB:
            where = f"the disk of the data folder {data} is full ({free} bytes free)"
            raise BrokerStartError(f"{where}: free some space, or use another folder with --data")
        if self.pid_path.exists():
            pid, command = _found(r"\d+", self.pid_path), ""
            with contextlib.suppress(OSError):  # no such process, or no /proc to ask
                command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
            if "nats-server" in command:
                raise self._already_runs()
            log.warning("a stale pid file is ignored", pid=pid, now=command or "dead", data=str(data))
            self.pid_path.unlink()

    def _already_runs(self) -> BrokerStartError:
        pid, listen = _found(r"\d+", self.pid_path), _found('(?<=^listen: ")[^"]+', self.config_path)
        where = f"on this data folder ({self.settings.data}): pid {pid}, url nats://{listen}"
        return BrokerStartError(f"a broker already runs {where}; stop it, or use another folder with --data")

    def _spawn(self, binary: str, lock: int) -> None:
        self.port = self.port or free_port(self.settings.host)
        self.monitor_port = self.monitor_port or free_port(self.settings.monitor_host)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        self.url = f"{'tls' if self.settings.tls else 'nats'}://{_endpoint(host, self.port)}"
        self.monitor_url = f"http://{_endpoint(self.settings.monitor_host, self.monitor_port)}"
        settings = replace(self.settings, port=self.port, monitor_port=self.monitor_port)
        if settings.max_file_store is None:
            stored = sum(file.stat().st_blocks * 512 for file in (settings.data / "jetstream").rglob("*"))
            room = shutil.disk_usage(settings.data).free + stored
            settings = replace(settings, max_file_store=room * 8 // 10)
        self.config_path.touch(mode=0o600)  # `extra` may hold credentials
        self.config_path.write_text(server_config(settings))
        command = [binary, "-c", str(self.config_path), "-P", str(self.pid_path), "-l", str(self.log_path)]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
        with self.log_path.open("ab") as output:
            self._log_offset = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - a list, no shell; Ctrl-C is for us, who stop it last
                command, stdout=output, stderr=output, pass_fds=(lock,), start_new_session=True
            )

    async def _serving(self) -> None:
        """Wait until the server serves; end it and raise when it cannot or takes too long."""
        deadline = time.monotonic() + self.settings.start_seconds
        try:
            while problem := await self._problem():
                if self.pid is None:
                    raise self._failure("nats-server did not start")
                if time.monotonic() > deadline:
                    raise self._failure(f"it does not serve after {self.settings.start_seconds} s ({problem})")
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            self.kill()
            self.pid_path.unlink(missing_ok=True)
            raise

    async def _problem(self) -> str | None:
        """Say what still keeps the server from serving; raise when it will stay."""
        try:
            config = (await self.monitor("/jsz")).get("config", {})  # asked early, /varz lacks it for ever
            health = await self.monitor("/healthz")
        except (OSError, ValueError) as error:
            return f"its monitor does not answer: {error!r}"
        if config.get("store_dir") != str(self.settings.data / "jetstream"):
            return "JetStream is not up, or another program answers on the monitor port"
        if config.get("sync_always", False) is not (self.settings.durability == "fsync"):
            raise self._failure(f"`extra` changes sync_interval from that of {self.settings.durability!r}")
        if "could not be recovered" in health.get("error", ""):  # nats-server would go on without that stream
            raise self._failure(f"{health['error']}: restore the data folder, or move it away")
        return None if health.get("status") == "ok" else str(health)

    def _failure(self, what: str) -> BrokerStartError:
        reason = (self._complaints() or ["nothing"])[-1]
        if "unknown field" in reason:
            what = "this nats-server may be too old (2.14 or newer is needed): name another one with --nats-server"
        if "address already in use" in reason:
            port = self.monitor_port if "monitor" in reason else self.port
            what = f"port {port} is taken: stop the program that holds it, or use --port (0: any free one)"
        return BrokerStartError(f"{what}; nats-server says: {reason} (log: {self.log_path})")

    def _complaints(self) -> list[str]:
        """Pick the log lines since this start of the most telling kind there is."""
        text = self.log_path.read_bytes()[self._log_offset :].decode(errors="replace")
        found = (re.findall(f"{re.escape(kind)}(?! Healthcheck).*", text) for kind in COMPLAINTS)
        return next(filter(None, found), [])


@contextlib.contextmanager
def running_server(settings: ServerSettings) -> Iterator[EmbeddedServer]:
    """Run a server around synchronous code, such as the rest of a pytest fixture."""
    server = EmbeddedServer(settings)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # leaves the thread's own loop alone
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; return False when it did not in time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing to await
        await asyncio.sleep(POLL_SECONDS)
    return holds


def _locked(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _found(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE) if path.exists() else None
    return match[0] if match else "unknown"


def free_port(host: str) -> int:
    """Return a port of an address that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(FREE_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind((host, port))
            return port
    raise BrokerStartError(f"no free port on {host}: is that an address of this machine?")


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
