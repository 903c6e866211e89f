"""Callers of the Synadia Agent Protocol at a broker that enforces permissions, each in an account of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
import nkeys
import pytest
from synadia_ai.agents import Agents, Envelope, Query, ResponseChunk
from synadia_ai.agents.identity import (
    AgentId,
    Identity,
    serialize_sender_header,
    sign_sender_header,
    signer_from_seed,
)

from orchestrator_free import Broker, Run, connect
from orchestrator_free.brokerdir import BrokerFolder
from orchestrator_free.brokerdir.running import embedded, prepare_all, stream_settings
from orchestrator_free.callout.grants import AUDIENCE, REQUIRED, mint
from orchestrator_free.callout.service import CalloutService
from orchestrator_free.errors import InvalidInput
from orchestrator_free.identity.keys import public_path, read_key_file, write_new_keys
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.steward import Steward
from orchestrator_free.synadia import DoorSettings, FrontDoor, Guest
from orchestrator_free.synadia.guest import Where
from tests.inside import serving
from tests.synadia.test_guest import shout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


async def clerk(run: Run) -> None:
    """Ask when told to, then answer with words and a file."""
    if run.input.text == "paint":
        decision = await run.ask("Which colour?", options=["red", "blue"])
        await run.text(f"It is {decision.value}. ")
    await run.text(f"Hello, {run.input.text}!")
    await run.file("note.txt", b"noted")


@asynccontextmanager
async def secured(path: Path, *, isolated: bool = True, **changes: Any) -> AsyncIterator[tuple[BrokerFolder, Broker]]:
    """Run a broker of `broker init` with a gateway, an agent, a door and two callers."""
    ports = {"port": 0, "monitor_port": 0}
    folder, _ = BrokerFolder.init(path / "b", durability="interval", isolated=isolated, **ports, **changes)
    for name, role in (("clerk", "isolated" if isolated else "agent"), ("synadia", "door"), ("visitor", "guest")):
        folder.add("main", name, role)
    for name in ("partner", "stranger"):
        folder.add("main", name, "caller")
    async with embedded(folder), _as(folder, "gateway", settings=stream_settings(folder)) as gateway, Steward(gateway):
        yield folder, gateway


def _as(folder: BrokerFolder, name: str, **more: Any) -> Any:
    return connect(**folder.options("main", name), **more)


@asynccontextmanager
async def door(folder: BrokerFolder, **settings: Any) -> AsyncIterator[None]:
    """Run the front door in its role, and the agent behind it."""
    clerks = serving(folder.url, "clerk", clerk, nkey_seed=folder.seed("main", "clerk"))
    async with clerks, _as(folder, "synadia") as broker:
        ready = asyncio.Event()
        task = asyncio.create_task(FrontDoor(broker, DoorSettings(**settings)).run(ready=ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 20)
            await broker.log.wire.settled()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def calling(folder: BrokerFolder, name: str = "partner", **access: Any) -> AsyncIterator[Agents]:
    """Connect a caller as its own people would: their client, an address and a key, nothing of ours."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    access = access or {"nkeys_seed": str(folder.seed("main", name))}
    connection = await nats.connect(folder.url, error_cb=note, **access)
    agents = Agents(nc=connection)
    try:
        yield agents
    finally:
        await agents.close()
        await connection.close()
    assert refused == []


async def found(agents: Agents) -> Any:
    """Discover the agent's registration for new sessions."""
    for _ in range(40):
        for one in await agents.discover(stall=0.3):
            if (one.agent, one.session_name) == ("clerk", "new"):
                return one
    raise AssertionError("not discovered")


async def said(agent: Any, text: Any, answer: str = "blue") -> tuple[str, list[str]]:
    """Prompt; return all text, and the names of the files."""
    words, files = "", []
    async with asyncio.timeout(60):
        async for message in agent.prompt(text):
            if isinstance(message, Query):
                await message.reply(answer)
            elif isinstance(message, ResponseChunk):
                words += message.text
                files += [file.filename for file in message.attachments or ()]
    return words, files


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "one account"])
async def test_the_unmodified_client_is_served_at_a_secured_broker(tmp_path: Path, isolated: bool) -> None:
    """Found, prompted, asked back, given a file: from an account that has nothing but what it imports."""
    async with secured(tmp_path, isolated=isolated) as (folder, gateway), door(folder), calling(folder) as agents:
        agent = await found(agents)
        assert await said(agent, "Ada") == ("Hello, Ada!", ["note.txt"])
        assert await said(agent, "paint") == ("It is blue. Hello, paint!", ["note.txt"])

        views = [await gateway.session(one.session).view() for one in await gateway.sessions()]
        assert sorted((entry["from"], entry["text"]) for view in views for entry in view["inputs"]) == [
            ("synadia", "Ada"), ("synadia", "paint"),
        ]  # fmt: skip


