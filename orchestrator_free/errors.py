"""Every error this package raises, in one tree; its branches say who must act.

OrchestratorFreeError
├── InvalidInput (ValueError)           the caller: what was passed is refused, nothing was sent
│   ├── InvalidName                     a session, member, agent or id that cannot be a subject token
│   ├── InvalidPosition                 not a position of any log
│   ├── InvalidEvent                    a payload that is no event
│   ├── InvalidAnswer                   a value that an ask does not take
│   ├── InvalidPatch                    not a JSON Patch
│   └── TooLarge                        beyond a size limit; says which
├── SessionNotFound (LookupError)       the session has no event in the log
├── SessionExists                       created twice
├── PatchFailed                         a patch does not apply to the value that is there; nothing was changed
├── FloorRefused                        the floor does not stand so that this step could be taken
│   └── FloorForbidden                  this step is somebody else's
├── RunFinished                         a run was written to after its end
├── RunFenced                           another attempt owns the run now; stop writing
├── AskNotFound (LookupError)           nobody has asked that
├── NoticeNotFound (LookupError)        no notification of this id was given up
├── NotAuthenticated                    no token, or one that does not count; says why
│   └── TokenExpired                    its time is over: fetch a new one
├── NotAllowed                          what the token does not allow; says what is missing
├── TooManyRequests                     a limit is reached; says which, and when to come again
├── LetterNotFound (LookupError)        no dead letter of this id waits for anybody
├── NotAsked                            an ask that is not this member's to answer, or to withdraw
├── AskClosed                           decided, expired, withdrawn, or answered by this member before; says how
├── LeaseHeld (TimeoutError)            somebody else has the lease, or what it stands for is done
├── LeaseLost                           the lease lapsed, or somebody else has it now; stop what it stood for
├── NotAnswered (TimeoutError)          nobody answered in the time that the ask had
├── ToolFailed                          a tool that a client runs says that it failed
├── PositionLost                        the position's log is gone, trimmed or shorter: read a snapshot instead
└── BrokerError                         the broker, or the way to it
    ├── BrokerStartError                the embedded broker did not start; says why
    ├── UnsupportedBroker               a server older than what this project needs
    ├── BrokerUnreachable (ConnectionError)
    ├── BrokerTimeout (TimeoutError)    not answered within the deadline, retries included
    ├── PermissionDenied (PermissionError)
    ├── StorageFull                     disk, account or stream limit reached; nothing was stored
    ├── Conflict                        the expected last sequence was wrong: somebody else wrote first
    ├── SecondLog                       a log would be made beside another one, or might be; nothing was made
    └── ConfigMismatch                  a stream or bucket exists with other settings; lists the fields
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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


class InvalidAnswer(InvalidInput):
    """A value that an ask does not take."""


class InvalidPatch(InvalidInput):
    """Not a JSON Patch (RFC 6902)."""


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


class FloorRefused(OrchestratorFreeError):  # noqa: N818
    """The floor does not stand so that this step could be taken; says how it stands."""


class FloorForbidden(FloorRefused):
    """This step is for somebody else to take."""


class PatchFailed(OrchestratorFreeError):  # noqa: N818
    """A patch does not apply to the value that is there, or there is none; nothing was changed."""


class RunFinished(OrchestratorFreeError):  # noqa: N818
    """A run was written to after its end."""


class RunFenced(OrchestratorFreeError):  # noqa: N818
    """Another attempt owns the run; what this process writes is refused by the broker."""


class NoticeNotFound(OrchestratorFreeError, LookupError):  # noqa: N818
    """No notification of this id was given up."""

    def __init__(self, notice: str) -> None:
        super().__init__(f"no notification with the id {notice!r} was given up; views list them as notices")
        self.notice = notice


class NotAuthenticated(OrchestratorFreeError):  # noqa: N818
    """No token, or one that does not count."""


class TokenExpired(NotAuthenticated):
    """The token's time is over."""


class NotAllowed(OrchestratorFreeError):  # noqa: N818
    """What the token does not allow."""


class TooManyRequests(OrchestratorFreeError):  # noqa: N818
    """A limit is reached; nothing was done.

    Attributes:
        seconds: when to come again.
    """

    def __init__(self, text: str, *, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class LetterNotFound(OrchestratorFreeError, LookupError):  # noqa: N818
    """No dead letter of this id waits for anybody."""

    def __init__(self, letter: str) -> None:
        super().__init__(
            f"no dead letter {letter[:200]!r} waits for anybody; `orchestrator-free deadletters` lists them"
        )
        self.letter = letter


class AskNotFound(OrchestratorFreeError, LookupError):  # noqa: N818
    """Nobody has asked that."""

    def __init__(self, session: str, ask: str) -> None:
        super().__init__(f"session {session!r} has no ask {ask!r}; its view lists what is asked")
        self.ask = ask


class NotAsked(OrchestratorFreeError):  # noqa: N818
    """An ask that is not this member's to answer, or to withdraw."""


class AskClosed(OrchestratorFreeError):  # noqa: N818
    """An ask takes no answer, or no other answer of this member.

    Attributes:
        ask: as in the view; its `status`, `value` and `by` say what was decided.
    """

    def __init__(self, id: str, ask: Mapping[str, Any], reason: str = "") -> None:
        said = f": {ask['value']!r} by {', '.join(ask['by'])}" if ask["status"] == "decided" else ""
        super().__init__(f"{reason or f'ask {id!r} is ' + ask['status'] + ' already'}{said}")
        self.ask = ask


class LeaseHeld(OrchestratorFreeError, TimeoutError):  # noqa: N818
    """A lease that is not to be had.

    Attributes:
        lease: as in the view: `holder`, `status`, `term`, `data`.
    """

    def __init__(self, name: str, lease: Mapping[str, Any]) -> None:
        done = lease.get("status") == "done"
        why = f"{lease.get('by')} has done it" if done else f"{lease.get('holder')} has it"
        super().__init__(f"lease {name!r} is not to be had: {why}")
        self.lease = lease


class LeaseLost(OrchestratorFreeError):  # noqa: N818
    """A lease that this process does not hold any more; what it still writes with `Lease.append` is refused."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"lease {name!r} is lost: {why}")


class NotAnswered(OrchestratorFreeError, TimeoutError):  # noqa: N818
    """Nobody answered in the time that the ask had."""


class ToolFailed(OrchestratorFreeError):  # noqa: N818
    """A tool that a client runs says that it failed."""


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


class UnsupportedBroker(BrokerError):  # noqa: N818
    """The broker is older than what this project is built and tested on."""

    def __init__(self, address: str, found: str, needed: str) -> None:
        super().__init__(
            f"the broker at {address} is nats-server {found}; {needed} or newer is needed: upgrade it "
            "(https://nats.io/download/), or use the embedded one"
        )


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


class SecondLog(BrokerError):  # noqa: N818 - reads as what would happen
    """A log would be made beside another one, or might be; nothing was made."""


class ConfigMismatch(BrokerError):  # noqa: N818
    """A stream or bucket exists with other settings.

    Attributes:
        differences: one line per field, `field: wanted X, found Y`.
    """

    def __init__(self, name: str, differences: Sequence[str]) -> None:
        lines = "; ".join(differences)
        super().__init__(f"{name} exists with other settings ({lines}); change them or it, nothing was overwritten")
        self.differences = tuple(differences)
