"""Claude Agent SDK: the real package with a program in the place of its CLI (`ClaudeAgentOptions.cli_path`).

The program speaks the CLI's stream-json as `claude_agent_sdk._internal` 0.2.189 reads and writes it: control requests
(`initialize`, `interrupt`, `can_use_tool`), and the messages of `message_parser`. A turn is a list of lines to say; what
is no line is `"hang"`, or `{"permit": tool, "input": …, "allowed": lines, "denied": lines}`.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, query

from orchestrator_free.adapters import claude as adapter
from tests.adapters.conftest import parts, texts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_free import Run

CLI = """#!{python}
import json, os, sys
from pathlib import Path

if "-v" in sys.argv or "--version" in sys.argv:
    sys.exit(print("99.0.0 (Claude Code)"))
folder = Path(__file__).parent
turns = json.loads((folder / "turns.json").read_text())
log = (folder / "log.jsonl").open("a")
pending, hanging, waiting = [], False, {{}}

def say(line):
    print(json.dumps(line), flush=True)

def play():
    global hanging
    while pending and not hanging and not waiting:
        line = pending.pop(0)
        if line == "hang":
            hanging = True
        elif "permit" in line:
            waiting["p1"] = line
            say({{"type": "control_request", "request_id": "p1", "request": {{"subtype": "can_use_tool",
                 "tool_name": line["permit"], "input": line["input"], "tool_use_id": "toolu_1"}}}})
        else:
            say(line)

for text in sys.stdin:
    got = json.loads(text)
    print(text.strip(), file=log, flush=True)
    if got["type"] == "control_request":
        say({{"type": "control_response", "response": {{"subtype": "success", "request_id": got["request_id"], "response": {{}}}}}})
        if got["request"]["subtype"] == "interrupt":
            hanging = False
            pending[:] = [{{"type": "result", "subtype": "error_during_execution", "duration_ms": 1, "duration_api_ms": 1,
                           "is_error": True, "num_turns": 1, "session_id": "s"}}]
    elif got["type"] == "control_response":
        line = waiting.pop(got["response"]["request_id"])
        allowed = got["response"]["response"]["behavior"] == "allow"
        pending[:0] = line["allowed" if allowed else "denied"]
    elif got["type"] == "user":
        pending += turns.pop(0)
    play()
print('"end"', file=log, flush=True)
"""
TASK = {"parent_tool_use_id": "toolu_task"}


def stream(event: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "stream_event", "uuid": "u", "session_id": "s", "event": event, "parent_tool_use_id": None, **more}


def streamed(id: str, *blocks: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """A message in pieces, then whole, as the CLI says it with partial messages."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": id, "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    lines = [stream({"type": "message_start", "message": message}, **more)]
    for index, block in enumerate(blocks):
        kind = block["type"]
        name, piece = {
            "text": ("text", "text_delta"),
            "thinking": ("thinking", "thinking_delta"),
            "tool_use": ("partial_json", "input_json_delta"),
        }[kind]
        whole = json.dumps(block["input"]) if kind == "tool_use" else block[name]
        empty = {**block, "input": {}} if kind == "tool_use" else {**block, name: ""}
        lines.append(stream({"type": "content_block_start", "index": index, "content_block": empty}, **more))
        lines += [
            stream({"type": "content_block_delta", "index": index, "delta": {"type": piece, name: part}}, **more)
            for part in (whole[:6], whole[6:])
        ]
        lines.append(stream({"type": "content_block_stop", "index": index}, **more))
        lines.append({"type": "assistant", "message": {**message, "content": [block]}, **more})
    return [*lines, stream({"type": "message_stop"}, **more)]


