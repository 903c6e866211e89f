"""One session, as a member sees it: send to it, follow it, fold it. Nothing here needs a gateway or an agent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from orchestrator_free import contract, tracing
from orchestrator_free.errors import Conflict, InvalidEvent, PositionLost, SessionExists, SessionNotFound, StorageFull
from orchestrator_free.events import Body, Event, decode, encode
from orchestrator_free.fold import Fold, View
from orchestrator_free.jetstream import PullConsumer
from orchestrator_free.reading.entries import Entry, to_event
from orchestrator_free.reading.follower import Follower, until_deleted
from orchestrator_free.reading.reader import Reader
from orchestrator_free.reading.subscription import Delivery, Start, deliveries, durable_config
from orchestrator_free.session.asks import Asks
from orchestrator_free.session.branches import Branches
from orchestrator_free.session.completion import complete, complete_run, object_names
from orchestrator_free.session.control import Controls
from orchestrator_free.session.floor import Floor
from orchestrator_free.session.fork import fork_session
from orchestrator_free.session.presence import Presence
from orchestrator_free.session.state import State
from orchestrator_free.subjects import ROOT, Position, address, check_name, run_id, session_filter
from orchestrator_free.views.brief import brief
from orchestrator_free.views.ledger import ToolFilters, tool_calls
from orchestrator_free.views.members import Watcher
from orchestrator_free.vocabulary import validate
from orchestrator_free.vocabulary.messages import Overlap

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of an input.

    Attributes:
        input: its id.
        run: the id of the run that answers it, the same for every agent it went to.
        position: where it stands in the log.
        repeated: an input of this id was there already, with the same content.
    """

    input: str
    run: str
    position: Position
    repeated: bool = False


