"""`orchestrator-free broker`: one folder says who may connect; keys are secret, what was there stays, changes count at once."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import stat
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
from cryptography import x509

from orchestrator_free import Agent, Run, connect
from orchestrator_free.brokerdir import BrokerFolder, Plan, Tenant, User
from orchestrator_free.brokerdir import certificates as tls
from orchestrator_free.brokerdir.plan import parse_plan, render_plan
from orchestrator_free.brokerdir.running import embedded, prepare, reload, system
from orchestrator_free.brokerdir.seeds import decode_curve, make_seed, public_key
from orchestrator_free.embedded.binary import find_binary
from orchestrator_free.errors import BrokerUnreachable, InvalidInput, PermissionDenied
from orchestrator_free.steward import Steward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PORTS = {"port": 0, "monitor_port": 0}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def secrets_of(folder: Path) -> list[bytes]:
    return [path.read_bytes().strip() for path in folder.rglob("*.nk")]


# -- files ----------------------------------------------------------------------------------------------------------


def test_seeds_are_in_files_of_their_own_that_only_the_owner_reads(tmp_path: Path) -> None:
    """Mode 0600 from the first moment, and no configuration, plan or told line has one of them in it."""
    folder, told = BrokerFolder.init(tmp_path / "b", tls=True, callout=True)
    told += folder.add("main", "greeter", "isolated")
    seeds = secrets_of(folder.path)

    assert len(seeds) == 7  # gateway, operator, greeter, system, and three of the callout service
    for path in [*folder.path.rglob("*.nk"), *folder.path.rglob("*-key.pem")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    public = (
        b"".join(text for name, text in files(folder.path).items() if not name.endswith(".nk")) + repr(told).encode()
    )
    assert [seed for seed in seeds if seed in public] == []
    assert b"password" not in public


def test_a_second_init_keeps_everything(tmp_path: Path) -> None:
    """Nothing is said, nothing is told, no byte changes."""
    folder, _ = BrokerFolder.init(tmp_path / "b", tls=True)
    folder.add("main", "greeter", "isolated", ("a", "b"))
    before = files(folder.path)
    again, told = BrokerFolder.init(tmp_path / "b")

    assert told == []
    assert files(folder.path) == before
    assert again.plan == folder.plan


def test_what_is_changed_is_told_and_the_rest_stays(tmp_path: Path) -> None:
    """Another port, another host name: a new certificate of the same authority, every key as it was."""
    folder, _ = BrokerFolder.init(tmp_path / "b", tls=True)
    before = files(folder.path)
    _, told = BrokerFolder.init(tmp_path / "b", port=4333, names=("nats.example.com",))
    after = files(folder.path)

    assert "port: 4222 is now 4333" in told
    assert any("nats.example.com" in line and "certificate" in line for line in told)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"broker.toml", "nats-server.conf", "tls/server.pem", "tls/server-key.pem"}


def test_the_configuration_is_one_that_nats_server_takes(tmp_path: Path) -> None:
    """`nats-server -t` on the folder, with everything there is; odd folder names included."""
    folder, _ = BrokerFolder.init(tmp_path / 'it\'s "odd" ü', tls=True, callout=True, shards=2)
    folder.add_tenant("acme")
    for name, role in (
        ("greeter", "isolated"),
        ("trusted", "agent"),
        ("billing", "service"),
        ("watch", "observer"),
        ("notify", "notifier"),
    ):
        folder.add("acme", name, role)
    command = [str(find_binary().path), "-t", "-c", str(folder.path / "nats-server.conf")]
    tested = subprocess.run(command, capture_output=True, text=True)

    assert tested.returncode == 0, tested.stderr


def test_the_plan_survives_its_file() -> None:
    """What is written is what is read, with every field used."""
    users = (User(name="a", role="agent", nkey="U" + "A" * 55, sessions=("s1", "s2")),)
    plan = Plan(port=1, names=("x.org", "::1"), tls=True, max_file_store=5, system="U" + "B" * 55, isolated=False)
    plan = plan.with_tenant(Tenant(name="acme", users=users))

    assert parse_plan(render_plan(plan)) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[broker", "no TOML"),
        ("[brok]\n", "brok"),
        ("[broker]\nport = 'x'\n", "expected int"),
        ("[broker]\nport = 0\n", "no port"),
        ("[broker]\nhost = \"x\\nauthorization: {}\"\n", "no host name"),
        ("[broker]\ndurability = 'maybe'\n", "expected fsync or interval"),
        ("[tenants.'a.b']\n", "a.b"),
        ("[tenants.a]\nx = 5\n", "each line is a user"),
        ("[tenants.a]\nx = { role = 'king', nkey = '' }\n", "no role 'king'"),
        ("[tenants.a]\nx = { role = 'agent', nkey = 'SUAM' }\n", "no public nkey"),
        (f"[tenants.a]\nx = {{ role = 'observer', sessions = ['s'], nkey = 'U{'A' * 55}' }}\n", "for all sessions"),
        (f"[tenants.a]\nx = {{ role = 'agent', nkey = 'U{'A' * 55}' }}\ny = {{ role = 'agent', nkey = 'U{'A' * 55}' }}\n",
         "key of a/x"),
        (f"[tenants.a]\n'x y' = {{ role = 'agent', nkey = 'U{'A' * 55}' }}\n", "x y"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(text: str, said: str) -> None:
    """With what is wrong; nothing is written from it."""
    with pytest.raises(InvalidInput, match=re.escape(said)) as caught:
        parse_plan(text)
    assert "SUAM" not in str(caught.value) or len(str(caught.value)) < 200


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The error says which file, and what to do."""
    make_seed(tmp_path / "x.nk")
    (tmp_path / "x.nk").chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        public_key(tmp_path / "x.nk")