def gave(call: str, content: Any, **more: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": call, "content": content}
    return {"type": "user", "message": {"role": "user", "content": [block | more.pop("block", {})]}, **more}


def result(**more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 60}
    return {
        "type": "result", "subtype": "success", "duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 1,
        "session_id": "s", "total_cost_usd": 0.25, "usage": usage, "result": "Sunny.", "stop_reason": "end_turn", **more,
    }  # fmt: skip


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool(call: str, name: str, input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": name, "input": input}


INIT = {"type": "system", "subtype": "init", "session_id": "s", "tools": []}
THOUGHT = {"type": "thinking", "thinking": "Hm, yes, I see.", "signature": "sig"}
WHOLE = [
    INIT,
    *streamed("m1", THOUGHT, text("Let me look."), tool("toolu_1", "Read", {"path": "a.md"}), tool("toolu_2", "Read", {"path": "b.md"})),
    gave("toolu_1", [{"type": "text", "text": "contents"}]), gave("toolu_2", "no such file", block={"is_error": True}),
    *streamed("m2", tool("toolu_task", "Task", {"subagent_type": "thinker", "description": "Think", "prompt": "x"})),
    {"type": "system", "subtype": "task_started", "task_id": "t1", "description": "Think", "uuid": "u", "session_id": "s", "tool_use_id": "toolu_task"},
    *streamed("m3", text("deep thought"), tool("toolu_3", "Grep", {"pattern": "x"}), **TASK), gave("toolu_3", "3 lines", **TASK),
    gave("toolu_task", "done thinking"),
    *streamed("m4", text("Sunny.")), result(),
]  # fmt: skip


class Cli:
    """A CLI that plays turns."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "claude"
        self.path.write_text(CLI.format(python=sys.executable))
        self.path.chmod(0o755)
        self._turns, self._log = folder / "turns.json", folder / "log.jsonl"

    def options(self, *turns: list[Any], **more: Any) -> ClaudeAgentOptions:
        self._turns.write_text(json.dumps(turns))
        return ClaudeAgentOptions(cli_path=self.path, include_partial_messages=True, cwd=self.path.parent, **more)

    @property
    def got(self) -> list[Any]:
        """What the CLI was told; its last line is `end` when it has ended by itself."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    @property
    def prompts(self) -> list[str]:
        return [one["message"]["content"] for one in self.got if one != "end" and one["type"] == "user"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A program in the place of Claude's CLI."""
    return Cli(tmp_path)


def handler(options: Callable[[Run], ClaudeAgentOptions], results: list[Any] | None = None) -> Any:
    async def handle(run: Run) -> None:
        async with ClaudeSDKClient(options(run)) as client:
            await client.query(await adapter.prompt(run))
            found = await adapter.publish(run, client)
        if results is not None:
            results.append(found)

    return handle


@pytest.mark.parametrize("partial", [True, False])
async def test_text_reasoning_tools_sub_agents_and_usage(working: Any, cli: Cli, partial: bool) -> None:
    """With partial messages and without: everything once, in order, the sub-agent's parts under its name."""
    options = cli.options([line for line in WHOLE if partial or line["type"] != "stream_event"])
    results: list[Any] = []
    async with working(handler(lambda _: options, results)) as work:
        run = await work.ask("Weather?")

    assert (run["status"], run["error"]) == ("done", None)
    assert texts(run, "reasoning") == ["Hm, yes, I see."]
    (about,) = parts(run, "data")
    assert (about["name"], about["id"]) == ("subagent", "toolu_task")
    assert about["data"] == {"name": "thinker", "status": "done", "parent": None, "call": "toolu_task", "how": "task"}
    assert [(part["text"], part.get("by")) for part in parts(run, "text")] == [
        ("Let me look.", None), ("deep thought", "toolu_task"), ("Sunny.", None)
    ]  # fmt: skip
    shown = [(one["tool"], one["status"], one["output"] or one["error"], one.get("by")) for one in parts(run, "tool")]
    assert shown == [
        ("Read", "done", "contents", None), ("Read", "error", "no such file", None), ("Task", "done", "done thinking", None),
        ("Grep", "done", "3 lines", "toolu_task"),
    ]  # fmt: skip
    assert run["usage"] == {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 60, "dollars": 0.25}
    assert (results[0].text, results[0].output, results[0].skipped) == ("Let me look.Sunny.", "Sunny.", {})


async def test_history_is_in_the_prompt(working: Any, cli: Cli) -> None:
    """The CLI takes no answers for its own: the conversation, its tool calls too, stands in what is asked."""
    options = cli.options(WHOLE)
    async with working(handler(lambda _: options)) as work:
        await work.ask("Weather?")
        await work.ask("Thanks")

    assert cli.prompts[0] == "Weather?"
    assert 'assistant used Read {"path": "a.md"}: contents' in cli.prompts[1]
    assert "assistant: Sunny." in cli.prompts[1]
    assert "deep thought" not in cli.prompts[1]
    assert cli.prompts[1].endswith("Now answer this:\nThanks")


async def test_a_cancel_interrupts_claude(working: Any, cli: Cli, shown: Any, eventually: Any) -> None:
    """The CLI is told to stop, and its process ends; what was shown stays."""
    options = cli.options([*streamed("m1", text("Let me look."))[:3], "hang"])
    async with working(handler(lambda _: options)) as work:
        sent = await work.begin()
        await shown(work, "Let me")
        await work.session.control.cancel(sent.run)
        run = await work.end()
        await eventually(lambda: cli.got[-1] == "end", 60)

    assert (run["status"], texts(run)) == ("cancelled", ["Let me"])
    assert [one["request"]["subtype"] for one in cli.got if one != "end" and one["type"] == "control_request"][
        -1
    ] == "interrupt"


async def test_a_steer_interrupts_and_is_the_next_turn(working: Any, cli: Cli, shown: Any) -> None:
    """Claude hears it while it works: the turn under way ends, the next one has what was said."""
    options = cli.options(
        [*streamed("m1", text("Let me look."))[:3], "hang"], [*streamed("m2", text("Short.")), result(result="Short.")]
    )

    async def handle(run: Run) -> None:
        async with ClaudeSDKClient(options) as client:
            await client.query("Go")
            await adapter.publish(run, client)

    async with working(handle) as work:
        sent = await work.begin()
        await shown(work, "Let me")
        control = await work.session.control.steer("Shorter!", run=sent.run, to=work.agent)
        run = await work.session.result(work.agent, sent.run, timeout=60)
        outcome = await control.outcome(timeout=60)

    assert (run["error"], outcome.state, cli.prompts) == (None, "applied", ["Go", "Shorter!"])
    assert texts(run) == ["Let me", "Short."]


@pytest.mark.parametrize("answer", ["approve", "deny"])
async def test_a_permission_is_asked_in_the_session(working: Any, cli: Cli, asked: Any, answer: str) -> None:
    """The SDK's own callback: allowed the tool runs, denied Claude is told why."""
    call = tool("toolu_1", "Bash", {"command": "rm x"})
    ask = {
        "permit": "Bash",
        "input": call["input"],
        "allowed": [gave("toolu_1", "gone")],
        "denied": [gave("toolu_1", "denied", block={"is_error": True})],
    }
    turn = [*streamed("m1", call), ask, *streamed("m2", text("Sunny.")), result()]
    async with working(handler(lambda run: cli.options(turn, can_use_tool=adapter.permissions(run)))) as work:
        sent = await work.begin()
        found = await asked(work)
        await work.session.asks.answer(found["ask"], answer, comment="no")
        run = await work.session.result(work.agent, sent.run, timeout=60)

    assert found["data"] == {"tool": "Bash", "input": {"command": "rm x"}}
    assert parts(run, "tool")[0]["status"] == ("done" if answer == "approve" else "error")
    (told,) = [one["response"]["response"] for one in cli.got if one != "end" and one["type"] == "control_response"]
    assert (told["behavior"], told.get("message")) == (
        ("allow", None) if answer == "approve" else ("deny", "not approved: no")
    )


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        ([*streamed("m1", text("Let me look."))[:3], result(subtype="error_max_turns", is_error=True, result=None)], "ended with an error (error_max_turns)"),
        ([*streamed("m1", text("Let me look."))[:3], {"type": "assistant", "message": {}}], "failed after "),
    ],
)  # fmt: skip
async def test_a_claude_that_fails_ends_the_run(working: Any, cli: Cli, turn: Any, error: str) -> None:
    """As `error`, with what came before; with `query`, which is a stream of its own."""

    async def handle(run: Run) -> None:
        await adapter.publish(run, query(prompt="Go", options=cli.options(turn)))

    async with working(handle) as work:
        run = await work.ask()

    assert (run["status"], texts(run)) == ("error", ["Let me"])
    assert run["error"].startswith(f"claude-agent-sdk {error}")
