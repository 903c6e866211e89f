"""What a backup says of itself: which streams, up to where, and how to tell that its files are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator_free import contract
from orchestrator_free.errors import InvalidInput

MANIFEST: Final = "manifest.json"
_PIECE: Final = 256 * 1024


class ConsumerMark(BaseModel):
    """A durable consumer as it stood when its stream was taken.

    Attributes:
        created: when it was first made, RFC 3339; a restored one is younger, and inputs to everybody ask for this.
        floor: everything up to this sequence was acknowledged.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    created: str
    floor: int
    pending: int


class StreamPart(BaseModel):
    """One stream of a backup.

    Attributes:
        file: the broker's snapshot, in the folder of the manifest. sha256, bytes: of that file.
        config: the stream's definition. state: as the broker reported it.
        epoch: of positions in it, for a shard of the log; empty for others.
    """

    stream: str
    file: str
    bytes: int
    sha256: str
    config: dict[str, Any]
    state: dict[str, Any]
    epoch: str
    consumers: list[ConsumerMark]


class Manifest(BaseModel):
    """A backup: the streams of one installation.

    Attributes:
        began, ended: by the broker's clock, RFC 3339; the parts were taken one after the other in between.
        server: version of the broker it was taken from. wire: version of broker/PROTOCOL.md.
    """

    format: int = 1
    began: str
    ended: str
    server: str
    wire: str
    shards: int
    streams: list[StreamPart]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(part.bytes for part in self.streams)

    @property
    def messages(self) -> int:
        """Messages in all its streams."""
        return sum(int(part.state["messages"]) for part in self.streams)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a backup.

    Raises:
        InvalidInput: the folder holds no complete backup, or one that this version cannot read.
    """
    try:
        found = Manifest.model_validate(orjson.loads((folder / MANIFEST).read_bytes()))
    except OSError as error:
        raise InvalidInput(
            f"{folder} holds no backup: {MANIFEST} cannot be read ({error.strerror}); it is written last, so a backup "
            "without it was not completed"
        ) from error
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise InvalidInput(f"{folder / MANIFEST} is not a manifest of a backup: {str(error)[:300]}") from error
    if found.format != 1 or found.wire != contract.WIRE:
        said = f"format {found.format}, wire {found.wire}"
        raise InvalidInput(f"the backup in {folder} has {said}; this version reads format 1, wire {contract.WIRE}")
    return found


def problems(folder: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files of a backup, a line for each; nothing if they are as they were written."""
    found = []
    for part in manifest.streams:
        path = folder / part.file
        if Path(part.file).name != part.file or not path.is_file():
            found.append(f"{part.stream}: {part.file} is not there")
        elif path.stat().st_size != part.bytes:
            found.append(f"{part.stream}: {part.file} has {path.stat().st_size} bytes instead of {part.bytes}")
        elif digest_of(path) != part.sha256:
            found.append(f"{part.stream}: {part.file} was changed since it was written (SHA-256 differs)")
    missing = set(contract.lasting_streams(manifest.shards)) - {part.stream for part in manifest.streams}
    return found + [f"{name}: not in the manifest" for name in sorted(missing - contract.OPTIONAL)]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for piece in pieces_of(path):
        digest.update(piece)
    return digest.hexdigest()


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
