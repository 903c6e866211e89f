"""The generated tables of PROTOCOL.md."""

from __future__ import annotations

import re
from typing import Any

from orchestrator_free import contract
from orchestrator_free.contract_files.schemas import summary, type_of
from orchestrator_free.vocabulary import VOCABULARY


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
            lines.append(f"| `{kind}` | `{type_of(model)}` | {'<br>'.join(fields) or 'none'} | {summary(model)} |")
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
