"""Delegation: runs that other runs have asked for. Nobody relays: children answer in the session themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from orchestrator_free.errors import InvalidName
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold, View
from orchestrator_free.jetstream import Objects
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Sent, Session
from orchestrator_free.session.completion import complete_run
from orchestrator_free.session.control import SentControl
from orchestrator_free.subjects import ALL, address

#: delegations between a person and a run, and of one run: beyond them something goes round in circles
MAX_DEPTH: Final = 8
MAX_CHILDREN: Final = 64


@dataclass(frozen=True, slots=True)
class Child:
    """A run that another run has asked for."""

    session: Session
    agent: str
    run: str
    deadline: str = ""

    async def result(self, *, timeout: float | None = None) -> View:
        """Wait until it is finished; its `status` says how.

        Raises:
            TimeoutError: not finished in time (seconds); it goes on all the same.
        """
        [found] = await gather([self], timeout=timeout)
        return found

    async def cancel(self, reason: str = "") -> SentControl:
        """Cancel it, with what it delegated itself."""
        return await self.session.control.cancel(self.run, to=self.agent, reason=reason)

    async def forget_deadline(self) -> None:
        """Let the broker not cancel it any more."""
        if self.deadline:
            await self.session.log.forget_later(self.deadline)


async def ended(session: Session, children: Sequence[Child]) -> AsyncIterator[tuple[Child, View]]:
    """Yield children as they end, with their runs as in the view; one reading of the session serves all."""
    left = {(child.agent, child.run): child for child in children}
    fold = Fold(session.id)
    async for event in session.follow(agents={agent for agent, _ in left}, kinds=["run"]):
        key = (event.member, event.id)
        if key not in left:
            continue
        fold.apply(event)
        found = fold.run(*key)
        if found is not None and not found.open:
            child = left.pop(key)
            await child.forget_deadline()
            yield child, await complete_run(session.id, found.view(), Objects(session.log.wire, session.member))
            if not left:
                return


async def gather(children: Sequence[Child], *, timeout: float | None = None) -> list[View]:
    """Wait for all; return their runs in the order of the children, failed ones among them.

    Raises:
        TimeoutError: not all of them in time (seconds); they go on all the same.
    """
    found: dict[tuple[str, str], View] = {}
    async with asyncio.timeout(timeout):
        if children:
            async for child, view in ended(children[0].session, children):
                found[child.agent, child.run] = view
    return [found[child.agent, child.run] for child in children]


async def hold_deadline(session: Session, agent: str, sent: Sent, seconds: float) -> str:
    """Let the broker cancel a run when so many seconds have passed since it was asked for; return where it says so.

    A later attempt that asks for the same does not get more time.
    """
    if sent.repeated:
        where = address(session.shard, session.id, session.member, "in", target=agent, id=sent.input)
        asked = await session.log.last(session.shard, str(where))
        if asked is not None:
            seconds -= (await session.log.clock() - datetime.fromisoformat(asked.time)).total_seconds()
    body = {"type": "cancel", "run": sent.run, "children": True, "reason": "its time was up"}
    name = f"deadline-{sent.run}"
    await session.append_later("ctl", body, max(seconds, 0.0), target=agent, id=name)
    return str(address(session.shard, session.id, session.member, "ctl", target=agent, id=name))


async def asked_before(session: Session, agent: str, text: str, data: Any, parent: Any) -> bool:
    """Whether one of a run's ancestors is the same agent at work on the same words: then it goes round in a circle.

    Args:
        session: whose.
        agent: who is to be asked.
        text: for what.
        data: what comes with it.
        parent: the run that asks, `{"agent", "run"}`; the chain goes on from there.
    """
    for _ in range(MAX_DEPTH + 1):
        if not isinstance(parent, dict):
            return False
        begun = await _beginning(session, parent)
        if begun is None:
            return False
        sender, _, name = str(begun.body.get("input")).partition("/")
        if parent["agent"] == agent and await _says(session, agent, sender, name, text, data):
            return True
        parent = begun.body.get("parent")
    return False


async def _beginning(session: Session, run: dict[str, Any]) -> Event | None:
    """Return the first event of a run that the log has: its beginning or, compacted, its end."""
    try:
        where = address(session.shard, session.id, str(run.get("agent")), "run", id=str(run.get("run")))
    except InvalidName:
        return None
    message = await session.log.first(session.shard, str(where))
    return to_event(message) if message is not None else None


async def _says(session: Session, agent: str, sender: str, name: str, text: str, data: Any) -> bool:
    for target in (agent, ALL):
        try:
            where = address(session.shard, session.id, sender, "in", target=target, id=name)
        except InvalidName:
            return False
        message = await session.log.last(session.shard, str(where))
        event = to_event(message) if message is not None else None
        if event is not None:
            return bool(event.body.get("text", "") == text and event.body.get("data") == data)
    return False
