"""Events of AG-UI, 1.0 and before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import jsonpatch

from orchestrator_free.adapters.sheet import Kind, jsonable
from orchestrator_free.adapters.translation import Malformed, Translation, field, plain

Event = Mapping[str, Any]

_SILENT: Final = frozenset(
    {"RUN_STARTED", "STEP_STARTED", "STEP_FINISHED", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START", "REASONING_START",
     "REASONING_END", "REASONING_MESSAGE_START", "REASONING_ENCRYPTED_VALUE", "THINKING_START", "THINKING_END",
     "THINKING_TEXT_MESSAGE_START"}
)  # fmt: skip
#: pieces and ends of text; the words THINKING_* are those before 1.0
_PIECES: Final[dict[str, Kind]] = {
    "TEXT_MESSAGE_CONTENT": "text", "TEXT_MESSAGE_CHUNK": "text", "REASONING_MESSAGE_CONTENT": "reasoning",
    "REASONING_MESSAGE_CHUNK": "reasoning", "THINKING_TEXT_MESSAGE_CONTENT": "reasoning",
}  # fmt: skip
_ENDS: Final[dict[str, Kind]] = {
    "TEXT_MESSAGE_END": "text", "REASONING_MESSAGE_END": "reasoning", "THINKING_TEXT_MESSAGE_END": "reasoning"
}  # fmt: skip


class AgUi(Translation):
    """One run of an agent; nothing may follow its end."""

    framework = "ag-ui"

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._users: set[str] = set()
        self._message = ""
        self._call = ""
        self._documents: dict[str, Any] = {}
        self._handlers: dict[str, Callable[[Event], None]] = {
            "TOOL_CALL_START": self._call_start,
            "TOOL_CALL_ARGS": self._call_piece,
            "TOOL_CALL_CHUNK": self._call_chunk,
            "TOOL_CALL_END": self._call_end,
            "TOOL_CALL_RESULT": lambda event: self.sheet.output(field(event, "toolCallId"), event.get("content")),
            "STATE_SNAPSHOT": lambda event: self._document("state", "state", event.get("snapshot")),
            "STATE_DELTA": lambda event: self._patch("state", "state", event.get("delta")),
            "ACTIVITY_SNAPSHOT": self._activity,
            "ACTIVITY_DELTA": lambda event: self._patch(
                field(event, "activityType"), field(event, "messageId"), event.get("patch")
            ),
            "RAW": lambda event: self.sheet.bodies.append({"type": "raw", "data": jsonable(event.get("event"))}),
            "CUSTOM": lambda event: self.sheet.data(field(event, "name"), event.get("value")),
            "SUBAGENT_STARTED": self._subagent,
            "SUBAGENT_FINISHED": self._subagent_finished,
            "SUBAGENT_ERROR": lambda event: self.sheet.subagent_status(field(event, "subagentRunId"), "error"),
            "RUN_FINISHED": self._finished,
            "RUN_ERROR": self._error,
        }

    def go_on(self) -> None:
        """Another run of the protocol goes on with this one: it may suspend again what it began."""
        self._ended = False

    def take(self, event: Any) -> None:
        """Translate an event."""
        body = plain(event)
        kind = field(body, "type")
        if kind in _PIECES:
            self._piece(_PIECES[kind], body)
        elif kind in _ENDS:
            self.sheet.end(_ENDS[kind], body.get("messageId") or "", body.get("subagentRunId"))
        elif kind in self._handlers:
            self._handlers[kind](body)
        elif kind == "TEXT_MESSAGE_START" and body.get("role") == "user":
            self._users.add(field(body, "messageId"))
        elif kind not in _SILENT:
            self.sheet.skip(kind)

    def _piece(self, kind: Kind, event: Event) -> None:
        """A piece of text; a chunk without an id goes on with the message before it."""
        self._message = event.get("messageId") or self._message
        if self._message in self._users or event.get("role") == "user":
            self.sheet.skip("a user's message")
            return
        delta = field(event, "delta") if not str(event["type"]).endswith("CHUNK") else event.get("delta")
        self.sheet.write(kind, delta, key=event.get("messageId") or self._message, by=event.get("subagentRunId"))

    # -- tools ----------------------------------------------------------------------------------------------------

    def _call_start(self, event: Event) -> None:
        self.sheet.call_delta(
            field(event, "toolCallId"), field(event, "toolCallName"), "", by=event.get("subagentRunId")
        )

    def _call_piece(self, event: Event) -> None:
        self.sheet.call_delta(field(event, "toolCallId"), "", field(event, "delta"), by=event.get("subagentRunId"))

    def _call_chunk(self, event: Event) -> None:
        self._call = event.get("toolCallId") or self._call
        by = event.get("subagentRunId")
        self.sheet.call_delta(self._call, event.get("toolCallName") or "", event.get("delta"), by=by)

    def _call_end(self, event: Event) -> None:
        use = self.sheet.calls.get(field(event, "toolCallId"))
        if use is None:
            raise Malformed(f"tool call {event['toolCallId']!r} was not begun")
        self.sheet.call(use.source_id, use.tool, use.written, by=event.get("subagentRunId"))

    # -- state and activities -------------------------------------------------------------------------------------

    def _document(self, name: str, id: str, value: Any) -> None:
        self._documents[id] = value
        self.sheet.data(name, value, id=id)

    def _patch(self, name: str, id: str, patch: Any) -> None:
        try:
            self._document(name, id, jsonpatch.apply_patch(self._documents.get(id), patch))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
            raise Malformed(f"a patch that does not apply to {id!r}: {type(error).__name__}") from error

    def _activity(self, event: Event) -> None:
        self._document(field(event, "activityType"), field(event, "messageId"), event.get("content"))

    # -- the run --------------------------------------------------------------------------------------------------

    def _subagent(self, event: Event) -> None:
        more = {"description": event["description"]} if event.get("description") else {}
        self.sheet.subagent(
            field(event, "subagentRunId"), field(event, "name"), parent=event.get("parentSubagentRunId"),
            call=event.get("parentToolCallId"), **more,
        )  # fmt: skip

    def _subagent_finished(self, event: Event) -> None:
        """A sub-agent has ended; one that is suspended goes on in the run that answers its interrupts."""
        if (event.get("outcome") or {}).get("type") != "suspended":
            self.sheet.subagent_status(field(event, "subagentRunId"), "done")

    def _finished(self, event: Event) -> None:
        self._ended = True
        outcome = event.get("outcome") or {}
        self.stop = str(outcome.get("type") or "success") if isinstance(outcome, Mapping) else str(outcome)
        self.pending = list(outcome.get("interrupts") or ()) if isinstance(outcome, Mapping) else []
        self.output = event.get("result")
        for used in event.get("usage") or ():
            self.sheet.use(
                input_tokens=used.get("inputTokens"), output_tokens=used.get("outputTokens"),
                cached_input_tokens=used.get("cachedInputTokens"), reasoning_tokens=used.get("reasoningTokens"),
                cache_write_input_tokens=used.get("cacheWriteInputTokens"),
            )  # fmt: skip

    def _error(self, event: Event) -> None:
        raise self.fail(f"agent ended with an error: {str(event.get('message') or event.get('code') or '')[:200]}")

    def end(self) -> None:
        """The stream has ended."""
        if not self._ended:
            raise self.fail("stream broke off before RUN_FINISHED")
