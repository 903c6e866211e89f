"""`insights`: how people fare, read from the log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import InvalidInput
from orchestrator_free.insights import Settings, read_report
from orchestrator_free.insights.page import html_page, seconds, share
from orchestrator_free.insights.plots import write_png
from orchestrator_free.insights.viewers import read_viewers
from orchestrator_free.subjects import ALL, check_name

_STATUSES: Final = ("done", "error", "failed", "cancelled", "rejected", "lost")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def insights(
    since: Annotated[str, typer.Option(help="Only sessions that began then or later: 7d, 12h, or RFC 3339.")] = "",
    agents: Annotated[str | None, typer.Option(help="Only these agents' runs, separated by commas.")] = None,
    short: Annotated[float, typer.Option(help="A session of at most so many seconds is short.")] = 120.0,
    restart: Annotated[float, typer.Option(help="Begun anew within so many seconds: the context was lost.")] = 600.0,
    silence: Annotated[float, typer.Option(help="A run that wrote nothing for so many seconds fell silent.")] = 10.0,
    gateway: Annotated[str | None, typer.Option(help="Also what this gateway's viewers got: http://…")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as a page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw it; needs the extra `insights`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how people fare: lengths, restarts, waiting, silence, cancels, hand-offs, errors; from the log."""

    async def work() -> None:
        settings = Settings(short=short, restart=restart, silence=silence)
        chosen = None if agents is None else {check_name("--agents", name) for name in agents.split(",")}
        start = since_time(since, datetime.now(UTC))
        async with reach.connect("insights") as broker:
            with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
                task = bar.add_task("sessions", total=None)
                found = await read_report(
                    broker, settings, since=start, agents=chosen,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )  # fmt: skip
        report = found.as_dict()
        if gateway is not None:
            report["viewers"] = await read_viewers(gateway)
        if html is not None:
            _write(html, html_page(report, about=f"{clean(reach.url)}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
        if png is not None:
            write_png(report, png)
        if as_json:
            write_json(report)
        else:
            out.print(render(report))

    run(work())


def since_time(text: str, now: datetime) -> float:
    """Return the time that `--since` means, seconds since 1970; 0 for all.

    Raises:
        InvalidInput: it means none.
    """
    if not text:
        return 0.0
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return (now - timedelta(**{_UNITS[found[2]]: int(found[1])})).timestamp()
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"--since {text!r}: use 30m, 12h, 7d, 2w, or a time such as 2026-11-28T09:00Z") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise InvalidInput(f"cannot write {str(file)!r}: {error.strerror}") from error
    err.print(f"wrote {file}", highlight=False, markup=False)


def render(report: dict[str, Any]) -> Group:
    """Return the report for a terminal."""
    parts: list[RenderableType] = [_summary(report), *_agents(report["agents"])]
    viewers = report.get("viewers")
    if viewers and viewers["first_token"]:
        parts += [Text(), _viewers(viewers)]
    notes = [Text.assemble((f"{name.replace('_', ' ')}: ", "bold dim"), (text, "dim")) for name, text in
             report["known"].items()]  # fmt: skip
    return Group(*parts, Text(), *notes)


def _summary(report: dict[str, Any]) -> Table:
    lengths, first, restarts = report["lengths"], report["first_output"], report["restarts"]
    answers, settings = report["answers"], report["settings"]
    handed, asked = report["hand_offs"], report["asks"]
    unknown = sum(agent["first_output"]["unknown"] for agent in report["agents"].values())
    ends = ", ".join(f"{count} {end}" for end, count in handed["ends"].items()) or "none"
    asks = sum(sum(n for word, n in counts.items() if word != "escalated") for counts in asked["about"].values())
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = (
        ("sessions", f"{report['sessions']}, half of them shorter than {seconds(lengths['p50'])}, 95 % than "
         f"{seconds(lengths['p95'])}, the longest {seconds(lengths['max'])}"),
        ("begun anew", f"after {restarts['restarted']} of {restarts['short']} short ones (up to "
         f"{seconds(settings['short'])}) the same person began another within {seconds(settings['restart'])}"),
        ("answers", f"{answers['followed']} of {sum(answers.values())} "
         f"({share(answers['followed'], sum(answers.values()))}) were followed by something that a person did"),
        ("first output", f"half within {seconds(first['p50'])}, 95 % within {seconds(first['p95'])}; "
         f"{first['count']} known, {unknown} unknown"),
        ("hand-offs", ends + _within("; accepted after", handed["accepted_after"])),
        ("asks", (str(asks) if asks else "none") + _within(", open for", asked["open_for"])),
    )  # fmt: skip
    for name, text in rows:
        table.add_row(name, text)
    return table


def _within(words: str, spread: dict[str, Any]) -> str:
    """Return how long it took, nothing where it never did."""
    if not spread["count"]:
        return ""
    return f"{words} {seconds(spread['p50'])} (median), {seconds(spread['p95'])} (95 %)"


def _ends(agent: dict[str, Any]) -> list[str]:
    return [str(agent["runs"]), *(str(agent["statuses"].get(word, 0)) for word in _STATUSES)]


def _steps(agent: dict[str, Any]) -> list[str]:
    controls = (agent["controls"].get(word, 0) for word in ("cancel", "redirect", "steer"))
    return [*map(str, controls), str(agent["taken_over"]), str(agent["silent"])]


def _times(agent: dict[str, Any]) -> list[str]:
    return [seconds(agent[what][which]) for what in ("waited", "first_output", "seconds") for which in ("p50", "p95")]


def _agents(agents: dict[str, Any]) -> list[RenderableType]:
    """Return three tables that fit on a terminal of 80 columns."""
    found: list[RenderableType] = []
    for title, heads, row in (
        ("how runs end", ("runs", *_STATUSES), _ends),
        ("stepping in", ("cancels", "redirects", "steers", "taken over", "silent"), _steps),
        ("times", ("waited p50", "p95", "first p50", "p95", "run p50", "p95"), _times),
    ):
        table = Table(title, box=None, pad_edge=False)
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        for name, agent in agents.items():
            if name != ALL or (row is _steps and any(agent["controls"].values())):
                table.add_row("(everybody)" if name == ALL else clean(name), *row(agent))
        found += [Text(), table]
    return found


def _viewers(viewers: dict[str, Any]) -> Table:
    table = Table("at the viewer", "runs seen", "first p50", "first p95", "answers shown", box=None, pad_edge=False)
    for agent, told in viewers["first_token"].items():
        within = (f"≤ {seconds(told[word])}" if told[word] is not None else "-" for word in ("p50", "p95"))
        table.add_row(clean(agent), str(told["count"]), *within, str(viewers["answers_shown"].get(agent, 0)))
    return table
