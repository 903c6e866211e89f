"""The auth callout service: a token opens exactly what it says, until it ends; one of two services may always be dead."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import secrets
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import nkeys
import pytest
from nacl.public import PrivateKey

from orchestrator_free import connect, contract
from orchestrator_free.broker import stream_settings
from orchestrator_free.brokerdir import BrokerFolder
from orchestrator_free.brokerdir.plan import Plan, Tenant
from orchestrator_free.brokerdir.running import embedded, kick, prepare, reload, system
from orchestrator_free.brokerdir.seeds import encode_key
from orchestrator_free.callout import envelopes
from orchestrator_free.callout.grants import AUDIENCE, REQUIRED, grant_of, mint
from orchestrator_free.callout.service import CalloutService
from orchestrator_free.errors import BrokerError, InvalidInput, NotAuthenticated, PermissionDenied, TokenExpired
from orchestrator_free.identity.keys import Key, make_key, public_path, read_key, read_key_file, write_new_keys
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.identity.tokens import mint as mint_for_gateway
from orchestrator_free.steward import Steward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SCRIPT = "import sys\nfrom orchestrator_free.cli import main\nsys.argv[0] = 'orchestrator-free'\nmain()\n"


class Place:
    """A broker that asks, with two tenants, and the key that signs tokens."""

    def __init__(self, folder: BrokerFolder, keys: Path) -> None:
        self.folder = folder
        self.keys = keys
        self.key: Key = next(iter(read_key_file(keys).values()))

    def verifier(self) -> Verifier:
        return Verifier(FileKeys(public_path(self.keys)), audience=AUDIENCE, leeway=0, required=REQUIRED)

    def token(self, member: str = "ada", role: str = "core", *, tenant: str = "acme", **more: Any) -> str:
        return mint(self.key, member, role, tenant=tenant, **more)

    def connect(self, token: Any, member: str = "ada") -> Any:
        access = {"token_file": token} if isinstance(token, Path) else {"token": token}
        return connect(self.folder.url, member=member, ca=self.folder.authority, **access)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The folder and the keys of the module's broker."""
    path = tmp_path_factory.mktemp("callout")
    ports = {"port": 0, "monitor_port": 0}
    folder, _ = BrokerFolder.init(path / "b", tls=True, callout=True, durability="interval", **ports)
    folder.add_tenant("acme")
    folder.add_tenant("rival")
    write_new_keys(path / "keys.json", "EdDSA")
    return Place(folder, path / "keys.json")


@pytest.fixture
async def place(made: Place) -> AsyncIterator[Place]:
    """The broker runs."""
    async with embedded(made.folder):
        yield made


@pytest.fixture
async def served(place: Place) -> AsyncIterator[Place]:
    """The broker runs, and so does a service."""
    async with CalloutService.open(place.folder, place.verifier()):
        for tenant in ("acme", "rival"):
            await prepare(place.folder, tenant)
        yield place


async def test_a_token_opens_its_tenant_in_its_role(served: Place) -> None:
    """The gateway of a tenant by token: sessions are made and read; with keys alone users come in as before."""
    async with served.connect(served.token()) as broker:
        await broker.session("by-token").create(title="t")
        assert "by-token" in [one.session for one in await broker.sessions()]
    async with connect(**served.folder.options("acme", "operator")) as broker:
        assert "by-token" in [one.session for one in await broker.sessions()]


def _forged(place: Place, **claims: Any) -> dict[str, Any]:
    known = {"iss": "orchestrator-free", "aud": AUDIENCE, "sub": "ada", "jti": "x", "iat": int(time.time()) - 10}
    return known | {"exp": int(time.time()) + 60, "tenant": "acme", "role": "core"} | claims


def _signed(place: Place, **claims: Any) -> str:
    return jwt.encode(_forged(place, **claims), place.key.signing, algorithm="EdDSA", headers={"kid": place.key.id})


