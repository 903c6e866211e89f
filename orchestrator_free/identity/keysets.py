"""Where a verifier finds its keys: a file that may change under it, or an https address that is asked now and then."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from orchestrator_free import logs
from orchestrator_free.errors import InvalidInput
from orchestrator_free.identity.keys import ANY, Key, read_key_file, read_keys

_log = logs.logger("orchestrator_free.identity")

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUT_SECONDS: Final = 5.0
_BYTES: Final = 256 * 1024
#: keys from an address are asked for again after so long
FRESH_SECONDS: Final = 300.0
#: and, for a key nobody knows, not sooner than that: made-up ids must not become requests to somebody else
FLOOR_SECONDS: Final = 10.0


class KeySet(Protocol):
    """Keys by id.

    Attributes:
        version: grows when the keys are others; what was verified before has to be verified again.
    """

    version: int

    async def find(self, id: str) -> Key | None:
        """Return a key; None if there is none of this id."""

    async def load(self) -> None:
        """Read the keys.

        Raises:
            InvalidInput: they cannot be had.
        """


class FileKeys:
    """The keys of a file, read again whenever it changes: rotation needs no restart."""

    def __init__(self, path: Path, *, look_seconds: float = 1.0) -> None:
        self.version = 0
        self._path = path
        self._look_seconds = look_seconds
        self._keys: dict[str, Key] = {}
        self._mark: object = None
        self._looked = 0.0

    async def load(self) -> None:
        """Read the file."""
        self._mark = self._stamp()
        self._keys = read_key_file(self._path)
        self._looked = time.monotonic()

    async def find(self, id: str) -> Key | None:
        """Return a key of the file as it is now; one that cannot be read leaves the keys as they were."""
        if id not in self._keys or time.monotonic() - self._looked >= self._look_seconds:
            self._looked = time.monotonic()
            if self._stamp() != self._mark:
                self._again()
        return self._keys.get(id) or self._keys.get(ANY)

    def _again(self) -> None:
        self._mark = self._stamp()
        try:
            self._keys = read_key_file(self._path)
        except InvalidInput as error:
            _log.error("the keys cannot be read again; the old ones count", reason=str(error))
            return
        self.version += 1
        _log.info("keys read again", keys=list(self._keys))

    def _stamp(self) -> object:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys are where the operator says, nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


class RemoteKeys:
    """The keys behind an address (JWKS), kept for a while; asked for again at an unknown id, with a floor."""

    def __init__(self, url: str, *, fresh_seconds: float = FRESH_SECONDS, floor_seconds: float = FLOOR_SECONDS) -> None:
        """Prepare.

        Args:
            url: https, or http on this host.
            fresh_seconds: how long keys are kept without asking.
            floor_seconds: between two requests, whatever happens.

        Raises:
            InvalidInput: the address is not safe.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise InvalidInput(f"{url[:200]!r}: keys are fetched over https only")
        self.version = 0
        self._url = url
        self._fresh_seconds = fresh_seconds
        self._floor_seconds = floor_seconds
        self._keys: dict[str, Key] = {}
        self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Fetch the keys."""
        self._asked = time.monotonic()
        keys = await asyncio.to_thread(self._fetch)
        self.version += keys.keys() != self._keys.keys()
        self._keys = keys

    async def find(self, id: str) -> Key | None:
        """Return a key; while its address does not answer, the keys known before count."""
        since = time.monotonic() - self._asked
        if since >= (self._fresh_seconds if id in self._keys else self._floor_seconds):
            self._ask()
        if self._asking is not None and id not in self._keys:
            await asyncio.shield(self._asking)
        return self._keys.get(id)

    def _ask(self) -> None:
        """Fetch in the background, once for all who wait."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._again(), name="keys")

    async def _again(self) -> None:
        try:
            await self.load()
        except InvalidInput as error:
            _log.error("the keys cannot be fetched again; the old ones count", reason=str(error))
        finally:
            self._asking = None

    def _fetch(self) -> dict[str, Key]:
        opener = urllib.request.build_opener(_NoRedirects)
        request = urllib.request.Request(self._url, headers={"accept": "application/jwk-set+json, application/json"})  # noqa: S310 - checked above
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                text = answer.read(_BYTES)
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise InvalidInput(f"no keys from {self._url}: {error}") from error
        keys = read_keys(text)
        if any(key.secret or key.signing is not None for key in keys.values()):
            raise InvalidInput(f"{self._url} shows private keys to everybody; it has to serve the public set")
        return keys
