"""Durable Streams at a gateway beyond what the public suite asks: bad input, extensions, crowds, sessions as streams."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from orchestrator_free import contract
from orchestrator_free.gateway.settings import GatewaySettings
from tests.gateway.identity import bearer, guard, guarded, token

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
NEXT = "stream-next-offset"


def producer(id: str, epoch: int, seq: int) -> dict[str, str]:
    return {"producer-id": id, "producer-epoch": str(epoch), "producer-seq": str(seq)}


@pytest.fixture
def path(fresh: Callable[[str], str]) -> str:
    """The URL path of a stream that nobody has made yet."""
    return f"/v1/stream/{fresh('stream')}"


class Events:
    """An SSE connection that is read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str]:
        """Return kind and data of the next event."""
        kind, data = "", []
        async with asyncio.timeout(20):
            async for line in self._lines:
                if not line:
                    return kind, "\n".join(data)
                name, _, value = line.partition(":")
                if name == "event":
                    kind = value.strip()
                else:
                    data.append(value.removeprefix(" "))
        raise EOFError

    async def control(self) -> dict[str, Any]:
        """Return the next control event, over whatever data."""
        while True:
            kind, data = await self.next()
            if kind == "control":
                return dict(json.loads(data))


# -- nobody pays for what is not used -------------------------------------------------------------------------------


