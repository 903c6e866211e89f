"""Branches: the tree that people's inputs make where one was edited, asked again, or gone back to; and which is shown.

What people say is a node: inputs without `parent`, `note` and `whisper`; one id to several targets is one node. Its
place is decided by its event in log order, so every reader has the same tree, and what was said stays where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orchestrator_free.events import Body, Event
from orchestrator_free.fold.run import View
from orchestrator_free.subjects import run_id
from orchestrator_free.vocabulary import validate

#: the key of what the first inputs come after
ROOT: Final = ""


def key_of(reference: Any) -> str:
    """Return `<sender>/<input>` of a reference, empty for none."""
    return f"{reference['from']}/{reference['input']}" if reference else ROOT


def reference(key: str) -> View | None:
    """Return the reference of a key, None for the root."""
    sender, _, name = key.partition("/")
    return {"from": sender, "input": name} if key else None


def in_tree(entry: View) -> bool:
    """Whether an input can be a node: people read it as a part of the conversation, and agents answer it."""
    return not (entry["note"] or entry["whisper"] or entry["parent"])


class Branches:
    """The tree of a conversation's inputs, and the branch that is selected.

    Attributes:
        after: for each node the one that it comes after; `ROOT` for the first ones.
        head: the end of the selected branch.
    """

    __slots__ = ("_aside", "_children", "_latest", "_runs", "after", "head")

    def __init__(self) -> None:
        self.after: dict[str, str] = {}
        self.head = ROOT
        self._children: dict[str, list[str]] = {}
        self._latest: dict[str, int] = {}
        self._runs: dict[str, str] = {}  # run -> the node that it answers
        self._aside: set[str] = set()  # runs that answer no node

    # -- what comes ---------------------------------------------------------------------------------------------

    def take(self, event: Event, known: View | None = None) -> View | None:
        """Put an input into the tree; return what it was said after, unless it is a node.

        Args:
            event: the input.
            known: its entry, if it was said before; its place stays then.
        """
        body, key = event.body, f"{event.member}/{event.id}"
        if known is not None:
            if key in self.after and in_tree(known):
                self._latest[key] = event.sequence
            return known["after"]  # type: ignore[no-any-return]
        run = run_id(event.member, event.id)
        if body.get("parent"):
            self._aside.add(run)
            return None
        if body.get("note") or body.get("whisper"):
            place = key_of(body.get("after"))
            return reference(place if place in self.after else self.head)
        if key in self.after:
            self._latest[key] = event.sequence
            return None
        ended = (body.get("redirects") or {}).get("run")
        if ended in self._aside and ended not in self._runs:
            self._aside.add(run)  # it goes on with something that was delegated
            return None
        place, selects = self._place(body, ended)
        self._add(key, place, event.sequence)
        if selects:
            self.head = key
        return None

    def _place(self, body: Body, ended: str | None) -> tuple[str, bool]:
        """Return what a new node comes after, and whether that branch is selected by it."""
        for name in ("edits", "again"):
            other = key_of(body.get(name))
            if other in self.after:
                return self.after[other], True
        other = key_of(body.get("after"))
        if other in self.after:
            return other, True
        node = self._runs.get(ended or "")
        if node is not None and node not in self.path():
            return self.end(node), False  # an agent goes on there, nobody has turned to it
        return self.head, True

    def _add(self, key: str, after: str, sequence: int) -> None:
        self.after[key] = after
        self._latest[key] = sequence
        self._children.setdefault(after, []).append(key)
        self._runs[run_id(*key.split("/", 1))] = key

    def select(self, event: Event) -> bool:
        """Apply a choice of branch: up to an input, and on from there along the latest ones."""
        validate("meta", event.body)
        key = key_of(event.body["input"])
        if key not in self.after:
            return False
        self.head = self.end(key)
        return True

    # -- what there is ------------------------------------------------------------------------------------------

    def children(self, key: str) -> list[str]:
        """Return the nodes that come after one, the latest last."""
        return sorted(self._children.get(key, ()), key=self._latest.__getitem__)

    def end(self, key: str) -> str:
        """Return where the branch of a node ends, if it is followed along the latest nodes."""
        while key in self._children:
            key = max(self._children[key], key=self._latest.__getitem__)
        return key

    def path(self, end: str | None = None) -> list[str]:
        """Return the nodes from the first one to a node; by default, to the end of the selected branch."""
        key = self.head if end is None else end
        found = []
        while key != ROOT:
            found.append(key)
            key = self.after[key]
        return found[::-1]

    def below(self, key: str) -> set[str]:
        """Return a node and everything that comes after it."""
        found, todo = set(), [key]
        while todo:
            found.add(node := todo.pop())
            todo += self._children.get(node, ())
        return found

    def owner(self, run: str) -> str | None:
        """Return the node that a run answers, None if it answers none."""
        return self._runs.get(run)

    def ends(self) -> list[str]:
        """Return the last node of each branch, the latest last."""
        return [key for key in sorted(self.after, key=self._latest.__getitem__) if key not in self._children]

    def view(self) -> View:
        """Return the selected branch, and where each branch ends."""
        return {"path": [reference(key) for key in self.path()], "heads": [reference(key) for key in self.ends()]}

    def shown(self, entries: Iterable[View]) -> list[View]:
        """Return inputs as the view shows them: what each comes after, and how many stand in that place."""
        return [self._entry(entry) for entry in entries]

    def _entry(self, entry: View) -> View:
        after = self.after.get(key_of(entry)) if in_tree(entry) else None
        if after is None:
            return {**entry, "siblings": 0}
        return {**entry, "after": reference(after), "siblings": len(self._children[after])}

    @classmethod
    def load(cls, view: View) -> Branches:
        """Return the tree that a view shows."""
        branches = cls()
        nodes: dict[str, tuple[str, int]] = {}
        for entry in view["inputs"]:
            key = key_of(entry)
            if entry["siblings"]:
                nodes[key] = (key_of(entry["after"]), entry["sequence"])
            elif entry["parent"] or not (entry["note"] or entry["whisper"]):
                branches._aside.add(run_id(entry["from"], entry["input"]))
        for key, (after, sequence) in nodes.items():
            branches._add(key, after, sequence)
        path = view["branch"]["path"]
        branches.head = key_of(path[-1]) if path else ROOT
        return branches
