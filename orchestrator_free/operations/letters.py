"""Dead letters: what was asked for and nobody will do any more, in one list; tried again or dismissed, which is said.

A run that was given up stays given up: its input is asked once more beside it, as `regenerate` does, so the new answer
has a branch of its own and everybody sees both. A control that expired is given anew. A notification keeps its id.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from orchestrator_free.broker import Broker
from orchestrator_free.deadletters import dead_letters, retry_dead_letter
from orchestrator_free.errors import InvalidInput, LetterNotFound
from orchestrator_free.events import Event
from orchestrator_free.reading.entries import to_event
from orchestrator_free.subjects import ALL, ROOT, check_name

Kind = Literal["run", "control", "notification"]

_PAGE: Final = 1024
_UNREADABLE: Final = "the input cannot be read"


@dataclass(frozen=True, slots=True)
class Letter:
    """Something that will not be done unless somebody sees to it.

    Attributes:
        kind: `run`: given up after its attempts, or its input cannot be read. `control`: expired before its agent took
            it. `notification`: reached nobody.
        member: the agent, or the notifier.
        item: the run's, the control's or the notification's id.
        about: the run's input as `<sender>/<id>`; what a notification tells of; empty for a control.
        time: when it was given up, RFC 3339.
    """

    kind: Kind
    session: str
    member: str
    item: str
    about: str
    reason: str
    time: str

    @property
    def id(self) -> str:
        """What names it, for `retry` and `dismiss`."""
        return f"{self.kind}/{self.session}/{self.member}/{self.item}"

    @property
    def letter(self) -> str:
        """What names it in its session."""
        return f"{self.kind}/{self.member}/{self.item}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"id": self.id, **asdict(self)}


async def letters(broker: Broker, *, session: str = "*", agent: str = "*") -> list[Letter]:
    """Return the dead letters nobody has seen to, the oldest first; without a session it reads every run's last word.

    Args:
        broker: any connection that may read.
        session: only of this one.
        agent: only of this agent, or notifier.
    """
    for what, name in (("session", session), ("agent", agent)):
        if name != "*":
            check_name(what, name)
    found = [
        Letter("notification", one.session, one.service, one.id, one.about, one.error, one.time)
        for one in await dead_letters(broker, service=agent, session=session)
        if one.status == "failed"
    ]
    settled: set[tuple[str, str]] = set()
    for shard in range(broker.log.shards):
        settled |= {
            (event.session, str(event.body.get("letter")))
            async for event in _events(broker, shard, f"{session}.*.notice.*", b"letter.settled")
        }
        runs = _events(broker, shard, f"{session}.{agent}.run.*", b'"failed"')
        found += [letter async for event in runs if (letter := _given_up(event))]
        outcomes = _events(broker, shard, f"{session}.{agent}.outcome.*", b'"expired"')
        found += [letter async for event in outcomes if (letter := _expired(event))]
    left = [letter for letter in found if (letter.session, letter.letter) not in settled]
    return sorted(left, key=lambda letter: letter.time)


async def _events(broker: Broker, shard: int, rest: str, mark: bytes) -> AsyncIterator[Event]:
    """Yield the events of a filter whose payload has a mark, page by page."""
    after, more = 0, True
    while more:
        messages, more = await broker.log.page(shard, f"{ROOT}.{shard}.{rest}", after=after, limit=_PAGE)
        for message in messages:
            after = message.sequence
            if mark in message.payload and (event := to_event(message)) is not None:
                yield event


def _given_up(event: Event) -> Letter | None:
    body = event.body
    if event.type != "run.finished" or body.get("status") != "failed":
        return None
    about, reason = str(body.get("input", "")), str(body.get("error") or "")
    return Letter("run", event.session, event.member, event.id, about, reason, event.time)


def _expired(event: Event) -> Letter | None:
    if event.body.get("state") != "expired":
        return None
    return Letter("control", event.session, event.member, event.id, "", str(event.body.get("reason", "")), event.time)


async def find(broker: Broker, id: str, *, session: str | None = None) -> Letter:
    """Return a dead letter.

    Raises:
        LetterNotFound: there is none of this id, or somebody has seen to it.
    """
    parts = id.split("/")
    if len(parts) != 4 or session not in (None, parts[1]):
        raise LetterNotFound(id)
    for letter in await letters(broker, session=check_name("session", parts[1]), agent=check_name("agent", parts[2])):
        if letter.id == id:
            return letter
    raise LetterNotFound(id)


async def retry(broker: Broker, letter: Letter) -> dict[str, str]:
    """Have it done after all; return what was sent: `{"input", "run"}`, `{"control"}` or `{"notification"}`.

    Args:
        broker: a connection; a new input is said by its member.
        letter: as `find` returns it.

    Raises:
        InvalidInput: trying again would be no use; says why.
    """
    match letter.kind:
        case "run":
            sent = await _ask_again(broker, letter)
        case "control":
            sent = await _give_again(broker, letter)
        case _:
            await retry_dead_letter(broker, letter.item, service=letter.member, session=letter.session)
            return {"notification": letter.item}  # its own words say what becomes of it
    await _settle(broker, letter, "retried", "")
    return sent


async def dismiss(broker: Broker, letter: Letter, reason: str = "") -> None:
    """Take it off the list; that is said in its session, and nothing else is changed."""
    await _settle(broker, letter, "dismissed", reason)


async def _ask_again(broker: Broker, letter: Letter) -> dict[str, str]:
    if letter.reason.startswith(_UNREADABLE):
        raise InvalidInput(f"{letter.about} cannot be read by anybody, so not the next time either; say it anew")
    session = broker.session(letter.session)
    # The same for the same letter: asked again because the answer was lost, it is sent once.
    id = _digest(letter)
    try:
        sent = await session.branches.regenerate(letter.about, to=letter.member, id=id)
    except InvalidInput as error:
        advice = "what delegated it has been told that it failed: retry that run's own input instead"
        raise InvalidInput(f"{error}; {advice}" if "delegated" in str(error) else str(error)) from error
    return {"input": sent.input, "run": sent.run}


async def _give_again(broker: Broker, letter: Letter) -> dict[str, str]:
    log, session = broker.log, broker.session(letter.session)
    for target in (letter.member, ALL):
        message = await log.last(session.shard, f"{ROOT}.{session.shard}.{session.id}.*.ctl.{target}.{letter.item}")
        event = to_event(message) if message is not None else None
        if event is None:
            continue
        body = {name: value for name, value in event.body.items() if name not in ("deadline", "run")}
        run = event.body.get("run")
        given = await session.control.give(body, to=letter.member, run=run, id=_digest(letter))
        return {"control": given.control}
    raise InvalidInput(f"control {letter.item!r} does not stand in the log any more, so it cannot be given again")


async def _settle(broker: Broker, letter: Letter, how: str, reason: str) -> None:
    body = {"type": "letter.settled", "letter": letter.letter, "how": how, "by": broker.member, "reason": reason}
    await broker.session(letter.session).append("notice", body, id=_digest(letter))


def _digest(letter: Letter) -> str:
    return hashlib.sha256(letter.id.encode()).hexdigest()[:32]
