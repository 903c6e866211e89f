"""Notifications: webhooks for what happens in sessions while nobody is watching. Needs the extra `notify`."""

from __future__ import annotations

from orchestrator_free.deadletters import DeadLetter, dead_letters, retry_dead_letter
from orchestrator_free.notify.rules import DEFAULT_EVENTS, EVENTS
from orchestrator_free.notify.service import Notifier, NotifierSettings
from orchestrator_free.notify.webhook import Webhook, WebhookGone, WebhookSettings, read_secrets

__all__ = [
    "DEFAULT_EVENTS",
    "EVENTS",
    "DeadLetter",
    "Notifier",
    "NotifierSettings",
    "Webhook",
    "WebhookGone",
    "WebhookSettings",
    "dead_letters",
    "read_secrets",
    "retry_dead_letter",
]