async def test_nothing_stands_at_the_broker_before_the_first_stream_is_made(gateway: Any) -> None:
    """Looking for a stream makes none, and the stream of all of them comes with the first."""
    wire = gateway.gateway.broker.log.wire
    names = (await wire.api("STREAM.NAMES"))["streams"]
    if contract.DURABLE_STREAM not in names:  # the first test of this module's broker
        assert (await gateway.http.get("/v1/stream/none")).status_code == 404
        assert (await gateway.http.post("/v1/stream/none", content=b"x", headers=TEXT)).status_code == 404
        assert (await gateway.http.delete("/v1/stream/none")).status_code == 404
        assert contract.DURABLE_STREAM not in (await wire.api("STREAM.NAMES"))["streams"]
    assert (await gateway.http.put("/v1/stream/first", headers=TEXT)).status_code in (200, 201)
    assert contract.DURABLE_STREAM in (await wire.api("STREAM.NAMES"))["streams"]
    info = await wire.api(f"STREAM.INFO.{contract.DURABLE_STREAM}")
    assert contract.durable_differences(info["config"]) == []


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "query", "headers", "body", "status", "says"),
    [
        ("PUT", "", {"stream-ttl": "1h"}, b"", 400, "Stream-TTL"),
        ("PUT", "", {"stream-expires-at": "soon"}, b"", 400, "Stream-Expires-At"),
        ("PUT", "-fork", {"stream-forked-from": "/v1/stream/nowhere-at-all"}, b"", 404, "nowhere-at-all"),
        ("PUT", "-fork", {"stream-forked-from": "https://elsewhere/x"}, b"", 400, "Stream-Forked-From"),
        ("PUT", "", JSON, b"", 409, "Content-Type"),
        ("PUT", "", {**TEXT, "stream-ttl": "5"}, b"", 409, "Stream-TTL"),
        ("PUT", "", {**TEXT, "stream-closed": "true"}, b"", 409, "Stream-Closed"),
        ("POST", "", TEXT, b"", 400, "empty"),
        ("POST", "", {}, b"x", 400, "Content-Type"),
        ("POST", "", JSON, b"{}", 409, "text/plain"),
        ("POST", "", {**TEXT, **producer("", 0, 0)}, b"x", 400, "Producer-Id"),
        ("POST", "", {**TEXT, "producer-id": "p"}, b"x", 400, "together"),
        ("POST", "", {**TEXT, **producer("p", 0, 7)}, b"x", 409, "sequence"),
        ("POST", "", {**TEXT, "if-match": "yesterday"}, b"x", 400, "If-Match"),
        ("GET", "?offset=1,2", {}, b"", 400, "offset"),
        ("GET", "?offset=", {}, b"", 400, "offset"),
        ("GET", "?offset=0000000000000000_0099999999999999", {}, b"", 400, "beyond the end"),
        ("GET", "?live=long-poll", {}, b"", 400, "offset"),
        ("GET", "?live=websocket&offset=-1", {}, b"", 400, "long-poll or sse"),
        ("PATCH", "", TEXT, b"x", 405, "PATCH"),
    ],
)
async def test_bad_input_is_refused_with_what_was_wrong(
    gateway: Any, path: str, method: str, query: str, headers: dict[str, str], body: bytes, status: int, says: str
) -> None:
    """A problem document with the status of the protocol; nothing is stored."""
    made = await gateway.http.put(path, headers=TEXT, content=b"kept")
    response = await gateway.http.request(method, path + query, headers=headers, content=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert says in response.json()["detail"]
    whole = await gateway.http.get(path)
    assert (whole.text, whole.headers[NEXT]) == ("kept", made.headers[NEXT])


@pytest.mark.parametrize("body", [b"{", b"[1,", b"nope", b"[]", b"\xff\xfe", b'{"a":NaN}', b"[" * 5000])
async def test_what_is_not_json_is_refused_by_a_stream_of_json(gateway: Any, path: str, body: bytes) -> None:
    """400, and the producer that sent it may send the right thing under the same number."""
    await gateway.http.put(path, headers=JSON)
    bad = await gateway.http.post(path, headers={**JSON, **producer("p", 0, 0)}, content=body)
    good = await gateway.http.post(path, headers={**JSON, **producer("p", 0, 0)}, content=b"[1]")
    assert (bad.status_code, good.status_code) == (400, 200), bad.text
    assert (await gateway.http.get(path)).json() == [1]


@pytest.mark.parametrize("name", ["", "%0a", "a%00b", "x" * 1100, "%ff"])
async def test_a_path_that_cannot_be_one_is_refused(gateway: Any, name: str) -> None:
    """Empty, with control characters, endless, or no UTF-8."""
    response = await gateway.http.put(f"/v1/stream/{name}", headers=TEXT)
    assert response.status_code == 400
    assert "no path of a stream" in response.json()["detail"]


@pytest.mark.parametrize("name", ["%E6%97%A5%E6%9C%AC", "a%20b", "x:y@z", "50%25"])
async def test_where_a_stream_was_made_leads_to_it(gateway: Any, path: str, name: str) -> None:
    """Names of any script, with spaces and signs: `Location` is an address that a client can follow."""
    made = await gateway.http.put(f"{path}-{name}", headers=TEXT, content=b"here")

    assert made.status_code == 201
    assert (await gateway.http.get(made.headers["location"])).text == "here"


async def test_subscriptions_are_not_served_and_say_so(gateway: Any) -> None:
    """The protocol's reserved paths are no streams."""
    response = await gateway.http.put("/v1/stream/__ds/subscriptions/x", headers=JSON, content=b"{}")
    assert (response.status_code, "subscriptions" in response.json()["detail"]) == (501, True)


async def test_a_body_above_the_limit_is_refused_and_one_below_it_is_one_append(serve: Any, path: str) -> None:
    """Bodies larger than a message of the broker are stored whole or not at all; the limit is a setting."""
    large = bytes(range(256)) * 20_000  # five messages of the broker
    async with serve(settings=GatewaySettings(append_bytes=len(large))) as gateway:
        http = gateway.http
        await http.put(path, headers={"content-type": "application/octet-stream"})
        assert (
            await http.post(path, headers={"content-type": "application/octet-stream"}, content=large + b"x")
        ).status_code == 413

        async def chunked() -> Any:
            for start in range(0, len(large) + 1, 1_000_000):
                yield (large + b"x")[start : start + 1_000_000]

        assert (
            await http.post(path, headers={"content-type": "application/octet-stream"}, content=chunked())
        ).status_code == 413
        assert (await http.get(path)).content == b""
        stored = await http.post(path, headers={"content-type": "application/octet-stream"}, content=large)
        assert stored.status_code == 204
        whole = await http.get(path)
        assert (whole.content == large, whole.headers[NEXT]) == (True, stored.headers[NEXT])
    async with serve() as fresh:  # nothing in memory
        assert (await fresh.http.get(path)).content == large


# -- conditional append ---------------------------------------------------------------------------------------------


async def test_a_conditional_append_has_one_winner(gateway: Any, serve: Any, path: str) -> None:
    """Twenty writers at two gateways expect the same tail: one appends, the others are told where it is now."""
    made = await gateway.http.put(path, headers=TEXT)
    expected = {**TEXT, "if-match": f'"{made.headers[NEXT]}"'}
    async with serve() as other:
        clients = [gateway.http, other.http] * 10
        answers = await asyncio.gather(
            *(http.post(path, headers=expected, content=f"{n};") for n, http in enumerate(clients))
        )
        stored = [answer for answer in answers if answer.status_code == 204]
        refused = [answer for answer in answers if answer.status_code == 412]
        assert (len(stored), len(refused)) == (1, 19)
        assert {answer.headers[NEXT] for answer in refused} == {stored[0].headers[NEXT]}
        again = await other.http.post(path, headers={**TEXT, "if-match": stored[0].headers["etag"]}, content=b"next")
        assert again.status_code == 204
    assert (await gateway.http.get(path)).text.endswith(";next")


async def test_counting_by_conditional_appends_loses_no_update(gateway: Any, serve: Any, path: str) -> None:
    """Read the last value, append the next one if nobody was first: eight writers, forty updates, the count is exact."""
    await gateway.http.put(path, headers=JSON, content=b"[0]")
    async with serve() as other:

        async def count(http: httpx.AsyncClient) -> None:
            for _ in range(5):
                while True:
                    seen = await http.get(path)
                    headers = {**JSON, "if-match": f'"{seen.headers[NEXT]}"'}
                    answer = await http.post(path, headers=headers, content=json.dumps([seen.json()[-1] + 1]))
                    if answer.status_code == 204:
                        break
                    assert answer.status_code == 412

        await asyncio.gather(*(count(http) for http in [gateway.http, other.http] * 4))
        assert (await other.http.get(path)).json() == list(range(41))


# -- several gateways, several producers ----------------------------------------------------------------------------


async def test_producers_at_two_gateways_are_stored_once_each_in_order(gateway: Any, serve: Any, path: str) -> None:
    """Every write is sent to both gateways at once: one stores it, the other says that it is there."""
    await gateway.http.put(path, headers=JSON)
    async with serve() as other:

        async def write(name: str) -> list[set[int]]:
            found = []
            for seq in range(15):
                headers = {**JSON, **producer(name, 0, seq)}
                both = (
                    http.post(path, headers=headers, content=json.dumps([f"{name}{seq}"]))
                    for http in (gateway.http, other.http)
                )
                found.append({answer.status_code for answer in await asyncio.gather(*both)})
            return found

        names = ("a", "b", "c", "d")
        statuses = await asyncio.gather(*(write(name) for name in names))
        stored = (await other.http.get(path)).json()
        assert stored == (await gateway.http.get(path)).json()
    assert all(one == {200, 204} for found in statuses for one in found)
    assert len(stored) == 60
    for name in names:
        assert [value for value in stored if value[0] == name] == [f"{name}{seq}" for seq in range(15)]


async def test_what_one_gateway_was_told_another_one_knows(gateway: Any, serve: Any, path: str) -> None:
    """Appends, closing, deletion and a new stream under the old path are seen at once, although the other has it in memory."""
    async with serve() as other:
        assert (await gateway.http.put(path, headers=TEXT, content=b"one")).status_code == 201
        assert (await other.http.get(path)).text == "one"
        await gateway.http.post(path, headers=TEXT, content=b" two")
        assert (await other.http.get(path)).text == "one two"
        assert (await gateway.http.delete(path)).status_code == 204
        assert (await other.http.post(path, headers=TEXT, content=b"x")).status_code == 404
        assert (await other.http.put(path, headers=JSON, content=b"[1]")).status_code == 201
        assert (await gateway.http.post(path, headers=TEXT, content=b"x")).status_code == 409
        assert (await gateway.http.post(path, headers={"stream-closed": "true"})).status_code == 204
        closed = await other.http.post(path, headers=JSON, content=b"2")
        assert (closed.status_code, closed.headers["stream-closed"]) == (409, "true")
        assert (await other.http.get(path)).json() == [1]


async def test_what_somebody_else_puts_on_its_subjects_is_no_part_of_a_stream(
    gateway: Any, serve: Any, path: str
) -> None:
    """A message without the mark of a gateway is skipped by readers, and the next append is stored all the same."""
    await gateway.http.put(path, headers=TEXT, content=b"one ")
    wire = gateway.gateway.broker.log.wire
    info = await wire.api(f"STREAM.INFO.{contract.DURABLE_STREAM}", {"subjects_filter": "ds.0.data.>"})
    last = max(info["state"]["subjects"], key=lambda subject: subject)
    for subject in info["state"]["subjects"]:
        await wire.publish(subject, b"forged")
    assert last
    assert (await gateway.http.post(path, headers=TEXT, content=b"two")).status_code == 204
    assert (await gateway.http.get(path)).text == "one two"
    async with serve() as fresh:
        assert (await fresh.http.get(path)).text == "one two"
        assert (await fresh.http.post(path, headers=TEXT, content=b" three")).status_code == 204
        assert (await fresh.http.get(path)).text == "one two three"


# -- crowds ---------------------------------------------------------------------------------------------------------


async def test_many_readers_of_a_stream_cost_one_read_and_one_encoding(
    gateway: Any, path: str, monkeypatch: Any
) -> None:
    """A hundred readers at the tail: everything that comes is encoded once, and the broker is not asked for it."""
    from orchestrator_free.gateway.protocols.durable_streams import live
    from orchestrator_free.jetstream.store import Store

    encoded: list[int] = []
    pages: list[str] = []
    honest, page = live.data_event, Store.page
    monkeypatch.setattr(
        live, "data_event", lambda payloads, form: encoded.append(len(payloads)) or honest(payloads, form)
    )

    async def counted(self: Store, subject: str, **more: Any) -> Any:
        pages.append(subject)
        return await page(self, subject, **more)

    monkeypatch.setattr(Store, "page", counted)
    made = await gateway.http.put(path, headers=JSON)
    url = f"{path}?offset={made.headers[NEXT]}&live=sse"
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=gateway.http.base_url, timeout=30, limits=limits) as http:

        async def follow(ready: asyncio.Event) -> list[Any]:
            async with http.stream("GET", url) as response:
                events, values = Events(response), []
                await events.next()
                ready.set()
                while True:
                    kind, data = await events.next()
                    if kind == "data":
                        values += json.loads(data)
                    elif json.loads(data).get("streamClosed"):
                        return values

        flags = [asyncio.Event() for _ in range(100)]
        following = [asyncio.create_task(follow(flag)) for flag in flags]
        async with asyncio.timeout(60):
            await asyncio.gather(*(flag.wait() for flag in flags))
        encoded.clear()
        for number in range(10):
            await gateway.http.post(path, headers=JSON, content=json.dumps([number]))
        await gateway.http.post(path, headers={**JSON, "stream-closed": "true"}, content=b"[10]")
        async with asyncio.timeout(60):
            found = await asyncio.gather(*following)
    assert found == [list(range(11))] * 100
    assert sum(encoded) == 11
    assert pages == []


