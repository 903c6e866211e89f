"""`asks`, `approve`, `deny`, `answer`, `ask` and `withdraw`: what members are asked, and their word on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import orjson
import typer
from rich.text import Text

from orchestrator_free.cli.options import EXIT_FAILED, AsJson, Member, SessionName, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import InvalidInput, SessionNotFound
from orchestrator_free.fold import View
from orchestrator_free.session import Session

Which = Annotated[str | None, typer.Argument(help="The ask's id; absent: the only one that is open.", metavar="ASK")]
Comment = Annotated[str, typer.Option(help="For people.")]
_STYLES: Final = {"open": "yellow", "decided": "green", "expired": "red", "withdrawn": "dim"}


@asynccontextmanager
async def _session(name: str, sender: str = "cli") -> AsyncIterator[Session]:
    async with reach.connect(sender) as broker:
        session = broker.session(name)
        if not await session.exists():
            raise SessionNotFound(name)
        yield session


def asks(
    session: SessionName,
    every: Annotated[bool, typer.Option("--all", help="Also what is decided, expired or withdrawn.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what members are asked."""

    async def work() -> None:
        async with _session(session) as target:
            found = await (target.asks.all() if every else target.asks.open())
        for ask in found:
            write_json(ask) if as_json else out.print(describe(ask), highlight=False)
        if not found and not as_json:
            err.print("nobody is asked anything")

    run(work())


def approve(
    session: SessionName, ask: Which = None, comment: Comment = "", sender: Member = "user", as_json: AsJson = False
) -> None:
    """Approve what an agent asks for."""
    _answer(session, ask, "approve", comment, sender, as_json=as_json)


def deny(
    session: SessionName, ask: Which = None, comment: Comment = "", sender: Member = "user", as_json: AsJson = False
) -> None:
    """Deny what an agent asks for."""
    _answer(session, ask, "deny", comment, sender, as_json=as_json)


def answer(
    session: SessionName,
    ask: Annotated[str, typer.Argument(help="The ask's id.", metavar="ASK")],
    value: Annotated[str, typer.Argument(help="One of the options; of an ask without, JSON or plain words.")],
    comment: Comment = "",
    sender: Member = "user",
    as_json: AsJson = False,
) -> None:
    """Answer an ask."""
    _answer(session, ask, value, comment, sender, as_json=as_json)


def _answer(session: str, which: str | None, value: str, comment: str, sender: str, *, as_json: bool) -> None:
    async def work() -> None:
        async with _session(session, sender) as target:
            asked = await (_only(target) if which is None else target.asks.get(which))
            said = value if asked["options"] is not None else _value(value)
            _print(await target.asks.answer(asked["ask"], said, comment), as_json=as_json)

    run(work())


async def _only(session: Session) -> View:
    """Return the one approval that is open."""
    found = [ask for ask in await session.asks.open() if ask["about"] == "approval"]
    if len(found) != 1:
        names = ", ".join(ask["ask"] for ask in found)
        raise InvalidInput(f"say which approval: {names} are open" if found else "no approval is open")
    return found[0]


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def ask(
    session: SessionName,
    text: Annotated[str, typer.Argument(help="What to ask.")],
    to: Annotated[str, typer.Option(help="Whose answers count, separated by commas; absent: everybody's.")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="A value that can be answered; repeat it.")
    ] = None,
    about: Annotated[str, typer.Option(help="approval, question, vote, or a word of yours.")] = "question",
    quorum: Annotated[int, typer.Option(help="How many must give the same answer.", min=1)] = 1,
    seconds: Annotated[float | None, typer.Option(help="Then it expires, whoever is alive.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the decision; 0 does not wait.", min=0)] = 0,
    id: Annotated[str | None, typer.Option(help="Asking again under the same id asks once.")] = None,
    sender: Member = "user",
    as_json: AsJson = False,
) -> None:
    """Ask members for a word."""

    async def work() -> int:
        names = [name for name in to.split(",") if name]
        async with _session(session, sender) as target:
            more: dict[str, Any] = {"about": about, "quorum": quorum, "seconds": seconds, "options": option or None}
            asked = await target.asks.ask(text, to=names, id=id, **more)
            if wait:
                try:
                    await asked.decision(timeout=wait)
                except TimeoutError:
                    err.print(f"ask {asked.ask} is not decided yet; it stands at {asked.position}", highlight=False)
                    return EXIT_FAILED
            _print(await target.asks.get(asked.ask), as_json=as_json)
        return 0

    run(work())


def withdraw(
    session: SessionName,
    ask: Annotated[str, typer.Argument(help="The ask's id.", metavar="ASK")],
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    sender: Member = "user",
    as_json: AsJson = False,
) -> None:
    """Say that no answer is needed any more; only the member who asked may."""

    async def work() -> None:
        async with _session(session, sender) as target:
            _print(await target.asks.withdraw(ask, reason), as_json=as_json)

    run(work())


def _print(found: View, *, as_json: bool) -> None:
    write_json(found) if as_json else out.print(describe(found), highlight=False)


def describe(ask: View) -> Text:
    """Return an ask in words: who wants what of whom, and how it stands."""
    to = clean(", ".join(ask["to"])) or "anybody"
    head = Text.assemble(
        (ask["ask"], "bold"), "  ", (ask["status"], _STYLES.get(ask["status"], "")),
        f"  {ask['from']} → {to}  {clean(ask['about'])}: {clean(ask['text'])}",
    )  # fmt: skip
    if ask["status"] == "open":
        how = f"one of {', '.join(ask['options'])}" if ask["options"] is not None else "anything"
        given = [answer for answer in ask["answers"] if answer["counts"]]
        many = f", {len(given)} of {ask['quorum']} so far" if ask["quorum"] > 1 else ""
        head.append(clean(f"\n    answer {how}{many}"), style="dim")
    elif ask["status"] == "decided":
        value = ask["value"] if isinstance(ask["value"], str) else orjson.dumps(ask["value"]).decode()
        head.append(clean(f"\n    {value[:500]}, by {', '.join(ask['by'])}"))
    elif ask["reason"]:
        head.append(clean(f"\n    {ask['reason']}"), style="dim")
    return head