def test_keys_are_nkeys_as_the_library_has_them(tmp_path: Path) -> None:
    """User and account keys are read by `nkeys`, the curve key has NATS's prefix and checksum."""
    user, account, curve = (make_seed(tmp_path / kind, kind) for kind in ("user", "account", "curve"))

    for key, path in ((user, "user"), (account, "account")):
        pair = nkeys.from_seed(bytearray((tmp_path / path).read_bytes().strip()))
        assert pair.public_key.decode() == key
    assert (user[0], account[0], curve[0]) == ("U", "A", "X")
    assert len(decode_curve(curve)) == 32
    with pytest.raises(InvalidInput):
        decode_curve(curve[:-1] + ("A" if curve[-1] != "A" else "B"))
    assert base64.b32decode((tmp_path / "curve").read_text().strip() + "======")


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_certificates_hold_for_the_names_they_are_for(tmp_path: Path) -> None:
    """Of the authority, for server use, with the names as hosts or addresses; one that ends soon is made anew."""
    tls.make_authority(tmp_path)
    tls.make_server_certificate(tmp_path, ["nats.example.com", "10.1.2.3", "::1"])
    authority, server = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in (tls.AUTHORITY, tls.SERVER)
    )
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    server.verify_directly_issued_by(authority)
    assert names.get_values_for_type(x509.DNSName) == ["nats.example.com"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "::1"]
    assert tls.covers(tmp_path, ["10.1.2.3"])
    assert not tls.covers(tmp_path, ["10.1.2.4"])
    assert not tls.covers(tmp_path, ["::1"], now=datetime.now(UTC) + timedelta(days=397 - 29))


def test_a_certificate_is_made_only_by_the_authority_that_is_there(tmp_path: Path) -> None:
    """Without its key, or with another one, nothing is made that clients would refuse."""
    tls.make_authority(tmp_path)
    key = (tmp_path / tls.AUTHORITY_KEY).read_bytes()
    tls.make_authority(tmp_path)
    (tmp_path / tls.AUTHORITY_KEY).write_bytes(key)
    with pytest.raises(InvalidInput, match="not the key"):
        tls.make_server_certificate(tmp_path, ["x"])
    (tmp_path / tls.AUTHORITY_KEY).unlink()
    with pytest.raises(InvalidInput, match="restore"):
        tls.make_server_certificate(tmp_path, ["x"])


# -- a broker that runs ---------------------------------------------------------------------------------------------


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[BrokerFolder]:
    """A broker with TLS that runs."""
    made, _ = BrokerFolder.init(tmp_path / "b", tls=True, durability="interval", **PORTS)
    async with embedded(made):
        yield made


async def test_users_connect_with_keys_over_tls_and_nobody_else_does(folder: BrokerFolder, tmp_path: Path) -> None:
    """The gateway works; without a key, with a stranger's key, without the authority or without TLS nobody comes in."""
    make_seed(tmp_path / "stranger.nk")
    good = folder.options("main", "gateway")
    async with connect(**good) as broker:
        await broker.session("s").create()
        assert [one.session for one in await broker.sessions()] == ["s"]

    for bad, error in (
        ({"nkey_seed": None}, PermissionDenied),
        ({"nkey_seed": tmp_path / "stranger.nk"}, PermissionDenied),
        ({"ca": None}, BrokerUnreachable),
    ):
        with pytest.raises(error):
            async with connect(**good | bad):
                pass
    reader, writer = await asyncio.open_connection("127.0.0.1", folder.plan.port)
    assert b'"tls_required":true' in await reader.readline()
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    assert b"PONG" not in await reader.read()
    writer.close()


async def test_an_agent_that_is_added_counts_at_once_and_one_removed_is_gone_at_once(
    folder: BrokerFolder, eventually: Any
) -> None:
    """Without a restart: its key opens the door, and its open connection ends when it is removed."""
    folder.add("main", "greeter", "isolated")
    assert await reload(folder)
    async with connect(**folder.options("main", "greeter")) as broker:
        wire = broker.log.wire
        seed = folder.seed("main", "greeter").read_bytes()
        folder.remove("main", "greeter")
        assert await reload(folder)
        await eventually(lambda: not wire.connected.is_set())

    assert not folder.seed("main", "greeter").exists()
    folder.seed("main", "greeter").write_bytes(seed)
    folder.seed("main", "greeter").chmod(0o600)
    with pytest.raises(PermissionDenied):
        async with connect(**folder.options("main", "greeter")):
            pass


