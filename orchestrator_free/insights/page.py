"""The report as one HTML file: no script, nothing fetched, light and dark as the reader's system has it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from orchestrator_free.subjects import ALL

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1f2b; --soft: #5d6677; --line: #e3e7ee; --card: #f6f8fb;
  --bar: #3867d6; --good: #1e8e5a; --warn: #b8620e; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161f; --ink: #e8ecf4; --soft: #98a3b8; --line: #2a3242;
  --card: #1a202c; --bar: #7aa2ff; --good: #4fd08f; --warn: #f0a04b; --bad: #ff7b6b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; } h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 0 0 12px; } .soft, small { color: var(--soft); } .note { color: var(--soft); max-width: 74ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 24px 0 8px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { font-size: 13px; color: var(--soft); }
.chart { display: grid; grid-template-columns: max-content 1fr max-content; gap: 5px 12px; align-items: center;
  margin: 12px 0; font-size: 13px; font-variant-numeric: tabular-nums; }
.chart i { display: block; height: 15px; min-width: 2px; border-radius: 3px; background: var(--bar); }
.chart i.none { background: var(--line); } .chart .label { text-align: right; color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; margin: 12px 0;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 12.5px; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; } td:first-child { font-weight: 600; }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; } dt { font-weight: 600; }
dd { margin: 0; color: var(--soft); } @media (max-width: 640px) { dl { grid-template-columns: 1fr; } }
"""


def html_page(report: dict[str, Any], *, about: str) -> str:
    """Return the page.

    Args:
        report: as `Report.as_dict` gives it, with `viewers` where a gateway was asked.
        about: a line below the title: of which installation, when.
    """
    parts = [
        f"<h1>How people fare</h1><p class=soft>{escape(about)}</p>",
        _tiles(report),
        _lengths(report),
        _first_output(report),
        _agents(report["agents"]),
        _errors(report["agents"]),
        _people(report),
        _known(report["known"]),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Insights</title><style>{_STYLE}</style>\n"
    return (
        head + '<meta name=viewport content="width=device-width">\n<main>\n' + "\n".join(parts) + "\n</main></html>\n"
    )


def seconds(value: float | None) -> str:
    """Return a duration for people; a dash where it is not known."""
    if value is None:
        return "-"
    for limit, size, unit in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / size:.3g} {unit}"
    return f"{value / 86400:.3g} d"


