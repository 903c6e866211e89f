"""Dead letters: what could not be told stands as a notice in its session, and can be tried again from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from orchestrator_free.broker import Broker
from orchestrator_free.errors import InvalidInput, NoticeNotFound
from orchestrator_free.events import Event, encode
from orchestrator_free.jetstream import Message
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ROOT, Position, address, check_name, parse

_STATUS: Final = {"notification.failed": "failed", "notification.retry": "retrying"}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that could not be told.

    Attributes:
        id: of the notification, the receiver's `webhook-id`.
        service: the notifier that gave it up.
        about: what it was to tell.
        position: the event.
        status: failed, or retrying.
        tries: so far.
        time: of the last word on it, RFC 3339.
    """

    id: str
    session: str
    service: str
    about: str
    position: str
    status: str
    tries: int
    error: str
    time: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def message_id(position: Position) -> str:
    """Return the id under which an event is told, always the same, so that a receiver can tell repetitions."""
    return f"msg_{position.epoch}_{position.sequence}"


async def dead_letters(broker: Broker, *, service: str = "*", session: str = "*") -> list[DeadLetter]:
    """Return what could not be told, over all sessions, the oldest first.

    Args:
        broker: any connection that may read.
        service: only what this notifier gave up.
        session: only of this session.
    """
    for what, name in (("service", service), ("session", session)):
        if name != "*":
            check_name(what, name)
    found = []
    for shard in range(broker.log.shards):
        for message in await broker.log.table(shard, f"{ROOT}.{shard}.{session}.{service}.notice.*"):
            event = to_event(message)
            if event is not None and event.type in _STATUS:
                found.append(_letter(event))
    return sorted(found, key=lambda letter: letter.time)


def _letter(event: Event) -> DeadLetter:
    body = event.body
    return DeadLetter(
        event.id, event.session, event.member, str(body.get("about", "")), str(body.get("position", "")),
        _STATUS[event.type], int(body.get("tries", 1)), str(body.get("error", "")), event.time,
    )  # fmt: skip


async def retry_dead_letter(broker: Broker, id: str, *, service: str = "*", session: str = "*") -> DeadLetter:
    """Have a notifier try a dead letter again; its id stays. What becomes of it stands in the session.

    Args:
        broker: a connection that may publish under the notifier's name.
        id: of the notification.
        service: the notifier that gave it up, if several have.
        session: where it must stand.

    Raises:
        NoticeNotFound: there is no such dead letter.
        InvalidInput: several have it.
    """
    check_name("notification", id)
    letters = await dead_letters(broker, service=service, session=session)
    found = [letter for letter in letters if letter.id == id]
    if not found:
        raise NoticeNotFound(id)
    if len(found) > 1:
        raise InvalidInput(f"several services have given up {id!r}; name the service")
    letter = found[0]
    log = broker.log
    where = address(log.shard(letter.session), letter.session, letter.service, "notice", id=id)
    await _publish(broker, str(where), "retry", letter.about, letter.position, letter.tries, letter.error)
    return letter


async def write_notice(
    broker: Broker,
    message: Message,
    what: Literal["failed", "delivered"],
    about: str,
    position: Position,
    tries: int,
    error: str = "",
) -> None:
    """Say in a session what became of a notification; the latest word on it replaces the ones before."""
    where = parse(message.subject)
    if where is not None:
        own = address(where.shard, where.session, broker.member, "notice", id=message_id(position))
        await _publish(broker, str(own), what, about, str(position), tries, error)


async def _publish(broker: Broker, subject: str, what: str, about: str, position: str, tries: int, error: str) -> None:
    body = {"type": f"notification.{what}", "about": about, "position": position, "tries": tries, "error": error}
    await broker.log.wire.publish(subject, encode(body), rollup=True)
