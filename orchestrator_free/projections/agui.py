"""An answer as AG-UI events, for clients of protocol 1.0 and of 0.0.x.

One run of the protocol is one answer. Where an input goes to several agents, or an agent delegates, each of ours is a
subagent of it, and so is each sub-agent inside a run (1.0; older clients know no subagents and get the parts without
attribution, and the text of a sub-agent that works for a tool call as reasoning: it is no part of the answer). Where
the answer waits for the word of the one who reads it, the run ends with interrupts, and the next one, which answers
them, goes on with the answer (1.0). No field is ever null, except in what agents wrote, and everything that was opened
is closed before the run's end: both are fatal to the clients.
Facts about events: the schemas shipped in npm `@ag-ui/core` 1.0.0 and 0.0.59.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson

from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.fold.asks import refusal
from orchestrator_free.projections.aisdk import file_url, tool_error, tool_input
from orchestrator_free.projections.answer import Answer, entry_of
from orchestrator_free.projections.kin import kin_of
from orchestrator_free.projections.parts import Step
from orchestrator_free.projections.told import name_of

Event = dict[str, Any]


class EventStream:
    """One answer as events for one client.

    Attributes:
        answer: what is told. session: the thread. run: the id of the protocol's run. modern: the client speaks 1.0.
    """

    def __init__(
        self, session: str, sender: str, input: str, *, modern: bool = True, asked: bool = False, cursor: str = "",
        viewer: str = "", resumed: str = "", behind: str = "",
    ) -> None:  # fmt: skip
        """Begin, or go on behind a cursor.

        Args:
            session: the thread.
            sender: whose input is answered.
            input: which; its id is the id of the protocol's run.
            modern: the client speaks 1.0.
            asked: tell what the person said, too: to a client that has not said it.
            cursor: from the `id:` of a frame; the client has everything up to it.
            viewer: who reads; the answer is interrupted where it waits for a word of theirs.
            resumed: the id of the protocol's run that goes on behind an interrupt.
            behind: the cursor of that interrupt.
        """
        self.answer = Answer(sender, input, cursor or behind)
        self.session = session
        self.modern = modern
        self.run = resumed or input
        self._asked = asked
        self._viewer = viewer
        self._resumed = bool(resumed)
        self._live: set[str] = set()  # the subagents of a resumed run: those that ended before are none of its
        self._begun = bool(cursor)
        self._paused = False

    @property
    def ended(self) -> bool:
        """Whether everything was told, or it is the person's turn."""
        return self.answer.ended or self._paused

    def advance(self, fold: Fold) -> Iterator[tuple[str, Event]]:
        """Yield (cursor behind it, event) of what is new."""
        if self._paused:
            return
        if self._resumed and not self._live:
            self._live.update(step.key for step in self.answer.begun(fold))
        if not self._begun:
            self._begun = True
            again = [event for step in self.answer.begun(fold) for event in self._events(fold, step)]
            for number, event in enumerate([self._start(fold), *again]):
                yield (self.answer.cursor if number == len(again) else ""), event
        for step in self.answer.advance(fold):
            yield from self._told(fold, step)
        if self.modern and self._viewer and not self.answer.ended and (asks := self._turn(fold)):
            yield from self._interrupt(fold, asks)

    def _told(self, fold: Fold, step: Step) -> Iterator[tuple[str, Event]]:
        events = self._events(fold, step)
        for number, event in enumerate(events, 1):
            yield (self.answer.cursor if number == len(events) else ""), event

    def _start(self, fold: Fold) -> Event:
        run = {"threadId": self.session, "runId": self.run}
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
        about = self._about(run, step)
        match step.kind:
            case "run.began":
                return [self._began(run)] if about else []
            case "run.ended":
                return [_ended(run)] if about else []
            case "run.changed":
                return [{"type": "CUSTOM", "name": "agent", "value": _status(run), **about}]
            case "subagent.began" | "subagent.changed" | "subagent.ended" if self.modern:
                return self._subagent(run, step)
            case "subagent.ended":
                return []  # told by its last change
            case "text.began" | "text.opened" | "text.grew" | "text.closed" | "text.ended":
                events = _text(step, aside=step.aside and not self.modern)
            case "tool.began" | "tool.grew" | "tool.given" | "tool.called" | "tool.output" | "tool.ended":
                events = _tool(run, step)
            case "ask":
                events = [{"type": "CUSTOM", "name": "ask", "value": step.part}]
            case _:
                events = _whole(self.session, step)
        return [event | about for event in events]

    def _about(self, run: RunFold, step: Step) -> Event:
        """Say whose event it is; of a part that is gone nothing is known, and what opened it has said it."""
        if not self.modern or step.part.get("gone"):
            return {}
        if step.by:
            return {"subagentRunId": step.by}
        return {} if step.direct else {"subagentRunId": name_of(run.agent, run.run)}

    # -- subagents ------------------------------------------------------------------------------------------------

    def _above(self, name: str) -> Event:
        """Name the subagent that one works for, of a resumed run only if that is part of it."""
        return {"parentSubagentRunId": name} if name and (not self._resumed or name in self._live) else {}

    def _began(self, run: RunFold) -> Event:
        name = name_of(run.agent, run.run)
        self._live.add(name)
        event: Event = {"type": "SUBAGENT_STARTED", "subagentRunId": name, "name": run.agent}
        return event | self._above(self.answer.above(run))

    def _subagent(self, run: RunFold, step: Step) -> list[Event]:
        data, name = step.part.get("data") or {}, {"subagentRunId": step.key}
        if step.kind == "subagent.changed":
            value = {key: item for key, item in data.items() if item is not None}
            return [{"type": "CUSTOM", "name": "subagent", "value": value, **name}]
        if step.kind == "subagent.ended":
            if data.get("status") == "error":
                return [{"type": "SUBAGENT_ERROR", **name, "message": str(data.get("error") or "error")}]
            return [{"type": "SUBAGENT_FINISHED", **name}]
        self._live.add(step.key)
        own = "" if step.direct else name_of(run.agent, run.run)
        event: Event = {"type": "SUBAGENT_STARTED", **name, "name": str(data.get("name") or "sub-agent")}
        event |= self._above(str(data.get("parent") or own))
        told = {"parentToolCallId": data.get("call"), "description": data.get("description")}
        return [event | {key: item for key, item in told.items() if isinstance(item, str)}]

    # -- the person's turn ----------------------------------------------------------------------------------------

    def _turn(self, fold: Fold) -> list[tuple[RunFold, View]]:
        """Return the asks that the answer waits for, if all that is at work waits for a word of who reads it."""
        open_runs = [run for run in self.answer.members(fold) if run.open and not run.cancelled]
        found = [(run, ask) for run in open_runs for ask in self._asks(fold, run)]
        waits = open_runs and all(run.waiting and any(one is run for one, _ in found) for run in open_runs)
        return found if waits and not (self.answer.writing or self.answer.owes(fold)) else []

    def _asks(self, fold: Fold, run: RunFold) -> list[View]:
        names = kin_of(fold).asks.get((run.agent, run.run), ())
        return [ask for name in names if may_answer(ask := fold.asks.found[name], self._viewer)]

    def _interrupt(self, fold: Fold, asks: list[tuple[RunFold, View]]) -> Iterator[tuple[str, Event]]:
        for step in self.answer.pause(fold):
            yield from self._told(fold, step)
        cursor, self._paused = self.answer.cursor, True
        interrupts = [_asked_for(ask, cursor) for _, ask in asks]
        ids = [one["id"] for one in interrupts]
        live = [step for step in self.answer.begun(fold) if step.kind == "subagent.began" or not step.direct]
        for step in reversed(live):
            outcome = {"type": "suspended", "interruptIds": ids}
            yield "", {"type": "SUBAGENT_FINISHED", "subagentRunId": step.key, "outcome": outcome}
        run = {"threadId": self.session, "runId": self.run}
        yield cursor, {"type": "RUN_FINISHED", **run, "outcome": {"type": "interrupt", "interrupts": interrupts}}

    def _end(self, fold: Fold, status: str) -> Event:
        run = {"threadId": self.session, "runId": self.run}
        if status == "done":
            return {"type": "RUN_FINISHED", **run} | ({"outcome": {"type": "success"}} if self.modern else {})
        if status == "cancelled":
            told: Event = {"outcome": {"type": "cancelled"}} if self.modern else {"result": {"cancelled": True}}
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


