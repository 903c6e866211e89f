"""One webhook: its address, its signature, one try at a time.

Signed as Standard Webhooks has it. The name in the address is resolved anew for each try, every address it has is held
against the policy, and the connection goes to one that was checked: a name that points elsewhere a moment later changes
nothing. Redirects are not followed, proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator_free.errors import InvalidInput, OrchestratorFreeError
from orchestrator_free.notify.rules import GONE, is_final, read_retry_after

try:
    import httpx
    import standardwebhooks
except ImportError as _missing:
    raise ImportError(f"{_missing.name} is not installed: pip install 'orchestrator-free[notify]'") from _missing

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: where clouds answer their machines, beside the link-local addresses
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_SHORTEST_KEY: Final = 16
SECRET_VARIABLE: Final = "ORCHESTRATOR_FREE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable


class WebhookGone(OrchestratorFreeError):  # noqa: N818 - reads as what happened
    """The receiver has said 410 Gone: it wants to be told nothing any more."""


class _Refused(Exception):  # noqa: N818
    """The address may not be reached."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one try.

    Attributes:
        ok: it was taken.
        final: trying again is no use.
        error: what went wrong, for people; never the address, which may hold a secret.
        retry_after: seconds the receiver wants to be left alone.
    """

    ok: bool
    final: bool = False
    error: str = ""
    retry_after: float | None = None


class WebhookSettings:
    """Where to, and with which secrets; neither is shown by `repr`.

    Attributes:
        url: http or https.
        host: of the address, for logs.
        public_only: refuse addresses of private networks and of this machine.
        timeout_seconds: for one try, everything included.
    """

    def __init__(
        self, url: str, secrets: Iterable[str], *, public_only: bool = False, timeout_seconds: float = 15.0
    ) -> None:
        """Check everything that can be checked before anything is sent.

        Args:
            url: http or https.
            secrets: `whsec_` and base64, as Standard Webhooks has it; of several, each signs.
            public_only: refuse addresses of private networks and of this machine.
            timeout_seconds: for one try, everything included.

        Raises:
            InvalidInput: says what is wrong, without the value.
        """
        self.url = _check_url(url)
        self.host = self.url.host
        self.public_only = public_only
        self.timeout_seconds = timeout_seconds
        self.signers = [_signer(secret) for secret in secrets]
        if not self.signers:
            raise InvalidInput(f"a webhook needs a secret: set {SECRET_VARIABLE}, or pass --secret-file")

    @property
    def port(self) -> int:
        """The port of the address."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)


def _check_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise InvalidInput("the webhook's address is no URL; pass one such as https://example.org/hooks") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput("the webhook's address must begin with https:// or http:// and name a host")
    if url.userinfo:
        raise InvalidInput("the webhook's address must not hold a user or a password: the signature says who it is")
    return url.copy_with(fragment=None)


def _signer(secret: str) -> standardwebhooks.Webhook:
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < _SHORTEST_KEY:
        raise InvalidInput(
            f"the webhook's secret must be whsec_ and the base64 of at least {_SHORTEST_KEY} bytes; make one with: "
            "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(24)).decode())\""
        )
    return standardwebhooks.Webhook(key)


def read_secrets(given: str | None, file: Path | None) -> list[str]:
    """Return the secrets of a file, of an option, or of the environment: the first of these that is there.

    Several are separated by white space; the first line of a rotation is the new one, the last the old one.

    Raises:
        InvalidInput: the file cannot be read.
    """
    if file is None:
        return (given or os.environ.get(SECRET_VARIABLE, "")).split()
    try:
        return file.read_text().split()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the secret in {file}: {getattr(error, 'strerror', None) or error}") from None


def why_refused(address: str, *, public_only: bool) -> str:
    """Return why an IP address must not be reached; empty if it may be."""
    found: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(found.packed[-4:]) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    if found.is_link_local or found in _METADATA:
        return "a link-local or metadata address"
    if found.is_multicast or found.is_unspecified or (found.is_reserved and not found.is_loopback):
        return "no address of a host"
    return "no public address" if public_only and not found.is_global else ""


class Webhook:
    """Sends to one receiver: `async with Webhook(settings) as webhook: await webhook.send(id, body)`."""

    def __init__(self, settings: WebhookSettings) -> None:
        self.settings = settings
        self._client = httpx.AsyncClient(
            follow_redirects=False, trust_env=False, verify=httpx.create_ssl_context(),
            timeout=settings.timeout_seconds,
            headers={"user-agent": "orchestrator-free", "content-type": "application/json"},
        )  # fmt: skip

    async def __aenter__(self) -> Webhook:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, message_id: str, body: bytes) -> Answer:
        """Try once.

        Raises:
            WebhookGone: the receiver wants nothing any more.
        """
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                return await self._try(message_id, body)
        except TimeoutError:
            return Answer(False, error=f"no answer within {self.settings.timeout_seconds:g} s")
        except httpx.TransportError as error:
            return Answer(False, error=f"{type(error).__name__}: {error}"[:300])
        except OSError as error:
            return Answer(False, error=f"{self.settings.host}: {error.strerror or error}")
        except _Refused as refused:
            return Answer(False, final=True, error=str(refused))

    async def _try(self, message_id: str, body: bytes) -> Answer:
        status, retry_after = await self._post(self._headers(message_id, body), body, await self._addresses())
        if status == GONE:
            raise WebhookGone(f"{self.settings.host} says 410 Gone: it wants to be told nothing any more")
        if 200 <= status < 300:
            return Answer(True)
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        asked = read_retry_after(retry_after, datetime.now(UTC))
        return Answer(False, final=is_final(status), error=f"answered {status}{redirect}", retry_after=asked)

    def _headers(self, message_id: str, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        signed = [signer.sign(message_id, now, body.decode()) for signer in self.settings.signers]
        return {
            "webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signed), "host": self.settings.url.netloc.decode(),
        }  # fmt: skip

    async def _addresses(self) -> Sequence[str]:
        """Return the addresses of the host; every one of them must be allowed."""
        settings = self.settings
        found = await asyncio.get_running_loop().getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            if reason := why_refused(address, public_only=settings.public_only):
                raise _Refused(f"{settings.host} is {address}, {reason}: refused")
        return addresses

    async def _post(self, headers: dict[str, str], body: bytes, addresses: Sequence[str]) -> tuple[int, str | None]:
        """Post to the first address that takes a connection; the certificate must be the name's."""
        extensions = {"sni_hostname": self.settings.host}
        for number, address in enumerate(addresses, 1):
            url = self.settings.url.copy_with(host=address)
            request = self._client.build_request("POST", url, headers=headers, content=body, extensions=extensions)
            try:
                response = await self._client.send(request, stream=True)
            except httpx.ConnectError:
                if number == len(addresses):
                    raise
                continue
            await response.aclose()  # the body is nobody's business, however long it is
            return response.status_code, response.headers.get("retry-after")
        raise OSError("the host has no address")