BAD: dict[str, Callable[[Place], str]] = {
    "empty": lambda place: "",
    "garbage": lambda place: "x" * 50,
    "three parts of garbage": lambda place: "a.b.c",
    "huge": lambda place: "x" * 9000,
    "expired": lambda place: _signed(place, exp=int(time.time()) - 1),
    "without an end": lambda place: jwt.encode(
        {name: value for name, value in _forged(place).items() if name != "exp"}, place.key.signing, algorithm="EdDSA",
        headers={"kid": place.key.id},
    ),
    "wrong key": lambda place: mint(read_key(make_key("EdDSA")), "ada", "core", tenant="acme"),
    "wrong key of the right name": lambda place: jwt.encode(
        _forged(place), read_key(make_key("EdDSA")).signing, algorithm="EdDSA", headers={"kid": place.key.id}
    ),
    "alg none": lambda place: jwt.encode(_forged(place), None, algorithm="none", headers={"kid": place.key.id}),
    "the public key as a secret": lambda place: jwt.encode(
        _forged(place), json.loads(public_path(place.keys).read_text())["keys"][0]["x"] * 2, algorithm="HS256",
        headers={"kid": place.key.id},
    ),
    "a key of its own": lambda place: jwt.encode(
        _forged(place), place.key.signing, algorithm="EdDSA", headers={"kid": place.key.id, "jwk": {}}
    ),
    "of a tenant that is not": lambda place: _signed(place, tenant="nobody"),
    "for the system": lambda place: _signed(place, tenant="SYS"),
    "unknown role": lambda place: _signed(place, role="king"),
    "no name": lambda place: _signed(place, sub="a.b"),
    "a name with a wildcard": lambda place: _signed(place, sub="*"),
    "sessions with a wildcard": lambda place: _signed(place, role="agent", sessions=[">"]),
    "sessions that are none": lambda place: _signed(place, role="agent", sessions="s"),
    "sessions for a role of all": lambda place: _signed(place, sessions=["s"]),
    "another audience": lambda place: _signed(place, aud="orchestrator-free"),
    "another issuer": lambda place: _signed(place, iss="somebody"),
    "a token for the gateway": lambda place: mint_for_gateway(place.key, "ada", sessions=["*"]),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=list(BAD))
async def test_what_is_no_good_token_opens_nothing(made: Place, bad: str) -> None:
    """Refused by what reads it; the error names no part of the token."""
    token = BAD[bad](made)
    verifier = made.verifier()
    await verifier.keys.load()
    with pytest.raises((NotAuthenticated, TokenExpired)) as caught:
        grant_of(await verifier.claims(token), made.folder.plan, now=time.time())
    assert not token or token[-40:] not in str(caught.value)


async def test_bad_tokens_are_refused_by_the_broker(served: Place) -> None:
    """All of them, at the real thing, with a clear error and in the time that a good one takes."""
    for name, make in BAD.items():
        began = time.monotonic()
        with pytest.raises(PermissionDenied, match="refused the credentials") as caught:
            async with served.connect(make(served) or None):
                pass
        assert time.monotonic() - began < 20, name
        assert "eyJ" not in str(caught.value)


async def test_no_tenant_sees_another_through_tokens(served: Place) -> None:
    """Same names, other account: a foreign session is not listed, not read, not written; nor heard live."""
    async with (
        served.connect(served.token(tenant="acme")) as ours,
        served.connect(served.token(tenant="rival")) as theirs,
    ):
        await ours.session("shared").create(title="ours")
        await theirs.session("shared").create(title="theirs")
        await ours.session("secret").create(title="secret")
        heard: list[str] = []
        theirs.log.wire.subscribe("live.session.>", lambda subject, *_: heard.append(subject))
        await theirs.log.wire.settled()
        await ours.session("secret").send("hush", to="bob")
        await theirs.session("shared").send("aloud", to="bob")

        listed = {one.session: one.title for one in await theirs.sessions()}
        assert listed["shared"] == "theirs"
        assert "secret" not in listed
        assert not await theirs.session("secret").exists()
        assert all(".secret." not in subject for subject in heard)


async def test_an_observer_by_token_cannot_write(served: Place) -> None:
    """The role's permissions are in force, as for a user with a key."""
    async with served.connect(served.token()) as broker:
        await broker.session("watched").create()
    async with served.connect(served.token("eve", "observer"), "eve") as eve:
        assert "watched" in [one.session for one in await eve.sessions()]
        with pytest.raises(PermissionDenied):
            await eve.session("watched").send("I was here", to="bob")


