"""Events of a PydanticAI agent (`pydantic_ai.messages.AgentStreamEvent`, `AgentRunResultEvent`). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind, jsonable
from orchestrator_free.adapters.translation import Malformed, Translation

_KINDS: Final[dict[str, Kind]] = {"text": "text", "thinking": "reasoning"}
_CALLS: Final = frozenset({"tool-call", "builtin-tool-call"})
#: what says nothing that another event does not say better
_SILENT: Final = frozenset(
    {"final_result", "enqueued_messages", "deferred_tool_requests", "deferred_tool_results", "tool_availability_delta",
     "capability_load_delta", "model_settings_delta"}
)  # fmt: skip


class PydanticAI(Translation):
    """The stream of one agent: its requests to the model one after the other, and its tools."""

    framework = "pydantic-ai"

    def __init__(self) -> None:
        super().__init__()
        self.all_messages: list[Any] = []
        self._parts: dict[int, tuple[str, int]] = {}
        self._count = 0
        self._ended = False
        self._handlers: dict[str, Callable[[Any], None]] = {
            "part_start": self._start,
            "part_delta": self._delta,
            "part_end": lambda event: self._end_part(event.index),
            "function_tool_call": self._call,
            "output_tool_call": self._call,
            "function_tool_result": self._returned,
            "output_tool_result": self._returned,
            "agent_run_result": self._result,
            "custom": lambda event: self.sheet.data(getattr(event, "name", None) or "custom", jsonable(event)),
        }

    def take(self, event: Any) -> None:
        """Translate an event."""
        kind = getattr(event, "event_kind", None)
        if not isinstance(kind, str):
            raise Malformed(f"{type(event).__name__} is no event of an agent")
        if kind in self._handlers:
            self._handlers[kind](event)
        elif kind not in _SILENT:
            self.sheet.skip(kind)

    def _start(self, event: Any) -> None:
        self._end_part(event.index)
        part, kind = event.part, event.part.part_kind
        if kind in _KINDS:
            self._count += 1
            self._parts[event.index] = (_KINDS[kind], self._count)
            self.sheet.write(_KINDS[kind], part.content, key=self._count)
        elif kind in _CALLS:
            self._parts[event.index] = (part.tool_call_id, 0)
            self.sheet.call_delta(part.tool_call_id, part.tool_name, part.args)
            if kind == "builtin-tool-call":
                self.sheet.call(part.tool_call_id, part.tool_name, part.args_as_dict())
        elif kind == "builtin-tool-return":
            self._settle(part)
        elif kind == "file":
            self._file(part.content)
        else:
            self.sheet.skip(f"part {kind}")

    def _file(self, content: Any) -> None:
        name = f"{self.sheet.name()}.{content.media_type.partition('/')[2] or 'bin'}"
        self.sheet.file(name, content.media_type, content=content.data)

    def _delta(self, event: Any) -> None:
        delta = event.delta
        name = self._parts.get(event.index)
        if name is None:
            raise Malformed(f"part {event.index} was not begun")
        if delta.part_delta_kind == "tool_call":
            self.sheet.call_delta(name[0], "", delta.args_delta)
        elif delta.part_delta_kind in _KINDS:
            self.sheet.write(_KINDS[delta.part_delta_kind], delta.content_delta, key=name[1])
        else:
            self.sheet.skip(f"delta {delta.part_delta_kind}")

    def _end_part(self, index: int) -> None:
        name = self._parts.pop(index, None)
        if name is not None and name[1]:
            self.sheet.end("text", name[1])
            self.sheet.end("reasoning", name[1])

    def _call(self, event: Any) -> None:
        use = self.sheet.calls.get(event.part.tool_call_id)
        if use is None or use.status == "running":  # a call that was approved later is told of again
            self.sheet.call(event.part.tool_call_id, event.part.tool_name, event.part.args)

    def _returned(self, event: Any) -> None:
        self._settle(event.part)

    def _settle(self, part: Any) -> None:
        if getattr(part, "outcome", "success") == "success" and part.part_kind != "retry-prompt":
            self.sheet.output(part.tool_call_id, part.content)
        else:
            self.sheet.failed(part.tool_call_id, part.content)

    def _result(self, event: Any) -> None:
        result = event.result
        self._ended = True
        self.messages, self.all_messages = list(result.new_messages()), list(result.all_messages())
        used = result.usage
        self.sheet.use(
            input_tokens=used.input_tokens, output_tokens=used.output_tokens,
            cached_input_tokens=used.cache_read_tokens, cache_write_input_tokens=used.cache_write_tokens,
            requests=used.requests,
        )  # fmt: skip
        output = result.output
        if hasattr(output, "approvals") and hasattr(output, "build_results"):
            self.pending = [output]
        else:
            self.output = output

    def end(self) -> None:
        """The stream has ended."""
        if not self._ended:
            raise self.fail("broke off before its result")
