"""What a command changes over the broker stands in the audit log: by whom, what, with which outcome, also a failed one.

`@audited` marks the command; the connection that it does its work over writes the entry when that is done.
"""

from __future__ import annotations

import functools
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec

from orchestrator_free import logs
from orchestrator_free.errors import BrokerError, OrchestratorFreeError
from orchestrator_free.jetstream import Wire
from orchestrator_free.operations.audit import note

_log = logs.logger("orchestrator_free.audit")
P = ParamSpec("P")

#: what the command that runs is to be remembered by; None if it changes nothing
_FACTS: Final[ContextVar[dict[str, Any] | None]] = ContextVar("facts", default=None)


def audited(
    what: str, *noted: str, when: Callable[[dict[str, Any]], object] = lambda _: True
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Mark a command that changes something over the broker.

    Args:
        what: its name, as it is typed.
        noted: its parameters that are written down: names, ids, numbers; never what people wrote, never a secret.
        when: whether it changes anything, as it is called; by its parameters.
    """

    def mark(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def marked(*args: P.args, **given: P.kwargs) -> None:
            facts = {name: _plain(given[name]) for name in noted if given[name] not in (None, False)}
            token = _FACTS.set({"what": what, **facts, "by": _person()} if when(given) else None)
            try:
                command(*args, **given)
            finally:
                _FACTS.reset(token)

        marked.audited = what  # type: ignore[attr-defined]  # for the test that looks at every command
        return marked

    return mark


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _person() -> str:
    """Return who sits there, as this machine calls them; the member in the entry is whom the credentials are for."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def remember(**facts: Any) -> None:
    """Add what the command has found out to its entry."""
    if (known := _FACTS.get()) is not None:
        known.update(facts)


@asynccontextmanager
async def written_down(wire: Wire, member: str) -> AsyncIterator[None]:
    """Write the entry of the command that runs, if it has one, when the work over this connection is done.

    Raises:
        BrokerError: the work is done, and could not be written down.
    """
    facts = _FACTS.get()
    if facts is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        try:
            await _write(wire, member, {**facts, "outcome": outcome, "error": type(error).__name__})
        except OrchestratorFreeError as unwritten:
            _log.warning("what failed is not in the audit log", what=facts["what"], reason=str(unwritten))
        raise
    try:
        await _write(wire, member, {**facts, "outcome": "done"})
    except BrokerError as error:
        raise BrokerError(f"{facts['what']} is done, but is not in the audit log: {error}") from error


async def _write(wire: Wire, member: str, facts: dict[str, Any]) -> None:
    await note(wire, facts.pop("what"), member=member, session=facts.pop("session", ""), **facts)
