"""Publishing: a framework's stream, put into a run as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict, Unpack

from orchestrator_free import logs
from orchestrator_free.adapters.sheet import ToolUse
from orchestrator_free.adapters.translation import Malformed, SourceFailed, Translation
from orchestrator_free.errors import OrchestratorFreeError, TooLarge
from orchestrator_free.events import Body, encode
from orchestrator_free.working.run import Run

_log = logs.logger("orchestrator_free.adapters")

#: what a framework may take to close its stream when a run is cancelled
_CLOSE_SECONDS: Final = 5.0
#: how soon what people say is handed on
_HEAR_SECONDS: Final = 0.1
#: characters of an error that is larger than a message may be
_SHOWN: Final = 500
#: packages whose errors may quote a request, and with it a key
_QUOTING: Final = frozenset(
    {"openai", "anthropic", "pydantic_ai", "httpx", "httpx2", "httpcore", "httpcore2", "h11", "aiohttp"}
)
#: a server's word for an error, and nothing else
_CODE: Final = re.compile(r"[a-z_]{1,40}")


class Options(TypedDict, total=False):
    """What every `publish` takes beside run and source.

    Attributes:
        within_seconds: how long the stream may take.
        subagent: the stream is that of a sub-agent of this name, inside the run; its parts say so.
        call: the tool call that the sub-agent works for: then its text is no part of the answer.
    """

    within_seconds: float | None
    subagent: str
    call: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a stream came to.

    Attributes:
        text: the answer. output: the framework's own result, the text where it has none.
        usage: what this stream used, e.g. `input_tokens`. stop: why the model stopped, in the framework's word.
        calls: tool calls that the framework leaves to the caller; see `call_tools`.
        messages: what was added to the conversation, in the framework's own form: the next request repeats it.
        pending: what the framework waits for people with, where `publish` was not told how to go on.
        skipped: how many events of which type have no word here.
    """

    text: str
    output: Any
    usage: dict[str, float]
    stop: str = ""
    calls: list[ToolUse] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    pending: list[Any] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


async def publish(run: Run, source: Any, translation: Translation, **options: Unpack[Options]) -> Result:
    """Write a stream into a run until it ends; a cancelled run closes it, a paused one does not read it.

    Args:
        run: where to.
        source: anything to iterate over asynchronously, a context manager or an awaitable that gives it.
        translation: of its events.
        options: see `Options`.

    Raises:
        SourceFailed: the stream broke off, made no sense or took too long; what came before stays in the run.
    """
    sheet = translation.sheet
    sheet.prefix = await run.part()
    if name := options.get("subagent"):
        sheet.work_as(name, options.get("call"))
    try:
        await _copy(run, source, translation, options.get("within_seconds"))
        sheet.end_work("done")
    except SourceFailed as failed:  # without the frames below: a log that shows variables would show what was said
        sheet.end_work("error")
        await write(run, translation)
        raise failed.with_traceback(None) from failed.__cause__
    finally:
        _tell_skipped(translation)
    await write(run, translation)
    return result_of(translation)


def _tell_skipped(translation: Translation) -> None:
    """Say once in the log what was skipped, however the stream ended."""
    sheet = translation.sheet
    new = sheet.skipped - sheet.reported
    if new:
        _log.warning("events skipped", framework=translation.framework, skipped=dict(new))
        sheet.reported = sheet.skipped.copy()


async def _copy(run: Run, source: Any, translation: Translation, within_seconds: float | None) -> None:
    seen = 0
    try:
        async with asyncio.timeout(within_seconds) as limit, _opened(source) as events, _hearing(run, translation):
            async for event in _guarded(events, translation):
                seen += 1
                _take(translation, event, seen)
                await write(run, translation)
            translation.end()
    except TimeoutError:
        if not limit.expired():
            raise
        raise translation.fail(f"took more than {within_seconds:g} s; {seen} events came") from None
    translation.sheet.end_all(everybody=True)


