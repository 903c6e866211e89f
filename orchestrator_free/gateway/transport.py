"""The feed's write path: one prepared bytes object, one write per client, no task and no queue per client.

A taken connection is a socket and a few slots. What a handler of this module never sees is silence: a full buffer is
`paused`, the end is `on_close` (once), and a body that was not finished is visibly truncated for the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

from orchestrator_free.errors import InvalidInput, OrchestratorFreeError

EXTENSION: Final = "orchestrator_free.feed"
LAST_CHUNK: Final = b"0\r\n\r\n"

type_of_end = Literal["finished", "cut", "left", "flooded", "overrun"]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CUT_SECONDS: Final = 1.0
_FINISH_SECONDS: Final = 30.0
_RESET: Final = struct.pack("ii", 1, 0)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})
