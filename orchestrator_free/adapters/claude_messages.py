"""Messages of the Claude Agent SDK (`claude_agent_sdk.Message`), told apart by their class's name. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from orchestrator_free.adapters.anthropic_messages import Messages
from orchestrator_free.adapters.translation import Malformed, Translation

_SILENT: Final = frozenset({"SystemMessage", "TaskProgressMessage", "RateLimitEvent", "HookEventMessage"})
_STATES: Final = {"completed": "done", "failed": "error", "stopped": "error", "killed": "error"}
_COUNTS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "cache_creation_input_tokens": "cache_write_input_tokens",
}


class Claude(Translation):
    """What Claude does until it has answered.

    Attributes:
        ended: whether the turn has. said: what people have said since it began: it was interrupted for that.
    """

    framework = "claude-agent-sdk"

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.said: list[str] = []
        self._streams: dict[str, Messages] = {}
        self._streamed: set[str] = set()
        self._handlers: dict[str, Callable[[Any], None]] = {
            "StreamEvent": self._event,
            "AssistantMessage": self._assistant,
            "UserMessage": self._user,
            "TaskStartedMessage": self._task,
            "TaskNotificationMessage": lambda message: self._task_ended(message, message.status),
            "TaskUpdatedMessage": lambda message: self._task_ended(message, (message.patch or {}).get("status")),
            "ResultMessage": self._result,
        }

    def take(self, event: Any) -> None:
        """Translate a message."""
        kind = type(event).__name__
        if kind in self._handlers:
            self._handlers[kind](event)
        elif kind not in _SILENT:
            if not kind.endswith(("Message", "Event")):
                raise Malformed(f"{kind} is no message of the SDK")
            self.sheet.skip(kind)

    def _by(self, call: str | None) -> str | None:
        """Return the sub-agent that works for a call of the Task tool."""
        if not call:
            return None
        if call not in self.sheet.subagents:
            use = self.sheet.calls.get(call)
            asked = use.input if use is not None and isinstance(use.input, dict) else {}
            name = asked.get("subagent_type") or asked.get("description") or "subagent"
            self.sheet.subagent(call, str(name), call=use.call if use is not None else call, how="task")
        return call

    def _event(self, message: Any) -> None:
        """A piece, as the API streams it."""
        by = self._by(message.parent_tool_use_id)
        key = by or ""
        if message.event.get("type") == "message_start":
            self._streamed.add(str((message.event.get("message") or {}).get("id")))
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Messages(self.sheet, by, counts=False)
        stream.take(message.event)

    def _assistant(self, message: Any) -> None:
        """A whole message, or a block of it; what was streamed is not said again."""
        by = self._by(message.parent_tool_use_id)
        streamed = message.message_id is not None and message.message_id in self._streamed
        for block in message.content:
            kind = type(block).__name__
            if kind in ("ToolUseBlock", "ServerToolUseBlock"):
                if block.id not in self.sheet.calls:
                    self.sheet.call(block.id, block.name, block.input, by=by)
            elif kind == "ServerToolResultBlock":
                self._tool_result(block.tool_use_id, block.content, failed=False)
            elif not streamed and kind == "TextBlock":
                self.sheet.write("text", block.text, key=self.sheet.name(), by=by)
            elif not streamed and kind == "ThinkingBlock":
                self.sheet.write("reasoning", block.thinking, key=self.sheet.name(), by=by)
        if message.error:
            self.stop = str(message.error)

    def _user(self, message: Any) -> None:
        """What tools gave."""
        self._by(message.parent_tool_use_id)
        for block in message.content if isinstance(message.content, list) else ():
            if type(block).__name__ == "ToolResultBlock":
                self._tool_result(block.tool_use_id, _told(block.content), failed=bool(block.is_error))

    def _tool_result(self, call: str, content: Any, *, failed: bool) -> None:
        use = self.sheet.calls.get(call)
        if use is not None and use.status != "running":
            return
        if failed:
            self.sheet.failed(call, content)
        else:
            self.sheet.output(call, content)
        self.sheet.subagent_status(call, "error" if failed else "done")

    def _task(self, message: Any) -> None:
        if message.tool_use_id:
            self._by(message.tool_use_id)
        else:
            self.sheet.subagent(message.task_id, message.description, how="task")

    def _task_ended(self, message: Any, status: str | None) -> None:
        id = getattr(message, "tool_use_id", None) or message.task_id
        if status in _STATES:
            self.sheet.subagent_status(id, _STATES[status])

    def _result(self, message: Any) -> None:
        self.ended = True
        used = message.usage or {}
        self.sheet.use(**{ours: used.get(name) for name, ours in _COUNTS.items()}, dollars=message.total_cost_usd)
        self.stop = message.stop_reason or message.subtype
        if message.is_error and not self.said:
            raise self.fail(f"ended with an error ({message.subtype})")
        self.output = message.result if message.structured_output is None else message.structured_output

    def end(self) -> None:
        """The stream has ended."""
        if not self.ended:
            raise self.fail("broke off before its result")


def _told(content: Any) -> Any:
    """Return a tool's result: its text, where it is one."""
    if isinstance(content, list) and len(content) == 1 and content[0].get("type") == "text":
        return content[0].get("text")
    return content
