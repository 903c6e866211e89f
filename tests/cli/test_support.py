"""The scenario `support`: everything that keeps people in control, in one session, played to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_the_support_scenario_is_played_to_its_end(tmp_path: Path) -> None:
    """A cancel from the phone, an approval that expires, a person with a brief, a whisper, and back to the agent."""
    command = [sys.executable, "-m", "orchestrator_free", "demo", "--scenario", "support", "--once", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]

    view = json.loads(done.stdout)
    runs = {agent["agent"]: agent["runs"] for agent in view["agents"]}
    said = {
        agent: ["".join(part.get("text", "") for part in run["parts"]) for run in found]
        for agent, found in runs.items()
    }
    assert [run["status"] for run in runs["concierge"]] == ["done", "cancelled", "done", "done"]
    assert [run["status"] for run in runs["orders"]] == ["done", "done", "done"]
    assert [run["whisper"] for run in runs["orders"]] == [False, False, True]
    assert [(ask["about"], ask["status"], ask["to"]) for ask in view["asks"]] == [("approval", "expired", ["lee"])]
    assert [entry["text"][:5] for entry in view["inputs"] if entry["note"]] == ["Hello", "Done."]
    assert view["state"]["refund"]["value"]["approved_by"] == ["dana"]
    assert "receipt R-1042" in said["concierge"][-1]
    assert view["floor"]["holder"] is None
    desk = (tmp_path / ".orchestrator-free/demo/desk.log").read_text()
    assert "## What was asked" in desk
    assert "Order 1042 arrived broken" in desk.partition("## What was tried")[0]
