"""The commands that go back: edit, regenerate, branch, fork."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from orchestrator_free.broker import Broker
from orchestrator_free.cli.options import AsJson, Member, SessionName, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.cli.watch import print_answers
from orchestrator_free.fold import View
from orchestrator_free.fold.branches import key_of
from orchestrator_free.session import Sent, Session
from orchestrator_free.session.fork import fork_session
from orchestrator_free.subjects import check_name

Which = Annotated[str, typer.Argument(help="The input: FROM/ID, or its id alone.", metavar="INPUT")]
To = Annotated[str | None, typer.Option(help="Other agents than before, separated by commas.")]
Wait = Annotated[bool, typer.Option(help="Wait for the answers and print them.")]


def edit(
    session: SessionName, which: Which,
    text: Annotated[str, typer.Argument(help="The new words; - reads standard input.")],
    to: To = None, sender: Member = "user",
    cancel: Annotated[bool, typer.Option(help="First cancel what still answers the old words.")] = True,
    wait: Wait = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say an input anew; the old one and its answers stay on a branch of their own."""

    async def work() -> int:
        names = _names(to)
        words = typer.get_text_stream("stdin").read() if text == "-" else text
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            sent = await target.branches.edit(which, words, to=names, cancel=cancel)
            return await _tell(broker, target, sent, wait=wait, as_json=as_json)

    run(work())


def regenerate(
    session: SessionName, which: Which, to: To = None, sender: Member = "user",
    wait: Wait = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Have an input answered once more, by the same agents or others."""

    async def work() -> int:
        names = _names(to)
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            sent = await target.branches.regenerate(which, to=names)
            return await _tell(broker, target, sent, wait=wait, as_json=as_json)

    run(work())


def branch(
    session: SessionName,
    which: Annotated[str | None, typer.Argument(help="Select the branch of this input.", metavar="INPUT")] = None,
    sender: Member = "user", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show the branches of a session, or select one for everybody."""

    async def work() -> None:
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if which is not None:
                position = await target.branches.select(which)
                err.print(f"selected at {position}", highlight=False)
            tree = await target.branches.tree()
        if as_json:
            write_json(tree)
        else:
            _print_tree(tree)

    run(work())


def fork(
    session: SessionName,
    name: Annotated[str | None, typer.Option("--as", help="The new session's id; made up if absent.")] = None,
    at: Annotated[str | None, typer.Option(help="Only what stands up to this position.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the new session; the old one's if absent.")] = None,
    sender: Member = "user", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Begin a new session with the history of another one."""

    async def work() -> None:
        async with reach.connect(sender) as broker:
            made = await fork_session(broker, broker.session(session), name, at=at, title=title)
        if as_json:
            write_json({"session": made.session, "events": made.events, "position": str(made.position)})
        else:
            err.print(f"forked {session} to {made.session}: {made.events} events, at {made.position}", highlight=False)

    run(work())


def _names(to: str | None) -> list[str] | None:
    return None if to is None else [check_name("--to", name) for name in to.split(",")]


async def _tell(broker: Broker, session: Session, sent: Sent, *, wait: bool, as_json: bool) -> int:
    if as_json:
        write_json({
            "session": session.id, "input": sent.input, "run": sent.run, "position": str(sent.position),
        })  # fmt: skip
    else:
        err.print(f"sent as input {sent.input}, run {sent.run}, at {sent.position}", highlight=False)
    if not wait:
        return 0
    tree = await session.branches.tree()
    names = next(one["to"] for one in tree["inputs"] if (one["from"], one["input"]) == (broker.member, sent.input))
    return await print_answers(broker, session, sent, names, as_json=as_json)


def render_inputs(view: View) -> Iterator[Text]:
    """Yield the inputs as lines, which say so if they are on a branch that is not shown."""
    path = {key_of(one) for one in view["branch"]["path"]}
    for entry in view["inputs"]:
        aside = bool(entry["siblings"]) and key_of(entry) not in path
        words = f"{clean(entry['text'][:500])}{' (another branch)' if aside else ''}"
        yield Text.assemble((f"{entry['from']} → {entry['to']}: ", "bold"), (words, "dim" if aside else ""))


def _print_tree(tree: View) -> None:
    """Print each input below the one that it comes after; a branch begins further to the right."""
    inputs = {key_of(one): one for one in tree["inputs"]}
    roots = [key for key, one in inputs.items() if one["after"] is None]
    todo = [(key, 0 if len(roots) == 1 else 1) for key in reversed(roots)]
    while todo:
        key, depth = todo.pop()
        one = inputs[key]
        below = [key_of(child) for child in one["next"]]
        mark = "●" if one["selected"] else "○"
        words = clean(one["text"][:200]).replace("\n", " ")
        line = Text.assemble("  " * depth, mark, " ", (key, "bold"), f" → {', '.join(one['to'])}: ", words)
        out.print(line, style="" if one["selected"] else "dim", soft_wrap=True)
        todo += [(child, depth + (len(below) > 1)) for child in reversed(below)]
