"""The seam for traces: off, it is one name that is None, and nothing of OpenTelemetry is imported.

The context of a trace goes with inputs and with the beginnings of runs, as the header `traceparent` (W3C); tokens carry
none. It says nothing about who may do what, nobody decides by it, and a header that is no context is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from orchestrator_free import logs
from orchestrator_free.errors import InvalidInput

_log = logs.logger("orchestrator_free.tracing")

#: the usual variables; one of them turns traces on
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CARRIERS: Final = frozenset({"in", "run.started"})
_NOTHING: Final = nullcontext()


class Tracer(Protocol):
    """Makes spans; `orchestrator_free.tracing.otel` has the only one."""

    def traceparent(self) -> str:
        """Return the context of the current span as W3C writes it, empty if there is none."""

    def request(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
        """Serve an HTTP request, in the trace that its headers name."""

    def answered(self, route: str, status: int) -> None:
        """The current request was answered; `route` has no ids in it."""

    def sending(self, session: str, member: str, targets: Sequence[str]) -> AbstractContextManager[Any]:
        """Append an input."""

    def attempt(self, source: str, session: str, agent: str, run: str) -> AbstractContextManager[Any]:
        """Do an attempt at a run, in the trace of its input; without `begun` it is no span."""

    def earlier(self, source: str) -> None:
        """The current attempt follows another one, whose context this is."""

    def begun(self, attempt: int) -> None:
        """The current attempt has begun."""

    def said(self, body: Mapping[str, Any]) -> None:
        """The current attempt has written an event: tool calls are spans, usage is an attribute."""

    def ended(self, status: str) -> None:
        """The current attempt has ended its run."""

    def delivered(self, source: str, session: str, agent: str, run: str, *, stored: str, clients: int) -> None:
        """The first output of a run, stored at this time, was written to so many clients."""


tracer: Tracer | None = None


def traceparent(kind: str) -> str:
    """Return the context that goes with an event: with inputs (kind `in`) and beginnings of runs (`run.started`)."""
    return tracer.traceparent() if tracer is not None and kind in _CARRIERS else ""


def sending(session: str, member: str, targets: Sequence[str]) -> AbstractContextManager[Any]:
    """Append an input inside of this."""
    return _NOTHING if tracer is None else tracer.sending(session, member, targets)


def configure(service: str, endpoint: str | None = None) -> None:
    """Turn traces on if an endpoint is given or in the environment.

    Args:
        service: `service.name` unless OTEL_SERVICE_NAME says another.
        endpoint: where OTLP over HTTP is taken, e.g. http://127.0.0.1:4318.

    Raises:
        InvalidInput: an endpoint was given and the extra is not installed. One in the environment may be meant for
            others: then a warning is all.
    """
    global tracer  # noqa: PLW0603 - the one switch there is
    named = endpoint or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from orchestrator_free.tracing.otel import OtelTracer, export_to
    except ImportError as error:
        text = f"traces need OpenTelemetry ({error}): pip install 'orchestrator-free[otel]'"
        if endpoint is not None:
            raise InvalidInput(text) from error
        _log.warning(text)
        return
    tracer = OtelTracer(export_to(service, endpoint))
