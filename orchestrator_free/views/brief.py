"""The brief: what somebody who takes a session over has to know, made from the view alone. Pure.

The same view gives the same brief, and it does not grow with the session: what was left out is said.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from orchestrator_free.fold import View
from orchestrator_free.subjects import run_id

Brief = dict[str, Any]

#: at most so many of each; of inputs the first one and the last
_INPUTS: Final = 20
_RUNS: Final = 20
_TOOLS: Final = 30
_ASKS: Final = 20
_KEYS: Final = 30
_STEPS: Final = 10
#: characters: of what was asked, of what was answered, of a value
_ASKED: Final = 600
_SAID: Final = 400
_VALUE: Final = 200


def brief(view: View) -> Brief:
    """Return the brief of a session.

    Returns:
        `session`, `title`, `position`; `people` and `agents`: who was there; `asked`: what was said to whom, in order;
        `tried`: what agents did about it, with the end of what they wrote; `tools`: what they called, with what and
        what came of it; `open`: asks that nobody has decided, `decided`: those that were; `state`: the shared values;
        `floor`: who has it, who had it, who is asked to take it and why, and the last steps; `cut`: what was left out.
    """
    cut: list[str] = []
    inputs, runs = _selected(view, cut)
    names = {agent["agent"] for agent in view["agents"]} | set(view["meta"]["agents"])
    asked = _asked(inputs)
    people = dict.fromkeys(entry["from"] for entry in asked if entry["from"] not in names)
    open_asks = [ask for ask in view["asks"] if ask["status"] == "open"]
    done_asks = [ask for ask in view["asks"] if ask["status"] != "open"]
    tools = [_tool(run, part) for run in runs for part in run["parts"] if part.get("type") == "tool"]
    state = [{"key": key, "value": _value(one["value"]), "by": one["by"]} for key, one in sorted(view["state"].items())]
    return {
        "session": view["session"],
        "title": view["meta"]["title"],
        "position": view["position"],
        "people": list(people),
        "agents": [{"agent": one["agent"], "status": one["status"], "reason": one["reason"]} for one in view["agents"]],
        "asked": _first_and_last(asked, cut),
        "tried": [_tried(run) for run in _last(runs, _RUNS, "runs", cut)],
        "tools": _last(tools, _TOOLS, "tool calls", cut),
        "open": [_ask(ask) for ask in _last(open_asks, _ASKS, "open questions", cut)],
        "decided": [_ask(ask) for ask in _last(done_asks, _ASKS, "decisions", cut)],
        "state": _last(state, _KEYS, "shared values", cut),
        "floor": _floor(view["floor"], cut),
        "cut": cut,
    }


def _selected(view: View, cut: list[str]) -> tuple[list[View], list[View]]:
    """Return the inputs and the runs in order, without those of branches that people left."""
    shown = {(ref["from"], ref["input"]) for ref in view["branch"]["path"]}
    left = {
        (entry["from"], entry["input"])
        for entry in view["inputs"]
        if entry["siblings"] and (entry["from"], entry["input"]) not in shown
    }
    if left:
        cut.append(f"{len(left)} said on other branches")
    gone = {run_id(*key) for key in left}
    runs = [run for agent in view["agents"] for run in agent["runs"] if run["run"] not in gone]
    inputs = [entry for entry in view["inputs"] if (entry["from"], entry["input"]) not in left]
    return inputs, sorted(runs, key=lambda run: (run["first"], run["agent"]))


def _last(found: list[Any], most: int, what: str, cut: list[str]) -> list[Any]:
    """Return the last of a list, and note what is left out."""
    if len(found) > most:
        cut.append(f"{len(found) - most} of {len(found)} {what}")
    return found[-most:]


def _first_and_last(asked: list[Brief], cut: list[str]) -> list[Brief]:
    """Return the last inputs, and the very first: what it began with."""
    shown = _last(asked, _INPUTS, "inputs", cut)
    return shown if len(shown) == len(asked) else [asked[0], *shown[1:]]


def _asked(inputs: list[View]) -> list[Brief]:
    """Return the inputs in order; one that went to several members is one."""
    found: dict[tuple[str, str], Brief] = {}
    for entry in inputs:
        parent = entry["parent"]
        one = found.setdefault(
            (entry["from"], entry["input"]),
            {
                "from": entry["from"], "to": [], "text": _short(entry["text"], _ASKED), "data": _value(entry["data"]),
                "for": f"{parent['agent']}" if isinstance(parent, dict) and "agent" in parent else None,
                "note": entry["note"], "whisper": entry["whisper"], "time": entry["time"],
            },
        )  # fmt: skip
        one["to"].append(entry["to"])
    return list(found.values())


def _tried(run: View) -> Brief:
    texts = [str(part.get("text", "")) for part in run["parts"] if part.get("type") == "text"]
    waiting = run["waiting"]
    return {
        "agent": run["agent"], "run": run["run"], "input": run["input"], "status": run["status"],
        "attempt": run["attempt"], "whisper": run["whisper"], "text": _short(" ".join(texts), _SAID, end=True),
        "error": _short(run["error"], _VALUE) if run["error"] else None,
        "waiting": waiting["reason"] if waiting else None,
    }  # fmt: skip


def _tool(run: View, part: View) -> Brief:
    return {
        "agent": run["agent"], "tool": part.get("tool"), "status": part.get("status"),
        "input": _value(part.get("input")), "output": _value(part.get("output")),
        "error": _short(part["error"], _VALUE) if part.get("error") else None,
    }  # fmt: skip


def _ask(ask: View) -> Brief:
    return {
        "ask": ask["ask"], "from": ask["from"], "about": ask["about"], "text": _short(ask["text"], _ASKED),
        "data": _value(ask["data"]), "to": ask["to"], "options": ask["options"], "status": ask["status"],
        "value": _value(ask["value"]), "by": ask["by"],
    }  # fmt: skip


def _floor(floor: View | None, cut: list[str]) -> Brief | None:
    if floor is None:
        return None
    names = ("step", "by", "holder", "request", "reason", "time")
    steps = [{name: step[name] for name in names} for step in floor["history"]]
    return {
        "holder": floor["holder"], "previous": floor["previous"], "request": floor["request"],
        "steps": _last(steps, _STEPS, "steps of the floor", cut),
    }  # fmt: skip


def _short(text: Any, most: int, *, end: bool = False) -> str:
    """Return a text of at most so many characters; `end`: its beginning and its end."""
    words = str(text)
    if len(words) <= most:
        return words
    half = most // 2
    return f"{words[:half]} […] {words[-half:]}" if end else f"{words[:most]} […]"


def _value(value: Any) -> Any:
    """Return a JSON value, or the beginning of its text if it is large."""
    if value is None:
        return None
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return value if len(text) <= _VALUE else _short(text, _VALUE)


# -- for people -----------------------------------------------------------------------------------------------------


def markdown(about: Brief) -> str:
    """Return a brief as Markdown; texts of others are quoted, so that they cannot pass for headings of ours."""
    lines = [f"# {_line(about['title'] or about['session'])}", ""]
    lines += [f"Session `{about['session']}` at `{about['position']}`."]
    who = [_line(name) for name in about["people"]] + [
        f"{one['agent']} ({one['status']})" for one in about["agents"]
    ]  # fmt: skip
    lines += [f"Who: {', '.join(who) or 'nobody yet'}.", *_floor_lines(about["floor"])]
    lines += _section("What was asked", [_asked_line(one) for one in about["asked"]])
    lines += _section("What was tried", [_tried_line(one) for one in about["tried"]])
    lines += _section("Tool calls", [_tool_line(one) for one in about["tools"]])
    lines += _section("Open questions", [_ask_line(one) for one in about["open"]])
    lines += _section("Decisions", [_ask_line(one) for one in about["decided"]])
    lines += _section("State", [f"`{one['key']}` = {_json(one['value'])} ({one['by']})" for one in about["state"]])
    if about["cut"]:
        lines += ["", f"Left out: {', '.join(about['cut'])}."]
    return "\n".join(lines) + "\n"


def _section(title: str, items: list[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {item}" for item in items)] if items else []


def _line(text: Any) -> str:
    """Return a text on one line: what is quoted stays in its place."""
    return " ".join(str(text).split())


def _json(value: Any) -> str:
    return _line(value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())


def _floor_lines(floor: Brief | None) -> list[str]:
    if floor is None:
        return []
    asked = floor["request"]
    lines = [f"Floor: {floor['holder'] or 'nobody has it'}."]
    if asked is not None:
        lines.append(f"{asked['from']} asks {asked['to']} to take it{_because(asked.get('reason'))}.")
    steps = [
        f"{step['by']}: {step['step']}"
        + (f" to {step['request']['to']}" if step["step"] == "request" else "")
        + _because(step["reason"])
        for step in floor["steps"]
    ]
    return [*lines, f"So far: {'; '.join(steps)}."]


def _because(reason: Any) -> str:
    return f" ({_line(reason)})" if reason else ""


def _asked_line(one: Brief) -> str:
    marks = [mark for mark in ("note", "whisper") if one[mark]] + ([f"for {one['for']}"] if one["for"] else [])
    about = f" [{', '.join(marks)}]" if marks else ""
    data = f" with {_json(one['data'])}" if one["data"] is not None else ""
    return f"{one['from']} → {', '.join(one['to'])}{about}: {_line(one['text'])}{data}"


def _tried_line(one: Brief) -> str:
    marks = (["whisper"] if one["whisper"] else []) + ([f"attempt {one['attempt']}"] if one["attempt"] > 1 else [])
    marks += [f"waits for {_line(one['waiting'])}"] if one["waiting"] else []
    about = f" [{', '.join(marks)}]" if marks else ""
    said = _line(one["text"]) or "(nothing written)"
    problem = f" — {_line(one['error'])}" if one["error"] else ""
    return f"{one['agent']}, {one['status']}{about}: {said}{problem}"


def _tool_line(one: Brief) -> str:
    result = _line(one["error"]) if one["error"] else _json(one["output"])
    return f"{one['agent']} called {_line(one['tool'])}({_json(one['input'])}): {one['status']}, {result}"


def _ask_line(one: Brief) -> str:
    options = f" ({' / '.join(one['options'])})" if one["options"] else ""
    whom = f" asks {', '.join(one['to'])}" if one["to"] else " asks"
    ended = "" if one["status"] == "open" else f" → {one['status']}"
    ended += f": {_json(one['value'])}" if one["status"] == "decided" else ""
    ended += f" by {', '.join(one['by'])}" if one["by"] else ""
    data = f" {_json(one['data'])}" if one["data"] is not None else ""
    return f"`{one['ask']}` {one['from']}{whom}, {_line(one['about'])}: {_line(one['text'])}{data}{options}{ended}"
