"""The homemade pattern: Starlette SSE, one `XREAD BLOCK` loop per client on a Redis stream per session.

Done with care, to be a fair baseline: hiredis, uvloop, httptools, all that one read gives in one write.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_BLOCK_MILLISECONDS = 15_000
_COUNT = 1_000


async def _feed(client: redis.Redis, session: str, last: bytes) -> AsyncIterator[bytes]:
    key = f"session:{session}"
    while True:
        found = await client.xread({key: last}, count=_COUNT, block=_BLOCK_MILLISECONDS)
        if not found:
            yield b": ping\n\n"
            continue
        entries = _entries(found)
        frames = [
            b'id: %b\ndata: {"position":"%b","member":"%b","run":"%b","event":%b}\n\n'
            % (position, position, fields[b"m"], fields[b"r"], fields[b"p"])
            for position, fields in entries
        ]
        last = entries[-1][0]
        yield b"".join(frames)


def _entries(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of the one stream asked for; redis-py has two shapes for them."""
    if isinstance(found, dict):
        return next(iter(found.values()))[0]
    return found[0][1]


async def events(request: Request) -> StreamingResponse:
    """Answer `GET /sessions/{session}/events`."""
    last = request.headers.get("last-event-id", "0").encode()
    frames = _feed(request.app.state.redis, request.path_params["session"], last)
    return StreamingResponse(frames, media_type="text/event-stream")


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True)
    options = parser.parse_args()
    app = Starlette(routes=[Route("/sessions/{session}/events", events)])
    app.state.redis = redis.Redis.from_url(options.redis, max_connections=10_000, socket_timeout=None)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", loop="uvloop", http="httptools")


if __name__ == "__main__":
    main()
