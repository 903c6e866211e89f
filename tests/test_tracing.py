"""Traces: from an HTTP request over two agents to a viewer, by real processes, into a real receiver; and off, nothing."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free import tracing
from orchestrator_free.errors import Conflict
from orchestrator_free.jetstream.messages import Message
from orchestrator_free.jetstream.replies import publish_header
from orchestrator_free.subjects import ROOT
from tests.inside import serving
from tests.otlp import Collector, Span, collecting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_free import Broker, Run
    from orchestrator_free.embedded.server import EmbeddedServer

UP = "from orchestrator_free.cli import main\nmain()\n"
SECRET = "the-words-of-ann"
PARENT = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACEPARENT = f"00-{PARENT[0]}-{PARENT[1]}-01"
SERVER, PRODUCER, CONSUMER = 2, 4, 5
PLANNER = """
async with run.tool("look up", {"words": run.input.text}) as call:
    call.output = run.input.text
await run.usage(input_tokens=7, output_tokens=3)
child = await run.delegate("HELPER", run.input.text)
await run.text((await child.result())["parts"][0]["text"])
"""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A receiver to which every process that is started sends its traces soon."""
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found


@pytest.fixture
async def gateway(collector: Collector, programs: Any, broker: EmbeddedServer, eventually: Any, tmp_path: Path) -> str:
    """A gateway as its users start it, with traces on; its URL."""
    script = tmp_path / "up.py"
    script.write_text(UP)
    process = programs.start(script, "up", "--port", "0", "--broker", broker.url)
    return str((await eventually(lambda: re.search(r"gateway (http://\S+)", process.output), 60))[1])


async def one(eventually: Any, collector: Collector, name: str) -> Span:
    """Wait for a span; there is one of that name."""
    await eventually(lambda: collector.named(name), 40)
    (span,) = collector.named(name)
    return span


@pytest.mark.slow
async def test_one_trace_from_a_backends_request_over_two_agents_to_the_viewer(
    collector: Collector, gateway: str, programs: Any, eventually: Any, fresh: Any
) -> None:
    """Request, input, run, tool, delegated run, first delivery: one trace, each in its place, and no word of anybody."""
    planner, helper, session = fresh("planner"), fresh("helper"), fresh("s")
    programs.agent(planner, PLANNER.replace("HELPER", helper))
    programs.agent(helper, "await run.text(run.input.text)")
    async with httpx.AsyncClient(base_url=gateway, timeout=60) as client:
        await client.post("/sessions", json={"session": session})
        async with client.stream("GET", f"/sessions/{session}/events") as feed:
            lines = feed.aiter_lines()
            await anext(lines)
            headers = {"traceparent": TRACEPARENT}
            answer = await client.post(
                f"/sessions/{session}/inputs", json={"text": SECRET, "to": planner}, headers=headers
            )
            assert answer.status_code == 202
            async with asyncio.timeout(60):
                async for line in lines:
                    if '"run.finished"' in line and f'"member":"{planner}"' in line:
                        break
    request = await one(eventually, collector, "POST /sessions/{session}/inputs")
    sent = await one(eventually, collector, f"send {planner}")
    run = await one(eventually, collector, f"invoke_agent {planner}")
    tool = await one(eventually, collector, "execute_tool look up")
    delegated = await one(eventually, collector, f"send {helper}")
    child = await one(eventually, collector, f"invoke_agent {helper}")
    shown = await one(eventually, collector, f"deliver {planner}")
    child_shown = await one(eventually, collector, f"deliver {helper}")
    chain = [request, sent, run, tool, delegated, child, shown, child_shown]

    assert {span.trace for span in chain} == {PARENT[0]}
    assert [span.parent for span in chain] == [
        PARENT[1], request.id, sent.id, run.id, run.id, delegated.id, run.id, child.id,
    ]  # fmt: skip
    assert [span.kind for span in (request, sent, run, shown)] == [SERVER, PRODUCER, CONSUMER, CONSUMER]
    assert [request.service, run.service, child.service] == ["orchestrator-free", planner, helper]
    assert request.attributes["http.response.status_code"] == 202
    assert {span.attributes["orchestrator_free.session"] for span in chain if span not in (request, tool)} == {session}
    assert run.attributes | {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": planner, "gen_ai.conversation.id": session,
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
        "orchestrator_free.run": answer.json()["run"], "orchestrator_free.attempt": 1, "orchestrator_free.status": "done",
    } == run.attributes  # fmt: skip
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert shown.attributes["orchestrator_free.clients"] == 1
    assert not any(span.error for span in chain)
    assert SECRET.encode() not in collector.raw


