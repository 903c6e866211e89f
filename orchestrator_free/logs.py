"""Structured logs: for people in a terminal, JSON lines otherwise; always on standard error, and without secrets.

A program that uses the library may have configured structlog in its own way, or not at all; structlog's own way prints
the values of local variables with a traceback. What our loggers say is text without secrets before it gets there.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog

HIDDEN: Final = "[hidden]"
#: fields whose value is a secret, whatever it looks like; those that end so, too
_SECRET: Final = re.compile(
    r"(?:^|[_-])(authorization|cookie|token|ticket|seed|jwt|password|passwd|secret|api[_-]?key)$", re.IGNORECASE
)
#: what is a secret wherever it stands: tokens, tickets, seeds of nkeys, what a URL or a header carries
_PATTERNS: Final = re.compile(
    r"(?i:eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)*)"  # in any case: headers are told in lower case
    r"|(?i:tkt_[A-Za-z0-9_-]+)"
    r"|(?i:\bS[UAOCNXP][A-Z2-7]{40,})"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?<=earer )[^\s\"',;]+"
    r"|(?<=asic )[A-Za-z0-9+/=]{8,}"
    r"|(?<=[?&;]token=)[^&\s\"']+|(?<=[?&;]ticket=)[^&\s\"']+|(?<=[?&;]access_token=)[^&\s\"']+"
)
#: nats-py makes a plain connection an encrypted one, and each end would be told; a WebSocket that was refused with a
#: problem document has been answered, which uvicorn takes for an application that forgot to
_CHATTER: Final = {
    "asyncio": "returning true from eof_received",
    "uvicorn.error": "ASGI callable returned without completing handshake",
}


def scrub(text: str) -> str:
    """Return a text without what looks like a secret."""
    return _PATTERNS.sub(HIDDEN, text)


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep secrets out of a line of a log: a processor of structlog."""
    for name, value in event.items():
        if name != "exc_info":  # the renderer makes a text of it
            event[name] = _hidden(name, value)
    return event


def logger(name: str) -> Any:
    """Return the logger of one of our modules; it speaks as the process has configured structlog, or has not."""
    return structlog.wrap_logger(None, processors=[_as_configured], logger_factory_args=(name,))


def _as_configured(wrapped: Any, method: str, event: MutableMapping[str, Any]) -> Any:
    """Make a traceback a text, hide what is secret, and go on as the process has configured it."""
    event = hide_secrets(wrapped, method, structlog.processors.format_exc_info(wrapped, method, event))
    if "exception" not in event:
        return _rendered(wrapped, method, event)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Remove `format_exc_info`")  # which would show the variables
        return _rendered(wrapped, method, event)


def _rendered(wrapped: Any, method: str, event: Any) -> Any:
    for processor in structlog.get_config()["processors"]:
        event = processor(wrapped, method, event)
    return event


def _hidden(name: str, value: Any) -> Any:
    if _SECRET.search(name) and value:
        return HIDDEN
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, bytes):
        return scrub(value.decode(errors="replace"))
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_hidden("", inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float)) else scrub(str(value))


class _Scrubbing(logging.Formatter):
    """For lines of libraries, which log by themselves: in the form of ours."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets."""
        if not self._as_json:
            return scrub(super().format(record))
        when = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        line = {
            "logger": record.name,
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": when,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return scrub(orjson.dumps(line).decode())


def configure(*, level: str = "info", json: bool | None = None) -> None:
    """Set up structlog once per process, and what libraries log.

    Args:
        level: debug, info, warning or error.
        json: JSON lines or text; None decides by whether standard error is a terminal.
    """
    for name in _CHATTER:
        logging.getLogger(name).addFilter(_worth_saying)
    as_json = not sys.stderr.isatty() if json is None else json
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # no values of variables
    renderer = structlog.processors.JSONRenderer() if as_json else plain

    def render(*about: Any) -> str:
        return scrub(str(renderer(*about)))  # tracebacks, too

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if as_json else []),
            hide_secrets,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Scrubbing(as_json=as_json))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Keep out what libraries say of what is in order."""
    return _CHATTER[record.name] not in record.getMessage()
