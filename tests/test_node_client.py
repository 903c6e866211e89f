"""The wire from JavaScript: the stock client of NATS in node, and the JavaScript examples of broker/PROTOCOL.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

NODE = Path(__file__).parent / "node"
PROTOCOL = (Path(__file__).parents[1] / "broker/PROTOCOL.md").read_text()
EXAMPLES = dict(re.findall(r"^```js example=(\S+)\n(.*?)^```$", PROTOCOL, re.MULTILINE | re.DOTALL))
SECONDS = 30


@pytest.fixture(scope="session")
def modules(packages: Callable[[Path], Path]) -> Path:
    """tests/node/node_modules as package-lock.json has it."""
    return packages(NODE) / "node_modules"


class Script:
    """A node process: what it printed, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> dict[str, Any]:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            text = await self.process.stdout.readline()
        assert text, (await self.errors())[-2000:]
        return dict(json.loads(text))

    async def rest(self) -> list[dict[str, Any]]:
        """Wait for its end and return what it printed since."""
        async with asyncio.timeout(SECONDS):
            output, errors = await self.process.communicate()
        assert self.process.returncode == 0, errors.decode()[-2000:]
        return [json.loads(text) for text in output.splitlines()]

    async def errors(self) -> str:
        """Wait for its end and return what it complained of."""
        async with asyncio.timeout(SECONDS):
            _, errors = await self.process.communicate()
        return errors.decode()

    async def ready(self) -> None:
        """Wait until it listens."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            text = await self.process.stderr.readline()
        assert text == b"ready\n", text.decode() + await self.errors()

    async def kill(self) -> None:
        """End it with SIGKILL; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate()


@pytest.fixture
async def node(modules: Path, tmp_path: Path, broker_url: str, ann: Any) -> AsyncIterator[Callable[..., Any]]:
    """Start `client.mjs` or an example of the document: `await node("send.mjs", "s1", "outliner", "Hello")`."""
    (tmp_path / "node_modules").symlink_to(modules)
    started: list[Script] = []

    async def start(name: str, *arguments: str) -> Script:
        (tmp_path / name).write_text(EXAMPLES.get(name) or (NODE / name).read_text())
        process = await asyncio.create_subprocess_exec(
            "node", str(tmp_path / name), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL, env=os.environ | {"NATS_URL": broker_url},
        )  # fmt: skip
        started.append(Script(process))
        return started[-1]

    try:
        yield start
    finally:
        for script in started:
            await script.kill()


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [line["event"]["text"] for line in found]


async def idle(ann: Any, consumer: str) -> bool:
    """Whether a durable consumer owes nothing."""
    state = await ann.log.consumer(0, consumer)
    return state is not None and not state.outstanding


async def test_node_follows_a_session_with_a_durable_consumer_and_resumes(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """Filtered by agent and kind; the second process goes on behind what the first acknowledged."""
    session, name = ann.session(fresh("s")), fresh("service")
    filters = {"filter_subjects": [f"session.0.{session.id}.ann.in.outliner.*"]}
    for number in range(4):
        await session.send(f"{number}", to="outliner")
        await session.send("not for it", to="critic")
    arguments = ("durable", "SESSIONS_0", name)

    first = await (await node("client.mjs", *arguments, "3", json.dumps(filters))).rest()
    await session.send("4", to="outliner")
    second = await (await node("client.mjs", *arguments, "2", json.dumps(filters))).rest()
    assert (texts(first), texts(second)) == (["0", "1", "2"], ["3", "4"])
    assert await idle(ann, name)


@pytest.mark.parametrize("start", ["all", "by_start_sequence", "by_start_time", "new"])
async def test_node_starts_a_durable_consumer_where_it_wants(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str], start: str
) -> None:
    """The beginning, behind a position, a time, or new."""
    session = ann.session(fresh("s"))
    await session.send("one", to="outliner")
    sent = await session.send("two", to="outliner")
    time = (await ann.log.last(0, session.filter)).time
    await session.send("three", to="outliner")
    config: dict[str, Any] = {"filter_subject": session.filter, "deliver_policy": start}
    config |= {"by_start_sequence": {"opt_start_seq": sent.position.sequence + 1}}.get(start, {})
    config |= {"by_start_time": {"opt_start_time": time}}.get(start, {})
    wanted = {"all": 4, "by_start_time": 3, "by_start_sequence": 2, "new": 1}[start]
    script = await node("client.mjs", "durable", "SESSIONS_0", fresh("service"), f"{wanted}", json.dumps(config))
    await script.ready()
    await session.send("four", to="outliner")

    assert texts(await script.rest()) == ["one", "two", "three", "four"][4 - wanted :]


