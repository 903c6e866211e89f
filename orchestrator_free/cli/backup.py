"""`backup` and `restore`: an installation to a folder and back."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from orchestrator_free.cli.auditing import audited, remember
from orchestrator_free.cli.options import AsJson, err, reach, run, write_json
from orchestrator_free.errors import InvalidInput
from orchestrator_free.operations.backup import back_up, rehearse, restore
from orchestrator_free.operations.manifest import Manifest, problems, read_manifest

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.", metavar="DIR")]


@audited("backup", "folder", when=lambda given: not given["verify"] and not given["drill"])
def backup(
    folder: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Check the backup that is there.")] = False,
    drill: Annotated[
        bool, typer.Option("--drill", help="Check it by restoring it into a broker that is started for that.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a backup of the installation, everything in it, while it works; or check one."""

    async def work() -> None:
        if verify or drill:
            manifest = read_manifest(folder)
            if wrong := problems(folder, manifest):
                raise InvalidInput(f"the backup in {folder} is not whole: {'; '.join(wrong)}")
            if drill:
                await rehearse(folder)
            _tell("the backup is whole" + (" and was restored once" if drill else ""), manifest, 0.0, as_json=as_json)
            return
        began = perf_counter()
        with _Bar() as bar:
            async with reach.wire() as wire:
                manifest = await back_up(wire, folder, bar.advance)
                remember(messages=manifest.messages)
        _tell(f"backed up to {folder}", manifest, perf_counter() - began, as_json=as_json)

    run(work())


@audited("restore", "folder", "replicas")
def restore_(
    folder: Folder,
    replicas: Annotated[int | None, typer.Option(help="Of the streams, if otherwise than they were.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Make the installation of a backup anew on a broker that has none."""

    async def work() -> None:
        began = perf_counter()
        with _Bar() as bar:
            async with reach.wire() as wire:
                manifest = await restore(wire, folder, replicas=replicas, progress=bar.advance)
                remember(messages=manifest.messages, of=manifest.began)
        _tell(f"restored from {folder}", manifest, perf_counter() - began, as_json=as_json)
        err.print(
            f"tokens that were revoked after {manifest.began} count again; `orchestrator-free token revoke --all` ends "
            "every token made up to now",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    run(work())


class _Bar:
    """Progress for people, by stream."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, stream: str, count: int) -> None:
        """Show that so many bytes of a stream have passed."""
        if stream not in self._tasks:
            self._tasks[stream] = self._progress.add_task(stream, total=None)
        self._progress.advance(self._tasks[stream], count)


def _tell(what: str, manifest: Manifest, seconds: float, *, as_json: bool) -> None:
    speed = manifest.size / 1e6 / seconds if seconds else None
    if as_json:
        streams = [
            {
                "stream": part.stream, "bytes": part.bytes, "messages": part.state["messages"],
                "last": part.state["last_seq"], "consumers": len(part.consumers),
            }
            for part in manifest.streams
        ]  # fmt: skip
        about = {"began": manifest.began, "ended": manifest.ended, "bytes": manifest.size, "streams": streams}
        write_json(about | ({"seconds": round(seconds, 3)} if seconds else {}))
        return
    for part in manifest.streams:
        size = f"{part.state['messages']} messages, {len(part.consumers)} consumers, {part.bytes} bytes"
        err.print(f"{part.stream}: {size}, up to {part.state['last_seq']}", highlight=False, markup=False)
    rate = f", {speed:.1f} MB/s" if speed else ""
    err.print(f"{what}: {manifest.messages} messages, {manifest.size} bytes{rate}", highlight=False, markup=False)
