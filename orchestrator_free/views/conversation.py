"""The conversation of a branch: what was said and answered, grouped by input, oldest first. Pure: made from a view.

    [{"input": "i1", "from": "ann", "to": ["critic"], "text": "…", "data": null, "time": "…",
      "answers": [{"agent": "critic", "run": "…", "status": "done", "text": "…", "parts": […]}],
      "notes": [{"from": "bob", "to": "all", "text": "…", "data": null, "time": "…", "whisper": false}]}]

`status` of an answer is that of its run; `text` is its text parts joined, for an answer in progress what there is;
those of sub-agents that worked for a tool call are left out.
"""

from __future__ import annotations

from typing import Any

from orchestrator_free.errors import InvalidInput
from orchestrator_free.fold import View
from orchestrator_free.fold.branches import Branches, in_tree, key_of
from orchestrator_free.subjects import run_id
from orchestrator_free.views.answers import answer_text


def conversation(
    view: View, *, branch: str | None = None, before: str | None = None, whispers: bool = False
) -> list[View]:
    """Return the turns of a branch.

    Args:
        view: of the session.
        branch: an input of it, `<sender>/<input>`; the selected branch if absent.
        before: only what stands before this input, on its own branch. Of one that was delegated: up to the input that
            it was delegated for, and what has been answered to that so far.
        whispers: also what is not for the person who is served.

    Raises:
        InvalidInput: the session has no such input, or none that is in a branch.
    """
    tree = Branches.load(view)
    if before is not None:
        path = _path_before(view, tree, before)
    elif branch is not None:
        path = tree.path(tree.end(_known(tree, branch)))
    else:
        path = tree.path()
    turns: dict[str, View] = {}
    for key in path:
        turns[key] = {}
    for entry in view["inputs"]:
        _take_entry(turns, entry, whispers=whispers)
    runs = {run_id(*key.split("/", 1)): key for key in path}
    for agent in view["agents"]:
        for run in agent["runs"]:
            if run["run"] in runs and (whispers or not run.get("whisper")):
                turns[runs[run["run"]]]["answers"].append(_answer(run))
    return list(turns.values())


def _known(tree: Branches, key: str) -> str:
    if key not in tree.after:
        raise InvalidInput(f"{key[:200]!r} is no input of a branch of this session; pass <sender>/<input id>")
    return key


def _path_before(view: View, tree: Branches, key: str) -> list[str]:
    if key in tree.after:
        return tree.path(tree.after[key])
    entries: dict[str, View] = {run_id(one["from"], one["input"]): one for one in view["inputs"]}
    entry = entries.get(run_id(*key.split("/", 1))) if "/" in key else None
    if entry is None:
        raise InvalidInput(f"{key[:200]!r} is no input of this session; pass <sender>/<input id>")
    seen: set[str] = set()
    while entry is not None and entry["parent"] and (run := entry["parent"]["run"]) not in seen:
        seen.add(run)
        owner = tree.owner(run)
        if owner is not None:
            return tree.path(owner)
        entry = entries.get(run)
    after = key_of(entry["after"]) if entry is not None else ""
    return tree.path(after) if after in tree.after else []


def _take_entry(turns: dict[str, View], entry: View, *, whispers: bool) -> None:
    """Begin a turn with an input, or add what was said beside it."""
    if in_tree(entry):
        turn = turns.get(key_of(entry))
        if turn is None:
            return
        if turn:
            turn["to"].append(entry["to"])
        else:
            fields = ("input", "from", "text", "data", "time")
            turn |= {name: entry[name] for name in fields} | {"to": [entry["to"]], "answers": [], "notes": []}
    elif not entry["parent"] and (whispers or not entry["whisper"]):
        about = turns.get(key_of(entry["after"]))
        if about:
            said = ("from", "to", "text", "data", "time", "whisper")
            about["notes"].append({name: entry[name] for name in said})


def _answer(run: View) -> dict[str, Any]:
    said = {"text": answer_text(run["parts"]), "parts": run["parts"]}
    return {name: run[name] for name in ("agent", "run", "status")} | said
