"""LangGraph graphs.

    modes = ["messages", "updates", "custom"]
    config = {"configurable": {"thread_id": run.id}}
    stream = graph.astream({"messages": await langgraph.messages(run)}, config, stream_mode=modes, subgraphs=True)
    result = await langgraph.publish(run, stream)

or, with a checkpointer, all of it in one, which goes on from the graph's last checkpoint after a crash:

    result = await langgraph.work(run, graph, {"messages": await langgraph.messages(run)})

`version="v2"` streams are read as well. Subgraphs are sub-agents of the run. `interrupt()` is asked in the session if
`resume` says how to go on: `resume=lambda command: graph.astream(command, config, stream_mode=modes, subgraphs=True)`.
What people say while the graph works is left to `run.steers()`, for its next turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Unpack

from orchestrator_free.adapters.dialogue import dialogue
from orchestrator_free.adapters.langgraph_events import LangGraph
from orchestrator_free.adapters.publishing import Options, Result
from orchestrator_free.adapters.publishing import publish as _publish
from orchestrator_free.adapters.sheet import jsonable
from orchestrator_free.adapters.translation import require
from orchestrator_free.errors import NotAnswered
from orchestrator_free.working.run import Run

__all__ = ["LangGraph", "ask", "messages", "publish", "work"]

EXTRA = "langgraph"
_MODES: Final = ["messages", "updates", "custom", "values"]


async def publish(
    run: Run,
    source: Any,
    *,
    resume: Callable[[Any], Any] | None = None,
    asking: Mapping[str, Any] | None = None,
    answer: Callable[..., Awaitable[Any]] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Write a graph's stream into a run; see `Options`.

    Args:
        run: where to.
        source: what `graph.astream` gave.
        resume: gives the stream that goes on, of a `Command`.
        asking: how people are asked, as of `run.ask`: `to`, `seconds`, …
        answer: asks what an interrupt's value says and returns what the graph is to get; `ask` by default.
        options: see `Options`.

    Raises:
        SourceFailed: the graph failed, or took too long.
        NotAnswered: nobody answered in the time that an ask had.
    """
    translation = LangGraph()
    while True:
        result = await _publish(run, source, translation, **options)
        if not result.pending or resume is None:
            return result
        pending, translation.pending = translation.pending, []
        answers = {one.id: await (answer or ask)(run, one.value, **(asking or {})) for one in pending}
        source = resume(require("langgraph.types", EXTRA).Command(resume=answers))


async def work(
    run: Run,
    graph: Any,
    given: Any,
    *,
    config: Mapping[str, Any] | None = None,
    asking: Mapping[str, Any] | None = None,
    answer: Callable[..., Awaitable[Any]] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Do a run with a graph: its stream into the run, its interrupts asked in the session.

    The graph's thread is the run. Where an earlier attempt, in a process that died, has left a checkpoint that outlives
    the process, the graph goes on from there: no step is done twice but the one that was cut off, an interrupt meets
    the ask that stands in the session, and the messages that the graph's state has are shown again.

    Args:
        run: where to.
        graph: a compiled one; interrupts need a checkpointer.
        given: what the graph begins with.
        config: for the graph; `thread_id` is set here.
        asking: how people are asked, as of `publish`.
        answer: asks what an interrupt's value says, as of `publish`.
        options: see `Options`.

    Returns:
        The result; its `output` is the graph's final state.

    Raises:
        SourceFailed, NotAnswered: as `publish`.
    """
    thread = {**(config or {}).get("configurable", {}), "thread_id": run.id}
    config = {**(config or {}), "configurable": thread}

    def stream(given: Any) -> Any:
        return graph.astream(given, config, stream_mode=_MODES, subgraphs=True)

    state = await graph.aget_state(config) if graph.checkpointer else None
    known = state is not None and state.created_at is not None
    source = _from_checkpoint(state, given, stream) if known else stream(given)
    return await publish(run, source, resume=stream, asking=asking, answer=answer, **options)


async def _from_checkpoint(state: Any, given: Any, stream: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """Yield what a checkpoint has of this run, then what comes after it; nothing more where people are waited for."""
    values = state.values if isinstance(state.values, dict) else {}
    before = len(given["messages"]) if isinstance(given, Mapping) and "messages" in given else 0
    yield "updates", {"checkpoint": {"messages": list(values.get("messages") or ())[before:]}}
    yield "values", state.values
    if state.interrupts:
        yield "updates", {"__interrupt__": state.interrupts}
    elif state.next:
        async for event in stream(None):
            yield event


async def ask(run: Run, value: Any, **asking: Any) -> Any:
    """Ask what a graph was interrupted for.

    A text is a question that takes any answer. An object is an approval, with its `question` and `options` if it has
    them; of nobody's answer in time comes `deny` where that is an option.

    Raises:
        NotAnswered: nobody answered, and there is no `deny`.
    """
    if isinstance(value, str):
        text, options = value, None
        decision = await run.ask(text, **asking)
    else:
        about = value if isinstance(value, dict) else {}
        text, options = str(about.get("question") or "Go on?"), about.get("options")
        if options is None:
            options = ["approve", "deny"]
            decision = await run.approve(text, data=jsonable(value), **asking)
        else:
            decision = await run.ask(text, data=jsonable(value), options=options, **asking)
    if decision.status == "decided":
        return decision.value
    if options and "deny" in options:
        return "deny"
    raise NotAnswered(f"{text}: {decision.status}")


async def messages(run: Run) -> list[Any]:
    """Return the conversation, this run's input last, as messages of langchain-core.

    Raises:
        MissingExtra: langgraph is not installed.
    """
    words = require("langchain_core.messages", EXTRA)
    found: list[Any] = []
    for said in await dialogue(run):
        if said.role == "user":
            found.append(words.HumanMessage(said.text))
            continue
        calls = [
            {
                "name": one.tool,
                "args": one.input if isinstance(one.input, dict) else {"input": one.input},
                "id": one.call,
            }
            for one in said.calls
        ]
        found.append(words.AIMessage(said.text, tool_calls=calls))
        found += [
            words.ToolMessage(
                one.told, tool_call_id=one.call, name=one.tool, status="success" if one.error is None else "error"
            )
            for one in said.calls
        ]
    return found
