"""Accounts: a tenant is two of them, one with the streams, and one for agents whose code is not trusted.

Each caller of the Synadia Agent Protocol has one more for itself: the libraries of that protocol all listen below one
inbox, so two callers in one account could hear each other's answers.

Accounts see nothing of each other but what one exports to the other. The broker answers a request from another account
to that account only, so no answer can be aimed at a subject of the log. What such an agent must not do itself (set
timers, describe objects, make consumers) it asks on the same subjects as everybody; the import leads them to the
core's steward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orchestrator_free.contract.roles import (
    ABOUT_SELF,
    ANSWERED,
    HEARTBEATS,
    LEADER_ELECTED,
    LOOK_UP,
    PROMPTED,
    STREAMED,
    TIMED_KINDS,
    WORKING_KINDS,
    expand,
)
from orchestrator_free.contract.streams import OBJECT_BUCKET, PRESENCE_BUCKET
from orchestrator_free.errors import InvalidInput
from orchestrator_free.subjects import AT, LIVE, ROOT, STEWARD, check_name

#: between tenant and caller in the name of a caller's account; no tenant has it in its own
CALLERS: Final = "--caller--"
#: of whoever operates the server
SYSTEM_ACCOUNT: Final = "SYS"
#: what its account lets all others use
SYSTEM_EXPORTS: Final[list[dict[str, Any]]] = [{"service": ABOUT_SELF}]
#: the server adds this itself to accounts that import nothing; shared, because it answers whoever asks about himself
_ABOUT_SELF_IMPORT: Final[dict[str, Any]] = {
    "service": {"account": SYSTEM_ACCOUNT, "subject": ABOUT_SELF},
    "share": True,
}
_PULL: Final = "$JS.API.CONSUMER.MSG.NEXT.{stream}.*"
#: what goes to the streams as it is; `$JS.API.INFO` keeps the server from adding an import of its own API, which would
#: answer every request first, with "JetStream not enabled for account"
_DIRECT: Final = (
    *(f"{ROOT}.*.*.*.{kind}" for kind in WORKING_KINDS),
    f"$KV.{PRESENCE_BUCKET}.agent.*.*",
    f"$KV.{PRESENCE_BUCKET}.watch.*.*.*",
    f"$O.{OBJECT_BUCKET}.C.*.*",
    f"{STEWARD}compact.{ROOT}.*.*.*.run.*",
    *LOOK_UP,
    "$JS.API.CONSUMER.INFO.{stream}.*",
    _PULL,
    "$JS.ACK.{stream}.*.>",
    "$JS.ACK.*.*.{stream}.*.>",
)
#: what the steward does for them: subject as they know it -> subject that the steward hears
_ASKED: Final = {
    **{f"{AT}{ROOT}.*.*.*.{kind}": f"{STEWARD}{AT}{ROOT}.*.*.*.{kind}" for kind in TIMED_KINDS},
    f"$O.{OBJECT_BUCKET}.M.*": f"{STEWARD}object.*",
    "$JS.API.CONSUMER.CREATE.{stream}.*": f"{STEWARD}consumer.{{stream}}.*",
}
#: what they hear
_HEARD: Final = (f"{LIVE}{ROOT}.>", f"$KV.{PRESENCE_BUCKET}.>", LEADER_ELECTED)


def core_account(tenant: str) -> str:
    """Return the name of the account that has a tenant's streams."""
    return check_name("tenant", tenant)


def agents_account(tenant: str) -> str:
    """Return the name of the account of a tenant's agents whose code is not trusted; no tenant has a dot."""
    return f"{check_name('tenant', tenant)}.agents"


def caller_account(tenant: str, caller: str) -> str:
    """Return the name of the account that a caller of the Synadia Agent Protocol has for itself.

    Without dots: who signs prompts names the account, and the protocol takes no others.

    Raises:
        InvalidInput: with these names two callers could get one account.
    """
    for name in (check_name("tenant", tenant), check_name("user", caller)):
        if "--" in name:
            raise InvalidInput(f"{name!r}: where there are callers, no tenant and no caller has -- in its name")
    return f"{tenant}{CALLERS}{caller}"


def account_of(role: str, tenant: str, member: str) -> str:
    """Return the name of the account that a member belongs to."""
    match role:
        case "isolated":
            return agents_account(tenant)
        case "caller":
            return caller_account(tenant, member)
        case _:
            return core_account(tenant)


def exports(tenant: str, *, shards: int = 1) -> list[dict[str, Any]]:
    """Return what the core account lets the agents' account use, as nats-server's configuration takes it."""
    only = {"accounts": [agents_account(tenant)]}
    streamed = set(expand((*STREAMED, _PULL), "", shards))
    services = expand((*_DIRECT, *_ASKED.values()), "", shards)
    return [
        *({"service": one} | ({"response_type": "stream"} if one in streamed else {}) | only for one in services),
        *({"stream": one} | only for one in expand(_HEARD, "", shards)),
    ]


def imports(tenant: str, *, shards: int = 1) -> list[dict[str, Any]]:
    """Return what the agents' account uses of the core account, as nats-server's configuration takes it."""
    core = {"account": core_account(tenant)}
    asked = [
        {"service": core | {"subject": there}, "to": here}
        for here, there in zip(expand(_ASKED, "", shards), expand(_ASKED.values(), "", shards), strict=True)
    ]
    return [
        _ABOUT_SELF_IMPORT,
        *({"service": core | {"subject": one}} for one in expand(_DIRECT, "", shards)),
        *asked,
        *({"stream": core | {"subject": one}} for one in expand(_HEARD, "", shards)),
    ]


def caller_exports(tenant: str, callers: Iterable[str]) -> list[dict[str, Any]]:
    """Return what the core account lets callers use of the front door; nothing without callers."""
    accounts = [caller_account(tenant, caller) for caller in callers]
    if not accounts:
        return []
    services = [{"service": one, "response_type": "stream", "accounts": accounts} for one in PROMPTED]
    return [*services, {"service": ANSWERED, "accounts": accounts}, {"stream": HEARTBEATS, "accounts": accounts}]


def caller_imports(tenant: str) -> list[dict[str, Any]]:
    """Return what a caller's account uses of the core account."""
    core = {"account": core_account(tenant)}
    services = [{"service": core | {"subject": one}} for one in (*PROMPTED, ANSWERED)]
    return [_ABOUT_SELF_IMPORT, *services, {"stream": core | {"subject": HEARTBEATS}}]