@pytest.mark.slow
async def test_a_take_over_is_a_second_span_with_a_link_to_the_first(
    collector: Collector, ann: Broker, programs: Any, eventually: Any, fresh: Any
) -> None:
    """The dead attempt sent nothing, but its context stands in the log; both belong to the input's trace."""
    name = fresh("worker")
    session = ann.session(fresh("s"))
    await session.create()
    (first,) = programs.agent(name, 'await run.text("a")\nif run.attempt == 1:\n    await asyncio.sleep(600)',
                              ack_wait_seconds=2)  # fmt: skip
    sent = await session.send("hello", to=name)
    subject = f"{ROOT}.{session.shard}.{session.id}.{name}.run.{sent.run}"

    async def began() -> list[Message]:
        return list(await ann.log.read_all(session.shard, subject))

    await eventually(lambda: _length(began, 2), 40)
    (begun, word) = await began()
    dead = begun.trace.split("-")[2]
    assert word.header.count(b"traceparent") == 0  # tokens carry none
    first.kill()
    programs.agent(name, 'await run.text("b")', ack_wait_seconds=2)
    span = await one(eventually, collector, f"invoke_agent {name}")

    assert span.links == [dead]
    assert span.attributes["orchestrator_free.attempt"] == 2
    assert span.trace != ""
    assert [one.id for one in collector.spans if one.id == dead] == []


async def _length(read: Any, least: int) -> bool:
    return len(await read()) >= least