async def test_callers_come_in_by_token_into_their_own_account(tmp_path: Path) -> None:
    """The callout lets in a caller that has an account, and no other."""
    write_new_keys(keys := tmp_path / "keys.json", "EdDSA")
    key = next(iter(read_key_file(keys).values()))
    verifier = Verifier(FileKeys(public_path(keys)), audience=AUDIENCE, leeway=0, required=REQUIRED)
    async with secured(tmp_path, callout=True) as (folder, _), CalloutService.open(folder, verifier):
        await prepare_all(folder)
        async with door(folder), calling(folder, token=mint(key, "partner", "caller", tenant="main")) as agents:
            assert await said(await found(agents), "Ada") == ("Hello, Ada!", ["note.txt"])
        with pytest.raises(nats.errors.Error):
            await nats.connect(
                folder.url, token=mint(key, "nobody", "caller", tenant="main"), allow_reconnect=False,
                max_reconnect_attempts=0,
            )  # fmt: skip


async def test_callers_hear_nothing_of_each_other(tmp_path: Path) -> None:
    """Their library listens below one inbox for all: an account for each keeps their answers apart."""
    async with secured(tmp_path) as (folder, _), door(folder), calling(folder) as agents:
        overheard: list[bytes] = []
        spy = await nats.connect(folder.url, nkeys_seed=str(folder.seed("main", "stranger")))

        async def take(message: Any) -> None:
            overheard.append(message.data)

        await spy.subscribe("_INBOX.agents.>", cb=take)
        await spy.flush()
        try:
            agent = await found(agents)
            assert (await said(agent, "paint"))[0] == "It is blue. Hello, paint!"
            await spy.flush()
            assert overheard == []
            await spy.publish("$SRV.PING.agents", b"", reply="_INBOX.agents.own")  # so that it would hear
            async with asyncio.timeout(20):
                while not overheard:
                    await asyncio.sleep(0.05)
        finally:
            await spy.close()


