"""`broker.toml`: the one file that says what a broker is, as a value. Pure: text in, a plan or an error out.

It holds public keys only. A tenant is an account of its own, or a few; nobody in one sees anything of another.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

from orchestrator_free import contract
from orchestrator_free.errors import InvalidInput
from orchestrator_free.subjects import check_name

#: the tenant that is there from the beginning, and its users
MAIN: Final = "main"
FIRST_USERS: Final = {"gateway": "core", "operator": "operator"}
GATEWAY: Final = "gateway"
CALLOUT_ACCOUNT: Final = "AUTH"

Durability = Literal["fsync", "interval"]

_PUBLIC_KEY: Final = re.compile(r"[UAX][A-Z2-7]{55}")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:*-]{1,253}")
_HEAD: Final = """\
# The broker of this folder, and who may connect. `orchestrator-free broker` writes nats-server.conf and users.conf from
# it; after a change by hand run `orchestrator-free broker init` on the folder. Keys here are public; the secret ones
# are in keys/, one file per user, for you to carry to where that user runs.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who connects with a key.

    Attributes:
        role: one of `contract.ROLES`.
        nkey: the public key.
        sessions: those it may take part in; none: all.
    """

    name: str
    role: str
    nkey: str
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Users that share sessions."""

    name: str
    users: tuple[User, ...] = ()

    def user(self, name: str) -> User | None:
        """Return a user, if there is one of this name."""
        return next((user for user in self.users if user.name == name), None)

    @property
    def callers(self) -> list[str]:
        """The callers of the Synadia Agent Protocol, each of which has an account for itself."""
        return [user.name for user in self.users if user.role == "caller"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Callout:
    """The keys of the callout service, which lets people and programs in by token.

    Attributes:
        issuer: signs what the service answers.
        xkey: what the server encrypts its questions for.
        nkey: of the service itself.
    """

    issuer: str
    xkey: str
    nkey: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a broker is.

    Attributes:
        isolated: agents have an account of their own within their tenant.
        tls: connections are encrypted; `names` are the hosts that the certificate is for.
        max_file_store: bytes; None: most of what the disk can give.
        revoked: tenant/user -> seconds since 1970: tokens that were made until then count no more.
        system: the public key of who sees and ends connections of all accounts.
    """

    host: str = "127.0.0.1"
    port: int = 4222
    monitor_port: int = 8222
    durability: Durability = "fsync"
    isolated: bool = True
    tls: bool = False
    names: tuple[str, ...] = ()
    shards: int = 1
    max_file_store: int | None = None
    system: str = ""
    callout: Callout | None = None
    revoked: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)

    def tenant(self, name: str) -> Tenant:
        """Return a tenant.

        Raises:
            InvalidInput: there is none of this name.
        """
        if name not in self.tenants:
            raise InvalidInput(
                f"no tenant {name!r}; there is {', '.join(self.tenants) or 'none'}: `broker tenant` adds one"
            )
        return self.tenants[name]

    def keyed(self, nkey: str) -> tuple[Tenant, User] | None:
        """Return whose public key it is."""
        users = ((tenant, user) for tenant in self.tenants.values() for user in tenant.users)
        return next(((tenant, user) for tenant, user in users if user.nkey == nkey), None)

    def with_tenant(self, tenant: Tenant) -> Plan:
        """Return the plan with a tenant as given."""
        return replace(self, tenants={**self.tenants, tenant.name: tenant})

    def with_user(self, tenant: str, user: User) -> Plan:
        """Return the plan with a user of a tenant as given."""
        found = self.tenant(tenant)
        kept = {one.name: one for one in found.users} | {user.name: user}
        return self.with_tenant(replace(found, users=tuple(kept.values())))

    def without_user(self, tenant: str, name: str) -> Plan:
        """Return the plan without a user.

        Raises:
            InvalidInput: there is none of this name.
        """
        found = self.tenant(tenant)
        if found.user(name) is None:
            raise InvalidInput(f"tenant {tenant!r} has no user {name!r}; `broker show` lists them")
        return self.with_tenant(replace(found, users=tuple(one for one in found.users if one.name != name)))

    def without_tenant(self, name: str) -> Plan:
        """Return the plan without a tenant."""
        self.tenant(name)
        return replace(self, tenants={key: one for key, one in self.tenants.items() if key != name})


def check_tenant(name: str) -> None:
    """Refuse what cannot be a tenant.

    Raises:
        InvalidInput: a name that cannot be one, or that of an account which is not a tenant's.
    """
    check_name("tenant", name)
    if name in (contract.SYSTEM_ACCOUNT, CALLOUT_ACCOUNT) or contract.CALLERS in name:
        raise InvalidInput(f"a tenant cannot be called {name!r}: that account is the broker's own")


def check_user(name: str, role: str, sessions: tuple[str, ...]) -> None:
    """Refuse what cannot be a user.

    Raises:
        InvalidInput: a name that cannot be one, an unknown role, or sessions for a role that reads all.
    """
    check_name("user", name)
    if role not in contract.ROLES:
        raise InvalidInput(f"user {name!r}: no role {role!r}; there are {', '.join(contract.ROLES)}")
    try:
        contract.check_role(role, name, sessions)
    except InvalidInput as error:
        raise InvalidInput(f"user {name!r}: {error}") from None


# -- text -----------------------------------------------------------------------------------------------------------


def render_plan(plan: Plan) -> str:
    """Return the text of `broker.toml`."""
    lines = [_HEAD, "[broker]"]
    for item in fields(plan):
        value = getattr(plan, item.name)
        if item.name not in ("callout", "revoked", "tenants") and value is not None:
            lines.append(f"{item.name} = {_toml(value)}")
    if plan.callout is not None:
        lines += [
            "",
            "[callout]",
            *(f"{key} = {_toml(getattr(plan.callout, key))}" for key in ("issuer", "xkey", "nkey")),
        ]
    if plan.revoked:
        lines += ["", "[revoked]", *(f"{_toml(name)} = {when}" for name, when in plan.revoked.items())]
    for tenant in plan.tenants.values():
        lines += ["", f"[tenants.{tenant.name}]"]
        for user in tenant.users:
            about = f"role = {_toml(user.role)}, nkey = {_toml(user.nkey)}"
            more = f", sessions = {_toml(user.sessions)}" if user.sessions else ""
            lines.append(f"{user.name} = {{ {about}{more} }}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def parse_plan(text: str) -> Plan:
    """Read `broker.toml`.

    Raises:
        InvalidInput: it is none; says what is wrong.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"no TOML: {error}") from None
    _known("the file", found, {"broker", "callout", "revoked", "tenants"})
    settings = dict(found.get("broker", {}))
    _known("[broker]", settings, {item.name for item in fields(Plan)} - {"callout", "revoked", "tenants"})
    if "names" in settings:
        settings["names"] = tuple(settings["names"])
    callout = found.get("callout")
    if callout is not None:
        _known("[callout]", callout, {"issuer", "xkey", "nkey"})
    tenants = {tenant.name: tenant for tenant in _tenants(found.get("tenants", {}))}
    try:
        keys = None if callout is None else Callout(**callout)
        plan = Plan(**settings, callout=keys, revoked=found.get("revoked", {}), tenants=tenants)
    except TypeError as error:
        raise InvalidInput(f"[callout]: {error}") from None
    _check(plan)
    return plan


