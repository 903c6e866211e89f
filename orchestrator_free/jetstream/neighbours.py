"""Whether another log hears what would be said here: over a leaf connection two JetStreams may have the same subjects.

A server with JetStream of its own, joined to a hub as a leaf, answers for itself: a log made there would be a second
one, and both would store what is said, in different orders.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from orchestrator_free.errors import SecondLog
from orchestrator_free.jetstream.wire import Wire
from orchestrator_free.subjects import ROOT

#: a subject of every log that is no event's; what expects a stream of a name that none has is refused, and not stored
_PROBE: Final = f"{ROOT}.0.=.probe"
_HEADER: Final = b"NATS/1.0\r\nNats-Expected-Stream: =\r\n\r\n"
_NOBODY: Final = b"NATS/1.0 503"
_FIRST_SECONDS: Final = 3.0
#: after the first answer, for those that come from further away; a hub does not say whether it has leaves
_REST_SECONDS: Final = 0.25
_REST_LINKED_SECONDS: Final = 1.0
_APART: Final = (
    "keep the two apart: no JetStream in the server at the edge (deploy/leaf), or an account of its own for the log "
    "there that no leaf connection is bound to"
)


async def logs_that_hear(wire: Wire) -> int:
    """Return how many logs store what is said over this connection; 1 is right."""
    return len(await _answers(wire, _PROBE, _HEADER))


async def check_alone(wire: Wire, domain: str | None) -> None:
    """Check, where there is no log, that one may be made.

    Args:
        wire: a connection that may speak in sessions.
        domain: the JetStream domain in which it is wanted, if it has one.

    Raises:
        SecondLog: another one hears the same subjects, or the right one may only be out of reach.
    """
    heard, apis = await asyncio.gather(logs_that_hear(wire), _answers(wire, "$JS.API.INFO"))
    if heard:
        raise SecondLog(
            f"the JetStream that answers at {wire.options.address} has no log, but one elsewhere hears what is said "
            f"here: a second one would be made beside it; {_APART}"
        )
    domains = [str(orjson.loads(one).get("domain") or "") for one in apis]
    if len(apis) > 1:
        raise SecondLog(f"{len(apis)} JetStreams answer at {wire.options.address}, each would make a log; {_APART}")
    if domains and domains[0] != (domain or ""):
        raise SecondLog(_of_domain(wire, domains[0], domain))


def _of_domain(wire: Wire, found: str, wanted: str | None) -> str:
    where = f"the JetStream that answers at {wire.options.address} is that of the domain {found!r}"
    if not found:
        where = f"the JetStream that answers at {wire.options.address} has no domain"
    if wanted:
        return f"{where}, not of {wanted!r}, as ORCHESTRATOR_FREE_DOMAIN says; nothing was made"
    return (
        f"{where}, and there is no log in it. It may be an edge whose hub, with the log, is out of reach; if the log "
        f"is to be made here, say so: ORCHESTRATOR_FREE_DOMAIN={found}"
    )


async def _answers(wire: Wire, subject: str, header: bytes = b"") -> list[bytes]:
    """Return what everybody answers to one request."""
    found: list[bytes] = []
    first = asyncio.Event()

    def take(_: str, __: str, payload: bytes, head: bytes) -> None:
        if not head.startswith(_NOBODY):
            found.append(payload)
        first.set()

    refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    inbox, release = wire.inbox(take, (subject, refused))
    refused.add_done_callback(lambda _: first.set())
    try:
        wire.send(subject, reply=inbox, header=header)
        async with asyncio.timeout(_FIRST_SECONDS):
            await first.wait()
        if found:
            await asyncio.sleep(_REST_LINKED_SECONDS if wire.linked else _REST_SECONDS)
    except TimeoutError:
        pass
    finally:
        release()
        refused.cancel() if not refused.done() else refused.exception()
    return found
