"""What the load generator writes to a log: raw NATS and raw Redis bytes, built without a client library."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Protocol

Address = tuple[str, int]

INBOX = "_INBOX.feed"
_ROLLUP = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n"
CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bench"}\r\n'


@dataclass(frozen=True, slots=True)
class Stream:
    """One run of one agent in one session: what events are appended to."""

    session: str
    member: str
    run: str


class Wire(Protocol):
    """How to append events to a log and to recognise acknowledgements.

    Attributes:
        hello: what is sent first. ready: what the log answers to it.
        acked: stands exactly once in every acknowledgement. refused: stands in every refusal.
        compacts: whether a final event replaces the run's deltas.
    """

    hello: bytes
    ready: bytes
    acked: bytes
    refused: bytes
    compacts: bool

    def created(self, session: str) -> bytes:
        """Return the append that begins a session, empty if a log needs none."""

    def key(self, stream: Stream) -> bytes:
        """Return the prepared head of every append to a stream."""

    def frame(self, key: bytes, payload: bytes, *, final: bool = False) -> bytes:
        """Return the bytes of one append."""


class NatsWire:
    """Acknowledged JetStream publish."""

    hello = CONNECT + f"SUB {INBOX}.ack 1\r\nPING\r\n".encode()
    ready = b"PONG\r\n"
    acked = b'"seq":'
    refused = b'"error":'
    compacts = True

    def created(self, session: str) -> bytes:
        """Return the session's `meta` event."""
        payload = b'{"type":"session.created","title":"bench","agents":["a0","a1"]}'
        return self.frame(f"PUB session.0.{session}.bench.meta {INBOX}.ack ".encode(), payload)

    def key(self, stream: Stream) -> bytes:
        """Return `PUB <subject> <inbox> `."""
        return f"PUB session.0.{stream.session}.{stream.member}.run.{stream.run} {INBOX}.ack ".encode()

    def frame(self, key: bytes, payload: bytes, *, final: bool = False) -> bytes:
        """Return one PUB, or HPUB with a roll-up when it is final."""
        if final:
            sizes = (len(_ROLLUP), len(_ROLLUP) + len(payload))
            return b"H%b%d %d\r\n%b%b\r\n" % (key, *sizes, _ROLLUP, payload)
        return b"%b%d\r\n%b\r\n" % (key, len(payload), payload)


class RedisWire:
    """XADD to one Redis stream per session."""

    hello = b"PING\r\n"
    ready = b"+PONG\r\n"
    acked = b"$"
    refused = b"-ERR"
    compacts = False

    def created(self, session: str) -> bytes:
        """Return nothing: a stream begins with its first entry."""
        return b""

    def key(self, stream: Stream) -> bytes:
        """Return the command up to the payload."""
        words = ("XADD", f"session:{stream.session}", "*", "m", stream.member, "r", stream.run, "p")
        return b"*9\r\n" + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)

    def frame(self, key: bytes, payload: bytes, *, final: bool = False) -> bytes:
        """Return one XADD."""
        return b"%b$%d\r\n%b\r\n" % (key, len(payload), payload)


def started() -> bytes:
    """Return the payload that opens a run."""
    return b'{"type":"run.started","attempt":1,"input":"bench/x"}'


def delta(number: int, due: int) -> bytes:
    """Return the payload of one token, stamped with the time it is due."""
    return b'{"type":"text.delta","part":"1","text":"tok %06d ","t":%d}' % (number, due)


def finished(tokens: int, *, self_contained: bool) -> bytes:
    """Return the payload that ends a run; self-contained if the log drops the run's deltas for it."""
    body: dict[str, Any] = {"type": "run.finished", "status": "done", "attempt": 1, "input": "bench/x"}
    if self_contained:
        text = "".join(f"tok {number:06d} " for number in range(tokens))
        body["parts"] = [{"type": "text", "part": "1", "text": text}]
    return json.dumps(body, separators=(",", ":")).encode()


def request(address: Address, subject: str, body: object = None) -> dict[str, Any]:
    """Make one NATS request with a JSON answer."""
    payload = b"" if body is None else json.dumps(body).encode()
    ask = f"SUB {INBOX}.one 1\r\nPUB {subject} {INBOX}.one {len(payload)}\r\n".encode()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(CONNECT + ask + payload + b"\r\n")
        reader = connection.makefile("rb")
        while line := reader.readline():
            if line.startswith((b"MSG", b"HMSG")):
                answer = reader.read(int(line.split()[-1]))
                if answer.startswith(b"NATS/1.0 503"):
                    raise ConnectionError(f"nobody answers {subject}")
                found: dict[str, Any] = json.loads(answer)
                if "error" in found:
                    raise ConnectionError(f"{subject}: {found['error']}")
                return found
    raise ConnectionError(f"no answer to {subject}")
