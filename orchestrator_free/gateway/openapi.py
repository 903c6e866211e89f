"""The HTTP surface as an OpenAPI document, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

if TYPE_CHECKING:
    from orchestrator_free.gateway.resources.resource import Resource

_SESSION: Final = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "header: any text; sent again under the same key, it is stored once",
}  # fmt: skip
_PROBLEM: Final = {"description": "a problem document (RFC 9457)", "content": {"application/problem+json": {}}}


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Describe a query parameter; a string unless the schema says otherwise."""
    schema = {"type": "string"} | schema
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def operation(summary: str, answers: dict[str, str], media: str = "application/json", **more: Any) -> dict[str, Any]:
    """Describe an operation; `media` are the types of its bodies, separated by spaces."""
    content: dict[str, Any] = {kind: {} for kind in media.split()}
    responses: dict[str, Any] = {
        code: {"description": text} | ({} if code == "204" else {"content": content}) for code, text in answers.items()
    }
    return {"summary": summary, "responses": responses | {"default": _PROBLEM}, **more}


def body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe the body of a request."""
    schema = model.model_json_schema()
    return {"required": True, "content": {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions where they are referred to: in this document a reference to them would lead nowhere."""
    if isinstance(value, list):
        return [_inlined(inner, definitions) for inner in value]
    if not isinstance(value, dict):
        return value
    name = str(value.get("$ref", "")).removeprefix("#/$defs/")
    value = definitions[name] | {key: inner for key, inner in value.items() if key != "$ref"} if name else value
    return {key: _inlined(inner, definitions) for key, inner in value.items()}


def path(route: str, *more: dict[str, Any], **operations: dict[str, Any]) -> dict[str, Any]:
    """Describe a path below `/sessions/{session}`; `more` are its other parameters."""
    return {route: {"parameters": [_SESSION, *more], **operations}}


_FEED_QUERY: Final = [
    query("after", "a position; go on behind it (also: header Last-Event-ID)"),
    query("agents", "comma-separated: only what these members published"),
    query("kinds", "comma-separated: only these kinds of entity, e.g. run,in"),
    query("snapshot", "1: first an event `snapshot` with the folded view, then what comes after it", enum=["0", "1"]),
    query("until", "idle: end when nothing is open or waiting", enum=["idle"]),
    query("member", "who looks; `user` if absent"),
    query("device", "with what; made up if absent"),
    query("presence", "follow: events `presence` tell who is there; 0: do not show me to others; both: 0,follow"),
]


def openapi(new_session: type[BaseModel], new_input: type[BaseModel], resources: Sequence[Resource]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths = _session_paths(new_session) | _inner_paths(new_input)
    for resource in resources:
        paths |= resource.paths()
    paths |= _OPERATIONS
    return {"openapi": "3.1.0", "info": {"title": "orchestrator-free gateway", "version": "1"}, "paths": paths}


def _session_paths(new_session: type[BaseModel]) -> dict[str, Any]:
    page = [
        query("limit", "1 to 1000", type="integer", minimum=1, maximum=1000, default=100),
        query("after", "the id before the page"),
    ]
    return {
        "/sessions": {
            "post": operation("Begin a session", {"201": "session and position"}, requestBody=body(new_session)),
            "get": operation("List the sessions", {"200": "sessions and next"}, parameters=page),
        },
        "/sessions/{session}": {
            "parameters": [_SESSION],
            "get": operation("The folded view: groups by agent, at a position", {"200": "the view"}),
            "delete": operation("Delete the session with everything in it", {"204": "gone"}),
        },
    }


def _inner_paths(new_input: type[BaseModel]) -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/sessions/{session}/inputs": {
            "parameters": [_SESSION],
            "post": operation(
                "Send an input to an agent, several, or all",
                {"202": "input, run and position", "200": "it was sent before"},
                parameters=[IDEMPOTENCY_KEY],
                requestBody=body(new_input),
            ),
        },
        "/sessions/{session}/events": {
            "parameters": [_SESSION],
            "get": operation(
                "Follow the session as SSE, or as NDJSON by Accept: application/x-ndjson",
                {"200": "a feed; `id:` is the position"},
                "text/event-stream application/x-ndjson",
                parameters=_FEED_QUERY,
            ),
        },
        "/sessions/{session}/objects/{name}": {
            "parameters": [_SESSION, name],
            "get": operation(
                "A file, or the parts of a large finished run", {"200": "bytes"}, "application/octet-stream"
            ),
        },
    }


