"""The tree of runs and the queues of a session on a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from orchestrator_free.cli.render import clean, state_words
from orchestrator_free.fold import View
from orchestrator_free.views.tree import tree

_CHARACTERS = 60


def render_tree(view: View) -> RenderableType | None:
    """Return who asked whom, and what has not begun; None if nobody delegated and nothing waits."""
    roots = tree(view)
    if not view["queue"] and not any(node["children"] for node in roots):
        return None
    places = {(one["agent"], one["run"]): one["place"] for one in view["queue"]}
    shown = Tree(Text("runs", style="bold"), guide_style="dim")
    for node in roots:
        _hang(shown, node, places)
    return shown


def _hang(above: Tree, node: View, places: dict[tuple[str, str], int]) -> None:
    place = places.get((node["agent"], node["run"]))
    words, style = (f"○ place {place} in the queue", "dim") if place else state_words(node)
    text = clean(node["text"]).replace("\n", " ")
    asked = text[:_CHARACTERS] + ("…" if len(text) > _CHARACTERS else "")
    line = Text.assemble((clean(node["agent"]), "bold"), " ", (words, style), (f"  {asked}" if asked else "", "dim"))
    if node["error"]:
        line.append(f"  {clean(node['error'])}", style="red")
    branch = above.add(line)
    for child in node["children"]:
        _hang(branch, child, places)
