"""The one table of what each route asks for. A route that is not in it is refused; a test goes through them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator_free.identity.principal import Capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What a route asks for.

    Attributes:
        needs: capabilities, all of them.
        public: it asks for nobody.
        local: from this host it asks for nobody, if the settings say so.
        narrow: it keeps what a token with `agents` may not read out of its answers; other routes refuse such a token.
        ticket: a ticket stands for a token here.
        stays: its answer is a feed, which is counted and looked at again.
    """

    needs: tuple[Capability, ...] = ()
    public: bool = False
    local: bool = False
    narrow: bool = False
    ticket: bool = False
    stays: bool = False


PUBLIC: Final = Permit(public=True)
_READ: Final = Permit(needs=("read",))
_WRITE: Final = Permit(needs=("write",))
_STATE: Final = Permit(needs=("state",))
_ADMIN: Final = Permit(needs=("admin",))
_VIEW: Final = Permit(needs=("read",), narrow=True)
_SAY: Final = Permit(needs=("write",), narrow=True)
_CONTROL: Final = Permit(needs=("control",), narrow=True)
_FEED: Final = Permit(needs=("read",), narrow=True, ticket=True, stays=True)
_FOLLOW: Final = Permit(needs=("read",), narrow=True, stays=True)
_CHAT: Final = Permit(needs=("read", "write"), narrow=True, stays=True)

#: the method of a WebSocket
SOCKET: Final = "WEBSOCKET"
_S: Final = "/sessions/{session}"
_COPILOT: Final = "/api/copilotkit"

#: route -> method -> what it asks for; HEAD is GET
PERMITS: Final[Mapping[str, Mapping[str, Permit]]] = {
    "/sessions": {"GET": _VIEW, "POST": _SAY},
    _S: {"GET": _VIEW, "DELETE": _ADMIN},
    f"{_S}/events": {"GET": _FEED, SOCKET: _FEED},
    f"{_S}/stream": {"GET": Permit(needs=("read",), stays=True)},
    f"{_S}/inputs": {"POST": _SAY},
    f"{_S}/objects/{{name}}": {"GET": _VIEW},
    f"{_S}/controls": {"POST": _CONTROL},
    f"{_S}/asks": {"GET": _READ, "POST": _WRITE},
    f"{_S}/asks/{{ask}}": {"GET": _READ},
    f"{_S}/asks/{{ask}}/answer": {"POST": Permit(needs=("approve",))},
    f"{_S}/asks/{{ask}}/withdraw": {"POST": _WRITE},
    f"{_S}/floor": {"GET": _READ, "POST": Permit(needs=("handoff",))},
    f"{_S}/brief": {"GET": _READ},
    f"{_S}/branches": {"GET": _VIEW},
    f"{_S}/branch": {"POST": _SAY},
    f"{_S}/conversation": {"GET": _VIEW},
    f"{_S}/fork": {"POST": Permit(needs=("read", "write"))},
    f"{_S}/presence": {"GET": _VIEW, "POST": Permit(needs=("presence",), narrow=True)},
    f"{_S}/state": {"GET": _READ},
    f"{_S}/state/{{key}}": {"GET": _READ, "PUT": _STATE, "PATCH": _STATE, "DELETE": _STATE},
    f"{_S}/state/{{key}}/history": {"GET": _READ},
    f"{_S}/tools": {"GET": _VIEW},
    f"{_S}/notices/{{notice}}/retry": {"POST": _ADMIN},
    f"{_S}/inspect": {"GET": _ADMIN},
    "/deadletters": {"GET": _ADMIN},
    "/deadletters/retry": {"POST": _ADMIN},
    "/deadletters/dismiss": {"POST": _ADMIN},
    "/api/chat": {"POST": _CHAT},
    "/api/chat/socket": {SOCKET: Permit(needs=("read", "write"), narrow=True, ticket=True, stays=True)},
    "/api/chat/{session}/stream": {"GET": _FOLLOW},
    "/api/chat/{session}/stop": {"POST": _CONTROL},
    "/api/chat/{session}/messages": {"GET": _VIEW},
    "/api/agui": {"GET": _FOLLOW, "POST": _CHAT},
    "/api/agui/connect": {"POST": _FOLLOW},
    f"{_COPILOT}/info": {"GET": _VIEW},
    f"{_COPILOT}/agent/{{agent}}/run": {"POST": _CHAT},
    f"{_COPILOT}/agent/{{agent}}/connect": {"POST": _FOLLOW},
    f"{_COPILOT}/agent/{{agent}}/stop/{{session}}": {"POST": _CONTROL},
    "/tickets": {"POST": _VIEW},
    "/revocations": {"POST": _ADMIN},
    "/client/{path:path}": {"GET": PUBLIC},
    "/console": {"GET": PUBLIC},
    "/console/{path:path}": {"GET": PUBLIC},
    "/healthz": {"GET": PUBLIC},
    "/readyz": {"GET": PUBLIC},
    "/openapi.json": {"GET": PUBLIC},
    "/docs": {"GET": PUBLIC},
    "/metrics": {"GET": Permit(needs=("operate",), local=True, narrow=True)},
}

#: routes of the Durable Streams protocol: they carry the bytes of applications, and their paths are granted by name
STREAMS: Final = "/v1/stream/"
_STREAM_READ: Final = Permit(needs=("read",), stays=True)
#: several over one connection; each of them is asked for as if it were read alone
_MANY_STREAMS: Final = STREAMS.rstrip("/")


def permit_of(route: str, method: str) -> Permit | None:
    """Return what a route asks for; None if that is written nowhere."""
    method = "GET" if method == "HEAD" else method
    if route == _MANY_STREAMS:
        return _STREAM_READ if method in ("GET", "POST") else None
    if route.startswith(STREAMS):
        return _STREAM_READ if method in ("GET", "OPTIONS") else _WRITE
    return PERMITS.get(route, {}).get(method)
