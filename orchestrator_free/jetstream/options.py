"""How a connection reaches the broker: address, who we are, whom we trust."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

from orchestrator_free.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """How to reach the broker.

    Attributes:
        url: `nats://host:port`, several separated by commas; `tls://` and `ws://` too.
        name: shown in the broker's connection list.
        credentials: a `.creds` file. nkey_seed: a file with an nkey seed. token: a token, or what returns one.
        token_file: a file with a token; like a callable it is asked at each connect, so that a fresh one counts.
        ca: a PEM file to verify the broker against; certificate and key: this client's own.
        inbox_prefix: for accounts that scope inboxes per user.
    """

    url: str
    name: str = "orchestrator-free"
    credentials: Path | None = None
    nkey_seed: Path | None = None
    token: str | Callable[[], str] | None = None
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    inbox_prefix: str = "_INBOX"
    connect_seconds: float = 5.0

    @property
    def address(self) -> str:
        """The URL as messages may show it: without user, password or token."""
        return re.sub(r"(?<=://)[^/@,]*@", "", self.url)

    @property
    def tokened(self) -> bool:
        """Whether a token is shown."""
        return bool(self.token or self.token_file)

    def check(self) -> None:
        """Look at the files before anything is sent.

        Raises:
            InvalidInput: one is missing, or is not what it should be.
        """
        for name in ("credentials", "nkey_seed", "token_file", "ca", "certificate", "key"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise InvalidInput(f"{name.replace('_', ' ')}: there is no file {str(path)!r}")
        try:
            self.arguments()
            if self.nkey_seed is not None:
                nkeys.from_seed(bytearray(self.nkey_seed.read_bytes().strip()))
        except (OSError, ValueError, nkeys.NkeysError) as error:
            raise InvalidInput(f"what to connect with cannot be used: {error}") from error

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for nats-py."""
        found: dict[str, Any] = {"servers": [part.strip() for part in self.url.split(",")], "name": self.name}
        if self.credentials:
            found["user_credentials"] = str(self.credentials)
        if self.nkey_seed:
            found["nkeys_seed"] = str(self.nkey_seed)
        if self.token_file:
            found["token"] = lambda: _read_token(self.token_file)
        elif self.token:
            found["token"] = self.token
        if self.ca or self.certificate:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
            if self.certificate:
                context.load_cert_chain(str(self.certificate), str(self.key) if self.key else None)
            found["tls"] = context
        return found


def _read_token(path: Path | None) -> str:
    return path.read_text().strip() if path is not None else ""
