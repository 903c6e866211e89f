"""The HTTP surface as an OpenAPI document, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

_SESSION: Final = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
_PROBLEM: Final = {"description": "a problem document (RFC 9457)", "content": {"application/problem+json": {}}}


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Describe a query parameter; a string unless the schema says otherwise."""
    schema = {"type": "string"} | schema
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _operation(summary: str, answers: dict[str, str], media: str = "application/json", **more: Any) -> dict[str, Any]:
    """Describe an operation; `media` are the types of its bodies, separated by spaces."""
    content: dict[str, Any] = {kind: {} for kind in media.split()}
    responses: dict[str, Any] = {
        code: {"description": text} | ({} if code == "204" else {"content": content}) for code, text in answers.items()
    }
    return {"summary": summary, "responses": responses | {"default": _PROBLEM}, **more}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}


_FEED_QUERY: Final = [
    _query("after", "a position; go on behind it (also: header Last-Event-ID)"),
    _query("agents", "comma-separated: only what these members published"),
    _query("kinds", "comma-separated: only these kinds of entity, e.g. run,in"),
    _query("snapshot", "1: first an event `snapshot` with the folded view, then what comes after it", enum=["0", "1"]),
    _query("until", "idle: end when nothing is open or waiting", enum=["idle"]),
]


def openapi(new_session: type[BaseModel], new_input: type[BaseModel], new_control: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths = _session_paths(new_session) | _inner_paths(new_input, new_control) | _OPERATIONS
    return {"openapi": "3.1.0", "info": {"title": "orchestrator-free gateway", "version": "1"}, "paths": paths}


def _session_paths(new_session: type[BaseModel]) -> dict[str, Any]:
    page = [
        _query("limit", "1 to 1000", type="integer", minimum=1, maximum=1000, default=100),
        _query("after", "the id before the page"),
    ]
    return {
        "/sessions": {
            "post": _operation("Begin a session", {"201": "session and position"}, requestBody=_body(new_session)),
            "get": _operation("List the sessions", {"200": "sessions and next"}, parameters=page),
        },
        "/sessions/{session}": {
            "parameters": [_SESSION],
            "get": _operation("The folded view: groups by agent, at a position", {"200": "the view"}),
            "delete": _operation("Delete the session with everything in it", {"204": "gone"}),
        },
    }


def _inner_paths(new_input: type[BaseModel], new_control: type[BaseModel]) -> dict[str, Any]:
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"}}
    key["description"] = "header: any text; sent again under the same key, it is stored once"
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/sessions/{session}/inputs": {
            "parameters": [_SESSION],
            "post": _operation(
                "Send an input to an agent, several, or all",
                {"202": "input, run and position", "200": "it was sent before"},
                parameters=[key],
                requestBody=_body(new_input),
            ),
        },
        "/sessions/{session}/controls": {
            "parameters": [_SESSION],
            "post": _operation(
                "Cancel, steer, redirect, pause or resume; from its position on, a cancel counts for everybody",
                {"202": "control and position", "200": "also the outcome"},
                parameters=[key, _query("wait", "seconds to wait for the outcome, up to 60")],
                requestBody=_body(new_control),
            ),
        },
        "/sessions/{session}/events": {
            "parameters": [_SESSION],
            "get": _operation(
                "Follow the session as SSE, or as NDJSON by Accept: application/x-ndjson",
                {"200": "a feed; `id:` is the position"},
                "text/event-stream application/x-ndjson",
                parameters=_FEED_QUERY,
            ),
        },
        "/sessions/{session}/objects/{name}": {
            "parameters": [_SESSION, name],
            "get": _operation(
                "A file, or the parts of a large finished run", {"200": "bytes"}, "application/octet-stream"
            ),
        },
    }


_OPERATIONS: Final[dict[str, Any]] = {
    "/healthz": {"get": _operation("The process lives", {"200": "ok"})},
    "/readyz": {"get": _operation("The gateway can serve", {"200": "ready", "503": "not ready"})},
    "/metrics": {"get": _operation("Prometheus metrics", {"200": "text"}, "text/plain")},
    "/openapi.json": {"get": _operation("This document", {"200": "OpenAPI 3.1"})},
    "/docs": {"get": _operation("It as a page", {"200": "HTML"}, "text/html")},
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
      const schema = about.requestBody?.content["application/json"].schema;
      const fields = Object.entries(schema?.properties ?? {});
      const needed = name => schema.required?.includes(name) ? " (required)" : "";
      group("query and headers", (about.parameters ?? []).map(one => [one.name, one.description ?? one.in]));
      group("body", fields.map(([name, field]) => [name + needed(name), field.description ?? words(field)]));
      group("answers", Object.entries(about.responses).map(([code, answer]) => [code, answer.description]));
    }
  }
});
</script></body></html>
"""
