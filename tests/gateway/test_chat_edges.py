"""What goes wrong between clients of other protocols and the gateway: a clear error or a defined cut each."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from orchestrator_free.gateway.protocols.teller import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

USER = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}


@pytest.fixture
async def chat(ann: Broker, programs: Any, fresh: Callable[[str], str]) -> str:
    """A chat with an agent that answers at once."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, 'await run.text("hi")')
    await ann.session(name).create(agents=[agent])
    return name


async def test_what_is_malformed_begins_no_session(gateway: Any, fresh: Callable[[str], str]) -> None:
    """Neither over the AI SDK's route nor over AG-UI's."""
    chat, thread = fresh("chat"), fresh("thread")
    for messages in ([{"role": "user"}], [{"role": "assistant", "parts": None}], [{"role": "user", "parts": [7]}]):
        assert (await gateway.http.post("/api/chat", json={"id": chat, "messages": messages})).status_code == 400
    assert (await gateway.http.post("/api/chat?ai_sdk=8", json={"id": chat, "messages": [USER]})).status_code == 400
    said = {"threadId": thread, "runId": "r"}
    assert (await gateway.http.post("/api/agui", json=said | {"messages": []})).status_code == 400
    good = said | {"messages": [{"id": "u", "role": "user", "content": "x"}]}
    assert (await gateway.http.post("/api/agui", json=good, headers={"last-event-id": "x"})).status_code == 400
    for name in (chat, thread):
        assert (await gateway.http.get(f"/sessions/{name}")).status_code == 404


async def test_a_cursor_counts_for_its_own_answer_only_and_behind_the_end_nothing_comes(
    gateway: Any, chat: str
) -> None:
    """Another answer's is refused, not taken for one that was told nothing; behind the end it is 204."""
    places = []
    for number in range(2):
        body = {"id": chat, "messages": [USER | {"id": f"m{number}"}]}
        said = await gateway.http.post("/api/chat", json=body)
        ids = [line[4:] for line in said.text.splitlines() if line.startswith("id: ")]
        places.append((said.headers["x-stream-url"], ids[-3], ids[-1]))
    (first, middle, end), (second, *_) = places

    assert (await gateway.http.get(second, headers={"last-event-id": middle})).status_code == 400
    assert (await gateway.http.get(second, headers={"last-event-id": "no\tcursor"})).status_code == 400
    assert (await gateway.http.get(first, headers={"last-event-id": end})).status_code == 204
    rest = await gateway.http.get(first, headers={"last-event-id": middle})
    assert rest.text.count('"finish"') == 1


async def test_line_ends_and_nulls_in_what_people_and_agents_say_do_not_break_frames(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """Each frame stays one line of JSON between LFs; the text arrives as it was written."""
    nasty = "a\r\nb\n\nc\rd\u2028e\x00f: data: g"
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, f"await run.text({nasty!r})\nawait run.data('x', None)")
    await ann.session(name).create(agents=[agent])
    body = {"id": name, "messages": [USER | {"parts": [{"type": "text", "text": nasty}]}]}
    said = await gateway.http.post("/api/chat", json=body)
    frames = [frame for frame in said.content.decode().split("\n\n") if "data: {" in frame]
    chunks = [json.loads(frame[frame.index("data: ") + 6 :]) for frame in frames]

    assert b"\r" not in said.content
    assert "".join(chunk.get("delta", "") for chunk in chunks) == nasty
    history = (await gateway.http.get(f"/api/chat/{name}/messages")).json()
    assert [part["text"] for one in history for part in one["parts"] if part["type"] == "text"] == [nasty, nasty]


async def test_more_wrong_frames_on_the_websocket(gateway: Any, chat: str) -> None:
    """A request id in use, an approval of no answer, an abort of nothing; a binary frame is read as text."""
    async with connect(f"ws://127.0.0.1:{gateway.port}/api/chat/socket") as socket:

        async def told() -> dict[str, Any]:
            return dict(json.loads(await asyncio.wait_for(socket.recv(), 20)))

        approval = {"role": "assistant", "id": "msg-none", "parts": [{"approval": {"id": "q", "approved": True}}]}
        await socket.send(json.dumps({"type": "abort", "requestId": "r0"}))
        await socket.send(json.dumps({"type": "send", "requestId": "r1", "id": chat, "messages": [approval]}))
        assert (await told())["errorText"] == "this chat has no such answer"
        send = {"type": "send", "requestId": "r2", "id": chat, "messages": [USER]}
        await socket.send(json.dumps(send).encode())
        await socket.send(json.dumps(send))
        frames = [await told()]
        while frames[-1]["type"] != "end":
            frames.append(await told())
        assert [one["errorText"] for one in frames if one["type"] == "error"] == [
            "this requestId is being answered; choose a new one"
        ]
        await socket.send(b"\xff\xfe")
        with pytest.raises(ConnectionClosed):
            await told()


