"""The files of `broker/`, rendered from the contract: `make contract` writes them.

Everything but `write` is pure, and a test compares what is committed with what is rendered here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from orchestrator_free import contract
from orchestrator_free.documents import PARTS, Envelope, Problem, View
from orchestrator_free.server import ServerSettings, server_config
from orchestrator_free.subjects import KINDS, LIVE, ROOT
from orchestrator_free.vocabulary import VOCABULARY

COMMAND: Final = "make contract"
_USAGE: Final = "python -m orchestrator_free.contract_files FOLDER [SHARDS]"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Final = re.compile(r"[A-Za-z$/_](?:[A-Za-z0-9 $/_.{}()-]*[A-Za-z0-9}>)])?")
#: names that YAML 1.1 readers take for something else than a text
_AMBIGUOUS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"})

#: kinds that a notifier hears in the examples
_NOTIFIED: Final = ("run", "ask", "stage", "presence", "floor")
#: who stands in the examples
_AGENT: Final = "outliner"
_MEMBERS: Final = (
    ("core", "gateway"), ("operator", "operator"), ("agent", _AGENT), ("service", "billing"),
    ("notifier", "notify"), ("observer", "dashboard"),
)  # fmt: skip

_ABOUT_KIND: Final = {
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


def files(shards: int = 1) -> dict[str, str]:
    """Return every generated file: path below `broker/` and text."""
    settings = contract.StreamSettings(shards=shards)
    found = {f"streams/sessions_{n}.json": _json(contract.stream_config(n, settings)) for n in range(shards)}
    found |= {
        "streams/presence.json": _json(contract.presence_stream()),
        "streams/timers.json": _json(contract.timer_stream(settings)),
        "streams/objects.json": _json(contract.object_stream(settings)),
        "streams/audit.json": _json(contract.audit_stream(settings)),
        "consumers/agent.json": _json(contract.agent_consumer(0, _AGENT)),
        "consumers/service.json": _json(contract.service_consumer(0, "billing")),
        "consumers/notifier.json": _json(contract.notifier_consumer(0, "notify", _NOTIFIED, "2026-01-01T00:00:00Z")),
    }
    found |= {f"schemas/{name}.json": _json(schema) for name, schema in schemas().items()}
    found["asyncapi.yaml"] = f"# Written by `{COMMAND}`.\n{to_yaml(asyncapi())}"
    found["nats-server.conf"] = nats_server_conf()
    found["permissions.conf"] = permissions_conf(shards)
    return found


def write(folder: Path, shards: int = 1) -> list[Path]:
    """Write the files into a folder, and the tables into its PROTOCOL.md; return what changed."""
    wanted = {folder / name: text for name, text in files(shards).items()}
    protocol = folder / "PROTOCOL.md"
    if protocol.exists():
        wanted[protocol] = with_tables(protocol.read_text())
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return changed


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# -- JSON Schema ----------------------------------------------------------------------------------------------------


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
    about = {"description": f"Payload of kind {kind}. {_ABOUT_KIND[kind]} Unknown types pass."}
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


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


# -- the tables of PROTOCOL.md --------------------------------------------------------------------------------------


def with_tables(text: str) -> str:
    """Return PROTOCOL.md with its generated tables as they should be."""
    tables = {"vocabulary": _vocabulary_table(), "permissions": _permission_table()}

    def fill(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{tables[match[1]]}<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n(?:.*?\n)??<!-- end -->", fill, text, flags=re.DOTALL)


def _vocabulary_table() -> str:
    lines = ["| kind | type | fields | meaning |", "|---|---|---|---|"]
    for kind, models in VOCABULARY.items():
        for model in models:
            schema = model.model_json_schema()
            required = schema.get("required", [])
            nested = schema.get("$defs", {})
            fields = [
                _field_text(name, field, nested, required=name in required)
                for name, field in schema["properties"].items()
                if name != "type"
            ]
            lines.append(f"| `{kind}` | `{type_of(model)}` | {'<br>'.join(fields) or 'none'} | {_summary(model)} |")
    return "\n".join(lines) + "\n"


def _field_text(name: str, field: dict[str, Any], nested: dict[str, Any], *, required: bool) -> str:
    about = field.get("description", "")
    mark = "**" if required else ""
    return f"{mark}`{name}`{mark} {_type_text(field, nested)}" + (f": {about}" if about else "")


def _type_text(field: dict[str, Any], nested: dict[str, Any]) -> str:
    match field:
        case {"anyOf": options}:
            return " or ".join(_type_text(option, nested) for option in options if option.get("type") != "null")
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"$ref": str(where)}:
            return f"`{{{', '.join(nested[where.rpartition('/')[2]]['properties'])}}}`"
        case {"type": "array", "items": items}:
            return f"list of {_type_text(items, nested)}"
        case {"type": kind}:
            return str(kind)
    return "any JSON"


def _permission_table() -> str:
    lines = ["| role | may publish to | may receive |", "|---|---|---|"]
    for name, role in contract.ROLES.items():
        publish, subscribe = (
            "<br>".join(f"`{subject}`" for subject in subjects) for subjects in (role.publish, role.subscribe)
        )
        lines.append(f"| **{name}**: {role.about} | {publish} | {subscribe} |")
    return "\n".join(lines) + "\n"


# -- AsyncAPI -------------------------------------------------------------------------------------------------------


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
        "description": _ABOUT_KIND[kind] + republished,
        "parameters": {name: {"description": parameters[name]} for name in used},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _message(kind: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": type_of(model),
        "summary": _summary(model),
        "payload": {"$ref": f"./schemas/{kind}.json#/$defs/{model.__name__}"},
    }


def to_yaml(value: Any, indent: str = "") -> str:
    """Return a value of JSON as YAML."""
    if isinstance(value, dict) and value:
        return "".join(f"{indent}{_scalar(name)}:{_nested(item, indent)}" for name, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{indent}-{_nested(item, indent)}" for item in value)
    return f"{indent}{_scalar(value)}\n"


def _nested(value: Any, indent: str) -> str:
    if isinstance(value, (dict, list)) and value:
        return "\n" + to_yaml(value, indent + "  ")
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _AMBIGUOUS
    return value if plain else json.dumps(value, ensure_ascii=False)


# -- nats-server ----------------------------------------------------------------------------------------------------


def nats_server_conf() -> str:
    """Return the configuration of one server for production, without users."""
    extra = """\

