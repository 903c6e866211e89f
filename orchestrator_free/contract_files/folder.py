"""Every file of the folder, and writing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.contract_files.asyncapi import asyncapi
from orchestrator_free.contract_files.configuration import (
    AGENT,
    COMMAND,
    accounts_conf,
    nats_server_conf,
    permissions_conf,
)
from orchestrator_free.contract_files.schemas import schemas
from orchestrator_free.contract_files.tables import with_tables
from orchestrator_free.contract_files.yaml import to_yaml

_USAGE: Final = "python -m orchestrator_free.contract_files FOLDER [SHARDS]"
#: kinds that a notifier hears in the examples
_NOTIFIED: Final = ("run", "ask", "stage", "presence", "floor")


def files(shards: int = 1) -> dict[str, str]:
    """Return every generated file: path below `broker/` and text."""
    streams = contract.installation(contract.StreamSettings(shards=shards))
    found = {f"streams/{_file(name)}.json": _json(config) for name, config in streams.items()}
    found |= {
        "consumers/agent.json": _json(contract.agent_consumer(0, AGENT)),
        "consumers/service.json": _json(contract.service_consumer(0, "billing")),
        "consumers/notifier.json": _json(contract.notifier_consumer(0, "notify", _NOTIFIED, "2026-01-01T00:00:00Z")),
    }
    found |= {f"schemas/{name}.json": _json(schema) for name, schema in schemas().items()}
    found["asyncapi.yaml"] = f"# Written by `{COMMAND}`.\n{to_yaml(asyncapi())}"
    found["nats-server.conf"] = nats_server_conf()
    found["permissions.conf"] = permissions_conf(shards)
    found["accounts.conf"] = accounts_conf(shards)
    return found


def write(folder: Path, shards: int = 1) -> list[Path]:
    """Write the files into a folder, and the tables into its PROTOCOL.md; return what changed."""
    wanted = {folder / name: text for name, text in files(shards).items()}
    protocol = folder / "PROTOCOL.md"
    if protocol.exists():
        wanted[protocol] = with_tables(protocol.read_text())
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return changed


def _file(stream: str) -> str:
    """Return what the file of a stream's definition is called: `SESSIONS_0` as it is, `SESSIONS_AUDIT` audit."""
    _, _, name = stream.rpartition("_")
    return stream.lower() if name.isdecimal() else name.lower()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files into the folder given, for as many shards as given."""
    if not 1 <= len(arguments) <= 2:
        print(f"usage: {_USAGE}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2
    for path in write(Path(arguments[0]), int((arguments[1:] or ["1"])[0])):
        print(path)  # noqa: T201 - a command's answer
    return 0