async def test_a_connection_ends_with_its_token_and_comes_back_with_a_fresh_one(
    served: Place, tmp_path: Path, eventually: Any
) -> None:
    """The broker cuts it at `exp`; the library reads the file again; a subscription goes on; a callable works as well."""
    file = tmp_path / "token"
    file.write_text(served.token(seconds=3))
    asked: list[str] = []

    def fresh() -> str:
        asked.append(served.token("bob", seconds=4 if not asked else 600))
        return asked[-1]

    async with served.connect(file) as broker, served.connect(fresh, "bob") as other:
        file.write_text(served.token(seconds=600))
        heard: list[bytes] = []
        broker.log.wire.subscribe("live.session.>", lambda _, __, payload, ___: heard.append(payload))
        await eventually(lambda: broker.log.wire.reconnects and other.log.wire.reconnects, 60)
        await eventually(lambda: broker.log.wire.connected.is_set() and other.log.wire.connected.is_set())
        await other.session("goes-on").create()
        await eventually(lambda: heard)
    assert len(asked) >= 2


async def test_revoked_tokens_end_now_and_new_ones_count(served: Place, eventually: Any) -> None:
    """The connection is kicked, the same token is refused, one that is made afterwards is taken; others stay."""
    old = served.token("mallory", now=time.time() - 5)
    async with served.connect(old, "mallory") as theirs, served.connect(served.token()) as ours:
        served.folder.revoke("acme", "mallory", now=time.time() - 2)
        assert await kick(served.folder, "acme", "mallory") == 1
        await eventually(lambda: not theirs.log.wire.connected.is_set())
        await eventually(lambda: _refused(served, old))
        assert ours.log.wire.reconnects == 0
    async with served.connect(served.token("mallory"), "mallory"):
        pass


async def _refused(place: Place, token: str) -> bool:
    try:
        async with place.connect(token, "mallory"):
            return False
    except PermissionDenied:
        return True


async def test_an_agent_by_token_is_bound_to_its_sessions(served: Place) -> None:
    """What is said to it elsewhere is not in its queue, it cannot write there, and it cannot make itself another queue."""
    async with served.connect(served.token()) as gateway, Steward(gateway):
        for name in ("mine", "other"):
            await gateway.session(name).create()
            await gateway.session(name).send("hi", to="bound")
        token = served.token("bound", "isolated", sessions=["mine"])
        async with served.connect(token, "bound") as bound:
            with pytest.raises(PermissionDenied):
                await bound.session("other").state.set("x", 1)
            await bound.session("mine").state.set("x", 1)
            wide = contract.agent_consumer(0, "bound")
            with contextlib.suppress(BrokerError):
                await bound.log.wire.api(
                    "CONSUMER.CREATE.SESSIONS_0.agent-bound", {"stream_name": "SESSIONS_0", "config": wide}
                )
        state = await gateway.log.consumer(0, contract.agent_consumer_name("bound"))
        info = await gateway.log.wire.api("CONSUMER.INFO.SESSIONS_0.agent-bound")

    assert state is not None
    assert {subject.split(".")[2] for subject in info["config"]["filter_subjects"]} == {"mine"}
    assert info["num_pending"] == 1


async def test_a_key_that_the_plan_lost_opens_nothing(served: Place, eventually: Any) -> None:
    """A user that is added comes in by key through the service; removed, its connection is kicked and it is refused."""
    served.folder.add("acme", "billing", "service")
    assert await reload(served.folder)
    options = served.folder.options("acme", "billing")
    seed = options["nkey_seed"].read_bytes()
    await eventually(lambda: _comes_in(options))
    async with connect(**options) as broker:
        served.folder.remove("acme", "billing")
        options["nkey_seed"].write_bytes(seed)
        options["nkey_seed"].chmod(0o600)
        assert await reload(served.folder)
        await kick(served.folder, "acme", "billing")
        await eventually(lambda: not broker.log.wire.connected.is_set())
    assert not await _comes_in(options)


async def _comes_in(options: dict[str, Any]) -> bool:
    try:
        async with connect(**options):
            return True
    except PermissionDenied:
        return False


async def test_a_tenant_that_is_added_counts_at_once(served: Place) -> None:
    """The service reads the plan again: no restart."""
    served.folder.add_tenant("late")
    assert await reload(served.folder)
    await prepare(served.folder, "late")
    await asyncio.wait_for(_until_in(served, served.token(tenant="late")), 30)


