"""The TypeScript client folds as the gateway does: whatever the log, both show the same view."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings

from orchestrator_free.subjects import KINDS
from tests.test_fold import folded, logs

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free.events import Event

#: beyond it JavaScript's numbers are not whole any more
_WHOLE = 2**53


def small(value: Any) -> Any:
    """The value with numbers that both sides write alike."""
    if isinstance(value, dict):
        return {name: small(item) for name, item in value.items()}
    if isinstance(value, list):
        return [small(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) % 1000 if abs(value) > _WHOLE or value != int(value) else int(value)
    return value


def envelope(event: Event) -> dict[str, Any]:
    """The event as a feed hands it over."""
    where = event.address
    parts = {part: getattr(where, part) for part in KINDS[where.kind]}
    about = {"position": f"ab12cd34-{event.sequence}", "session": "s1", "member": where.member, "kind": where.kind}
    return about | parts | {"time": event.time, "event": event.body}


def test_both_folds_show_the_same_view_of_two_hundred_logs(clients: Path) -> None:
    """Also where the client begins with a snapshot in the middle."""
    found: list[list[Event]] = []

    @settings(max_examples=200)
    @given(logs())
    def collect(events: list[Event]) -> None:
        found.append([event._replace(body=small(event.body)) for event in events])

    collect()
    lines = [json.dumps({"cut": len(events) // 2, "events": list(map(envelope, events))}) for events in found]
    done = subprocess.run(
        ["node", "fold.mjs"], cwd=clients, input="\n".join(lines), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.rstrip("\n").split("\n")]

    assert len(results) == len(found) >= 200
    for events, result in zip(found, results, strict=True):
        fold = folded(events)
        view = json.loads(json.dumps(fold.view(f"ab12cd34-{events[-1].sequence}")))
        assert result["whole"] == view
        assert result["loaded"] == view
        assert result["skipped"] == fold.skipped
        assert result["idle"] == (next(fold.waiting(), None) is None)


def test_the_built_client_is_what_its_source_makes(clients: Path, tmp_path: Path) -> None:
    """What the gateway serves is built from what stands beside it."""
    client = clients.parents[1] / "orchestrator_free/web/client"
    command = [str(clients / "node_modules/.bin/tsc"), "--outDir", str(tmp_path)]
    done = subprocess.run(command, cwd=client, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    built = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_text() for path in (client / "dist").iterdir()}