async def test_the_door_answers_into_no_subject_but_an_inbox(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    """Somebody in the door's own account names an input of the log as reply subject: nothing is stored there."""
    async with secured(tmp_path, isolated=False) as (folder, gateway), door(folder), calling(folder) as agents:
        await found(agents)
        aimed = "session.0.s1.synadia.in.clerk.forged"
        visitor = await nats.connect(
            folder.url, nkeys_seed=str(folder.seed("main", "visitor")), inbox_prefix=b"_INBOX.visitor"
        )
        for subject in ("agents.prompt.clerk.orchestrator-free.new", "agents.status.clerk.orchestrator-free.new"):
            await visitor.publish(subject, b'{"prompt": "hello"}', reply=aimed)
        for subject in ("$SRV.PING.agents", "$SRV.INFO.agents"):
            await visitor.publish(subject, b"", reply=aimed)
        await visitor.close()
        assert await said(await found(agents), "Ada") == ("Hello, Ada!", ["note.txt"])  # the door has gone on
        assert await gateway.log.read(0, aimed) == []
        assert len(await gateway.sessions()) == 1


async def test_a_guest_works_in_its_role(tmp_path: Path) -> None:
    """Their host, by an import of the operator's; the guest's process, which may be nobody but itself."""
    from synadia_ai.agent_service import AgentService

    async with secured(tmp_path, isolated=False) as (folder, gateway):
        # The operator lets a host of theirs into the account: here, as the door may hear prompts and reply.
        connection = await nats.connect(folder.url, nkeys_seed=str(folder.seed("main", "synadia")))
        service = AgentService(agent="theirs", owner="acme", session_name="one", nc=connection, description="x")
        service.on_prompt(shout)
        await service.start()
        ready = asyncio.Event()
        async with _as(folder, "visitor") as broker:
            guest = Guest("visitor", Where.parse("theirs.acme.one"), grace_seconds=0)
            task = asyncio.create_task(guest.serve(broker, ready=ready.set))
            try:
                await asyncio.wait_for(ready.wait(), 30)
                session = Broker(gateway.log, "ann").session("s1")
                await session.create()
                sent = await session.send("hello you", to="visitor")
                run = await session.result("visitor", sent.run, timeout=40)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await service.stop()
                await connection.close()

    assert run["status"] == "done", json.dumps(run)
    assert "".join(part["text"] for part in run["parts"] if part["type"] == "text") == "HELLO YOU "


async def test_a_signed_prompt_says_who_sent_it_and_a_wrong_signature_is_refused(tmp_path: Path) -> None:
    """By their client, with its own key: what was signed stands beside the input; forged, old, replayed: 401, nothing."""
    async with secured(tmp_path) as (folder, gateway), door(folder), calling(folder) as agents:
        seed = folder.seed("main", "partner").read_text().strip()
        connection = agents._nc
        signing = Agents(nc=connection, identity=Identity(signer=signer_from_seed(seed), name="Ada of partner"))
        assert (await said(await found(signing), "Ada"))[0] == "Hello, Ada!"
        lie = {"user": "U" * 56, "account": "main"}
        assert (await said(await found(agents), Envelope(prompt="Bob", sender=lie)))[0] == "Hello, Bob!"
        views = [await gateway.session(one.session).view() for one in await gateway.sessions()]
        data = {view["inputs"][0]["text"]: view["inputs"][0]["data"] for view in views}
        key = folder.plan.tenant("main").user("partner").nkey  # type: ignore[union-attr]
        assert data["Ada"]["sender"] == {"account": "main--caller--partner", "user": key, "name": "Ada of partner"}
        assert data["Bob"] is None

        subject, payload = "agents.prompt.clerk.orchestrator-free.new", b'{"prompt": "Eve"}'
        signer, who = signer_from_seed(seed), AgentId.new("main--caller--partner", key)

        async def header(text: bytes = payload, at: str = subject, **more: Any) -> str:
            made = await sign_sender_header(signer=signer, id=who, sub=at, payload=text, **more)
            return serialize_sender_header(made)

        good = await header()
        other = nkeys.from_seed(bytearray(folder.seed("main", "stranger").read_bytes().strip())).public_key.decode()
        tries = {
            "another payload": (await header(b'{"prompt": "Mallory"}'), "401"),
            "another subject": (await header(at="agents.prompt.clerk.orchestrator-free.s1"), "401"),
            "another user": (good.replace(key, other), "401"),
            "another account": (good.replace("main--caller", "rival--caller"), "401"),
            "old": (await header(ts="2026-01-01T00:00:00Z"), "401"),
            "no header": ("{", "400"),
            "half a header": (good[:-20], "400"),
            "good": (good, None),
            "again": (good, "401"),
        }
        for name, (value, code) in tries.items():
            assert await _code(connection, subject, payload, {"Agent-Sender": value}) == code, name
        assert len(await gateway.sessions()) == 3


async def _code(connection: Any, subject: str, payload: bytes, headers: dict[str, str]) -> str | None:
    """Prompt; return the error's code."""
    inbox = f"_INBOX.agents.{secrets.token_hex(8)}"
    answers = await connection.subscribe(inbox)
    await connection.publish(subject, payload, reply=inbox, headers=headers)
    code = None
    while True:
        message = await answers.next_msg(30)
        code = (message.headers or {}).get("Nats-Service-Error-Code", code)
        if not message.data and not message.headers:
            await answers.unsubscribe()
            return code


async def test_a_door_may_insist_on_signatures(tmp_path: Path) -> None:
    """It says so in its registrations; their client then signs or does not ask; who asks all the same gets 401."""
    async with secured(tmp_path) as (folder, gateway), door(folder, signed=True), calling(folder) as agents:
        assert (await found(agents)).min_sender_trust == "signed"
        subject = "agents.prompt.clerk.orchestrator-free.new"
        assert await _code(agents._nc, subject, b'{"prompt": "Eve"}', {}) == "401"
        seed = folder.seed("main", "partner").read_text().strip()
        signing = Agents(nc=agents._nc, identity=Identity(signer=signer_from_seed(seed)))
        assert (await said(await found(signing), "Ada"))[0] == "Hello, Ada!"
        assert len(await gateway.sessions()) == 1


def test_no_two_callers_get_one_account(tmp_path: Path) -> None:
    """Names that could be read in two ways are refused, of tenants as of callers."""
    folder, _ = BrokerFolder.init(tmp_path / "b", port=0, monitor_port=0)
    for tenant in ("a--caller--b", "x--caller--"):
        with pytest.raises(InvalidInput, match="own"):
            folder.add_tenant(tenant)
    folder.add_tenant("a--b")
    for tenant, caller in (("main", "x--y"), ("a--b", "x"), ("main", "agents")):
        with pytest.raises(InvalidInput):
            folder.add(tenant, caller, "caller")
    assert "x" not in (folder.path / "users.conf").read_text().split("--caller--")
