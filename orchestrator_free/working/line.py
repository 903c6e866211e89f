"""The line: an agent's inputs in one session that have not ended, in the order of the log.

The log is the line; what stands here is a process's notes of it, and may be late, never early. Of inputs nothing can be
missing: they are read up to the one that is asked about, from a replica that has it. Of ends something can, and then an
input waits a little longer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError, InvalidEvent, InvalidName
from orchestrator_free.events import Body, Event
from orchestrator_free.jetstream import Log
from orchestrator_free.jetstream.messages import live_message
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session import Session
from orchestrator_free.subjects import ALL, LIVE, ROOT, address, run_id
from orchestrator_free.vocabulary import validate

_log = logs.logger("orchestrator_free.agent")

#: live copies of ends can be lost: whoever waits looks into the log this often
CHECK_SECONDS: Final = 1.0
_AT_ONCE: Final = 16
_REMEMBERED: Final = 1024
#: a chain of delegations is followed so far
_DEEPEST: Final = 16

#: turn: it may begin; stop: a control ends it; back: another process is to have it; lost: another has it already
Word = Literal["turn", "stop", "back", "lost"]


@dataclass(slots=True)
class Entry:
    """An input in the line.

    Attributes:
        run: the run that answers it. sequence: its place in the log. sender, input: whose it is, and its id.
        turn: whose turn it belongs to: its own sequence, or that of the input whose run delegated it, by whatever way.
        policy: what the agent does with it.
        ended: sequence of its run's end, 0 if it has none. status: how it ended.
    """

    run: str
    sequence: int
    turn: int
    policy: str
    sender: str = ""
    input: str = ""
    ended: int = 0
    status: str = ""


class Waiter:
    """An input that waits in this process."""

    __slots__ = ("future", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.future: asyncio.Future[Word] = asyncio.get_running_loop().create_future()

    def say(self, word: Word) -> None:
        """End the waiting; the first word counts."""
        if not self.future.done():
            self.future.set_result(word)


def at_work(mine: Entry, others: Iterable[Entry]) -> Entry | None:
    """Return the first input before `mine` whose run had not ended at its place in the log; the rejected do not count.

    The answer is the same whoever asks and whenever: what had not ended there ends later, or not yet.
    """
    earlier = sorted((one for one in others if one.sequence < mine.sequence), key=lambda one: one.sequence)
    refused: set[str] = set()

    def before(entry: Entry) -> Entry | None:
        for one in earlier:
            open_there = not one.ended or one.ended > entry.sequence
            if one.sequence < entry.sequence and one.turn < entry.turn and one.run not in refused and open_there:
                return one
        return None

    for one in earlier:
        undecided = not one.ended and one.policy == "reject"
        if one.status == "rejected" or (undecided and before(one) is not None):
            refused.add(one.run)
    return before(mine)


class Line:
    """One session's line of one agent.

    Attributes:
        entries: by run, what has not ended as far as is known.
        waiters: by run, what waits in this process.
    """

    def __init__(
        self,
        log: Log,
        agent: str,
        session: Session,
        policy: Callable[[Body], str],
        meant: Callable[[Event], Awaitable[bool]],
    ) -> None:
        self._log = log
        self._agent = agent
        self._session = session
        self._prefix = f"{ROOT}.{session.shard}.{session.id}"
        self._policy = policy
        self._meant = meant
        self._read = -1
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._past: dict[str, Entry] = {}
        self.entries: dict[str, Entry] = {}
        self.waiters: dict[str, Waiter] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    async def reach(self, event: Event) -> Entry:
        """Know every input up to this one; return its entry.

        Raises:
            BrokerError: the log could not be read so far.
        """
        await self._read_to(event.sequence)
        await self._check(acknowledged=False)  # what ended while nothing waited here
        run = run_id(event.member, event.id)
        return self.entries.get(run) or self._past.get(run) or await self._entry(event)

    async def refresh(self) -> None:
        """Know every input that the leader has now."""
        last = await self._log.last(self._session.shard, f"{self._prefix}.*.in.*.*")
        if last is not None:
            await self._read_to(last.sequence)

    async def _read_to(self, sequence: int) -> None:
        async with self._lock:
            if self._read < 0:
                self._read = await self._floor()
            if self._read >= sequence:
                return
            filter_ = f"{self._prefix}.*.in.*.*"
            found = await self._log.read(self._session.shard, filter_, after=self._read, reach=sequence)
            events = [event for event in map(to_event, found) if event is not None]
            fresh = [await self._entry(event) for event in events if await self._counts(event)]
            for entry in fresh:
                self.entries.setdefault(entry.run, entry)
            self._read = max([self._read, *(message.sequence for message in found)])
            await self._settle(fresh)

    async def _floor(self) -> int:
        """Return a sequence up to which the agent has dealt with every input: it is acknowledged."""
        consumer = await self._log.consumer(self._session.shard, contract.agent_consumer_name(self._agent))
        return consumer.floor if consumer is not None else 0

    async def _counts(self, event: Event) -> bool:
        """Whether the agent does a run for an input."""
        body = event.body
        if event.address.target not in (self._agent, ALL) or event.type != "input":
            return False
        try:
            validate("in", body)
        except InvalidEvent:
            return False  # its run ends as failed at once
        if body.get("replayed") or body.get("note"):
            return False
        return event.address.target != ALL or await self._meant(event)

    async def _entry(self, event: Event) -> Entry:
        run = run_id(event.member, event.id)
        turn = await self._turn(event)
        return Entry(run, event.sequence, turn, self._policy(event.body), event.member, event.id)

    async def _turn(self, event: Event) -> int:
        """Return whose turn an input belongs to: what a run delegates, back to its own agent at last, is part of it."""
        turn, parent, member = event.sequence, event.body.get("parent"), event.member
        for _ in range(_DEEPEST):
            if not isinstance(parent, dict) or parent.get("agent") != member:
                break  # nobody, or somebody who speaks for another
            begun = await self._first(member, str(parent.get("run")))
            if begun is None:
                break
            sender, _, name = str(begun.body.get("input")).partition("/")
            if member == self._agent:
                turn = min(turn, await self._asked(sender, name) or turn)
            parent, member = begun.body.get("parent"), sender
        return turn

    async def _first(self, agent: str, run: str) -> Event | None:
        """Return the first event of a run that the log has: its beginning or, compacted, its end."""
        try:
            subject = address(self._session.shard, self._session.id, agent, "run", id=run)
        except InvalidName:
            return None
        message = await self._log.first(self._session.shard, str(subject))
        return to_event(message) if message is not None else None

    async def _asked(self, sender: str, name: str) -> int:
        """Return the place of an input to this agent, 0 if there is none."""
        found = await self._inputs(sender, name)
        return found[0].sequence if found else 0

    async def _inputs(self, sender: str, name: str) -> list[Event]:
        shard, session = self._session.shard, self._session.id
        try:
            subjects = [str(address(shard, session, sender, "in", target=to, id=name)) for to in (self._agent, ALL)]
        except InvalidName:
            return []
        found = [to_event(message) for subject in subjects if (message := await self._log.last(shard, subject))]
        return sorted((event for event in found if event is not None), key=lambda event: event.sequence)

    # -- ends ---------------------------------------------------------------------------------------------------

    async def _settle(self, entries: Iterable[Entry]) -> None:
        """Look which of these have ended; a replica that lags knows of fewer."""
        head = f"{self._prefix}.{self._agent}.run."
        for message in await self._log.last_of(self._session.shard, [head + entry.run for entry in entries]):
            event = to_event(message)
            if event is not None and event.type == "run.finished":
                self.ended(event.id)

    def ended(self, run: str) -> None:
        """Note that a run has ended, or that its input was dealt with otherwise."""
        entry = self.entries.pop(run, None)
        if entry is None:
            return
        self._past[run] = entry
        if len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]
        head = self._head()
        for waiter in self.waiters.values():
            if waiter.turn <= head:
                waiter.say("turn")

    def _head(self) -> float:
        return min((entry.turn for entry in self.entries.values()), default=math.inf)

    def ahead(self, mine: Entry) -> list[Entry]:
        """Return what has to end before an input's turn comes, the first one first."""
        found = [entry for entry in self.entries.values() if entry.turn < mine.turn]
        return sorted(found, key=lambda entry: (entry.turn, entry.sequence))

    async def at_work(self, mine: Entry) -> Entry | None:
        """Return what the agent was at work on at an input's place in the log; see the function of this name."""
        shard, runs = self._session.shard, f"{self._prefix}.{self._agent}.run.*"
        others = {entry.run: entry for entry in self.ahead(mine)}
        since = min([mine.sequence, *(entry.sequence for entry in others.values())])
        last = await self._log.last(shard, runs)
        for message in await self._log.read(shard, runs, after=since, reach=last.sequence if last else 0):
            event = to_event(message)
            if event is None or event.type != "run.finished" or event.id == mine.run:
                continue
            known = others.get(event.id) or self._past.get(event.id)
            if known is None:
                sender, _, name = str(event.body.get("input")).partition("/")
                asked = await self._inputs(sender, name)
                known = await self._entry(asked[0]) if asked else None
            if known is not None:
                known.ended, known.status = event.sequence, str(event.body.get("status"))
                others[event.id] = known
        return at_work(mine, others.values())

    # -- waiting ------------------------------------------------------------------------------------------------

    async def wait(self, mine: Entry, on_stop: Callable[[Callable[[], None] | None], None]) -> Word:
        """Wait until everything before an input has ended, or something else is said.

        Args:
            mine: the input.
            on_stop: is given what to call when a control ends it, and None at the end.
        """
        if not self.ahead(mine):
            return "turn"
        waiter = self.waiters[mine.run] = Waiter(mine.turn)
        try:
            on_stop(lambda: waiter.say("stop"))
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch(), name=f"line {self._session.id}")
            return await waiter.future
        finally:
            on_stop(None)
            del self.waiters[mine.run]

    def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        """Hear ends live as long as something waits here, and look into the log now and then."""
        unsubscribe = self._log.wire.subscribe(f"{LIVE}{self._prefix}.{self._agent}.run.*", self._on_live)
        try:
            checks = 0
            while self.waiters:
                try:
                    await self._check(acknowledged=checks % 2 == 1)
                except BrokerError as error:
                    _log.debug("line not checked", agent=self._agent, session=self._session.id, error=str(error))
                checks += 1
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            unsubscribe()

    def _on_live(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        if b"run.finished" not in payload:
            return
        message = live_message(subject, payload, header)
        event = to_event(message) if message is not None else None
        if event is not None and event.type == "run.finished":
            self.ended(event.id)

    async def _check(self, *, acknowledged: bool) -> None:
        """Look from the head on what has ended; and what was acknowledged without a run."""
        while self.entries:
            before = len(self.entries)
            first = sorted(self.entries.values(), key=lambda entry: entry.turn)[:_AT_ONCE]
            await self._settle(first)
            if len(self.entries) == before:
                break
        if acknowledged:
            floor = await self._floor()
            for entry in [entry for entry in self.entries.values() if entry.sequence <= floor]:
                self.ended(entry.run)
