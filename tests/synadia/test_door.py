"""The unmodified Synadia client and our agents: found, prompted, asked back, through restarts and bad input."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest
from synadia_ai.agents import Attachment, Envelope, ProtocolError, Query, ResponseChunk, StatusChunk

from orchestrator_free import Run, RunError
from tests.inside import serving
from tests.synadia.conftest import doors

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker
    from orchestrator_free.embedded.server import EmbeddedServer

WORDS = [f"word{number} " for number in range(60)]


async def tell(run: Run) -> None:
    """Write sixty words, slowly."""
    for word in WORDS:
        await run.text(word)
        await asyncio.sleep(0.03)


async def greet(run: Run) -> None:
    """Answer at once."""
    await run.text(f"Hello, {run.input.text}!")


async def text_of(stream: Any) -> str:
    """Return all text of an answer."""
    return "".join([message.text async for message in stream if isinstance(message, ResponseChunk)])


async def raw(url: str, subject: str, payload: bytes, seconds: float = 15.0) -> list[Any]:
    """Send a request as it is and return all messages up to the end."""
    connection = await nats.connect(url)
    try:
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        await connection.publish(subject, payload, reply=inbox)
        found = []
        while True:
            message = await answers.next_msg(seconds)
            if message.data == b"" and not message.headers:
                return found
            found.append(message)
    finally:
        await connection.close()


async def test_a_living_agent_is_discovered_and_its_answer_comes_whole(broker_url: str, find: Any, fresh: Any) -> None:
    """A prompt to the registration `new` begins a session; the session holds what was asked and answered."""
    name = fresh("greeter")
    async with serving(broker_url, name, greet) as (agent, *_), doors(broker_url):
        found = await find(name, "new")
        messages = [message async for message in found.prompt("Ada")]

        texts = [message.text for message in messages if isinstance(message, ResponseChunk)]
        assert "".join(texts) == "Hello, Ada!"
        words = [message.status for message in messages if isinstance(message, StatusChunk)]
        assert words[0] == "ack"
        session, _, asked = words[1].removeprefix("input ").partition("/")
        view = await agent.session(session).view()
        assert [(entry["input"], entry["from"], entry["text"]) for entry in view["inputs"]] == [
            (asked, "synadia", "Ada")
        ]


async def test_an_answer_goes_through_the_death_of_the_broker_without_losing_a_word(
    broker: EmbeddedServer, find: Any, fresh: Any, capsys: Any
) -> None:
    """The broker is killed in the middle; their own host loses what it says meanwhile (15 of 40 tokens, FIELD 1.5)."""
    name = fresh("teller")
    async with serving(broker.url, name, tell), doors(broker.url):
        found = await find(name, "new")
        got: list[str] = []
        async with asyncio.timeout(60):
            async for message in found.prompt("go", timeout=50):
                if isinstance(message, ResponseChunk):
                    got.append(message.text)
                    if len("".join(got).split()) == 20:
                        await broker.restart(kill=True)

        print(f"{len(''.join(got).split())} of {len(WORDS)} words in {len(got)} chunks, the broker killed after 20")
        assert "".join(got) == "".join(WORDS)


async def test_an_agent_of_a_session_is_prompted_in_that_session(
    ann: Broker, broker_url: str, find: Any, fresh: Any
) -> None:
    """Callers and everybody else are in one session: the view shows both inputs."""
    name, session = fresh("greeter"), ann.session(fresh("s"))
    await session.create(title="Shared", agents=[name])
    async with serving(broker_url, name, greet), doors(broker_url):
        await session.send("Ann", to=name)
        found = await find(name, session.id)
        assert found.description == f"{name} in Shared"
        assert await text_of(found.prompt("Bob")) == "Hello, Bob!"

        view = await session.view()
        assert [(entry["from"], entry["text"]) for entry in view["inputs"]] == [("ann", "Ann"), ("synadia", "Bob")]


async def test_what_an_agent_asks_reaches_the_caller_and_the_answer_stands_in_the_session(
    ann: Broker, broker_url: str, find: Any, fresh: Any
) -> None:
    """An answer that is none of the options is asked for again; the one that counts is the caller's."""
    name, session = fresh("clerk"), ann.session(fresh("s"))
    await session.create(agents=[name])

    async def ask(run: Run) -> None:
        decision = await run.ask("Which colour?", options=["red", "blue"])
        await run.text(f"It is {decision.value}, says {decision.by[0]}.")

    asked: list[str] = []
    async with serving(broker_url, name, ask), doors(broker_url):
        found = await find(name, session.id)
        got = ""
        async for message in found.prompt("paint"):
            if isinstance(message, Query):
                asked.append(message.prompt)
                await message.reply("green" if len(asked) == 1 else " Blue ")
            elif isinstance(message, ResponseChunk):
                got += message.text

        assert got == "It is blue, says synadia."
        assert len(asked) == 2
        assert asked[0] == "Which colour? (red / blue)"


