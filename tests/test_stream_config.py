"""What `connect` finds and makes at a broker: streams created once, checked ever after; ways in, and ways to fail."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import zlib
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nkeys
import pytest

from orchestrator_free import contract
from orchestrator_free.broker import Broker, connect, stream_settings
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.binary import find_binary
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerError, BrokerUnreachable, ConfigMismatch, InvalidInput, PermissionDenied
from orchestrator_free.jetstream import Log, Wire, WireOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

Eventually = Callable[..., Awaitable[Any]] if TYPE_CHECKING else Any
Fresh = Callable[[str], str] if TYPE_CHECKING else Any

STREAMS = ("SESSIONS_0", "SESSIONS_TIMERS", "KV_orchestrator_free_presence", "OBJ_orchestrator_free_objects")
#: Linux kills the server with us
STAGE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or sys.exit("the parent died first")
os.execv(sys.argv[2], sys.argv[2:])
"""


@asynccontextmanager
async def serving(folder: Path, extra: str = "") -> AsyncIterator[EmbeddedServer]:
    """Run a broker of the test's own."""
    async with EmbeddedServer(ServerSettings(data=folder / "broker", port=0, extra=extra)) as server:
        yield server


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    """A connection to a broker that has no streams yet."""
    async with serving(tmp_path) as server:
        wire = await Wire.connect(WireOptions(url=server.url))
        try:
            yield wire
        finally:
            await wire.close()


async def configurations(wire: Wire) -> dict[str, dict[str, Any]]:
    """Return the configuration of every stream there is."""
    found = (await wire.api("STREAM.LIST")).get("streams") or []
    return {info["config"]["name"]: info["config"] for info in found}


# -- the streams ----------------------------------------------------------------------------------------------------


async def test_missing_streams_are_created_as_the_contract_says(wire: Wire) -> None:
    """Every field that the contract names is found again at the broker, for logs, presence and objects."""
    settings = StreamSettings(shards=2, max_age_seconds=3600, max_bytes=1 << 30)

    await Log(wire).ensure(settings)

    found = await configurations(wire)
    wanted = [contract.stream_config(shard, settings) for shard in range(2)]
    wanted += [contract.presence_stream(), contract.object_stream(settings), contract.timer_stream(settings)]
    assert sorted(found) == sorted(config["name"] for config in wanted)
    for config in wanted:
        assert contract.differences(config, found[config["name"]], tuple(set(config) - {"metadata"})) == []
    assert found["SESSIONS_1"]["metadata"].items() >= wanted[1]["metadata"].items()


async def test_ensuring_again_changes_nothing(wire: Wire) -> None:
    """Neither with the same settings, nor without any."""
    await Log(wire).ensure(StreamSettings(shards=2))
    before = await configurations(wire)

    for settings in (StreamSettings(shards=2), None):
        log = Log(wire)
        await log.ensure(settings)
        assert log.shards == 2

    assert await configurations(wire) == before


async def test_many_who_come_first_create_the_streams_once(wire: Wire) -> None:
    """Processes that start together do not stumble over each other."""
    logs = [Log(wire) for _ in range(10)]

    await asyncio.gather(*(log.ensure() for log in logs))

    assert len({log.epoch(0) for log in logs}) == 1
    assert sorted(await configurations(wire)) == sorted(STREAMS)


