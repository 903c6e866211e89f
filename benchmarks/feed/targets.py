"""What is measured: raw NATS, the homemade Redis baseline and the product; how each is started and asked."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmarks.feed.measure import rss_kib
from benchmarks.feed.servers import Server, free_port
from benchmarks.feed.swarm import STAMP, Ask
from benchmarks.feed.wires import CONNECT, INBOX, Address, NatsWire, RedisWire, Stream, Wire, request
from orchestrator_free.contract import StreamSettings, stream_config, stream_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: The product's own command: the one place that knows its flags. The broker is an ordinary nats-server that
#: the benchmark starts, so that a restart of the gateway leaves the log alone.
GATEWAY = "{python} -m orchestrator_free up --broker nats://127.0.0.1:{nats_port} --port {port}"
EVENTS = "/sessions/{session}/events"

_HOST = "127.0.0.1"
_STREAM = stream_name(0)
History = Literal["table", "log", "runs"]


class Target:
    """A deployment that sessions are published to and read from.

    Attributes:
        name: as shown in tables.
        wire: how the generator publishes.
        log: where the generator publishes to.
    """

    name: ClassVar[str]
    wire: Wire
    log: Address

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, Server] = {}

    def _start(self, role: str, command: Sequence[str], port: int) -> None:
        self._servers[role] = self._stack.enter_context(Server(role, command, port, self.folder))

    def start(self) -> None:
        """Start its processes with nothing in them."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop its processes."""
        self._stack.close()

    def restart_gateway(self) -> None:
        """Start the reading side anew: nothing is in its memory."""

    def roles(self) -> Mapping[str, list[int]]:
        """Return the process ids of `gateway` and `broker`."""
        found: dict[str, list[int]] = {}
        for role, server in self._servers.items():
            for pid, command in server.pids().items():
                found.setdefault("broker" if command == "nats-server" else role, []).append(pid)
        return found

    def rss(self) -> dict[str, float]:
        """Return resident KiB of `gateway` and `broker`."""
        return {role: sum(map(rss_kib, pids)) for role, pids in self.roles().items()}

    def follow(self, session: str) -> Ask:
        """Return the connection of a client that follows a session live."""
        raise NotImplementedError

    def history(self, session: Sequence[Stream], kind: History) -> Ask:
        """Return the connection of a client that reads what is there; `kind`: how raw NATS reads it best."""
        return self.follow(session[0].session)

    def resume(self, session: str, position: str) -> Ask:
        """Return the connection of a client that has seen everything up to a position."""
        raise NotImplementedError

    def positions(self, sessions: Sequence[str], events: int) -> dict[str, str]:
        """Return where a reader stands that has read all `events` stamped events of each session."""
        raise NotImplementedError


def nats_server() -> str:
    """Return the program: the one in this virtual environment, or else the machine's."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server") or "nats-server"


def start_nats(port: int, folder: Path) -> list[str]:
    """Return the command of a nats-server with JetStream on disk."""
    return [nats_server(), "-a", _HOST, "-p", str(port), "-js", "-sd", str(folder / "jetstream")]


class Raw(Target):
    """NATS alone: what publish and subscribe cost with the same stream and no gateway."""

    name = "raw"

    def start(self) -> None:
        """Start nats-server and create the product's stream in it."""
        port = free_port()
        self.wire, self.log = NatsWire(), (_HOST, port)
        self._start("broker", start_nats(port, self.folder), port)
        request(self.log, f"$JS.API.STREAM.CREATE.{_STREAM}", stream_config(0, StreamSettings()))

    def _ask(self, commands: str) -> Ask:
        return Ask(self.log, CONNECT + commands.encode() + b"PING\r\n", b"INFO", b"PONG\r\n")

    def _direct(self, *bodies: object) -> Ask:
        """Ask for stored messages, in as many Direct Get requests as there are bodies."""
        payloads = [json.dumps(body) for body in bodies]
        subject = f"$JS.API.DIRECT.GET.{_STREAM} {INBOX}.in"
        asked = "".join(f"PUB {subject} {len(payload)}\r\n{payload}\r\n" for payload in payloads)
        return self._ask(f"SUB {INBOX}.in 1\r\n{asked}")

    def follow(self, session: str) -> Ask:
        """Subscribe to the republished copies."""
        return self._ask(f"SUB live.session.0.{session}.> 1\r\n")

    def history(self, session: Sequence[Stream], kind: History) -> Ask:
        """Read the last message per subject, known subjects, or everything by a push consumer."""
        name = session[0].session
        if kind == "table":
            return self._direct({"multi_last": [f"session.0.{name}.>"], "batch": 1024})
        if kind == "runs":
            subjects = [f"session.0.{name}.{one.member}.run.{one.run}" for one in session]
            return self._direct(*({"seq": 1, "next_by_subj": subject, "batch": 1000} for subject in subjects))
        inbox = f"{INBOX}.{name}"
        config = {"deliver_subject": inbox, "filter_subject": f"session.0.{name}.>", "ack_policy": "none"}
        rest = {"mem_storage": True, "num_replicas": 1, "inactive_threshold": 5_000_000_000}
        body = json.dumps({"stream_name": _STREAM, "config": config | rest})
        create = f"PUB $JS.API.CONSUMER.CREATE.{_STREAM} {len(body)}\r\n{body}\r\n"
        return self._ask(f"SUB {inbox} 1\r\n{create}")

    def resume(self, session: str, position: str) -> Ask:
        """Read what follows by Direct Get."""
        return self._direct({"seq": int(position) + 1, "next_by_subj": f"session.0.{session}.>", "batch": 1000})

    def positions(self, sessions: Sequence[str], events: int) -> dict[str, str]:
        """Return the stream's last sequence, which is good for every session."""
        info = request(self.log, f"$JS.API.STREAM.INFO.{_STREAM}")
        return dict.fromkeys(sessions, str(info["state"]["last_seq"]))


