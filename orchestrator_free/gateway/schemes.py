"""What each route asks for, written into the OpenAPI document from the table of permits."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_free.gateway.access.permits import Permit, permit_of
from orchestrator_free.identity.principal import CAPABILITIES

_SCHEMES: Final = {
    "token": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "; ".join(f"{name}: {about}" for name, about in CAPABILITIES.items()),
    },
    "ticket": {
        "type": "apiKey", "in": "query", "name": "ticket",
        "description": "from POST /tickets: opens one feed, once, within 30 s",
    },
}  # fmt: skip
_METHODS: Final = frozenset({"get", "head", "post", "put", "patch", "delete"})
_REFUSALS: Final = {
    "401": "no token, or one that does not count", "403": "the token does not allow it",
    "429": "too much; see Retry-After",
}  # fmt: skip


def secured(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document with the security of each operation."""
    paths = {path: _path(path, about) for path, about in document["paths"].items()}
    return {**document, "paths": paths, "components": {"securitySchemes": _SCHEMES}}


def _path(path: str, about: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _operation(permit, operation) if (permit := _permit(path, name)) is not None else operation
        for name, operation in about.items()
    }


def _permit(path: str, method: str) -> Permit | None:
    if method not in _METHODS:
        return None
    return permit_of(path, method.upper()) or permit_of(path.replace("{path}", "{path:path}"), method.upper())


def _operation(permit: Permit, operation: dict[str, Any]) -> dict[str, Any]:
    if permit.public:
        return {**operation, "security": []}
    needs: list[str] = list(permit.needs)
    security: list[dict[str, list[str]]] = [{"token": needs}]
    security += [{"ticket": needs}] if permit.ticket else []
    security += [{}] if permit.local else []
    responses = {code: {"description": text} for code, text in _REFUSALS.items()} | operation["responses"]
    return {**operation, "security": security, "responses": responses}
