"""What a LangGraph graph streams, in the modes messages, updates, custom and values, of either version. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from orchestrator_free.adapters.sheet import Kind
from orchestrator_free.adapters.translation import Malformed, Translation

Namespace = tuple[str, ...]

#: blocks of a message's content that are shown, with the field that holds their text
_BLOCKS: Final[dict[str, tuple[Kind, str]]] = {"text": ("text", "text"), "reasoning": ("reasoning", "reasoning")}


class LangGraph(Translation):
    """The stream of one graph, with its subgraphs."""

    framework = "langgraph"

    def __init__(self) -> None:
        super().__init__()
        self._pieces: dict[tuple[str, Any], str] = {}
        self._streams_messages = False
        self._modes: dict[str, Callable[[Namespace, Any], None]] = {
            "messages": self._message,
            "updates": self._updates,
            "custom": lambda _, payload: self.sheet.data("custom", payload),
            "values": self._values,
        }

    def take(self, event: Any) -> None:
        """Translate a part of the stream."""
        namespace, mode, payload = _parted(event)
        if mode not in self._modes:
            self.sheet.skip(str(mode))
            return
        self._modes[mode](namespace, payload)

    def _by(self, namespace: Namespace) -> str | None:
        """Return the sub-agent of a namespace; each level is told of when it is first seen."""
        parent = None
        for depth, level in enumerate(namespace, 1):
            id = "/".join(namespace[:depth])
            if id not in self.sheet.subagents:
                self.sheet.subagent(id, level.partition(":")[0], parent=parent, how="subgraph")
            parent = id
        return parent

    # -- messages -------------------------------------------------------------------------------------------------

    def _message(self, namespace: Namespace, payload: Any) -> None:
        message, _ = payload
        self._streams_messages = True
        if message.type == "tool":
            self._tool(message)
        elif message.type in ("ai", "AIMessageChunk"):
            self._piece(message, self._by(namespace))

    def _piece(self, message: Any, by: str | None) -> None:
        """A piece of an answer, or a whole one where the model does not stream."""
        id = message.id or ""
        for kind, text in _texts(message):
            self.sheet.write(kind, text, key=id, by=by)
        for chunk in getattr(message, "tool_call_chunks", None) or ():
            self._call_piece(id, chunk, by)
        if message.type == "ai":
            self._calls(message, by)
        used = message.usage_metadata or {}
        self.sheet.use(
            input_tokens=used.get("input_tokens"), output_tokens=used.get("output_tokens"),
            cached_input_tokens=(used.get("input_token_details") or {}).get("cache_read"),
            reasoning_tokens=(used.get("output_token_details") or {}).get("reasoning"),
        )  # fmt: skip
        self.stop = (message.response_metadata or {}).get("finish_reason") or self.stop

    def _call_piece(self, message: str, chunk: Mapping[str, Any], by: str | None) -> None:
        place = (message, chunk.get("index"))
        if chunk.get("id"):
            self._pieces[place] = str(chunk["id"])
        if place in self._pieces:
            self.sheet.call_delta(self._pieces[place], chunk.get("name") or "", chunk.get("args"), by=by)
        else:
            self.sheet.skip("piece of an unknown tool call")

    def _calls(self, message: Any, by: str | None) -> None:
        for call in message.tool_calls:
            use = self.sheet.calls.get(call["id"] or "")
            if use is None or use.input is None:
                self.sheet.call(call["id"] or self.sheet.name(), call["name"], call["args"], by=by)

    def _tool(self, message: Any) -> None:
        use = self.sheet.calls.get(message.tool_call_id)
        if use is not None and use.status != "running":
            return  # said before, in another mode
        if message.status == "error":
            self.sheet.failed(message.tool_call_id, message.content)
        else:
            self.sheet.output(message.tool_call_id, message.content)

    # -- updates and values ---------------------------------------------------------------------------------------

    def _updates(self, namespace: Namespace, payload: Any) -> None:
        by = self._by(namespace)
        for node, update in payload.items():
            if node == "__interrupt__":
                known = {one.id for one in self.pending}
                self.pending += [one for one in update if one.id not in known]
                continue
            for message in _messages(update):
                self._settled(message, by)
            self._ended(namespace, node)

    def _settled(self, message: Any, by: str | None) -> None:
        """A message that a node has put into the state."""
        kind = getattr(message, "type", None)
        if kind == "tool":
            self._tool(message)
        elif kind == "ai":
            if not self._streams_messages:
                self._piece(message, by)
            for ours in ("text", "reasoning"):
                self.sheet.end("text" if ours == "text" else "reasoning", message.id or "", by)
            self._calls(message, by)

    def _ended(self, namespace: Namespace, node: str) -> None:
        """A node has ended, and the subgraphs in it."""
        for id, about in self.sheet.subagents.items():
            above, _, level = id.rpartition("/")
            if above == "/".join(namespace) and level.partition(":")[0] == node and about["status"] == "running":
                self.sheet.subagent_status(id, "done")
                return

    def _values(self, namespace: Namespace, payload: Any) -> None:
        if not namespace:
            self.output = payload


def _parted(event: Any) -> tuple[Namespace, str, Any]:
    """Return namespace, mode and payload, however the stream was asked for.

    Raises:
        Malformed: it is a part of no stream in more than one mode.
    """
    match event:
        case {"type": str(mode), "ns": tuple(namespace), "data": data}:
            return namespace, mode, data
        case (tuple(namespace), str(mode), data):
            return namespace, mode, data
        case (str(mode), data):
            return (), mode, data
    raise Malformed(f"{type(event).__name__}: pass stream_mode=['messages', 'updates', 'custom']")


def _texts(message: Any) -> Iterator[tuple[Kind, str]]:
    if isinstance(message.content, str):
        yield "text", message.content
        return
    for block in message.content_blocks:
        if block["type"] in _BLOCKS:
            kind, name = _BLOCKS[block["type"]]
            yield kind, block.get(name) or ""


def _messages(update: Any) -> list[Any]:
    """Return the messages that an update of a state holds."""
    found = update.get("messages") if isinstance(update, dict) else None
    return list(found) if isinstance(found, list) else [found] if hasattr(found, "type") else []