async def test_a_reader_that_stands_still_costs_its_buffer_and_gets_everything_later(serve: Any, path: str) -> None:
    """It leaves the crowd, the others go on, and what it missed comes from memory or from the log."""
    async with serve(settings=GatewaySettings(stream_tail_bytes=100_000)) as gateway:
        http = gateway.http
        await http.put(path, headers=TEXT)
        async with http.stream("GET", f"{path}?offset=-1&live=sse") as slow:
            events, text = Events(slow), ""
            await events.control()
            piece = "x" * 99_999
            for number in range(60):
                assert (await http.post(path, headers=TEXT, content=f"{number % 10}{piece}")).status_code == 204
            await http.post(path, headers={"stream-closed": "true"})
            while True:
                kind, data = await events.next()
                if kind == "data":
                    text += data
                elif json.loads(data).get("streamClosed"):
                    break
    assert [text[start : start + 1] for start in range(0, len(text), 100_000)] == [str(n % 10) for n in range(60)]


# -- one connection for many streams --------------------------------------------------------------------------------


async def test_one_connection_follows_many_streams_and_resumes_each_where_it_stood(gateway: Any, path: str) -> None:
    """Data is followed by the control event that names its stream; after a cut each goes on from its own offset, once."""
    names = [f"{path}-{letter}".removeprefix("/v1/stream/") for letter in "abc"]
    kinds = {names[0]: JSON, names[1]: TEXT, names[2]: {"content-type": "application/octet-stream"}}
    for name, kind in kinds.items():
        await gateway.http.put(f"/v1/stream/{name}", headers=kind)
    offsets = dict.fromkeys(names, "-1")
    got: dict[str, list[str]] = {name: [] for name in names}

    async def read(count: int) -> None:
        """Read until so many pieces came, over a new connection."""
        query = "&".join(f"stream={name}@{offset}" for name, offset in offsets.items())
        async with gateway.http.stream("GET", f"/v1/stream?live=sse&{query}") as response:
            assert response.status_code == 200
            events, data = Events(response), ""
            while sum(map(len, got.values())) < count:
                kind, text = await events.next()
                if kind == "data":
                    data = text
                    continue
                control = json.loads(text)
                offsets[control["stream"]] = control["streamNextOffset"]
                assert control.get("encoding") == ("base64" if control["stream"] == names[2] else None)
                if data:
                    got[control["stream"]].append(data)
                    data = ""

    for number in range(3):
        for name, kind in kinds.items():
            await gateway.http.post(f"/v1/stream/{name}", headers=kind, content=json.dumps(number))
        await read(3 * (number + 1))
    assert got == {names[0]: ["[0]", "[1]", "[2]"], names[1]: ["0", "1", "2"], names[2]: ["MA==", "MQ==", "Mg=="]}


