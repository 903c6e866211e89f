"""Traces by OpenTelemetry (extra `otel`): input, run with its attempts, tool calls, delegated runs, first delivery.

Spans carry who and which (session, run, agent, tool), never what was said. Where the conventions for generative AI have
a word (`invoke_agent`, `execute_tool`, `gen_ai.usage.*`), it is theirs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C: Final = TraceContextTextMapPropagator()
_BAD: Final = frozenset({"error", "failed"})
_SECOND: Final = 1_000_000_000
#: tool calls of an attempt that are open at once; a handler that opens more has a fault of its own
_MOST_CALLS: Final = 1000


def export_to(service: str, endpoint: str | None) -> trace.TracerProvider:
    """Return what makes spans: what the program around us has set up, else an exporter by OTLP over HTTP.

    Spans are sent in the background, and at the end of the process; of one that is killed the last are lost.
    """
    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):
        return found
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


class _Attempt:
    """The span of an attempt, and those of its open tool calls."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.calls: dict[str, Span] = {}
        self.usage: dict[str, float] = {}
        self.begun = False


_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


class OtelTracer:
    """Makes spans; see `tracing.Tracer`."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("orchestrator_free")

    def traceparent(self) -> str:
        """Return the context of the current span."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier.get("traceparent", "")

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[None]:
        """Serve a request."""
        attributes = {"http.request.method": method}
        context = _W3C.extract(dict(headers), context=Context())
        with self._tracer.start_as_current_span(method, context, SpanKind.SERVER, attributes):
            yield

    def answered(self, route: str, status: int) -> None:
        """Name the request's span."""
        span = trace.get_current_span()
        span.update_name(f"{span.attributes['http.request.method']} {route}" if hasattr(span, "attributes") else route)
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))

    @contextmanager
    def sending(self, session: str, member: str, targets: Sequence[str]) -> Iterator[None]:
        """Append an input."""
        attributes = {
            "messaging.system": "nats", "messaging.operation.type": "send", "gen_ai.conversation.id": session,
            "orchestrator_free.session": session, "orchestrator_free.member": member,
            "orchestrator_free.to": list(targets),
        }  # fmt: skip
        name = f"send {targets[0]}" if len(targets) == 1 else "send"
        with self._tracer.start_as_current_span(name, kind=SpanKind.PRODUCER, attributes=attributes):
            yield

    @contextmanager
    def attempt(self, source: str, session: str, agent: str, run: str) -> Iterator[None]:
        """Do an attempt; its span ends with it, or is forgotten where nothing was begun."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent, "gen_ai.conversation.id": session,
            "orchestrator_free.session": session, "orchestrator_free.run": run, "orchestrator_free.agent": agent,
        }  # fmt: skip
        parent = _context(source)
        span = self._tracer.start_span(f"invoke_agent {agent}", parent, SpanKind.CONSUMER, attributes)
        current = _Attempt(span)
        token = _attempt.set(current)
        try:
            with trace.use_span(span, end_on_exit=False, record_exception=False):
                yield
        finally:
            _attempt.reset(token)
            for call in current.calls.values():
                call.end()
            if current.begun:
                span.end()

    def earlier(self, source: str) -> None:
        """Link the attempt to the one before it."""
        current = _attempt.get()
        found = trace.get_current_span(_context(source)).get_span_context()
        if current is not None and found.is_valid:
            current.span.add_link(found, {"orchestrator_free.link": "earlier attempt"})

    def begun(self, attempt: int) -> None:
        """Note that the attempt is one."""
        current = _attempt.get()
        if current is not None:
            current.begun = True
            current.span.set_attribute("orchestrator_free.attempt", attempt)

    def said(self, body: Mapping[str, Any]) -> None:
        """Begin and end the spans of tool calls; note usage."""
        current = _attempt.get()
        if current is None:
            return
        match body["type"]:
            case "tool.input" if len(current.calls) < _MOST_CALLS:
                self._call(current, body)
            case "tool.output" if not body.get("preliminary"):
                _end_call(current, body["call"], failed=False)
            case "tool.error":
                _end_call(current, body["call"], failed=True)
            case "usage":
                for name, value in body["usage"].items():
                    current.usage[name] = current.usage.get(name, 0) + value
                    current.span.set_attribute(f"gen_ai.usage.{name}", current.usage[name])

    def _call(self, current: _Attempt, body: Mapping[str, Any]) -> None:
        attributes = {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": body["tool"],
            "gen_ai.tool.call.id": body["call"],
        }  # fmt: skip
        parent = trace.set_span_in_context(current.span)
        if body["call"] not in current.calls:
            name = f"execute_tool {body['tool']}"
            current.calls[body["call"]] = self._tracer.start_span(name, parent, SpanKind.INTERNAL, attributes)

    def ended(self, status: str) -> None:
        """Note how the run ended."""
        current = _attempt.get()
        if current is not None:
            current.span.set_attribute("orchestrator_free.status", status)
            if status in _BAD:
                current.span.set_attribute("error.type", status)
                current.span.set_status(Status(StatusCode.ERROR))

    def delivered(self, source: str, session: str, agent: str, run: str, *, stored: str, clients: int) -> None:
        """Make the span of a first delivery, from stored to written."""
        now = time.time_ns()
        start = min(now, int(datetime.fromisoformat(stored).timestamp() * _SECOND))
        attributes: dict[str, str | int] = {
            "orchestrator_free.session": session, "orchestrator_free.run": run, "orchestrator_free.agent": agent,
            "orchestrator_free.clients": clients,
        }  # fmt: skip
        parent = _context(source)
        self._tracer.start_span(f"deliver {agent}", parent, SpanKind.CONSUMER, attributes, start_time=start).end(now)


def _context(source: str) -> Context:
    """Return the context that a header names; one that is no context begins a trace of its own."""
    return _W3C.extract({"traceparent": source}, context=Context())


def _end_call(current: _Attempt, call: str, *, failed: bool) -> None:
    span = current.calls.pop(call, None)
    if span is not None:
        if failed:
            span.set_attribute("error.type", "tool.error")
            span.set_status(Status(StatusCode.ERROR))
        span.end()
