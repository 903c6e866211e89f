"""`orchestrator-free desk --as ann`: a person who answers, in a terminal.

The desk is an agent like any other: inputs for ann become runs, and what she types answers them. So a desk that dies is
seen as any agent that dies, and one that comes back goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.text import Text

from orchestrator_free.agent import Agent
from orchestrator_free.broker import Broker
from orchestrator_free.cli.floor import describe
from orchestrator_free.cli.options import out, reach, run
from orchestrator_free.cli.prompt import Prompt
from orchestrator_free.cli.render import clean
from orchestrator_free.cli.transcript import Transcript, panel
from orchestrator_free.errors import InvalidInput, OrchestratorFreeError
from orchestrator_free.floors import FloorWatch
from orchestrator_free.fold import Fold
from orchestrator_free.session import Session
from orchestrator_free.session.floor import DESK, FloorState
from orchestrator_free.subjects import ALL, check_name, run_id
from orchestrator_free.views.brief import markdown
from orchestrator_free.working.run import Run, RunError

#: inputs that wait for a person at once; and how often their desk may go away meanwhile
_WAITING: Final = 256
_RETURNS: Final = 10_000
#: an input that a desk had when it died comes to the next one within this time
_COMING_SECONDS: Final = 15.0
_HELP: Final = """\
/accept [SESSION]      take the floor you are asked to take    /decline [REASON]   leave it where it is
/take [SESSION]        take over; ends what others answer      /watch SESSION      only look, nobody is told
/return [REASON]       give the floor back                     /release            leave it to nobody
/whisper AGENT TEXT    ask an agent, unseen by the customer    /cancel AGENT       stop what it does
/approve ID  /deny ID  answer an ask                           /requests           who waits for whom
/brief                 what has happened so far                /quit               leave the desk
Anything else answers what waits for you, or goes to the customer as it is."""


@dataclass(eq=False)
class Waiting:
    """An input that waits for what the person types."""

    run: Run
    line: asyncio.Future[str]


class Desk:
    """One person's desk: over all sessions for what is asked of them, in one session for the conversation."""

    def __init__(self, broker: Broker, prompt: Prompt) -> None:
        self._broker = broker
        self._me = broker.member
        self._prompt = prompt
        self._session: Session | None = None
        self._transcript: Transcript | None = None
        self._following: asyncio.Task[None] | None = None
        self._waiting: list[Waiting] = []
        self._came = asyncio.Event()
        self._answered: set[str] = set()
        self._seat = contextlib.AsyncExitStack()
        self._floors: dict[str, FloorState] = {}
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "accept": self._accept, "decline": self._decline, "take": self._take, "watch": self._watch,
            "return": self._return, "release": self._release, "whisper": self._whisper, "cancel": self._cancel,
            "approve": self._approve, "deny": self._deny, "brief": self._brief, "requests": self._requests,
            "help": self._help,
        }  # fmt: skip

    async def sit(self) -> None:
        """Work until the input ends or says /quit."""
        agent = Agent(
            self._me, concurrency=_WAITING, max_attempts=_RETURNS, grace_seconds=0, stall_seconds=0, shy=True
        )  # fmt: skip
        agent(self._answer)
        ready = asyncio.Event()
        watch = FloorWatch(self._broker, self._on_floor)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(agent.serve(self._broker, ready=ready.set))
            watching = group.create_task(watch.run())
            await ready.wait()
            self._say(f"{self._me} is at the desk; /help says what can be typed", "dim")
            await watch.scanned.wait()
            await self._go_on()
            async for line in self._prompt.lines():
                if line.strip() == "/quit":
                    break
                await self._guarded(line)
            await self._leave()
            serving.cancel()
            watching.cancel()

    async def stay(self) -> None:
        """Work until the input ends, and name the first thing that went wrong if something did."""
        try:
            await self.sit()
        except* OrchestratorFreeError as group:
            raise _first(group) from None

    async def _go_on(self) -> None:
        """Enter the session whose floor this person has already: an earlier desk went away."""
        mine = [(state.revision, name) for name, state in self._floors.items() if state.holder == self._me]
        for _, name in sorted(mine)[:-1]:
            self._say(f"you have the floor of {name}, too: /watch {name}", "yellow")
        if mine:
            await self._enter(max(mine)[1], seen=True)

    async def _guarded(self, line: str) -> None:
        try:
            if line.startswith("/"):
                name, _, rest = line[1:].partition(" ")
                command = self._commands.get(name)
                if command is None:
                    raise InvalidInput(f"/{name} is no command; /help lists them")
                await command(rest.strip())
            elif line.strip():
                await self._speak(line)
        except (OrchestratorFreeError, TimeoutError) as error:
            self._say(f"error: {error}", "red")

    def _say(self, words: str, style: str = "") -> None:
        self._prompt.say(Text(clean(words), style=style))

    # -- what comes ---------------------------------------------------------------------------------------------

    async def _answer(self, run: Run) -> None:
        """Answer an input: the handler of this agent."""
        waiting = Waiting(run, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._answered.add(run.id)
        self._came.set()
        if self._session is None or self._session.id != run.session.id:
            where = run.session.id
            self._say(f"{where}: {run.input.sender} says: {run.input.text}; /watch {where} to answer", "bold yellow")
        try:
            async with run.waiting("person"):
                line = await waiting.line
            await run.text(line)
        finally:
            self._waiting.remove(waiting)

    def _on_floor(self, session: str, state: FloorState) -> None:
        before = self._floors.get(session, FloorState()).request
        self._floors[session] = state
        asked = state.request
        if asked is not None and asked != before and self._is_for_me(state):
            reason = f": {asked.reason}" if asked.reason else ""
            self._say(f"{session}: {asked.sender} asks {asked.to} to take the floor{reason}", "bold yellow")
            self._say(f"  /accept {session} or /decline", "dim")
        elif before is not None and asked is None and before.to in (self._me, DESK) and state.by != self._me:
            self._say(f"{session}: {describe(state)}", "dim")

    def _is_for_me(self, state: FloorState) -> bool:
        asked = state.request
        return asked is not None and asked.to in (self._me, DESK) and asked.sender != self._me

    # -- what is typed ------------------------------------------------------------------------------------------

    async def _speak(self, line: str) -> None:
        """Answer the oldest input that waits in this session; if none does, tell the customer."""
        session = self._here()
        waiting = await self._oldest(session)
        if waiting is not None:
            waiting.line.set_result(line)
            return
        if (await session.floor.state()).holder != self._me:
            raise InvalidInput("you only watch here: /take the floor to answer, or /whisper AGENT to help")
        await session.send(line, to=self._customer(), note=True)

    async def _oldest(self, session: Session) -> Waiting | None:
        """Return what waits longest here, None if nothing does; what was only just shown is about to."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COMING_SECONDS):
                while True:
                    self._came.clear()
                    for waiting in self._waiting:
                        if waiting.run.session.id == session.id and not waiting.line.done():
                            return waiting
                    if not self._is_owed():
                        return None
                    await self._came.wait()
        return None

    def _is_owed(self) -> bool:
        """Whether an input for this person stands in the session that has not come here yet."""
        fold = self._transcript.fold if self._transcript else Fold("")
        for entry in fold.inputs.values():
            mine = entry["to"] == self._me or (entry["to"] == ALL and entry["floor"] == self._me)
            name = run_id(entry["from"], entry["input"])
            if mine and not entry["note"] and not entry["replayed"] and name not in self._answered:
                begun = fold.run(self._me, name)
                if not fold.controls.cancels(self._me, name, entry["sequence"]) and (begun is None or begun.open):
                    return True
        return False

    def _here(self) -> Session:
        if self._session is None:
            raise InvalidInput("you are in no session: /accept a request, /take SESSION or /watch SESSION")
        return self._session

    def _customer(self) -> str:
        """Return the person who is served here: the last one who said something and does no runs."""
        fold = self._transcript.fold if self._transcript else Fold("")
        workers = {agent for agent, _ in fold.runs} | set(fold.meta["agents"]) | {self._me}
        said = sorted(fold.inputs.values(), key=lambda entry: -int(entry["sequence"]))
        people = [entry["from"] for entry in said if not (entry["note"] or entry["whisper"] or entry["parent"])]
        known = [name for name in [*people, fold.meta["by"]] if name and name not in workers]
        return str(known[0]) if known else "user"

    async def _accept(self, rest: str) -> None:
        name, _, reason = rest.partition(" ")
        name = name or self._asked()
        await self._broker.session(name).floor.accept(reason=reason)
        await self._enter(name, seen=True)

    def _asked(self) -> str:
        """Return the session whose request is open, the one in which the person is first."""
        found = sorted(
            (name != (self._session.id if self._session else ""), state.revision, name)
            for name, state in self._floors.items()
            if self._is_for_me(state)
        )
        if not found:
            raise InvalidInput("nobody asks you to take the floor")
        return found[0][2]

    async def _decline(self, rest: str) -> None:
        first, _, reason = rest.partition(" ")
        named = first in self._floors and self._is_for_me(self._floors[first])
        name = first if named else self._asked()
        await self._broker.session(name).floor.decline(reason if named else rest)
        self._say(f"declined; the floor of {name} stays where it is", "dim")

    async def _take(self, rest: str) -> None:
        name, _, reason = rest.partition(" ")
        session = self._broker.session(name) if name else self._here()
        if not await session.exists():
            raise InvalidInput(f"there is no session {session.id!r}")
        await session.floor.take(reason=reason)
        await self._enter(session.id, seen=True)

    async def _watch(self, rest: str) -> None:
        await self._enter(rest)

    async def _return(self, rest: str) -> None:
        session = self._here()
        state = await session.floor.give_back(reason=rest)
        await self._drop(session, f"{self._me} has given the floor back")
        self._say(f"{state.holder or 'nobody'} has the floor; you go on watching", "dim")

    async def _release(self, rest: str) -> None:
        session = self._here()
        await session.floor.release(reason=rest)
        await self._drop(session, f"{self._me} has left the floor")
        self._say("nobody has the floor: agents answer what is meant for them; you go on watching", "dim")

    async def _drop(self, session: Session, reason: str) -> None:
        """End what this person has not answered here, so that everybody sees that it is not answered."""
        await self._seat.aclose()
        for waiting in self._waiting:
            if waiting.run.session.id == session.id and not waiting.line.done():
                waiting.line.set_exception(RunError(f"not answered: {reason}"))

    async def _whisper(self, rest: str) -> None:
        agent, _, text = rest.partition(" ")
        if not text.strip():
            raise InvalidInput("/whisper AGENT TEXT")
        await self._here().send(text, to=agent, whisper=True)

    async def _cancel(self, rest: str) -> None:
        if not rest:
            raise InvalidInput("/cancel AGENT")
        await self._here().control.cancel(to=check_name("agent", rest), reason=f"by {self._me}")

    async def _approve(self, rest: str) -> None:
        await self._here().asks.answer(rest, "approve")

    async def _deny(self, rest: str) -> None:
        await self._here().asks.answer(rest, "deny")

    async def _brief(self, rest: str) -> None:
        from rich.markdown import Markdown  # slow to import, and no other command needs it

        text = clean(markdown(await self._here().brief()))
        self._prompt.say(Markdown(text) if out.is_terminal else Text(text))

    async def _requests(self, rest: str) -> None:
        for name, state in sorted(self._floors.items()):
            if state.request is not None:
                self._say(f"{name}: {state.request.sender} asks {state.request.to}: {state.request.reason}")
        for waiting in self._waiting:
            self._say(f"{waiting.run.session.id}: {waiting.run.input.sender} says: {waiting.run.input.text}")

    async def _help(self, rest: str) -> None:
        self._say(_HELP)

    # -- one session --------------------------------------------------------------------------------------------

    async def _enter(self, name: str, *, seen: bool = False) -> None:
        """Show a session: its brief, then everything in it, then whatever comes; `seen`: to the others' knowledge."""
        session = self._broker.session(name)
        about = await session.brief()
        await self._leave()
        if seen:
            await self._seat.enter_async_context(session.presence.join(device="desk"))
        self._session = session
        self._say(panel(about), "bold")
        await self._brief("")
        self._say("── so far ──", "bold")
        transcript = self._transcript = Transcript(name, self._prompt.say)
        self._prompt.label = f"{name}> "
        caught_up = asyncio.Event()
        end = int(str(about["position"]).rpartition("-")[2])
        self._following = asyncio.create_task(self._follow(session, transcript, end, caught_up))
        async with asyncio.timeout(30):
            await caught_up.wait()

    async def _follow(self, session: Session, transcript: Transcript, end: int, caught_up: asyncio.Event) -> None:
        """Print a session; a reset begins it anew."""
        with contextlib.suppress(asyncio.CancelledError):
            try:
                async for event in session.follow():
                    if event.sequence > end and not caught_up.is_set():
                        caught_up.set()
                    transcript.take(event)
                    if event.sequence >= end:
                        caught_up.set()
                    if event.type == "session.deleted":
                        break
            except OrchestratorFreeError as error:
                self._say(f"cannot follow {session.id} any longer: {error}; /watch {session.id} again", "red")
        caught_up.set()

    async def _leave(self) -> None:
        await self._seat.aclose()
        if self._following is not None:
            self._following.cancel()
        if self._transcript is not None:
            self._transcript.close()
        self._session = self._transcript = self._following = None
        self._prompt.label = "> "


def _first(group: BaseExceptionGroup[OrchestratorFreeError]) -> OrchestratorFreeError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def desk(
    name: Annotated[str, typer.Option("--as", help="Who you are; inputs to this name wait for you.")],
) -> None:
    """Sit at the desk: take over sessions from agents, answer people, give the floor back."""

    async def work() -> None:
        async with reach.connect(check_name("--as", name)) as broker:
            with Prompt(out) as prompt:
                await Desk(broker, prompt).stay()

    run(work(), endless=True)