async def test_of_many_streams_one_that_is_gone_is_named_and_closed_ones_end_the_connection(
    gateway: Any, path: str
) -> None:
    """The others go on; with the last one that closes the connection ends."""
    one, two = (f"{path}-{n}".removeprefix("/v1/stream/") for n in (1, 2))
    for name in (one, two):
        await gateway.http.put(f"/v1/stream/{name}", headers=TEXT)
    wanted = {"streams": {one: "-1", two: "now", "not-there-at-all": "-1"}}
    async with gateway.http.stream("POST", "/v1/stream?live=sse", json=wanted) as response:
        events = Events(response)
        gone = await events.control()
        assert gone == {"stream": "not-there-at-all", "streamGone": True, "status": 404}
        assert {(await events.control())["stream"] for _ in range(2)} == {one, two}
        await gateway.http.delete(f"/v1/stream/{one}")
        assert await events.control() == {"stream": one, "streamGone": True, "status": 404}
        await gateway.http.post(f"/v1/stream/{two}", headers={**TEXT, "stream-closed": "true"}, content=b"end")
        assert await events.next() == ("data", "end")
        last = await events.control()
        assert (last["stream"], last["streamClosed"]) == (two, True)
        with pytest.raises(EOFError):
            await events.next()


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?live=sse", 400), ("?live=long-poll&stream=a", 400), ("?live=sse&stream=not-there", 404),
     ("?live=sse&" + "&".join(f"stream=s{n}" for n in range(501)), 400)],
)  # fmt: skip
async def test_a_connection_for_no_stream_or_too_many_is_refused(gateway: Any, query: str, status: int) -> None:
    """With a problem document."""
    response = await gateway.http.get(f"/v1/stream{query}")
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


