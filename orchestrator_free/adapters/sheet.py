"""The sheet: what a framework has said, put into our vocabulary. Pure.

A translation writes on it in the framework's own names (item ids, block indexes, agents); the sheet makes events of
that, with names that are unique in the run. Whoever drives it takes the events and publishes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from orchestrator_free.events import Body

Kind = Literal["text", "reasoning"]


@dataclass(slots=True)
class ToolUse:
    """A tool call of a model.

    Attributes:
        call: its id in the run. source_id: its id in the framework's own messages.
        tool: which tool. input: what the model calls it with, JSON; text where that is no JSON.
        written: the input as far as it was streamed. status: `running`, `done` or `error`.
    """

    call: str
    source_id: str
    tool: str
    input: Any = None
    written: str = ""
    status: str = "running"


@dataclass(slots=True)
class _Open:
    kind: Kind
    part: str
    by: str | None


class Sheet:
    """Events of one publishing, in order, until they are taken.

    Attributes:
        bodies: what is to be written and was not taken yet. usage: the sums so far.
        skipped: events that were not translated, by type. reported: of these, what the log has.
        calls: all tool calls, by the framework's id.
        by: the sub-agent whose stream it is, None for the run's own; what is written by others names them.
    """

    def __init__(self) -> None:
        self.prefix = "a"
        self.by: str | None = None
        self.bodies: list[Body] = []
        self.usage: dict[str, float] = {}
        self.skipped: Counter[str] = Counter()
        self.reported: Counter[str] = Counter()
        self.calls: dict[str, ToolUse] = {}
        self._text: list[str] = []
        self._open: dict[Hashable, _Open] = {}
        self._nested: set[str] = set()
        self._agents: dict[str, Body] = {}
        self._taken: set[str] = set()
        self._count = 0

    def take(self) -> list[Body]:
        """Hand over what is to be written."""
        bodies, self.bodies = self.bodies, []
        return bodies

    @property
    def text(self) -> str:
        """The answer so far: all text but that of sub-agents that work for a tool call."""
        return "".join(self._text)

    @property
    def open_calls(self) -> list[ToolUse]:
        """Tool calls that nothing has answered yet, in their order."""
        return [use for use in self.calls.values() if use.status == "running"]

    def name(self) -> str:
        """Return a name for a part that no other part of the run has."""
        self._count += 1
        return f"{self.prefix}-{self._count}"

    def work_as(self, name: str, call: str | None) -> None:
        """All this is written by a sub-agent, which works for a tool call, or in the run's place."""
        if self.by is None:
            id = f"{name}-{self.prefix}"
            self.subagent(id, name, call=call)
            self.by = id

    def end_work(self, status: str) -> None:
        """The sub-agent has ended, and those that it had."""
        for id in [one for one, about in self._agents.items() if about["status"] == "running"]:
            self.subagent_status(id, status)

    # -- text and reasoning ---------------------------------------------------------------------------------------

    def write(self, kind: Kind, text: Any, *, key: Hashable = None, by: str | None = None) -> None:
        """Append to a part; one that is not open is opened.

        Args:
            kind: text or reasoning.
            text: the piece; what is no text, or empty, is nothing.
            key: the framework's name of the part. Without one the text flows: it goes on where text of its kind was
                written last, and anything else that is written in between begins a new part.
            by: the sub-agent that writes.
        """
        if not isinstance(text, str) or not text:
            return
        by = by or self.by
        name = ("flow", by) if key is None else (kind, key, by)
        part = self._open.get(name)
        if part is not None and part.kind != kind:
            self._end(name)
            part = None
        body: Body = {"type": f"{kind}.delta", "text": text}
        if part is None:
            part = self._open[name] = _Open(kind, self.name(), by)
            body |= {"by": by} if by else {}
        if kind == "text" and (by == self.by or by not in self._nested):
            self._text.append(text)
        self.bodies.append({**body, "part": part.part})

    def is_open(self, kind: Kind, key: Hashable, by: str | None = None) -> bool:
        """Whether a keyed part is open."""
        return (kind, key, by or self.by) in self._open

    def end(self, kind: Kind, key: Hashable, by: str | None = None) -> None:
        """Close a keyed part; nothing if it is not open."""
        self._end((kind, key, by or self.by))

    def end_all(self, by: str | None = None, *, everybody: bool = False) -> None:
        """Close what flows, or all that is open."""
        for name in [one for one, part in self._open.items() if everybody or one == ("flow", by or self.by)]:
            self._end(name)

    def _end(self, name: Hashable) -> None:
        part = self._open.pop(name, None)
        if part is not None:
            self.bodies.append({"type": f"{part.kind}.end", "part": part.part})

    # -- tools ----------------------------------------------------------------------------------------------------

    def _call(self, source_id: str, tool: str) -> ToolUse:
        """Return the call of this id; a finished one of the same id was another call."""
        use = self.calls.get(source_id)
        if use is None or (tool and use.status != "running"):
            call = source_id if use is None and source_id not in self._taken and source_id else self.name()
            self._taken.add(call)
            use = self.calls[source_id] = ToolUse(call, source_id, tool)
        use.tool = use.tool or tool
        return use

    def call_delta(self, call: str, tool: str, text: Any, *, by: str | None = None) -> None:
        """Append to a call's input, as the model writes it."""
        by = by or self.by
        self.end_all(by)
        use = self._call(call, tool)
        if isinstance(text, str) and text:
            first = {"by": by} if by and not use.written else {}
            use.written += text
            self.bodies.append({"type": "tool.input.delta", "call": use.call, "tool": use.tool, "text": text, **first})

    def call(self, call: str, tool: str, input: Any, *, by: str | None = None) -> ToolUse:
        """A tool is called with its whole input; text is read as JSON where it is."""
        by = by or self.by
        self.end_all(by)
        use = self._call(call, tool)
        use.input = read_json(input)
        body: Body = {"type": "tool.input", "call": use.call, "tool": use.tool, "input": use.input}
        self.bodies.append(body | ({"by": by} if by else {}))
        return use

    def output(self, call: str, output: Any, *, preliminary: bool = False) -> None:
        """A tool gave something."""
        use = self._call(call, "")
        body: Body = {"type": "tool.output", "call": use.call, "output": jsonable(output)}
        if preliminary:
            body["preliminary"] = True
        else:
            use.status = "done"
        self.bodies.append(body)

    def failed(self, call: str, error: Any) -> None:
        """A tool failed."""
        use = self._call(call, "")
        use.status = "error"
        said = error if isinstance(error, str) else json.dumps(jsonable(error), sort_keys=True)
        self.bodies.append({"type": "tool.error", "call": use.call, "error": said})

    # -- the rest -------------------------------------------------------------------------------------------------

    def source(
        self, url: str | None, title: str | None = None, *, id: str | None = None, by: str | None = None
    ) -> None:
        """Name something the answer rests on; the same address or id is the same source."""
        body: Body = {"type": "source", "id": id or url or self.name(), "url": url, "title": title}
        by = by or self.by
        self.bodies.append(body | ({"by": by} if by else {}))

    def file(self, name: str, media_type: str, *, content: bytes | None = None, url: str | None = None) -> None:
        """A file the framework made: its address, or its bytes, which are stored with the session."""
        self.bodies.append({"type": "file", "name": name, "media_type": media_type, "url": url, "content": content})

    def data(self, name: str, data: Any, *, id: str | None = None, transient: bool = False) -> None:
        """Structured output."""
        body: Body = {"type": "data", "name": name, "data": jsonable(data)}
        body |= ({"id": id} if id else {}) | ({"transient": True} if transient else {})
        self.bodies.append(body)

    def use(self, **counts: Any) -> None:
        """Add to what was used; what is no number, or nothing, is left out."""
        used = {
            name: count
            for name, count in counts.items()
            if isinstance(count, int | float) and not isinstance(count, bool) and count
        }
        if used:
            for name, count in used.items():
                self.usage[name] = self.usage.get(name, 0) + count
            self.bodies.append({"type": "usage", "usage": used})

    def subagent(
        self, id: str, name: str, *, parent: str | None = None, call: str | None = None, status: str = "running",
        **more: Any,
    ) -> None:  # fmt: skip
        """Tell of a sub-agent inside the run; what it writes names it with `by`.

        Args:
            id: its own, in the run.
            name: what people call it.
            parent: the sub-agent that it works for; none: the run's own.
            call: the tool call that it works for; then its text is not part of the answer.
            status: `running`, `done` or `error`.
            more: what else is known of it.
        """
        known = self._agents.get(id, {"parent": None, "call": None})
        given = {"name": name, "status": status, **more}
        parent = parent or (self.by if self.by != id else None)
        given |= ({"parent": parent} if parent else {}) | ({"call": call} if call else {})
        about = known | jsonable(given)
        if about == known:
            return
        self._agents[id] = about
        if about["call"] or about["parent"] in self._nested:
            self._nested.add(id)
        self.data("subagent", about, id=id)

    def subagent_status(self, id: str, status: str, **more: Any) -> None:
        """Tell what became of a sub-agent; nothing if it was never told of."""
        if id in self._agents:
            self.subagent(id, self._agents[id]["name"], status=status, **more)

    @property
    def subagents(self) -> Mapping[str, Body]:
        """Who was told of, by id."""
        return self._agents

    def skip(self, kind: str) -> None:
        """An event that is not translated."""
        self.skipped[kind] += 1


def jsonable(value: Any) -> Any:
    """Return a value as JSON can say it; what it cannot say becomes text."""
    return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="null")


def read_json(value: Any) -> Any:
    """Read text that is JSON, as models write their calls; other text stays text, empty text is nothing."""
    if not isinstance(value, str):
        return jsonable(value)
    if not value.strip():
        return {}
    try:
        return json.loads(value)
    except ValueError:
        return value
