"""A broker's folder on disk: made, changed and read; what was there stays, and every change is told.

broker.toml          the plan; the only file to edit
nats-server.conf     for `nats-server -c`; users.conf: accounts, users, permissions
keys/<tenant>/<user>.nk, keys/system.nk, keys/callout/   seeds, mode 0600, nowhere else
tls/                 the authority, the server's certificate, their keys
data/                the log
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from orchestrator_free.brokerdir import certificates, layout, seeds
from orchestrator_free.brokerdir.plan import (
    FIRST_USERS,
    MAIN,
    Callout,
    Plan,
    Tenant,
    User,
    check_tenant,
    check_user,
    parse_plan,
    render_plan,
)
from orchestrator_free.contract.roles import MAKERS
from orchestrator_free.embedded.server import ServerSettings, free_port
from orchestrator_free.errors import InvalidInput
from orchestrator_free.subjects import check_name

PLAN: Final = "broker.toml"
_KEYS: Final = "keys"
_ANY: Final = ("0.0.0.0", "::", "*")  # noqa: S104 - compared, not listened on


class BrokerFolder:
    """A folder with a plan; every change is written at once.

    Attributes:
        path: absolute.
        plan: as it stands.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan

    @classmethod
    def open(cls, path: Path) -> BrokerFolder:
        """Open a folder.

        Raises:
            InvalidInput: there is no plan in it, or one that cannot be read.
        """
        file = path / PLAN
        try:
            return cls(path.resolve(), parse_plan(file.read_text()))
        except FileNotFoundError:
            raise InvalidInput(
                f"no {PLAN} in {str(path)!r}: make it with `orchestrator-free broker init {path}`"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read {str(file)!r}: {error}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{file}: {error}") from None

    @classmethod
    def init(cls, path: Path, *, callout: bool | None = None, **changes: Any) -> tuple[BrokerFolder, list[str]]:
        """Make a folder, or bring one up to date; return it and what changed, a line for each.

        Args:
            path: the folder.
            callout: make keys for the callout service; False removes it, None leaves it as it is.
            changes: fields of `Plan`; those left out, or None, stay as they are, and a port of 0 becomes a free one.

        Raises:
            InvalidInput: a value that cannot be.
        """
        wanted = {name: value for name, value in changes.items() if value is not None}
        for name, host in (("port", wanted.get("host", "127.0.0.1")), ("monitor_port", "127.0.0.1")):
            if wanted.get(name) == 0:
                wanted[name] = free_port(host)
        if (path / PLAN).exists():
            folder, told = cls.open(path), []
        else:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder, told = cls(path.resolve(), Plan()), ["made a new broker"]
            folder.plan = folder._with_first_users()
        before = folder.plan
        folder.plan = replace(folder.plan, **wanted)
        if callout is not None:
            folder.plan = folder._with_callout(wanted=callout)
        folder.plan = folder._with_other_roles(before)
        parse_plan(render_plan(folder.plan))
        return folder, told + list(_differences(before, folder.plan)) + folder.write()

    # -- users ------------------------------------------------------------------------------------------------------

    def add_tenant(self, name: str) -> list[str]:
        """Add a tenant with a gateway and an operator; nothing if it is there. Return what changed."""
        check_tenant(name)
        if name in self.plan.tenants:
            return []
        self.plan = self.plan.with_tenant(Tenant(name=name))
        told = [f"added tenant {name}"]
        for user, role in FIRST_USERS.items():
            told += self._add(name, user, role, ())
        return told + self.write()

    def add(self, tenant: str, name: str, role: str, sessions: tuple[str, ...] = ()) -> list[str]:
        """Add a user, or change its role and sessions; its key stays. Return what changed.

        Raises:
            InvalidInput: no such tenant, a name that cannot be one, an unknown role.
        """
        return self._add(tenant, name, role, sessions) + self.write()

    def _add(self, tenant: str, name: str, role: str, sessions: tuple[str, ...]) -> list[str]:
        check_user(name, role, sessions)
        before = self.plan.tenant(tenant).user(name)
        key = before.nkey if before is not None else seeds.make_seed(self.seed(tenant, name))
        user = User(name=name, role=role, nkey=key, sessions=sessions)
        if user == before:
            return []
        self.plan = self.plan.with_user(tenant, user)
        return [f"{'added' if before is None else 'changed'} {role} {name} of tenant {tenant}"]

    def remove(self, tenant: str, name: str | None) -> list[str]:
        """Remove a user with its key, or a whole tenant (its sessions stay on the disk). Return what changed.

        Raises:
            InvalidInput: there is none of this name.
        """
        names = [user.name for user in self.plan.tenant(tenant).users] if name is None else [name]
        told = []
        for one in names:
            self.plan = self.plan.without_user(tenant, one)
            told.append(f"removed {one} of tenant {tenant}")
        if name is None:
            self.plan = self.plan.without_tenant(tenant)
            told.append(f"removed tenant {tenant}")
        told += self.write()
        for one in names:  # only when the broker would not take the key any more
            self.seed(tenant, one).unlink(missing_ok=True)
        return told

    def rotate(self, tenant: str, name: str) -> list[str]:
        """Give a user another key; the one before counts no more. Return what changed.

        Raises:
            InvalidInput: there is none of this name.
        """
        user = self.plan.tenant(tenant).user(name)
        if user is None:
            raise InvalidInput(f"tenant {tenant!r} has no user {name!r}; `broker show` lists them")
        key = seeds.make_seed(self.seed(tenant, name))
        self.plan = self.plan.with_user(tenant, replace(user, nkey=key))
        return [f"new key for {name} of tenant {tenant}", *self.write()]

    def revoke(self, tenant: str, name: str, *, now: float | None = None) -> list[str]:
        """Let tokens that a user has by now count no more; return what changed. Open connections are not ended here.

        Raises:
            InvalidInput: no such tenant, or a name that cannot be one.
        """
        self.plan.tenant(tenant)
        check_name("user", name)
        when = int(time.time() if now is None else now)
        self.plan = replace(self.plan, revoked={**self.plan.revoked, f"{tenant}/{name}": when})
        return [f"tokens of {name} of tenant {tenant} count no more; new ones do", *self.write()]

    def rotate_certificate(self) -> list[str]:
        """Make a new server certificate of the same authority: clients notice nothing. Return what changed.

        Raises:
            InvalidInput: the broker has no TLS, or the authority's key is gone.
        """
        if not self.plan.tls:
            raise InvalidInput("this broker has no TLS; `broker init --tls` makes a certificate")
        certificates.make_server_certificate(self.path / layout.TLS, self.hosts())
        return [f"new certificate until {certificates.expiry(self.path / layout.TLS):%Y-%m-%d}"]

    # -- files ------------------------------------------------------------------------------------------------------

    def seed(self, tenant: str, name: str) -> Path:
        """Return where the secret key of a user is."""
        return self.path / _KEYS / tenant / f"{name}.nk"

    @property
    def system_seed(self) -> Path:
        """Where the secret key of the system account's user is."""
        return self.path / _KEYS / "system.nk"

    def callout_seed(self, name: str) -> Path:
        """Return where a secret key of the callout service is: `nkey`, `issuer` or `xkey`."""
        return self.path / _KEYS / f"callout-{name}.nk"

    @property
    def authority(self) -> Path | None:
        """The file that clients verify the broker against; None without TLS."""
        return self.path / layout.TLS / certificates.AUTHORITY if self.plan.tls else None

    @property
    def url(self) -> str:
        """Where clients on this machine find the broker."""
        host = "127.0.0.1" if self.plan.host in _ANY else self.plan.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'tls' if self.plan.tls else 'nats'}://{shown}:{self.plan.port}"

    def hosts(self) -> list[str]:
        """Return what the certificate is for."""
        own = [] if self.plan.host in _ANY else [self.plan.host]
        return list(dict.fromkeys((*self.plan.names, *own, *certificates.LOCAL, socket.gethostname())))

    def environment(self, tenant: str, name: str) -> dict[str, str]:
        """Return the environment variables with which a process connects as a user."""
        found = {
            "ORCHESTRATOR_FREE_URL": self.url,
            "ORCHESTRATOR_FREE_NKEY": str(self.seed(tenant, name)),
            "ORCHESTRATOR_FREE_INBOX": f"_INBOX.{name}",
        }
        found |= {"ORCHESTRATOR_FREE_CA": str(self.authority)} if self.authority else {}
        user = self.plan.tenant(tenant).user(name)
        if user is not None and user.role in MAKERS:  # whoever comes first makes the streams, for good
            isolated = "yes" if self.plan.isolated else "no"
            found |= {"ORCHESTRATOR_FREE_ISOLATED": isolated, "ORCHESTRATOR_FREE_SHARDS": str(self.plan.shards)}
        return found

    def options(self, tenant: str, name: str) -> dict[str, Any]:
        """Return the arguments with which `broker.connect` connects as a user."""
        return {"url": self.url, "member": name, "nkey_seed": self.seed(tenant, name), "ca": self.authority}

    def stamp(self) -> object:
        """Return what is another when the plan's file has changed."""
        found = (self.path / PLAN).stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def settings(self) -> ServerSettings:
        """Return how the embedded server runs on this folder."""
        return layout.server_settings(self.plan, self.path)

    def write(self) -> list[str]:
        """Write every file that is not as the plan says; return what changed."""
        (self.path / layout.DATA).mkdir(exist_ok=True, mode=0o700)  # nats-server writes its pid file there at once
        told = certificates.ensure(self.path / layout.TLS, self.hosts()) if self.plan.tls else []
        texts = {
            PLAN: render_plan(self.plan),
            layout.USERS: layout.users_conf(self.plan),
            layout.CONFIG: layout.nats_server_conf(self.plan, self.path),
        }
        for name, text in texts.items():
            file = self.path / name
            if not file.exists() or file.read_text() != text:
                seeds.write_secret(file, text.encode())
                told.append(f"wrote {name}")
        return told

    # -- plans ------------------------------------------------------------------------------------------------------

    def _with_first_users(self) -> Plan:
        plan = replace(self.plan, system=seeds.make_seed(self.system_seed), tenants={MAIN: Tenant(name=MAIN)})
        for name, role in FIRST_USERS.items():
            plan = plan.with_user(MAIN, User(name=name, role=role, nkey=seeds.make_seed(self.seed(MAIN, name))))
        return plan

    def _with_callout(self, *, wanted: bool) -> Plan:
        if wanted == (self.plan.callout is not None):
            return self.plan
        if not wanted:
            return replace(self.plan, callout=None)
        keys = {
            "issuer": seeds.make_seed(self.callout_seed("issuer"), "account"),
            "xkey": seeds.make_seed(self.callout_seed("xkey"), "curve"),
            "nkey": seeds.make_seed(self.callout_seed("nkey")),
        }
        return replace(self.plan, callout=Callout(**keys))

    def _with_other_roles(self, before: Plan) -> Plan:
        """Agents move with the setting: into the account of their own, or out of it."""
        if before.isolated == self.plan.isolated:
            return self.plan
        old, new = ("agent", "isolated") if self.plan.isolated else ("isolated", "agent")
        plan = self.plan
        for tenant in plan.tenants.values():
            for user in tenant.users:
                if user.role == old:
                    plan = plan.with_user(tenant.name, replace(user, role=new))
        return plan


def _differences(before: Plan, after: Plan) -> Iterator[str]:
    for name in before.__slots__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new and name not in ("tenants", "callout"):
            yield f"{name}: {old!r} is now {new!r}"
    if (before.callout is None) != (after.callout is None):
        yield "the callout service lets in whoever has a token" if after.callout else "no callout service any more"