# -- sessions as streams --------------------------------------------------------------------------------------------


async def test_a_session_is_read_as_a_durable_stream(gateway: Any, pen: Any) -> None:
    """Catch-up in JSON mode, offsets that go on exactly, long-poll, live events; its writes are not taken."""
    await pen.story("ada", deltas=4)
    url = f"/sessions/{pen.session}/stream"
    whole = await gateway.http.get(url)
    log = await pen.log()
    assert [(one["position"], one["event"]) for one in whole.json()] == log
    assert whole.headers["stream-up-to-date"] == "true"
    epoch, number = log[2][0].split("-")
    rest = await gateway.http.get(f"{url}?offset={epoch}_{int(number):016d}")
    assert rest.json() == whole.json()[3:]
    tail = whole.headers[NEXT]
    assert (await gateway.http.head(url)).headers[NEXT] == tail
    same = await gateway.http.get(url, headers={"if-none-match": whole.headers["etag"]})
    assert same.status_code == 304

    async def later() -> None:
        await asyncio.sleep(0.2)
        await pen.say("ada", "more")

    writing = asyncio.create_task(later())
    polled = await gateway.http.get(f"{url}?offset={tail}&live=long-poll")
    await writing
    assert [one["event"]["text"] for one in polled.json()] == ["more"]
    async with gateway.http.stream("GET", f"{url}?offset={tail}&live=sse") as response:
        events = Events(response)
        kind, data = await events.next()
        assert (kind, [one["event"]["text"] for one in json.loads(data)]) == ("data", ["more"])
        assert (await events.control())["streamNextOffset"] == polled.headers[NEXT]
        await pen.say("ada", "live")
        kind, data = await events.next()
        assert (kind, [one["event"]["text"] for one in json.loads(data)]) == ("data", ["live"])
    assert (await gateway.http.post(url, headers=JSON, content=b"[1]")).status_code == 405
    assert (await gateway.http.get("/sessions/not-there/stream")).status_code == 404