async def test_streams_are_made_as_the_plan_says_whoever_comes_first(served: Place) -> None:
    """By token, and by key with the environment that is printed: without roll-ups, with which an agent could wipe."""
    for name in ("by-token", "by-key"):
        served.folder.add_tenant(name)
    assert await reload(served.folder)
    await asyncio.wait_for(_until_in(served, served.token(tenant="by-token")), 30)
    printed = served.folder.environment("by-key", "gateway")
    async with connect(**served.folder.options("by-key", "gateway"), settings=stream_settings(printed)):
        pass
    for name in ("by-token", "by-key"):
        async with connect(**served.folder.options(name, "operator")) as broker:
            found = (await broker.log.wire.api("STREAM.INFO.SESSIONS_0"))["config"]
            assert found["allow_rollup_hdrs"] is False, name


async def _until_in(place: Place, token: str) -> None:
    while True:
        try:
            async with place.connect(token):
                return
        except PermissionDenied:
            continue


# -- services as processes ------------------------------------------------------------------------------------------


@asynccontextmanager
async def service(place: Place, programs: Any, folder: Path, eventually: Any) -> AsyncIterator[Any]:
    """A service as a process, with metrics."""
    script = folder / "command.py"
    script.write_text(SCRIPT)
    arguments = (
        "callout",
        "-d",
        str(place.folder.path),
        "--auth-keys",
        str(public_path(place.keys)),
        "--metrics-port",
        "0",
    )
    program = programs.start(script, *arguments)
    await eventually(lambda: "tokens of" in program.output, 60)
    await prepare(place.folder, "acme")
    yield program
    program.kill()


