"""What has to be known before an event is told: whether it is still so, whether anybody watches, what belongs to it."""

from __future__ import annotations

from orchestrator_free.broker import Broker
from orchestrator_free.events import Body, Event
from orchestrator_free.fold import RunFold, View
from orchestrator_free.jetstream import Message
from orchestrator_free.notify.rules import AMONG_AGENTS, data_of, data_of_ask, data_of_input, data_of_run
from orchestrator_free.reading.entries import to_event
from orchestrator_free.session.completion import complete_run
from orchestrator_free.subjects import ROOT, Address, Position, address, parse, session_filter
from orchestrator_free.views.members import watchers_of


class Facts:
    """Asks the log and the presence bucket."""

    def __init__(self, broker: Broker, *, link: str | None) -> None:
        self._broker = broker
        self._log = broker.log
        self._link = link

    async def is_watched(self, session: str) -> bool:
        """Whether a person looks at a session now; one who has turned away from the device does not."""
        found = watchers_of(await self._log.present(f"watch.{session}"))
        return any(one.kind == "person" and one.status == "active" for one in found)

    async def original(self, notice: Message, position: Position) -> Message | None:
        """Return the event that a notice is about; None if the log does not hold it any more."""
        where = parse(notice.subject)
        if where is None or position.epoch != self._log.epoch(where.shard):
            return None
        subject = session_filter(where.shard, where.session)
        found, _ = await self._log.page(where.shard, subject, after=position.sequence - 1, limit=1)
        return found[0] if found and found[0].sequence == position.sequence else None

    async def still_so(self, message: Message, told: str) -> bool:
        """Whether what an event says has not been overtaken: an open ask is still open, a silent agent still silent."""
        where = parse(message.subject)
        if where is None:
            return False
        match told:
            case "ask.open" | "ask.escalated":
                return await self._is_open(where)
            case "run.stalled":
                return await self._is_last(message, message.subject)
            case "run.lost":
                return await self._is_last(message, f"{ROOT}.{where.shard}.{where.session}.{where.member}.>")
            case "floor.requested":
                return await self._is_last(message, f"{ROOT}.{where.shard}.{where.session}.*.floor")
        return await self._is_last(message, message.subject)

    async def _is_last(self, message: Message, subject: str) -> bool:
        where = parse(message.subject)
        last = await self._log.last(where.shard, subject) if where is not None else None
        return last is not None and last.sequence == message.sequence

    async def _is_open(self, where: Address) -> bool:
        try:
            ask = await self._ask(where)
        except LookupError:
            return False  # the session was deleted, or nobody asked that
        return bool(ask["status"] == "open")

    async def _ask(self, where: Address) -> View:
        """Return the ask that an ask or a stage is about, as it stands."""
        asked = where.id if where.kind == "ask" else where.target
        return await self._broker.session(where.session).asks.get(asked)

    # -- the body -----------------------------------------------------------------------------------------------

    async def body(self, message: Message, told: str, position: Position) -> Body | None:
        """Return the webhook's body; None if the event is history that was imported, or makes no sense."""
        event = to_event(message)
        if event is None:
            return None
        title = str((await self._broker.session(event.session).meta())["title"])
        data = data_of(told, event, position, title=title, link=self._link)
        if event.type == "run.finished":
            run = await self._run(event)
            asked = await self._input(event, str(event.body.get("input", "")))
            if run is None or (asked is not None and asked.body.get("replayed")):
                return None
            data |= data_of_run(run) | data_of_input(asked)
        elif told == "ask.escalated":
            ask = await self._ask(event.address)
            if ask["from"] != event.member or ask["about"] in AMONG_AGENTS:
                return None
            data |= data_of_ask(ask, event.body["to"])
        elif told == "run.lost":
            data["runs"] = await self._lost_runs(event)
        return {"type": told, "timestamp": event.time, "data": data}

    async def _run(self, event: Event) -> View | None:
        """Return a run that has ended, its parts included wherever they are."""
        fold = RunFold(event.member, event.id)
        events = [event]
        if event.body.get("parts") is None and event.body.get("object") is None:
            stored = await self._log.read_all(event.address.shard, str(event.address))
            events = [found for message in stored if (found := to_event(message)) is not None]
        for one in events:
            fold.apply(one.body, one.sequence, one.time)
        if fold.open:
            return None
        return await complete_run(event.session, fold.view(), self._broker.objects)

    async def _input(self, event: Event, source: str) -> Event | None:
        """Return the input (`<sender>/<id>`) that a run is for."""
        sender, _, name = source.partition("/")
        where = event.address
        try:
            subject = str(address(where.shard, where.session, sender, "in", target=where.member, id=name))
        except ValueError:
            return None
        subjects = [subject, subject.replace(f".in.{where.member}.", ".in.all.")]
        found = [to_event(message) for message in await self._log.last_of(where.shard, subjects)]
        return next((one for one in found if one is not None), None)

    async def _lost_runs(self, event: Event) -> list[str]:
        """Return the runs of an agent that are open or have not begun."""
        view = await self._broker.session(event.session).view(whole=False)
        agents = [agent for agent in view["agents"] if agent["agent"] == event.member]
        return [run["run"] for agent in agents for run in agent["runs"] if run["status"] == "lost"]
