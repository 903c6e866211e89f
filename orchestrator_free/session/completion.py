"""What a view leaves out because it is large: parts of finished runs that are in the object store."""

from __future__ import annotations

import orjson

from orchestrator_free.fold import View
from orchestrator_free.jetstream import Objects


def object_names(view: View) -> list[str]:
    """Return the names of every object that a view refers to."""
    runs = [run for agent in view["agents"] for run in agent["runs"]]
    files = [
        part["object"] for run in runs for part in run["parts"] if part.get("type") == "file" and part.get("object")
    ]
    return [run["object"] for run in runs if run["object"]] + files


async def complete(view: View, objects: Objects) -> View:
    """Fetch what large finished runs keep in the object store into a view."""
    for agent in view["agents"]:
        agent["runs"] = [await complete_run(view["session"], run, objects) for run in agent["runs"]]
    return view


async def complete_run(session: str, run: View, objects: Objects) -> View:
    """Fetch the parts of one run, if they are in the object store."""
    if not run["object"] or run["parts"]:
        return run
    stored = await objects.get(session, run["object"])
    if stored is None:
        return {**run, "error": run["error"] or f"the run's object {run['object']!r} is gone"}
    return {**run, **orjson.loads(stored)}
