"""`export` and `import`: a session to a file and back, with progress on long work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from orchestrator_free.cli.auditing import remember
from orchestrator_free.cli.options import err, reach, write_json
from orchestrator_free.errors import InvalidInput
from orchestrator_free.session.archive import export_session, import_session


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal)


async def write_export(session: str, to: Path) -> None:
    """Write a session's archive; a file that could not be completed is removed."""
    with ExitStack() as stack:
        progress = stack.enter_context(_progress())
        task = progress.add_task(f"export {session}", total=None)
        async with reach.connect() as broker:
            lines = export_session(broker.session(session))
            if str(to) == "-":
                async for line in lines:
                    sys.stdout.buffer.write(line)
                return
            partial = to.with_name(to.name + ".partial")
            try:
                with partial.open("wb") as file:
                    async for line in lines:
                        file.write(line)
                        progress.advance(task, len(line))
                partial.replace(to)
            except OSError as error:
                raise InvalidInput(f"cannot write {str(to)!r}: {error.strerror}") from error
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
    err.print(f"exported {session} to {to} ({to.stat().st_size} bytes)", highlight=False)


async def read_import(file: Path, session: str | None, *, as_json: bool) -> None:
    """Read an archive into a new session."""
    with ExitStack() as stack:
        if str(file) == "-":
            lines: Iterable[bytes] = sys.stdin.buffer
        else:
            try:
                opened = stack.enter_context(file.open("rb"))
            except OSError as error:
                raise InvalidInput(f"cannot read {str(file)!r}: {error.strerror}") from error
            progress = stack.enter_context(_progress())
            lines = stack.enter_context(
                progress.wrap_file(opened, total=file.stat().st_size, description=f"import {file.name}")
            )
        async with reach.connect() as broker:
            result = await import_session(broker, lines, session_id=session)
            remember(session=result.session, events=result.events)
    if as_json:
        write_json({"session": result.session, "events": result.events, "position": str(result.position)})
    else:
        err.print(f"imported {result.session}: {result.events} events, at {result.position}", highlight=False)
