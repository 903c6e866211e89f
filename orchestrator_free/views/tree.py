"""The tree of runs: who asked whom. Pure."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free.fold import View
from orchestrator_free.subjects import ALL, run_id

#: agents delegate half as deep
_DEEPEST: Final = 16


def tree(view: View) -> list[View]:
    """Nest a view's runs by who delegated them, in the order in which they were asked.

    Returns:
        The runs that no other run asked for, as `{"agent", "run", "status", "error", "waiting", "stalled", "text",
        "children"}`; what has not begun is `queued`. A run whose parent is not in the view stands at the top, and so
        does one whose parents claim to go round in a circle, or deeper than agents delegate.
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
    for _, parent, node in sorted(found.values(), key=lambda item: item[0]):
        above = _key(parent)
        if above in found and _stands(found, above):
            found[above][2]["children"].append(node)
        else:
            roots.append(node)
    return roots


def _key(parent: Any) -> tuple[str, str]:
    return (str(parent.get("agent")), str(parent.get("run"))) if isinstance(parent, dict) else ("", "")


def _stands(found: dict[tuple[str, str], tuple[int, Any, View]], key: tuple[str, str]) -> bool:
    """Whether what parents claim above a run comes to an end: claims can go round in a circle, or on and on."""
    for _ in range(_DEEPEST):
        if key not in found:
            return True
        key = _key(found[key][1])
    return False
