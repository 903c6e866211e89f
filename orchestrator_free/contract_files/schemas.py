"""The JSON Schemas: a payload per kind, and the documents of the HTTP edge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel

from orchestrator_free.documents import PARTS, Envelope, Problem, View
from orchestrator_free.vocabulary import VOCABULARY

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

ABOUT_KIND: Final = {
    "in": "An input: a message addressed to a member; the append is the work item.",
    "run": "Everything one agent does on one input.",
    "meta": "The session itself.",
    "presence": "What is known of an agent's absence.",
    "ctl": "A control: what somebody tells an agent, or all, to do with their runs.",
    "outcome": "What became of a control at one agent.",
    "ask": "Members are asked for a word: an approval, a question, a vote, bids, a barrier.",
    "answer": "A member's word on an ask.",
    "stage": "What ends or widens an ask beside its answers.",
    "floor": "Who answers the person now; each step says the whole state.",
    "notice": "What a service says of its own work: a notification that reached nobody.",
    "lease": "Who holds something; the last word on a lease, over all members, counts.",
    "state": "The value of a shared key; the last message of the key, over all members, is its value.",
}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas by file name: a payload per kind, and the documents of the HTTP edge."""
    found = {kind: _kind_schema(kind) for kind in VOCABULARY}
    for model in (Envelope, View, Problem):
        schema = model.model_json_schema(ref_template="#/$defs/{model}", by_alias=True)
        if "Part" in schema.get("$defs", {}):
            schema["$defs"] |= _definitions(PARTS)
            schema["$defs"]["Part"] = {"description": "A part of a run; unknown types pass."} | _open_union(PARTS)
        found[model.__name__.lower()] = schema
    return {
        name: {"$schema": _DIALECT, "$id": f"urn:orchestrator-free:schema:{name}", "title": name} | _untitled(schema)
        for name, schema in found.items()
    }


def _untitled(schema: Any) -> Any:
    """Return a schema without the titles that pydantic makes from the names of fields."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _untitled(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)}


def _kind_schema(kind: str) -> dict[str, Any]:
    models = VOCABULARY[kind]
    about = {"description": f"Payload of kind {kind}. {ABOUT_KIND[kind]} Unknown types pass."}
    return about | _open_union(models) | {"$defs": _definitions(models)}


def _open_union(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return a schema in which a known type must be right and an unknown one passes."""
    rules = [
        {"if": {"properties": {"type": {"const": type_of(model)}}}, "then": {"$ref": f"#/$defs/{model.__name__}"}}
        for model in models
    ]
    return {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}, "allOf": rules}


def _definitions(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of models, each with its `type` required, and of what they refer to."""
    found: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        found |= schema.pop("$defs", {})
        required = schema.get("required", [])
        found[model.__name__] = schema | {"required": ["type", *(name for name in required if name != "type")]}
    return found


def type_of(model: type[BaseModel]) -> str:
    """Return the `type` that a payload of a model carries."""
    return str(model.model_json_schema()["properties"]["type"]["const"])


def summary(model: type[BaseModel]) -> str:
    """Return the first line of what a model says of itself."""
    return (model.__doc__ or "").strip().partition("\n")[0]
