"""An agent of theirs, on their own host, takes part in a session of ours."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
from synadia_ai.agent_service import AgentService
from synadia_ai.agents import Attachment, ResponseChunk

from orchestrator_free import Run, connect
from orchestrator_free.synadia import Guest
from orchestrator_free.synadia.guest import Where, discover
from tests.inside import serving, watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free.broker import Broker
    from orchestrator_free.embedded.server import EmbeddedServer


@asynccontextmanager
async def host(url: str, name: str, handler: Any) -> AsyncIterator[AgentService]:
    """Serve one agent as their package does it."""
    connection = await nats.connect(url)
    service = AgentService(
        agent="theirs", owner="acme", session_name=name, nc=connection, description="a demonstration"
    )
    service.on_prompt(handler)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await connection.close()


@asynccontextmanager
async def invited(url: str, name: str, where: str) -> AsyncIterator[None]:
    """Let it take part under a name of ours."""
    ready = asyncio.Event()
    async with connect(url, member=name) as broker:
        task = asyncio.create_task(Guest(name, Where.parse(where), grace_seconds=0).serve(broker, ready=ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 20)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def shout(envelope: Any, stream: Any) -> None:
    """Say every word louder."""
    for word in envelope.prompt.split():
        await stream.send(f"{word.upper()} ")
        await asyncio.sleep(0.02)


async def result(ann: Broker, session: str, agent: str, text: str) -> Any:
    """Ask and wait."""
    asked = ann.session(session)
    if not await asked.exists():
        await asked.create()
    sent = await asked.send(text, to=agent)
    return await asked.result(agent, sent.run, timeout=40)


async def test_a_guest_answers_beside_agents_of_ours(ann: Broker, broker_url: str, fresh: Any) -> None:
    """One input to both: the view groups what each has written."""
    name, own, session = fresh("guest"), fresh("own"), ann.session(fresh("s"))
    await session.create(agents=[name, own])

    async def whisper(run: Run) -> None:
        await run.text(run.input.text.lower())

    async with host(broker_url, name, shout), invited(broker_url, name, f"theirs.acme.{name}"):
        async with serving(broker_url, own, whisper):
            sent = await session.send("Hello World", to=[name, own])
            for agent in (name, own):
                await session.result(agent, sent.run, timeout=30)

    view = await session.view()
    texts = {one["agent"]: one["runs"][0]["parts"][0]["text"] for one in view["agents"]}
    assert texts == {name: "HELLO WORLD ", own: "hello world"}


async def test_a_guests_question_is_asked_in_the_session(ann: Broker, broker_url: str, fresh: Any) -> None:
    """Anybody in the session answers it, and the guest goes on with the answer."""
    name, session = fresh("guest"), ann.session(fresh("s"))
    await session.create(agents=[name])

    async def ask(envelope: Any, stream: Any) -> None:
        answer = await stream.ask("Which size?", timeout=30)
        await stream.send(f"size {answer.prompt}")

    async with host(broker_url, name, ask), invited(broker_url, name, f"theirs.acme.{name}"):
        sent = await session.send("order", to=name)
        async for event in session.follow(kinds=["ask"]):
            assert event.body["text"] == "Which size?"
            await session.asks.answer(event.id, "XL")
            break
        run = await session.result(name, sent.run, timeout=30)

    assert run["parts"][-1]["text"] == "size XL"


async def test_a_guests_files_are_files_of_the_session(ann: Broker, broker_url: str, fresh: Any) -> None:
    """With name and bytes."""
    name = fresh("guest")

    async def draw(envelope: Any, stream: Any) -> None:
        await stream.send(ResponseChunk(text="here", attachments=[Attachment.from_bytes("x.svg", b"<svg/>")]))

    async with host(broker_url, name, draw), invited(broker_url, name, f"theirs.acme.{name}"):
        session = fresh("s")
        run = await result(ann, session, name, "draw")

    file = next(part for part in run["parts"] if part["type"] == "file")
    assert file["name"] == "x.svg"
    assert await ann.session(session).object(file["object"]) == b"<svg/>"


async def test_a_guest_that_fails_or_is_not_there_ends_its_run_with_an_error(
    ann: Broker, broker_url: str, fresh: Any
) -> None:
    """What it had said is kept; who is not there is named."""
    name = fresh("guest")

    async def fail(envelope: Any, stream: Any) -> None:
        await stream.send("I begin")
        raise ValueError("broken")

    async with invited(broker_url, name, f"theirs.acme.{name}"):
        missing = await result(ann, fresh("s"), name, "hello")
        async with host(broker_url, name, fail):
            failed = await result(ann, fresh("s"), name, "hello")

    assert (missing["status"], "answers discovery" in missing["error"]) == ("error", True)
    assert (failed["status"], failed["parts"][0]["text"]) == ("error", "I begin")


async def test_a_gap_in_a_guests_answer_is_told(
    broker: EmbeddedServer, ann: Broker, fresh: Any, eventually: Any
) -> None:
    """Their chunks are lost while the broker is away; the run says so instead of passing for whole."""
    name, session = fresh("guest"), ann.session(fresh("s"))
    await session.create(agents=[name])

    async def slow(envelope: Any, stream: Any) -> None:
        for number in range(40):
            await stream.send(f"{number} ")
            await asyncio.sleep(0.1)

    async with host(broker.url, name, slow), invited(broker.url, name, f"theirs.acme.{name}"):
        async with watching(session) as fold:
            sent = await session.send("count", to=name)
            await eventually(lambda: (run := fold.run(name, sent.run)) and "5 " in str(run.view()["parts"]), 30)
            await broker.restart(kill=True)
            run = await session.result(name, sent.run, timeout=60)

    assert any("may have a gap" in str(part.get("message")) for part in run["parts"])


async def test_agents_are_listed_as_they_answer_discovery(broker_url: str, ann: Broker, fresh: Any) -> None:
    """By the address that `synadia guest` takes."""
    name = fresh("guest")
    async with host(broker_url, name, shout):
        found = await discover(ann.log.wire)

    assert ("theirs", "acme", name) in [(one.agent, one.owner, one.session_name) for one in found]