async def test_another_structure_is_refused_field_by_field_and_left_alone(wire: Wire) -> None:
    """The error names every field with what was wanted and what was found; nothing is created, nothing changed."""
    other = contract.stream_config(0, StreamSettings()) | {
        "subjects": ["session.>"], "retention": "interest", "allow_direct": False, "allow_rollup_hdrs": False,
        "allow_msg_ttl": True, "allow_atomic": False, "deny_purge": True, "deny_delete": True,
        "metadata": {"orchestrator_free.shards": "1", "orchestrator_free.wire": "0"},
    }  # fmt: skip
    del other["republish"], other["sources"]
    await wire.api("STREAM.CREATE.SESSIONS_0", other)
    before = await configurations(wire)

    with pytest.raises(ConfigMismatch) as refused:
        await Log(wire).ensure()

    assert {line.partition(":")[0] for line in refused.value.differences} == {
        "subjects", "retention", "allow_direct", "allow_msg_ttl", "allow_atomic", "deny_purge",
        "deny_delete", "republish", "sources", "metadata.orchestrator_free.wire",
    }  # fmt: skip
    assert "retention: wanted 'limits', found 'interest'" in refused.value.differences
    assert "metadata.orchestrator_free.wire: wanted '1', found '0'" in refused.value.differences
    for part in ("stream SESSIONS_0", "nothing was overwritten", *refused.value.differences):
        assert part in str(refused.value)
    assert await configurations(wire) == before


@pytest.mark.parametrize("name", STREAMS[2:])
async def test_a_bucket_of_another_kind_is_refused_before_anything_is_created(wire: Wire, name: str) -> None:
    """Presence on disk or objects in memory: the streams beside them are not made either."""
    for config in (contract.presence_stream(), contract.object_stream(StreamSettings())):
        if config["name"] == name:
            storage = {"file": "memory", "memory": "file"}[config["storage"]]
            await wire.api(f"STREAM.CREATE.{name}", config | {"storage": storage})

    with pytest.raises(ConfigMismatch, match=f"stream {name} .*storage: wanted"):
        await Log(wire).ensure()

    assert list(await configurations(wire)) == [name]


async def test_what_an_operator_tunes_is_accepted_as_it_is(wire: Wire) -> None:
    """Age, size, window and description may be anything; what is still missing takes after what is there."""
    tuned = contract.stream_config(0, StreamSettings(shards=2)) | {
        "max_age": 86_400_000_000_000, "max_bytes": 1 << 28, "description": "ours", "duplicate_window": 60_000_000_000,
        "max_msg_size": 500_000,
    }  # fmt: skip
    await wire.api("STREAM.CREATE.SESSIONS_0", tuned)
    before = (await configurations(wire))["SESSIONS_0"]

    await Log(wire).ensure()

    found = await configurations(wire)
    assert found["SESSIONS_0"] == before
    assert (found["SESSIONS_1"]["max_age"], found["SESSIONS_1"]["max_bytes"]) == (tuned["max_age"], tuned["max_bytes"])


@pytest.mark.parametrize(("there", "asked"), [(2, 4), (2, 1), (1, 3)])
async def test_another_number_of_shards_is_refused(wire: Wire, there: int, asked: int) -> None:
    """Sessions would be looked for in the wrong stream; the error says how many there are."""
    await Log(wire).ensure(StreamSettings(shards=there))
    before = await configurations(wire)

    with pytest.raises(ConfigMismatch, match=rf"orchestrator_free.shards: wanted '{asked}', found '{there}'"):
        await Log(wire).ensure(StreamSettings(shards=asked))

    assert await configurations(wire) == before


@pytest.mark.parametrize("asked", [StreamSettings(replicas=3), StreamSettings(shards=2, replicas=3)])
async def test_another_number_of_replicas_is_refused(wire: Wire, asked: StreamSettings) -> None:
    """Who asks for three copies does not go on with one: the error names the stream and what it has."""
    await Log(wire).ensure(StreamSettings(shards=2))
    before = await configurations(wire)

    with pytest.raises(ConfigMismatch, match="num_replicas: wanted 3, found 1"):
        await Log(wire).ensure(asked)

    assert await configurations(wire) == before