# Whoever reaches the port may do everything. Before anybody you do not trust can reach it:
# include "permissions.conf"

# TLS, and a cluster of three (create the streams with num_replicas 3):
# tls { cert_file: "/certs/server.pem", key_file: "/certs/server-key.pem" }
# server_name: nats-1
# cluster { name: sessions, listen: "0.0.0.0:6222", routes: ["nats://nats-1:6222", "nats://nats-2:6222"] }
"""
    everywhere = "0.0.0.0"  # noqa: S104 - for a container or a private network; the file says what that means
    settings = ServerSettings(
        data=Path("/data"), host=everywhere, port=4222, monitor_port=8222, durability="fsync", extra=extra
    )
    about = f"""\
# nats-server {">"}= 2.14 for orchestrator-free; written by `{COMMAND}`.
# Start it with `nats-server -c nats-server.conf`. Do not pass -sd: it is refused beside `store_dir`.
# sync_interval "always": an acknowledged event survives a power cut. The monitor lists subjects: keep it on loopback.
"""
    return about + server_config(settings)


_ABOUT_PERMISSIONS: Final = f"""\
# Users and what they may publish and receive; written by `{COMMAND}`.
#
# Include it at the top level of nats-server.conf. Each user is an nkey: make one with `nk -gen user -pubout`, give the
# seed to the process and the public key, which is no secret, to the server as the environment variable named below.
# For more agents copy the block and replace the name; the name stands in the subjects, so the broker checks the sender.
# Passwords work too: `user: outliner, password: $OUTLINER_PASSWORD` in the place of `nkey`, and in the process's URL
# `nats://outliner:the-password@host:4222`.
#
# What these permissions stop (each tried in tests/test_permissions.py): publishing as another member, taking another
# agent's inputs, changing another's consumer, reading another's replies, creating, changing or deleting streams.
#
# What subject permissions in one account do NOT stop, because the broker itself sends the answer to any reply subject
# a client names, and because the filter of some requests stands in their body:
# - forging by reply: an own event, a Direct Get or a pull with the reply subject `session.0.S.other.run.R` makes the
#   broker put its answer there: an acknowledgement (no event) or a copy of a stored message, which has headers that no
#   honest publisher sends. Readers skip and count both (PROTOCOL.md, section 3);
# - a consumer of its own name with any filter, also as a push consumer to any subject that no stream holds, `live.`
#   included; readers check a live message against `Nats-Subject`, and the log is the truth;
# - reading: whoever may read one session here may read all, and list them with STREAM.INFO;
# - `meta` events: a member that may publish `session.*.*.<name>.>` may rename a session or say that it was deleted;
# - wiping: the log takes roll-ups (a finished run replaces its deltas), and the broker asks for no further permission:
#   a publish with `Nats-Rollup: all` on an own subject drops everything else in that shard (tried);
# - objects: names are not bound to members, so whoever may write objects may replace or purge those of others;
# - state: any member may set any shared key.
# So: members whose code you do not trust get an account of their own that imports only what they need, or no NATS at
# all but the gateway's HTTP. A tenant is an account: accounts {{ ACME {{ jetstream: enabled, users: [ … ] }} }}.
"""


def permissions_conf(shards: int = 1) -> str:
    """Return users for every role, as an include of `nats-server.conf`."""
    blocks = []
    for role, member in _MEMBERS:
        allowed = contract.permissions(role, member, shards=shards)
        lines = [f"    # {role}: {contract.ROLES[role].about}", f"    {{ nkey: ${member.upper()}_NKEY, permissions {{"]
        for action in ("publish", "subscribe"):
            lines.append(f"      {action} {{ allow: [")
            lines += [f"        {json.dumps(subject)}" for subject in allowed[action]["allow"]]
            lines.append("      ] }")
        blocks.append("\n".join([*lines, "    } }"]))
    users = "\n".join(blocks)
    system = "# system: sees every connection and account, and can close them; for operators, never for a member."
    return (
        f"{_ABOUT_PERMISSIONS}\nauthorization {{\n  users: [\n{users}\n  ]\n}}\n\n"
        f"{system}\naccounts {{ SYS {{ users: [ {{ nkey: $SYSTEM_NKEY }} ] }} }}\nsystem_account: SYS\n"
    )


def main(arguments: list[str]) -> int:
    """Write the files into the folder given, for as many shards as given."""
    if not 1 <= len(arguments) <= 2:
        print(f"usage: {_USAGE}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2
    for path in write(Path(arguments[0]), int((arguments[1:] or ["1"])[0])):
        print(path)  # noqa: T201 - a command's answer
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
