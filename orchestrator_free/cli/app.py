"""The commands that use a session: each is a few lines over the library."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from orchestrator_free import tracing
from orchestrator_free.broker import DEFAULT_URL, Access
from orchestrator_free.cli import (
    asks,
    branches,
    broker,
    callout,
    control,
    desk,
    floor,
    operations,
    presence,
    serve,
    state,
    synadia,
    token,
)
from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.options import (
    AsJson,
    Ca,
    Certificate,
    Credentials,
    Inbox,
    Key,
    Member,
    Nkey,
    SessionName,
    Token,
    TokenFile,
    Url,
    err,
    out,
    reach,
    run,
    write_json,
)
from orchestrator_free.cli.render import moment, render_head, render_sessions, render_view
from orchestrator_free.cli.tree import render_tree
from orchestrator_free.cli.watch import print_answers, print_events
from orchestrator_free.errors import InvalidInput, SessionExists
from orchestrator_free.gateway.channels.frames import Selection
from orchestrator_free.logs import configure
from orchestrator_free.session import Session
from orchestrator_free.subjects import KINDS, Position, check_name
from orchestrator_free.vocabulary.messages import Overlap

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # secrets are among them
    help="Durable sessions for multi-agent products, on NATS JetStream.\n\n"
    "Start with [bold]orchestrator-free demo[/], or [bold]orchestrator-free up[/] and the README.",
)
app.command("up")(serve.up)
app.command("demo")(serve.demo)
app.command("launch")(serve.launch)
for _command in (control.cancel, control.steer, control.redirect, control.pause, control.resume):
    app.command(_command.__name__, rich_help_panel="Control")(_command)
for _word in (asks.asks, asks.approve, asks.deny, asks.answer, asks.ask, asks.withdraw):
    app.command(_word.__name__, rich_help_panel="Asks")(_word)
for _going_back in (branches.edit, branches.regenerate, branches.branch, branches.fork):
    app.command(_going_back.__name__, rich_help_panel="Branches")(_going_back)
app.command("desk", rich_help_panel="Floor")(desk.desk)
app.command("floor", rich_help_panel="Floor")(floor.floor)
app.command("brief", rich_help_panel="Floor")(floor.brief)
for _presence in (presence.presence, presence.away, presence.back):
    app.command(_presence.__name__, rich_help_panel="Presence")(_presence)
app.command("tools", rich_help_panel="State")(state.tools)
app.add_typer(state.state_app, name="state", rich_help_panel="State")
operations.register(app)
app.add_typer(broker.broker_app, name="broker", rich_help_panel="Identity")
app.command("callout", rich_help_panel="Identity")(callout.callout)
app.add_typer(token.token_app, name="token", rich_help_panel="Identity")
app.add_typer(synadia.synadia_app, name="synadia", rich_help_panel="Bridges")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"orchestrator-free {version('orchestrator-free')}")
        raise typer.Exit


@app.callback()
def _reach(
    url: Url = DEFAULT_URL,
    credentials: Credentials = None,
    nkey: Nkey = None,
    token: Token = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    inbox: Inbox = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged.")] = "info",
    otel: Annotated[str | None, typer.Option(help="Send traces there, OTLP over HTTP: http://127.0.0.1:4318.")] = None,
    version_: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    reach.url, reach.inbox = url, inbox
    reach.access = Access(
        credentials=credentials,
        nkey_seed=nkey,
        token=token,
        token_file=token_file,
        ca=ca,
        certificate=certificate,
        key=key,
    )
    configure(level=log_level)
    _trace(otel)


def _trace(endpoint: str | None) -> None:
    """Turn traces on if an endpoint is given or in the environment; what is launched from here sends there, too."""
    try:
        tracing.configure("orchestrator-free", endpoint)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error
    if endpoint is not None:
        os.environ[tracing.ENDPOINTS[0]] = endpoint


@app.command()
def send(
    session: SessionName,
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    to: Annotated[str, typer.Option(help="An agent, several separated by commas, or all.")] = "all",
    sender: Member = "user",
    data: Annotated[str | None, typer.Option(help="JSON beside the text.")] = None,
    id: Annotated[str | None, typer.Option(help="Sending the same id and text again sends once.")] = None,
    whisper: Annotated[bool, typer.Option("--whisper", help="Not for the person who is served.")] = False,
    note: Annotated[bool, typer.Option("--note", help="To be read, not worked on.")] = False,
    overlap: Annotated[Overlap | None, typer.Option(help="If the agent is at work; counts if it allows that.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the answers and print them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send an input to a session; the session is begun if there is none."""

    async def work() -> int:
        names = [check_name("--to", name) for name in to.split(",")]
        words = typer.get_text_stream("stdin").read() if text == "-" else text
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if not await target.exists():
                await _begin(target)
            beside = _json_option(data)
            sent = await target.send(words, to=names, data=beside, id=id, whisper=whisper, note=note, overlap=overlap)
            answer = {"session": session, "input": sent.input, "run": sent.run, "position": str(sent.position)}
            if as_json:
                write_json(answer)
            else:
                said = f"sent as input {sent.input}, run {sent.run}, at {sent.position}"
                err.print(said, highlight=False, soft_wrap=True)
            return await print_answers(broker, target, sent, names, as_json=as_json) if wait else 0

    run(work())


