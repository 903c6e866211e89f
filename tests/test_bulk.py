"""The bulk publisher: fast, in order, each message once, whatever happens to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator_free.broker import Broker, connect
from orchestrator_free.contract import StreamSettings
from orchestrator_free.embedded.server import EmbeddedServer, ServerSettings
from orchestrator_free.errors import BrokerTimeout, PermissionDenied, StorageFull, TooLarge
from orchestrator_free.jetstream.bulk import BulkPublisher

Eventually = Callable[..., Awaitable[Any]]
Fresh = Callable[[str], str]

USERS = """
authorization {
  users: [
    {user: root, password: pw}
    {user: bob, password: pw, permissions: {publish: ["$JS.API.>", "session.0.*.bob.>"], subscribe: ["_INBOX.>"]}}
  ]
}
"""


def text(number: int) -> bytes:
    return b'{"type":"text.delta","part":"1","text":"%d"}' % number


async def stored(broker: Broker, session: str) -> list[tuple[int, bytes]]:
    """Return (sequence, payload) of everything the log holds of a session."""
    messages = await broker.log.read(0, f"session.0.{session}.>")
    return [(message.sequence, message.payload) for message in messages]


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A broker of one test's own, which knows the users root and bob."""
    async with EmbeddedServer(ServerSettings(data=tmp_path / "own", port=0, extra=USERS)) as server:
        yield server


def url_for(server: EmbeddedServer, user: str) -> str:
    return server.url.replace("nats://", f"nats://{user}:pw@")


@contextlib.asynccontextmanager
async def paused(server: EmbeddedServer, eventually: Eventually) -> AsyncIterator[Callable[[], None]]:
    """Stop every thread of the broker; yield what lets it go on."""
    tasks = Path(f"/proc/{server.pid}/task")

    def go_on() -> None:
        if server.pid is not None:
            os.kill(server.pid, signal.SIGCONT)

    def stands_still() -> bool:
        return all(path.read_text().rpartition(")")[2].split()[0] == "T" for path in tasks.glob("*/stat"))

    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await eventually(stands_still)
        yield go_on
    finally:
        go_on()


async def test_every_message_is_stored_once_in_order_and_its_sequence_is_known(ann: Broker, fresh: Fresh) -> None:
    """The sequences are those of the log, message for message."""
    session = fresh("s")
    async with BulkPublisher(ann.log.wire) as bulk:
        for number in range(5000):
            assert await bulk.publish(f"session.0.{session}.ann.run.r{number % 7}", text(number)) == number

    assert await stored(ann, session) == [(bulk.sequences[number], text(number)) for number in range(5000)]
    assert bulk.in_order


async def test_the_sequence_of_one_message_can_be_waited_for(ann: Broker, fresh: Fresh) -> None:
    """Without waiting for those behind it."""
    session = fresh("s")
    async with BulkPublisher(ann.log.wire) as bulk:
        first = await bulk.publish(f"session.0.{session}.ann.run.r", text(1))
        sequence = await bulk.stored(first)

        assert await stored(ann, session) == [(sequence, text(1))]


async def test_a_rollup_replaces_what_its_subject_held(ann: Broker, fresh: Fresh) -> None:
    """In the same stream of messages as what it replaces."""
    session = fresh("s")
    async with BulkPublisher(ann.log.wire) as bulk:
        for number in range(10):
            await bulk.publish(f"session.0.{session}.ann.run.r", text(number))
        last = await bulk.publish(f"session.0.{session}.ann.run.r", text(10), rollup=True)

    assert await stored(ann, session) == [(bulk.sequences[last], text(10))]