async def test_an_offset_inside_compacted_deltas_brings_the_finished_run(gateway: Any, pen: Any) -> None:
    """The deltas are gone from the log; who stood among them gets the run that replaced them, once, and nothing else."""
    await pen.create("ada")
    await pen.start("ada")
    url = f"/sessions/{pen.session}/stream"
    for number in range(5):
        await pen.say("ada", f"{number}")
    inside = (await gateway.http.get(f"{url}?offset=now")).headers[NEXT]
    await pen.say("ada", "5")
    done = {"type": "run.finished", "status": "done", "parts": [{"type": "text", "id": "1", "text": "012345"}]}
    await pen.write("ada", "run", done, id="r1", rollup=True)
    rest = (await gateway.http.get(f"{url}?offset={inside}")).json()
    assert [one["event"]["type"] for one in rest] == ["run.finished"]
    assert [one["event"]["type"] for one in (await gateway.http.get(url)).json()] == ["session.created", "run.finished"]


async def test_an_offset_of_another_log_is_gone_and_never_skips(gateway: Any, pen: Any) -> None:
    """410 for another epoch or a place beyond the end: the reader begins again at -1."""
    await pen.story("ada")
    url = f"/sessions/{pen.session}/stream"
    epoch, _, digits = (await gateway.http.head(url)).headers[NEXT].partition("_")
    for offset in (f"00000000_{digits}", f"{epoch}_{10**15:016d}"):
        response = await gateway.http.get(f"{url}?offset={offset}")
        assert response.status_code == 410, response.text
    for offset in ("1", f"{epoch}-1", f"{epoch}_1", "_" + digits):
        assert (await gateway.http.get(f"{url}?offset={offset}")).status_code == 400


