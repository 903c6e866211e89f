"""The commands of shared state and of the ledger of tool calls: `state get|set|patch|delete|history|watch`, `tools`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal

import orjson
import typer
from rich.table import Table
from rich.text import Text

from orchestrator_free.cli.options import (
    EXIT_NOT_FOUND,
    AsJson,
    Member,
    SessionName,
    err,
    out,
    reach,
    run,
    write_json,
)
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import InvalidInput, SessionNotFound
from orchestrator_free.session import Session
from orchestrator_free.session.state import Value

state_app = typer.Typer(no_args_is_help=True, help="Values by key that everybody in a session may read and change.")

Key = Annotated[str, typer.Argument(help="Which value.", metavar="KEY")]
OptionalKey = Annotated[str | None, typer.Argument(help="Which value; all if absent.", metavar="KEY")]
Expect = Annotated[
    int | None,
    typer.Option(help="Only over this revision; 0: only if there is none. Otherwise the last write wins.", min=0),
]
_CELL = 60


def _reached(
    session: str, sender: str, work: Callable[[Session], Awaitable[int | None]], *, endless: bool = False
) -> None:
    """Run a command on a session that exists."""

    async def begun() -> int | None:
        async with reach.connect(sender) as broker:
            target = broker.session(session)
            if not await target.exists():
                raise SessionNotFound(session)
            return await work(target)

    run(begun(), endless=endless)


def _json_of(text: str) -> Any:
    words = typer.get_text_stream("stdin").read() if text == "-" else text
    try:
        return orjson.loads(words)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error}; a text needs quotes of its own: '\"like this\"'") from error


def _shown(value: Value) -> dict[str, Any]:
    entry = {"key": value.key, "value": value.value, "revision": value.revision, "by": value.by, "time": value.time}
    return entry | ({"deleted": True} if value.deleted else {})


def _print(values: Iterable[Value], *, as_json: bool) -> None:
    for value in values:
        if as_json:
            write_json(_shown(value))
            continue
        line = Text.assemble(
            (f"{value.revision:>8} ", "dim"), (f"{clean(value.by):12} ", "cyan"), (f"{value.key} ", "bold"),
            ("deleted", "red") if value.deleted else clean(orjson.dumps(value.value).decode()),
        )  # fmt: skip
        out.print(line, soft_wrap=True)


def _said(value: Value, *, as_json: bool) -> None:
    if as_json:
        write_json(_shown(value))
    else:
        err.print(f"{value.key} is at revision {value.revision}", highlight=False)


@state_app.command("get")
def get_(session: SessionName, key: OptionalKey = None, as_json: AsJson = False) -> None:
    """Print a value, or all of them; a single one as it is, for pipes."""

    async def work(target: Session) -> int:
        if key is None:
            _print((await target.state.all()).values(), as_json=as_json)
            return 0
        value = await target.state.get(key)
        if value is None:
            err.print(f"state {key} has no value", highlight=False)
            return EXIT_NOT_FOUND
        write_json(_shown(value) if as_json else value.value)
        return 0

    _reached(session, "cli", work)


@state_app.command("set")
def set_(
    session: SessionName,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON; - reads standard input.")],
    expect: Expect = None,
    sender: Member = "user",
    as_json: AsJson = False,
) -> None:
    """Set a value."""

    async def work(target: Session) -> None:
        _said(await target.state.set(key, _json_of(value), expect=expect), as_json=as_json)

    _reached(session, sender, work)


@state_app.command("patch")
def patch_(
    session: SessionName,
    key: Key,
    patch: Annotated[str, typer.Argument(help="JSON: a list is a JSON Patch, an object a merge patch; - reads it.")],
    expect: Expect = None,
    sender: Member = "user",
    as_json: AsJson = False,
) -> None:
    """Change a value, whatever others do to it at the same time."""

    async def work(target: Session) -> None:
        said = _json_of(patch)
        if not isinstance(said, list | dict):
            raise InvalidInput("a patch is a list of operations (JSON Patch) or an object (merge patch)")
        change = target.state.patch if isinstance(said, list) else target.state.merge
        _said(await change(key, said, expect=expect), as_json=as_json)

    _reached(session, sender, work)


@state_app.command("delete")
def delete_(session: SessionName, key: Key, expect: Expect = None, sender: Member = "user") -> None:
    """Remove a value."""

    async def work(target: Session) -> int:
        found = await target.state.delete(key, expect=expect)
        err.print(f"{key} is deleted" if found else f"state {key} has no value", highlight=False)
        return 0 if found else EXIT_NOT_FOUND

    _reached(session, sender, work)


@state_app.command("history")
def history_(session: SessionName, key: Key, as_json: AsJson = False) -> None:
    """Print every version of a value."""

    async def work(target: Session) -> None:
        _print(await target.state.history(key), as_json=as_json)

    _reached(session, "cli", work)


@state_app.command("watch")
def watch_(session: SessionName, key: OptionalKey = None, as_json: AsJson = False) -> None:
    """Print the present value, or all of them, and every change as it comes."""

    async def work(target: Session) -> None:
        async for value in target.state.watch(key):
            _print([value], as_json=as_json)

    _reached(session, "cli", work, endless=True)


def tools(
    session: SessionName,
    tool: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only what this one called.")] = None,
    of_run: Annotated[str | None, typer.Option("--run", help="Only calls of this run.")] = None,
    status: Annotated[Literal["running", "done", "error"] | None, typer.Option(help="Only these.")] = None,
    min_seconds: Annotated[float, typer.Option(help="Only calls that took so long at least.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what agents have called: by start, calls of lost attempts included."""

    async def work(target: Session) -> None:
        calls = await target.tools(tool=tool, agent=agent, run=of_run, status=status, min_seconds=min_seconds)
        if as_json:
            for call in calls:
                write_json(call)
            return
        out.print(_table(calls))

    _reached(session, "cli", work)


def _table(calls: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("started", "agent", "tool", "status", "seconds", "input", "output"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for call in calls:
        words = f"{call['status']}, lost" if call["lost"] else call["status"]
        seconds = "" if call["seconds"] is None else f"{call['seconds']:.2f}"
        came = call["error"] if call["status"] == "error" else call["output"]
        cells = [call["started"] or "", call["agent"], call["tool"], words, seconds, _cell(call["input"]), _cell(came)]
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _CELL else text[:_CELL] + "…"
