"""What comes over HTTP: server-sent events, or lines of JSON, as the objects in them."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from orchestrator_free.adapters.translation import Malformed, SourceFailed

#: a line beyond it is no event, and would fill the memory
_LONGEST: Final = 16 * 1024 * 1024
_ERROR: Final = 400


class Lines:
    """Bytes in, JSON objects out: the data of server-sent events, or a line of JSON each. Pure."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Take bytes; yield what is whole.

        Raises:
            Malformed: no JSON, or a line without end.
        """
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > _LONGEST:
            raise Malformed(f"a line longer than {_LONGEST} bytes")
        for line in lines:
            yield from self._line(line.decode("utf-8", "replace"))

    def end(self) -> Iterator[Any]:
        """The bytes have ended; an event without its blank line was cut off, and does not count."""
        rest, self._rest = self._rest, b""
        if rest.startswith(b"{"):
            yield from self._line(rest.decode("utf-8", "replace"))

    def _line(self, line: str) -> Iterator[Any]:
        if line.startswith("{"):
            yield read(line)
        elif line.startswith("data:"):
            self._data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            if data != "[DONE]":
                yield read(data)


def read(text: str) -> Any:
    """Read an event's JSON.

    Raises:
        Malformed: it is none; tells its beginning.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise Malformed(f"no JSON: {text[:60]!r}") from None


@asynccontextmanager
async def decoded(source: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """Open a source of events: objects as they are, bytes and text as what stands in them.

    Args:
        source: a stream of objects, bytes or text; a response with `aiter_bytes` (httpx), a context manager of one
            (`client.stream(…)`), or an awaitable of any of them.

    Raises:
        SourceFailed: the response says that the request failed.
    """
    async with AsyncExitStack() as stack:
        if inspect.isawaitable(source):
            source = await source
        if hasattr(source, "__aenter__"):
            source = await stack.enter_async_context(source)
        elif hasattr(source, "aclose"):
            stack.push_async_callback(source.aclose)
        status = getattr(source, "status_code", 200)
        if status >= _ERROR:
            raise SourceFailed(f"the agent's server answered {status}")
        yield _objects(source.aiter_bytes() if hasattr(source, "aiter_bytes") else source)


async def _objects(source: Any) -> AsyncIterator[Any]:
    lines = Lines()
    async for piece in source:
        if isinstance(piece, bytes | str):
            for found in lines.feed(piece.encode() if isinstance(piece, str) else piece):
                yield found
        else:
            yield piece
    for found in lines.end():
        yield found
