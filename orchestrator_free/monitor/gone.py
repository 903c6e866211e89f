"""Agents that are gone: what they owe, looked through from where the last tick stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError
from orchestrator_free.jetstream import Log
from orchestrator_free.monitor.shard import Shard
from orchestrator_free.monitor.telling import GONE, Teller, owed_among
from orchestrator_free.subjects import input_filters

_log = logs.logger("orchestrator_free.monitor")

_PAGE: Final = 256


@dataclass(slots=True)
class _Debt:
    """How far the inputs of an offline agent were looked at; begins anew when its consumer has moved."""

    mark: tuple[str, int, int]
    cursors: dict[str, int]
    warned: bool = False


class Gone:
    """The debts of agents that are gone."""

    def __init__(self, log: Log, teller: Teller, inputs_per_tick: int) -> None:
        """Prepare.

        Args:
            log: the log.
            teller: says it.
            inputs_per_tick: owed inputs that are looked at in one tick, so that work stays bounded.
        """
        self._log = log
        self._teller = teller
        self._most = inputs_per_tick
        self._left = 0
        self._debts: dict[tuple[int, str], _Debt] = {}

    def begin(self, overdue: set[str]) -> None:
        """Begin a tick: who is not overdue any more owes nothing that has to be said."""
        self._left = self._most
        self._debts = {key: debt for key, debt in self._debts.items() if key[1] in overdue}

    async def look_at(self, shard: int, agent: str, stream: Shard) -> None:
        """Go through what an agent owes, from where the last tick stopped."""
        try:
            state = await self._log.consumer(shard, contract.agent_consumer_name(agent))
        except BrokerError as error:
            _log.warning("cannot see what an agent owes", agent=agent, error=str(error))
            return
        if state is None or not state.outstanding:
            self._debts.pop((shard, agent), None)
            return
        mark = (state.created, state.delivered, state.floor)
        debt = self._debts.get((shard, agent))
        if debt is None or debt.mark != mark:
            debt = _Debt(mark, dict.fromkeys(input_filters(shard, agent), state.floor))
            self._debts[shard, agent] = debt
        told = 0
        for subject in debt.cursors:
            told += await self._pursue(shard, agent, debt, subject, stream)
        if told:
            _log.warning("agent is offline", agent=agent, outstanding=state.outstanding, sessions_told=told)

    async def _pursue(self, shard: int, agent: str, debt: _Debt, subject: str, stream: Shard) -> int:
        """Go through one filter of an agent's inputs; return how many sessions were told."""
        told, more = 0, True
        while more and self._left > 0:
            limit = min(self._left, _PAGE)
            messages, more = await self._log.page(shard, subject, after=debt.cursors[subject], limit=limit)
            self._left -= len(messages)
            owed = owed_among(self._log, messages)
            before = self._teller.published
            settled = await self._teller.settle(agent, owed, GONE, stream.now)
            told += self._teller.published - before
            if not settled:
                return told
            debt.cursors[subject] = messages[-1].sequence if more else stream.passed(debt.cursors[subject], messages)
        if more and not debt.warned:
            debt.warned = True
            _log.warning("an offline agent owes more than one tick looks at, going on in the next", agent=agent)
        return told