async def test_one_of_two_may_be_killed_under_200_connects_and_none_fails(
    place: Place, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """kill -9 in the middle: who was being asked about by the dead one is asked about again."""
    async with service(place, programs, tmp_path, eventually) as one, service(place, programs, tmp_path, eventually):
        failed: list[Exception] = []
        done = asyncio.Semaphore(0)
        gate = asyncio.Semaphore(50)

        async def come_in(number: int) -> None:
            member = f"m{number}"
            try:
                async with gate, place.connect(place.token(member, "observer"), member):
                    done.release()
            except Exception as error:
                failed.append(error)

        tasks = [asyncio.create_task(come_in(number)) for number in range(200)]
        async with asyncio.timeout(60):
            for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that it surely dies with questions
                for _ in range(30):
                    await done.acquire()
                one.send(sign)
        async with asyncio.timeout(100):
            await asyncio.gather(*tasks)

    assert failed == []


async def test_of_a_storm_that_nobody_answers_at_first_none_fails(
    place: Place, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """The only service hangs, the broker turns away whoever asked in vain; each tries again until it is let in."""
    log = place.folder.settings().data / "nats-server.log"

    def refusals() -> int:
        return log.read_text().count("authentication error")

    async with service(place, programs, tmp_path, eventually) as only, asyncio.TaskGroup() as group:
        before = refusals()
        only.send(signal.SIGSTOP)
        coming = [group.create_task(_come_in(place, f"storm{number}")) for number in range(60)]
        await eventually(lambda: refusals() - before >= 30, 60)
        assert not any(task.done() for task in coming)
        only.send(signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*coming), 100)


async def _come_in(place: Place, member: str) -> None:
    async with place.connect(place.token(member, "observer"), member):
        pass


async def test_without_any_service_connections_stay_and_new_ones_fail_clearly(
    place: Place, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Both dead: who is in goes on, who comes is refused with a hint; with a service again everybody recovers alone."""
    file, name = tmp_path / "token", f"still-there-{secrets.token_hex(4)}"  # the place outlives a second try
    async with service(place, programs, tmp_path, eventually) as only:
        file.write_text(place.token("eve", seconds=8))
        async with place.connect(place.token()) as staying, place.connect(file, "eve") as ending:
            only.kill()
            await staying.session(name).create()
            began = time.monotonic()
            with pytest.raises(PermissionDenied, match="no callout service"):
                async with place.connect(place.token("late"), "late"):
                    pass
            assert time.monotonic() - began < 30
            file.write_text(place.token("eve", seconds=600))
            await eventually(lambda: not ending.log.wire.connected.is_set(), 60)
            assert staying.log.wire.reconnects == 0
            async with service(place, programs, tmp_path, eventually):
                await eventually(ending.log.wire.connected.is_set, 60)
                assert name in [one.session for one in await ending.sessions()]


async def test_metrics_and_logs_say_what_happened_and_no_secret(
    place: Place, programs: Any, tmp_path: Path, eventually: Any
) -> None:
    """Counted by outcome, refusals with their reason in the log; no token, no seed, no name in the metrics."""
    async with service(place, programs, tmp_path, eventually) as program:
        good, bad = place.token(), _signed(place, role="king")
        async with place.connect(good):
            pass
        with pytest.raises(PermissionDenied):
            async with place.connect(bad):
                pass
        await eventually(lambda: "refused" in program.output)
        url = next(word for word in program.output.split() if word.startswith("http://"))
        async with httpx.AsyncClient() as http:
            shown = (await http.get(url)).text
        seeds = [path.read_text().strip() for path in place.folder.path.rglob("*.nk")]

        counts = dict(
            re.findall(r'^orchestrator_free_callout_answers_total{outcome="(\w+)"} ([0-9.]+)$', shown, re.MULTILINE)
        )
        assert (
            float(counts["let_in"]) >= 1
        )  # the tenant's gateway, with which queues are bound, comes in through it, too
        assert float(counts["refused"]) == 1
        assert "no role 'king'" in program.output
        for secret in (good, bad, *seeds):
            assert secret not in program.output + shown
        assert "acme" not in shown


async def test_the_system_account_sees_whom_a_token_let_in(served: Place) -> None:
    """By tenant and member, as the token said, whatever the client calls itself; a user with a key likewise."""
    async with served.connect(served.token("grace", "observer"), "grace"), system(served.folder) as found:
        async with connect(**served.folder.options("rival", "operator") | {"inbox_prefix": "_INBOX.operator"}):
            names = [one.get("authorized_user") for one in await found.connections()]

    assert {"acme/grace", "rival/operator"} <= set(names)


# -- envelopes ------------------------------------------------------------------------------------------------------


def test_sealed_questions_are_for_one_reader() -> None:
    """What is sealed opens with the right pair only, and what was changed or is not sealed does not open."""
    ours, theirs, other = PrivateKey.generate(), PrivateKey.generate(), PrivateKey.generate()
    public = {name: encode_key(23 << 3, bytes(key.public_key)) for name, key in (("ours", ours), ("theirs", theirs))}
    sealed = envelopes.seal(b"question", theirs, public["ours"])

    assert envelopes.unseal(sealed, ours, public["theirs"]) == b"question"
    for data, reader in ((sealed, other), (sealed[:-1] + bytes([sealed[-1] ^ 1]), ours), (b"plain", ours), (b"", ours)):
        with pytest.raises(InvalidInput):
            envelopes.unseal(data, reader, public["theirs"])


@pytest.mark.parametrize("text", [b"", b"a.b.c", b"eyJ9.e30.x", b"\xff\xfe"])
def test_what_no_server_has_signed_is_no_question(text: bytes) -> None:
    """Refused before anything in it is believed."""
    with pytest.raises(InvalidInput):
        envelopes.read_request(text)


def test_tokens_are_made_only_for_what_can_be() -> None:
    """A name, a role or a tenant that cannot be one is refused at the maker already."""
    key = read_key(make_key("ES256"))
    for member, role, tenant in (("a.b", "core", "t"), ("a", "king", "t"), ("a", "core", "AUTH"), ("a", "core", "t.u")):
        with pytest.raises(InvalidInput):
            mint(key, member, role, tenant=tenant)
    plan = Plan(tenants={"t": Tenant(name="t")}, isolated=False)
    claims = jwt.decode(mint(key, "a", "isolated", tenant="t"), options={"verify_signature": False})
    with pytest.raises(NotAuthenticated, match="isolated"):
        grant_of(claims, plan, now=time.time())


def test_a_key_is_shown_by_what_it_signs(made: Place) -> None:
    """The server's own nonce, signed with the secret half; a public key alone, or another nonce, shows nothing."""
    seed = bytearray(made.folder.seed("acme", "gateway").read_bytes().strip())
    pair = nkeys.from_seed(seed)
    key, signature = pair.public_key.decode(), base64.b64encode(pair.sign(b"nonce")).decode()

    assert envelopes.signed_by(key, "nonce", signature)
    assert envelopes.signed_by(key, "nonce", signature.rstrip("=").replace("+", "-").replace("/", "_"))
    other = made.folder.plan.tenant("rival").users[0].nkey
    for bad in (
        (key, "other", signature),
        (key, "", signature),
        (other, "nonce", signature),
        (key, "nonce", ""),
        ("", "nonce", signature),
    ):
        assert not envelopes.signed_by(*bad), bad
