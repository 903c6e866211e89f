"""Until the contract has accounts."""

from __future__ import annotations

from typing import Any

from orchestrator_free import contract


def core_account(tenant: str) -> str:
    """Return it."""
    return tenant


def agents_account(tenant: str) -> str:
    """Return it."""
    return f"{tenant}-agents"


def account_of(role: str, tenant: str) -> str:
    """Return it."""
    return tenant


def exports(tenant: str, *, shards: int) -> list[Any]:
    """Return them."""
    return []


def imports(tenant: str, *, shards: int) -> list[Any]:
    """Return them."""
    return []


def permissions(role: str, member: str, *, shards: int, sessions: tuple[str, ...]) -> dict[str, Any]:
    """Return them."""
    found = contract.permissions("agent" if role == "isolated" else role, member, shards=shards)
    if sessions:
        found["publish"]["allow"] = [
            f"session.*.{session}.{subject.removeprefix('session.*.*.')}"
            if subject.startswith("session.*.*.")
            else subject
            for subject in found["publish"]["allow"]
            for session in sessions
        ]
    return found


ROLES = [*contract.ROLES, "isolated"]
