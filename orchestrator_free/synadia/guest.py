"""A discovered agent of the Synadia Agent Protocol as a member of sessions: inputs become prompts, chunks become a run.

Its side of the answer is core NATS: chunks that are sent while this process is away are lost for ever. What has come
stands in the session; a prompt whose connection broke is said to have a gap.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Self

from orchestrator_free.agent import Agent
from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput
from orchestrator_free.jetstream import Wire
from orchestrator_free.synadia.senders import library
from orchestrator_free.working.run import Run, RunError

if TYPE_CHECKING:
    from synadia_ai import agents as synadia

_ADDRESS = re.compile(r"([^.\s]+)\.([^.\s]+)\.([^.\s]+)")


@dataclass(frozen=True, slots=True)
class Where:
    """Which discovered agent: the last three tokens of its subject."""

    agent: str
    owner: str
    session: str

    def __str__(self) -> str:
        """Return its text form, `agent.owner.session`."""
        return ".".join(astuple(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `agent.owner.session`.

        Raises:
            InvalidInput: it is not of that form.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidInput(f"{text!r} names no agent; write agent.owner.session, as `synadia agents` lists them")
        return cls(*found.groups())


class Guest:
    """Serves one agent name of ours with an agent of theirs: `await Guest("critic", where).serve(broker)`."""

    def __init__(self, name: str, where: Where, **settings: Any) -> None:
        """Prepare.

        Args:
            name: how it is called in our sessions.
            where: whom it stands for.
            settings: as of `Agent`; a prompt at a time (`overlap="queue"`) if they do not say otherwise.

        Raises:
            InvalidInput: the extra `synadia` is not installed.
        """
        self._where = where
        self._library = library()
        self.agent = Agent(name, **{"overlap": "queue"} | settings)
        self.agent(self._handle)

    async def serve(self, broker: Broker, **options: Any) -> None:
        """Work until cancelled; `broker` is connected as the guest's name."""
        await self.agent.serve(broker, **options)

    async def _handle(self, run: Run) -> None:
        text = run.input.text
        while text:
            await self._prompt(run, text)
            text = "\n".join(steer.text for steer in await run.steers())

    async def _prompt(self, run: Run, text: str) -> None:
        """Prompt once and write what comes."""
        wire = run.session.log.wire
        before = wire.reconnects
        try:
            async with _client(wire) as client:
                agent = await self._find(client)
                async with aclosing(agent.prompt(text)) as stream:  # type: ignore[type-var]  # it is a generator
                    async for message in stream:
                        await self._take(run, message)
        except self._library.NatsAgentError as error:
            raise RunError(f"{self._where}: {error}") from error
        if wire.reconnects != before:
            await run.notice("the connection was lost while this was answered; the answer may have a gap")

    async def _find(self, client: synadia.Agents) -> synadia.Agent:
        for agent in await client.discover():
            if (agent.agent, agent.owner, agent.session_name) == astuple(self._where):
                return agent
        raise RunError(f"no agent {self._where} answers discovery; is its host running?")

    async def _take(self, run: Run, message: synadia.ResponseChunk | synadia.StatusChunk | synadia.Query) -> None:
        if isinstance(message, self._library.ResponseChunk):
            if message.text:
                await run.text(message.text)
            for file in message.attachments or ():
                await run.file(file.filename, file.to_bytes())
        elif isinstance(message, self._library.Query):
            decision = await run.ask(message.prompt, id=message.id)
            await message.reply(str(decision.value) if decision else "")


async def discover(wire: Wire) -> list[synadia.Agent]:
    """Return the agents that answer discovery.

    Raises:
        InvalidInput: the extra `synadia` is not installed.
    """
    async with _client(wire) as client:
        return await client.discover()


@asynccontextmanager
async def _client(wire: Wire) -> AsyncIterator[synadia.Agents]:
    client = library().Agents(nc=wire.client)
    try:
        yield client
    finally:
        await client.close()