async def test_an_agent_is_bound_to_its_sessions(folder: BrokerFolder) -> None:
    """What is said to it in others does not reach it, it cannot write there; given one more, it works there from then on."""
    folder.add("main", "greeter", "isolated", ("a",))
    assert await reload(folder)
    await prepare(folder, "main")
    got = asyncio.Event()
    served: list[str] = []
    agent = Agent("greeter")

    @agent
    async def greet(run: Run) -> None:
        served.append(run.session.id)
        await run.text("hello")
        got.set()

    async with connect(**folder.options("main", "gateway")) as gateway, Steward(gateway):
        for name in ("b", "a"):
            await gateway.session(name).create()
            await gateway.session(name).send("hi", to="greeter")
        async with connect(**folder.options("main", "greeter")) as broker:
            ready = asyncio.Event()
            working = asyncio.create_task(agent.serve(broker, ready=ready.set))
            async with asyncio.timeout(60):
                await got.wait()
                assert served == ["a"]
                with pytest.raises(PermissionDenied):
                    await broker.session("b").state.set("x", 1)
                got.clear()
                folder.add("main", "greeter", "isolated", ("a", "b"))
                assert await reload(folder)
                await prepare(folder, "main")
                await gateway.session("b").send("again", to="greeter")
                await got.wait()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    assert served == ["a", "b"]


async def test_a_rotated_key_replaces_the_one_before(folder: BrokerFolder, tmp_path: Path) -> None:
    """The old key is refused, the new one is taken."""
    old = tmp_path / "old.nk"
    old.write_bytes(folder.seed("main", "operator").read_bytes())
    old.chmod(0o600)
    folder.rotate("main", "operator")
    assert await reload(folder)

    async with connect(**folder.options("main", "operator")):
        pass
    with pytest.raises(PermissionDenied):
        async with connect(**folder.options("main", "operator") | {"nkey_seed": old}):
            pass


async def test_a_rotated_certificate_is_shown_after_a_reload(folder: BrokerFolder) -> None:
    """Clients that trust the authority notice nothing; open connections stay."""

    async def shown() -> bytes | None:
        context = ssl.create_default_context(cafile=str(folder.authority))
        reader, writer = await asyncio.open_connection("127.0.0.1", folder.plan.port)
        await reader.readline()
        await writer.start_tls(context, server_hostname="127.0.0.1")
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return found

    before = await shown()
    async with connect(**folder.options("main", "gateway")) as staying:
        folder.rotate_certificate()
        assert await reload(folder)
        async with connect(**folder.options("main", "gateway")) as fresh:
            await fresh.session("s").create()
        assert staying.log.wire.reconnects == 0
    assert await shown() != before


async def test_a_tenant_sees_nothing_of_another(folder: BrokerFolder) -> None:
    """Sessions of one name in two tenants are two sessions; neither lists the other's."""
    folder.add_tenant("acme")
    assert await reload(folder)
    async with (
        connect(**folder.options("main", "gateway")) as ours,
        connect(**folder.options("acme", "gateway")) as theirs,
    ):
        await ours.session("s").create(title="ours")
        await ours.session("secret").create()
        await theirs.session("s").create(title="theirs")

        assert {one.session: one.title for one in await theirs.sessions()} == {"s": "theirs"}
        assert {one.session: one.title for one in await ours.sessions()} == {"s": "ours", "secret": ""}


async def test_the_system_account_sees_and_ends_connections(folder: BrokerFolder, eventually: Any) -> None:
    """Of every account, by name of the user; one that is kicked comes back by itself."""
    async with connect(**folder.options("main", "gateway")) as broker, system(folder) as found:
        [ours] = [one for one in await found.connections() if one["name"] == "orchestrator-free gateway"]
        await found.kick(ours)
        await eventually(lambda: broker.log.wire.reconnects == 1)

    assert ours["authorized_user"] == folder.plan.tenant("main").users[0].nkey


async def test_a_change_that_the_broker_refuses_is_an_error(folder: BrokerFolder) -> None:
    """It goes on as before, and the error says how to see why."""
    (folder.path / "users.conf").write_text("accounts: { nonsense")
    with pytest.raises(Exception, match="old configuration"):
        await reload(folder)
    async with connect(**folder.options("main", "gateway")):
        pass


async def test_what_is_written_while_no_broker_runs_counts_later(tmp_path: Path) -> None:
    """`reload` says that nobody took it."""
    made, _ = BrokerFolder.init(tmp_path / "b", **PORTS)

    assert await reload(made) is False


def test_opening_what_is_no_folder_says_how_to_make_one(tmp_path: Path) -> None:
    """The command stands in the error."""
    with pytest.raises(InvalidInput, match="broker init"):
        BrokerFolder.open(tmp_path)


def test_removing_who_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Users and tenants; nothing is changed."""
    made, _ = BrokerFolder.init(tmp_path / "b")
    before = files(made.path)
    for tenant, name in (("main", "nobody"), ("nobody", None)):
        with pytest.raises(InvalidInput, match="nobody"):
            made.remove(tenant, name)
    assert files(made.path) == before
    assert replace(made.plan) == made.plan