_OPERATIONS: Final[dict[str, Any]] = {
    "/healthz": {"get": operation("The process lives", {"200": "ok"})},
    "/readyz": {"get": operation("The gateway can serve", {"200": "ready", "503": "not ready"})},
    "/metrics": {"get": operation("Prometheus metrics", {"200": "text"}, "text/plain")},
    "/openapi.json": {"get": operation("This document", {"200": "OpenAPI 3.1"})},
    "/docs": {"get": operation("It as a page", {"200": "HTML"}, "text/html")},
}


DOCS_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>orchestrator-free gateway</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 0.8rem; margin: 0.5rem 0 0; opacity: 0.6; }
code { font-family: ui-monospace, monospace; }
section { border: 1px solid var(--line); border-radius: 8px; margin: 0.75rem 0; padding: 0.6rem 1rem; }
section > p { margin: 0.2rem 0; } .verb { display: inline-block; min-width: 4.5rem; font-weight: 700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 0.4rem 0 0; font-size: 0.9rem; }
dt { font-family: ui-monospace, monospace; } dd { margin: 0; }
pre { background: var(--soft); border-radius: 6px; padding: 0.6rem; overflow: auto; font-size: 0.85rem; }
</style></head><body>
<h1>orchestrator-free gateway</h1>
<p>Durable sessions over HTTP. The same as a document: <a href="/openapi.json">/openapi.json</a>.
Errors are problem documents (RFC 9457).</p>
<main id="paths"></main>
<script>
const place = document.getElementById("paths");
const add = (parent, tag, text, name) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (name) made.className = name;
  parent.append(made);
  return made;
};
fetch("/openapi.json").then(answer => answer.json()).then(({ paths }) => {
  for (const [path, methods] of Object.entries(paths)) {
    for (const [verb, about] of Object.entries(methods)) {
      if (verb === "parameters") continue;
      const box = add(place, "section");
      const head = add(box, "p");
      add(head, "span", verb.toUpperCase(), "verb");
      add(head, "code", path);
      add(box, "p", about.summary);
      const group = (label, rows) => {
        if (!rows.length) return;
        add(box, "h2", label);
        const list = add(box, "dl");
        for (const [name, text] of rows) {
          add(list, "dt", name);
          add(list, "dd", text);
        }
      };
      const words = field => field.enum ? field.enum.join(", ") : field.type ?? "any JSON";
      const schema = Object.values(about.requestBody?.content ?? {})[0]?.schema;
      const fields = Object.entries(schema?.properties ?? {});
      const needed = name => schema.required?.includes(name) ? " (required)" : "";
      const needs = Object.values((about.security ?? [])[0] ?? {})[0] ?? [];
      group("token", needs.map(one => [one, "capability"]));
      group("query and headers", (about.parameters ?? []).map(one => [one.name, one.description ?? one.in]));
      group("body", fields.map(([name, field]) => [name + needed(name), field.description ?? words(field)]));
      group("answers", Object.entries(about.responses).map(([code, answer]) => [code, answer.description]));
    }
  }
});
</script></body></html>
"""


def _hash(tag: str) -> str:
    """Return the source expression of what stands in the page between two tags."""
    text = DOCS_PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: the page has its own script and style, asks its own gateway, and stands in nobody's frame
DOCS_POLICY: Final = (
    f"default-src 'none'; connect-src 'self'; script-src {_hash('script')}; style-src {_hash('style')}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