async def test_files_go_both_ways(broker_url: str, find: Any, fresh: Any) -> None:
    """An attachment is an object of the session, beside the text; a file of the run is an attachment of the answer."""
    name = fresh("copyist")

    async def copy(run: Run) -> None:
        file = run.input.data["attachments"][0]
        content = await run.session.object(file["object"])
        assert content is not None
        await run.file(f"copy-of-{file['name']}", content[::-1])

    async with serving(broker_url, name, copy), doors(broker_url):
        found = await find(name, "new")
        files = [Attachment.from_bytes("a.bin", b"\x00\x01\x02")]
        answers = [
            message async for message in found.prompt("copy", attachments=files) if isinstance(message, ResponseChunk)
        ]

        assert [(file.filename, file.to_bytes()) for answer in answers for file in answer.attachments or ()] == [
            ("copy-of-a.bin", b"\x02\x01\x00")
        ]


async def test_a_caller_that_was_cut_off_goes_on_where_its_text_ends(broker_url: str, find: Any, fresh: Any) -> None:
    """What has come and what is resumed are the answer, though the run went on meanwhile."""
    name = fresh("teller")
    async with serving(broker_url, name, tell), doors(broker_url):
        found = await find(name, "new")
        had, where = "", ""
        async with contextlib.aclosing(found.prompt("go")) as stream:
            async for message in stream:
                if isinstance(message, StatusChunk) and message.status.startswith("input "):
                    where = message.status.removeprefix("input ")
                if isinstance(message, ResponseChunk):
                    had += message.text
                    if len(had) > 100:
                        break
        session, _, asked = where.partition("/")
        again = await find(name, session)
        rest = await text_of(again.prompt(Envelope(prompt="go on", resume={"input": asked, "characters": len(had)})))

        assert had + rest == "".join(WORDS)
        assert rest


async def test_a_prompt_under_the_same_id_is_asked_once(broker_url: str, find: Any, fresh: Any, ann: Broker) -> None:
    """A caller that does not know whether its prompt came says it again; other words under the id are refused."""
    name, session = fresh("greeter"), ann.session(fresh("s"))
    await session.create(agents=[name])
    async with serving(broker_url, name, greet), doors(broker_url):
        found = await find(name, session.id)
        answers = [await text_of(found.prompt(Envelope(prompt="Ada", id="once"))) for _ in range(2)]
        with pytest.raises(ProtocolError, match="409"):
            await text_of(found.prompt(Envelope(prompt="Bob", id="once")))

        assert answers == ["Hello, Ada!"] * 2
        assert len((await session.view())["inputs"]) == 1


async def test_a_run_that_fails_ends_with_an_error_behind_what_it_had_said(
    broker_url: str, find: Any, fresh: Any
) -> None:
    """The text that came before is the caller's; the error says what people may see."""
    name = fresh("clumsy")

    async def fail(run: Run) -> None:
        await run.text("I begin")
        raise RunError("the oven is cold")

    got = ""
    async with serving(broker_url, name, fail), doors(broker_url):
        found = await find(name, "new")
        with pytest.raises(ProtocolError, match=r"500.*the oven is cold"):
            async for message in found.prompt("cook"):
                got += message.text if isinstance(message, ResponseChunk) else ""

    assert got == "I begin"


