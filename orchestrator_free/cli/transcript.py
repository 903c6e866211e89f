"""A session as lines, as a person at a desk reads it: what was, and what comes, each with its sender before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson
from rich.text import Text

from orchestrator_free.cli.floor import describe
from orchestrator_free.cli.render import clean
from orchestrator_free.events import Event
from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.session.floor import FloorState
from orchestrator_free.views.brief import Brief

#: text without a line break is shown when it is that long, or that old
_WIDTH: Final = 100
_QUIET_SECONDS: Final = 0.5
_VALUE: Final = 160


class Transcript:
    """Prints the events of one session.

    Attributes:
        fold: the session so far.
    """

    def __init__(self, session: str, say: Callable[[Text], None]) -> None:
        self.fold = Fold(session)
        self._say = say
        self._shown: dict[tuple[str, str], str] = {}
        self._partial: dict[tuple[str, str], str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, event: Event) -> None:
        """Fold an event and print what people want to see of it."""
        self.fold.apply(event)
        if event.kind == "run":
            self._run(event)
            return
        self._flush()
        words = self._words(event)
        if words:
            self._say(Text.assemble((f"{event.member} ", "bold cyan"), clean(words)))

    def close(self) -> None:
        """Print what is left."""
        self._flush()

    def _words(self, event: Event) -> str:
        body, where = event.body, event.address
        match event.type:
            case "input":
                marks = [mark for mark in ("note", "whisper") if body.get(mark)]
                about = f" [{', '.join(marks)}]" if marks else ""
                data = f" {_json(body['data'])}" if body.get("data") is not None else ""
                return f"→ {where.target}{about}: {body.get('text', '')}{data}"
            case "floor":
                shown = self.fold.floor.state
                return _after(describe(FloorState.of(shown)), event.member) if shown else ""
            case "ask":
                options = body.get("options")
                how = f"; /approve {event.id} or /deny {event.id}" if options == ["approve", "deny"] else ""
                return f"asks {', '.join(body.get('to') or ['everybody'])}: {body.get('text', '')}{_data(body)}{how}"
            case "answer":
                return f"answers {event.id}: {_json(body.get('value'))}"
            case "cancel" | "steer" | "redirect" | "pause" | "resume":
                return f"{event.type} → {where.target} {body.get('text', '') or body.get('reason', '')}".rstrip()
            case "agent.offline":
                return f"is offline: {body.get('reason', '')}"
        return ""

    # -- runs ---------------------------------------------------------------------------------------------------

    def _run(self, event: Event) -> None:
        key = (event.member, event.id)
        run = self.fold.run(*key)
        if run is None:
            return
        if event.type == "run.finished":
            self._finish(key, run)
        elif not run.cancelled:
            self._go_on(key, event)

    def _go_on(self, key: tuple[str, str], event: Event) -> None:
        body = event.body
        match event.type:
            case "text.delta":
                self._append(key, str(body.get("text", "")))
            case "run.started":
                self._shown.pop(key, None)
                self._partial.pop(key, None)
            case "tool.input":
                self._line(key, f"calls {body.get('tool')}({_json(body.get('input'))})", "yellow")
            case "tool.output" if not body.get("preliminary"):
                self._line(key, f"got {_json(body.get('output'))}", "yellow")
            case "tool.error":
                self._line(key, f"failed: {body.get('error')}", "red")

    def _finish(self, key: tuple[str, str], run: RunFold) -> None:
        parts = run.part_views()
        whole = "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
        seen = self._shown.pop(key, "")
        if not seen:
            for part in parts:
                if part.get("type") == "tool":
                    result = part.get("error") or _json(part.get("output"))
                    self._line(key, f"called {part.get('tool')}({_json(part.get('input'))}): {result}", "yellow")
        if whole.startswith(seen):
            self._append(key, whole[len(seen) :])
        self._flush()
        self._shown.pop(key, None)
        if run.object and not parts:
            self._line(key, "wrote more than a line can hold; see it with: show", "dim")
        if run.status != "done":
            self._line(key, f"■ {run.status}" + (f": {run.error}" if run.error else ""), "red")

    def _append(self, key: tuple[str, str], text: str) -> None:
        for other in [other for other in self._partial if other != key]:
            self._flush(other)
        self._shown[key] = self._shown.get(key, "") + text
        *lines, left = (self._partial.pop(key, "") + text).split("\n")
        while len(left) > _WIDTH and " " in left[:_WIDTH]:
            line, _, rest = left[:_WIDTH].rpartition(" ")
            lines.append(line)
            left = rest + left[_WIDTH:]
        for line in lines:
            self._print(key, line, "")
        if left:
            self._partial[key] = left
            self._later()

    def _line(self, key: tuple[str, str], words: str, style: str) -> None:
        self._flush()
        self._print(key, words, style)

    def _print(self, key: tuple[str, str], words: str, style: str) -> None:
        run = self.fold.run(*key)
        mark = " [whisper]" if run is not None and run.whisper else ""
        self._say(Text.assemble((f"{key[0]}{mark} │ ", "bold magenta"), (clean(words), style)))

    def _flush(self, key: tuple[str, str] | None = None) -> None:
        for one in [key] if key is not None else list(self._partial):
            self._print(one, self._partial.pop(one), "")

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._flush)


def _after(words: str, member: str) -> str:
    return words.removeprefix(f"{member}: ")


def _data(body: dict[str, Any]) -> str:
    return f" {_json(body['data'])}" if body.get("data") is not None else ""


def _json(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _VALUE else f"{text[:_VALUE]} […]"


def panel(about: Brief) -> str:
    """Return the title line of a session that is entered."""
    return f"── {about['title'] or about['session']} · session {about['session']} ──"
