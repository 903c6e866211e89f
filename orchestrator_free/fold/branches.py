"""Branches: which inputs people look at, where an input was edited, asked again, or gone back to."""

from __future__ import annotations

from orchestrator_free.events import Event


class Branches:
    """The tree of a conversation's inputs, and the branch that is selected."""

    __slots__ = ()

    def take(self, event: Event) -> None:
        """Put an input into the tree."""

    def select(self, event: Event) -> bool:
        """Apply a choice of branch."""
        return False