async def test_a_cancelled_run_ends_the_answer(ann: Broker, broker_url: str, find: Any, fresh: Any) -> None:
    """The protocol has no cancel; one from anywhere else ends the caller's answer, too."""
    name, session = fresh("teller"), ann.session(fresh("s"))
    await session.create(agents=[name])
    async with serving(broker_url, name, tell), doors(broker_url):
        found = await find(name, session.id)
        with pytest.raises(ProtocolError, match="409"):
            async for message in found.prompt("go"):
                if isinstance(message, ResponseChunk) and "word9 " in message.text:
                    await session.control.cancel(to=name)


BAD = [
    (b"", 400, "empty"),
    (b'{"prompt": ', 400, "JSON"),
    (b'{"prompt": 7}', 400, "prompt"),
    (b'{"prompt": "  "}', 400, "empty"),
    (b"\xff\xfe", 400, "UTF-8"),
    (b'{"prompt": "x", "id": "a.b"}', 400, "id"),
    (b'{"prompt": "x", "attachments": [{"filename": "a", "content": "%%"}]}', 400, "base64"),
    (b'{"prompt": "x", "resume": {"input": "nobody", "characters": 0}}', 404, "nobody"),
]


@pytest.mark.parametrize(("payload", "code", "word"), BAD, ids=lambda value: str(value)[:40])
async def test_a_bad_prompt_gets_an_error_that_says_what_was_wrong(
    ann: Broker, broker_url: str, fresh: Any, payload: bytes, code: int, word: str
) -> None:
    """The code stands in the header, the words in the body; nothing is asked."""
    session = ann.session(fresh("s"))
    await session.create(agents=["greeter"])
    async with doors(broker_url, owner="bad"):
        *_, refusal = await raw(broker_url, f"agents.prompt.greeter.bad.{session.id}", payload)

        assert refusal.headers["Nats-Service-Error-Code"] == str(code)
        assert word in orjson.loads(refusal.data)["message"]
        assert (await session.view())["inputs"] == []


@pytest.mark.parametrize(("agent", "session"), [("nobody", "new"), ("greeter", "no-such-session")])
async def test_a_prompt_to_nobody_is_refused_at_once(broker_url: str, agent: str, session: str) -> None:
    """Their own client waits for an agent that is not there until it gives up."""
    async with doors(broker_url, owner="nobody"):
        *_, refusal = await raw(broker_url, f"agents.prompt.{agent}.nobody.{session}", b"hello")

    assert refusal.headers["Nats-Service-Error-Code"] == "404"


async def test_doors_share_the_callers_and_one_may_die(broker_url: str, find: Any, fresh: Any, caller: Any) -> None:
    """Of two doors each registration is listed once, each prompt answered once; either alone does the same."""
    name = fresh("greeter")
    async with serving(broker_url, name, greet), doors(broker_url, 2) as (first, _):
        found = await find(name, "new")
        assert [await text_of(found.prompt(f"n{number}")) for number in range(6)] == [
            f"Hello, n{number}!" for number in range(6)
        ]
        assert sum(one.agent == name for one in await caller.discover()) == len(
            {one.instance_id for one in await caller.discover() if one.agent == name}
        )
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await text_of(found.prompt("last")) == "Hello, last!"


async def test_a_status_request_tells_that_the_agent_is_there(broker_url: str, find: Any, fresh: Any) -> None:
    """With the processes that do its work."""
    name = fresh("greeter")
    async with serving(broker_url, name, greet), doors(broker_url):
        found = await find(name, "new")
        beat = await found.status()

    assert (beat.agent, beat.instance_id, beat.extras["replicas"]) == (name, found.instance_id, 1)


async def test_more_prompts_than_a_door_answers_are_refused(broker_url: str, find: Any, fresh: Any) -> None:
    """With the code for it; nothing is asked twice or forgotten."""
    name = fresh("teller")
    async with serving(broker_url, name, tell), doors(broker_url, at_once=1):
        found = await find(name, "new")
        async with contextlib.aclosing(found.prompt("go")) as stream:
            await anext(stream)
            with pytest.raises(ProtocolError, match="429"):
                await text_of(found.prompt("me too"))