async def test_settings_that_leave_the_shards_open_take_those_that_are_there(wire: Wire) -> None:
    """What is not said is as it is; another stream that is missing is made to fit."""
    await Log(wire).ensure(StreamSettings(shards=2))
    await wire.api("STREAM.DELETE.SESSIONS_1")
    log = Log(wire)

    await log.ensure(StreamSettings(replicas=1))

    assert log.shards == 2
    assert (await configurations(wire))["SESSIONS_1"]["metadata"]["orchestrator_free.shards"] == "2"


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, None),
        ({"ORCHESTRATOR_FREE_SHARDS": "4"}, StreamSettings(shards=4)),
        ({"ORCHESTRATOR_FREE_SHARDS": "", "ORCHESTRATOR_FREE_REPLICAS": "3"}, StreamSettings(replicas=3)),
    ],
)
def test_the_environment_says_how_streams_are_made(
    environment: dict[str, str], settings: StreamSettings | None
) -> None:
    """Whoever comes first, a gateway or an agent, makes them alike."""
    assert stream_settings(environment) == settings


@pytest.mark.parametrize("wrong", ["0", "-1", "1025", "many", "1.5", "²"])
def test_a_number_of_shards_that_is_none_is_refused(wrong: str) -> None:
    """With the variable's name and what it may be."""
    with pytest.raises(InvalidInput, match=r"ORCHESTRATOR_FREE_SHARDS=.*expected a number from 1 to 1024"):
        stream_settings({"ORCHESTRATOR_FREE_SHARDS": wrong})


async def test_replicas_at_a_single_server_are_refused_at_once(wire: Wire) -> None:
    """The broker's own words, without waiting for a cluster that never comes."""
    with pytest.raises(BrokerError, match="replicas > 1 not supported in non-clustered mode"):
        async with asyncio.timeout(20):
            await Log(wire).ensure(StreamSettings(replicas=3))


# -- two shards -----------------------------------------------------------------------------------------------------


async def test_two_shards_share_the_sessions_and_an_agent_serves_both(
    tmp_path: Path, served: Any, fresh: Fresh
) -> None:
    """A session's shard is the CRC-32 of its id modulo their number; the list of sessions and the agent know both."""
    async with serving(tmp_path) as server, connect(server.url, member="ann", settings=StreamSettings(shards=2)) as ann:
        names = [*sorted(fresh("s") for _ in range(8)), "s0", "s1", "s2", "s3"]
        async with served(server.url):
            for name in names:
                session = ann.session(name)
                shard = zlib.crc32(name.encode()) % 2
                created = await session.create(title=f"of {shard}", agents=["echo"])
                sent = await session.send("hi", to="echo")
                finished = await session.result("echo", sent.run, timeout=20)
                assert (session.shard, created.epoch) == (shard, ann.log.epoch(shard))
                assert finished["parts"][0]["text"] == f"{name} hi"
                stored = await ann.log.read(shard, f"session.*.{name}.>")
                assert stored
                assert all(message.subject.startswith(f"session.{shard}.{name}.") for message in stored)
                assert await ann.log.read(1 - shard, f"session.*.{name}.>") == []

        assert {ann.session(name).shard for name in names} == {0, 1}
        listed = [info.session for info in await ann.sessions()]
        first = await ann.sessions(limit=5)
        rest = await ann.sessions(after=first[-1].session)
    assert listed == sorted(names)
    assert [info.session for info in first + rest] == listed


@pytest.fixture
def served() -> Callable[[str], Any]:
    """Serve an agent that answers with the session and the text."""
    from orchestrator_free import Agent, Run

    @asynccontextmanager
    async def serve(url: str) -> AsyncIterator[None]:
        agent, ready = Agent("echo"), asyncio.Event()

        @agent
        async def handle(run: Run) -> None:
            await run.text(f"{run.session.id} {run.input.text}")

        async with connect(url, member="echo") as broker:
            task = asyncio.create_task(agent.serve(broker, ready=ready.set))
            await ready.wait()
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    return serve


# -- ways in --------------------------------------------------------------------------------------------------------


