"""Every `orchestrator-free …` that a file of deploy/ tells somebody to run, as words."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAM = "orchestrator-free"
#: stands for what the environment or a person fills in
FILLED = {
    "PORT": "8080",
    "REPLICAS": "3",
    "ORCHESTRATOR_FREE_URL": "nats://127.0.0.1:4222",
    "BROKER": "nats://nats:4222",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$\((\w+)\)|\$(\w+)")


@dataclass(frozen=True)
class Command:
    """A command line: where it stands, and its words after the program's name."""

    file: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.words)}"


def commands() -> list[Command]:
    """Find them all: in units, Compose, manifests, the Dockerfile, and the READMEs' blocks."""
    found = []
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file()):
        finder = {".service": _units, ".md": _pages, ".yaml": _documents, ".conf": _remarks}.get(path.suffix)
        if finder is not None:
            found += [Command(str(path.relative_to(DEPLOY)), tuple(map(_filled, words))) for words in finder(path)]
    return found


def _filled(word: str) -> str:
    return _VARIABLE.sub(lambda match: match[2] or FILLED.get(match[1] or match[3] or match[4], "x"), word)


def _units(path: Path) -> Iterator[list[str]]:
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("ExecStart=") and PROGRAM in line:
            words = shlex.split(line.removeprefix("ExecStart="))
            if words[0].endswith(f"/{PROGRAM}"):
                yield words[1:]


def _pages(path: Path) -> Iterator[list[str]]:
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.splitlines():
            yield from _in_shell(line)
    yield from _remarks(path)


def _remarks(path: Path) -> Iterator[list[str]]:
    for quoted in re.findall(rf"`({PROGRAM} [^`]+)`", path.read_text()):
        yield from _in_shell(quoted)


def _in_shell(line: str) -> Iterator[list[str]]:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        del words[0]
    if words and words[0] == PROGRAM:
        yield words[1:]


def _documents(path: Path) -> Iterator[list[str]]:
    for document in yaml.safe_load_all(path.read_text()):
        yield from _containers(document)


def _containers(node: Any) -> Iterator[list[str]]:
    """Yield the arguments of whatever runs our image with its own entry point."""
    if isinstance(node, list):
        for one in node:
            yield from _containers(one)
    elif isinstance(node, dict):
        ours = str(node.get("image", "")).startswith("orchestrator-free:")
        words = node.get("args", node.get("command"))
        if (
            ours
            and words
            and "entrypoint" not in node
            and not ("command" in node and "image" in node and _is_pod(node))
        ):
            yield [str(word) for word in words]
        for one in node.values():
            yield from _containers(one)


def _is_pod(node: dict[str, Any]) -> bool:
    """Whether this is a container of Kubernetes, whose `command` takes the place of the entry point."""
    return "name" in node
