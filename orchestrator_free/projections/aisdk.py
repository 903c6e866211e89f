"""An answer as the Vercel AI SDK's UI message stream, and a session as its UI messages.

One stream is one assistant message. Concurrent agents are its parts, grouped by `providerMetadata.durable.agent`. It
survives on the part in every version; a part `data-agent` per run says who they are and how they are doing. What a
sub-agent inside a run wrote names in `durable.subagent` the part `data-subagent` that tells of it. The text of one that
works for a tool call is no part of the answer: it comes as reasoning, which every app shows apart, and `durable.kind`
says that it is text. The lowest profile is the default, because the browser does not tell its version and early ones
refuse unknown fields.
Facts about versions: the schemas shipped in npm `ai` 5.0.0 to 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import orjson

from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.projections.answer import Answer, entry_of, shown
from orchestrator_free.projections.kin import kin_of
from orchestrator_free.projections.parts import Step
from orchestrator_free.projections.told import name_of
from orchestrator_free.subjects import run_id

Chunk = dict[str, Any]
Profile = Literal[5, 6, 7]
#: under this name our facts stand in metadata
KEY: Final = "durable"


class MessageStream:
    """One answer as chunks for one client."""

    def __init__(
        self,
        session: str,
        sender: str,
        input: str,
        *,
        profile: Profile = 5,
        cursor: str = "",
        approving: bool = False,
    ) -> None:
        """Begin, or go on behind a cursor.

        Args:
            session: for addresses of files.
            sender: whose input is answered.
            input: which.
            profile: major version of the SDK that the client has.
            cursor: from the `id:` of a frame; the client has everything up to it.
            approving: it goes on after a person has approved something: a new stream of the same message.
        """
        self._approving = approving
        self._texts: dict[str, str] = {}  # part -> its id in this stream
        self.answer = Answer(sender, input, cursor)
        self._session = session
        self._profile = profile
        self._again = bool(cursor)
        self._begun = False
        self._paused = False

    @property
    def ended(self) -> bool:
        """Whether the stream is to end: everything was told, or it is the person's turn to approve."""
        return self.answer.ended or self._paused

    def advance(self, fold: Fold) -> Iterator[tuple[str, Chunk]]:
        """Yield (cursor behind it, chunk) of what is new."""
        if self._paused:
            return
        if not self._begun:
            self._begun = True
            # A client that goes on has its start, but one that answers an approval begins a new stream of the message.
            if not self._again or self._approving:
                yield "0", {"type": "start", "messageId": message_id(self.answer.run)}
        for step in self.answer.advance(fold):
            chunks = self._chunks(fold, step)
            for number, chunk in enumerate(chunks, 1):
                # Behind a step of several chunks only the last has the cursor: the others are repeated, harmlessly.
                yield (self.answer.cursor if number == len(chunks) else ""), chunk
        if self._profile > 5 and not self.answer.ended and self._is_persons_turn(fold):
            self._paused = True
            about = {"run": self.answer.run, "cursor": self.answer.cursor}
            yield self.answer.cursor, {"type": "finish", "messageMetadata": {KEY: about}}

    def _is_persons_turn(self, fold: Fold) -> bool:
        """Whether all that is open waits for approvals: clients say what was decided when the stream has ended."""
        members = [run for run in self.answer.members(fold) if run.open and not run.cancelled]
        asks, found = kin_of(fold).asks, fold.asks.found
        return (
            bool(members)
            and not self.answer.owes(fold)
            and all(
                run.waiting and any(_approves(found[name]) for name in asks.get((run.agent, run.run), ()))
                for run in members
            )
        )

    def _chunks(self, fold: Fold, step: Step) -> list[Chunk]:
        run = step.run
        if run is None:
            return self._end(fold, step.text)
        match step.kind:
            case "run.began" | "run.changed" | "run.ended":
                return [agent_part(run)]
            case "text.began" | "text.grew" | "text.ended":
                return self._text(run, step)
            case "text.opened" | "text.closed" | "tool.given":
                return []
            case "tool.output" if self._profile == 5:
                return []  # 5.0.0 refuses a preliminary output; the last one comes in any case
            case "tool.began" | "tool.grew" | "tool.called" | "tool.output" | "tool.ended":
                # Early versions refuse it at a call's beginning; behind its input it stands in every one.
                whose = {"providerMetadata": _about(run, step)} if self._profile == 7 and step.by else {}
                return [_tool(run, step) | (whose if step.kind == "tool.began" else {})]
            case "subagent.ended" if not step.part.get("gone"):
                return []  # told by its last change
            case "subagent.began" | "subagent.changed" | "subagent.ended":
                return [_subagent(step)]
            case "ask":
                return self._ask(step)
            case _:
                return _whole(self._session, step)

    def _text(self, run: RunFold, step: Step) -> list[Chunk]:
        """Tell a text; what was begun in the stream before the approval goes on as a part of its own."""
        if step.kind == "text.began":
            self._texts[step.key] = step.key
        if self._approving and step.key not in self._texts:
            if step.kind == "text.ended":
                return []
            self._texts[step.key] = f"{step.key}.more"
            begun = step._replace(kind="text.began", key=self._texts[step.key])
            return [_text(run, begun), _text(run, step._replace(key=begun.key))]
        return [_text(run, step._replace(key=self._texts.get(step.key, step.key)))]

    def _ask(self, step: Step) -> list[Chunk]:
        ask = step.part
        chunks: list[Chunk] = [{"type": "data-ask", "id": ask["ask"], "data": ask}]
        if self._profile < 6 or ask["about"] != "approval":
            return chunks
        call = {"toolCallId": ask["ask"]}
        if not step.again:
            what = {"toolName": "approval", "input": {"text": ask["text"], "data": ask["data"]}, "dynamic": True}
            chunks.append({"type": "tool-input-available", **call, **what})
            chunks.append({"type": "tool-approval-request", "approvalId": ask["ask"], **call})
        if ask["status"] == "open":
            return chunks
        if ask["value"] == "approve":
            output = {"approved": True, "by": ask["by"]}
            chunks.append({"type": "tool-output-available", **call, "output": output, "dynamic": True})
        else:
            chunks.append({"type": "tool-output-denied", **call})
        return chunks

    def _end(self, fold: Fold, status: str) -> list[Chunk]:
        members = self.answer.members(fold)
        about = {KEY: {"run": self.answer.run, "outcome": status, "usage": _usage(members)}}
        finish: Chunk = {"type": "finish", "messageMetadata": about}
        if self._profile == 7:
            finish["finishReason"] = {"done": "stop", "cancelled": "interrupted"}.get(status, "error")
        if status == "cancelled":
            return [{"type": "abort"}, finish]
        if status == "done":
            return [finish]
        errors = [run.error or run.status for run in members if run.run == self.answer.run and run.status != "done"]
        return [{"type": "error", "errorText": "; ".join(dict.fromkeys(errors)) or status}, finish]


