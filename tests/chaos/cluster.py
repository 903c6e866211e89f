"""A JetStream cluster of three real nats-server processes on this machine, whose nodes can be killed and come back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

from orchestrator_free.broker import connect
from orchestrator_free.embedded.server import FREE_PORTS, EmbeddedServer, ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODES = ("n1", "n2", "n3")
START_SECONDS = 40.0
#: how long a new leader may take: 4 to 9 s, and once more when the votes were split
ELECTION_SECONDS = 20.0
STREAMS = ("SESSIONS_0", "KV_orchestrator_free_presence", "OBJ_orchestrator_free_objects")


class Cluster:
    """Three nodes, each an `EmbeddedServer` of its own; `url` names them all, `url_of` one."""

    def __init__(
        self, folder: Path, *, nodes: tuple[str, ...] = NODES, durability: Literal["fsync", "interval"] = "interval"
    ) -> None:
        ports = free_ports(len(nodes) * 2)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[: len(nodes)])
        self.nodes: dict[str, EmbeddedServer] = {}
        for node, route, port in zip(nodes, ports, ports[len(nodes) :], strict=False):
            extra = f'server_name: {node}\ncluster {{ name: chaos, listen: "127.0.0.1:{route}", routes: [{routes}] }}\n'
            self.nodes[node] = EmbeddedServer(
                ServerSettings(
                    data=folder / node,
                    port=port,
                    extra=extra,
                    max_file_store=1 << 30,
                    start_seconds=START_SECONDS,
                    durability=durability,
                )
            )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.nodes.values():
            server.kill()

    async def start(self) -> None:
        """Start every node that is down; no node serves before the others are there, so all at once."""
        await asyncio.gather(*(server.start() for server in self.nodes.values()))

    def url_of(self, *nodes: str) -> str:
        """Return the address of some nodes, the first of which is not always tried first."""
        return ",".join(self.nodes[node].url for node in nodes)

    @property
    def url(self) -> str:
        """The address of all nodes."""
        return self.url_of(*self.nodes)

    def others(self, node: str) -> list[str]:
        """Return the other nodes."""
        return [other for other in self.nodes if other != node]

    def kill(self, node: str) -> None:
        """End a node with SIGKILL."""
        self.nodes[node].kill()

    @contextmanager
    def frozen(self, *nodes: str) -> Iterator[None]:
        """Stop every thread of some nodes: they keep their connections and answer nothing."""
        pids = [pid for node in nodes if (pid := self.nodes[node].pid) is not None]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    async def leader(self, stream: str = "SESSIONS_0") -> str:
        """Return the node that leads a stream now; empty while there is none."""
        return str((await self.group(stream)).get("leader") or "")

    async def group(self, stream: str) -> dict[str, Any]:
        """Return what STREAM.INFO says of a stream's replicas."""
        async with connect(self.url, member="harness") as broker:
            found: dict[str, Any] = (await broker.log.wire.api(f"STREAM.INFO.{stream}"))["cluster"]
            return found

    async def members(self, stream: str = "SESSIONS_0") -> set[str]:
        """Return the nodes that keep a stream."""
        group = await self.group(stream)
        return {str(group["leader"]), *(str(one["name"]) for one in group.get("replicas") or [])}

    async def whole(self) -> bool:
        """Whether every stream has a leader, and two followers that are up to date."""
        async with connect(self.url, member="harness") as broker:
            for stream in STREAMS:
                group = (await broker.log.wire.api(f"STREAM.INFO.{stream}"))["cluster"]
                followers = group.get("replicas") or []
                if not group.get("leader") or sum(one["current"] for one in followers) < 2:
                    return False
        return True


@contextmanager
def running_cluster(folder: Path, **options: Any) -> Iterator[Cluster]:
    """Run a cluster around synchronous code, such as the rest of a pytest fixture."""
    cluster = Cluster(folder, **options)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            runner.run(cluster.start())
            yield cluster
        finally:
            runner.run(cluster.__aexit__())


def free_ports(count: int) -> list[int]:
    """Return ports below the ephemeral ones, where no client socket can come in between."""
    found: list[int] = []
    for port in random.SystemRandom().sample(FREE_PORTS, 200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports")
