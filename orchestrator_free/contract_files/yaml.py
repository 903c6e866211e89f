"""JSON values as YAML."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z$/_](?:[A-Za-z0-9 $/_.{}()-]*[A-Za-z0-9}>)])?")
#: names that YAML 1.1 readers take for something else than a text
_AMBIGUOUS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"})


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