def share(part: float, whole: float) -> str:
    """Return a share in per cent; a dash of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _tiles(report: dict[str, Any]) -> str:
    restarts, answers = report["restarts"], report["answers"]
    runs = sum(agent["runs"] for agent in report["agents"].values())
    silent = sum(agent["silent"] for agent in report["agents"].values())
    tiles = [
        (f"{report['sessions']:,}", "sessions"),
        (f"{runs:,}", "runs"),
        (seconds(report["lengths"]["p50"]), "median length of a session"),
        (seconds(report["first_output"]["p50"]), "median wait for the first output"),
        (f"{restarts['restarted']:,}", "short sessions begun anew within minutes"),
        (share(answers["followed"], sum(answers.values())), "of answers were followed by a person's act"),
        (seconds(report["hand_offs"]["accepted_after"]["p50"]), "median wait for a person to take over"),
        (f"{silent:,}", f"runs silent for more than {seconds(report['settings']['silence'])}"),
    ]
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{b}</b><span>{t}</span></div>" for b, t in tiles) + "</div>"
    )


def _bars(bars: Sequence[dict[str, Any]]) -> str:
    most = max([bar["count"] for bar in bars] + [1])
    rows = []
    for number, bar in enumerate(bars):
        label = f"up to {seconds(bar['up_to'])}" if bar["up_to"] else f"over {seconds(bars[number - 1]['up_to'])}"
        width = f"{100 * bar['count'] / most:.1f}%"
        kind = "" if bar["count"] else " class=none"
        rows.append(f'<span class=label>{label}</span><i{kind} style="width:{width}"></i><span>{bar["count"]:,}</span>')
    return f"<div class=chart>{''.join(rows)}</div>"


def _lengths(report: dict[str, Any]) -> str:
    restarts, settings = report["restarts"], report["settings"]
    text = (
        f"From the first event to the last thing anybody did. {restarts['short']:,} visits of {restarts['people']:,} "
        f"people with a name were shorter than {seconds(settings['short'])}; after {restarts['restarted']:,} of them "
        f"the same person began another session within {seconds(settings['restart'])}: they may have lost the context. "
        f"{restarts['unnamed']:,} visits of people without a name are left out of that."
    )
    return f"<h2>How long sessions last</h2><p class=note>{text}</p>{_bars(report['lengths']['bars'])}"


def _first_output(report: dict[str, Any]) -> str:
    first = report["first_output"]
    unknown = sum(agent["first_output"]["unknown"] for agent in report["agents"].values())
    text = f"From the input stored to the first output in the log, {first['count']:,} runs; of {unknown:,} not known."
    table = ""
    viewers = report.get("viewers")
    if viewers and viewers["first_token"]:
        rows = [
            (escape(agent), f"{told['count']:,}", _within(told["p50"]), _within(told["p95"]),
             f"{viewers['answers_shown'].get(agent, 0):,}")
            for agent, told in viewers["first_token"].items()
        ]  # fmt: skip
        heads = ("at the viewer", "runs seen", "median within", "95 % within", "answers shown when they came")
        table = _table(heads, rows) + f"<p class=note>As {escape(viewers['gateway'])} has counted since it started.</p>"
    return f"<h2>How long people wait for the first output</h2><p class=note>{text}</p>{_bars(first['bars'])}{table}"


def _within(value: float | None) -> str:
    return "-" if value is None else f"≤ {seconds(value)}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _agents(agents: dict[str, Any]) -> str:
    heads = ("agent", "runs", "delegated", "waited, median", "waited, 95 %", "first output, median", "95 %",
             "run, median", "95 %", "fell silent", "taken over")  # fmt: skip
    rows = [
        (
            escape(name), f"{a['runs']:,}", f"{a['delegated']:,}",
            *(seconds(a[what][which]) for what in ("waited", "first_output", "seconds") for which in ("p50", "p95")),
            _mark(a["silent"], "warn"), _mark(a["taken_over"], "warn"),
        )
        for name, a in agents.items() if name != ALL
    ]  # fmt: skip
    return f"<h2>Agents</h2>{_table(heads, rows)}" if rows else "<h2>Agents</h2><p class=note>No agent has a run.</p>"


def _errors(agents: dict[str, Any]) -> str:
    heads = ("agent", "done", "error", "failed", "cancelled", "rejected", "lost", "at work", "cancels", "redirects",
             "steers")  # fmt: skip
    rows = []
    for name, a in agents.items():
        ends, controls = a["statuses"], a["controls"]
        counts = [f"{ends.get('done', 0):,}", *(_mark(ends.get(word, 0), "bad") for word in ("error", "failed"))]
        counts += [_mark(ends.get(word, 0), "warn") for word in ("cancelled", "rejected", "lost")]
        counts += [f"{ends.get('running', 0):,}"]
        counts += [f"{controls.get(word, 0):,}" for word in ("cancel", "redirect", "steer")]
        rows.append(("(everybody)" if name == ALL else escape(name), *counts))
    return f"<h2>How runs end, and how people step in</h2>{_table(heads, rows)}" if rows else ""


def _mark(count: int, kind: str) -> str:
    return f"<span class={kind}>{count:,}</span>" if count else "0"


def _people(report: dict[str, Any]) -> str:
    ends, handed = report["hand_offs"]["ends"], report["hand_offs"]["accepted_after"]
    words = ", ".join(f"{count:,} {escape(end)}" for end, count in ends.items()) or "none"
    asks, open_for = report["asks"]["about"], report["asks"]["open_for"]
    statuses = ("decided", "expired", "withdrawn", "open", "escalated")
    rows = [(escape(about), *(f"{counts.get(word, 0):,}" for word in statuses)) for about, counts in asks.items()]
    table = _table(("asked about", *statuses), rows) if rows else ""
    return (
        f"<h2>Hand-offs and asks</h2><p>Requests for the floor: {words}. Accepted after {seconds(handed['p50'])} "
        f"(median), {seconds(handed['p95'])} (95 %). Asks were open for {seconds(open_for['p50'])} (median), "
        f"{seconds(open_for['p95'])} (95 %).</p>{table}"
    )


def _known(known: dict[str, str]) -> str:
    code = r"<code>\1</code>"
    lines = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{re.sub('`([^`]+)`', code, escape(text))}</dd>"
        for name, text in known.items()
    )
    return f"<h2>What these figures can tell</h2><dl>{lines}</dl>"