async def _begin(session: Session) -> None:
    try:
        await session.create()
    except SessionExists:
        return  # somebody else was first


def _json_option(text: str | None) -> object:
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"--data is not JSON: {error}") from error


@app.command()
def tail(
    session: SessionName,
    after: Annotated[str | None, typer.Option(help="Go on behind this position.")] = None,
    agents: Annotated[str | None, typer.Option(help="Only these members, separated by commas.")] = None,
    kinds: Annotated[str | None, typer.Option(help=f"Only these kinds: {', '.join(KINDS)}.")] = None,
    until_idle: Annotated[bool, typer.Option(help="End when nothing is open or waiting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Follow a session's events, from the beginning or a position."""

    async def work() -> None:
        chosen = Selection.parse(agents or "", kinds or "", "sse")
        position = Position.parse(after) if after is not None else None
        async with reach.connect() as broker:
            target = broker.session(session)
            await print_events(target, position, chosen.takes, as_json=as_json, until_idle=until_idle)

    run(work(), endless=not until_idle)


@app.command()
def sessions(
    after: Annotated[str, typer.Option(help="The id before the page.")] = "",
    limit: Annotated[int, typer.Option(help="Sessions on a page.", min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List the sessions."""

    async def work() -> None:
        async with reach.connect() as broker:
            found = await broker.sessions(after=after, limit=limit)
        if as_json:
            for one in found:
                row = {"session": one.session, "title": one.title, "agents": one.agents, "created": one.created}
                write_json(row)
            return
        rows = [(one.session, one.title, " ".join(one.agents) or "any", moment(one.created)) for one in found]
        out.print(render_sessions(rows))
        if len(found) == limit:
            err.print(f"more: --after {found[-1].session}")

    run(work())


@app.command()
def show(session: SessionName, as_json: AsJson = False) -> None:
    """Show a session as it stands: what everybody said and did, grouped by agent."""

    async def work() -> None:
        async with reach.connect() as broker:
            view = await broker.session(session).view()
        if as_json:
            write_json(view)
            return
        out.print(render_head(view))
        for line in presence.render_said(view):
            out.print(line)
        if view["floor"] and view["floor"]["holder"]:
            out.print(
                f"{view['floor']['holder']} has the floor: nobody else answers the person",
                highlight=False,
                markup=False,
            )
        for line in branches.render_inputs(view):
            out.print(line)
        out.print(render_view(view))
        if (runs := render_tree(view)) is not None:
            out.print(runs)
        for ask in view["asks"]:
            if ask["status"] == "open":
                out.print(asks.describe(ask), highlight=False)

    run(work())


@app.command()
@audited("delete", "session")
def delete(session: SessionName, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a session with everything in it."""
    if not yes:
        typer.confirm(f"Delete session {session} with all its events and files?", abort=True)

    async def work() -> None:
        async with reach.connect() as broker:
            await broker.session(session).delete()
        err.print(f"deleted {session}")

    run(work())


@app.command(name="export")
def export_(
    session: SessionName,
    to: Annotated[Path, typer.Option("--to", "-o", help="File to write; - for standard output.")] = Path("-"),
) -> None:
    """Write a session to a file: its log as it is, and its objects."""
    from orchestrator_free.cli.transfer import write_export

    run(write_export(session, to))


@app.command(name="import")
@audited("import", "session")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote; - for standard input.")],
    session: Annotated[str | None, typer.Option("--as", help="The new session's id; as exported if absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a session from a file; its inputs become history, no agent works on them again."""
    from orchestrator_free.cli.transfer import read_import

    run(read_import(file, session, as_json=as_json))


def main() -> None:
    """Run the command line."""
    app()