class Session:
    """One session, as this connection's member sees it."""

    def __init__(self, broker: Broker, session: str) -> None:
        self._broker = broker
        self.log = self._log = broker.log
        self.member = broker.member
        self.id = session
        self.shard = broker.log.shard(session)
        self.filter = session_filter(self.shard, session)
        self.control = Controls(self)
        self.presence = Presence(self, broker.log, broker.member)
        self.floor = Floor(self)
        self.asks = Asks(self)
        self.branches = Branches(self)
        self.state = State(self)

    def _subject(self, kind: str, *, target: str = "", id: str = "") -> str:
        return str(address(self.shard, self.id, self._broker.member, kind, target=target, id=id))

    def position(self, sequence: int) -> Position:
        """Return the position of a sequence in the session's log."""
        return Position(self._log.epoch(self.shard), sequence)

    # -- writing ------------------------------------------------------------------------------------------------

    async def create(
        self, *, title: str = "", agents: Iterable[str] = (), compaction: Literal["on", "off"] = "on"
    ) -> Position:
        """Begin the session.

        Args:
            title: for people.
            agents: who answers inputs to `all`; empty for every agent.
            compaction: `off` keeps every delta of finished runs in the log.

        Raises:
            SessionExists: it was begun before.
        """
        names = [check_name("agent", name) for name in agents]
        body = {"type": "session.created", "title": title, "agents": names, "compaction": compaction}
        try:
            sequence = await self.append("meta", body, expect=0, shared=True)
        except Conflict as conflict:
            raise SessionExists(self.id) from conflict
        return self.position(sequence)

    async def update(self, *, title: str | None = None, agents: Iterable[str] | None = None) -> Position:
        """Change the title or the agents."""
        names = None if agents is None else [check_name("agent", name) for name in agents]
        body = {"type": "session.updated", "title": title, "agents": names}
        last = await self._log.last(self.shard, self._subject("meta"))
        return self.position(await self.append("meta", body, expect=last.sequence if last else 0))

    async def send(
        self,
        text: str = "",
        *,
        to: str | Sequence[str],
        data: Any = None,
        id: str | None = None,
        parent: Any = None,
        depth: int = 0,
        whisper: bool = False,
        note: bool = False,
        overlap: Overlap | None = None,
        place: Body | None = None,
    ) -> Sent:
        """Send an input; the append is the work item.

        Args:
            text: what to do.
            to: an agent, several, or `all`. Several get the same input id, so their runs have the same run id.
            data: anything JSON beside the text.
            id: makes sending again harmless: the same id and content is sent once.
            parent: the run that delegates this, `{"agent", "run"}`.
            depth: how many delegations lie between a person and this.
            whisper: not for the person who is served; an agent answers it, floor or not.
            note: to be read, not worked on.
            overlap: what becomes of it if the agent is at work in this session; counts if the agent allows it.
            place: not at the end of the selected branch: `edits`, `again` or `after`, as `session.branches` sends it.

        Raises:
            InvalidName: a target or the id is no name.
            Conflict: an input of this id exists with other content.
        """
        targets = [to] if isinstance(to, str) else list(to)
        if not targets:
            raise InvalidEvent("an input needs somebody it is for: pass an agent's name, or 'all'")
        chosen = secrets.token_hex(16) if id is None else id
        for target in targets:
            self._subject("in", target=target, id=chosen)  # a wrong name is refused before anything is sent
        body: Body = {"type": "input", "text": text}
        body |= {
            name: value
            for name, value in (("data", data), ("parent", parent), ("depth", depth or None), ("overlap", overlap))
            if value is not None
        }
        body |= {name: True for name, value in (("whisper", whisper), ("note", note)) if value} | (place or {})
        validate("in", body)
        with tracing.sending(self.id, self.member, targets):
            results = await asyncio.gather(*(self.append_once("in", target, chosen, body) for target in targets))
        sequence = max(sequence for sequence, _ in results)
        run = run_id(self._broker.member, chosen)
        return Sent(chosen, run, self.position(sequence), all(repeated for _, repeated in results))

    async def append_once(
        self, kind: Literal["in", "ctl"], target: str, id: str, body: Body, *, besides: Collection[str] = ()
    ) -> tuple[int, bool]:
        """Append an input or a control: its subject is its own, so expecting it empty makes every retry exact.

        `besides` names fields in which the one that is there may differ.

        Returns:
            Its sequence, and whether it was there already.

        Raises:
            Conflict: one of this id exists with other content.
        """
        wanted, before = _without(decode(encode(body)), besides), 0
        while True:
            try:
                return await self.append(kind, body, target=target, id=id, expect=before), False
            except Conflict as conflict:
                stored = await self._log.read_all(self.shard, self._subject(kind, target=target, id=id))
                first = next((event for event in map(to_event, stored) if event is not None), None)
                if first is not None and _without(first.body, besides) == wanted:
                    return first.sequence, True
                if first is not None or not stored or stored[-1].sequence <= before:
                    what = "input" if kind == "in" else "control"
                    text = f"{what} {id!r} to {target!r} was sent before with other content; use a new id"
                    raise Conflict(text, actual=conflict.actual) from conflict
                before = stored[-1].sequence  # no event: the broker was made to store it; it blocks nobody

    async def append(
        self,
        kind: str,
        body: Body,
        *,
        target: str = "",
        id: str = "",
        expect: int | None = None,
        shared: bool = False,
    ) -> int:
        """Append an event of this member as it is; return its sequence. The other methods are this one with names.

        Args:
            kind: of the entity; target, id: of the entity, where the kind has them.
            body: the payload.
            target: whom it is for.
            id: which one.
            expect: refuse unless this is the last sequence of the entity, 0 for none yet.
            shared: `expect` counts what any member said of it, not only this one.

        Raises:
            InvalidEvent: a known type with a wrong field.
            Conflict: somebody else wrote first; nothing was stored.
        """
        validate(kind, body)
        where = address(self.shard, self.id, self._broker.member, kind, target=target, id=id)
        everyone = str(replace(where, member="*")) if shared else ""
        # Two processes of one member may write the same over the same: the id tells a lost answer from a lost race.
        message_id = secrets.token_hex(16) if expect is None or shared else ""
        more: Any = {"message_id": message_id, "trace": tracing.traceparent(kind)}
        return await self._log.wire.publish(str(where), encode(body), expect=expect, expect_filter=everyone, **more)

    async def append_later(self, kind: str, body: Body, seconds: float, *, target: str = "", id: str = "") -> None:
        """Let the broker append an event of this member in so many seconds, whoever is alive then.

        One such event stands for an entity; the next call takes its place. See `append` for the rest.
        """
        validate(kind, body)
        where = address(self.shard, self.id, self._broker.member, kind, target=target, id=id)
        at = await self._log.clock() + timedelta(seconds=seconds)
        await self._log.later(str(where), encode(body), f"{at:%Y-%m-%dT%H:%M:%S.%f}Z")

    async def fork(
        self, new_id: str | None = None, *, at: Position | str | None = None, title: str | None = None
    ) -> Session:
        """Begin a new session with this one's history up to a position; see `fork_session`."""
        made = await fork_session(self._broker, self, new_id, at=at, title=title)
        return self._broker.session(made.session)

    async def delete(self) -> None:
        """Delete the session with its objects; those who follow it are told first, or as soon as there is room for it.

        Raises:
            SessionNotFound: there is nothing to delete.
        """
        view = await self.view()
        told = await self._tell_deleted()
        for name in object_names(view):
            await self._broker.objects.delete(self.id, name)
        await self._log.purge_later(self.filter)
        await self._log.purge(self.shard, self.filter)
        if not told and await self._tell_deleted():
            await self._log.purge(self.shard, self.filter)

    async def _tell_deleted(self) -> bool:
        """Say that the session is deleted; False if the store is full, which must not keep anybody from deleting."""
        try:
            await self.append("meta", {"type": "session.deleted"})
        except StorageFull:
            return False
        return True

    # -- reading ------------------------------------------------------------------------------------------------

    async def exists(self) -> bool:
        """Whether the log holds anything of this session."""
        return await self._log.last(self.shard, self.filter) is not None

    async def meta(self) -> dict[str, Any]:
        """Return title, agents, created, by and compaction."""
        fold = Fold(self.id)
        for message in await self._log.read_all(self.shard, f"{ROOT}.{self.shard}.{self.id}.*.meta"):
            event = to_event(message)
            if event is not None:
                fold.apply(event)
        return fold.meta

    async def view(self, *, whole: bool = True) -> View:
        """Return the folded view as of now.

        Args:
            whole: fetch what large finished runs keep in the object store.

        Raises:
            SessionNotFound: the log holds nothing of it.
        """
        fold = Fold(self.id)

        def take(entries: list[Entry]) -> None:
            for entry in entries:
                fold.apply(entry.event)

        reader = Reader(self._log, self.id, take, lambda lost: None)  # does not live long enough to be lost
        await reader.open()
        reader.close()
        if reader.sequence == 0:
            raise SessionNotFound(self.id)
        view = fold.view(str(reader.position))
        return await complete(view, self._broker.objects) if whole else view

    async def brief(self) -> dict[str, Any]:
        """Return what somebody who takes over has to know; see `orchestrator_free.views.brief`."""
        return brief(await self.view())

    async def tools(self, **filters: Unpack[ToolFilters]) -> list[View]:
        """Return the ledger of tool calls, running ones up to now; filters as of `ledger.tool_calls`."""
        now = (await self._log.clock()).isoformat()
        return tool_calls(await self.view(), now=now, **filters)

    async def follow(
        self,
        after: Position | str | None = None,
        *,
        agents: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
        compact: bool = True,
    ) -> AsyncIterator[Event]:
        """Yield every event after a position, in order, each once, and then whatever comes.

        Args:
            after: a position, its text form, or None for the beginning.
            agents: only what these members published.
            kinds: only these kinds of entity.
            compact: begin with the present state of each entity; False reads message by message.

        Raises:
            PositionLost: the position cannot be continued; read a view and follow from there.
        """
        position = Position.parse(after) if isinstance(after, str) else after
        async with Follower(self._log, self.id, position, compact=compact) as follower:
            async for entry in follower:
                event = entry.event
                if (agents is None or event.member in agents) and (kinds is None or event.kind in kinds):
                    yield event

    async def result(self, agent: str, run: str, *, timeout: float | None = None) -> View:
        """Wait until a run is finished and return it as the view shows it.

        Raises:
            TimeoutError: not finished in time (seconds).
            SessionNotFound: it was deleted meanwhile.
        """
        fold = Fold(self.id)
        async with asyncio.timeout(timeout):
            async for event in until_deleted(self.follow()):
                if (event.member, event.kind, event.id) != (agent, "run", run):
                    continue
                fold.apply(event)
                found = fold.run(agent, run)
                if found is not None and not found.open:
                    return await complete_run(self.id, found.view(), self._broker.objects)
        raise AssertionError("a feed does not end")

    @asynccontextmanager
    async def subscribe(
        self,
        durable: str,
        *,
        start: Start = "beginning",
        agents: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
        places: int = 256,
        ack_wait_seconds: float = 30.0,
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        """Open a named durable subscription: what is not acknowledged is delivered again, to whoever opens the name.

        Args:
            durable: its name; the broker keeps its position.
            start: where it begins when the name is new: `beginning`, `new`, a position or a time.
            agents: only what these members published.
            kinds: only these kinds of entity.
            places: how many unacknowledged deliveries this process takes at once.
            ack_wait_seconds: delivered again after this long.
        """
        if isinstance(start, Position) and start.epoch != self._log.epoch(self.shard):
            raise PositionLost("recreated", f"{start} is of another log than {self.id!r} has now")
        config = durable_config(
            self.shard, self.id, durable, start, agents=agents, kinds=kinds, ack_wait_seconds=ack_wait_seconds
        )
        consumer = PullConsumer(self._log.wire, contract.stream_name(self.shard), config, places=places)
        try:
            await consumer.open()
            yield deliveries(consumer)
        finally:
            consumer.close()

    async def watchers(self, *, within_seconds: float = 0.0) -> list[Watcher]:
        """Return the devices that look at the session now, so that nobody's work can wait; see `Presence.watchers`."""
        return await self.presence.watchers(within_seconds=within_seconds)

    # -- objects ------------------------------------------------------------------------------------------------

    async def object(self, name: str) -> bytes | None:
        """Return the bytes of a file or a large run, None if there are none of that name."""
        return await self._broker.objects.get(self.id, name)


def _without(body: Body, names: Collection[str]) -> Body:
    return {name: value for name, value in body.items() if name not in names}
