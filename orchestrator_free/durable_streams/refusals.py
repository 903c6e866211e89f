"""What the protocol refuses, with the status and headers it demands."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_free.errors import OrchestratorFreeError


class Refusal(OrchestratorFreeError):  # noqa: N818 - reads as what happened
    """A request that the protocol answers with an error.

    Attributes:
        status: of HTTP, as the protocol has it. title: in a few words. headers: beside those of every answer.
    """

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.headers = dict(headers or {})


def malformed(detail: str) -> Refusal:
    """Return the refusal of a request that cannot be read."""
    return Refusal(400, "Bad request", detail)


def not_found(path: str) -> Refusal:
    """Return the refusal of what is about a stream that does not exist."""
    return Refusal(404, "Stream not found", f"there is no stream {path!r}; create it with PUT")


def gone(path: str) -> Refusal:
    """Return the refusal of what is about a stream that was deleted and is kept for its forks."""
    return Refusal(410, "Stream gone", f"stream {path!r} was deleted; its forks still read what it held")


def conflict(title: str, detail: str, **headers: str) -> Refusal:
    """Return the refusal of what does not go with the stream as it is; `_` in header names becomes `-`."""
    return Refusal(409, title, detail, {name.replace("_", "-"): value for name, value in headers.items()})
