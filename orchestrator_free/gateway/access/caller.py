"""Who calls: the `Principal` that the guard found, and what it may enter."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import HTTPConnection

from orchestrator_free.errors import NotAllowed, SessionNotFound
from orchestrator_free.gateway.connections.watch import STAY, Stay
from orchestrator_free.identity.principal import Principal
from orchestrator_free.subjects import check_name

#: where the guard leaves the principal in the scope; None where a route asks for nobody
PRINCIPAL: Final = "orchestrator_free.principal"
#: where those that a request passes leave what the audit log is to know
NOTES: Final = "orchestrator_free.notes"


@dataclass(slots=True)
class Notes:
    """What is known of a request in the end; one object, since middleware copies scopes.

    Attributes:
        route, params: as the guard found them. said: by the handler, words of ours, names and ids.
    """

    route: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    principal: Principal | None = None
    said: dict[str, Any] = field(default_factory=dict)


def caller(connection: HTTPConnection) -> Principal:
    """Return who calls. Without a guard in front there is nobody, and an error."""
    found: Principal = connection.scope[PRINCIPAL]
    return found


def begins(connection: HTTPConnection) -> None:
    """Note that the caller begins a session.

    Raises:
        TooManyRequests: it has begun as many as it may.
    """
    stay: Stay = connection.scope[STAY]
    stay.begins()


def speaker(connection: HTTPConnection, claimed: str | None, what: str = "from") -> str:
    """Return the member in whose name a request speaks; `claimed` is what it says itself, if it does.

    Raises:
        NotAllowed: it is another one than the token's.
        InvalidName: it cannot be one.
    """
    return caller(connection).speaks_as(None if claimed is None else check_name(what, claimed))


def enter(connection: HTTPConnection, session: str, what: str = "session") -> str:
    """Return the id of a session that the caller may enter.

    Raises:
        InvalidName: it cannot be one.
        SessionNotFound: it may not, which looks as if there were none.
    """
    if not caller(connection).enters(check_name(what, session)):
        raise SessionNotFound(session)
    return session


def new_session(connection: HTTPConnection, wanted: str | None) -> str:
    """Return the id of a session that the caller begins; made up if it wants none.

    Raises:
        InvalidName: it cannot be one.
        NotAllowed: it is not the caller's to begin, whether or not there is one.
        TooManyRequests: the caller has begun as many as it may.
    """
    principal = caller(connection)
    name = principal.new_session(secrets.token_hex(12)) if wanted is None else check_name("session", wanted)
    if not principal.enters(name):
        raise NotAllowed(f"this token is not for a session {name!r}; it names those that it is for")
    begins(connection)
    return name