class _Sse(Target):
    """Anything that serves a session as SSE."""

    gateway: Address

    def _get(self, session: str, *headers: str) -> Ask:
        lines = [
            f"GET {EVENTS.format(session=session)} HTTP/1.1",
            f"Host: {_HOST}",
            "Accept: text/event-stream",
        ]
        text = "\r\n".join([*lines, *headers, "", ""])
        return Ask(self.gateway, text.encode(), b"HTTP/1.1 200", b"\r\n\r\n")

    def follow(self, session: str) -> Ask:
        """GET the events."""
        return self._get(session)

    def resume(self, session: str, position: str) -> Ask:
        """GET the events after a position."""
        return self._get(session, f"Last-Event-ID: {position}")

    def positions(self, sessions: Sequence[str], events: int) -> dict[str, str]:
        """Read each session once, and return the id of its last event."""
        return {session: last_id(self.follow(session), events) for session in sessions}


def last_id(ask: Ask, events: int) -> str:
    """Read so many stamped events and return the SSE id of the last one."""
    with socket.create_connection(ask.address, timeout=15) as connection:
        connection.sendall(ask.request)
        data = b""
        while data.count(STAMP) < events or not data.endswith((b"\n\n", b"\n\n\r\n")):
            more = connection.recv(1 << 18)
            if not more:
                raise ConnectionError(f"the feed ended early: {data[:300]!r}")
            data += more
    return data.rpartition(b"id: ")[2].partition(b"\n")[0].decode().strip()


class RedisSse(_Sse):
    """Redis Streams and a Starlette process."""

    name = "redis"

    def start(self) -> None:
        """Start redis-server with the append-only file synced every second, and the SSE process."""
        port, gateway = free_port(), free_port()
        self.wire, self.log, self.gateway = RedisWire(), (_HOST, port), (_HOST, gateway)
        durability = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        command = [
            "redis-server",
            "--bind",
            _HOST,
            "--port",
            str(port),
            "--dir",
            str(self.folder),
            *durability,
        ]
        self._start("broker", command, port)
        self._serve()

    def _serve(self) -> None:
        arguments = ["--port", str(self.gateway[1]), "--redis", f"redis://{_HOST}:{self.log[1]}"]
        command = [sys.executable, "-m", "benchmarks.feed.redis_sse", *arguments]
        self._start("gateway", command, self.gateway[1])

    def restart_gateway(self) -> None:
        """Restart the SSE process."""
        self._servers["gateway"].__exit__()
        self._serve()


class Product(_Sse):
    """The gateway of this project on a nats-server of its own."""

    name = "product"
    command: ClassVar[str] = GATEWAY

    def start(self) -> None:
        """Start nats-server and the gateway, which creates its stream."""
        port, gateway = free_port(), free_port()
        self.wire, self.log, self.gateway = NatsWire(), (_HOST, port), (_HOST, gateway)
        self._start("broker", start_nats(port, self.folder), port)
        self._serve()

    def _serve(self) -> None:
        port, nats_port = self.gateway[1], self.log[1]
        text = self.command.format(python=sys.executable, port=port, nats_port=nats_port, data=self.folder)
        self._start("gateway", shlex.split(text), port)

    def restart_gateway(self) -> None:
        """Restart the gateway; the broker stays."""
        self._servers["gateway"].__exit__()
        self._serve()


TARGETS: dict[str, type[Target]] = {one.name: one for one in (Raw, RedisSse, Product)}


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[list[Target]]:
    """Start targets, and stop them whatever happens; one that does not start is said so and left out."""
    with contextlib.ExitStack() as stack:
        targets = []
        for name in names:
            target = TARGETS[name](folder)
            stack.callback(target.stop)
            try:
                target.start()
            except (RuntimeError, OSError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
            else:
                targets.append(target)
        yield targets
