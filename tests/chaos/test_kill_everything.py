"""The promise in one test: whatever is killed, everybody has read the same events in the same order.

3 agents × 2,000 tokens at once, 5 SSE clients, a late joiner, a reader that is plain nats-py. The gateway, the broker
and one agent are each killed with SIGKILL in the middle, while every run is open.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import nats
import orjson
import pytest

from orchestrator_free import Fold
from orchestrator_free.broker import connect
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.events import Event
from orchestrator_free.subjects import address
from tests.chaos.cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKENS = 2000
AGENTS = ("ada", "bob", "cyd")
SECONDS = 90
HANDLER = f"""
import os
for number in range({TOKENS}):
    await run.text(f"{{run.agent}}-{{number}} ")
    await asyncio.sleep(0.008)
"""


class SseClient:
    """Follows a session over HTTP and resumes by `Last-Event-ID` after every cut, as a browser does."""

    def __init__(self, url: str, session: str) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.controls: list[str] = []
        self.resumes = -1
        self._url = f"{url}/sessions/{session}/events"
        self.idle = asyncio.Event()

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=30)) as http:
            while not self.idle.is_set():
                self.resumes += 1
                headers = {"last-event-id": self.events[-1][0]} if self.events else {}
                try:
                    async with http.stream("GET", self._url, params={"until": "idle"}, headers=headers) as answer:
                        if answer.status_code == 200:
                            await self._read(answer)
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)

    async def _read(self, answer: httpx.Response) -> None:
        buffer = b""
        async for piece in answer.aiter_raw():
            buffer += piece
            *frames, buffer = buffer.split(b"\n\n")
            for frame in frames:
                self._take(dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line))

    def _take(self, fields: dict[bytes, bytes]) -> None:
        name = fields.get(b"event", b"").decode()
        if name:
            self.controls.append(name)
            if name == "idle":
                self.idle.set()
        elif b"data" in fields:
            self.events.append((fields[b"id"].decode(), fields[b"data"]))

    def digest(self) -> str:
        """Return a hash over every event, in the order of arrival."""
        rolling = hashlib.sha256()
        for position, data in self.events:
            rolling.update(position.encode() + data)
        return rolling.hexdigest()[:16]


def folded(session: str, events: list[tuple[str, bytes]]) -> dict[str, Any]:
    """Fold what a client got, from the bytes that it got."""
    fold = Fold(session)
    for _, data in events:
        envelope = orjson.loads(data)
        where = address(
            0, session, envelope["member"], envelope["kind"],
            target=envelope.get("target", ""), id=envelope.get("id", ""),
        )  # fmt: skip
        sequence = int(envelope["position"].rpartition("-")[2])
        fold.apply(Event(sequence, envelope["time"], where, envelope["event"]))
    assert fold.skipped == 0
    return fold.view(events[-1][0])


def view_hash(view: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(view, sort_keys=True).encode()).hexdigest()[:16]


class Plain:
    """A service that knows nats-py and broker/PROTOCOL.md, nothing of ours: a durable pull consumer."""

    def __init__(self, url: str, session: str) -> None:
        self._url = url
        self._filter = f"session.0.{session}.>"
        self.events: list[tuple[int, str, bytes]] = []

    async def run(self) -> None:
        connection = await nats.connect(self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet)
        try:
            consumer = await connection.jetstream().pull_subscribe(self._filter, durable="plain", stream="SESSIONS_0")
            while True:
                try:
                    messages = await consumer.fetch(200, timeout=1)
                except (TimeoutError, nats.errors.Error):
                    continue
                for message in messages:
                    self._take(message)
                    await message.ack()
        finally:
            await connection.close()

    def _take(self, message: Any) -> None:
        sequence = message.metadata.sequence.stream
        if not self.events or sequence > self.events[-1][0]:  # delivered again after a lost ack: at least once
            self.events.append((sequence, message.subject, message.data))


async def quiet(error: Exception) -> None:
    """A killed broker is expected here."""


@asynccontextmanager
async def tasks(*work: Any) -> AsyncIterator[None]:
    started = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for one in started:
            one.cancel()
        await asyncio.gather(*started, return_exceptions=True)


def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("durability", ["interval", "fsync"])
async def test_all_readers_see_the_same_though_gateway_broker_and_an_agent_are_killed(
    tmp_path: Path, eventually: Any, durability: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same events, same order, same view; one attempt more for the killed agent; nothing lost, nothing doubled."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "broker", port=0, durability=durability)) as broker:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            await scenario(tmp_path, broker, processes, eventually, capsys)
        finally:
            kill(processes)


async def scenario(tmp_path: Path, broker: Any, processes: list[Any], eventually: Any, capsys: Any) -> None:
    processes += [start_agent(tmp_path, name, broker.url) for name in (*AGENTS, "ada")]
    [port] = free_ports(1)
    gateway = start("-m", "orchestrator_free", "up", "--broker", broker.url, "--port", str(port))
    processes.append(gateway)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url) as http, connect(broker.url, member="judge") as judge:
        await eventually(lambda: ready(http), 30)
        await eventually(lambda: living(judge, 4), 30)
        created = await http.post("/sessions", json={"session": "s", "agents": AGENTS})
        assert created.status_code == 201
        clients = [SseClient(url, "s") for _ in range(5)]
        plain = Plain(broker.url, "s")
        async with tasks(plain.run(), *(client.run() for client in clients)):
            started = time.monotonic()
            await http.post("/sessions/s/inputs", json={"to": "all", "text": "go"})
            await eventually(lambda: len(clients[0].events) > 300, 20)
            processes.append(kill_gateway(gateway, broker.url, port))
            await eventually(lambda: all(client.resumes >= 1 for client in clients), 20)
            await eventually(lambda: len(clients[0].events) > 900, 30)
            broker.kill()
            await broker.start()
            await eventually(lambda: len(clients[0].events) > 1500, 30)
            victim = await working_replica(judge, "ada")
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: attempts(clients[0]) == {2}, 20)
            await eventually(lambda: all(client.idle.is_set() for client in clients), SECONDS)
            took = time.monotonic() - started
            late = SseClient(url, "s")
            async with tasks(late.run()):
                await eventually(lambda: late.idle.is_set(), 10)
            last = int(late.events[-1][0].rpartition("-")[2])
            await eventually(lambda: plain.events[-1][0] >= last, 20)
        judgement(clients, late, plain, await judge.session("s").view(), took, capsys)


def start_agent(folder: Path, name: str, url: str) -> subprocess.Popen[bytes]:
    script = folder / f"{name}.py"
    body = "".join(f"    {line}\n" for line in HANDLER.strip().splitlines())
    script.write_text(
        "import asyncio\nfrom orchestrator_free import Agent, Run\n"
        f"agent = Agent({name!r})\n@agent\nasync def handle(run: Run) -> None:\n{body}agent.main()\n"
    )
    return start(str(script), ORCHESTRATOR_FREE_URL=url)


def kill_gateway(gateway: subprocess.Popen[bytes], url: str, port: int) -> subprocess.Popen[bytes]:
    gateway.kill()
    gateway.wait()
    return start("-m", "orchestrator_free", "up", "--broker", url, "--port", str(port))


async def ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def living(judge: Any, count: int) -> bool:
    return len(list(await judge.log.present("agent"))) >= count


async def working_replica(judge: Any, agent: str) -> int:
    """Return the process id of the replica that does the run."""
    found = [orjson.loads(payload) for _, payload in await judge.log.present(f"agent.{agent}")]
    return next(int(one["pid"]) for one in found if one["runs"])


def attempts(client: SseClient) -> set[int]:
    """Return the highest attempt that a client has seen of the agent that is killed."""
    seen = [
        orjson.loads(data)["event"] for _, data in client.events if b'"member":"ada"' in data and b"run.started" in data
    ]
    return {max(event["attempt"] for event in seen)}


def judgement(clients: list[SseClient], late: SseClient, plain: Plain, view: Any, took: float, capsys: Any) -> None:
    digests = {client.digest() for client in clients}
    views = [view_hash(folded("s", client.events)) for client in [*clients, late]]
    expected = view_hash(view)
    with capsys.disabled():
        events = len(clients[0].events)
        print(
            f"\n  {events} events in {took:.1f} s; feeds {digests}; views {set(views)}; the library's view {expected}"
        )
        print(
            f"  resumes per client {[client.resumes for client in clients]}; late joiner read {len(late.events)} events"
        )
    assert len(digests) == 1, "live readers saw different events or another order"
    assert set(views) == {expected}
    sequences = [int(position.rpartition("-")[2]) for position, _ in clients[0].events]
    assert sequences == sorted(set(sequences)), "an event came twice or out of order"
    stored = {sequence: data for sequence, _, data in plain.events}
    for (_, data), sequence in zip(clients[0].events, sequences, strict=True):
        found = orjson.loads(data)
        if sequence in stored:
            assert found["event"] == orjson.loads(stored[sequence])
        else:  # a run's output that its end replaced in the log before the plain reader came to it
            assert found["kind"] == "run"
            assert found["event"]["type"] != "run.finished"
    runs = {run["agent"]: run for agent in view["agents"] for run in agent["runs"]}
    for name in AGENTS:
        assert runs[name]["status"] == "done"
        assert runs[name]["parts"][0]["text"] == "".join(f"{name}-{number} " for number in range(TOKENS))
    assert (runs["ada"]["attempt"], runs["bob"]["attempt"], runs["cyd"]["attempt"]) == (2, 1, 1)
    assert not set(late.controls) - {"idle"}
    assert not {control for client in clients for control in client.controls} - {"idle"}
