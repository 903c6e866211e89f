"""Chunks of the AI SDK's UI message stream, 5 to 7. Pure.

Its chunks have no word for sub-agents. What its documentation does is read: a tool whose outputs, preliminary ones
first, are the message of an agent that works for it. And what a gateway of ours says in metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind
from orchestrator_free.adapters.translation import Malformed, Translation, field, plain

Chunk = Mapping[str, Any]

_SILENT: Final = frozenset({"start", "start-step", "finish-step", "message-metadata"})
_PIECES: Final[dict[str, Kind]] = {"text-delta": "text", "reasoning-delta": "reasoning"}
_ENDS: Final[dict[str, Kind]] = {"text-end": "text", "reasoning-end": "reasoning"}


class AiSdk(Translation):
    """One assistant message."""

    framework = "ai-sdk"

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._parts: dict[str, tuple[Kind, str | None]] = {}
        self._callers: dict[str, str | None] = {}
        self._told: dict[tuple[str, int], str] = {}
        self._handlers: dict[str, Callable[[Chunk], None]] = {
            "text-start": lambda one: self._begin("text", one),
            "reasoning-start": lambda one: self._begin("reasoning", one),
            "tool-input-start": self._call_begins,
            "tool-input-delta": self._call_piece,
            "tool-input-available": self._call,
            "tool-input-error": self._input_error,
            "tool-output-available": self._output,
            "tool-output-error": lambda one: self.sheet.failed(field(one, "toolCallId"), field(one, "errorText")),
            "tool-output-denied": lambda one: self.sheet.failed(field(one, "toolCallId"), "not approved"),
            "tool-approval-request": lambda one: self.pending.append(dict(one)),
            "source-url": lambda one: self.sheet.source(field(one, "url"), one.get("title"), id=field(one, "sourceId")),
            "source-document": lambda one: self.sheet.source(
                None, one.get("title") or one.get("filename"), id=field(one, "sourceId")
            ),
            "file": self._file,
            "data-subagent": self._subagent,
            "finish": self._finish,
            "abort": self._finish,
            "error": self._error,
        }

    def take(self, event: Any) -> None:
        """Translate a chunk."""
        chunk = plain(event)
        kind = field(chunk, "type")
        if kind in _PIECES:
            kind, by = self._parts.get(field(chunk, "id"), (_PIECES[kind], None))
            self.sheet.write(kind, field(chunk, "delta"), key=chunk["id"], by=by)
        elif kind in _ENDS:
            kind, by = self._parts.pop(field(chunk, "id"), (_ENDS[kind], None))
            self.sheet.end(kind, chunk["id"], by)
        elif kind in self._handlers:
            self._handlers[kind](chunk)
        elif kind.startswith("data-"):
            name = kind.removeprefix("data-")
            self.sheet.data(name, chunk.get("data"), id=chunk.get("id"), transient=bool(chunk.get("transient")))
        elif kind not in _SILENT:
            self.sheet.skip(kind)

    def _begin(self, kind: Kind, chunk: Chunk) -> None:
        about = _durable(chunk)
        self._parts[field(chunk, "id")] = ("text" if about.get("kind") == "text" else kind, about.get("subagent"))

    def _call_begins(self, chunk: Chunk) -> None:
        call = field(chunk, "toolCallId")
        self._callers[call] = _durable(chunk).get("subagent")
        self.sheet.call_delta(call, field(chunk, "toolName"), "", by=self._callers[call])

    def _call_piece(self, chunk: Chunk) -> None:
        call = field(chunk, "toolCallId")
        self.sheet.call_delta(call, "", field(chunk, "inputTextDelta"), by=self._callers.get(call))

    def _call(self, chunk: Chunk) -> None:
        by = _durable(chunk).get("subagent")
        self.sheet.call(field(chunk, "toolCallId"), field(chunk, "toolName"), chunk.get("input"), by=by)

    def _input_error(self, chunk: Chunk) -> None:
        self._call(chunk)
        self.sheet.failed(chunk["toolCallId"], field(chunk, "errorText"))

    def _output(self, chunk: Chunk) -> None:
        call, output, preliminary = field(chunk, "toolCallId"), chunk.get("output"), bool(chunk.get("preliminary"))
        if call in self.sheet.subagents or (preliminary and _is_message(output)):
            output = self._message(call, output)
        if not preliminary:
            for key in [one for one in self._told if one[0] == call]:
                self.sheet.end("text", key, call)
                self.sheet.end("reasoning", key, call)
            self.sheet.output(call, output)
            self.sheet.subagent_status(call, "done")
        elif call not in self.sheet.subagents:
            self.sheet.output(call, output, preliminary=True)

    # -- sub-agents -----------------------------------------------------------------------------------------------

    def _subagent(self, chunk: Chunk) -> None:
        """Told by a gateway of ours; of anybody else it is data."""
        data, id = chunk.get("data"), chunk.get("id")
        if isinstance(data, dict) and isinstance(id, str) and isinstance(data.get("name"), str):
            self.sheet.subagent(id, **{name: value for name, value in data.items() if name != "id"})
        else:
            self.sheet.data("subagent", data, id=id)

    def _message(self, call: str, message: Any) -> Any:
        """Write what is new in the message of an agent that works for a tool call; return its last text."""
        use = self.sheet.calls.get(call)
        self.sheet.subagent(call, (use.tool if use else "") or "sub-agent", call=use.call if use else call, how="tool")
        if not _is_message(message):
            return message
        last = ""
        for index, part in enumerate(message["parts"]):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in ("text", "reasoning"):
                self._piece(call, index, kind, part.get("text"))
                last = part.get("text") if kind == "text" else last
            elif kind == "dynamic-tool" or str(kind).startswith("tool-"):
                self._nested_call(call, index, part)
        return last

    def _piece(self, call: str, index: int, kind: Kind, text: Any) -> None:
        before = self._told.get((call, index), "")
        if not isinstance(text, str) or not text.startswith(before):
            self.sheet.skip("a sub-agent's text that was written anew")
            return
        self.sheet.write(kind, text[len(before) :], key=(call, index), by=call)
        self._told[call, index] = text

    def _nested_call(self, call: str, index: int, part: Chunk) -> None:
        state, inner = str(part.get("state")), field(part, "toolCallId")
        before = self._told.get((call, index), "")
        if state == before or state == "input-streaming":
            return
        self._told[call, index] = state
        if not before:
            tool = part.get("toolName") or str(part["type"]).removeprefix("tool-")
            self.sheet.call(inner, str(tool), part.get("input"), by=call)
        if state == "output-available" and not part.get("preliminary"):
            self.sheet.output(inner, part.get("output"))
        elif state == "output-error":
            self.sheet.failed(inner, str(part.get("errorText")))

    def _file(self, chunk: Chunk) -> None:
        """A file by its address; one that stands in the address itself is stored."""
        url, media_type = field(chunk, "url"), field(chunk, "mediaType")
        name = f"{self.sheet.name()}.{media_type.partition('/')[2].partition('+')[0] or 'bin'}"
        if not url.startswith("data:"):
            self.sheet.file(name, media_type, url=url)
            return
        head, comma, data = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Malformed("a data: address that is not base64")
        self.sheet.file(name, media_type, content=base64.b64decode(data, validate=True))

    def _finish(self, chunk: Chunk) -> None:
        self._ended = True
        self.stop = str(chunk.get("finishReason") or ("abort" if chunk["type"] == "abort" else "stop"))
        usage = (chunk.get("messageMetadata") or {}).get("usage") or (chunk.get("messageMetadata") or {}).get(
            "totalUsage"
        )
        if isinstance(usage, Mapping):  # no part of the protocol, but what its documentation sends there
            self.sheet.use(
                input_tokens=usage.get("inputTokens"), output_tokens=usage.get("outputTokens"),
                cached_input_tokens=usage.get("cachedInputTokens"), reasoning_tokens=usage.get("reasoningTokens"),
            )  # fmt: skip

    def _error(self, chunk: Chunk) -> None:
        raise self.fail(f"agent ended with an error: {str(chunk.get('errorText') or '')[:200]}")

    def end(self) -> None:
        """The stream has ended; the AI SDK itself takes an end without `finish` for a success, and cuts answers so."""
        if not self._ended:
            raise self.fail("stream broke off before its finish")


def _durable(chunk: Chunk) -> Mapping[str, Any]:
    """Return what a gateway of ours says of a part."""
    found: Any = chunk.get("providerMetadata")
    found = found.get("durable") if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_message(output: Any) -> bool:
    return isinstance(output, Mapping) and output.get("role") == "assistant" and isinstance(output.get("parts"), list)
