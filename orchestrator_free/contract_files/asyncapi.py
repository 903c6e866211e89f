"""The AsyncAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from orchestrator_free import contract
from orchestrator_free.contract_files.schemas import ABOUT_KIND, summary, type_of
from orchestrator_free.subjects import KINDS, LIVE, ROOT
from orchestrator_free.vocabulary import VOCABULARY


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document: a channel per subject, stored and live, and a message per type."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for kind, models in VOCABULARY.items():
        names = [model.__name__ for model in models]
        messages |= {model.__name__: _message(kind, model) for model in models}
        for name, prefix in ((kind, ""), (f"live_{kind}", LIVE)):
            channels[name] = _channel(kind, prefix, names)
            action = "receive" if prefix else "send"
            operations[f"{action}_{kind}"] = {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "orchestrator-free on NATS JetStream",
            "version": contract.WIRE,
            "description": "What a member publishes and a reader receives. PROTOCOL.md is normative.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _channel(kind: str, prefix: str, names: list[str]) -> dict[str, Any]:
    parameters = {
        "shard": "CRC-32 of the session's id modulo the number of shards",
        "session": "the session's id",
        "member": "who publishes",
        "target": "the agent it is for, or `all`",
        "id": "id of the entity",
    }
    used = ["shard", "session", "member", *KINDS[kind]]
    tail = "".join(f".{{{part}}}" for part in KINDS[kind])
    republished = " Republished by the broker after it was stored." if prefix else ""
    return {
        "address": f"{prefix}{ROOT}.{{shard}}.{{session}}.{{member}}.{kind}{tail}",
        "description": ABOUT_KIND[kind] + republished,
        "parameters": {name: {"description": parameters[name]} for name in used},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _message(kind: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": type_of(model),
        "summary": summary(model),
        "payload": {"$ref": f"./schemas/{kind}.json#/$defs/{model.__name__}"},
    }