async def test_the_producer_waits_while_the_window_is_full(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """A broker that does not answer gets the window and nothing more; when it answers, all goes on."""
    session = fresh("s")

    async def produce(bulk: BulkPublisher) -> None:
        for number in range(500):
            await bulk.publish(f"session.0.{session}.ann.run.r", text(number))

    async with paused(broker, eventually) as go_on, BulkPublisher(ann.log.wire, window=100) as bulk:
        producer = asyncio.create_task(produce(bulk))
        await eventually(lambda: len(bulk.sequences) == 100)
        done, _ = await asyncio.wait([producer], timeout=0.2)
        assert not done
        assert len(bulk.sequences) == 100
        go_on()
        await producer

    assert [payload for _, payload in await stored(ann, session)] == [text(number) for number in range(500)]


async def test_large_messages_fill_the_window_by_their_bytes(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """Long before there are a thousand of them."""
    session = fresh("s")

    async def produce(bulk: BulkPublisher) -> None:
        for _ in range(40):
            await bulk.publish(f"session.0.{session}.ann.run.r", bytes(500_000))

    async with paused(broker, eventually) as go_on, BulkPublisher(ann.log.wire) as bulk:
        producer = asyncio.create_task(produce(bulk))
        await eventually(lambda: len(bulk.sequences) > 10)
        assert 10 < len(bulk.sequences) < 25
        go_on()
        await producer

    assert len(await stored(ann, session)) == 40


@pytest.mark.slow
async def test_a_broker_killed_twice_in_the_middle_loses_and_doubles_nothing(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """50,000 messages through two SIGKILLs: the log holds each once, in order, under the sequences acknowledged."""
    session, count = fresh("s"), 50_000
    async with BulkPublisher(ann.log.wire) as bulk:

        async def produce() -> None:
            for number in range(count):
                await bulk.publish(f"session.0.{session}.ann.run.r{number % 100}", text(number))

        producer = asyncio.create_task(produce())
        for moment in (10_000, 30_000):
            await eventually(lambda moment=moment: len(bulk.sequences) > moment)
            await broker.restart(kill=True)
        await producer

    assert await stored(ann, session) == [(bulk.sequences[number], text(number)) for number in range(count)]
    assert bulk.retries >= 2


async def test_a_producer_that_never_pauses_cannot_overtake_what_an_outage_lost(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """Not even in the moment in which the connection stands again: the order holds."""
    session, stop = fresh("s"), asyncio.Event()
    async with BulkPublisher(ann.log.wire, window=50_000) as bulk:

        async def produce() -> None:
            while not stop.is_set():
                await bulk.publish(f"session.0.{session}.ann.run.r", text(len(bulk.sequences)))
                await asyncio.sleep(0)

        producer = asyncio.create_task(produce())
        for _ in range(2):
            before = len(bulk.sequences)
            await eventually(lambda before=before: len(bulk.sequences) > before + 1000)
            await broker.restart(kill=True)
            await eventually(ann.log.wire.connected.is_set)
        stop.set()
        await producer

    assert await stored(ann, session) == [(sequence, text(number)) for number, sequence in enumerate(bulk.sequences)]


async def test_what_is_in_flight_is_stored_even_when_the_producer_is_idle(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """The broker dies behind the last message; nobody has to call anything for the retry."""
    session = fresh("s")
    async with BulkPublisher(ann.log.wire) as bulk:
        async with paused(broker, eventually):
            for number in range(50):
                await bulk.publish(f"session.0.{session}.ann.run.r", text(number))
            assert not any(bulk.sequences)
            await broker.restart(kill=True)

        await eventually(lambda: all(bulk.sequences))

    assert [payload for _, payload in await stored(ann, session)] == [text(number) for number in range(50)]


async def test_a_broker_that_stays_away_is_reported_at_the_deadline(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh
) -> None:
    """With how much was not stored."""
    broker.kill()
    try:
        with pytest.raises(BrokerTimeout, match=r"messages were not stored within 1 s"):
            async with BulkPublisher(ann.log.wire, deadline=1.0) as bulk:
                await bulk.publish(f"session.0.{fresh('s')}.ann.run.r", text(1))
    finally:
        await broker.restart()


async def test_a_subject_that_no_stream_takes_is_reported_at_the_deadline(ann: Broker) -> None:
    """Nobody answers for it: that might change, so it is retried until then."""
    with pytest.raises(BrokerTimeout, match="1 of 1 messages"):
        async with BulkPublisher(ann.log.wire, deadline=1.0) as bulk:
            await bulk.publish("nowhere.at.all", text(1))


async def test_a_message_beyond_the_limit_is_refused_and_the_others_go_on(ann: Broker, fresh: Fresh) -> None:
    """The broker would close the connection for it."""
    session = fresh("s")
    async with BulkPublisher(ann.log.wire) as bulk:
        await bulk.publish(f"session.0.{session}.ann.run.r", text(1))
        with pytest.raises(TooLarge, match=str(ann.log.wire.max_payload)):
            await bulk.publish(f"session.0.{session}.ann.run.r", bytes(ann.log.wire.max_payload))
        await bulk.publish(f"session.0.{session}.ann.run.r", text(2))

    assert [payload for _, payload in await stored(ann, session)] == [text(1), text(2)]


@pytest.mark.parametrize(("window", "deadline"), [(0, 25.0), (10, 0.0), (10, 101.0)])
async def test_a_window_or_deadline_that_cannot_hold_is_refused(ann: Broker, window: int, deadline: float) -> None:
    """Beyond 100 s the broker may have forgotten the ids that make retries harmless."""
    with pytest.raises(ValueError, match="window"):
        BulkPublisher(ann.log.wire, window=window, deadline=deadline)


async def test_a_subject_without_permission_is_reported_as_such(own: EmbeddedServer) -> None:
    """What was allowed before it is stored."""
    async with connect(url_for(own, "root"), member="root") as root:
        async with connect(url_for(own, "bob"), member="bob") as bob:
            bulk = BulkPublisher(bob.log.wire)
            with pytest.raises(PermissionDenied, match=r"session\.0\.s\.ann"):
                async with bulk:
                    await bulk.publish("session.0.s.bob.run.r", text(1))
                    await bulk.publish("session.0.s.ann.run.r", text(2))

        assert await stored(root, "s") == [(bulk.sequences[0], text(1))]


async def test_a_full_stream_is_reported_and_what_was_acknowledged_is_there(own: EmbeddedServer) -> None:
    """The sequences tell what was stored before."""
    async with connect(url_for(own, "root"), settings=StreamSettings(max_bytes=200_000)) as root:
        bulk = BulkPublisher(root.log.wire)
        with pytest.raises(StorageFull):
            async with bulk:
                for number in range(20_000):
                    await bulk.publish("session.0.s.ann.run.r", text(number))

        acknowledged = [(sequence, text(number)) for number, sequence in enumerate(bulk.sequences) if sequence]
        assert await stored(root, "s") == acknowledged
        assert 500 < len(acknowledged) < 5000


async def test_after_a_failure_every_call_says_why(own: EmbeddedServer) -> None:
    """The publisher is at its end: what would come behind the missing message is not sent."""
    async with connect(url_for(own, "root"), settings=StreamSettings(max_bytes=2000)) as root:
        with pytest.raises(StorageFull):
            async with BulkPublisher(root.log.wire) as bulk:
                number = await bulk.publish("session.0.s.ann.run.r", bytes(3000))
                with pytest.raises(StorageFull):
                    await bulk.stored(number)
                with pytest.raises(StorageFull):
                    await bulk.publish("session.0.s.ann.run.r", text(1))

        assert await stored(root, "s") == []


async def test_a_publisher_left_by_an_exception_waits_for_what_is_in_flight(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """So that nothing is stored behind the back of whoever cleans up."""
    session, bulk = fresh("s"), BulkPublisher(ann.log.wire)
    async with paused(broker, eventually) as go_on:
        with pytest.raises(KeyError):
            async with bulk:
                for number in range(50):
                    await bulk.publish(f"session.0.{session}.ann.run.r", text(number))
                asyncio.get_running_loop().call_later(0.2, go_on)
                raise KeyError

    assert await stored(ann, session) == [(sequence, text(number)) for number, sequence in enumerate(bulk.sequences)]


async def test_a_closed_connection_is_reported_at_the_deadline(own: EmbeddedServer) -> None:
    """Instead of waiting for what cannot come."""
    async with connect(url_for(own, "root")) as root:
        with pytest.raises(BrokerTimeout, match="not connected"):
            async with BulkPublisher(root.log.wire, deadline=1.0) as bulk:
                await root.log.wire.close()
                await bulk.publish("session.0.s.ann.run.r", text(1))


class DeafProxy:
    """Passes bytes between a client and the broker; while `deaf`, the broker's answers are lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.deaf = False

    async def __aenter__(self) -> DeafProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, requests]
        await asyncio.gather(self._pass(reader, requests), self._pass(answers, writer, lossy=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool = False) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not (lossy and self.deaf):
                    writer.write(data)
        writer.close()


async def test_messages_whose_acknowledgements_were_lost_are_not_stored_again(
    ann: Broker, broker: EmbeddedServer, fresh: Fresh, eventually: Eventually
) -> None:
    """They are sent again under their ids, and found under the sequences they have."""
    session = fresh("s")
    async with DeafProxy(broker.port) as proxy, connect(proxy.url, member="bob") as bob:
        async with BulkPublisher(bob.log.wire) as bulk:
            await bulk.stored(await bulk.publish(f"session.0.{session}.bob.run.r", text(0)))
            proxy.deaf = True
            for number in range(1, 100):
                await bulk.publish(f"session.0.{session}.bob.run.r", text(number))

            async def everything() -> bool:
                return len(await stored(ann, session)) == 100

            await eventually(everything)
            assert sum(map(bool, bulk.sequences)) == 1
            proxy.cut()
            proxy.deaf = False

        assert await stored(ann, session) == [(bulk.sequences[number], text(number)) for number in range(100)]
