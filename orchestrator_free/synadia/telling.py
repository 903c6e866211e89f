"""One answer as a caller is told it: from the log, as chunks, over whatever happens to broker, agent and door."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final

import orjson

from orchestrator_free import contract, logs
from orchestrator_free.errors import AskClosed, InvalidAnswer, InvalidInput, OrchestratorFreeError, PositionLost
from orchestrator_free.fold import Fold
from orchestrator_free.fold.asks import refusal
from orchestrator_free.projections.answer import Answer
from orchestrator_free.projections.parts import Step
from orchestrator_free.reading.entries import Entry
from orchestrator_free.reading.reader import Reader
from orchestrator_free.session import Session
from orchestrator_free.synadia.caller import Caller
from orchestrator_free.synadia.frames import END, Code, answer_text, error, file_response, query, response

_log = logs.logger("orchestrator_free.synadia")
_CODES: Final[dict[str, Code]] = {"rejected": 429, "cancelled": 409}
#: body and header
Chunk = tuple[bytes, bytes]
#: base64 makes four characters of three bytes, and a chunk has to fit into one message
_FILE_SHARE: Final = 0.7


class Telling:
    """Tells one caller one answer."""

    def __init__(self, session: Session, answer: Answer, caller: Caller, *, skip: int = 0) -> None:
        """Prepare.

        Args:
            session: as the member that the caller speaks as.
            answer: what is told.
            caller: to whom.
            skip: characters of the answer's text that the caller has.
        """
        self._session = session
        self._answer = answer
        self._caller = caller
        self._skip = skip
        self._said_text = False
        self._queries: list[Callable[[], None]] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Tell it to its end; the log is read again wherever it cannot be continued.

        Raises:
            CallerGone: the caller has left; the run goes on.
            SessionNotFound: the session was deleted.
        """
        try:
            while not await self._follow():
                _log.info("reading the session again", session=self._session.id)
        finally:
            for release in self._queries:
                release()
            for task in self._answering:
                task.cancel()

    async def _follow(self) -> bool:
        """Tell from one reading of the log; return whether that was all."""
        fold = Fold(self._session.id)
        changed = asyncio.Event()
        lost: list[PositionLost] = []

        def take(entries: list[Entry]) -> None:
            for entry in entries:
                fold.apply(entry.event)
            changed.set()

        def on_lost(why: PositionLost) -> None:
            lost.append(why)
            changed.set()

        reader = Reader(self._session.log, self._session.id, take, on_lost)
        await reader.open()
        try:
            while not lost:
                changed.clear()
                whole = await self._whole(fold)
                for chunk, header in await self._chunks(list(self._answer.advance(whole)), whole):
                    await self._caller.say(chunk, header)
                if self._answer.ended:
                    return True
                await changed.wait()
            return False
        finally:
            reader.close()

    async def _whole(self, fold: Fold) -> Fold:
        """Return the fold, with what large finished runs of this answer keep in the object store."""
        if not any(run.object and not run.parts for run in self._answer.members(fold)):
            return fold
        return Fold.load(orjson.loads(orjson.dumps(await self._session.view())))

    async def _chunks(self, steps: list[Step], fold: Fold) -> list[Chunk]:
        """Return what is new; texts that follow each other go together."""
        found: list[Chunk] = []
        text = ""
        for step in steps:
            if (new := self._text(step)) is not None:
                text += new
            elif others := await self._others(step, fold):
                found += [(response(text), b"")] if text else []
                found += others
                text = ""
        return found + ([(response(text), b"")] if text else [])

    def _text(self, step: Step) -> str | None:
        """Return what the caller is to read of a step; None for a step that is no text of the answer itself."""
        if (
            not step.direct
            or step.aside
            or step.part.get("type") != "text"
            or step.kind not in ("text.began", "text.grew")
        ):
            return None
        text = step.text if step.kind == "text.grew" else "\n\n" if self._said_text else ""
        self._said_text = True
        had = min(self._skip, len(text))
        self._skip -= had
        return text[had:]

    async def _others(self, step: Step, fold: Fold) -> list[Chunk]:
        match step.kind:
            case "part" if step.direct and step.part.get("object"):
                file = await self._file(step.part)
                return [(file, b"")] if file is not None else []
            case "ask" if self._is_asked(step.part):
                return [(self._query(step.part, str(step.part["text"])), b"")]
            case "answer.ended":
                return _ends(step.text, self._why(fold))
        return []

    def _why(self, fold: Fold) -> str:
        """Return how the runs that did not end well say it."""
        found = (run.error for run in self._answer.members(fold) if run.run == self._answer.run)
        return "; ".join(str(error) for error in found if error)

    async def _file(self, part: dict[str, Any]) -> bytes | None:
        """Return a file as an attachment; one that is too large for a message stays in the session."""
        room = self._session.log.wire.max_payload * _FILE_SHARE
        if part.get("size", 0) > room:
            return None
        data = await self._session.object(str(part["object"]))
        return file_response(str(part["name"]), data) if data is not None and len(data) <= room else None

    # -- questions ----------------------------------------------------------------------------------------------

    def _is_asked(self, ask: dict[str, Any]) -> bool:
        """Whether an ask is open, and for the caller among others."""
        why = refusal(ask, self._session.member, None)
        return why is None or why.why == "value"

    def _query(self, ask: dict[str, Any], text: str) -> bytes:
        """Return the question; the caller's one answer stands in the session, or is asked for again."""

        def take(subject: str, reply: str, payload: bytes, header: bytes) -> None:
            task = asyncio.create_task(self._take_answer(ask, payload))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        # Not an inbox: callers of another account reach it by an import, and nobody's answer lands among the broker's.
        subject = contract.ANSWERED.replace("*", secrets.token_hex(16))
        self._queries.append(self._session.log.wire.subscribe(subject, take))
        options = f" ({' / '.join(ask['options'])})" if ask["options"] else ""
        return query(str(ask["ask"]), subject, f"{text}{options}")

    async def _take_answer(self, ask: dict[str, Any], payload: bytes) -> None:
        try:
            text = answer_text(payload).strip()
            options = {str(option).casefold(): option for option in ask["options"] or ()}
            value: Any = options.get(text.casefold(), text)
            if ask["rule"] in ("highest", "lowest"):
                with contextlib.suppress(ValueError):
                    value = float(text)
            await self._session.asks.answer(str(ask["ask"]), value)
        except (InvalidAnswer, InvalidInput) as error:
            await self._caller.say(self._query(ask, f"{error}. {ask['text']}"))
        except AskClosed:
            return  # somebody else was first; the answer goes on
        except OrchestratorFreeError as error:
            _log.warning("an answer to a question was lost", session=self._session.id, error=str(error))


def _ends(status: str, why: str) -> list[Chunk]:
    """Return what ends an answer: nothing but the end where it is done, else an error before it."""
    failure = error(_CODES.get(status, 500), f"the run ended as {status}" + (f": {why}" if why else ""))
    return [(END, b"")] if status == "done" else [failure, (END, b"")]
