"""Every error this package raises, in one tree; its branches say who must act.

OrchestratorFreeError
├── InvalidInput (ValueError)           the caller: what was passed is refused, nothing was sent
│   ├── InvalidName                     a session, member, agent or id that cannot be a subject token
│   ├── InvalidPosition                 not a position of any log
│   ├── InvalidEvent                    a payload that is no event
│   └── TooLarge                        beyond a size limit; says which
├── SessionNotFound (LookupError)       the session has no event in the log
├── SessionExists                       created twice
├── RunFinished                         a run was written to after its end
├── RunFenced                           another attempt owns the run now; stop writing
├── PositionLost                        the position's log is gone, trimmed or shorter: read a snapshot instead
└── BrokerError                         the broker, or the way to it
    ├── BrokerStartError                the embedded broker did not start; says why
    ├── BrokerUnreachable (ConnectionError)
    ├── BrokerTimeout (TimeoutError)    not answered within the deadline, retries included
    ├── PermissionDenied (PermissionError)
    ├── StorageFull                     disk, account or stream limit reached; nothing was stored
    ├── Conflict                        the expected last sequence was wrong: somebody else wrote first
    └── ConfigMismatch                  a stream or bucket exists with other settings; lists the fields
"""

from __future__ import annotations

from collections.abc import Sequence


class OrchestratorFreeError(Exception):
    """Root of the tree."""


class InvalidInput(OrchestratorFreeError, ValueError):  # noqa: N818 - reads as what happened
    """What the caller passed is refused; nothing was sent."""


class InvalidName(InvalidInput):
    """A name that cannot be a subject token."""


class InvalidPosition(InvalidInput):
    """A text that is no position."""


class InvalidEvent(InvalidInput):
    """A payload that is no event."""


class TooLarge(InvalidInput):
    """A value beyond a size limit."""


class SessionNotFound(OrchestratorFreeError, LookupError):  # noqa: N818
    """The session has no event in the log."""

    def __init__(self, session: str) -> None:
        super().__init__(f"session {session!r} does not exist; create it first (POST /sessions, Session.create)")
        self.session = session


class SessionExists(OrchestratorFreeError):  # noqa: N818
    """The session was created before."""

    def __init__(self, session: str) -> None:
        super().__init__(f"session {session!r} exists already; choose another id or use it as it is")
        self.session = session


class RunFinished(OrchestratorFreeError):  # noqa: N818
    """A run was written to after its end."""


class RunFenced(OrchestratorFreeError):  # noqa: N818
    """Another attempt owns the run; what this process writes is refused by the broker."""


class PositionLost(OrchestratorFreeError):  # noqa: N818
    """A reader cannot go on from its position; it needs a snapshot.

    Attributes:
        reason: `recreated` (another epoch, or deleted since), `too_old` (trimmed), `ahead` (beyond the log's end) or
            `disorder` (an event was missed, and later ones had been handed on).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"position lost ({reason}): {detail}; read a snapshot and go on from its position")
        self.reason = reason


class BrokerError(OrchestratorFreeError):
    """The broker, or the way to it, failed."""


class BrokerStartError(BrokerError):
    """The embedded broker did not start."""


class BrokerUnreachable(BrokerError, ConnectionError):  # noqa: N818
    """No connection to the broker."""


class BrokerTimeout(BrokerError, TimeoutError):  # noqa: N818
    """No answer within the deadline; what was sent may have been stored."""


class PermissionDenied(BrokerError, PermissionError):  # noqa: N818
    """The broker refused the subject for these credentials."""


class StorageFull(BrokerError):  # noqa: N818
    """A storage limit is reached; nothing was stored."""


class Conflict(BrokerError):  # noqa: N818
    """The expected last sequence was wrong.

    Attributes:
        actual: the last sequence the broker reported, 0 for an empty subject.
    """

    def __init__(self, message: str, *, actual: int) -> None:
        super().__init__(message)
        self.actual = actual


class ConfigMismatch(BrokerError):  # noqa: N818
    """A stream or bucket exists with other settings.

    Attributes:
        differences: one line per field, `field: wanted X, found Y`.
    """

    def __init__(self, name: str, differences: Sequence[str]) -> None:
        lines = "; ".join(differences)
        super().__init__(f"{name} exists with other settings ({lines}); change them or it, nothing was overwritten")
        self.differences = tuple(differences)
