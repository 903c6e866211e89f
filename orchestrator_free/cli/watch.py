"""What `tail` and `send --wait` have in common: following a session and printing what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import orjson
from rich.live import Live
from rich.text import Text

from orchestrator_free.broker import Broker
from orchestrator_free.cli.options import EXIT_FAILED, err, out, write_json
from orchestrator_free.cli.render import clean, render_view
from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold, View
from orchestrator_free.lag import agent_of
from orchestrator_free.session import Sent, Session
from orchestrator_free.session.completion import complete_run
from orchestrator_free.subjects import ALL, Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import RenderableType

_REFRESH_SECONDS = 0.1
_LIVE_LINES = 9


async def print_events(
    session: Session, after: Position | None, choose: Callable[[Event], bool], *, as_json: bool, until_idle: bool
) -> None:
    """Print events behind a position, as they come; with `until_idle` until nothing is open or waiting."""
    fold = Fold.load(await session.view(whole=False))  # an unknown session is an error here, not a long silence
    end = fold.sequence
    if until_idle and _rests(fold) and after == session.position(end):
        return
    async for event in session.follow(after):
        if event.sequence > end:
            fold.apply(event)
        if choose(event):
            print_event(session, event, as_json=as_json)
        if until_idle and event.sequence >= end and _rests(fold):
            return


def _rests(fold: Fold) -> bool:
    return next(fold.waiting(), None) is None


def print_event(session: Session, event: Event, *, as_json: bool) -> None:
    """Print one event as a line."""
    position = str(session.position(event.sequence))
    if as_json:
        where = {"position": position, "time": event.time, "member": event.member, "kind": event.kind, "id": event.id}
        write_json({**where, "event": event.body})
        return
    line = Text.assemble(
        (f"{position:>16} ", "dim"), (f"{event.member:12} ", "cyan"), (f"{clean(event.type):16} ", "bold"),
        clean(_words(event.body)),
    )  # fmt: skip
    out.print(line, soft_wrap=True)


def _words(body: dict[str, Any]) -> str:
    """Return the text of a payload on one line, or all of the payload."""
    text = body.get("text")
    if body["type"] == "run.finished" and isinstance(body.get("parts"), list):
        found = [part.get("text") for part in body["parts"] if isinstance(part, dict) and part.get("type") == "text"]
        text = f"{body.get('status')}: {''.join(one for one in found if isinstance(one, str))}"
    if isinstance(text, str):
        return orjson.dumps(text).decode()[1:-1]
    return orjson.dumps({name: value for name, value in body.items() if name != "type"}).decode()


# -- answers ----------------------------------------------------------------------------------------------------


async def print_answers(broker: Broker, session: Session, sent: Sent, to: Sequence[str], *, as_json: bool) -> int:
    """Wait for the runs that answer an input and print them; return the exit code: 0 if all of them are done."""
    fold = Fold(session.id)
    agents = await _those_who_answer(broker, session, to)
    left = set(agents)
    async with _painting(lambda: _answers(session, fold, sent, agents), on=out.is_terminal and not as_json):
        async for event in session.follow():
            fold.apply(event)
            if event.type == "agent.offline" and event.member in left and event.sequence > sent.position.sequence:
                reason = clean(event.body.get("reason") or "no process of it runs")
                err.print(Text(f"{event.member} is offline: {reason}; the input waits in the log"), soft_wrap=True)
            for agent in sorted(left):
                found = fold.run(agent, sent.run)
                if found is not None and not found.open:
                    left.discard(agent)
                    if as_json:
                        write_json(await complete_run(session.id, found.view(), broker.objects))
            if not left:
                break
    view = _answers(session, fold, sent, agents)
    for agent in view["agents"]:
        agent["runs"] = [await complete_run(session.id, run, broker.objects) for run in agent["runs"]]
    if not as_json:
        out.print(render_view(view))
    return 0 if all(run["status"] == "done" for agent in view["agents"] for run in agent["runs"]) else EXIT_FAILED


async def _those_who_answer(broker: Broker, session: Session, to: Sequence[str]) -> list[str]:
    """Return the agents an input is for: by name, or those the session names, or all that have ever connected."""
    if ALL not in to:
        return list(dict.fromkeys(to))
    named = (await session.meta())["agents"]
    known = {agent_of(name) for name in await broker.log.consumer_names(session.shard)} - {""}
    found = list(named) or sorted(known)
    if not found:
        raise InvalidInput("no agent has ever connected, so nobody will answer; start one, or name one with --to")
    return found


def _answers(session: Session, fold: Fold, sent: Sent, agents: list[str]) -> View:
    """Return the view with nothing in it but the runs that answer one input."""
    view: View = fold.view(str(session.position(fold.sequence)))
    view["meta"]["agents"] = agents
    found: list[dict[str, Any]] = [agent for agent in view["agents"] if agent["agent"] in agents]
    for agent in found:
        agent["runs"] = [run for run in agent["runs"] if run["run"] == sent.run]
    view["agents"] = found
    return view


@asynccontextmanager
async def _painting(render: Callable[[], View], *, on: bool) -> AsyncIterator[None]:
    """Show a view as it grows, on a terminal; what was shown is gone afterwards."""
    if not on:
        yield
        return

    async def paint() -> None:
        while True:
            live.update(_picture(render()), refresh=True)
            await asyncio.sleep(_REFRESH_SECONDS)

    with Live(console=out, auto_refresh=False, transient=True) as live:
        painting = asyncio.create_task(paint())
        try:
            yield
        finally:
            painting.cancel()
            with suppress(asyncio.CancelledError):
                await painting


def _picture(view: View) -> RenderableType:
    count = len(view["meta"]["agents"])
    return render_view(view, size=(out.width, min(out.height - 2, _LIVE_LINES * count)))
