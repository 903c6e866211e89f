"""Chat completion chunks (`openai.types.chat.ChatCompletionChunk`), and what others add to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import ToolUse
from orchestrator_free.adapters.translation import Malformed, Translation, plain

#: events that `client.chat.completions.stream()` derives from the chunks it also gives
_DERIVED: Final = ("content.", "refusal.", "tool_calls.", "logprobs.")


class ChatCompletions(Translation):
    """One answer; only the first choice, where a request asked for several."""

    framework = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._uses: list[dict[str, str]] = []

    def take(self, event: Any) -> None:
        """Translate a chunk."""
        body = plain(event)
        if body.get("type") == "chunk":
            body = plain(body["chunk"])
        elif str(body.get("type", "")).startswith(_DERIVED):
            return
        if body.get("error") is not None:
            raise self.fail("said that the request failed")
        if body.get("usage") is not None:
            self._use(body["usage"])
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise Malformed(f"choices is {type(choices).__name__}, not list")
        for choice in choices:
            if choice.get("index", 0) != 0:
                self.sheet.skip("another choice")
                continue
            self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._finish(choice["finish_reason"])

    def _use(self, usage: Mapping[str, Any]) -> None:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        self.sheet.use(
            input_tokens=usage.get("prompt_tokens"), output_tokens=usage.get("completion_tokens"),
            cached_input_tokens=cached, reasoning_tokens=reasoning,
        )  # fmt: skip

    def _delta(self, delta: Mapping[str, Any]) -> None:
        # not of OpenAI: DeepSeek and SGLang say reasoning_content, vLLM and OpenRouter reasoning
        self.sheet.write("reasoning", delta.get("reasoning_content") or delta.get("reasoning"))
        self.sheet.write("text", delta.get("content"))
        self.sheet.write("text", delta.get("refusal"))
        for piece in delta.get("tool_calls") or ():
            self._piece(piece)

    def _piece(self, piece: Mapping[str, Any]) -> None:
        """Add a piece of a tool call; some servers leave the index out and begin a call with its id."""
        index, function = piece.get("index"), piece.get("function") or {}
        begins = index >= len(self._uses) if index is not None else bool(piece.get("id")) or not self._uses
        if begins:
            named = piece.get("id") or f"call-{self.sheet.name()}"
            self._uses.append({"id": named, "name": function.get("name") or "", "arguments": ""})
        use = self._uses[-1 if begins or index is None else index]
        use["arguments"] += function.get("arguments") or ""
        self.sheet.call_delta(use["id"], use["name"], function.get("arguments"))

    def _finish(self, reason: str) -> None:
        self.stop = reason
        self.sheet.end_all()
        done: list[ToolUse] = [self.sheet.call(use["id"], use["name"], use["arguments"]) for use in self._uses]
        calls = [
            {"id": use.source_id, "type": "function", "function": {"name": use.tool, "arguments": raw["arguments"]}}
            for use, raw in zip(done, self._uses, strict=True)
        ]
        self.messages = [
            {"role": "assistant", "content": self.sheet.text or None} | ({"tool_calls": calls} if calls else {})
        ]
        self._uses = []

    def end(self) -> None:
        """The stream has ended."""
        if not self.stop:
            raise self.fail("broke off in the middle of its answer")