def _known(where: str, found: Mapping[str, Any], names: set[str]) -> None:
    if unknown := found.keys() - names:
        raise InvalidInput(
            f"{where} has {', '.join(sorted(unknown))}, which is not known; there is {', '.join(sorted(names))}"
        )


def _tenants(found: Mapping[str, Any]) -> Iterator[Tenant]:
    for name, users in found.items():
        check_tenant(name)
        if not isinstance(users, dict) or not all(isinstance(about, dict) for about in users.values()):
            raise InvalidInput(f"[tenants.{name}]: each line is a user, as in: ann = {{ role = 'agent', nkey = 'U…' }}")
        yield Tenant(name=name, users=tuple(_user(user, about) for user, about in users.items()))


def _user(name: str, about: Mapping[str, Any]) -> User:
    _known(f"user {name!r}", about, {"role", "nkey", "sessions"})
    user = User(
        name=name, role=about.get("role", ""), nkey=about.get("nkey", ""), sessions=tuple(about.get("sessions", ()))
    )
    check_user(user.name, user.role, user.sessions)
    return user


def _check(plan: Plan) -> None:
    """Refuse values that a configuration must not be made of."""
    for item in fields(plan):
        kind, value = item.type, getattr(plan, item.name)
        if (kind in ("int", "bool") and type(value).__name__ != kind) or (kind == "str" and not isinstance(value, str)):
            raise InvalidInput(f"{item.name} = {value!r}: expected {kind}")
    if plan.durability not in get_args(Durability):
        raise InvalidInput(f"durability = {plan.durability!r}: expected fsync or interval")
    for port in (plan.port, plan.monitor_port):
        if not 1 <= port <= 65535:
            raise InvalidInput(f"{port} is no port")
    if not 1 <= plan.shards <= 1000:
        raise InvalidInput(f"shards = {plan.shards}: expected 1 to 1000")
    if not all(isinstance(when, int) for when in plan.revoked.values()):
        raise InvalidInput("[revoked]: each line is a time in seconds since 1970, as in: 'acme/ann' = 1764340000")
    if bad := [name for name in (plan.host, *plan.names) if not isinstance(name, str) or not _HOST.fullmatch(name)]:
        raise InvalidInput(f"{bad[0]!r} is no host name and no address")
    _check_keys(plan)


def _check_keys(plan: Plan) -> None:
    """Every user has a public key, and no two the same: the broker would take one for the other."""
    keys: dict[str, str] = {plan.system: "system"}
    users = [(f"{tenant.name}/{user.name}", user.nkey) for tenant in plan.tenants.values() for user in tenant.users]
    if plan.callout is not None:
        users += [(f"callout.{name}", getattr(plan.callout, name)) for name in ("issuer", "xkey", "nkey")]
    for name, key in users:
        if not isinstance(key, str) or not _PUBLIC_KEY.fullmatch(key):
            raise InvalidInput(f"{name}: {str(key)[:8]!r}… is no public nkey (U and 55 letters)")
        if key in keys:
            raise InvalidInput(f"{name} has the key of {keys[key]}; each needs one of its own")
        keys[key] = name
