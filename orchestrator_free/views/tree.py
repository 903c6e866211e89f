"""The tree of runs: who asked whom. Pure."""

from __future__ import annotations

from typing import Any

from orchestrator_free.fold import View
from orchestrator_free.subjects import ALL, run_id


def tree(view: View) -> list[View]:
    """Nest a view's runs by who delegated them, in the order in which they were asked.

    Returns:
        The runs that no other run asked for, as `{"agent", "run", "status", "error", "waiting", "stalled", "text",
        "children"}`; what has not begun is `queued`. A run whose parent is not in the view stands at the top.
    """
    asked = {(entry["to"], run_id(entry["from"], entry["input"])): entry for entry in view["inputs"]}
    found: dict[tuple[str, str], tuple[int, Any, View]] = {}
    for agent in view["agents"]:
        for run in agent["runs"]:
            key = (agent["agent"], run["run"])
            entry = asked.get(key) or asked.get((ALL, run["run"])) or {}
            place = entry.get("sequence", run["first"])
            found[key] = (place, run["parent"], _node(*key, run["status"], entry.get("text", ""), run))
    for queued in view["queue"]:
        key = (queued["agent"], queued["run"])
        entry = asked.get(key) or asked.get((ALL, queued["run"])) or {}
        node = _node(*key, "queued", entry.get("text", ""))
        found.setdefault(key, (entry.get("sequence", 0), entry.get("parent"), node))
    return _nest(found)


def _node(agent: str, run: str, status: str, text: str, more: View | None = None) -> View:
    known = {name: more[name] if more else None for name in ("error", "waiting", "stalled")}
    return {"agent": agent, "run": run, "status": status, "text": text, **known, "children": []}


def _nest(found: dict[tuple[str, str], tuple[int, Any, View]]) -> list[View]:
    roots = []
    for key, (_, parent, node) in sorted(found.items(), key=lambda item: item[1][0]):
        above = _key(parent)
        if above in found and not _is_below(found, above, key):
            found[above][2]["children"].append(node)
        else:
            roots.append(node)
    return roots


def _key(parent: Any) -> tuple[str, str]:
    return (str(parent.get("agent")), str(parent.get("run"))) if isinstance(parent, dict) else ("", "")


def _is_below(found: dict[tuple[str, str], tuple[int, Any, View]], key: tuple[str, str], top: tuple[str, str]) -> bool:
    """Whether a run stands below another by what their parents claim; claims can go round in a circle."""
    seen: set[tuple[str, str]] = set()
    while key in found and key not in seen:
        if key == top:
            return True
        seen.add(key)
        key = _key(found[key][1])
    return key == top
