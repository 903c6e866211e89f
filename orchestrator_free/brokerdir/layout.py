"""The accounts of a broker as nats-server takes them, and its two configuration files. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.brokerdir import certificates
from orchestrator_free.brokerdir.plan import CALLOUT_ACCOUNT, FIRST_USERS, MAIN, Plan, Tenant
from orchestrator_free.embedded.server import ServerSettings, server_config

USERS: Final = "users.conf"
CONFIG: Final = "nats-server.conf"
DATA: Final = "data"
TLS: Final = "tls"
#: connections of one broker; each costs it memory, whoever opens them
_MAX_CONNECTIONS: Final = 2000
#: a token and a name fit into what a client says first; before that it costs no more
_MAX_CONTROL_LINE: Final = 16 * 1024
#: for so long the broker waits for the callout service
AUTH_SECONDS: Final = 2
_ABOUT_USERS: Final = """\
# Who may connect, and what each may publish and receive; written by `orchestrator-free broker` from broker.toml.
# JSON is valid configuration. Keys here are public. After a change: nats-server --signal reload.
"""
_ABOUT_CONFIG: Final = """\
# Written by `orchestrator-free broker` from broker.toml. Start it with `nats-server -c nats-server.conf` (2.14 or
# newer, the official one in production); `orchestrator-free broker run` does the same with the embedded program.
"""


def accounts(plan: Plan) -> dict[str, Any]:
    """Return every account: those of the tenants, the system's, the callout service's."""
    found: dict[str, Any] = {}
    for tenant in plan.tenants.values():
        found |= _tenant_accounts(tenant, plan)
    found[contract.SYSTEM_ACCOUNT] = {"exports": contract.SYSTEM_EXPORTS, "users": [{"nkey": plan.system}]}
    if plan.callout is not None:
        found[CALLOUT_ACCOUNT] = {"users": [{"nkey": plan.callout.nkey}]}
    return found


def _tenant_accounts(tenant: Tenant, plan: Plan) -> dict[str, Any]:
    core = contract.core_account(tenant.name)
    exports = contract.caller_exports(tenant.name, tenant.callers)
    found: dict[str, Any] = {core: {"jetstream": "enabled", "users": []}}
    if plan.isolated:
        exports = contract.exports(tenant.name, shards=plan.shards) + exports
        agents = contract.agents_account(tenant.name)
        found[agents] = {"imports": contract.imports(tenant.name, shards=plan.shards), "users": []}
    if exports:
        found[core]["exports"] = exports
    for caller in tenant.callers:
        account = contract.caller_account(tenant.name, caller)
        found[account] = {"imports": contract.caller_imports(tenant.name), "users": []}
    for user in tenant.users:
        allowed = contract.permissions(user.role, user.name, shards=plan.shards, sessions=user.sessions)
        account = contract.account_of(user.role, tenant.name, user.name)
        found[account]["users"].append({"nkey": user.nkey, "permissions": allowed})
    return found


def users_conf(plan: Plan) -> str:
    """Return the include with accounts and users."""
    listed = [
        f"# {tenant.name}/{user.name}: {user.role}, {user.nkey}"
        for tenant in plan.tenants.values()
        for user in tenant.users
    ]
    lines = [_ABOUT_USERS, *listed, ""]
    if plan.callout is not None:
        # The server takes no other list without a restart; so it holds who has to come in without the service.
        core = [user.nkey for user in plan.tenant(MAIN).users if user.name in FIRST_USERS]
        asked = {
            "issuer": plan.callout.issuer,
            "account": CALLOUT_ACCOUNT,
            "auth_users": [plan.callout.nkey, plan.system, *core],
            "xkey": plan.callout.xkey,
        }
        lines.append(f"authorization: {_json({'timeout': AUTH_SECONDS, 'auth_callout': asked})}")
    lines += [f"accounts: {_json(accounts(plan))}", f"system_account: {contract.SYSTEM_ACCOUNT}", ""]
    return "\n".join(lines)


def server_settings(plan: Plan, folder: Path) -> ServerSettings:
    """Return how the embedded server runs on a folder."""
    return ServerSettings(
        data=folder / DATA,
        host=plan.host,
        port=plan.port,
        monitor_port=plan.monitor_port,
        durability=plan.durability,
        max_file_store=plan.max_file_store,
        max_connections=_MAX_CONNECTIONS,
        extra=_extra(plan, folder, f"../{USERS}"),
        tls=plan.tls,
    )


def nats_server_conf(plan: Plan, folder: Path) -> str:
    """Return the configuration for a nats-server that somebody else starts."""
    pid = json.dumps(str(folder / DATA / "nats-server.pid"), ensure_ascii=False)
    settings = server_settings(plan, folder)
    extra = f"pid_file: {pid}\n{_extra(plan, folder, USERS)}"
    changed = {name: getattr(settings, name) for name in settings.__slots__} | {"extra": extra}
    return _ABOUT_CONFIG + server_config(ServerSettings(**changed))


def _extra(plan: Plan, folder: Path, users: str) -> str:
    """Return what follows the settings; an include is looked for beside the file that has it."""
    tls = tls_block(folder / TLS) if plan.tls else ""
    return f"max_control_line: {_MAX_CONTROL_LINE}\n{tls}include {json.dumps(users)}\n"


def tls_block(folder: Path) -> str:
    """Return what makes a server encrypt, with the certificate of a folder."""
    files = {"cert_file": certificates.SERVER, "key_file": certificates.SERVER_KEY}
    paths = {name: str(folder / file) for name, file in files.items()}
    return f"tls: {_json(paths | {'timeout': 5})}\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