def _text(step: Step, *, aside: bool) -> list[Event]:
    message, reasons = {"messageId": step.key}, aside or step.part.get("type") == "reasoning"
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
            # One message of each author holds its calls: some clients glue a call without one onto the message before.
            author = step.by or name_of(run.agent, run.run)
            about = {"toolCallName": str(part.get("tool") or "tool"), "parentMessageId": f"{author}.calls"}
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


def may_answer(ask: View, member: str) -> bool:
    """Whether an answer of a member would count, if it is one of the options."""
    refused = refusal(ask, member, None)
    return refused is None or refused.why == "value"


def _asked_for(ask: View, cursor: str) -> Event:
    """Return an ask as an interrupt; its id says also where to go on."""
    about = {name: ask[name] for name in ("ask", "from", "options", "data") if ask[name] is not None}
    found: Event = {"id": f"{ask['ask']}~{cursor}", "reason": ask["about"], "message": ask["text"], "metadata": about}
    if ask["options"] is not None:
        found["responseSchema"] = {"type": "string", "enum": ask["options"]}
    if ask["seconds"] is not None:
        until = datetime.fromisoformat(ask["time"]) + timedelta(seconds=ask["seconds"])
        found["expiresAt"] = until.isoformat()
    return found


def _whole(session: str, step: Step) -> list[Event]:
    part = step.part
    kind = str(part.get("type"))
    value = {name: item for name, item in part.items() if item is not None and name != "type"}
    if kind == "file":
        value["url"] = file_url(session, part)
    return [{"type": "CUSTOM", "name": f"data.{part.get('name')}" if kind == "data" else kind, "value": value}]