async def test_node_reads_in_order_from_a_sequence_and_hears_what_comes(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """An ordered consumer, across the end of what was there."""
    session = ann.session(fresh("s"))
    sent = [await session.send(f"{number}", to="outliner") for number in range(5)]
    sequence = f"{sent[2].position.sequence}"
    script = await node("client.mjs", "ordered", "SESSIONS_0", sequence, "4", session.filter)
    await script.ready()
    sent.append(await session.send("5", to="outliner"))
    found = await script.rest()

    assert texts(found) == ["2", "3", "4", "5"]
    assert [line["sequence"] for line in found] == [one.position.sequence for one in sent[2:]]


async def test_node_hears_live_copies_with_their_sequence(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """The last value of a header counts: a publisher's own `Nats-Sequence` changes nothing."""
    session = ann.session(fresh("s"))
    script = await node("client.mjs", "live", f"live.{session.filter}", "2")
    await script.ready()
    sent = await session.send("Hello", to="outliner")
    await ann.log.wire.client.jetstream().publish(
        f"session.0.{session.id}.ann.state.k", b'{"type":"state.set","value":1}', headers={"Nats-Sequence": "1"}
    )
    found = await script.rest()

    last = await ann.log.last(0, session.filter)
    assert [line["sequence"] for line in found] == [sent.position.sequence, last.sequence]


async def test_the_javascript_sender_of_the_document_sends_once(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """send.mjs: again is harmless, other content under the same id is refused, and the library sees one input."""
    session = ann.session(fresh("s"))
    said = [await (await node("send.mjs", session.id, "outliner", "Hello", "i1")).rest() for _ in range(2)]

    assert [line["repeated"] for (line,) in said] == [False, True]
    assert "other content" in await (await node("send.mjs", session.id, "outliner", "Bye", "i1")).errors()
    assert [entry["text"] for entry in (await session.view())["inputs"]] == ["Hello"]


async def test_the_javascript_service_of_the_document_goes_on_where_it_stood(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str], eventually: Callable[..., Awaitable[Any]]
) -> None:
    """service.mjs: killed and started again, it sees each event once."""
    session, name = ann.session(fresh("s")), fresh("billing")
    await session.send("one", to="outliner")
    first = await node("service.mjs", name)
    while (line := await first.line())["subject"].split(".")[2] != session.id:
        pass
    await eventually(lambda: idle(ann, f"service-{name}"), SECONDS)
    await first.kill()
    await session.send("two", to="outliner")

    assert (texts([line]), texts([await (await node("service.mjs", name)).line()])) == (["one"], ["two"])


async def test_the_javascript_agent_of_the_document_is_an_agent_for_the_library(
    node: Callable[..., Any], ann: Any, fresh: Callable[[str], str]
) -> None:
    """agent.mjs: takes an input, its run is folded, and one event is left of it."""
    session, agent = ann.session(fresh("s")), fresh("outliner")
    sent = await session.send("Hello", to=agent)
    await node("agent.mjs", agent)
    run = await session.result(agent, sent.run, timeout=SECONDS)

    assert (run["status"], run["input"]) == ("done", f"ann/{sent.input}")
    assert [part["text"] for part in run["parts"]] == ["You said: Hello"]
    assert len(await ann.log.read(0, f"session.0.{session.id}.{agent}.run.*")) == 1
