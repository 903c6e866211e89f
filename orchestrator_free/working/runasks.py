"""What a run asks of people and clients: it waits, and goes on in whichever replica is alive when it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator_free.errors import Conflict, InvalidInput, NotAnswered, OrchestratorFreeError, ToolFailed
from orchestrator_free.events import Body, encode
from orchestrator_free.session import Session
from orchestrator_free.session.asks import Decision

APPROVE: Final = "approve"
DENY: Final = "deny"
_REASONS: Final = {"approval": "approval", "tool": "tool"}

Emit = Callable[[Body], Awaitable[None]]


class RunAsks:
    """The asks of one attempt of a run; a later attempt that asks the same meets the same asks."""

    def __init__(self, session: Session, agent: str, run: str, emit: Emit) -> None:
        self._session = session
        self._agent = agent
        self._run = run
        self._emit = emit
        self._before: Counter[str] = Counter()
        self._later: asyncio.Task[None] | None = None

    async def ask(self, text: str, *, id: str | None = None, **options: Any) -> Decision:
        """Ask, and wait for the decision; see `session.asks.ask` for the options."""
        return await self._decision(id or self._derived({"text": text, **options}), text, options)

    async def approve(self, text: str, **options: Any) -> Decision:
        """Ask for approval."""
        return await self.ask(text, about="approval", options=[APPROVE, DENY], veto=DENY, **options)

    async def tool(self, tool: str, input: Any, *, id: str | None = None, **options: Any) -> Any:
        """Have a client run a tool; the call is named like the ask."""
        call = id or self._derived({"tool": tool, "input": input, **options})
        await self._emit({"type": "tool.input", "call": call, "tool": tool, "input": input})
        asked = {"about": "tool", "data": {"tool": tool, "input": input}}
        decision = await self._decision(call, f"Run {tool}", asked | options)
        if decision.status != "decided":
            await self._failed(call, f"{tool}: nobody ran it ({decision.status})", NotAnswered)
        output = decision.value
        if isinstance(output, dict) and output.keys() == {"error"}:
            await self._failed(call, f"{tool}: {output['error']}", ToolFailed)
        await self._emit({"type": "tool.output", "call": call, "output": output})
        return output

    async def _failed(self, call: str, error: str, kind: type[NotAnswered | ToolFailed]) -> None:
        await self._emit({"type": "tool.error", "call": call, "error": error})
        raise kind(error)

    async def _decision(self, id: str, text: str, options: dict[str, Any]) -> Decision:
        try:
            asked = await self._session.asks.ask(text, id=id, run={"agent": self._agent, "run": self._run}, **options)
        except Conflict as conflict:
            raise InvalidInput(str(conflict)) from conflict  # it would be so in every attempt
        if asked.view["status"] != "open":
            return Decision.of(asked.view)
        reason = _REASONS.get(asked.view["about"], "answer")
        async with self.waiting(reason, until=asked.until, ask=id):
            return await asked.decision()

    @asynccontextmanager
    async def waiting(
        self, reason: str, *, until: datetime | str | None = None, ask: str | None = None
    ) -> AsyncIterator[None]:
        """Show that the run waits for something that is not its own work, as long as the block lasts."""
        when = until.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(until, datetime) else until
        about = {"reason": reason, "ask": ask, "until": when}
        await self._emit({"type": "run.waiting", **{name: value for name, value in about.items() if value is not None}})
        try:
            yield
        except asyncio.CancelledError:
            # The handler stopped waiting, or it is stopped itself, and then nothing may hold it up.
            self._later = asyncio.create_task(self._go_on())
            raise
        except Exception:
            await self._go_on()
            raise
        await self._emit({"type": "run.working"})

    async def _go_on(self) -> None:
        with contextlib.suppress(OrchestratorFreeError):  # the run has ended, or is another attempt's now
            await self._emit({"type": "run.working"})

    def _derived(self, what: Body) -> str:
        """Return the id of an ask: the same for the same question in a later attempt, a new one for another.

        What a model asks in a second attempt may differ; an approval of one thing must not be taken for another's.
        """
        content = hashlib.sha256(encode(what)).hexdigest()
        self._before[content] += 1
        return hashlib.sha256(f"{self._agent}.{self._run}.{content}.{self._before[content]}".encode()).hexdigest()[:32]