async def test_seven_open_feeds_of_one_chat_are_all_served(gateway: Any, ann: Broker, chat: str) -> None:
    """The gateway sets no limit; browsers do, six for each host over HTTP/1.1, which the WebSocket routes avoid."""
    body = {"id": chat, "messages": [USER]}
    whole = await asyncio.gather(*(gateway.http.post("/api/chat", json=body) for _ in range(7)))
    assert [one.text.count('"finish"') for one in whole] == [1] * 7
    assert len((await ann.session(chat).view())["inputs"]) == 1


class Pipe:
    """A connection whose client may read nothing."""

    def __init__(self, *, writable: bool) -> None:
        self.writable, self.closed, self.sent = writable, False, b""

    def send(self, data: bytes) -> None:
        self.sent += data

    def finish(self) -> None:
        self.closed = True

    cut = finish


def room() -> Any:
    """What a teller needs of a channel."""
    seats: list[Any] = []
    attendance = SimpleNamespace(came=lambda *_: seats.append(1), left=lambda *_: seats.pop())
    return SimpleNamespace(
        session="s", closed=False, attendance=attendance, seats=seats, listen=lambda listener: lambda: None
    )


async def test_a_client_that_reads_nothing_is_cut_and_leaves_no_timer(eventually: Any) -> None:
    """After three beats without room in its buffer; nothing was queued for it meanwhile."""
    told: list[int] = []
    channel, pipe = room(), Pipe(writable=False)
    teller = Teller(channel, lambda: (told.append(1), (b"x", False))[1], "user", beat_seconds=0.02)
    teller.begin(pipe)  # type: ignore[arg-type]
    await eventually(lambda: _soon(pipe.closed))
    teller.on_close(pipe)  # type: ignore[arg-type]
    assert (pipe.sent, told, channel.seats) == (b"", [], [])
    assert (
        teller._timer is None or teller._timer.cancelled() or teller._timer.when() <= asyncio.get_running_loop().time()
    )


async def test_a_projection_that_fails_cuts_its_own_client_only() -> None:
    """The channel goes on telling the others."""

    def tell() -> tuple[bytes, bool]:
        raise KeyError("a bug")

    pipe = Pipe(writable=True)
    teller = Teller(room(), tell, "user")
    teller.begin(pipe)  # type: ignore[arg-type]
    assert pipe.closed
    teller.on_close(pipe)  # type: ignore[arg-type]


async def _soon(value: bool) -> bool:
    return value


async def test_an_answer_whose_parts_are_in_the_object_store_is_told_whole(
    gateway: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """To who reads the history, and to who resumes when it has ended."""
    name, agent = fresh("chat"), fresh("agent")
    programs.agent(agent, "for n in range(40):\n    await run.text(str(n % 10) * 10_000)")
    await ann.session(name).create(agents=[agent])
    body = {"id": name, "messages": [USER]}
    said = await gateway.http.post("/api/chat", json=body)
    view = await ann.session(name).view()
    history = (await gateway.http.get(f"/api/chat/{name}/messages")).json()
    again = await gateway.http.get(said.headers["x-stream-url"])
    threads = (await gateway.http.get("/api/agui", params={"threadId": name})).json()["messages"]
    whole = "".join(str(n % 10) * 10_000 for n in range(40))

    assert view["agents"][0]["runs"][0]["object"]
    assert [part["text"] for part in history[1]["parts"] if part["type"] == "text"] == [whole]
    deltas = [json.loads(line[6:]) for line in again.text.splitlines() if '"text-delta"' in line]
    assert "".join(one["delta"] for one in deltas) == whole
    assert whole in json.dumps(threads)
