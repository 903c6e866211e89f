"""Chunks of the AI SDK's UI message stream, 5 to 7. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind
from orchestrator_free.adapters.translation import Malformed, Translation, field, plain

Chunk = Mapping[str, Any]

_SILENT: Final = frozenset({"start", "start-step", "finish-step", "message-metadata", "text-start", "reasoning-start"})
_PIECES: Final[dict[str, Kind]] = {"text-delta": "text", "reasoning-delta": "reasoning"}
_ENDS: Final[dict[str, Kind]] = {"text-end": "text", "reasoning-end": "reasoning"}


class AiSdk(Translation):
    """One assistant message."""

    framework = "ai-sdk"

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._handlers: dict[str, Callable[[Chunk], None]] = {
            "tool-input-start": lambda one: self.sheet.call_delta(field(one, "toolCallId"), field(one, "toolName"), ""),
            "tool-input-delta": lambda one: self.sheet.call_delta(
                field(one, "toolCallId"), "", field(one, "inputTextDelta")
            ),
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
            "finish": self._finish,
            "abort": self._finish,
            "error": self._error,
        }

    def take(self, event: Any) -> None:
        """Translate a chunk."""
        chunk = plain(event)
        kind = field(chunk, "type")
        if kind in _PIECES:
            self.sheet.write(_PIECES[kind], field(chunk, "delta"), key=field(chunk, "id"))
        elif kind in _ENDS:
            self.sheet.end(_ENDS[kind], field(chunk, "id"))
        elif kind in self._handlers:
            self._handlers[kind](chunk)
        elif kind.startswith("data-"):
            name = kind.removeprefix("data-")
            self.sheet.data(name, chunk.get("data"), id=chunk.get("id"), transient=bool(chunk.get("transient")))
        elif kind not in _SILENT:
            self.sheet.skip(kind)

    def _call(self, chunk: Chunk) -> None:
        self.sheet.call(field(chunk, "toolCallId"), field(chunk, "toolName"), chunk.get("input"))

    def _input_error(self, chunk: Chunk) -> None:
        self._call(chunk)
        self.sheet.failed(chunk["toolCallId"], field(chunk, "errorText"))

    def _output(self, chunk: Chunk) -> None:
        self.sheet.output(field(chunk, "toolCallId"), chunk.get("output"), preliminary=bool(chunk.get("preliminary")))

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