async def test_a_session_that_is_deleted_ends_its_readers(gateway: Any, pen: Any) -> None:
    """The connection ends, and the next one says 404."""
    await pen.story("ada")
    url = f"/sessions/{pen.session}/stream"
    async with gateway.http.stream("GET", f"{url}?offset=now&live=sse") as response:
        events = Events(response)
        await events.control()
        assert (await gateway.http.delete(f"/sessions/{pen.session}")).status_code == 204
        with pytest.raises((EOFError, httpx.RemoteProtocolError)):
            while True:
                await events.next()
    assert (await gateway.http.get(f"{url}?offset=-1")).status_code == 404


# -- operations -----------------------------------------------------------------------------------------------------


async def test_what_it_does_is_counted_with_bounded_labels(gateway: Any, path: str) -> None:
    """Requests by method and status, bytes, readers; no name of a stream is a label."""
    await gateway.http.put(path, headers=TEXT)
    await gateway.http.post(path, headers=TEXT, content=b"12345")
    await gateway.http.get(path)
    text = (await gateway.http.get("/metrics")).text
    assert 'orchestrator_free_durable_streams_requests_total{method="POST",status="204"} 1.0' in text
    assert "orchestrator_free_durable_streams_appended_bytes_total 5.0" in text
    assert path.rpartition("/")[2] not in text


async def test_it_is_described(gateway: Any) -> None:
    """Every method of every route, in the OpenAPI document."""
    paths = (await gateway.http.get("/openapi.json")).json()["paths"]
    assert {"put", "post", "get", "head", "delete"} <= set(paths["/v1/stream/{path}"])
    assert {"get", "post"} <= set(paths["/v1/stream"])
    assert "get" in paths["/sessions/{session}/stream"]


# -- who asks -------------------------------------------------------------------------------------------------------


async def test_a_token_opens_its_own_streams_and_sessions_and_no_others(
    guarded: Any, token: Any, pen: Any, path: str
) -> None:
    """Also over one connection for many, as the source of a fork, and as the stream of a session."""
    name = path.removeprefix("/v1/stream/")
    own = bearer(token("ann", pen.session, streams=[f"{name}*"]))
    other = bearer(token("bob", "elsewhere", streams=["others/*"]))
    reader = bearer(token("cyd", pen.session, cap=["read"], streams=[f"{name}*"]))
    await pen.story("ada")
    http = guarded.http
    assert (await http.put(path, headers=TEXT)).status_code == 401
    assert (await http.put(path, headers={**TEXT, **reader})).status_code == 403
    assert (await http.put(path, headers={**TEXT, **other})).status_code == 403
    assert (await http.put(path, headers={**TEXT, **own}, content=b"x")).status_code == 201
    assert (await http.get(path, headers=reader)).text == "x"
    fork = {**TEXT, **other, "stream-forked-from": path}
    assert (await http.put("/v1/stream/others/fork", headers=fork)).status_code == 403
    many = {"streams": {name: "-1"}}
    assert (await http.post("/v1/stream?live=sse", json=many)).status_code == 401
    assert (await http.post("/v1/stream?live=sse", json=many, headers=other)).status_code == 403
    async with http.stream("POST", "/v1/stream?live=sse", json=many, headers=reader) as response:
        assert await Events(response).next() == ("data", "x")
    assert (await http.get(f"/sessions/{pen.session}/stream", headers=own)).status_code == 200
    assert (await http.get(f"/sessions/{pen.session}/stream", headers=other)).status_code == 404
    narrow = bearer(token("dan", pen.session, agents=["ada"]))
    assert (await http.get(f"/sessions/{pen.session}/stream", headers=narrow)).status_code == 403
