"""A view on a terminal: one panel per agent, with what it does and says."""

from __future__ import annotations

from typing import Any, Final

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator_free.fold import View

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "red")
_MARKS: Final = {
    "running": "[yellow]● running[/]",
    "done": "[green]✔ done[/]",
    "error": "[red]✘ error[/]",
    "failed": "[red]✘ failed[/]",
    "cancelled": "[dim]■ cancelled[/]",
    "lost": "[red]? lost, waiting for a replica[/]",
}


def colour(place: int) -> str:
    """Return the colour of the agent at a place in the view."""
    return _COLOURS[place % len(_COLOURS)]


def render_view(view: View, *, lines: int | None = None, width: int | None = None) -> RenderableType:
    """Return the session as panels side by side, or one below the other where there is no room.

    Args:
        view: the folded view.
        lines: show at most so many lines of each agent, the last ones; None for everything.
        width: of a panel; None for the whole width.
    """
    panels = [_panel(agent, colour(place), lines=lines, width=width) for place, agent in enumerate(view["agents"])]
    if not panels:
        return Text("no agent has begun yet", style="dim")
    return Columns(panels, equal=True, expand=True) if width else Group(*panels)


def render_head(view: View) -> Text:
    """Return one line about the session."""
    title = view["meta"]["title"] or view["session"]
    return Text.assemble((title, "bold"), ("  session ", "dim"), view["session"], ("  at ", "dim"), view["position"])


def _panel(agent: dict[str, Any], style: str, *, lines: int | None, width: int | None) -> Panel:
    body = Text()
    for run in agent["runs"]:
        _append_run(body, run)
    if lines is not None:
        body = _tail(body, lines, (width or 80) - 4)
    last = agent["runs"][-1] if agent["runs"] else None
    state = _MARKS.get(last["status"], last["status"]) if last else "[dim]idle[/]"
    if agent["status"] == "offline":
        state = f"[red]offline[/] {agent['reason'] or ''}"
    if last and last["attempt"] > 1:
        state += f" [dim]attempt {last['attempt']}[/]"
    return Panel(body, title=f"[bold]{agent['agent']}[/]", subtitle=state, border_style=style, width=width)


def _tail(text: Text, lines: int, width: int) -> Text:
    """Return the last lines of a text as they are wrapped."""
    from rich.console import Console

    wrapped = text.wrap(Console(width=width), width)
    shown = wrapped[-lines:] if len(wrapped) > lines else wrapped
    return Text("\n").join(shown)


def _append_run(body: Text, run: dict[str, Any]) -> None:
    for part in run["parts"]:
        match part.get("type"):
            case "text":
                body.append(part["text"])
            case "reasoning":
                body.append(part["text"], style="dim italic")
            case "tool":
                _append_tool(body, part)
            case "source":
                body.append(f"\n↗ {part.get('title') or part.get('url')}", style="blue")
            case "file":
                body.append(f"\n▤ {part['name']} ({part.get('size')} bytes)", style="blue")
            case "data":
                body.append(f"\n◆ {part['name']}", style="dim")
            case "error":
                body.append(f"\n! {part['message']}", style="red")
    if run["error"]:
        body.append(f"\n{run['error']}", style="red")
    body.append("\n")


def _append_tool(body: Text, part: dict[str, Any]) -> None:
    if len(body) and not body.plain.endswith("\n"):
        body.append("\n")
    marks = {"running": "…", "done": "✔", "error": "✘"}
    seconds = f" {part['seconds']:.2f} s" if part.get("seconds") is not None else ""
    problem = f" {part['error']}" if part.get("error") else ""
    body.append(f"{marks.get(part['status'], '')} {part['tool']}{seconds}{problem}\n", style="yellow")


def render_sessions(rows: list[tuple[str, str, str, str]]) -> Table:
    """Return the list of sessions as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("session", "title", "agents", "created"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    return table
