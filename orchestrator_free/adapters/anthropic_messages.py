"""Events of a message (`anthropic.types.RawMessageStreamEvent`). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind, Sheet, read_json
from orchestrator_free.adapters.translation import Malformed, Translation, field, plain

Event = Mapping[str, Any]

#: the pieces of a block, by the delta that brings them
_PIECES: Final[dict[str, tuple[Kind, str]]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("reasoning", "thinking"),
}
#: events that `client.messages.stream()` derives from those it also gives, and what says nothing
_SILENT: Final = frozenset({"ping", "text", "thinking", "citation", "signature", "input_json"})
_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_COUNTS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "cache_creation_input_tokens": "cache_write_input_tokens",
}


class Messages(Translation):
    """One message, or several after one another."""

    framework = "anthropic"

    def __init__(self, sheet: Sheet | None = None, by: str | None = None, *, counts: bool = True) -> None:
        super().__init__()
        self._counts = counts
        self.sheet = sheet or self.sheet
        self._by = by
        self._message = 0
        self._blocks: dict[int, dict[str, Any]] = {}
        self._used: dict[str, float] = {}
        self._handlers: dict[str, Callable[[Event], None]] = {
            "message_start": self._start,
            "content_block_start": self._open,
            "content_block_delta": self._delta,
            "content_block_stop": self._close,
            "message_delta": self._end_reason,
            "message_stop": self._end,
            "error": self._error,
        }

    def take(self, event: Any) -> None:
        """Translate an event."""
        body = plain(event)
        kind = field(body, "type")
        if kind in self._handlers:
            self._handlers[kind](body)
        elif kind not in _SILENT:
            self.sheet.skip(kind)

    def _start(self, event: Event) -> None:
        self._message += 1
        self.stop = ""
        self._blocks, self._used = {}, {}
        self._use(field(event, "message", dict).get("usage") or {})

    def _use(self, usage: Event) -> None:
        """Add what is new: the API tells sums of the message so far."""
        for name, ours in _COUNTS.items():
            count = usage.get(name)
            if self._counts and isinstance(count, int | float) and count > self._used.get(name, 0):
                self.sheet.use(**{ours: count - self._used.get(name, 0)})
                self._used[name] = count

    def _key(self, index: int) -> tuple[int, int]:
        return self._message, index

    def _open(self, event: Event) -> None:
        index, block = field(event, "index", int), dict(field(event, "content_block", dict))
        self._blocks[index] = block
        kind = field(block, "type")
        if kind == "text":
            self.sheet.write("text", block.get("text"), key=self._key(index), by=self._by)
        elif kind == "thinking":
            self.sheet.write("reasoning", block.get("thinking"), key=self._key(index), by=self._by)
        elif kind in _CALLS:
            block["written"] = ""
            self.sheet.call_delta(field(block, "id"), field(block, "name"), "", by=self._by)
        elif kind.endswith("_tool_result"):
            self._result(block)
        elif kind != "redacted_thinking":
            self.sheet.skip(f"block {kind}")

    def _result(self, block: Event) -> None:
        """What came of a call that Anthropic did itself; a web search gives sources."""
        content = block.get("content")
        failed = block.get("is_error") or (isinstance(content, dict) and str(content.get("type")).endswith("_error"))
        if failed:
            code = content.get("error_code") if isinstance(content, dict) else content
            self.sheet.failed(field(block, "tool_use_id"), code or "failed")
            return
        self.sheet.output(field(block, "tool_use_id"), content)
        for found in content if isinstance(content, list) else ():
            if isinstance(found, dict) and found.get("type") == "web_search_result":
                self.sheet.source(found.get("url"), found.get("title"), by=self._by)

    def _delta(self, event: Event) -> None:
        index, delta = field(event, "index", int), field(event, "delta", dict)
        block, kind = self._block(index), field(delta, "type")
        if kind in _PIECES:
            ours, name = _PIECES[kind]
            block[name] = str(block.get(name) or "") + field(delta, name)
            self.sheet.write(ours, delta[name], key=self._key(index), by=self._by)
        elif kind == "input_json_delta":
            block["written"] = block.get("written", "") + field(delta, "partial_json")
            self.sheet.call_delta(block["id"], block["name"], delta["partial_json"], by=self._by)
        elif kind == "signature_delta":
            block["signature"] = delta.get("signature")
        elif kind == "citations_delta":
            self._cite(block, field(delta, "citation", dict))
        else:
            self.sheet.skip(f"delta {kind}")

    def _cite(self, block: dict[str, Any], citation: Event) -> None:
        block["citations"] = [*(block.get("citations") or ()), citation]
        title = citation.get("title") or citation.get("document_title")
        address = citation.get("url") or citation.get("source")
        if title or address:
            self.sheet.source(address, title, id=address or title, by=self._by)

    def _block(self, index: int) -> dict[str, Any]:
        if index not in self._blocks:
            raise Malformed(f"block {index} was not begun")
        return self._blocks[index]

    def _close(self, event: Event) -> None:
        index = field(event, "index", int)
        block = self._block(index)
        self.sheet.end("text", self._key(index), self._by)
        self.sheet.end("reasoning", self._key(index), self._by)
        if "written" in block:
            written = block.pop("written")
            block["input"] = read_json(written) if written else block.get("input") or {}
            self.sheet.call(block["id"], block["name"], block["input"], by=self._by)

    def _end_reason(self, event: Event) -> None:
        self._use(event.get("usage") or {})
        self.stop = field(event, "delta", dict).get("stop_reason") or self.stop

    def _end(self, event: Event) -> None:
        self.stop = self.stop or "end_turn"
        content = [self._blocks[index] for index in sorted(self._blocks)]
        if content:
            self.messages.append({"role": "assistant", "content": content})

    def _error(self, event: Event) -> None:
        raise self.fail(f"said that the request failed ({(event.get('error') or {}).get('type') or 'no type'})")

    def end(self) -> None:
        """The stream has ended."""
        if not self.stop:
            raise self.fail("broke off in the middle of its answer" if self._message else "sent nothing")
