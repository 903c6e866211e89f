"""OpenAI: Responses and Chat Completions, and every server that speaks the latter.

    stream = client.chat.completions.create(model=…, messages=await openai.messages(run), stream=True)
    result = await openai.publish(run, stream)

A source is what `create(stream=True)` of either gives (awaited or not), or `client.responses.stream(…)`. The models'
own tool calls are left in `result.calls`: `openai.answers(await call_tools(run, result.calls, TOOLS))` is what the next
request adds after `result.messages`. Steers are for the next request: OpenAI takes nothing while it answers.
Needs the extra `openai` for nothing here: only the caller's client does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from orchestrator_free.adapters.dialogue import dialogue, told
from orchestrator_free.adapters.openai_chat import ChatCompletions
from orchestrator_free.adapters.openai_responses import Responses
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.tools import Answered
from orchestrator_free.adapters.translation import Malformed, Translation, plain
from orchestrator_free.working.run import Run

__all__ = ["OpenAI", "answers", "items", "messages", "output_items", "publish"]


class OpenAI(Translation):
    """Either API's stream: its first event says which it is."""

    framework = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._of: Translation | None = None

    def take(self, event: Any) -> None:
        """Translate an event."""
        body = plain(event)
        if self._of is None:
            self._of = self._kind(body)
            self._of.sheet = self.sheet
        self._of.take(body)
        self._copy(self._of)

    def _kind(self, body: Mapping[str, Any]) -> Translation:
        if "choices" in body:
            return ChatCompletions()
        if isinstance(body.get("type"), str):
            return Responses()
        raise Malformed("neither a chat completion chunk nor an event of a response")

    def _copy(self, of: Translation) -> None:
        self.stop, self.messages, self.pending = of.stop, of.messages, of.pending

    def end(self) -> None:
        """The stream has ended."""
        if self._of is None:
            raise self.fail("sent nothing")
        self._of.end()
        self._copy(self._of)


async def publish(run: Run, source: Any, **options: Unpack[Options]) -> Result:
    """Write a stream of either API into a run; see `Options`.

    Raises:
        SourceFailed: the stream broke off or failed, or took too long.
    """
    return await _publish(run, source, OpenAI(), **options)


async def messages(run: Run) -> list[dict[str, Any]]:
    """Return the conversation, this run's input last, as `messages` of a chat completion."""
    found: list[dict[str, Any]] = []
    for said in await dialogue(run):
        calls = [
            {"id": one.call, "type": "function", "function": {"name": one.tool, "arguments": one.arguments}}
            for one in said.calls
        ]
        found.append({"role": said.role, "content": said.text or None} | ({"tool_calls": calls} if calls else {}))
        found += [{"role": "tool", "tool_call_id": one.call, "content": one.told} for one in said.calls]
    return found


async def items(run: Run) -> list[dict[str, Any]]:
    """Return the conversation, this run's input last, as `input` of a response."""
    found: list[dict[str, Any]] = []
    for said in await dialogue(run):
        if said.text or not said.calls:
            found.append({"role": said.role, "content": said.text})
        for one in said.calls:
            found.append({"type": "function_call", "call_id": one.call, "name": one.tool, "arguments": one.arguments})
            found.append({"type": "function_call_output", "call_id": one.call, "output": one.told})
    return found


def answers(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return what tools gave as messages of a chat completion."""
    return [
        {"role": "tool", "tool_call_id": one.use.source_id, "content": told(one.output, one.error)} for one in answered
    ]


def output_items(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return what tools gave as input items of a response."""
    return [
        {"type": "function_call_output", "call_id": one.use.source_id, "output": told(one.output, one.error)}
        for one in answered
    ]
