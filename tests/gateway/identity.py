"""What the tests of identity share: a gateway that asks for tokens, and tokens for it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from orchestrator_free.broker import connect
from orchestrator_free.gateway.app import Gateway
from orchestrator_free.gateway.connections.serving import Server
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.identity.keys import public_path, read_key_file, write_new_keys
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.principal import DEFAULT_CAPABILITIES
from orchestrator_free.identity.tokens import Verifier, mint
from tests.gateway.conftest import Serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

import httpx


class Mint:
    """Makes tokens with a key file of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        write_new_keys(self.file, "EdDSA")

    @property
    def key(self) -> Any:
        """What signs now."""
        return next(iter(read_key_file(self.file).values()))

    def __call__(self, member: str = "ann", *sessions: str, cap: Any = DEFAULT_CAPABILITIES, **more: Any) -> str:
        """A token; for every session unless some are named."""
        return mint(self.key, member, sessions=sessions or ("*",), capabilities=cap, **more)

    def ending(self, seconds: float, member: str = "ann", **claims: Any) -> str:
        """A token that counts for so many seconds from now on, leeway included."""
        now = time.time()
        said = {
            "iss": "orchestrator-free", "aud": "orchestrator-free", "sub": member, "jti": f"ending-{now}",
            "cap": list(DEFAULT_CAPABILITIES), "sessions": ["*"], "iat": now - 60, "exp": now - 30 + seconds, **claims,
        }  # fmt: skip
        return jwt.encode(said, self.key.signing, algorithm="EdDSA", headers={"kid": self.key.id})


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def token(tmp_path: Path) -> Mint:
    """`token("ann", "s1", cap=["read"])`."""
    return Mint(tmp_path)


@asynccontextmanager
async def guarding(url: str, mint: Mint, port: int = 0, **chosen: Any) -> AsyncIterator[Serving]:
    """A gateway of a broker that asks for tokens of a mint."""
    settings = GatewaySettings(**{"metrics": "token", **chosen})
    async with connect(url, member="gateway") as broker:
        gateway = Gateway(
            broker, settings=settings, verifier=Verifier(FileKeys(public_path(mint.file), look_seconds=0.05))
        )
        async with (
            Server(gateway.app, port=port, on_drain=gateway.drain) as served,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=30) as http,
        ):
            yield Serving(gateway, served, http)


@pytest.fixture
def guard(broker_url: str, token: Mint) -> Callable[..., Any]:
    """Start a gateway that asks for tokens: `async with guard(member_feeds=2) as gateway:`."""

    def start(port: int = 0, **settings: Any) -> Any:
        return guarding(broker_url, token, port, **settings)

    return start


@pytest.fixture
async def guarded(guard: Any) -> AsyncIterator[Serving]:
    """A gateway that asks for tokens."""
    async with guard() as serving:
        yield serving