def message_id(run: str) -> str:
    """Return the id of the assistant message that answers an input, the same in every telling."""
    return f"msg-{run}"


def agent_part(run: RunFold) -> Chunk:
    """Return the part that says who an agent is in an answer and how it is doing."""
    about = {
        "agent": run.agent, "run": run.run, "status": run.shown_status, "attempt": run.attempt, "parent": run.parent,
        "error": run.error, "into": run.into,
    }  # fmt: skip
    now = {"waiting": run.waiting if run.open else None, "stalled": run.stalled if run.open else None}
    return {"type": "data-agent", "id": name_of(run.agent, run.run), "data": about | now}


def _approves(ask: View) -> bool:
    return bool(ask["about"] == "approval" and ask["status"] == "open")


def _about(run: RunFold, step: Step) -> dict[str, Any]:
    about = {"agent": run.agent, "run": run.run} | ({"subagent": step.by} if step.by else {})
    return {KEY: about | ({"kind": "text"} if step.aside else {})}


def _subagent(step: Step) -> Chunk:
    return {"type": "data-subagent", "id": step.key, "data": step.part.get("data") or {"status": "error"}}


def _text(run: RunFold, step: Step) -> Chunk:
    kind = "reasoning" if step.aside else step.part["type"]
    match step.kind:
        case "text.began":
            return {"type": f"{kind}-start", "id": step.key, "providerMetadata": _about(run, step)}
        case "text.grew":
            return {"type": f"{kind}-delta", "id": step.key, "delta": step.text}
    return {"type": f"{kind}-end", "id": step.key}


def _tool(run: RunFold, step: Step) -> Chunk:
    part, call = step.part, {"toolCallId": step.key}
    name = str(part.get("tool") or "tool")
    match step.kind:
        case "tool.began":
            return {"type": "tool-input-start", **call, "toolName": name, "dynamic": True}
        case "tool.grew":
            return {"type": "tool-input-delta", **call, "inputTextDelta": step.text}
        case "tool.called":
            what = {"toolName": name, "input": tool_input(part), "dynamic": True}
            return {"type": "tool-input-available", **call, **what, "providerMetadata": _about(run, step)}
    output = {"type": "tool-output-available", **call, "output": part.get("output"), "dynamic": True}
    if step.kind == "tool.output":
        return output | {"preliminary": True}
    if part.get("status") == "done":
        return output
    return {"type": "tool-output-error", **call, "errorText": tool_error(part), "dynamic": True}


def tool_input(part: View) -> Any:
    """Return a call's input; of a call that came no further than its pieces, what they say."""
    given, text = part.get("input"), part.get("text")
    if given is not None or not text:
        return given
    written = text if isinstance(text, str) else "".join(text)
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:
        return written


def tool_error(part: View) -> str:
    """Return why a call has no output."""
    if part.get("status") == "error":
        return str(part.get("error") or "error")
    return f"the run ended before {part.get('tool') or 'the tool'} did"


