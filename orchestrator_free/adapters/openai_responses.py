"""Events of a response (`openai.types.responses.ResponseStreamEvent`). Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind
from orchestrator_free.adapters.translation import Translation, field, plain

Event = Mapping[str, Any]

#: pieces of text, by the event that brings them
_PIECES: Final[dict[str, Kind]] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
}
_ENDS: Final[dict[str, Kind]] = {
    "response.output_text.done": "text",
    "response.refusal.done": "text",
    "response.reasoning_text.done": "reasoning",
    "response.reasoning_summary_text.done": "reasoning",
}
#: pieces of a tool call's input
_INPUTS: Final = frozenset(
    f"response.{name}.delta"
    for name in (
        "function_call_arguments",
        "mcp_call_arguments",
        "custom_tool_call_input",
        "code_interpreter_call_code",
    )
)
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
#: what says nothing that another event does not say better
_SILENT: Final = (
    "response.created", "response.in_progress", "response.queued", "response.content_part.",
    "response.reasoning_summary_part.", "response.function_call_arguments.done", "response.mcp_call",
    "response.mcp_list_tools", "response.custom_tool_call_input.done", "response.code_interpreter_call",
    "response.web_search_call.", "response.file_search_call.", "response.image_generation_call.", "keepalive",
)  # fmt: skip
#: items that are no tool calls; what a client does for a tool has the other items' names and `_output`
_NO_CALLS: Final = frozenset({"message", "reasoning", "mcp_list_tools", "mcp_approval_response", "compaction"})
#: calls that the caller answers, with the field that holds their input
_OURS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
#: where the calls that OpenAI does itself say what they were asked, and what came of it
_INPUT: Final = ("arguments", "code", "queries", "action", "operation")
_OUTPUT: Final = ("output", "outputs", "results", "tools")


class Responses(Translation):
    """One response."""

    framework = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[str, tuple[str, str]] = {}
        self._handlers: dict[str, Callable[[Event], None]] = {
            "response.output_item.added": self._added,
            "response.output_item.done": self._done,
            "response.output_text.annotation.added": self._annotation,
            "error": self._error,
        }

    def take(self, event: Any) -> None:
        """Translate an event."""
        body = plain(event)
        kind = field(body, "type")
        if kind in _PIECES:
            self.sheet.write(_PIECES[kind], field(body, "delta"), key=_key(body))
        elif kind in _ENDS:
            self.sheet.end(_ENDS[kind], _key(body))
        elif kind in _INPUTS:
            call, tool = self._calls.get(field(body, "item_id"), ("", ""))
            self.sheet.call_delta(call or body["item_id"], tool, field(body, "delta"))
        elif kind in self._handlers:
            self._handlers[kind](body)
        elif kind in _ENDINGS:
            self._end(kind, field(body, "response", dict))
        elif not kind.startswith(_SILENT):
            self.sheet.skip(kind)

    def _added(self, event: Event) -> None:
        item = field(event, "item", dict)
        kind = field(item, "type")
        if kind not in _NO_CALLS and "call" in kind and not kind.endswith("_output"):
            call = item.get("call_id") or item.get("id") or self.sheet.name()
            self._calls[str(item.get("id") or call)] = (call, _tool(item))

    def _done(self, event: Event) -> None:
        item = field(event, "item", dict)
        kind = field(item, "type")
        if kind in _OURS:
            self.sheet.call(field(item, "call_id"), _tool(item), item.get(_OURS[kind]))
        elif kind == "mcp_approval_request":
            self.pending.append(item)
        elif kind == "image_generation_call":
            self._image(item)
        elif kind not in _NO_CALLS and "call" in kind and not kind.endswith("_output"):
            self._theirs(item)
        elif kind not in _NO_CALLS:
            self.sheet.skip(kind)

    def _theirs(self, item: Event) -> None:
        """A call of a tool that OpenAI runs itself: what it was asked, and what came of it."""
        call = item.get("call_id") or item.get("id") or self.sheet.name()
        given = {name: item[name] for name in _INPUT if item.get(name) is not None}
        self.sheet.call(call, _tool(item), next(iter(given.values())) if len(given) == 1 else given)
        if item.get("error") or item.get("status") == "failed":
            self.sheet.failed(call, item.get("error") or "failed")
        elif item.get("status") in ("completed", None):
            self.sheet.output(call, next((item[name] for name in _OUTPUT if item.get(name) is not None), None))

    def _image(self, item: Event) -> None:
        name = f"{item.get('id') or self.sheet.name()}.{item.get('output_format') or 'png'}"
        self.sheet.call(name, "image_generation", {"prompt": item.get("revised_prompt")})
        try:
            content = base64.b64decode(item.get("result") or "", validate=True)
        except binascii.Error:
            content = b""
        if not content:
            self.sheet.failed(name, "no image came")
            return
        self.sheet.file(name, f"image/{item.get('output_format') or 'png'}", content=content)
        self.sheet.output(name, {"file": name})

    def _annotation(self, event: Event) -> None:
        about = event.get("annotation") or {}
        title = about.get("title") or about.get("filename") or about.get("file_id")
        if title or about.get("url"):
            self.sheet.source(about.get("url"), title, id=about.get("url") or about.get("file_id"))

    def _error(self, event: Event) -> None:
        raise self.fail(f"said that the response failed ({event.get('code') or 'no code'})")

    def _end(self, kind: str, response: Event) -> None:
        self._use(response.get("usage") or {})
        error = response.get("error") or {}
        if kind == "response.failed":
            raise self.fail(f"said that the response failed ({error.get('code') or 'no code'})")
        details = response.get("incomplete_details") or {}
        self.stop = details.get("reason") or str(response.get("status") or "completed")
        self.messages = list(response.get("output") or ())

    def _use(self, usage: Event) -> None:
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens")
        reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens")
        self.sheet.use(
            input_tokens=usage.get("input_tokens"), output_tokens=usage.get("output_tokens"),
            cached_input_tokens=cached, reasoning_tokens=reasoning,
        )  # fmt: skip

    def end(self) -> None:
        """The stream has ended."""
        if not self.stop:
            raise self.fail("broke off in the middle of its answer")


def _key(event: Event) -> tuple[str, str, Any]:
    index = event.get("summary_index", event.get("content_index"))
    return (field(event, "type").rsplit(".", 1)[0], str(event.get("item_id")), index)


def _tool(item: Event) -> str:
    named = item.get("name")
    return str(named) if named else str(item["type"]).removesuffix("_call")
