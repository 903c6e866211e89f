"""The configuration of nats-server: one server for production, its users, its accounts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator_free import contract
from orchestrator_free.embedded.server import ServerSettings, server_config

COMMAND: Final = "make contract"
#: who stands in the examples
AGENT: Final = "outliner"
TENANT: Final = "main"
_MEMBERS: Final = (
    ("core", "gateway"), ("operator", "operator"), ("agent", AGENT), ("service", "billing"),
    ("notifier", "notify"), ("door", "synadia"), ("caller", "partner"), ("observer", "dashboard"),
)  # fmt: skip


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
# This is one account for all: for members whose code you trust. accounts.conf is the other form, for those you do not.
#
# What it stops (tests/security/test_matrix.py tries all of it): publishing as another member, in another session than
# those an agent is narrowed to, or `meta`; taking another agent's inputs, changing another's consumer; reading
# another's replies; writing another's presence, or chunks of another's objects; making, changing, purging or deleting
# streams.
#
# What subject permissions in one account do NOT stop, because the broker itself sends the answer to any reply subject
# a client names, and because what some requests want stands in their body (tests/security/test_attacks.py):
# - forging by reply: an own event, a Direct Get or a pull with the reply subject `session.0.S.other.run.R` makes the
#   broker put its answer there: an acknowledgement (no event) or a copy of a stored message, which has headers that no
#   honest publisher sends. Readers skip and count both (PROTOCOL.md, section 3);
# - answers, and push consumers of an own name, aimed at any subject that something listens to;
# - wiping: the log takes roll-ups (a finished run replaces its deltas), and the broker asks for no further permission:
#   a publish with `Nats-Rollup: all` on an own subject drops everything else in that shard; the same for objects;
# - timers: a schedule may be aimed at another's timer, and takes its place;
# - objects: whoever may write them may describe another's anew;
# - reading: whoever may read one session of the tenant may read all, and list them with STREAM.INFO; and any member
#   may set any shared key. Neither form hides or stops that.
"""


_ABOUT_ACCOUNTS: Final = f"""\
# A tenant for agents whose code is not trusted, and its users; written by `{COMMAND}`.
#
# Include it at the top level of nats-server.conf, in the place of permissions.conf, which says how users are made. A
# tenant is two accounts: the core, which has the streams, and that of such agents, which imports what they need and
# nothing else. For another tenant copy both and replace its name; for another agent copy its user and replace the name.
# Make the streams with ORCHESTRATOR_FREE_ISOLATED=yes in the environment of the gateway that comes first (or from
# streams/*.json, with "allow_rollup_hdrs": false in those of the shards and the objects), and let a gateway run: its
# steward makes these agents' consumers, sets their timers, describes their objects and compacts their runs.
# `orchestrator-free broker init` does all of it.
#
# What it stops beside what permissions.conf stops (tests/security/): answers and consumers aimed elsewhere; roll-ups,
# and with them wiping; timers that displace another's or speak for others; replaced objects; names of objects taken
# before their content is there. No tenant sees, hears or changes anything of another. The members of the core account
# are trusted.
#
# What it does not stop: an agent may read all sessions of its tenant and list them; it may set shared keys of the
# sessions that it may join; it may fill the log, and be loud (`max_bytes` of the streams, `max_payload`).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who connects.

    Attributes:
        member: the name; it stands in the subjects.
        role: one of `contract.ROLES`, which says the account, too.
        login: how it authenticates, as nats-server's configuration says it: `nkey: U…`, or `user: a, password: b`.
        sessions: those that it may join, of an agent; none for all.
    """

    member: str
    role: str
    login: str
    sessions: tuple[str, ...] = ()


def permissions_conf(shards: int = 1) -> str:
    """Return users for every role but the isolated one, as an include of `nats-server.conf`."""
    users = [User(member=member, role=role, login=f"nkey: ${member.upper()}_NKEY") for role, member in _MEMBERS]
    blocks = "\n".join(_user(user, shards, indent="  ") for user in users)
    system = f"accounts {{\n{_system('nkey: $SYSTEM_NKEY')}\n}}\nsystem_account: {contract.SYSTEM_ACCOUNT}\n"
    return f"{_ABOUT_PERMISSIONS}\nauthorization {{\n  users: [\n{blocks}\n  ]\n}}\n\n{system}"


def accounts_conf(shards: int = 1) -> str:
    """Return a tenant with users for every role, as an include of `nats-server.conf`."""
    users = [
        User(member=member, role="isolated" if role == "agent" else role, login=f"nkey: ${member.upper()}_NKEY")
        for role, member in _MEMBERS
    ]
    return f"{_ABOUT_ACCOUNTS}\n{accounts_block({TENANT: users}, shards, system='nkey: $SYSTEM_NKEY')}"


def accounts_block(tenants: Mapping[str, Iterable[User]], shards: int = 1, *, system: str) -> str:
    """Return the two accounts of each tenant with its users, and that of the system, as nats-server's configuration.

    Args:
        tenants: who connects, by tenant.
        shards: how many streams the log of each tenant has.
        system: how the operator of the server authenticates; see `User.login`.
    """
    blocks = [_system(system)]
    for tenant, listed in tenants.items():
        users = list(listed)
        core, agents = contract.core_account(tenant), contract.agents_account(tenant)
        of: dict[str, list[User]] = {core: [], agents: []}
        for user in users:
            of.setdefault(contract.account_of(user.role, tenant, user.member), []).append(user)
        callers = [user.member for user in users if user.role == "caller"]
        exports = contract.exports(tenant, shards=shards) + contract.caller_exports(tenant, callers)
        uses: dict[str, dict[str, Any]] = {
            core: {"jetstream": "enabled", "exports": exports},
            agents: {"imports": contract.imports(tenant, shards=shards)},
        }
        blocks += [
            _account(name, uses.get(name, {"imports": contract.caller_imports(tenant)}), found, shards)
            for name, found in of.items()
        ]
    return "accounts {\n" + "\n".join(blocks) + f"\n}}\nsystem_account: {contract.SYSTEM_ACCOUNT}\n"


def _account(name: str, settings: dict[str, Any], users: Iterable[User], shards: int) -> str:
    lines = [f"  {json.dumps(name)}: {{"]
    for label, value in settings.items():
        if isinstance(value, list):
            lines += [f"    {label}: [", *(f"      {json.dumps(one)}" for one in value), "    ]"]
        else:
            lines.append(f"    {label}: {value}")
    lines += ["    users: [", *(_user(user, shards, indent="    ") for user in users), "    ]", "  }"]
    return "\n".join(lines)


def _user(user: User, shards: int, *, indent: str) -> str:
    allowed = contract.permissions(user.role, user.member, shards=shards, sessions=user.sessions)
    lines = [f"  # {user.role}: {contract.ROLES[user.role].about}", f"  {{ {user.login}, permissions {{"]
    for action in ("publish", "subscribe"):
        lines.append(f"    {action} {{ allow: [")
        lines += [f"      {json.dumps(subject)}" for subject in allowed[action]["allow"]]
        lines.append("    ] }")
    return "\n".join(indent + line for line in [*lines, "  } }"])


def _system(login: str) -> str:
    about = "  # system: sees every connection and account, and can close them; for operators, never for a member."
    exports = json.dumps(contract.SYSTEM_EXPORTS)
    return f'{about}\n  "{contract.SYSTEM_ACCOUNT}": {{ exports: {exports}, users: [ {{ {login} }} ] }}'
