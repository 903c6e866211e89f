"""What services that serve a session say of their own work: notifications that reached nobody."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator_free.vocabulary.base import Payload


class _Notification(Payload):
    about: str = Field(description="what it was to tell, e.g. run.finished")
    position: str = Field(description="the event it is about")
    tries: int = Field(ge=1, description="how often it was tried so far")
    error: str = Field("", description="what went wrong the last time")


class NotificationFailed(_Notification):
    """A notification is given up; it stands here until somebody has it tried again (kind `notice`)."""

    type: Literal["notification.failed"] = "notification.failed"


class NotificationRetry(_Notification):
    """Somebody wants a notification that was given up tried again (kind `notice`)."""

    type: Literal["notification.retry"] = "notification.retry"


class NotificationDelivered(_Notification):
    """A notification that was given up has arrived after all (kind `notice`)."""

    type: Literal["notification.delivered"] = "notification.delivered"


class LetterSettled(Payload):
    """Somebody has seen to a dead letter: had it tried again, or dismissed it (kind `notice`)."""

    type: Literal["letter.settled"] = "letter.settled"
    letter: str = Field(description="which one: its kind, its member and its id, as `run/writer/3f2a…`")
    how: Literal["retried", "dismissed"]
    by: str = Field("", description="who did it")
    reason: str = ""
