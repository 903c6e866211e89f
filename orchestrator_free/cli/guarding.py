"""What `up` is told of who may come in: its options, and the words in which it says what that means."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.allowance import networks
from orchestrator_free.gateway.access.origins import check_origin
from orchestrator_free.gateway.settings import GatewaySettings
from orchestrator_free.identity.claims import Reading, parse_reading
from orchestrator_free.identity.keysets import FileKeys, KeySet, RemoteKeys
from orchestrator_free.identity.tokens import Verifier

Readers = Literal["loopback", "open", "token"]

_PANEL: Final = "Identity"
AuthKeys = Annotated[
    Path | None,
    typer.Option(help="Check tokens with the keys in this file; `token keys` makes it.", rich_help_panel=_PANEL),
]
AuthJwks = Annotated[
    str | None, typer.Option(help="Check tokens with the keys at this https address.", rich_help_panel=_PANEL)
]
AuthIssuer = Annotated[str, typer.Option(help="Who has to have made the tokens (iss).", rich_help_panel=_PANEL)]
AuthAudience = Annotated[str, typer.Option(help="For whom they have to be (aud).", rich_help_panel=_PANEL)]
AuthClaims = Annotated[
    Path | None,
    typer.Option(help="What the claims of an identity provider's tokens mean, in this file.", rich_help_panel=_PANEL),
]
Open = Annotated[
    bool,
    typer.Option("--open", help="Ask nobody who they are, wherever it listens.", rich_help_panel=_PANEL),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(help="A web page's origin that may use the gateway, as http://localhost:3000; repeat it for more."),
]
TrustProxy = Annotated[
    list[str] | None,
    typer.Option(help="A proxy's address or network, as 10.0.0.0/8, whose X-Forwarded-For is believed; repeat it."),
]
MetricsFor = Annotated[
    Readers | None,
    typer.Option("--metrics", help="Who reads /metrics without an operator's token: this host, everybody, nobody."),
]
#: what `--limit` names, and what holds with tokens if it does not
_LIMITS: Final[dict[str, tuple[str, int]]] = {
    "member-requests": ("member_requests_per_second", 50),
    "address-requests": ("address_requests_per_second", 500),
    "member-feeds": ("member_feeds", 100),
    "address-feeds": ("address_feeds", 2000),
    "member-sessions": ("member_sessions_per_hour", 500),
}
Limit = Annotated[
    list[str] | None,
    typer.Option(
        help=f"NAME=NUMBER, 0 for none, of {', '.join(_LIMITS)} (requests per second, sessions per hour); repeat it.",
        rich_help_panel=_PANEL,
    ),
]

Linger = Annotated[
    float, typer.Option(help="After SIGTERM, seconds of serving on while /readyz says 503.", min=0, max=600)
]
Audit = Annotated[
    Literal["off", "on", "strict"] | None,
    typer.Option(help="Write down who does what; strict: no answer before. On where tokens are asked for."),
]


@dataclass(frozen=True, slots=True)
class Guarding:
    """Who may come in.

    Attributes:
        verifier: checks tokens; None: nobody is asked for one.
        settings: the gateway's.
        words: what a person who starts it has to know.
        linger_seconds: how long it goes on serving after it was told to stop, not ready any more.
    """

    verifier: Verifier | None
    settings: GatewaySettings
    words: tuple[str, ...] = ()
    linger_seconds: float = 0.0

    def audited(self, mode: Literal["off", "on", "strict"] | None) -> Guarding:
        """Return it with an audit log: as asked for, or by itself where somebody is known."""
        chosen = mode or ("off" if self.verifier is None else "on")
        return replace(self, settings=replace(self.settings, audit=chosen))

    def lingering(self, seconds: float) -> Guarding:
        """Return it with time for load balancers to notice that it stops."""
        return replace(self, linger_seconds=seconds)

    def streaming(self, long_poll_seconds: float, append_mib: int) -> Guarding:
        """Return it with what durable streams may cost."""
        settings = replace(self.settings, long_poll_seconds=long_poll_seconds, append_bytes=append_mib * 1024 * 1024)
        return replace(self, settings=settings)


#: for this host only, as the demonstration
LOCAL: Final = Guarding(None, GatewaySettings(hosts=("localhost", "127.0.0.1", "::1")))


def guarding_of(
    host: str,
    *,
    keys: Path | None,
    jwks: str | None,
    claims: Path | None,
    issuer: str,
    audience: str,
    unguarded: bool,
    origins: Iterable[str],
    proxies: Iterable[str],
    metrics: Readers | None,
    limits: Iterable[str],
) -> Guarding:
    """Return who may come in.

    Raises:
        InvalidInput: the options contradict each other, or would leave a gateway open that others can reach.
    """
    told = {
        name: True for name, given in (("--auth-keys", keys), ("--auth-jwks", jwks), ("--open", unguarded)) if given
    }
    if len(told) > 1:
        raise InvalidInput(f"{' and '.join(told)} contradict each other; pass one of them")
    local = is_loopback(host)
    if not told and not local:
        raise InvalidInput(
            f"--host {host} lets others reach this gateway, and nobody would be asked who they are. Pass --auth-keys "
            "FILE (`orchestrator-free token keys` makes one), --auth-jwks URL, or --open if something before it asks"
        )
    networks(proxies)
    settings = GatewaySettings(
        allow_origins=tuple(check_origin(one) for one in origins), trusted_proxies=tuple(proxies)
    )
    if claims is not None and keys is None and jwks is None:
        raise InvalidInput("--auth-claims says what tokens mean; pass what verifies them: --auth-jwks or --auth-keys")
    if keys is None and jwks is None:
        hosts = () if unguarded else LOCAL.settings.hosts
        chosen: Any = {"hosts": hosts, "metrics": metrics or "open", **_limits(limits, dict.fromkeys(_LIMITS, 0))}
        return Guarding(None, replace(settings, **chosen), _open_words(host, local=local))
    chosen = {"metrics": metrics or "loopback", **_limits(limits, {name: most for name, (_, most) in _LIMITS.items()})}
    found: KeySet = FileKeys(keys) if keys is not None else RemoteKeys(str(jwks))
    words = (f"identity  tokens of {issuer!r} for {audience!r}, checked with {keys or jwks}",)
    verifier = Verifier(found, issuer=issuer, audience=audience, reading=_reading(claims))
    return Guarding(verifier, replace(settings, **chosen), words)


def _reading(file: Path | None) -> Reading | None:
    if file is None:
        return None
    try:
        return parse_reading(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {str(file)!r}: {error}") from error
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from None


def _open_words(host: str, *, local: bool) -> tuple[str, ...]:
    if local:
        return (
            "[bold yellow]OPEN[/]    whoever reaches this host's loopback may do everything; with tokens: "
            "`orchestrator-free token keys`, then --auth-keys",
        )
    return (f"[bold red]OPEN[/]    everybody who reaches {host} may read, write and delete every session (--open)",)


def _limits(given: Iterable[str], chosen: dict[str, int]) -> dict[str, int]:
    for text in given:
        name, _, number = text.partition("=")
        if name not in _LIMITS or not number.isdecimal():
            raise InvalidInput(f"--limit {text[:60]!r}: expected NAME=NUMBER, NAME one of {', '.join(_LIMITS)}")
        chosen[name] = int(number)
    return {_LIMITS[name][0]: most for name, most in chosen.items()}


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
