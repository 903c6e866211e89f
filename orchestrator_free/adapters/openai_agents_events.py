"""Events of the OpenAI Agents SDK (`agents.StreamEvent`). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from orchestrator_free.adapters.openai_responses import Responses
from orchestrator_free.adapters.sheet import jsonable
from orchestrator_free.adapters.translation import Malformed, Translation

#: items that say nothing that another event does not say better
_SILENT: Final = frozenset(
    {
        "mcp_approval_requested",
        "mcp_approval_response",
        "mcp_list_tools",
        "tool_search_called",
        "tool_search_output_created",
    }
)


class OpenAIAgents(Translation):
    """One run of the SDK: requests, tools and hand-offs; after a hand-off the other agent writes."""

    framework = "openai-agents"

    def __init__(self) -> None:
        super().__init__()
        self._responses = Responses()
        self._responses.sheet = self.sheet
        self._main: tuple[str, str | None] | None = None
        self._written = 0
        self._items: dict[str, Callable[[Any], None]] = {
            "message_output_created": self._message,
            "reasoning_item_created": self._reasoning,
            "tool_called": self._called,
            "handoff_requested": self._called,
            "tool_output": lambda item: self._answered(item, item.output),
            "handoff_occured": lambda item: self._answered(item, {"agent": item.target_agent.name}),
        }

    def take(self, event: Any) -> None:
        """Translate an event."""
        match getattr(event, "type", None):
            case "raw_response_event":
                self._raw(event.data)
            case "run_item_stream_event" if event.name in self._items:
                self._items[event.name](event.item)
            case "run_item_stream_event" if event.name in _SILENT:
                pass
            case "agent_updated_stream_event":
                self._agent(event.new_agent.name)
            case str() as kind:
                self.sheet.skip(f"{kind} {getattr(event, 'name', '')}".strip())
            case _:
                raise Malformed(f"{type(event).__name__} is no event of the SDK")

    def _raw(self, event: Any) -> None:
        before = len(self.sheet.bodies)
        self._responses.take(event)
        self._written += sum(body["type"].endswith(".delta") for body in self.sheet.bodies[before:])
        self.stop = self._responses.stop

    def _agent(self, name: str) -> None:
        """Another agent goes on; the one that began writes in the run's own name."""
        self.sheet.end_all(everybody=True)
        if self._main is None:
            self._main = (name, self.sheet.by)
            return
        first, base = self._main
        id = f"{name}-{self.sheet.prefix}"
        if self.sheet.by not in (base, id):
            self.sheet.subagent_status(str(self.sheet.by), "done")
        if name == first:
            self.sheet.by = base
        else:
            self.sheet.subagent(id, name, status="running", how="handoff")
            self.sheet.by = id

    # -- items: what a model that does not stream gives all at once -------------------------------------------------

    def _message(self, item: Any) -> None:
        raw = jsonable(item.raw_item)
        if not self._streamed():
            for content in raw.get("content") or ():
                self.sheet.write("text", content.get("text") or content.get("refusal"), key=self.sheet.name())
        self.sheet.end_all(everybody=True)

    def _reasoning(self, item: Any) -> None:
        raw = jsonable(item.raw_item)
        if not self._streamed():
            for content in (raw.get("content") or ()) or (raw.get("summary") or ()):
                self.sheet.write("reasoning", content.get("text"), key=self.sheet.name())
            self._written = 0
        self.sheet.end_all(everybody=True)

    def _streamed(self) -> bool:
        return self._written > 0

    def _called(self, item: Any) -> None:
        raw = jsonable(item.raw_item)
        call = raw.get("call_id") or raw.get("id") or self.sheet.name()
        use = self.sheet.calls.get(call)
        if use is None:
            name = raw.get("name") or str(raw.get("type")).removesuffix("_call")
            self.sheet.call(call, name, raw.get("arguments", raw.get("action")))

    def _answered(self, item: Any, output: Any) -> None:
        raw = jsonable(item.raw_item)
        self._written = 0
        self.sheet.output(raw.get("call_id") or raw.get("id") or self.sheet.name(), output)

    def finish(self, result: Any) -> None:
        """Take what the SDK's result says, once its stream has ended."""
        self.output = result.final_output
        self.pending = list(result.interruptions)
        self.messages = result.to_input_list() if result.is_complete else []
