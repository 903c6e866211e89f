"""An answer as AG-UI events, for clients of protocol 1.0 and of 0.0.x.

One run of the protocol is one answer. Where an input goes to several agents, or an agent delegates, each of ours is a
subagent of it (1.0; older clients know no subagents and get the parts without attribution). No field is ever null,
except in what agents wrote, and everything that was opened is closed before the run's end: both are fatal to the
clients.
Facts about events: the schemas shipped in npm `@ag-ui/core` 1.0.0 and 0.0.59.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from orchestrator_free.fold import Fold, RunFold
from orchestrator_free.projections.aisdk import file_url, tool_error, tool_input
from orchestrator_free.projections.answer import Answer, Step, entry_of
from orchestrator_free.projections.told import name_of

Event = dict[str, Any]


class EventStream:
    """One answer as events for one client."""

    def __init__(
        self, session: str, sender: str, input: str, *, modern: bool = True, asked: bool = False, cursor: str = ""
    ) -> None:
        """Begin, or go on behind a cursor.

        Args:
            session: the thread.
            sender: whose input is answered.
            input: which; its id is the id of the protocol's run.
            modern: the client speaks 1.0.
            asked: tell what the person said, too: to a client that has not said it.
            cursor: from the `id:` of a frame; the client has everything up to it.
        """
        self.answer = Answer(sender, input, cursor)
        self._session = session
        self._modern = modern
        self._asked = asked
        self._begun = bool(cursor)

    @property
    def ended(self) -> bool:
        """Whether everything was told."""
        return self.answer.ended

    def advance(self, fold: Fold) -> Iterator[tuple[str, Event]]:
        """Yield (cursor behind it, event) of what is new."""
        if not self._begun:
            self._begun = True
            yield "0", self._start(fold)
        for step in self.answer.advance(fold):
            events = self._events(fold, step)
            for number, event in enumerate(events, 1):
                yield (self.answer.cursor if number == len(events) else ""), event

    def _start(self, fold: Fold) -> Event:
        run = {"threadId": self._session, "runId": self.answer.input}
        start: Event = {"type": "RUN_STARTED", **run}
        if self._asked:
            messages = [user_message(fold, self.answer.sender, self.answer.input)]
            start["input"] = {
                **run,
                "messages": messages,
                "tools": [],
                "context": [],
                "state": {},
                "forwardedProps": {},
            }
        return start

    def _events(self, fold: Fold, step: Step) -> list[Event]:
        run = step.run
        if run is None:
            return [self._end(fold, step.text)]
        about = {"subagentRunId": name_of(run.agent, run.run)} if self._modern and not step.direct else {}
        match step.kind:
            case "run.began":
                return [self._began(run)] if about else []
            case "run.ended":
                return [_ended(run)] if about else []
            case "run.changed":
                return [{"type": "CUSTOM", "name": "agent", "value": _status(run), **about}]
            case "text.began" | "text.opened" | "text.grew" | "text.closed" | "text.ended":
                events = _text(step)
            case "tool.began" | "tool.grew" | "tool.given" | "tool.called" | "tool.output" | "tool.ended":
                events = _tool(run, step)
            case "ask":
                events = [{"type": "CUSTOM", "name": "ask", "value": step.part}]
            case _:
                events = _whole(self._session, step)
        return [event | about for event in events]

    def _began(self, run: RunFold) -> Event:
        event: Event = {"type": "SUBAGENT_STARTED", "subagentRunId": name_of(run.agent, run.run), "name": run.agent}
        above = self.answer.above(run)
        return event | ({"parentSubagentRunId": above} if above else {})

    def _end(self, fold: Fold, status: str) -> Event:
        run = {"threadId": self._session, "runId": self.answer.input}
        if status == "done":
            return {"type": "RUN_FINISHED", **run} | ({"outcome": {"type": "success"}} if self._modern else {})
        if status == "cancelled":
            told: Event = {"outcome": {"type": "cancelled"}} if self._modern else {"result": {"cancelled": True}}
            return {"type": "RUN_FINISHED", **run, **told}
        errors = [one.error or one.status for one in self.answer.members(fold) if one.run == self.answer.run]
        return {"type": "RUN_ERROR", "message": "; ".join(dict.fromkeys(errors)) or status, "code": status}


def user_message(fold: Fold, sender: str, input: str) -> Event:
    """Return what a person said, as a message."""
    entry = entry_of(fold, sender, input)
    return {"id": input, "role": "user", "content": entry["text"], "name": sender}


def _status(run: RunFold) -> Event:
    about: Event = {"agent": run.agent, "run": run.run, "status": run.shown_status, "attempt": run.attempt}
    now = {"waiting": run.waiting, "stalled": run.stalled} if run.open else {"into": run.into}
    return about | {name: value for name, value in now.items() if value is not None}


def _ended(run: RunFold) -> Event:
    if run.status in ("error", "failed", "rejected"):
        return {
            "type": "SUBAGENT_ERROR",
            "subagentRunId": name_of(run.agent, run.run),
            "message": run.error or run.status,
        }
    return {"type": "SUBAGENT_FINISHED", "subagentRunId": name_of(run.agent, run.run)}


def _text(step: Step) -> list[Event]:
    message, reasons = {"messageId": step.key}, step.part.get("type") == "reasoning"
    kind = "REASONING_MESSAGE" if reasons else "TEXT_MESSAGE"
    match step.kind:
        case "text.began":
            return [{"type": "REASONING_START", **message}] if reasons else []
        case "text.opened":
            return [{"type": f"{kind}_START", **message, "role": "reasoning" if reasons else "assistant"}]
        case "text.grew":
            return [{"type": f"{kind}_CONTENT", **message, "delta": step.text}]
        case "text.closed":
            return [{"type": f"{kind}_END", **message}]
    return [{"type": "REASONING_END", **message}] if reasons else []


def _tool(run: RunFold, step: Step) -> list[Event]:
    part, call = step.part, {"toolCallId": step.key}
    match step.kind:
        case "tool.began":
            # One message per run holds its calls: some clients glue a call without one onto the message before.
            about = {
                "toolCallName": str(part.get("tool") or "tool"),
                "parentMessageId": f"{name_of(run.agent, run.run)}.calls",
            }
            return [{"type": "TOOL_CALL_START", **call, **about}]
        case "tool.grew":
            return []  # the fold drops the pieces when the input is there: who was told some would miss the rest
        case "tool.given":
            given = tool_input(part)  # as JSON whatever it is: also half of an input, of a call that was cut off
            return [
                {"type": "TOOL_CALL_ARGS", **call, "delta": "{}" if given is None else orjson.dumps(given).decode()}
            ]
        case "tool.called":
            return [{"type": "TOOL_CALL_END", **call}]
        case "tool.output":
            return [{"type": "CUSTOM", "name": "tool.output", "value": {**call, "output": part.get("output")}}]
    content = _json(part.get("output")) if part.get("status") == "done" else tool_error(part)
    return [{"type": "TOOL_CALL_RESULT", "messageId": f"{step.key}.result", **call, "content": content, "role": "tool"}]


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _whole(session: str, step: Step) -> list[Event]:
    part = step.part
    kind = str(part.get("type"))
    value = {name: item for name, item in part.items() if item is not None and name != "type"}
    if kind == "file":
        value["url"] = file_url(session, part)
    return [{"type": "CUSTOM", "name": f"data.{part.get('name')}" if kind == "data" else kind, "value": value}]


def messages(fold: Fold, asked: list[tuple[str, str]]) -> list[Event]:
    """Return a conversation as AG-UI messages: each input, and the texts and tool calls of its complete answer."""
    found: list[Event] = []
    for sender, input in asked:
        found.append(user_message(fold, sender, input))
        stream = EventStream(fold.session, sender, input, modern=False)
        if stream.answer.complete(fold):
            for _, event in stream.advance(fold):
                _gather(found, event)
    return found


def ui_messages(fold: Fold, asked: list[tuple[str, str]]) -> list[Event]:
    """Return a conversation as TanStack AI keeps it: messages with parts, results in the message of their call."""
    found: list[Event] = []
    calls: dict[str, Event] = {}
    for message in messages(fold, asked):
        if message["role"] == "tool":
            result = {"type": "tool-result", "toolCallId": message["toolCallId"], "content": message["content"]}
            calls[message["toolCallId"]]["parts"].append(result | {"state": "complete"})
            continue
        parts = [{"type": "text", "content": message["content"]}] if message.get("content") else []
        found.append({"id": message["id"], "role": message["role"], "parts": parts})
        for call in message.get("toolCalls", ()):
            calls[call["id"]] = found[-1]
            parts.append({"type": "tool-call", "id": call["id"], **call["function"], "state": "input-complete"})
    return found


def _gather(found: list[Event], event: Event) -> None:
    match event["type"]:
        case "TEXT_MESSAGE_START":
            found.append({"id": event["messageId"], "role": "assistant", "content": ""})
        case "TEXT_MESSAGE_CONTENT":
            message = next(one for one in reversed(found) if one["id"] == event["messageId"])
            message["content"] += event["delta"]
        case "TOOL_CALL_START":
            call = {"id": event["toolCallId"], "type": "function"}
            function = {"name": event["toolCallName"], "arguments": ""}
            found.append(
                {"id": f"{event['toolCallId']}.call", "role": "assistant", "toolCalls": [call | {"function": function}]}
            )
        case "TOOL_CALL_ARGS":
            calling = next(one for one in reversed(found) if one["id"] == f"{event['toolCallId']}.call")
            calling["toolCalls"][0]["function"]["arguments"] += event["delta"]
        case "TOOL_CALL_RESULT":
            fields = ("toolCallId", "content", "role")
            found.append({"id": event["messageId"], **{name: event[name] for name in fields}})