@pytest.fixture
def traced(collector: Collector) -> Iterator[Collector]:
    """Traces on in this process, for this test."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from orchestrator_free.tracing.otel import OtelTracer

    provider = TracerProvider(resource=Resource.create({"service.name": "test"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces")))
    tracing.tracer = OtelTracer(provider)
    try:
        yield collector
    finally:
        tracing.tracer = None
        provider.shutdown()


async def test_a_context_changes_nothing_about_sending_again(ann: Broker, traced: Collector, fresh: Any) -> None:
    """The same id and content in another trace is the same input; other content is a conflict, as without traces."""
    session = ann.session(fresh("s"))
    await session.create()
    first = await session.send("hello", to="bot", id="i1")
    again = await session.send("hello", to="bot", id="i1")
    (stored,) = await ann.log.read_all(session.shard, f"{ROOT}.{session.shard}.{session.id}.ann.in.bot.i1")

    assert (again.repeated, again.position) == (True, first.position)
    assert stored.trace.split("-")[1] == traced.named("send bot")[0].trace
    assert not stored.copied
    with pytest.raises(Conflict):
        await session.send("other", to="bot", id="i1")


async def test_a_lost_answer_is_found_with_its_context(ann: Broker, traced: Collector, fresh: Any) -> None:
    """A retry is recognised by header and payload, and the context is in both tries (docs/decisions.md 2)."""
    session = ann.session(fresh("s"))
    await session.create()
    wire, lost = ann.log.wire, []
    exchange = wire.exchange

    async def lossy(subject: str, payload: bytes, **more: Any) -> Any:
        answer = await exchange(subject, payload, **more)
        if ".in." in subject and not lost:
            lost.append(more["header"])
            raise TimeoutError
        return answer

    wire.exchange = lossy  # type: ignore[method-assign]
    try:
        sent = await session.send("hello", to="bot")
    finally:
        del wire.exchange
    stored = await ann.log.read_all(session.shard, f"{ROOT}.{session.shard}.{session.id}.*.in.>")

    assert [session.position(message.sequence) for message in stored] == [sent.position]
    assert b"traceparent: 00-" in lost[0]


async def test_a_failing_run_is_an_error_and_its_tool_calls_end(
    ann: Broker, broker_url: str, traced: Collector, fresh: Any, eventually: Any
) -> None:
    """Status and error type stand on the spans, what went wrong does not; a tool that is still open ends with the run."""

    async def fail(run: Run) -> None:
        await run.emit({"type": "tool.input", "call": "open", "tool": "open", "input": SECRET})
        async with run.tool("bad", SECRET):
            raise ValueError(SECRET)

    name = fresh("bot")
    session = ann.session(fresh("s"))
    await session.create()
    async with serving(broker_url, name, fail):
        sent = await session.send("hello", to=name)
        await session.result(name, sent.run, timeout=20)
        run = await one(eventually, traced, f"invoke_agent {name}")
    tools = {span.name: span for span in traced.spans if span.parent == run.id}

    assert run.error
    assert run.attributes["error.type"] == run.attributes["orchestrator_free.status"] == "error"
    assert {name: span.error for name, span in tools.items()} == {"execute_tool bad": True, "execute_tool open": False}
    assert SECRET.encode() not in traced.raw


@pytest.mark.parametrize(
    "written",
    ["00-xyz-b7ad6b7169203331-01", TRACEPARENT + "-more", "01" * 40, "\xff\xfe", ""],
)
def test_a_header_that_is_no_context_is_passed_over(written: str) -> None:
    """Anybody may write anything there; it is neither believed nor in the way."""
    header = f"NATS/1.0\r\ntraceparent: {written}\r\n\r\n".encode("latin-1")

    assert Message("s", 1, "", b"", rollup=False, header=header).trace == ""
    good = publish_header(0, "", rollup="", message_id="", trace=TRACEPARENT)
    assert Message("s", 1, "", b"", rollup=False, header=good).trace == TRACEPARENT


def test_off_nothing_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    """Neither the library, nor a gateway, nor the command line, nor an agent loads it; nor has a message a header more."""
    code = (
        "import sys, orchestrator_free, orchestrator_free.cli.app, orchestrator_free.gateway.app\n"
        "from orchestrator_free import tracing\ntracing.configure('x')\n"
        "print(sorted(m for m in sys.modules if m.startswith('opentelemetry')), tracing.tracer)"
    )
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, timeout=60)

    assert done.stdout.strip() == "[] None", done.stderr
    assert tracing.traceparent("in") == ""
    assert publish_header(3, "", rollup="", message_id="") == (
        b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 3\r\n\r\n"
    )


def test_an_endpoint_without_the_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is an error that says what to install; in the environment it may be meant for others: a warning."""
    from orchestrator_free.errors import InvalidInput

    monkeypatch.setitem(sys.modules, "orchestrator_free.tracing.otel", None)
    with pytest.raises(InvalidInput, match=r"orchestrator-free\[otel\]"):
        tracing.configure("x", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    tracing.configure("x")

    assert tracing.tracer is None


@pytest.mark.slow
async def test_what_a_token_costs_off_and_on(ann: Broker, broker_url: str, traced: Collector, fresh: Any) -> None:
    """Printed: microseconds of the handler's side of a token, traces off and on; tokens carry no context either way."""

    async def talk(run: Run) -> None:
        begun = time.perf_counter()
        for _ in range(5000):
            await run.text("word ")
        await run.data("took", time.perf_counter() - begun)

    async def measure() -> float:
        name = fresh("bot")
        session = ann.session(fresh("s"))
        await session.create(compaction="off")
        async with serving(broker_url, name, talk):
            sent = await session.send("hello", to=name)
            view = await session.result(name, sent.run, timeout=60)
        messages = await ann.log.read_all(session.shard, f"{ROOT}.{session.shard}.{session.id}.{name}.run.>")
        assert sum(bool(message.trace) for message in messages) == (tracing.tracer is not None)
        return float(next(part["data"] for part in view["parts"] if part["type"] == "data")) / 5000 * 1e6

    off, on = [], []
    tracer = tracing.tracer
    for _ in range(4):
        tracing.tracer = None
        off.append(await measure())
        tracing.tracer = tracer
        on.append(await measure())
    print(f"\n{min(off):.1f} µs a token with traces off, {min(on):.1f} µs with traces on")
