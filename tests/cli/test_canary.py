"""Secrets, wherever a client can put them, are in no log, no metric and no error of a real `up`."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import orjson
from websockets.asyncio.client import connect as dial
from websockets.exceptions import WebSocketException

from tests.cli.test_serve import urls
from tests.cli.test_token import token_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Canaries:
    """Secrets of every kind, each one its own, and where it was put."""

    def __init__(self) -> None:
        self.placed: dict[str, str] = {}

    def jwt(self, where: str) -> str:
        """A token that somebody else might take."""
        core = secrets.token_hex(12)
        self.placed[core] = where
        return f"eyJhbGciOiJFZERTQSJ9.eyJ{core}.{secrets.token_hex(16)}"

    def ticket(self, where: str) -> str:
        core = secrets.token_hex(12)
        self.placed[core] = where
        return f"tkt_{core}"

    def seed(self, where: str) -> str:
        core = "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(54))
        self.placed[core] = where
        return f"SU{core}"

    def found(self, text: str) -> list[str]:
        """Where those were put that are in a text."""
        return [where for core, where in self.placed.items() if core in text]


async def test_no_secret_of_a_client_is_told_on(command: Any, eventually: Callable[..., Any]) -> None:
    """Headers, addresses, queries, bodies, cookies, WebSockets, half requests; good tokens and bad; debug logs."""
    command("token", "keys", "keys.json")
    canaries = Canaries()
    program = command.start(
        "--log-level",
        "debug",
        "up",
        "--port",
        "0",
        "--broker",
        command.url,
        "--auth-keys",
        str(command.folder / "keys.json"),
    )
    await eventually(lambda: urls(program).get("gateway"), 60)
    base = urls(program)["gateway"]
    good = token_of(command, "--member", "ann", "--session", "*", "--cap", "read,write,state,approve,control,operate")
    canaries.placed[good.split(".")[2][:24]] = "a good token"
    canaries.placed[good.split(".")[1][:40]] = "a good token's claims"
    key = orjson.loads((command.folder / "keys.json").read_bytes())["keys"][0]["d"]
    canaries.placed[key] = "the signing key"
    said: list[str] = []
    async with httpx.AsyncClient(base_url=base) as http:
        mine = {"authorization": f"Bearer {good}"}
        await http.post("/sessions", json={"session": "canary"}, headers=mine)
        for make in (canaries.jwt, canaries.ticket, canaries.seed):
            said += [_text(await http.request(**request)) for request in _requests(make, mine)]
        ticket = (await http.post("/tickets", json={"session": "canary"}, headers=mine)).json()["ticket"]
        canaries.placed[ticket] = "a good ticket"
        for _ in range(2):
            async with http.stream("GET", f"/sessions/canary/events?ticket={ticket}") as answer:
                said.append(_text(answer) if answer.status_code == 200 else (await answer.aread()).decode())
        await _sockets(base, canaries)
        await _raw(base, canaries)
        said.append((await http.get("/metrics", headers=mine)).text)
        said.append((await http.get("/readyz")).text)
        said.append((await http.get("/openapi.json")).text)
    await asyncio.to_thread(program.send, 15)
    await eventually(lambda: not program.alive, 30)
    assert len(canaries.placed) > 50
    assert canaries.found("".join(said)) == []
    assert canaries.found(program.output) == []
    assert "broker" in program.output  # there is a log to look into


def _text(answer: httpx.Response) -> str:
    """What an error, a metric or a header says; what a client has stored is its own to read."""
    body = answer.text if answer.is_closed and answer.status_code >= 400 else ""
    return str(dict(answer.headers)) + body


def _requests(make: Callable[[str], str], mine: dict[str, str]) -> list[dict[str, Any]]:
    base = "/sessions/canary"
    found: list[dict[str, Any]] = [
        {"method": "GET", "url": base, "headers": {"authorization": f"Bearer {make('bearer')}"}},
        {"method": "GET", "url": base, "headers": {"authorization": f"Basic {make('basic')}"}},
        {"method": "GET", "url": base, "headers": {"authorization": make("no scheme")}},
        {"method": "GET", "url": base, "headers": mine | {"cookie": f"__Host-session={make('cookie')}"}},
        {"method": "GET", "url": base, "headers": mine | {"origin": f"https://{make('origin').replace('_', '-')}.example"}},
        {"method": "POST", "url": f"{base}/inputs", "headers": mine | {"origin": f"https://{make('origin')}.example"}},
        {"method": "GET", "url": f"{base}/events", "headers": mine | {"last-event-id": make("last event id")}},
        {"method": "PUT", "url": f"{base}/state/k", "json": 1, "headers": mine | {"if-match": make("if match")}},
        {"method": "GET", "url": f"/nothing/{make('path')}", "headers": mine},
        {"method": "GET", "url": f"/console/{make('file')}.js"},
        {"method": "GET", "url": f"/sessions/{quote(make('session') + '.x')}", "headers": mine},
        {"method": "GET", "url": f"{base}/objects/{make('object')}", "headers": mine},
        {"method": "GET", "url": f"{base}/asks/{make('ask')}", "headers": mine},
        {"method": "PATCH", "url": f"{base}/state/k", "headers": mine | {"content-type": make("content type")}, "content": b"{}"},
        {"method": "POST", "url": f"{base}/inputs", "content": make("no JSON").encode(), "headers": mine},
        {"method": "POST", "url": f"{base}/controls", "json": {"type": make("control type")}, "headers": mine},
        {"method": "POST", "url": "/sessions", "json": {make("field"): 1}, "headers": mine},
        {"method": "POST", "url": f"{base}/inputs", "json": {"text": "x", "to": make("to") + "."}, "headers": mine},
        {"method": "POST", "url": f"{base}/inputs", "json": {"text": "x", "to": "b", "from": make("from")}, "headers": mine},
        {"method": "POST", "url": "/api/chat", "json": {"id": make("chat") + ".", "messages": [{"role": "user"}]}, "headers": mine},
    ]  # fmt: skip
    queries = (
        "access_token",
        "token",
        "ticket",
        "member",
        "after",
        "kinds",
        "agents",
        "until",
        "presence",
        "device",
        "x",
    )
    for name in queries:
        value = make(f"query {name}") + ("." if name in ("member", "agents", "device") else "")
        found.append(
            {"method": "GET", "url": f"{base}/events", "params": {name: value, "snapshot": "bad"}, "headers": mine}
        )
    return found


async def _sockets(base: str, canaries: Canaries) -> None:
    address = base.replace("http", "ws") + "/sessions/canary/events"
    for target, headers in (
        (f"{address}?access_token={canaries.jwt('socket query')}", {}), (f"{address}?ticket={canaries.ticket('socket')}", {}),
        (address, {"authorization": f"Bearer {canaries.jwt('socket header')}"}),
        (address, {"sec-websocket-protocol": canaries.jwt("subprotocol").replace(".", "-")}),
    ):  # fmt: skip
        try:
            async with dial(target, additional_headers=headers):
                pass
        except (WebSocketException, OSError):
            pass


async def _raw(base: str, canaries: Canaries) -> None:
    """Requests that are none: a parser's complaints are logs, too."""
    host, port = base.removeprefix("http://").split(":")
    for head in (
        f"GET /{canaries.jwt('bad head')}\x01 HTTP/1.1\r\n\r\n", f"{canaries.jwt('bad method')} / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\nauthorization Bearer {canaries.jwt('no colon')}\r\n\r\n",
        f"POST /sessions HTTP/1.1\r\ncontent-length: 10\r\nauthorization: Bearer {canaries.jwt('half a body')}\r\n\r\nx",
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(head.encode())
            await asyncio.to_thread(_drain, raw)


def _drain(raw: socket.socket) -> None:
    raw.settimeout(0.5)
    try:
        while raw.recv(4096):
            pass
    except OSError:
        pass