@asynccontextmanager
async def _hearing(run: Run, translation: Translation) -> AsyncIterator[None]:
    """Hand what people say to a framework that takes it while it works, also while it says nothing."""
    steer, over = translation.steer, asyncio.Event()
    if steer is None:
        yield
        return

    async def hear() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _HEAR_SECONDS)
                return
            for said in await run.steers():  # whatever is taken is handed on, also when the stream ends meanwhile
                try:
                    await steer(said.text)
                except Exception as error:
                    await run.notice(f"{said.sender} was not heard by {translation.framework}: {described(error)}")

    task = asyncio.create_task(hear())
    try:
        yield
    finally:
        over.set()
        await asyncio.wait([task], timeout=_CLOSE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def result_of(translation: Translation) -> Result:
    """Return what a translation has come to."""
    sheet = translation.sheet
    output = sheet.text if translation.output is None else translation.output
    return Result(
        sheet.text, output, dict(sheet.usage), translation.stop, sheet.open_calls, translation.messages,
        translation.pending, dict(sheet.skipped),
    )  # fmt: skip


def _take(translation: Translation, event: Any, number: int) -> None:
    try:
        translation.take(event)
    except OrchestratorFreeError:
        raise
    except Exception as error:
        shown = f"{type(error).__name__}: {error}" if not _quotes(error) else type(error).__name__
        raise translation.fail(f"sent something that makes no sense as event {number} ({shown[:200]})") from error


async def write(run: Run, translation: Translation) -> None:
    """Write what stands on the sheet; what is too large for one message becomes a file of the session."""
    for body in translation.sheet.take():
        if body["type"] == "file":
            await _write_file(run, body)
        else:
            await _write(run, body)


async def _write(run: Run, body: Body) -> None:
    try:
        await run.emit(body)
    except TooLarge:
        name = next((one for one in ("output", "input", "data", "error") if one in body), None)
        if name is None:
            raise
        content = encode({name: body[name]})
        file = f"{body.get('call') or body.get('name') or body['type']}-{name}.json"
        await run.file(file, content, media_type="application/json")
        told = f"{body[name][:_SHOWN]}… (whole in {file})" if name == "error" else {"file": file, "bytes": len(content)}
        await _write(run, {**body, name: told})


async def _write_file(run: Run, body: Body) -> None:
    content = body.pop("content")
    if content is None:
        await run.emit(body)
    else:
        await run.file(body["name"], content, media_type=body["media_type"])


async def _guarded(events: Any, translation: Translation) -> AsyncIterator[Any]:
    """Yield a stream's events; what it raises becomes an error that people may see."""
    seen = 0
    try:
        async for event in events:
            seen += 1
            yield event
    except OrchestratorFreeError:
        raise
    except Malformed as error:
        raise translation.fail(f"sent something that makes no sense after {seen} events ({error})") from None
    except Exception as error:
        failure = translation.fail(f"failed after {seen} events ({described(error)})")
        raise failure from (None if _quotes(error) else error)


def described(error: BaseException) -> str:
    """Say what kind of error it is, and a server's status; not its words: they may repeat a key."""
    status, code = getattr(error, "status_code", None), getattr(error, "code", None) or getattr(error, "type", None)
    words = [type(error).__name__]
    words += [f"status {status}"] if isinstance(status, int) and status >= 400 else []
    words += [code] if isinstance(code, str) and _CODE.fullmatch(code) else []
    return ", ".join(words)


def _quotes(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, may quote what was sent to a server: then the log does not get it either."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in _QUOTING:
            return True
        error = error.__cause__ or error.__context__
    return False


@asynccontextmanager
async def _opened(source: Any) -> AsyncIterator[Any]:
    """Open what may be an awaitable, a context manager or just a stream; close it whatever happens."""
    try:
        if inspect.isawaitable(source):
            source = await source
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(source, "__aenter__"):
                events = await stack.enter_async_context(source)
            else:
                events = source
                stack.push_async_callback(_close, source)
            yield events
    except OrchestratorFreeError:
        raise
    except Exception as error:
        raise SourceFailed(f"the stream failed ({described(error)})") from (None if _quotes(error) else error)


async def _close(source: Any) -> None:
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None:
        return
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS):
            closing = close()
            if inspect.isawaitable(closing):
                await closing