def _whole(session: str, step: Step) -> list[Chunk]:
    part = step.part
    title, id = str(part.get("title") or ""), str(part.get("id"))
    match part.get("type"):
        case "source" if part.get("url"):
            found = {"type": "source-url", "sourceId": f"{step.key}.{id}", "url": str(part["url"])}
            return [found | ({"title": title} if title else {})]
        case "source":
            return [{"type": "source-document", "sourceId": step.key, "mediaType": "text/plain", "title": title or id}]
        case "file":
            media = str(part.get("media_type") or "application/octet-stream")
            return [{"type": "file", "url": file_url(session, part), "mediaType": media}]
        case "data":
            return [{"type": f"data-{part.get('name')}", "id": data_id(step.key, part), "data": part.get("data")}]
        case "error":
            return [{"type": "data-notice", "id": step.key, "data": {"message": str(part.get("message"))}}]
    return []


def file_url(session: str, part: dict[str, Any]) -> str:
    """Return where a file can be fetched."""
    url = part.get("url")
    return url if isinstance(url, str) else f"/sessions/{session}/objects/{part.get('object')}"


def data_id(key: str, part: dict[str, Any]) -> str:
    """Return the id of a data part: the same name and id of one run replaces."""
    if part.get("id") is None:
        return key
    agent, run, attempt, _ = key.rsplit(".", 3)
    return f"{agent}.{run}.{attempt}.{part.get('name')}.{part['id']}"


def _usage(runs: list[RunFold]) -> dict[str, float]:
    total: dict[str, float] = {}
    for run in runs:
        for name, value in run.usage.items():
            total[name] = total.get(name, 0) + value
    return total


# -- messages -----------------------------------------------------------------------------------------------------


def ui_messages(fold: Fold, *, profile: Profile = 5) -> list[dict[str, Any]]:
    """Return the conversation of the selected branch as UI messages: each input, its answer, and what people noted.

    An answer in the making is left out: the client that resumes gets it whole by its stream.

    Args:
        fold: the session.
        profile: as of `MessageStream`.
    """
    path = shown(fold)
    notes = [entry for entry in fold.inputs.values() if entry["note"] and not entry["whisper"]]
    found: list[dict[str, Any]] = []
    for sender, input in path:
        found.append(_said(entry_of(fold, sender, input), "user"))
        stream = MessageStream(fold.session, sender, input, profile=profile)
        if stream.answer.members(fold) and stream.answer.complete(fold):
            found.append(_message(run_id(sender, input), [chunk for _, chunk in stream.advance(fold)]))
        here = {"from": sender, "input": input}
        found += [_said(note, "assistant") for note in notes if note["after"] == here]
    return found


def _said(entry: View, role: str) -> dict[str, Any]:
    """Return what somebody said as a message; a person who serves speaks as the assistant does."""
    about = {"from": entry["from"], "to": entry["to"], "time": entry["time"]}
    parts = [{"type": "text", "text": entry["text"]}]
    return {"id": entry["input"], "role": role, "metadata": {KEY: about}, "parts": parts}


def _message(run: str, chunks: list[Chunk]) -> dict[str, Any]:
    """Return the message that a client makes of a whole stream."""
    message: dict[str, Any] = {"id": message_id(run), "role": "assistant", "metadata": {}, "parts": []}
    parts: dict[str, dict[str, Any]] = {}
    for chunk in chunks:
        _build(message, parts, chunk)
    message["parts"] = list(parts.values())
    return message


def _build(message: dict[str, Any], parts: dict[str, dict[str, Any]], chunk: Chunk) -> None:  # noqa: C901 - a table
    kind = chunk["type"]
    match kind.rpartition("-")[::2]:
        case ("text" | "reasoning") as what, "start":
            parts[chunk["id"]] = {
                "type": what,
                "text": "",
                "state": "done",
                "providerMetadata": chunk["providerMetadata"],
            }
        case (("text" | "reasoning"), "delta"):
            parts[chunk["id"]]["text"] += chunk["delta"]
        case _ if kind == "tool-input-available":
            parts[chunk["toolCallId"]] = {
                "type": "dynamic-tool", "toolName": chunk["toolName"], "toolCallId": chunk["toolCallId"],
                "state": "input-available", "input": chunk["input"],
            }  # fmt: skip
            if "providerMetadata" in chunk:  # an approval has none
                parts[chunk["toolCallId"]]["callProviderMetadata"] = chunk["providerMetadata"]
        case _ if kind == "tool-output-available":
            parts[chunk["toolCallId"]] |= {"state": "output-available", "output": chunk["output"]}
        case _ if kind == "tool-approval-request":
            parts[chunk["toolCallId"]] |= {"state": "approval-requested", "approval": {"id": chunk["approvalId"]}}
        case _ if kind == "tool-output-denied":
            parts[chunk["toolCallId"]]["state"] = "output-denied"
        case _ if kind == "tool-output-error":
            parts[chunk["toolCallId"]] |= {"state": "output-error", "errorText": chunk["errorText"]}
        case _ if kind == "finish":
            message["metadata"] = chunk["messageMetadata"]
        case _ if kind.startswith("data-"):
            parts[f"{kind} {chunk['id']}"] = {"type": kind, "id": chunk["id"], "data": chunk["data"]}
        case _ if kind in ("source-url", "source-document", "file"):
            parts[f"{kind} {chunk.get('sourceId', len(parts))}"] = dict(chunk)
