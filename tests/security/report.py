"""The summary of the matrix: other files add their attempts to it, and it is printed as one table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What came of the attempts of one role; `leaks` are attempts that did what they must not, in words."""

    role: str
    allowed: int = 0
    denied: int = 0
    broken: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def count(self, what: str, *, expected: bool, found: bool) -> None:
        """Note an attempt: what was to come of it, and what came."""
        self.allowed += found
        self.denied += not found
        if expected and not found:
            self.broken.append(f"{self.role}: {what} was refused")
        if found and not expected:
            self.leaks.append(f"{self.role}: {what}")


def show(tallies: list[Tally]) -> str:
    """Return the table."""
    head = f"{'role':<24}{'attempts':>10}{'allowed':>10}{'denied':>10}{'leaks':>8}"
    rows = [(one.role, one.allowed, one.denied, len(one.leaks)) for one in tallies]
    rows.append(("all", *(sum(row[place] for row in rows) for place in (1, 2, 3))))
    return "\n".join([head, *(f"{role:<24}{a + d:>10}{a:>10}{d:>10}{leaks:>8}" for role, a, d, leaks in rows)])
