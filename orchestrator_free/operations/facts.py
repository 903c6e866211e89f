"""What the doctor knows and what it concludes, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator_free import contract
from orchestrator_free.lag import Lag

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One conclusion.

    Attributes:
        says: what was found. advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    status: Status
    says: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Facts:
    """What was read; where something could not be, `errors` says why under the same name.

    Attributes:
        version: of the broker. account: `$JS.API.INFO`. user: `$SYS.REQ.USER.INFO`.
        varz, jsz: the broker's HTTP monitor, if its address was given.
        logs: how many logs store what is said over this connection.
        streams: STREAM.INFO by name, None where there is none. consumers: by stream.
        replicas: living processes by agent.
        clock_ahead: seconds that the broker's clock is ahead of ours; clock_error: how sure that is.
        overdue: (session, ask) that are open though their time was up. old: open for more than a day without an end.
        letters: dead letters by kind.
        gateways: (address, HTTP status or 0, what it says).
    """

    version: str = ""
    account: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] | None = None
    role: str = ""
    member: str = ""
    varz: dict[str, Any] | None = None
    jsz: dict[str, Any] | None = None
    logs: int = 0
    streams: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    consumers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    clock_ahead: float = 0.0
    clock_error: float = 0.0
    lags: list[Lag] = field(default_factory=list)
    overdue: list[tuple[str, str]] = field(default_factory=list)
    old: list[tuple[str, str]] = field(default_factory=list)
    letters: Mapping[str, int] = field(default_factory=dict)
    gateways: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Shards that the installation says it has, 0 if there is none."""
        first = self.streams.get(contract.stream_name(0))
        return 0 if first is None else int(first["config"].get("metadata", {}).get("orchestrator_free.shards", "1"))

    def consumer_names(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (stream, ConsumerInfo)."""
        for stream, found in self.consumers.items():
            for info in found:
                yield stream, info
