"""DBOS: a durable workflow does an agent's work, and its steps write into the run.

    @dbos.step
    async def measure(shown: Step, text: str) -> int:
        await shown.text(f"It has {len(text)} characters. ")
        return len(text)

    @DBOS.workflow()
    async def review(text: str) -> int:
        return await measure(text)

    @agent
    async def handle(run: Run) -> None:
        await dbos.publish(run, review, run.input.text)

The session keeps what people see, DBOS what was done. What a step wrote is part of what DBOS records of it: when the
process dies, DBOS goes on after the last step that was done, the broker gives the input to the agent again, and the new
attempt of the run begins with what the done steps had written. No step is done twice but the one that was cut off, and
the run has every part once. DBOS has to be launched in the agent's event loop, and to live in the agent's process.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from orchestrator_free.adapters.publishing import described
from orchestrator_free.adapters.sheet import Sheet
from orchestrator_free.adapters.translation import SourceFailed, require
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.events import Body
from orchestrator_free.working.run import Run, ToolCall, safe_message

__all__ = ["Step", "publish", "step"]

EXTRA = "dbos"
P = ParamSpec("P")
R = TypeVar("R")

#: how a recorded step says that it is one of ours
_WROTE: Final = "orchestrator_free.wrote"
#: deltas whose text the record joins
_DELTAS: Final = frozenset({"text.delta", "reasoning.delta", "tool.input.delta"})


class Step:
    """What a step writes into the run with; what it writes is recorded with the step.

    Attributes:
        run: the run, for what is not written: asking people, state, delegation.
        bodies: what was written.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.bodies: list[Body] = []
        self._sheet = Sheet()
        self._sheet.prefix = name

    async def emit(self, body: Mapping[str, Any]) -> None:
        """Write an event of the vocabulary."""
        await self.run.emit(body)
        last = self.bodies[-1] if self.bodies else {}
        joins = body["type"] in _DELTAS and {**last, "text": ""} == {**body, "text": ""}
        if joins:
            last["text"] += body["text"]
        else:
            self.bodies.append(dict(body))

    async def _flush(self) -> None:
        for body in self._sheet.take():
            await self.emit(body)

    async def text(self, text: str) -> None:
        """Append to the answer."""
        self._sheet.write("text", text)
        await self._flush()

    async def reasoning(self, text: str) -> None:
        """Append to the reasoning."""
        self._sheet.write("reasoning", text)
        await self._flush()

    @asynccontextmanager
    async def tool(self, tool: str, input: Any = None) -> AsyncIterator[ToolCall]:
        """Show a tool call; an exception becomes `tool.error` and goes on."""
        use = self._sheet.call(self._sheet.name(), tool, input)
        await self._flush()
        call = ToolCall(self.run, use.call)
        try:
            yield call
        except Exception as error:
            self._sheet.failed(use.source_id, safe_message(error))
            await self._flush()
            raise
        self._sheet.output(use.source_id, call.output)
        await self._flush()

    async def data(self, name: str, data: Any, *, id: str | None = None) -> None:
        """Write structured output."""
        self._sheet.end_all()
        self._sheet.data(name, data, id=id)
        await self._flush()

    async def source(self, url: str, *, title: str | None = None) -> None:
        """Name something the answer rests on."""
        self._sheet.end_all()
        self._sheet.source(url, title)
        await self._flush()

    async def usage(self, **usage: float) -> None:
        """Add to what the run has used."""
        self._sheet.use(**usage)
        await self._flush()

    async def close(self) -> None:
        """Close what is open: the next step begins a part of its own."""
        self._sheet.end_all()
        await self._flush()


class _Present:
    """The runs that are at work in this process, by their workflow; steps wait for theirs."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._changed = asyncio.Event()
        self._steps: dict[str, set[asyncio.Future[Any]]] = {}

    async def work(self, workflow: str, step: Awaitable[R]) -> R:
        """Do a step; when its run is cancelled it is stopped, whatever it waits for."""
        task: asyncio.Future[R] = asyncio.ensure_future(step)
        self._steps.setdefault(workflow, set()).add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise SourceFailed("the run was cancelled") from None  # for DBOS: the workflow's task goes on
            raise
        finally:
            self._steps.get(workflow, set()).discard(task)

    def stop(self, workflow: str) -> None:
        """Stop the steps that a workflow is at."""
        for task in self._steps.pop(workflow, ()):
            task.cancel()

    def enter(self, workflow: str, run: Run) -> None:
        self._runs[workflow] = run
        self._changed.set()

    def leave(self, workflow: str, run: Run) -> None:
        if self._runs.get(workflow) is run:
            del self._runs[workflow]

    async def get(self, workflow: str) -> Run:
        while workflow not in self._runs:
            self._changed.clear()
            await self._changed.wait()
        return self._runs[workflow]


_present = _Present()


def step(function: Callable[Concatenate[Step, P], Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Make an async function a step of DBOS that may write into the run; workflows call it without its first argument.

    Raises:
        MissingExtra: dbos is not installed.
    """
    engine = require("dbos", EXTRA).DBOS

    @engine.step(name=function.__qualname__)  # type: ignore[untyped-decorator]  # dbos is imported when it is needed
    async def recorded(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        run = await _present.get(engine.workflow_id)
        shown = Step(run, f"step{engine.step_id}")
        output = await _present.work(engine.workflow_id, function(shown, *args, **kwargs))
        await shown.close()
        return {"output": output, _WROTE: shown.bodies}

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        found: R = (await recorded(*args, **kwargs))["output"]
        return found

    return call


async def publish(run: Run, workflow: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
    """Do a run by a workflow of DBOS, or go on with the one that an earlier attempt began; return what it returns.

    A cancelled run cancels its workflow.

    Raises:
        SourceFailed: the workflow raised.
        MissingExtra: dbos is not installed.
    """
    package = require("dbos", EXTRA)
    engine, id = package.DBOS, f"{run.session.id}.{run.agent}.{run.id}"
    for done in await engine.list_workflow_steps_async(id):
        for body in _wrote(done):
            await run.emit(body)
    _present.enter(id, run)
    try:
        with package.SetWorkflowID(id):
            handle = await engine.start_workflow_async(workflow, *args, **kwargs)
        result: R = await handle.get_result()
        return result
    except asyncio.CancelledError:
        if run.stopped:  # and not because this process ends: then another one goes on
            await engine.cancel_workflow_async(id)
            _present.stop(id)
        raise
    except OrchestratorFreeError:
        raise
    except Exception as error:
        raise SourceFailed(f"the workflow failed ({described(error)})") from error
    finally:
        _present.leave(id, run)


def _wrote(done: Mapping[str, Any]) -> list[Body]:
    """Return what a recorded step has written."""
    output = done.get("output")
    return output.get(_WROTE, []) if isinstance(output, dict) else []
