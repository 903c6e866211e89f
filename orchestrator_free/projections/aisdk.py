"""An answer as the Vercel AI SDK's UI message stream, and a session as its UI messages.

One stream is one assistant message. Concurrent agents are its parts, grouped by `providerMetadata.durable.agent`. It
survives on the part in every version; a part `data-agent` per run says who they are and how they are doing. The lowest
profile is the default, because the browser does not tell its version and early ones refuse unknown fields.
Facts about versions: the schemas shipped in npm `ai` 5.0.0 to 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

from orchestrator_free.fold import Fold, RunFold, View
from orchestrator_free.projections.answer import Answer, Step, shown
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
        asks = [ask for ask in fold.asks.found.values() if ask["about"] == "approval" and ask["status"] == "open"]
        approving = {(ask["run"]["agent"], ask["run"]["run"]) for ask in asks if ask["run"]}
        return bool(members) and all((run.agent, run.run) in approving and run.waiting for run in members)

    def _chunks(self, fold: Fold, step: Step) -> list[Chunk]:
        run = step.run
        if run is None:
            return self._end(fold, step.text)
        match step.kind:
            case "run.began" | "run.changed" | "run.ended":
                return [agent_part(run)]
            case "text.began" | "text.grew" | "text.ended":
                return self._text(run, step)
            case "tool.began" | "tool.grew" | "tool.called" | "tool.output" | "tool.ended":
                return [_tool(run, step)]
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
        if ask["status"] == "open":
            if not ask["answers"]:
                what = {"toolName": "approval", "input": {"text": ask["text"], "data": ask["data"]}, "dynamic": True}
                chunks.append({"type": "tool-input-available", **call, **what})
                chunks.append({"type": "tool-approval-request", "approvalId": ask["ask"], **call})
        elif ask["value"] == "approve":
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
    return {"type": "data-agent", "id": _agent_id(run), "data": _agent_data(run.view())}


def _agent_id(run: RunFold) -> str:
    return f"{run.agent}.{run.run[:8]}"


def _agent_data(run: View) -> View:
    fields = ("agent", "run", "status", "attempt", "parent", "error", "waiting", "stalled")
    return {name: run[name] for name in fields}


def _about(run: RunFold) -> dict[str, Any]:
    return {KEY: {"agent": run.agent, "run": run.run}}


def _text(run: RunFold, step: Step) -> Chunk:
    kind = step.part["type"]
    match step.kind:
        case "text.began":
            return {"type": f"{kind}-start", "id": step.key, "providerMetadata": _about(run)}
        case "text.grew":
            return {"type": f"{kind}-delta", "id": step.key, "delta": step.text}
    return {"type": f"{kind}-end", "id": step.key}


def _tool(run: RunFold, step: Step) -> Chunk:
    part, call = step.part, {"toolCallId": step.key}
    match step.kind:
        case "tool.began":
            return {"type": "tool-input-start", **call, "toolName": part["tool"], "dynamic": True}
        case "tool.grew":
            return {"type": "tool-input-delta", **call, "inputTextDelta": step.text}
        case "tool.called":
            what = {"toolName": part["tool"], "input": part["input"], "dynamic": True}
            return {"type": "tool-input-available", **call, **what, "providerMetadata": _about(run)}
        case "tool.output":
            return {
                "type": "tool-output-available",
                **call,
                "output": part["output"],
                "preliminary": True,
                "dynamic": True,
            }
    if part["status"] == "done":
        return {"type": "tool-output-available", **call, "output": part["output"], "dynamic": True}
    error = part["error"] if part["status"] == "error" else f"the run ended before {part['tool'] or 'the tool'} did"
    return {"type": "tool-output-error", **call, "errorText": error, "dynamic": True}


def _whole(session: str, step: Step) -> list[Chunk]:
    part = step.part
    match part.get("type"):
        case "source" if part.get("url"):
            found = {"type": "source-url", "sourceId": f"{step.key}.{part['id']}", "url": part["url"]}
            return [found | ({"title": part["title"]} if part.get("title") else {})]
        case "source":
            title = part.get("title") or str(part.get("id"))
            return [{"type": "source-document", "sourceId": step.key, "mediaType": "text/plain", "title": title}]
        case "file":
            return [{"type": "file", "url": file_url(session, part), "mediaType": part["media_type"]}]
        case "data":
            return [{"type": f"data-{part['name']}", "id": data_id(step.key, part), "data": part.get("data")}]
        case "error":
            return [{"type": "data-notice", "id": step.key, "data": {"message": part["message"]}}]
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
    return f"{agent}.{run}.{attempt}.{part['name']}.{part['id']}"


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
        entry = next(one for one in fold.inputs.values() if (one["from"], one["input"]) == (sender, input))
        found.append(_said(entry, "user"))
        stream = MessageStream(fold.session, sender, input, profile=5)
        if stream.answer.complete(fold):
            stream = MessageStream(fold.session, sender, input, profile=profile)
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


def _build(message: dict[str, Any], parts: dict[str, dict[str, Any]], chunk: Chunk) -> None:
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
        case _ if kind == "tool-output-available":
            parts[chunk["toolCallId"]] |= {"state": "output-available", "output": chunk["output"]}
        case _ if kind == "tool-output-error":
            parts[chunk["toolCallId"]] |= {"state": "output-error", "errorText": chunk["errorText"]}
        case _ if kind == "finish":
            message["metadata"] = chunk["messageMetadata"]
        case _ if kind.startswith("data-"):
            parts[f"{kind} {chunk['id']}"] = {"type": kind, "id": chunk["id"], "data": chunk["data"]}
        case _ if kind in ("source-url", "source-document", "file"):
            parts[f"{kind} {chunk.get('sourceId', len(parts))}"] = dict(chunk)