async def works(broker: Broker) -> bool:
    """Use a connection for everything that goes another way over the wire."""
    session = broker.session(secrets.token_hex(8))
    await session.create(title="in")
    await broker.objects.put(session.id, "o", b"bytes")
    async for event in session.follow():
        return event.type == "session.created" and await session.object("o") == b"bytes"
    return False


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


async def test_a_token_opens_the_broker(tmp_path: Path) -> None:
    """As a parameter, or in the URL."""
    async with serving(tmp_path, 'authorization { token: "s3cret" }\n') as server:
        async with connect(server.url, member="ann", token="s3cret") as broker:
            assert await works(broker)
        async with connect(with_user(server.url, "s3cret"), member="ann") as broker:
            assert await works(broker)


async def test_user_and_password_open_the_broker(tmp_path: Path) -> None:
    """In the URL."""
    async with serving(tmp_path, "authorization { user: ann, password: s3cret }\n") as server:
        async with connect(with_user(server.url, "ann:s3cret"), member="ann") as broker:
            assert await works(broker)


def nkey(path: Path) -> str:
    """Write a new seed; return its public key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path.write_bytes(seed)
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_an_nkey_opens_the_broker(tmp_path: Path) -> None:
    """From a file with its seed."""
    public = nkey(tmp_path / "ann.nk")
    async with serving(tmp_path, f"authorization {{ users: [{{ nkey: {public} }}] }}\n") as server:
        async with connect(server.url, member="ann", nkey_seed=tmp_path / "ann.nk") as broker:
            assert await works(broker)


@pytest.mark.parametrize("way", ["token", "password", "nkey", "nothing"])
async def test_wrong_credentials_are_refused_soon_and_with_the_reason(tmp_path: Path, way: str) -> None:
    """At once, as a refusal and not as a broker that is away; a password is in no message."""
    public = nkey(tmp_path / "right.nk")
    nkey(tmp_path / "wrong.nk")
    extra = {
        "token": 'authorization { token: "s3cret" }\n',
        "nkey": f"authorization {{ users: [{{ nkey: {public} }}] }}\n",
    }.get(way, "authorization { user: ann, password: s3cret }\n")
    async with serving(tmp_path, extra) as server:
        url = with_user(server.url, "ann:guessed") if way == "password" else server.url
        options = {"token": {"token": "guessed"}, "nkey": {"nkey_seed": tmp_path / "wrong.nk"}}.get(way, {})

        with pytest.raises(PermissionDenied, match=r"refused the credentials: .*[Aa]uthorization") as refused:
            async with asyncio.timeout(20), connect(url, member="ann", **options):
                pass

    assert f"127.0.0.1:{server.port}" in str(refused.value)
    assert "guessed" not in str(refused.value)


# -- TLS ------------------------------------------------------------------------------------------------------------


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificates(folder: Path, *names: str) -> Path:
    """Make an authority, and certificates for 127.0.0.1 that it has signed: `<name>.pem`, `<name>.key`; return `ca.pem`."""
    folder.mkdir()
    ca, ca_key = str(folder / "ca.pem"), str(folder / "ca.key")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    openssl("req", "-x509", *kind, "-days", "2", "-subj", "/CN=test authority", "-keyout", ca_key, "-out", ca)
    for name in names:
        pem, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        openssl(
            "req", "-x509", *kind, "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE", "-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", pem,
        )  # fmt: skip
    return folder / "ca.pem"


def tls(folder: Path, *, verify: bool = False) -> str:
    files = f'cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", ca_file: "{folder}/ca.pem"'
    return f"tls {{ {files}, verify: {str(verify).lower()} }}\n"


async def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    """The broker is checked against the given authority; one that another has signed is refused, with the reason."""
    ours = certificates(tmp_path / "ours", "server")
    theirs = certificates(tmp_path / "theirs")
    async with serving(tmp_path, tls(tmp_path / "ours")) as server:
        for url in (server.url, server.url.replace("nats://", "tls://")):
            async with connect(url, member="ann", ca=ours) as broker:
                assert await works(broker)
        for options in ({"ca": theirs}, {}):
            with pytest.raises(BrokerUnreachable, match=rf"{server.port} \(.*certificate verify failed"):
                async with connect(server.url, member="ann", **options):
                    pass


async def test_tls_with_a_certificate_of_the_client(tmp_path: Path) -> None:
    """The broker lets in only those whose certificate its authority has signed."""
    folder = tmp_path / "pki"
    ca = certificates(folder, "server", "ann")
    async with serving(tmp_path, tls(folder, verify=True)) as server:
        async with connect(
            server.url, member="ann", ca=ca, certificate=folder / "ann.pem", key=folder / "ann.key"
        ) as broker:
            assert await works(broker)
        with pytest.raises(BrokerError, match=str(server.port)):
            async with connect(server.url, member="ann", ca=ca):
                pass


# -- nobody there ---------------------------------------------------------------------------------------------------


@contextmanager
def closed_port() -> Iterator[int]:
    """Hold a port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """Listen, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def refused(url: str) -> str:
    """Return why nobody can be reached there."""
    with pytest.raises(BrokerUnreachable) as error:
        async with connect(url, member="ann"):
            pass
    return str(error.value)


async def test_an_address_without_a_broker_is_named_with_what_to_do() -> None:
    """A closed port, somebody who says nothing, a name that does not resolve: in 5 s each, with the reason."""
    with closed_port() as closed, silent_port() as silent:
        addresses = [f"127.0.0.1:{closed}", f"127.0.0.1:{silent}", "broker.invalid:4222"]
        async with asyncio.timeout(20):
            reasons = await asyncio.gather(*(refused(f"nats://{address}") for address in addresses))

    for address, reason in zip(addresses, reasons, strict=True):
        assert f"no broker answers at nats://{address} (" in reason
        assert reason.endswith("start one with `orchestrator-free up`, or pass --url")


@contextmanager
def without_jetstream() -> Iterator[int]:
    """Run a nats-server as it comes: without JetStream."""
    with closed_port() as port:
        pass
    command = [str(find_binary().path), "-a", "127.0.0.1", "-p", str(port)]
    stage = [sys.executable, "-I", "-S", "-c", STAGE, str(os.getpid())] if sys.platform == "linux" else []
    process = subprocess.Popen([*stage, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
async def test_a_broker_without_jetstream_is_refused_with_what_to_do(tmp_path: Path, eventually: Eventually) -> None:
    """Whether the whole server has none, or only this user's account."""
    accounts = "accounts { A { users: [{ user: ann, password: pw }] } }\n"

    with without_jetstream() as port:
        await eventually(lambda: _accepts(port), 10)
        async with serving(tmp_path, accounts) as server:
            nowhere, account = await asyncio.gather(
                refused(f"nats://127.0.0.1:{port}"), refused(with_user(server.url, "ann:pw"))
            )

    assert "is JetStream enabled there" in nowhere
    assert "enable JetStream for the account of this user" in account


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_address_is_shown_without_its_secrets() -> None:
    """Users, passwords and tokens in URLs stay out of messages and logs."""
    options = WireOptions(url="nats://ann:pw@a:4222,tls://token@b:4222, nats://c:4222")

    assert options.address == "nats://a:4222,tls://b:4222, nats://c:4222"
    assert replace(options, url="localhost:4222").address == "localhost:4222"


async def test_isolation_is_taken_as_it_is_found_and_never_given_up_quietly(wire: Wire) -> None:
    """Whoever names no settings works with streams of either form; whoever wants the other one is told which field."""
    await Log(wire).ensure(StreamSettings(isolated=True))
    assert not wire.rollups

    await Log(wire).ensure()
    with pytest.raises(ConfigMismatch, match="allow_rollup_hdrs: wanted True, found False"):
        await Log(wire).ensure(StreamSettings(isolated=False))