def messages(fold: Fold, asked: list[tuple[str, str]], *, modern: bool = False) -> list[Event]:
    """Return a conversation as AG-UI messages: each input, and the texts and tool calls of its complete answer."""
    found: list[Event] = []
    for sender, input in asked:
        found.append(user_message(fold, sender, input))
        stream = EventStream(fold.session, sender, input, modern=modern)
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
    whose = {"subagentRunId": event["subagentRunId"]} if "subagentRunId" in event else {}
    match event["type"]:
        case "TEXT_MESSAGE_START":
            found.append({"id": event["messageId"], "role": "assistant", "content": "", **whose})
        case "TEXT_MESSAGE_CONTENT":
            message = next(one for one in reversed(found) if one["id"] == event["messageId"])
            message["content"] += event["delta"]
        case "TOOL_CALL_START":
            call = {"id": event["toolCallId"], "type": "function"}
            calls = [call | {"function": {"name": event["toolCallName"], "arguments": ""}}]
            found.append({"id": f"{event['toolCallId']}.call", "role": "assistant", "toolCalls": calls, **whose})
        case "TOOL_CALL_ARGS":
            calling = next(one for one in reversed(found) if one["id"] == f"{event['toolCallId']}.call")
            calling["toolCalls"][0]["function"]["arguments"] += event["delta"]
        case "TOOL_CALL_RESULT":
            fields = ("toolCallId", "content", "role")
            found.append({"id": event["messageId"], **{name: event[name] for name in fields}, **whose})
