"""A view on a terminal: one panel per agent, with what it does and says."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator_free.fold import View

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "red")
_STATES: Final = {
    "running": ("● running", "yellow"),
    "done": ("✔ done", "green"),
    "error": ("✘ error", "red"),
    "failed": ("✘ failed", "red"),
    "cancelled": ("■ cancelled", "dim"),
    "rejected": ("⊘ rejected", "red"),
    "lost": ("? lost, waiting for a replica", "red"),
}
#: panels narrower than this go one below the other
_NARROWEST: Final = 36
#: what a terminal would take for a command: C0 without line feed and tab, DEL, C1
_CONTROLS: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def clean(text: object) -> str:
    """Return text that somebody else wrote, without what a terminal would obey."""
    return str(text).translate(_CONTROLS)


def moment(time: str | None) -> str:
    """Return a time of the log for people: to the second, as `2026-11-28 16:46:40Z`."""
    return "" if time is None else f"{time[:10]} {time[11:19]}Z"


def colour(place: int) -> str:
    """Return the colour of the agent at a place in the view."""
    return _COLOURS[place % len(_COLOURS)]


def render_view(view: View, *, size: tuple[int, int] | None = None) -> RenderableType:
    """Return the session as panels, one per agent.

    Args:
        view: the folded view.
        size: columns and lines to fill exactly, with the end of what each agent says, side by side if there is room;
            None for all of it, one below the other.
    """
    agents = _agents(view)
    if not agents:
        return Text("no agent has begun yet", style="dim")
    if size is None:
        return Group(*(_panel(agent, colour(place)) for place, agent in enumerate(agents)))
    width, height = size
    if width // len(agents) >= _NARROWEST:
        table = Table.grid(expand=True)
        for _ in agents:
            table.add_column(ratio=1)
        each = (width // len(agents), height)
        table.add_row(*(_panel(agent, colour(place), each) for place, agent in enumerate(agents)))
        return table
    heights = [height // len(agents) + (place < height % len(agents)) for place in range(len(agents))]
    return Group(*(_panel(agent, colour(place), (width, heights[place])) for place, agent in enumerate(agents)))


def _agents(view: View) -> list[dict[str, Any]]:
    """Return the agents in a lasting order: those the session names, begun or not, then the others."""
    found = {agent["agent"]: agent for agent in view["agents"]}
    waiting: dict[str, Any] = {"status": "waiting", "reason": None, "runs": []}
    named = [found.pop(name, {**waiting, "agent": name}) for name in dict.fromkeys(view["meta"]["agents"])]
    return [*named, *found.values()]


def render_head(view: View) -> Text:
    """Return one line about the session."""
    title = clean(view["meta"]["title"] or view["session"])
    parts = ((title, "bold"), ("  session ", "dim"), view["session"], ("  at ", "dim"), view["position"])
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _panel(agent: dict[str, Any], style: str, size: tuple[int, int] | None = None) -> Panel:
    body = Text()
    for run in agent["runs"]:
        _append_run(body, run)
    body.rstrip()
    if size is not None:
        body = _tail(body, size[1] - 2, size[0] - 4)
    name = Text(clean(agent["agent"]), style="bold")
    return Panel(body, title=name, subtitle=_state(agent), border_style=style, height=None if size is None else size[1])


def _state(agent: dict[str, Any]) -> Text:
    last = agent["runs"][-1] if agent["runs"] else None
    if agent["status"] == "offline":
        return Text(f"offline: {clean(agent['reason'] or '')}", style="red")
    if last is None:
        return Text("○ waiting" if agent["status"] == "waiting" else "idle", style="dim")
    words, style = state_words(last)
    state = Text(words, style=style)
    if last["attempt"] > 1:
        state.append(f" attempt {last['attempt']}", style="dim")
    return state


def state_words(run: dict[str, Any]) -> tuple[str, str]:
    """Return what a run is about in a few words, and their style."""
    if run.get("waiting"):
        return f"◌ waits: {clean(run['waiting']['reason'])}", "magenta"
    if run.get("stalled") is not None:
        return f"! stalled: silent for {run['stalled']:g} s", "red"
    return _STATES.get(run["status"], (clean(run["status"]), ""))


def _tail(text: Text, lines: int, width: int) -> Text:
    """Return the last lines of a text as they are wrapped; whole paragraphs are, so that no line jumps."""
    start = text.plain.rfind("\n", 0, max(0, len(text) - lines * width)) + 1
    wrapped = text[start:].wrap(Console(width=width), width)
    return Text("\n").join(wrapped[-max(1, lines) :])


def _append_run(body: Text, run: dict[str, Any]) -> None:
    _new_line(body)
    last: tuple[Any, Any] = ("", None)
    for part in run["parts"]:
        kind = (part.get("type"), part.get("by"))
        if kind != last or kind[0] not in ("text", "reasoning"):
            _new_line(body)
            body.append("  " if part.get("by") else "")
        last = kind
        words, style = _words(part)
        body.append(clean(words), style=style)
    if run["error"]:
        _new_line(body)
        ended = run["status"] == "cancelled"
        body.append(
            f"■ cancelled: {clean(run['error'])}" if ended else clean(run["error"]), style="dim" if ended else "red"
        )


def _new_line(body: Text) -> None:
    if body.plain and not body.plain.endswith("\n"):
        body.append("\n")


def _words(part: dict[str, Any]) -> tuple[str, str]:
    """Return a part as text, and its style; parts come from anywhere, so nothing in them is sure to be there."""
    match part.get("type"):
        case "text":
            return str(part.get("text", "")), ""
        case "reasoning":
            return str(part.get("text", "")), "dim italic"
        case "tool":
            return _tool_words(part), "yellow"
        case "source":
            return f"↗ {part.get('title') or part.get('url')}", "blue"
        case "file":
            return f"▤ {part.get('name')} ({part.get('size')} bytes)", "blue"
        case "data":
            about = part.get("data")
            if part.get("name") == "subagent" and isinstance(about, dict):
                return f"◆ sub-agent {about.get('name')}", "dim"
            return f"◆ {part.get('name')}", "dim"
        case "error":
            return f"! {part.get('message')}", "red"
    return "", ""


def _tool_words(part: dict[str, Any]) -> str:
    mark = {"running": "…", "done": "✔", "error": "✘"}.get(str(part.get("status")), "")
    taken = part.get("seconds")
    seconds = f" {taken:.2f} s" if isinstance(taken, int | float) else ""
    problem = f" {part['error']}" if part.get("error") else ""
    return f"{mark} {part.get('tool')}{seconds}{problem}"


def render_sessions(rows: list[tuple[str, str, str, str]]) -> Table:
    """Return the list of sessions as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("session", "title", "agents", "created"):
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table
